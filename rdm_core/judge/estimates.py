"""Means with their 95 % intervals, and the agreement they are often of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


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


def agreement(shown: Sequence[str] | np.ndarray, wanted: Sequence[str]) -> np.ndarray:
    """1.0 where what an image shows is what was asked for, else 0.0: float64 [N]."""
    return np.asarray([float(a == b) for a, b in zip(shown, wanted, strict=True)])
