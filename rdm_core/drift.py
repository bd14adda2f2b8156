"""How two sets of embeddings differ: where they lie, how they spread, and who is whose neighbor."""

import numpy as np

from rdm_core.search import recall_at_k, search_neighbors


def shift(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """How far `other` [M, D] lies from `one` [N, D], both unit vectors of one encoder.

    mean_distance: length of the difference of the means. mean_cosine: between the means.
    covariance_change: Frobenius norm of the difference of the covariances, as a share of the
    first's. frechet_distance: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), both in one number.
    """
    from rdm_core.judge.distances import frechet_distance  # torchmetrics takes seconds to import

    first, second = (values.astype(np.float64) for values in (one, other))
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
    """Share of each row's k nearest in `one` [N, D] that are among its k nearest in `other` [N, E];
    rows are the same samples.

    The encoders may differ. Measured on `queries` rows drawn by the seed; crops of a row's own
    image (equal `sources` [N]) are no neighbors of it.
    """
    picked = np.sort(
        np.random.default_rng(seed).choice(len(one), min(queries, len(one)), replace=False)
    )
    near, still = (
        search_neighbors(vectors[picked], sources[picked], vectors, sources, k)[0]
        for vectors in (one, other)
    )
    return recall_at_k(still, near)
