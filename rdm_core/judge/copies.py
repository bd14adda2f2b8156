"""How often samples copy an image of the training set or the database."""

import numpy as np
import torch


def nearest_distances(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Euclidean distance of each row of float [N, F] to its nearest row of `others` [M, F]: [N]."""
    distances = torch.cdist(torch.from_numpy(features), torch.from_numpy(others))
    return distances.min(dim=1).values.numpy()


def copy_rate(samples: np.ndarray, real: np.ndarray, known: np.ndarray) -> float:
    """The share of samples float [N, F] that are copies of known images [L, F], those of the
    training set or database.

    A sample is a copy if it is at least as near to a known image as the nearest 1 % of held-out
    real images [M, F] are. A model that does not copy has a rate of about 0.01.
    """
    # Real images that the model has not seen are no copies: 1 % of them are nearer by chance.
    threshold = np.quantile(nearest_distances(real, known), 0.01)
    return float((nearest_distances(samples, known) <= threshold).mean())
