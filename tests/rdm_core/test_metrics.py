"""Measures: intervals, paired losses, copies."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import DIMENSION, TINY

from rdm_core.context import QUERY
from rdm_core.data import TrainingData
from rdm_core.families.diffusion.model import Diffusion
from rdm_core.families.diffusion.noise import FlowMatching
from rdm_core.families.facts import Shape
from rdm_core.judge import copies as module
from rdm_core.judge.copies import copy_rate, known_beside, nearest_distances
from rdm_core.judge.estimates import Estimate, agreement, estimate, estimate_over_seeds
from rdm_core.judge.losses import held_out_losses
from rdm_core.latents import PIXELS, load_latent_space


def test_an_interval_holds_its_mean_and_is_the_same_every_time():
    values = np.random.default_rng(0).exponential(size=100)
    found = estimate(values)
    assert found.low < found.mean < found.high
    assert found.mean == pytest.approx(values.mean())
    assert found.count == 100
    assert estimate(values) == found
    assert estimate(values, seed=1) != found


def test_an_interval_is_that_of_the_mean_and_narrows_with_more_values():
    rng = np.random.default_rng(0)
    few, many = estimate(rng.normal(3, 2, 100)), estimate(rng.normal(3, 2, 10_000))
    assert few.high - few.low == pytest.approx(2 * 1.96 * 2 / 10, rel=0.25)
    assert many.high - many.low == pytest.approx(2 * 1.96 * 2 / 100, rel=0.15)


def test_95_of_100_intervals_hold_the_truth():
    rng = np.random.default_rng(0)
    drawn = [estimate(rng.normal(0, 1, 60), seed=i, draws=200) for i in range(200)]
    assert 0.89 < np.mean([one.low <= 0 <= one.high for one in drawn]) < 0.99


def test_booleans_and_constants_can_be_estimated():
    assert estimate(np.array([True, False, True, True])).mean == 0.75
    assert estimate(np.ones(5)) == estimate(np.ones(5), seed=9)
    assert estimate(np.ones(5)).low == estimate(np.ones(5)).high == 1


def test_an_interval_over_seeds_is_students_and_one_seed_has_none():
    found = estimate_over_seeds([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert (found.high - found.low) / 2 == pytest.approx(4.3027 / 3**0.5, rel=1e-4), (
        "t of two degrees of freedom"
    )
    assert estimate_over_seeds([5.0]) == Estimate(5, 5, 5, 1)


class Watched(TrainingData):
    """Remembers which samples were read and whose neighbors were given, in pairs."""

    def neighbors(self, rows, k, with_query=False):
        self.given.append(rows)
        return super().neighbors(rows, k, with_query)

    def raw(self, rows):
        self.read.append(rows)
        return super().raw(rows)


@pytest.fixture
def watched(tiny_data):
    """A function: sample count -> watched data."""

    def build(count: int) -> Watched:
        data = tiny_data(count)
        watched = Watched(**vars(data))
        for name in ("given", "read"):
            object.__setattr__(watched, name, [])
        return watched

    return build


def losses(model, data, **how) -> np.ndarray:
    """Two draws with two neighbors."""
    return held_out_losses(model, data, 2, draws=2, **how)


@pytest.mark.parametrize("count", [2, 3, 5, 16])
def test_shuffled_neighbors_are_another_samples_and_never_the_own(count, watched, tiny_model):
    for seed in range(5):
        data = watched(count)
        losses(tiny_model(), data, shuffled=True, seed=seed, batch=4)
        for rows, given in zip(data.read, data.given, strict=True):
            assert (rows != given).all()
        assert sorted(np.concatenate(data.read)) == sorted([*range(count)] * 2)
    data = watched(count)
    losses(tiny_model(), data)
    for rows, given in zip(data.read, data.given, strict=True):
        assert (rows == given).all()


def test_a_model_that_reads_the_samples_own_vectors_is_measured_with_them(
    tiny_config, tiny_model, tiny_data
):
    seen = []
    model, data = tiny_model(replace(tiny_config, query_token=True)), tiny_data()
    inputs = model.inputs
    model.inputs = lambda *given: seen.append(given[3].slots) or inputs(*given)
    losses(model, data)
    assert all((slots[:, 0] == QUERY).all() and slots.shape[1] == 3 for slots in seen)


def test_a_loss_without_anything_random_is_measured_once(tiny_model, tiny_data):
    data = tiny_data()
    model, read = tiny_model(), []
    model.random_loss = False
    inputs = model.inputs
    model.inputs = lambda *given: read.append(given[1]) or inputs(*given)
    losses(model, data)
    assert sorted(np.concatenate(read)) == list(range(len(data)))


def test_two_measurements_are_paired(process, tiny_config, tiny_model, tiny_data):
    model, data = tiny_model(tiny_config, process=process), tiny_data()
    first = losses(model, data)
    assert first.shape == (16,)
    np.testing.assert_array_equal(losses(model, data), first)
    assert (losses(model, data, seed=1) != first).all()
    assert (losses(model, data, shuffled=True) != first).any()
    assert (losses(model, data, null=True) != first).all()


def test_the_null_hides_the_neighbors(tiny_model, tiny_data):
    model, data = tiny_model(), tiny_data()
    before = losses(model, data, null=True)
    other = replace(data, vectors=-data.vectors)
    np.testing.assert_array_equal(losses(model, other, null=True), before)
    np.testing.assert_array_equal(losses(model, other, null=True, shuffled=True), before)
    assert (losses(model, other) != losses(model, data)).all()


def test_a_sample_without_neighbors_is_measured_with_the_null(tiny_model, tiny_data):
    model, data = tiny_model(), tiny_data()
    null = losses(model, data, null=True)
    data.neighbor_rows[3] = -1
    found = losses(model, data)
    assert found[3] == pytest.approx(null[3], rel=1e-5)
    assert found[4] != pytest.approx(null[4], rel=1e-3)


def test_a_loss_is_the_mean_squared_error_of_the_target(tiny_data):
    class Perfect(torch.nn.Module):
        """Knows that each image is one colour, so what is left of it after the mean is noise;
        answers it, plus 2.
        """

        config = TINY["transformer"]

        def __init__(self) -> None:
            super().__init__()
            self.null = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x, time, context, picture):
            assert picture is None
            return targets.pop(0) + 2

    class Told(FlowMatching):
        def corrupt(self, x0, n, t):
            noisy, target = super().corrupt(x0, n, t)
            targets.append(target)
            return noisy, target

    targets: list[torch.Tensor] = []
    space = load_latent_space(PIXELS)
    model = Diffusion(Perfect(), Told(), Shape(space.channels, 8, DIMENSION), space)
    np.testing.assert_allclose(losses(model, tiny_data(), batch=5), 4, rtol=1e-5)
    assert not targets


def test_the_nearest_of_the_others_counts():
    features = np.array([[0, 0], [3, 4], [10, 0]], np.float32)
    others = np.array([[0, 1], [3, 0], [100, 100]], np.float32)
    np.testing.assert_allclose(nearest_distances(features, others), [1, 4, 7], atol=1e-5)


def test_distances_are_the_same_whatever_number_of_them_is_held_at_a_time(monkeypatch):
    rng = np.random.default_rng(0)
    features, others = (rng.standard_normal((n, 8)).astype(np.float32) for n in (70, 110))
    whole = np.linalg.norm(features[:, None] - others, axis=2).min(axis=1)
    held, cdist = [], torch.cdist

    def recorded(rows, part):
        held.append((len(rows), len(part)))
        return cdist(rows, part)

    monkeypatch.setattr(torch, "cdist", recorded)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 30)
    monkeypatch.setattr(module, "OTHERS_AT_ONCE", 50)
    np.testing.assert_allclose(nearest_distances(features, others), whole, rtol=1e-4)
    assert held == [(rows, part) for rows in (30, 30, 10) for part in (50, 50, 10)]


def test_the_copy_rate_is_the_share_of_samples_nearer_than_real_images_are():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((500, 16)).astype(np.float32)
    known = known_beside(images, rng.standard_normal((1000, 16)).astype(np.float32))
    fresh = rng.standard_normal((400, 16)).astype(np.float32)
    assert copy_rate(fresh, known) == pytest.approx(0.01, abs=0.015)
    copies = images[:100] + 0.01 * rng.standard_normal((100, 16)).astype(np.float32)
    assert copy_rate(copies, known) == 1
    assert copy_rate(images[:100], known) == 1, "distance 0"
    mixed = np.concatenate([copies, fresh[:300] + 100])
    assert copy_rate(mixed, known) == 0.25
    assert copy_rate(fresh + 100, known) == 0


def test_agreement_is_1_where_what_is_shown_was_wanted():
    np.testing.assert_array_equal(
        agreement(["red", "blue", "red"], ["red", "red", "red"]), [1.0, 0.0, 1.0]
    )
    with pytest.raises(ValueError, match="shorter|longer"):
        agreement(["red"], ["red", "red"])
