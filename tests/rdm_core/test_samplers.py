"""Samplers: the same steps as diffusers' schedulers, and exact where the answer is known."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from rdm_core.errors import RequestError
from rdm_core.noise import Epsilon, FlowMatching
from rdm_core.samplers import sample, sample_ddim, sample_euler

SHAPE = (2, 3, 4, 4)


def start() -> torch.Tensor:
    """Pure noise [2, 3, 4, 4]."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def fake_network(x: torch.Tensor, t: float) -> torch.Tensor:
    """Something smooth that depends on both arguments and mixes the entries."""
    return torch.tanh(x.flip(-1) + 3 * t) + 0.2 * x


def no_noise() -> torch.Tensor:
    """For samplers that must not ask."""
    raise AssertionError("a deterministic sampler asked for noise")


def diffusers_ddim(steps: int, eta: float, seed: int) -> tuple[torch.Tensor, list[int]]:
    """The 2022 release's sampling as diffusers does it: the result and the steps it visits."""
    scheduler = DDIMScheduler(
        1000, 0.0015, 0.0195, "scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1,
        timestep_spacing="leading", prediction_type="epsilon",
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    x, generator = start(), torch.Generator().manual_seed(seed)
    for step in scheduler.timesteps:
        x = scheduler.step(fake_network(x, int(step) / 1000), step, x, eta=eta, generator=generator).prev_sample
    return x, scheduler.timesteps.tolist()


@pytest.mark.parametrize("steps", [1, 7, 10, 30, 50, 100, 999])
def test_ddim_is_the_2022_sampler(steps):
    visited = []

    def predict(x: torch.Tensor, t: float) -> torch.Tensor:
        visited.append(round(t * 1000))
        return fake_network(x, t)

    expected, expected_steps = diffusers_ddim(steps, eta=0.0, seed=0)
    found = sample_ddim(Epsilon(), predict, start(), steps, no_noise)
    assert visited == expected_steps
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ddim_with_fresh_noise_is_the_2022_papers_sampler(eta):
    generator = torch.Generator().manual_seed(3)
    expected, _ = diffusers_ddim(20, eta=eta, seed=3)
    found = sample_ddim(Epsilon(), fake_network, start(), 20, lambda: torch.randn(SHAPE, generator=generator), eta)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, diffusers_ddim(20, eta=0.0, seed=3)[0], atol=1e-2)


def test_ddim_can_visit_every_step():
    assert torch.isfinite(sample_ddim(Epsilon(), fake_network, start(), 1000, no_noise)).all()


def test_more_steps_than_the_process_has_are_refused():
    with pytest.raises(RequestError, match=r"steps: 1001 steps of a process that has 1000.*at most 1000"):
        sample_ddim(Epsilon(), fake_network, start(), 1001, no_noise)


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_euler_is_diffusers_euler_at_equally_spaced_times(steps):
    scheduler = FlowMatchEulerDiscreteScheduler(1000)
    scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
    expected = start()
    for step in scheduler.timesteps:
        expected = scheduler.step(fake_network(expected, float(step) / 1000), step, expected).prev_sample
    found = sample_euler(FlowMatching(), fake_network, start(), steps, no_noise)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 3, 50])
def test_euler_is_exact_where_the_data_is_one_point(steps):
    point = torch.full(SHAPE, 0.3)
    found = sample_euler(FlowMatching(), lambda x, t: (x - point) / t, start(), steps, no_noise)
    torch.testing.assert_close(found, point, atol=1e-4, rtol=0)


def test_ddim_with_the_true_noise_ends_at_the_least_noisy_image():
    point, process = torch.full(SHAPE, 0.3), Epsilon()

    def true_noise(x: torch.Tensor, t: float) -> torch.Tensor:
        a = process.alphas[round(t * 1000)]
        return (x - a.sqrt() * point) / (1 - a).sqrt()

    found = sample_ddim(process, true_noise, start(), 20, no_noise)
    assert (found - point).abs().max() < 5 * math.sqrt(1 - process.alphas[0])


def test_more_euler_steps_come_nearer_to_the_path():
    """dx/dt = x from 1 to 0 divides by e."""
    errors = [
        (sample_euler(FlowMatching(), lambda x, t: x, start(), steps, no_noise) - start() / math.e).abs().max()
        for steps in (5, 50, 500)
    ]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]


@pytest.mark.parametrize(("process", "sampler"), [(FlowMatching(), sample_euler), (Epsilon(), sample_ddim)])
def test_times_are_in_range_and_fall_and_the_process_picks_its_sampler(process, sampler):
    times = []

    def predict(x: torch.Tensor, t: float) -> torch.Tensor:
        times.append(t)
        return fake_network(x, t)

    found = sample(process, predict, start(), 12, no_noise)
    assert len(times) == 12
    assert all(0 < t <= 1 for t in times)
    assert times == sorted(times, reverse=True)
    assert torch.equal(found, sampler(process, fake_network, start(), 12, no_noise))
