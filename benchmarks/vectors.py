"""Vectors for the benchmarks: clustered and anisotropic, as CLIP's are, or of no structure at
all.
"""

from collections.abc import Iterator

import numpy as np

DIMENSION = 512


def clip_like(count: int, seed: int = 0, block: int = 100_000) -> Iterator[np.ndarray]:
    """Unit vectors float32 [n, 512] in blocks: 2,000 clusters of uneven size, a spectrum that falls
    as 1/i^0.7, and a common mean, so that two rows have a cosine of about 0.5. The seed draws rows;
    the clusters are always the same.
    """
    rng = np.random.default_rng(0)
    spectrum = np.arange(1, DIMENSION + 1) ** -0.7
    widths = np.sqrt(0.5 * spectrum / spectrum.sum()).astype(np.float32)
    centres = rng.standard_normal((2000, DIMENSION)).astype(np.float32) * widths
    sizes = np.minimum(rng.zipf(1.3, len(centres)), 1000).astype(np.float64)
    turn = np.linalg.qr(rng.standard_normal((DIMENSION, DIMENSION)))[0].astype(np.float32)
    rng = np.random.default_rng(seed)
    for start in range(0, count, block):
        n = min(block, count - start)
        rows = centres[rng.choice(len(centres), n, p=sizes / sizes.sum())]
        rows = rows + rng.standard_normal((n, DIMENSION), dtype=np.float32) * widths
        rows[:, 0] += 1
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        yield rows @ turn


def gaussian(count: int, seed: int = 0) -> np.ndarray:
    """Unit vectors float32 [count, 512] in every direction alike: the worst case of any index."""
    rows = np.random.default_rng(seed).standard_normal((count, DIMENSION), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
