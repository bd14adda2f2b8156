"""What lies in a weights folder beside the weights, and how weights are shipped: the model card,
which says what was learned, from which data, with which licences; and half precision.
"""

from collections.abc import Mapping

import torch

from rdm_core.families.facts import RunFacts


def model_card(name: str, facts: RunFacts, licences: Mapping[str, int]) -> str:
    """The card's text: what the model is, how it is used, and what it was trained on.

    `licences` has how many images of the database have each licence.
    """
    encoder = facts.encoder
    licence_rows = []
    for licence, count in licences.items():
        licence_rows.append(f"| {licence} | {count:,} |")
    input_rows = []
    for role, version in facts.trained_on.items():
        input_rows.append(f"| {role} | {version.name} | {version.id} | {version.fingerprint} |")
    inputs, licence_table = "\n".join(input_rows), "\n".join(licence_rows)
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
{licence_table}

Use: `rdm sample --run {name} --text "..."`, or `rdm_core.families.load_model`. All that is known of
the model stands in `model.json`.
"""


def halved(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a model, those of numbers with a point in half precision: as this package
    ships weights.
    """
    half = {}
    for name, value in state.items():
        half[name] = (value.half() if value.is_floating_point() else value).contiguous()
    return half
