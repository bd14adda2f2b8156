"""Samplers: from pure noise to final latents. Every sampler has the same signature.

`predict(x, t)` answers what the process trains for, for x [B, C, h, w] and one time t in 0..1; guidance is inside it.
`noise` supplies fresh N(0, I) like x, one call a step.
"""

from collections.abc import Callable

import torch

from rdm_core.errors import RequestError
from rdm_core.noise import NETWORK_TIMES, Epsilon, FlowMatching, Process

Predict = Callable[[torch.Tensor, float], torch.Tensor]
FreshNoise = Callable[[], torch.Tensor]


def sample_euler(process: FlowMatching, predict: Predict, x: torch.Tensor, steps: int, noise: FreshNoise) -> torch.Tensor:
    """Euler steps along the flow, times equally spaced from 1 to 0."""
    times = torch.linspace(1, 0, steps + 1).tolist()
    for t, s in zip(times, times[1:], strict=False):
        x = x + (s - t) * predict(x, t)
    return x


def sample_ddim(
    process: Epsilon, predict: Predict, x: torch.Tensor, steps: int, noise: FreshNoise, eta: float = 0.0
) -> torch.Tensor:
    """DDIM (arXiv 2010.02502, eq. 12), leading spacing with offset 1 as the 2022 release; eta 1 is its paper's setting.

    Raises RequestError for more steps than the process has.
    """
    if steps > NETWORK_TIMES:
        raise RequestError("steps", f"{steps} steps of a process that has {NETWORK_TIMES}", f"Use at most {NETWORK_TIMES}.")
    stride = NETWORK_TIMES // steps
    indices = [min(i * stride + 1, NETWORK_TIMES - 1) for i in reversed(range(steps))]
    for index, following in zip(indices, [*indices[1:], 0], strict=True):
        a, b = process.alphas[index], process.alphas[following]
        n = predict(x, index / NETWORK_TIMES)
        x0 = (x - (1 - a).sqrt() * n) / a.sqrt()
        sigma = eta * ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
        x = b.sqrt() * x0 + (1 - b - sigma**2).clamp(min=0).sqrt() * n
        x = x + sigma * noise() if eta > 0 else x
    return x


def sample(process: Process, predict: Predict, x: torch.Tensor, steps: int, noise: FreshNoise) -> torch.Tensor:
    """The process's plain sampler: Euler for the flow, DDIM with eta 0 for noise prediction."""
    if isinstance(process, FlowMatching):
        return sample_euler(process, predict, x, steps, noise)
    return sample_ddim(process, predict, x, steps, noise)
