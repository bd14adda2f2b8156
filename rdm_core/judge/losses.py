"""A model's own loss on images it has not seen: with the right neighbors, those of others, none."""

import numpy as np
import torch

from rdm_core.data import TrainingData
from rdm_core.families.family import Model


@torch.no_grad()
def held_out_losses(
    model: Model,
    data: TrainingData,
    k: int,
    *,
    null: bool = False,
    shuffled: bool = False,
    draws: int = 4,
    batch: int = 128,
    seed: int = 0,
) -> np.ndarray:
    """The model's mean loss on each sample of `data` [N], everything random fixed by the seed, so
    that two calls can be paired.

    `null` replaces every context by the learned null; `shuffled` gives each sample the neighbors of
    another one. Each sample is drawn for `draws` times.
    """
    count = len(data)
    losses = np.zeros(count)
    generator = torch.Generator().manual_seed(seed)
    other = np.roll(np.random.default_rng(seed).permutation(count), 1)
    other = np.where(other == np.arange(count), (other + 1) % count, other)
    for _ in range(draws):
        for start in range(0, count, batch):
            rows = np.arange(start, min(start + batch, count))
            if null:
                context = model.null(len(rows))
            else:
                context = data.neighbors(other[rows] if shuffled else rows, k)
            inputs = model.inputs(data, rows, slice(None), context, generator)
            losses[rows] += model(inputs.to(model.device)).cpu().numpy() / draws
    return losses
