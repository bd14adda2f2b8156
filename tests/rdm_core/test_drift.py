"""Differences between two sets of embeddings."""

import numpy as np
import pytest

from rdm_core.drift import neighbor_recall, shift


def unit(count, dimension=8, seed=0, offset=0.0):
    vectors = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    vectors[:, 0] += offset
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_equal_sets_do_not_differ():
    same = shift(unit(100), unit(100))
    assert same["mean_distance"] == 0 and same["covariance_change"] == 0
    assert same["mean_cosine"] == pytest.approx(1) and same["frechet_distance"] == pytest.approx(
        0, abs=1e-8
    )


def test_a_moved_set_is_as_far_as_it_was_moved():
    near = shift(unit(2000), unit(2000, seed=1, offset=0.5))
    far = shift(unit(2000), unit(2000, seed=1, offset=2.0))
    assert 0 < near["mean_distance"] < far["mean_distance"]
    assert near["frechet_distance"] < far["frechet_distance"]
    means = np.linalg.norm(
        unit(2000).mean(0, dtype=np.float64)
        - unit(2000, seed=1, offset=2.0).mean(0, dtype=np.float64)
    )
    assert far["mean_distance"] == pytest.approx(means, rel=1e-6)


def test_neighbors_survive_a_rotation_and_not_a_shuffle():
    vectors, sources = unit(300), np.arange(300).astype(str).astype(object)
    rotation = np.linalg.qr(np.random.default_rng(2).standard_normal((8, 8)))[0].astype(np.float32)
    assert neighbor_recall(vectors, vectors @ rotation, sources, 10, 100) > 0.99
    assert (
        neighbor_recall(
            vectors, vectors[np.random.default_rng(3).permutation(300)], sources, 10, 100
        )
        < 0.15
    )


def test_crops_of_one_image_are_no_neighbors_of_each_other():
    vectors = np.repeat(unit(50), 2, axis=0)
    sources = np.repeat(np.arange(50), 2).astype(str).astype(object)
    moved = vectors.copy()
    moved[1::2] = unit(50, seed=9)
    assert neighbor_recall(vectors, moved, sources, 1, 100) < 0.9, (
        "the twin alone would have been right for all"
    )
