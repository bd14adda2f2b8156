"""A model's loss on images that it has not seen: with their own neighbors, those of other images,
or none.
"""

from dataclasses import replace

import numpy as np
import torch

from rdm_core.context import Context
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
    """The model's mean loss on each of the N samples of `data`: float64 [N].

    The seed fixes all random numbers, so that the losses of two calls can be paired. `null`
    replaces every context by the learned null; `shuffled` gives each sample the neighbors of
    another one. Where the model reads texts, a sample keeps its own in every case. Each loss is the
    mean over `draws` draws of noise and times, or of one where the model's loss has nothing random.
    """
    count = len(data)
    draws = draws if model.random_loss else 1
    losses = np.zeros(count)
    generator = torch.Generator().manual_seed(seed)
    # Another sample for each one; a sample that would be its own gets the next.
    other = np.roll(np.random.default_rng(seed).permutation(count), 1)
    other = np.where(other == np.arange(count), (other + 1) % count, other)
    for _ in range(draws):
        for start in range(0, count, batch):
            rows = np.arange(start, min(start + batch, count))
            context = _given(model, data, rows, other[rows] if shuffled else rows, k, null)
            inputs = model.inputs(data, rows, slice(None), context, generator)
            losses[rows] += model(inputs.to(model.device)).cpu().numpy() / draws
    return losses


def _given(
    model: Model, data: TrainingData, rows: np.ndarray, others: np.ndarray, k: int, null: bool
) -> Context:
    """The contexts of samples `rows` int64 [B]: the neighbors of `others` int64 [B], or none."""
    reads = model.reads
    if null and not (reads.captions or reads.references):
        return model.null(len(rows))
    context = data.neighbors(others, k, reads.query)
    if data.texts is not None:
        context = replace(context, text=data.texts.of(rows, np.zeros(len(rows))))
    return context.without_neighbors() if null else context
