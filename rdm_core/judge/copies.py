"""How often samples copy an image of the training set or the database."""

from dataclasses import dataclass

import numpy as np
import torch

ROWS_AT_ONCE, OTHERS_AT_ONCE = 1024, 16_384
"""Distances between so many rows and so many others are held at a time: 64 MiB."""


@dataclass(frozen=True)
class Known:
    """Images of the training set or database, of which samples may be copies."""

    features: np.ndarray
    """float [L, F]."""
    threshold: float
    """A sample that is at most so far from one of them is a copy."""


def known_beside(features: np.ndarray, real: np.ndarray) -> Known:
    """Known images float [L, F] beside held-out real images [M, F], which set the threshold: the
    distance within which the nearest 1 % of these lie.
    """
    # Real images that the model has not seen are no copies: 1 % of them are nearer by chance.
    return Known(features, float(np.quantile(nearest_distances(real, features), 0.01)))


def copy_rate(samples: np.ndarray, known: Known) -> float:
    """The share of samples float [N, F] that are copies of known images: at least as near to one as
    the nearest 1 % of held-out real images are. A model that does not copy has a rate of about
    0.01.
    """
    return float((nearest_distances(samples, known.features) <= known.threshold).mean())


def nearest_distances(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Euclidean distance of each row of float [N, F] to its nearest row of `others` [M, F]: [N]."""
    nearest = []
    for rows in torch.from_numpy(features).split(ROWS_AT_ONCE):
        least = torch.full((len(rows),), torch.inf, dtype=rows.dtype)
        for part in torch.from_numpy(others).split(OTHERS_AT_ONCE):
            least = torch.minimum(least, torch.cdist(rows, part).min(dim=1).values)
        nearest.append(least.numpy())
    return np.concatenate(nearest)
