"""Samplers: from pure noise to final latents. Every sampler has the same signature.

`predict(x, t)` answers what the process trains for, for x [B, C, h, w] and one time t in 0..1;
guidance is inside it. `noise` supplies fresh N(0, I) like x; only DDIM with eta above 0 asks for
it.
"""

from collections.abc import Callable, Sequence
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
    """DDIM (arXiv 2010.02502, eq. 12 and 16); on straight paths with eta 0 its step is Euler's.

    Exactly `steps` evaluations at equally spaced times, the first at full noise.
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
    """DDIM at the times of the 2022 release, whose paper used eta 1: `grid_of_2022`."""
    return _ddim(process, predict, x, _times_of(grid_of_2022(steps)), noise, eta)


def even_grid(steps: int) -> list[int]:
    """Falling steps of the diffusion [steps], from the noisiest on ('trailing', arXiv 2305.08891,
    sec. 3.3).
    """
    return [(2 * NETWORK_TIMES * left + steps) // (2 * steps) - 1 for left in range(steps, 0, -1)]


def grid_of_2022(steps: int) -> list[int]:
    """Falling steps as the release had them: every (1000 // steps)-th from 1 on.

    Where `steps` does not divide 1000 they are more than asked for (30: 31, from 991 down); above
    500 all 999 of them. Where the release would have left its 1000 steps, and so stopped with an
    error (at 36, for example), that one is left out.
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
    for t, s in zip(times, times[1:], strict=False):
        x0, n = process.clean(x, predict(x, t), torch.tensor([t]))
        (alpha, sigma), (alpha_next, sigma_next) = _scales(process, t), _scales(process, s)
        fresh = eta * sigma_next / sigma * (1 - (alpha / alpha_next) ** 2) ** 0.5 if eta else 0.0
        x = alpha_next * x0 + (sigma_next**2 - fresh**2) ** 0.5 * n
        x = x + fresh * noise() if fresh else x
    return x


def sample_heun(
    process: Process,
    predict: Predict,
    x: torch.Tensor,
    steps: int,
    noise: FreshNoise,
    eta: float = 0.0,
) -> torch.Tensor:
    """Heun's second-order steps along the flow (arXiv 2206.00364, alg. 1): two evaluations a step
    but for the last.
    """
    times = torch.linspace(1, 0, steps + 1).tolist()
    for t, s in zip(times, times[1:], strict=False):
        slope = predict(x, t)
        ahead = x + (s - t) * slope
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
    """DPM-Solver++ of second order, multistep (arXiv 2211.01095), diffusers' implementation."""
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
    """UniPC of second order (arXiv 2302.04867), diffusers' implementation."""
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
"""By name. 'euler' is what 'ddim' does on straight paths."""
NOISY = ("ddim", "ddim-2022")
"""Those that take an eta."""


def sampler_of(process: Process, name: str | None, steps: int, eta: float) -> Sampler:
    """The sampler of that name, or the process's plain one: Euler for the flow, DDIM for diffusion.

    Raises RequestError for a sampler that does not fit the process, an eta that it would not use,
    or too many steps.
    """
    flow = isinstance(process, FlowMatching)
    name = name or ("euler" if flow else "ddim")
    fits = {"euler": flow, "heun": flow, "ddim": not flow, "ddim-2022": not flow}
    if not fits.get(name, name in SAMPLERS):
        usable = ", ".join(other for other in SAMPLERS if fits.get(other, True))
        raise RequestError(
            "sampler",
            f"{name!r} does not fit a run trained with {_kind(process)}",
            f"Use one of: {usable}.",
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


def _kind(process: Process) -> str:
    return "flow matching" if isinstance(process, FlowMatching) else "a diffusion process"


def _times_of(grid: Sequence[int]) -> list[float]:
    """The times of steps of the diffusion, and the least noisy one, where the release ended too."""
    return [step / NETWORK_TIMES for step in (*grid, 0)]


def _scales(process: Process, t: float) -> tuple[float, float]:
    alpha, sigma = process.scales(torch.tensor([t], dtype=torch.float64))
    return alpha.item(), sigma.item()


def _solver_times(process: Process, steps: int) -> torch.Tensor:
    """Falling times [steps] of the multistep solvers: equally spaced along the flow, in log
    signal-to-noise ratio else.

    Equally spaced steps of a diffusion would leave most of the way, in that ratio, to the last one.
    """
    if isinstance(process, FlowMatching):
        # the solvers divide by alpha, which is 0 at 1
        return torch.linspace(1 - 1 / NETWORK_TIMES, 0, steps + 1)[:-1]
    every = _noise_to_signal(process, torch.arange(NETWORK_TIMES) / NETWORK_TIMES).log()
    wanted = torch.linspace(float(every[-1]), float(every[0]), steps).flip(0)
    order = torch.arange(steps)
    nearest = torch.searchsorted(every, wanted).clamp(max=NETWORK_TIMES - 1)
    # no step twice
    rising = (nearest - order).cummax(0).values + order
    return torch.minimum(rising, NETWORK_TIMES - steps + order).flip(0) / NETWORK_TIMES


def _noise_to_signal(process: Process, t: torch.Tensor) -> torch.Tensor:
    alpha, sigma = process.scales(t)
    return sigma / alpha.clamp(min=2**-16)  # finite for pure noise, and still above every other


def _with_scheduler(
    scheduler_class: Any, process: Process, predict: Predict, x: torch.Tensor, steps: int
) -> torch.Tensor:
    """diffusers' solver at times and noise levels of our own: its own are rounded, come twice, or
    are one too many.
    """
    flow = isinstance(process, FlowMatching)
    kind = (
        "flow_prediction"
        if isinstance(process, FlowMatching)
        else "v_prediction"
        if process.velocity
        else "epsilon"
    )
    scheduler = scheduler_class(
        NETWORK_TIMES, solver_order=2, prediction_type=kind, use_flow_sigmas=flow
    )
    times = _solver_times(process, steps)
    scheduler.set_timesteps(steps)
    scheduler.timesteps = times
    scheduler.sigmas = torch.cat(
        [times if flow else _noise_to_signal(process, times), torch.zeros(1)]
    )
    scheduler.set_begin_index(0)
    for t in times:
        x = scheduler.step(predict(x, t.item()), t, x).prev_sample
    return x
