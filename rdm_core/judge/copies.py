"""How often samples repeat an image that was known: of the training set or the database."""

import numpy as np
import torch


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
