"""Samplers: near the truth where the truth is known, at the times that were asked for."""

import math
from itertools import pairwise

import pytest
import torch
from sampling import FITTING, MULTISTEP, SHAPE, drawn, fake_network, no_noise, start
from tiny import PROCESSES

from rdm_core.errors import RequestError
from rdm_core.families.diffusion.noise import Diffusion, FlowMatching, Process
from rdm_core.families.diffusion.samplers import (
    SAMPLERS,
    Predict,
    even_grid,
    grid_of_2022,
    sample_ddim,
    sample_ddim_2022,
    sample_heun,
    sampler_of,
)

DIFFUSIONS = [process for process in PROCESSES if process != "flow"]


# -- against what is known exactly


def towards(process: Process, mean: float, deviation: float) -> Predict:
    """The optimal prediction for data x0 ~ N(mean, deviation^2)."""

    def predict(x: torch.Tensor, t: float) -> torch.Tensor:
        time = torch.tensor([t], dtype=torch.float64)
        alpha, sigma = (scale.item() for scale in process.scales(time))
        share = alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)
        return process.prediction_of(x, mean + share * (x - alpha * mean), time)

    return predict


MEAN, DEVIATION = 0.3, 0.5


def error(process: Process, name: str, steps: int) -> float:
    """How far the mean and the standard deviation of what is drawn are from the data's; noise to
    image is affine here.
    """
    noise = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1, 1)
    at_zero, at_one = (
        drawn(process, name, towards(process, MEAN, DEVIATION), noise, steps).flatten().tolist()
    )
    return max(abs(at_zero - MEAN), abs(at_one - at_zero - DEVIATION))


def times_asked(process: Process, name: str, steps: int) -> list[int]:
    """The steps of a diffusion at which it asks a network that costs nothing."""
    times = []

    def predict(x: torch.Tensor, t: float) -> torch.Tensor:
        times.append(round(1000 * t))
        return x

    drawn(process, name, predict, torch.zeros(1, 1, 1, 1), steps)
    return times


def test_every_number_of_steps_costs_as_many_evaluations_and_starts_at_full_noise():
    for steps in range(1, 1001):
        grid = even_grid(steps)
        assert len(grid) == steps and grid[0] == 999 and grid[-1] >= 0
        # Steps are as even as whole numbers allow.
        for noisier, clearer in pairwise(grid):
            assert 1000 // steps <= noisier - clearer <= -(-1000 // steps), steps
    for steps in (1, 30, 334, 501, 600, 1000):
        assert times_asked(Diffusion(), "ddim", steps) == even_grid(steps)


@pytest.mark.parametrize("name", MULTISTEP)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 30, 333, 334, 501, 600, 999, 1000])
def test_the_solvers_take_every_number_of_steps_from_full_noise_too(name, steps):
    asked = times_asked(Diffusion(), name, steps)
    assert len(asked) == steps and asked[0] == 999


