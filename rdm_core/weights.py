"""A weights folder's model card: what was learned, from what, and under which licences that was."""

from collections.abc import Mapping

from rdm_core.families.facts import RunFacts


def model_card(name: str, facts: RunFacts, licences: Mapping[str, int]) -> str:
    """What the folder is, in words: how to use it, what it was trained on, and under which licences
    that was.
    """
    encoder = facts.encoder
    rows = "\n".join(f"| {licence} | {count:,} |" for licence, count in licences.items())
    inputs = "\n".join(
        f"| {role} | {one.name} | {one.id} | {one.fingerprint} |"
        for role, one in facts.trained_on.items()
    )
    return f"""---
library_name: diffusers
tags: [retrieval-augmented, {facts.family}]
---
# {name}

A model that generates from retrieved images. It is given the embeddings of up to {facts.k} images;
the database that they come from can be changed without training.

- family: {facts.family}; {facts.parameters:,} parameters
- encoder: {encoder["model"]}, weights {encoder["weights_sha256"]}, {encoder["dimension"]}-d
- latent space: {facts.space["autoencoder"]}, side {facts.latent_side}
- training: {facts.steps:,} steps; neighbor dropout {facts.neighbor_dropout}

| trained on | name | version | fingerprint |
|---|---|---|---|
{inputs}

| licence of a database image | images |
|---|---|
{rows}

Use: `rdm sample --run {name} --text "..."`, or `rdm_core.families.load_model`. All that is known of
the model stands in `model.json`.
"""
