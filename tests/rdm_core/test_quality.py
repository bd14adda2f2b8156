"""Distances between sets of images: known answers, and what each measure must notice."""

import numpy as np
import pytest
import torch

from rdm_core.judge.copies import known_beside
from rdm_core.judge.distances import MEASURES, frechet_distance, kernel_distance, quality
from rdm_core.judge.estimates import estimate_over_seeds


def cloud(count=400, width=6, seed=0, shift=0.0, scale=1.0):
    return (shift + scale * np.random.default_rng(seed).standard_normal((count, width))).astype(
        np.float32
    )


def known(seed=0):
    """A cloud of known images beside the real ones."""
    return known_beside(cloud(seed=seed), cloud(seed=2))


def test_the_frechet_distance_is_the_closed_form_of_two_gaussians():
    a, b = cloud(), cloud(seed=1, shift=0.5, scale=2.0)
    means = np.square(a.mean(0) - b.mean(0)).sum()
    one, other = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.sqrt(np.linalg.eigvals(one @ other).real).sum()
    assert frechet_distance(a, b) == pytest.approx(
        means + np.trace(one) + np.trace(other) - 2 * root, rel=1e-4
    )
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_the_kernel_distance_is_zero_on_average_between_draws_of_one_distribution_and_seeded():
    assert (
        abs(kernel_distance(cloud(), cloud(seed=1)))
        < 0.02
        < kernel_distance(cloud(), cloud(seed=1, shift=1.0))
    )
    assert kernel_distance(cloud(), cloud(seed=1), seed=3) == kernel_distance(
        cloud(), cloud(seed=1), seed=3
    )


def test_where_no_image_is_known_there_is_no_copy_rate_and_all_else_is_the_same():
    found = quality(cloud(seed=1), cloud(seed=2), known(seed=3))
    del found["copy_rate"]
    assert quality(cloud(seed=1), cloud(seed=2), None) == found


def test_samples_of_the_real_distribution_score_well_in_everything_and_copy_nothing():
    found = quality(cloud(seed=1), cloud(seed=2), known(seed=3))
    assert set(found) == set(MEASURES)
    assert found["precision"] > 0.7 and found["recall"] > 0.7 and found["coverage"] > 0.9
    assert found["density"] == pytest.approx(1, abs=0.15) and found["copy_rate"] < 0.05


def test_samples_of_one_mode_look_real_and_leave_the_rest_unreached():
    real = np.concatenate([cloud(200), cloud(200, seed=1, shift=20)])
    found = quality(cloud(400, seed=2), real, known(seed=3))
    assert found["precision"] > 0.7 and found["recall"] < 0.6 and found["coverage"] < 0.6


def test_noise_around_the_real_images_is_not_precise():
    assert quality(cloud(seed=1, scale=6.0), cloud(seed=2), known(seed=3))["precision"] < 0.1


def test_handing_over_known_images_is_all_copies():
    assert quality(cloud(seed=3), cloud(seed=2), known(seed=3))["copy_rate"] == 1


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="10 samples and 400 real images are too few"):
        quality(cloud(10), cloud(), known())


def test_an_interval_over_seeds_is_students():
    found = estimate_over_seeds([1.0, 2.0, 3.0])
    assert found.mean == 2 and found.high - found.mean == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert estimate_over_seeds([5.0]).low == estimate_over_seeds([5.0]).high == 5


def test_a_frechet_distance_is_never_below_zero(monkeypatch):
    a = np.random.default_rng(0).standard_normal((20, 4))
    rounded = torch.tensor(-1e-9, dtype=torch.float64)
    monkeypatch.setattr(
        "rdm_core.judge.distances.FrechetInceptionDistance.compute", lambda self: rounded
    )
    assert str(frechet_distance(a, a)) == "0.0"
