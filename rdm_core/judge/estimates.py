"""Means with their 95 % intervals, and agreement with what was wanted."""

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
    """The mean of values [N] with a bootstrap interval from `draws` draws."""
    values = np.asarray(values, dtype=np.float64)
    # Draw N values with replacement, `draws` times; the means of the draws give the interval.
    picks = np.random.default_rng(seed).integers(0, len(values), (draws, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1), [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high), len(values))


def estimate_over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of a number that was measured once for each seed, with Student's 95 % interval.

    A single seed has an interval of no width.
    """
    array = np.asarray(values, dtype=np.float64)
    mean, count = float(array.mean()), len(array)
    half = 0.0
    if count > 1:
        half = float(stats.t.ppf(0.975, count - 1) * array.std(ddof=1) / count**0.5)
    return Estimate(mean, mean - half, mean + half, count)


def agreement(shown: Sequence[str] | np.ndarray, wanted: Sequence[str]) -> np.ndarray:
    """1.0 where an image shows what was wanted, else 0.0: float64 [N], of str [N] and N strings."""
    agreements = []
    for value, wanted_value in zip(shown, wanted, strict=True):
        agreements.append(float(value == wanted_value))
    return np.asarray(agreements)
