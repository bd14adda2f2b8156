"""How two sets of embeddings differ: in their means, their spread, and their neighbors."""

import numpy as np

from rdm_core.neighbors import search_neighbors
from rdm_core.search import recall_at_k


def shift(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """How far `other` float32 [M, D] lies from `one` float32 [N, D], unit vectors of one encoder.

    mean_distance: length of the difference of the means. mean_cosine: between the means.
    covariance_change: Frobenius norm of the difference of the covariances, as a share of the
    first's. frechet_distance: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), means and covariances
    in one number (arXiv 1706.08500, eq. 6).
    """
    from rdm_core.judge.distances import frechet_distance  # torchmetrics takes seconds to import

    first, second = one.astype(np.float64), other.astype(np.float64)
    mean, other_mean = first.mean(axis=0), second.mean(axis=0)
    covariance = np.cov(first, rowvar=False)
    change = np.linalg.norm(covariance - np.cov(second, rowvar=False)) / np.linalg.norm(covariance)
    lengths = np.linalg.norm(mean) * np.linalg.norm(other_mean)
    return {
        "mean_distance": float(np.linalg.norm(mean - other_mean)),
        "mean_cosine": float(mean @ other_mean / lengths),
        "covariance_change": float(change),
        "frechet_distance": frechet_distance(second, first),
    }


def neighbor_recall(
    one: np.ndarray, other: np.ndarray, sources: np.ndarray, k: int, queries: int, seed: int = 0
) -> float:
    """Share of each row's k nearest in `one` [N, D] that are among its k nearest in `other` [N, E].

    Both hold unit vectors float32 of the same N samples; their encoders may differ. It is measured
    on `queries` rows drawn by the seed. Crops of a row's own image, those with equal `sources`
    object [N], are no neighbors of it.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(one), min(queries, len(one)), replace=False))
    near_in_one, _ = search_neighbors(one[rows], sources[rows], one, sources, k)
    near_in_other, _ = search_neighbors(other[rows], sources[rows], other, sources, k)
    return recall_at_k(near_in_other, near_in_one)
