"""Samplers: from pure noise to final latents. Every sampler has the same signature.

`predict(x, t)` gives the prediction of the network, with guidance, for x and one time t in 0..1. A
sampler takes x ~ N(0, I) and gives final latents. `noise()` gives new noise ~ N(0, I); only DDIM
with eta above 0 uses it. All of these are float32 [B, C, h, w].
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch

from rdm_core.errors import RequestError
from rdm_core.families.diffusion.noise import NETWORK_TIMES, FlowMatching, Process
from rdm_core.importing import large_import

Predict = Callable[[torch.Tensor, float], torch.Tensor]
FreshNoise = Callable[[], torch.Tensor]
Sampler = Callable[[Process, Predict, torch.Tensor, int, FreshNoise, float], torch.Tensor]


def sample_ddim(
    process: Process,
    predict: Predict,
    x: torch.Tensor,
    steps: int,
    noise: FreshNoise,
    eta: float = 0.0,
) -> torch.Tensor:
    """DDIM (arXiv 2010.02502, eq. 12 and 16), x float32 [B, C, h, w] -> the same shape.

    On straight paths with eta 0 its step is Euler's. It makes exactly `steps` evaluations at
    equally spaced times, the first at full noise.
    """
    flow = isinstance(process, FlowMatching)
    times = torch.linspace(1, 0, steps + 1).tolist() if flow else _times_of(even_grid(steps))
    return _ddim(process, predict, x, times, noise, eta)


def sample_ddim_2022(
    process: Process,
    predict: Predict,
    x: torch.Tensor,
    steps: int,
    noise: FreshNoise,
    eta: float = 0.0,
) -> torch.Tensor:
    """DDIM at the times of the 2022 release (`grid_of_2022`), x float32 [B, C, h, w] -> the same
    shape. RDM (arXiv 2204.11824) used eta 1.
    """
    return _ddim(process, predict, x, _times_of(grid_of_2022(steps)), noise, eta)


def even_grid(steps: int) -> list[int]:
    """Falling steps of the diffusion in 0..999 [steps], from the noisiest on ("trailing", arXiv
    2305.08891, sec. 3.3).
    """
    # round(1000 left / steps) - 1 for left = steps..1, in whole numbers
    return [(2 * NETWORK_TIMES * left + steps) // (2 * steps) - 1 for left in range(steps, 0, -1)]


def grid_of_2022(steps: int) -> list[int]:
    """Falling steps of the diffusion as in the 2022 release: every (1000 // steps)-th from 1 on.

    Where `steps` does not divide 1000 there are more than asked for (30 gives 31, from 991 down);
    above 500 there are all 999. For some numbers (36, for example) the release had one step more,
    beyond its 1000, and stopped with an error; that step is left out.
    """
    return list(range(1, NETWORK_TIMES, NETWORK_TIMES // steps))[::-1]


def _ddim(
    process: Process,
    predict: Predict,
    x: torch.Tensor,
    times: Sequence[float],
    noise: FreshNoise,
    eta: float,
) -> torch.Tensor:
    """DDIM steps (arXiv 2010.02502, eq. 12) from each time to the next, x float32 [B, C, h, w] ->
    the same shape.
    """
    for t, s in pairwise(times):
        x0, n = process.clean(x, predict(x, t), torch.tensor([t]))
        alpha, sigma = _scales(process, t)
        alpha_next, sigma_next = _scales(process, s)
        fresh = 0.0  # the standard deviation of the new noise, eq. 16
        if eta:
            fresh = eta * sigma_next / sigma * (1 - (alpha / alpha_next) ** 2) ** 0.5
        x = alpha_next * x0 + (sigma_next**2 - fresh**2) ** 0.5 * n
        if fresh:
            x = x + fresh * noise()
    return x


def sample_heun(
    process: Process,
    predict: Predict,
    x: torch.Tensor,
    steps: int,
    noise: FreshNoise,
    eta: float = 0.0,
) -> torch.Tensor:
    """Heun's second-order steps along the flow (arXiv 2206.00364, alg. 1), x float32 [B, C, h, w]
    -> the same shape. Every step but the last makes two evaluations.
    """
    times = torch.linspace(1, 0, steps + 1).tolist()
    for t, s in pairwise(times):
        slope = predict(x, t)
        ahead = x + (s - t) * slope  # Euler's step; the last one has no slope to correct it with
        x = ahead if s == 0 else x + (s - t) * (slope + predict(ahead, s)) / 2
    return x


def sample_dpm(
    process: Process,
    predict: Predict,
    x: torch.Tensor,
    steps: int,
    noise: FreshNoise,
    eta: float = 0.0,
) -> torch.Tensor:
    """DPM-Solver++ of second order, multistep (arXiv 2211.01095, alg. 2), as diffusers implements
    it: x float32 [B, C, h, w] -> the same shape.
    """
    with large_import():
        from diffusers import DPMSolverMultistepScheduler

    return _with_scheduler(DPMSolverMultistepScheduler, process, predict, x, steps)


def sample_unipc(
    process: Process,
    predict: Predict,
    x: torch.Tensor,
    steps: int,
    noise: FreshNoise,
    eta: float = 0.0,
) -> torch.Tensor:
    """UniPC of second order (arXiv 2302.04867), as diffusers implements it: x float32 [B, C, h, w]
    -> the same shape.
    """
    with large_import():
        from diffusers import UniPCMultistepScheduler

    return _with_scheduler(UniPCMultistepScheduler, process, predict, x, steps)


SAMPLERS: dict[str, Sampler] = {
    "ddim": sample_ddim,
    "ddim-2022": sample_ddim_2022,
    "euler": sample_ddim,
    "heun": sample_heun,
    "dpm++": sample_dpm,
    "unipc": sample_unipc,
}
"""Samplers by name. 'euler' is 'ddim' on straight paths."""
NOISY = ("ddim", "ddim-2022")
"""Samplers that can add noise: they take an eta."""


def sampler_of(process: Process, name: str | None, steps: int, eta: float) -> Sampler:
    """The sampler of that name; without a name Euler's for the flow, DDIM for diffusion.

    Raises RequestError for a sampler that does not fit the process, an eta that it would not use,
    or too many steps.
    """
    flow = isinstance(process, FlowMatching)
    name = name or ("euler" if flow else "ddim")
    unfit = ("ddim", "ddim-2022") if flow else ("euler", "heun")
    usable = [sampler for sampler in SAMPLERS if sampler not in unfit]
    if name not in usable:
        trained_with = "flow matching" if flow else "a diffusion process"
        raise RequestError(
            "sampler",
            f"{name!r} does not fit a run trained with {trained_with}",
            f"Use one of: {', '.join(usable)}.",
        )
    if eta and name not in NOISY:
        raise RequestError(
            "eta", f"{eta}, but the sampler {name!r} adds no noise", "Use eta=0, or sampler=ddim."
        )
    if steps > NETWORK_TIMES:
        raise RequestError(
            "steps",
            f"{steps} steps of a process that has {NETWORK_TIMES}",
            f"Use at most {NETWORK_TIMES}.",
        )
    return SAMPLERS[name]


def _times_of(grid: Sequence[int]) -> list[float]:
    """The times in 0..1 of steps of the diffusion, and at last that of step 0, where the release of
    2022 ended too.
    """
    return [step / NETWORK_TIMES for step in (*grid, 0)]


def _scales(process: Process, t: float) -> tuple[float, float]:
    """(alpha_t, sigma_t) of one time, in double precision."""
    alpha, sigma = process.scales(torch.tensor([t], dtype=torch.float64))
    return alpha.item(), sigma.item()


def _solver_times(process: Process, steps: int) -> torch.Tensor:
    """Falling times float32 [steps] in 0..1 of the multistep solvers.

    Along the flow they are equally spaced; for a diffusion the logarithms of the signal-to-noise
    ratio are. With equally spaced times, the last step of a diffusion would have to change that
    ratio more than all others together.
    """
    if isinstance(process, FlowMatching):
        # The solvers divide by alpha, which is 0 at time 1: begin just below.
        return torch.linspace(1 - 1 / NETWORK_TIMES, 0, steps + 1)[:-1]
    every = _noise_to_signal(process, torch.arange(NETWORK_TIMES) / NETWORK_TIMES).log()
    wanted = torch.linspace(float(every[-1]), float(every[0]), steps).flip(0)
    order = torch.arange(steps)
    nearest = torch.searchsorted(every, wanted).clamp(max=NETWORK_TIMES - 1)
    # Take no step twice: move each one behind the step before, and none beyond the last.
    rising = (nearest - order).cummax(0).values + order
    return torch.minimum(rising, NETWORK_TIMES - steps + order).flip(0) / NETWORK_TIMES


def _noise_to_signal(process: Process, t: torch.Tensor) -> torch.Tensor:
    """sigma_t / alpha_t, float32 [T], of times float32 [T]."""
    alpha, sigma = process.scales(t)
    return sigma / alpha.clamp(min=2**-16)  # finite for pure noise, and still above every other


def _with_scheduler(
    scheduler_class: Any, process: Process, predict: Predict, x: torch.Tensor, steps: int
) -> torch.Tensor:
    """Run diffusers' solver at times and noise levels of our own: x float32 [B, C, h, w] -> the
    same shape.

    Its own times are rounded, come twice, or are one too many.
    """
    flow = isinstance(process, FlowMatching)
    if isinstance(process, FlowMatching):
        target = "flow_prediction"
    else:
        target = "v_prediction" if process.velocity else "epsilon"
    scheduler = scheduler_class(
        NETWORK_TIMES, solver_order=2, prediction_type=target, use_flow_sigmas=flow
    )
    times = _solver_times(process, steps)
    scheduler.set_timesteps(steps)
    scheduler.timesteps = times
    sigmas = times if flow else _noise_to_signal(process, times)
    scheduler.sigmas = torch.cat([sigmas, torch.zeros(1)])
    scheduler.set_begin_index(0)
    for t in times:
        x = scheduler.step(predict(x, t.item()), t, x).prev_sample
    return x
