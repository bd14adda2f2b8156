"""Measures of what a model does with its neighbors. Intervals are 95 % bootstrap intervals over
samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from rdm_core.data import TrainingData
from rdm_core.families.family import Model


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float
    count: int


def estimate(values: np.ndarray, seed: int = 0, draws: int = 1000) -> Estimate:
    """Mean of values [N] with a bootstrap interval."""
    values = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(values), (draws, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1), [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high), len(values))


def estimate_over_seeds(values: Sequence[float]) -> Estimate:
    """Mean of one figure measured once a seed, with Student's 95 % interval; a single seed has
    none.
    """
    array = np.asarray(values, dtype=np.float64)
    mean, count = float(array.mean()), len(array)
    half = (
        float(stats.t.ppf(0.975, count - 1) * array.std(ddof=1) / count**0.5) if count > 1 else 0.0
    )
    return Estimate(mean, mean - half, mean + half, count)


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


def nearest_distances(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Euclidean distance of each row [N, F] to its nearest row of `others` [M, F]: [N]."""
    return (
        torch.cdist(torch.from_numpy(features), torch.from_numpy(others)).min(dim=1).values.numpy()
    )


def copy_rate(samples: np.ndarray, real: np.ndarray, known: np.ndarray) -> float:
    """Share of samples [N, F] that lie nearer to a known image [L, F] (training or database) than 1
    % of held-out real images [M, F] do. A model that copies no more than chance makes it has a rate
    of about 0.01.
    """
    threshold = np.quantile(nearest_distances(real, known), 0.01)
    return float((nearest_distances(samples, known) <= threshold).mean())


def agreement(shown: Sequence[str] | np.ndarray, wanted: Sequence[str]) -> np.ndarray:
    """1.0 where what an image shows is what was asked for, else 0.0: float64 [N]."""
    return np.asarray([float(a == b) for a, b in zip(shown, wanted, strict=True)])