def test_the_times_of_the_release_are_its_own():
    assert grid_of_2022(30) == [1 + 33 * i for i in range(31)][::-1], (
        "31 evaluations for 30, from 991 on"
    )
    assert len(grid_of_2022(150)) == 167
    for steps in (2, 4, 5, 8, 10, 20, 25, 40, 50, 100, 125, 200, 250, 500):
        assert grid_of_2022(steps) == (torch.arange(0, 1000, 1000 // steps) + 1).flip(0).tolist()
        assert len(grid_of_2022(steps)) == steps
    assert grid_of_2022(600) == grid_of_2022(1000) == list(range(999, 0, -1))
    assert times_asked(Diffusion(), "ddim-2022", 30) == grid_of_2022(30)


@pytest.mark.parametrize("process", ["epsilon", "velocity", "zero terminal"])
@pytest.mark.parametrize("steps", [30, 150, 300, 334, 501, 600, 1000])
def test_no_number_of_steps_shifts_the_mean_of_what_is_drawn(steps, process):
    """A start below full noise would: by 0.023 at 334 steps and 0.033 at 600."""
    noise = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    found = drawn(
        PROCESSES[process], "ddim", towards(PROCESSES[process], MEAN, DEVIATION), noise, steps
    )
    assert found.item() == pytest.approx(MEAN, abs=0.003)


@pytest.mark.parametrize(("process", "name"), FITTING)
def test_more_steps_come_nearer_to_the_right_mean_and_deviation(process, name):
    errors = [error(PROCESSES[process], name, steps) for steps in (3, 10, 300)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.015


@pytest.mark.parametrize(
    ("process", "name"),
    [(p, name) for p, name in FITTING if name not in ("euler", "ddim", "ddim-2022")],
)
def test_at_20_steps_the_second_order_is_far_nearer_than_the_first(process, name):
    plain = "euler" if process == "flow" else "ddim"
    assert error(PROCESSES[process], name, 20) < error(PROCESSES[process], plain, 20) / 4


@pytest.mark.parametrize("process", DIFFUSIONS)
def test_fresh_noise_draws_the_right_mean_and_deviation_too(process):
    chosen, generator = PROCESSES[process], torch.Generator().manual_seed(0)

    def fresh() -> torch.Tensor:
        return torch.randn(20_000, 1, 1, 1, generator=generator)

    found = sample_ddim(chosen, towards(chosen, MEAN, DEVIATION), fresh(), 500, fresh, 1.0)
    assert found.mean().item() == pytest.approx(MEAN, abs=0.015)
    assert found.std().item() == pytest.approx(DEVIATION, abs=0.02)


@pytest.mark.parametrize("steps", [1, 3, 50])
@pytest.mark.parametrize(("process", "name"), [pair for pair in FITTING if "ddim" not in pair[1]])
def test_where_the_data_is_one_point_every_number_of_steps_ends_there(process, name, steps):
    found = drawn(PROCESSES[process], name, towards(PROCESSES[process], MEAN, 0.0), start(), steps)
    torch.testing.assert_close(found, torch.full(SHAPE, MEAN), atol=2e-3, rtol=0)


@pytest.mark.parametrize("process", DIFFUSIONS)
def test_ddim_with_the_true_noise_ends_at_the_least_noisy_image(process):
    chosen = PROCESSES[process]
    found = drawn(chosen, "ddim", towards(chosen, MEAN, 0.0), start(), 20)
    assert (found - MEAN).abs().max() < 5 * math.sqrt(1 - chosen.alphas[0])


def test_eulers_error_falls_with_the_steps_and_heuns_with_their_square():
    """dx/dt = x from 1 to 0 divides by e."""
    for name, fall in (("euler", 10), ("heun", 100)):
        # The slope x has the exact end x / e; more steps must come nearer to it.
        errors = []
        for steps in (5, 50, 500):
            ends = drawn(FlowMatching(), name, lambda x, t: x, start().double(), steps)
            errors.append((ends - start() / math.e).abs().max())
        assert errors[0] / errors[1] == pytest.approx(fall, rel=0.3)
        assert errors[1] / errors[2] == pytest.approx(fall, rel=0.3)


# -- times


def visited(process: Process, name: str | None, steps: int) -> list[float]:
    """The times at which it asks the network."""
    times = []

    def predict(x: torch.Tensor, t: float) -> torch.Tensor:
        times.append(t)
        return fake_network(x, t)

    assert torch.isfinite(drawn(process, name, predict, start(), steps)).all()
    return times


@pytest.mark.parametrize("steps", [1, 12, 61, 402])
@pytest.mark.parametrize(("process", "name"), [pair for pair in FITTING if pair[1] != "ddim-2022"])
def test_times_are_in_range_and_fall_and_each_costs_one_evaluation(process, name, steps):
    times = visited(PROCESSES[process], name, steps)
    if name == "heun":
        assert len(times) == 2 * steps - 1, "two a step but for the last"
        times = times[::2]
    assert len(times) == steps
    assert min(times) >= 0 and max(times) <= 1
    assert times == sorted(times, reverse=True)
    if name in MULTISTEP:
        assert len(set(times)) == steps, "no time comes twice"


@pytest.mark.parametrize(
    ("process", "name"), [("flow", "unipc"), ("epsilon", "dpm++"), ("zero terminal", "ddim")]
)
def test_as_many_steps_as_the_process_has_can_be_visited(process, name):
    assert len(visited(PROCESSES[process], name, 1000)) == 1000


@pytest.mark.parametrize("name", ["ddim", *MULTISTEP])
def test_a_process_that_ends_in_pure_noise_is_drawn_from_there(name):
    assert visited(PROCESSES["zero terminal"], name, 10)[0] == pytest.approx(0.999)


def test_heun_looks_ahead_at_the_next_time():
    assert visited(FlowMatching(), "heun", 2) == [1.0, 0.5, 0.5]


# -- which sampler


def test_eta_changes_what_is_drawn():
    generator = torch.Generator().manual_seed(0)
    noisy = sample_ddim(
        Diffusion(), fake_network, start(), 20, lambda: torch.randn(SHAPE, generator=generator), 1.0
    )
    assert not torch.allclose(
        noisy, drawn(Diffusion(), "ddim", fake_network, start(), 20), atol=1e-2
    )


def test_a_process_has_a_plain_sampler_of_its_own(process):
    plain = "euler" if isinstance(process, FlowMatching) else "ddim"
    found = drawn(process, None, fake_network, start(), 12)
    assert torch.equal(found, drawn(process, plain, fake_network, start(), 12))
    assert torch.equal(found, sample_ddim(process, fake_network, start(), 12, no_noise))


def test_a_sampler_is_known_by_name():
    assert sampler_of(FlowMatching(), "heun", 5, 0.0) is sample_heun
    assert {name for _, name in FITTING} == set(SAMPLERS)


@pytest.mark.parametrize(
    ("process", "name", "usable"),
    [
        (
            "flow",
            "ddim-2022",
            r"trained with flow matching. Use one of: euler, heun, dpm\+\+, unipc\.",
        ),
        ("flow", "ddim", r"trained with flow matching. Use one of: euler, heun, dpm\+\+, unipc\."),
        ("flow", "plms", r"trained with flow matching. Use one of: euler, heun, dpm\+\+, unipc\."),
        (
            "epsilon",
            "heun",
            r"trained with a diffusion process. Use one of: ddim, ddim-2022, dpm\+\+, unipc\.",
        ),
        (
            "velocity",
            "euler",
            r"trained with a diffusion process. Use one of: ddim, ddim-2022, dpm\+\+, unipc\.",
        ),
    ],
)
def test_a_sampler_that_does_not_fit_is_refused_with_those_that_do(process, name, usable):
    with pytest.raises(RequestError, match=f"sampler: '{name}' does not fit a run {usable}"):
        sampler_of(PROCESSES[process], name, 10, 0.0)


@pytest.mark.parametrize(
    ("process", "name"),
    [("flow", None), ("flow", "heun"), ("epsilon", "dpm++"), ("velocity", "unipc")],
)
def test_an_eta_that_would_not_be_used_is_refused(process, name):
    with pytest.raises(
        RequestError,
        match=r"eta: 0.5, but the sampler '.+' adds no noise.*Use eta=0, or sampler=ddim",
    ):
        sampler_of(PROCESSES[process], name, 10, 0.5)
    assert sampler_of(Diffusion(), "ddim", 10, 0.5) is sample_ddim
    assert sampler_of(Diffusion(), "ddim-2022", 10, 0.5) is sample_ddim_2022


def test_more_steps_than_the_process_has_are_refused(process):
    with pytest.raises(
        RequestError, match=r"steps: 1001 steps of a process that has 1000.*at most 1000"
    ):
        sampler_of(process, None, 1001, 0.0)
