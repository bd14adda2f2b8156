"""How a set of images compares with real ones: distance, fidelity, diversity, copying.

All functions take features float [N, F] of images; the network that they come from
(`rdm_core.features`) decides what the numbers mean.
"""

import io
import warnings
from contextlib import redirect_stdout

import numpy as np
import torch
from prdc import compute_prdc
from torch import nn
from torchmetrics import Metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from rdm_core.judge.copies import Known, copy_rate

MEASURES = ("fd", "kid", "precision", "recall", "density", "coverage", "copy_rate")
"""fd, kid: lower is better. precision, density: whether samples look real. recall, coverage:
whether samples are as different as real images.
"""
NEAREST_PRECISION, NEAREST_DENSITY = 3, 5
"""k of precision and recall, and of density and coverage, as in their papers."""
FEWEST = 2 * NEAREST_DENSITY + 1
"""Images in each of two sets that can be compared."""
KID_SUBSETS, KID_SUBSET_SIZE = 50, 100
"""Random subsets over which KID is a mean, and the images in each."""


class _Features(nn.Module):
    """Returns features as they are, in place of the network that torchmetrics expects."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features float64 [N, F] as they are."""
        return features


def quality(
    samples: np.ndarray, real: np.ndarray, known: Known | None, seed: int = 0
) -> dict[str, float]:
    """MEASURES of samples float [N, F] against real images [M, F]; `known` are training and
    database images. Where nobody knows these (None) there is no copy rate.

    Frechet distance (arXiv 1706.08500), KID (arXiv 1801.01401, the unbiased estimate, mean over
    random subsets), precision and recall (arXiv 1904.06991, k = 3), density and coverage (arXiv
    2002.09797, k = 5), and the copy rate of `rdm_core.judge.copies`. Raises ValueError for fewer
    than FEWEST of either.
    """
    if min(len(samples), len(real)) < FEWEST:
        raise ValueError(
            f"{len(samples)} samples and {len(real)} real images are too few to compare"
        )
    # It prints the two counts, and its version of scikit-learn warns a hundred times of itself.
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`sklearn.utils.parallel.delayed`")
        near = compute_prdc(real, samples, nearest_k=NEAREST_PRECISION)
        far = compute_prdc(real, samples, nearest_k=NEAREST_DENSITY)
    measures = {
        "fd": frechet_distance(samples, real),
        "kid": kernel_distance(samples, real, seed),
        "precision": float(near["precision"]),
        "recall": float(near["recall"]),
        "density": float(far["density"]),
        "coverage": float(far["coverage"]),
    }
    return measures if known is None else measures | {"copy_rate": copy_rate(samples, known)}


def frechet_distance(samples: np.ndarray, real: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of samples float [N, F] and real images [M, F]
    (arXiv 1706.08500, eq. 6); rounding never makes it negative.
    """
    metric = FrechetInceptionDistance(feature=_Features(real.shape[1]))
    _update(metric.set_dtype(torch.float64), samples, real)
    return max(0.0, metric.compute().item())


def kernel_distance(samples: np.ndarray, real: np.ndarray, seed: int = 0) -> float:
    """Squared maximum mean discrepancy of samples float [N, F] and real images [M, F] under a
    polynomial kernel of degree 3 (KID, arXiv 1801.01401).
    """
    size = min(KID_SUBSET_SIZE, len(samples), len(real))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # It warns that it keeps all features, which are in memory anyway.
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        metric = KernelInceptionDistance(
            feature=_Features(real.shape[1]), subsets=KID_SUBSETS, subset_size=size
        )
        _update(metric, samples, real)
        return metric.compute()[0].item()


def _update(metric: Metric, samples: np.ndarray, real: np.ndarray) -> None:
    """Give a metric samples [N, F] and real images [M, F], in double precision."""
    metric.update(torch.from_numpy(real).double(), real=True)
    metric.update(torch.from_numpy(samples).double(), real=False)
