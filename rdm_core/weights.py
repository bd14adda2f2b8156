"""Weights that are used: the running mean of a run as a diffusers folder with a model card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rdm_core.config import DenoiserConfig
from rdm_core.denoiser import Denoiser, build_denoiser, parameter_count
from rdm_core.train import State


def publish_weights(
    directory: Path, config: DenoiserConfig, state: State, facts: Mapping[str, Any]
) -> None:
    """Write the running mean in a checkpoint's `state` as a weights folder.

    `facts` holds the latent space, its side and the encoder, as `flows.train_rdm` collects them.
    """
    channels, side, dimension = (
        facts["space"]["channels"],
        facts["latent_side"],
        facts["encoder"]["dimension"],
    )
    denoiser = build_denoiser(config, channels, side, dimension)
    set_parameters(
        denoiser, {name: state[f"ema/{name}"] for name, _ in denoiser.named_parameters()}
    )
    if denoiser.settings["remove_means"]:
        denoiser.set_means(state["buffers/means"])
    denoiser.save(directory, dict(facts) | {"parameters": parameter_count(denoiser)})


@torch.no_grad()
def set_parameters(denoiser: Denoiser, values: Mapping[str, np.ndarray]) -> None:
    """Give every parameter its value by name. Raises KeyError naming the first that is absent."""
    for name, parameter in denoiser.named_parameters():
        parameter.copy_(torch.from_numpy(values[name]))


def model_card(name: str, facts: Mapping[str, Any], licences: Mapping[str, int]) -> str:
    """What the folder is, in words: how to use it, what it was trained on, and under which licences
    that was.
    """
    encoder, trained_on = facts["encoder"], facts["trained_on"]
    rows = "\n".join(f"| {licence} | {count:,} |" for licence, count in licences.items())
    inputs = "\n".join(
        f"| {role} | {a['name']} | {a['id']} | {a['fingerprint']} |"
        for role, a in trained_on.items()
    )
    return f"""---
library_name: diffusers
tags: [retrieval-augmented, diffusion]
---
# {name}

A denoiser that generates from retrieved images (RDM, arXiv 2204.11824). Its cross-attention context is the CLIP
embeddings of up to {facts["k"]} images; the database they come from can be changed without training.

- encoder: {encoder["model"]}, weights {encoder["weights_sha256"]}, {encoder["dimension"]}-d
- latent space: {facts["space"]["autoencoder"]}, side {facts["latent_side"]}
- noise: {facts["noise"]["process"]}; {facts["steps"]:,} steps; neighbor dropout {facts["neighbor_dropout"]}

| trained on | name | version | fingerprint |
|---|---|---|---|
{inputs}

| licence of a database image | images |
|---|---|
{rows}

Use: `rdm sample --run {name} --text "..."`, or `rdm_core.denoiser.load_denoiser(folder)`.
"""
