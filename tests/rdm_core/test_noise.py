"""Forward processes: the equations, against diffusers and by hand."""

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from rdm_core.config import NoiseConfig
from rdm_core.noise import Epsilon, FlowMatching, process_of

SHAPE = (5, 3, 4, 4)


@pytest.fixture
def x0_and_noise():
    """Two draws [5, 3, 4, 4]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)


@pytest.mark.parametrize("beta_end", [0.0195, 0.015], ids=["256 px models", "768 px model"])
def test_alphas_are_those_of_the_2022_schedule(beta_end):
    scheduler = DDIMScheduler(1000, 0.0015, beta_end, "scaled_linear")
    torch.testing.assert_close(Epsilon(0.0015, beta_end).alphas, scheduler.alphas_cumprod, rtol=1e-5, atol=0)


def test_corrupting_by_steps_is_what_diffusers_does(x0_and_noise):
    x0, noise = x0_and_noise
    steps = torch.tensor([0, 1, 499, 998, 999])
    noisy, target = Epsilon().corrupt(x0, noise, steps / 1000)
    expected = DDIMScheduler(1000, 0.0015, 0.0195, "scaled_linear").add_noise(x0, noise, steps)
    torch.testing.assert_close(noisy, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(target, noise)


def test_corrupting_along_the_flow_is_what_diffusers_does(x0_and_noise):
    x0, noise = x0_and_noise
    scheduler = FlowMatchEulerDiscreteScheduler(1000)
    times = scheduler.sigmas[[0, 10, 500, 900, 999]]
    noisy, target = FlowMatching().corrupt(x0, noise, times)
    expected = scheduler.scale_noise(x0, scheduler.timesteps[[0, 10, 500, 900, 999]], noise)
    torch.testing.assert_close(noisy, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(target, noise - x0)


def test_the_flow_begins_at_the_image_and_ends_at_noise_with_its_velocity_as_target(x0_and_noise):
    x0, noise = x0_and_noise
    flow = FlowMatching()
    torch.testing.assert_close(flow.corrupt(x0, noise, torch.zeros(5))[0], x0)
    torch.testing.assert_close(flow.corrupt(x0, noise, torch.ones(5))[0], noise)
    early, target = flow.corrupt(x0, noise, torch.full((5,), 0.25))
    late, _ = flow.corrupt(x0, noise, torch.full((5,), 0.75))
    torch.testing.assert_close((late - early) / 0.5, target)


@pytest.mark.parametrize("process", [FlowMatching(), Epsilon()], ids=["flow", "epsilon"])
def test_every_sample_has_its_own_time(process, x0_and_noise):
    x0, noise = x0_and_noise
    times = torch.tensor([0.1, 0.9, 0.5, 0.3, 0.7])
    together, _ = process.corrupt(x0, noise, times)
    for i in range(5):
        alone, _ = process.corrupt(x0[i : i + 1], noise[i : i + 1], times[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("process", [FlowMatching(), Epsilon()], ids=["flow", "epsilon"])
def test_times_are_in_range_and_follow_the_generator(process):
    times = process.draw_times(20_000, torch.Generator().manual_seed(0))
    assert times.shape == (20_000,)
    assert times.min() >= 0
    assert times.max() <= 1
    assert torch.equal(times, process.draw_times(20_000, torch.Generator().manual_seed(0)))
    assert not torch.equal(times, process.draw_times(20_000, torch.Generator().manual_seed(1)))
    on_network = process.network_time(times)
    assert on_network.dtype == torch.float32
    assert on_network.min() >= 0
    assert on_network.max() <= 1000


def test_epsilon_times_are_all_thousand_steps_alike():
    steps = Epsilon().network_time(Epsilon().draw_times(200_000, torch.Generator().manual_seed(0)))
    counted = torch.bincount(steps.long(), minlength=1000)
    assert len(counted) == 1000
    assert torch.equal(steps, steps.round())
    assert counted.min() > 120, "200 are expected of each"
    assert counted.max() < 290


def test_steps_come_back_from_times_exactly():
    steps = torch.arange(1000)
    assert torch.equal(Epsilon().network_time(steps / 1000), steps.float())
    assert Epsilon().network_time(torch.ones(1)) == 999


def test_flow_times_are_logit_normal():
    times = FlowMatching().draw_times(50_000, torch.Generator().manual_seed(0))
    logits = torch.logit(times)
    assert abs(logits.mean()) < 0.02
    assert abs(logits.std() - 1) < 0.02


def test_a_configuration_names_its_process():
    assert process_of(NoiseConfig(process="flow")) == FlowMatching()
    assert process_of(NoiseConfig(process="epsilon", beta_start=0.001, beta_end=0.012)) == Epsilon(0.001, 0.012)
