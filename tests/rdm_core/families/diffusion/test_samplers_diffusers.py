"""Samplers: the same steps as diffusers' schedulers."""

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from sampling import SHAPE, drawn, fake_network, no_noise, start
from tiny import PROCESSES

from rdm_core.families.diffusion.noise import Diffusion, FlowMatching
from rdm_core.families.diffusion.samplers import Sampler, sample_ddim, sample_ddim_2022


def assert_steps_are_diffusers(
    sampler: Sampler, process: Diffusion, steps: int, eta: float = 0.0, **schedule
) -> None:
    """The same times and the same x at each of them, and in the end."""
    kind = "v_prediction" if process.velocity else "epsilon"
    scheduler = DDIMScheduler(
        1000,
        0.0015,
        0.0195,
        "scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type=kind,
        **schedule,
    )
    scheduler.set_timesteps(steps)
    generator, expected = torch.Generator().manual_seed(3), [start()]
    for step in scheduler.timesteps:
        prediction = fake_network(expected[-1], int(step) / 1000)
        expected.append(
            scheduler.step(prediction, step, expected[-1], eta=eta, generator=generator).prev_sample
        )

    found, times, fresh = [], [], torch.Generator().manual_seed(3)

    def predict(x: torch.Tensor, t: float) -> torch.Tensor:
        times.append(round(t * 1000))
        found.append(x)
        return fake_network(x, t)

    noise = (lambda: torch.randn(SHAPE, generator=fresh)) if eta else no_noise
    found.append(sampler(process, predict, start(), steps, noise, eta))
    assert times == scheduler.timesteps.tolist()
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
"""The release's times, where the number of steps divides 1000."""


@pytest.mark.parametrize("velocity", [False, True], ids=["epsilon", "velocity"])
@pytest.mark.parametrize("steps", [1, 10, 50, 100, 999])
def test_ddim_2022_is_the_2022_sampler(steps, velocity):
    assert_steps_are_diffusers(sample_ddim_2022, Diffusion(velocity=velocity), steps, **LEADING)


@pytest.mark.parametrize("velocity", [False, True], ids=["epsilon", "velocity"])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ddim_2022_with_fresh_noise_is_the_2022_papers_sampler(eta, velocity):
    assert_steps_are_diffusers(sample_ddim_2022, Diffusion(velocity=velocity), 20, eta, **LEADING)


@pytest.mark.parametrize("process", ["epsilon", "velocity"])
@pytest.mark.parametrize("steps", [1, 10, 50, 100, 500])
def test_ddim_is_diffusers_with_trailing_steps(steps, process):
    """Where the steps divide 1000: elsewhere diffusers' own steps do not end where its next ones
    begin.
    """
    assert_steps_are_diffusers(sample_ddim, PROCESSES[process], steps, timestep_spacing="trailing")


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_from_pure_noise_is_diffusers_with_trailing_steps(eta):
    process = PROCESSES["zero terminal"]
    assert_steps_are_diffusers(
        sample_ddim, process, 20, eta, timestep_spacing="trailing", rescale_betas_zero_snr=True
    )


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_euler_is_diffusers_euler_at_equally_spaced_times(steps):
    scheduler = FlowMatchEulerDiscreteScheduler(1000)
    scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
    expected = start()
    for step in scheduler.timesteps:
        expected = scheduler.step(
            fake_network(expected, float(step) / 1000), step, expected
        ).prev_sample
    found = drawn(FlowMatching(), "euler", fake_network, start(), steps)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
