"""Training: it learns, what is dropped has no influence, and what is told is what happened."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import EVERYTHING, TINY
from training import USUAL, Recorder, asked, flat, given, run, slots, weights

from rdm_core.config import TrainingConfig
from rdm_core.context import ABSENT, NEIGHBOR, QUERY
from rdm_core.errors import RequestError
from rdm_core.train import learning_rate, train

pytestmark = pytest.mark.usefixtures("peak")
TRANSFORMER = replace(TINY["transformer"], **EVERYTHING)


def test_the_loss_falls(process, tiny_model, tiny_data):
    losses = run(
        tiny_model(process=process),
        tiny_data(),
        steps=40,
        batch=8,
        learning_rate=5e-3,
        cooldown=0.0,
        neighbor_dropout=0.0,
        checkpoint_steps=40,
    ).column("loss")
    assert len(losses) == 40
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])


@pytest.mark.parametrize(("neighbor_dropout", "same"), [(1.0, True), (0.0, False)])
def test_a_network_trained_without_neighbors_never_sees_them(
    neighbor_dropout, same, tiny_model, tiny_data
):
    trained = []
    for sign in (1, -1):
        data, model = tiny_data(), tiny_model()
        changed = replace(data, vectors=sign * data.vectors)
        run(model, changed, neighbor_dropout=neighbor_dropout)
        trained.append(flat(model))
    assert torch.equal(*trained) is same


# -- what the network is given


def test_the_share_of_dropped_contexts_is_the_one_asked_for(tiny_model, tiny_data):
    many = {"steps": 4, "batch": 400}
    present = (slots(tiny_model(), tiny_data(), neighbor_dropout=0.3, **many) != ABSENT).any(dim=1)
    assert present.float().mean() == pytest.approx(0.7, abs=0.04)
    present = slots(tiny_model(), tiny_data(), neighbor_dropout=0.0, **many) != ABSENT
    assert present.any(dim=1).all()


def test_a_sample_without_neighbors_is_given_the_null(tiny_model, tiny_data):
    data = tiny_data()
    data.neighbor_rows[::2] = -1
    present = slots(tiny_model(), data, neighbor_dropout=0.0, steps=16) != ABSENT
    assert present.any(dim=1).float().mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("random_k", [True, False])
def test_a_context_has_k_neighbors_or_any_number_up_to_k(random_k, tiny_model, tiny_data):
    how = {"steps": 4, "batch": 300, "k": 4, "random_k": random_k, "neighbor_dropout": 0.0}
    mask = slots(tiny_model(), tiny_data(k=4), **how) == NEIGHBOR
    counts = torch.bincount(mask.sum(dim=1), minlength=5).tolist()
    if random_k:
        assert counts[0] == 0
        assert min(counts[1:]) > 240 and max(counts[1:]) < 360, "300 are expected of each"
    else:
        assert counts == [0, 0, 0, 0, 1200]
    ordered = mask.long().diff(dim=1) <= 0
    assert ordered.all(), "the nearest are kept"


def test_only_a_network_with_a_query_token_is_given_the_samples_own_vectors(tiny_model, tiny_data):
    how = {"batch": 100, "neighbor_dropout": 0.0, "query_dropout": 0.4}
    with_query = slots(tiny_model(TRANSFORMER), tiny_data(), **how)
    assert set(with_query[:, 0].tolist()) == {QUERY, ABSENT}
    assert (with_query[:, 0] == QUERY).float().mean() == pytest.approx(0.6, abs=0.06)
    assert QUERY not in slots(tiny_model(), replace(tiny_data(), query_vectors=None), **how)


def test_what_cannot_be_given_ends_the_run_with_its_reason(tiny_model, tiny_data):
    with pytest.raises(RequestError, match="k: 3 neighbors asked of a table that holds 2"):
        run(tiny_model(), tiny_data(k=2), k=3)


def test_steps_and_seeds_draw_noise_of_their_own(tiny_model, tiny_data):
    noisy = given(tiny_model(), tiny_data(), steps=2, seed=0)
    noisy += given(tiny_model(), tiny_data(), steps=2, seed=1)
    assert len({times.numpy().tobytes() for _, times, _ in noisy}) == 4
    assert len({x.numpy().tobytes() for x, _, _ in noisy}) == 4


# -- rates, metrics, numbers that are none


@pytest.mark.parametrize(
    ("cooldown", "expected"),
    [
        (0.0, {0: 0.25, 1: 0.5, 2: 0.75, 3: 1, 4: 1, 50: 1, 99: 1}),
        (0.2, {0: 0.25, 3: 1, 79: 1, 80: 1, 81: 0.95, 90: 0.5, 99: 0.05}),
        (1.0, {0: 0.25, 3: 0.97, 50: 0.5, 99: 0.01}),
    ],
)
def test_the_learning_rate_warms_up_stays_and_cools_down(cooldown, expected):
    config = TrainingConfig(steps=100, learning_rate=0.5, warmup_steps=4, cooldown=cooldown)
    assert {step: learning_rate(config, step) / 0.5 for step in expected} == pytest.approx(expected)


def test_no_warm_up_starts_at_the_full_rate():
    assert learning_rate(TrainingConfig(steps=10, learning_rate=1.0, warmup_steps=0), 0) == 1


def test_the_schedule_is_what_is_used_and_reported(tiny_model, tiny_data):
    moved = []
    for warmup_steps in (1, 10):
        model = tiny_model()
        before = model.denoiser.null.detach().clone()
        how = {"steps": 1, "warmup_steps": warmup_steps, "cooldown": 0.0, "weight_decay": 0.0}
        run(model, tiny_data(), **how)
        moved.append((model.denoiser.null.detach() - before).abs().max().item())
    assert moved[0] == pytest.approx(10 * moved[1], rel=1e-3)
    rates = run(tiny_model(), tiny_data()).column("learning_rate")
    assert rates == [learning_rate(USUAL["config"], step) for step in range(6)]


def test_metrics_are_means_since_the_last_line_and_every_state_comes_with_one(
    tiny_model, tiny_data
):
    each = run(tiny_model(), tiny_data()).column("loss")
    lines = run(tiny_model(), tiny_data(), log_steps=2, checkpoint_steps=3)
    assert lines.column("step") == [2, 3, 4, 6]
    expected = [np.mean(each[:2]), each[2], each[3], np.mean(each[4:])]
    np.testing.assert_allclose(lines.column("loss"), expected, rtol=1e-5)
    assert sorted(lines.states) == [3, 6]
    assert set(lines.records[0]) == {"step", "loss", "gradient_norm", "learning_rate"}, (
        "nothing that two equal runs differ in"
    )


def test_a_loss_that_is_not_a_number_ends_the_run_before_anything_is_kept(tiny_model, tiny_data):
    data, recorder = tiny_data(), Recorder()
    data = replace(data, vectors=np.full_like(data.vectors, np.nan))
    how = asked(log_steps=100, checkpoint_steps=2, neighbor_dropout=0.0)
    with pytest.raises(
        FloatingPointError,
        match=r"step 2: the loss is nan.*lower the learning rate or use precision fp32",
    ):
        train(tiny_model(), data, hooks=recorder.hooks, **how)
    assert not recorder.states


def test_a_gradient_that_is_not_finite_ends_the_run_before_anything_is_kept(tiny_model, tiny_data):
    model, recorder = tiny_model(), Recorder()
    model.denoiser.null.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(
        FloatingPointError, match=r"step 1: the loss is \d.*its gradient's norm (nan|inf)"
    ):
        how = asked(steps=1, neighbor_dropout=1.0)
        train(model, tiny_data(), hooks=recorder.hooks, **how)
    assert not recorder.states


def test_large_gradients_are_scaled_down(tiny_model, tiny_data):
    """Adam forgets a constant scale, so two steps of very different size tell whether it is
    applied.
    """
    trained = {}
    for clip_norm in (1e-3, 1e9):
        model = tiny_model()
        recorder = run(model, tiny_data(), clip_norm=clip_norm)
        assert min(recorder.column("gradient_norm")) > 1e-3, "reported before it is scaled"
        trained[clip_norm] = weights(model)["denoiser.null"]
    assert not torch.equal(*trained.values())
