"""Embeddings on a plane."""

import numpy as np
import pytest

from rdm_core.errors import RequestError
from rdm_core.projection import project


def clumps(count=40, seed=0):
    """Three clumps of unit vectors, and which is which."""
    rng = np.random.default_rng(seed)
    centres = 3 * rng.standard_normal((3, 16))
    clumps = [centre + 0.3 * rng.standard_normal((count, 16)) for centre in centres]
    vectors = np.concatenate(clumps).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.repeat(np.arange(3), count)


def test_what_lies_together_stays_together():
    vectors, clump = clumps()
    placed = project(vectors, perplexity=10)
    assert (
        placed.shape == (120, 2)
        and placed.dtype == np.float32
        and placed.min() == 0
        and placed.max() == 1
    )
    distances = np.linalg.norm(placed[:, None] - placed[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (clump[distances.argmin(axis=1)] == clump).mean() > 0.98


def test_equal_seeds_give_equal_maps():
    vectors, _ = clumps(20)
    assert (project(vectors, seed=1) == project(vectors, seed=1)).all()


def test_equal_vectors_do_not_disturb():
    vectors = np.concatenate([np.repeat(clumps(5)[0][:1], 60, axis=0), clumps(20)[0]])
    assert np.isfinite(project(vectors, perplexity=5)).all()


def test_too_few_rows_are_refused():
    with pytest.raises(RequestError, match="9 rows make no map"):
        project(clumps(3)[0])
