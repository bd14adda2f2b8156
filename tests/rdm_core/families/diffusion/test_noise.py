"""Forward processes: the equations, against diffusers and by hand."""

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from diffusers.training_utils import compute_snr

from rdm_core.families.diffusion.config import NoiseConfig
from rdm_core.families.diffusion.noise import Diffusion, FlowMatching, process_of

SHAPE = (5, 3, 4, 4)
SOME_STEPS = torch.tensor([0, 1, 499, 998, 999])


@pytest.fixture
def x0_and_noise():
    """Two draws [5, 3, 4, 4]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)


def diffusers_schedule(beta_end: float = 0.0195) -> DDIMScheduler:
    """The 2022 schedule as diffusers has it."""
    return DDIMScheduler(1000, 0.0015, beta_end, "scaled_linear")


@pytest.mark.parametrize("beta_end", [0.0195, 0.015], ids=["256 px models", "768 px model"])
def test_alphas_are_those_of_the_2022_schedule(beta_end):
    expected = diffusers_schedule(beta_end).alphas_cumprod
    torch.testing.assert_close(Diffusion(0.0015, beta_end).alphas, expected, rtol=1e-5, atol=0)


def test_zero_terminal_alphas_are_those_of_diffusers_and_end_in_pure_noise():
    process = Diffusion(velocity=True, zero_terminal_snr=True)
    expected = torch.cumprod(1 - rescale_zero_terminal_snr(diffusers_schedule().betas), dim=0)
    torch.testing.assert_close(process.alphas, expected, rtol=1e-3, atol=1e-6)
    assert process.alphas[999] == 0
    torch.testing.assert_close(process.alphas[0], Diffusion().alphas[0])
    assert (process.alphas.diff() < 0).all()


def test_corrupting_by_steps_is_what_diffusers_does(x0_and_noise):
    x0, noise = x0_and_noise
    scheduler = diffusers_schedule()
    noisy, target = Diffusion().corrupt(x0, noise, SOME_STEPS / 1000)
    torch.testing.assert_close(
        noisy, scheduler.add_noise(x0, noise, SOME_STEPS), rtol=1e-5, atol=1e-5
    )
    assert torch.equal(target, noise)
    again, velocity = Diffusion(velocity=True).corrupt(x0, noise, SOME_STEPS / 1000)
    assert torch.equal(again, noisy)
    torch.testing.assert_close(
        velocity, scheduler.get_velocity(x0, noise, SOME_STEPS), rtol=1e-5, atol=1e-5
    )


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


def test_every_process_mixes_image_and_noise_by_its_scales(process, x0_and_noise):
    x0, noise = x0_and_noise
    times = torch.tensor([0.05, 0.3, 0.5, 0.8, 0.999])
    alpha, sigma = process.scales(times)
    alpha, sigma = alpha.view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1)
    torch.testing.assert_close(process.corrupt(x0, noise, times)[0], alpha * x0 + sigma * noise)


def test_every_sample_has_its_own_time(process, x0_and_noise):
    x0, noise = x0_and_noise
    times = torch.tensor([0.1, 0.9, 0.5, 0.3, 0.7])
    together = process.corrupt(x0, noise, times)
    for i in range(5):
        alone = process.corrupt(x0[i : i + 1], noise[i : i + 1], times[i : i + 1])
        for whole, one in zip(together, alone, strict=True):
            torch.testing.assert_close(whole[i : i + 1], one)


def test_the_target_tells_image_and_noise_and_the_image_tells_the_target(process, x0_and_noise):
    x0, noise = x0_and_noise
    times = torch.tensor([0.05, 0.3, 0.5, 0.8, 0.9])
    noisy, target = process.corrupt(x0, noise, times)
    found_x0, found_noise = process.clean(noisy, target, times)
    torch.testing.assert_close(found_x0, x0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found_noise, noise, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        process.prediction_of(noisy, x0, times), target, rtol=1e-4, atol=1e-4
    )


def test_a_prediction_comes_back_from_the_image_it_stands_for(process, x0_and_noise):
    x, prediction = x0_and_noise
    times = torch.tensor([0.1, 0.3, 0.5, 0.8, 0.9])
    x0, _ = process.clean(x, prediction, times)
    torch.testing.assert_close(
        process.prediction_of(x, x0, times), prediction, rtol=1e-3, atol=1e-3
    )


def test_pure_noise_still_tells_the_image_by_its_velocity(x0_and_noise):
    x0, noise = x0_and_noise
    process, last = Diffusion(velocity=True, zero_terminal_snr=True), torch.full((5,), 0.999)
    noisy, target = process.corrupt(x0, noise, last)
    torch.testing.assert_close(noisy, noise)
    torch.testing.assert_close(target, -x0)
    torch.testing.assert_close(process.clean(noisy, target, last)[0], x0)
    torch.testing.assert_close(process.prediction_of(noisy, x0, last), target)


def test_all_times_weigh_alike_unless_asked_otherwise(process):
    assert torch.equal(process.loss_weights(torch.rand(5)), torch.ones(5))


@pytest.mark.parametrize("velocity", [False, True], ids=["epsilon", "velocity"])
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights_are_those_of_the_paper_with_diffusers_ratios(velocity, gamma):
    steps = torch.arange(1000)
    found = Diffusion(velocity=velocity, min_snr_gamma=gamma).loss_weights(steps / 1000)
    snr = compute_snr(diffusers_schedule(), steps)
    kept = torch.minimum(snr, torch.full_like(snr, gamma))
    torch.testing.assert_close(
        found, kept / (snr + 1) if velocity else kept / snr, rtol=1e-4, atol=1e-7
    )
    assert found.max() <= 1
    assert (found > 0).all()


def test_min_snr_weighs_the_image_error_by_the_capped_ratio_whatever_is_predicted(x0_and_noise):
    """An error of the image e is an error of the noise of size sqrt(snr) e, and of the velocity of
    sqrt(snr + 1) e.
    """
    x0, noise = x0_and_noise
    times = torch.tensor([0.05, 0.2, 0.4, 0.6, 0.8])
    losses = []
    for velocity in (False, True):
        process = Diffusion(velocity=velocity, min_snr_gamma=5.0)
        noisy, target = process.corrupt(x0, noise, times)
        wrong = process.prediction_of(noisy, x0 + 0.1, times)
        losses.append(process.loss_weights(times) * (wrong - target).square().mean(dim=(1, 2, 3)))
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-6)


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


def test_diffusion_times_are_all_thousand_steps_alike():
    steps = Diffusion().network_time(
        Diffusion().draw_times(200_000, torch.Generator().manual_seed(0))
    )
    counted = torch.bincount(steps.long(), minlength=1000)
    assert len(counted) == 1000
    assert torch.equal(steps, steps.round())
    assert counted.min() > 120, "200 are expected of each"
    assert counted.max() < 290


def test_steps_come_back_from_times_exactly():
    steps = torch.arange(1000)
    assert torch.equal(Diffusion().network_time(steps / 1000), steps.float())
    assert Diffusion().network_time(torch.ones(1)) == 999


@pytest.mark.parametrize("mean", [0.0, 1.0, -0.5])
def test_flow_times_are_logit_normal(mean):
    times = FlowMatching(mean).draw_times(50_000, torch.Generator().manual_seed(0))
    logits = torch.logit(times)
    assert abs(logits.mean() - mean) < 0.02
    assert abs(logits.std() - 1) < 0.02


def test_a_configuration_names_its_process():
    assert process_of(NoiseConfig(process="flow", time_mean=1.0)) == FlowMatching(1.0)
    assert process_of(
        NoiseConfig(process="epsilon", beta_start=0.001, beta_end=0.012)
    ) == Diffusion(0.001, 0.012)
    asked = NoiseConfig(process="velocity", min_snr_gamma=5, zero_terminal_snr=True)
    assert process_of(asked) == Diffusion(velocity=True, min_snr_gamma=5, zero_terminal_snr=True)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"process": "epsilon", "zero_terminal_snr": True},
            "zero_terminal_snr: needs process=velocity, is epsilon",
        ),
        (
            {"process": "flow", "zero_terminal_snr": True},
            "zero_terminal_snr: needs process=velocity, is flow",
        ),
        (
            {"process": "flow", "min_snr_gamma": 5.0},
            "min_snr_gamma: flow weighs by how times are drawn; use time_mean",
        ),
        ({"min_snr_gamma": -1.0}, r"min_snr_gamma: is -1.0, must be between 0 and"),
        (
            {"beta_start": 0.02},
            r"beta_start, beta_end: are 0.02 and 0.0195, must rise between 0 and 1",
        ),
        ({"beta_end": 1.0}, r"beta_start, beta_end: are 0.0015 and 1.0"),
    ],
)
def test_what_does_not_fit_together_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        NoiseConfig(**asked)
