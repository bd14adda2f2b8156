"""What the tests of samplers share: processes, a network that costs nothing, and its samples."""

import torch
from tiny import PROCESSES

from rdm_core.families.diffusion.noise import Process
from rdm_core.families.diffusion.samplers import Predict, sampler_of

SHAPE = (2, 3, 4, 4)
MULTISTEP = ["dpm++", "unipc"]
FITTING = []
for _process in PROCESSES:
    _own = ["euler", "heun"] if _process == "flow" else ["ddim", "ddim-2022"]
    FITTING += [(_process, sampler) for sampler in _own + MULTISTEP]
"""Every process with every sampler that fits it."""


def start() -> torch.Tensor:
    """Pure noise [2, 3, 4, 4]."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def fake_network(x: torch.Tensor, t: float) -> torch.Tensor:
    """Something smooth that depends on both arguments and mixes the entries."""
    return torch.tanh(x.flip(-1) + 3 * t) + 0.2 * x


def no_noise() -> torch.Tensor:
    """For samplers that must not ask."""
    raise AssertionError("a deterministic sampler asked for noise")


def drawn(
    process: Process, name: str | None, predict: Predict, x: torch.Tensor, steps: int
) -> torch.Tensor:
    """What the sampler of that name makes of x, without fresh noise."""
    return sampler_of(process, name, steps, 0.0)(process, predict, x, steps, no_noise, 0.0)
