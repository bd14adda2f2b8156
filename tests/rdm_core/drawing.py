"""What the tests of drawing share: contexts, and a few steps from them to images."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import rdm_core.families.diffusion.draw
from rdm_core.context import ABSENT, NEIGHBOR, Context
from rdm_core.families.diffusion.config import Draw
from rdm_core.families.diffusion.denoiser import Denoiser
from rdm_core.families.diffusion.draw import ALWAYS, Known
from rdm_core.families.diffusion.model import Diffusion
from rdm_core.families.diffusion.noise import FlowMatching, Process
from rdm_core.families.facts import Shape
from rdm_core.families.family import Beside
from rdm_core.latents import PIXELS, load_latent_space

SIDE, K, D = 8, 3, 8


class Undecoded:
    """A latent space that shows final latents as they are."""

    channels = 3

    def decode(self, final: torch.Tensor) -> np.ndarray:
        return final.numpy()


def contexts(count: int, seed: int = 0) -> Context:
    """Random contexts, the last slot of every second one empty."""
    generator = torch.Generator().manual_seed(seed)
    vectors = normalize(torch.randn(count, K, D, generator=generator), dim=-1)
    slots = torch.full((count, K), NEIGHBOR, dtype=torch.int8)
    slots[::2, -1] = ABSENT
    return Context(
        vectors, 8 + 4 * torch.rand(count, K, generator=generator), torch.ones(count, K), slots
    )


def model_of(denoiser: Denoiser, process: Process | None = None, space: Any = None) -> Diffusion:
    """The model of a denoiser; by default with flow matching in pixel space."""
    space = space or load_latent_space(PIXELS)
    return Diffusion(denoiser, process or FlowMatching(), Shape(3, SIDE, D), space)


def draw(
    denoiser: Denoiser,
    context: Context,
    seeds: Sequence[int],
    *,
    space: Any = None,
    process: Process | None = None,
    weaker: Denoiser | None = None,
    known: Known | None = None,
    batch: int = 64,
    progress: Callable[[int], None] = lambda done: None,
    beside: Beside = Beside(),  # noqa: B008 - frozen
    **how: Any,
) -> np.ndarray:
    """Three steps, guided at every time, `batch` images at a time; `known` may hold an image of
    each.
    """
    how = {"steps": 3, "guidance_interval": ALWAYS} | how
    model = model_of(denoiser, process, space)
    if weaker is not None:
        beside = replace(beside, weaker=model_of(weaker, process, space))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rdm_core.families.diffusion.draw, "BATCH", batch)
        if known is not None:
            patch.setattr(rdm_core.families.diffusion.draw, "known_of", lambda *asked: known)
            beside = replace(beside, image=np.zeros(0), mask=np.zeros(0))
        return model.draw(context, seeds, Draw(**how), beside, progress)


def difference(a: np.ndarray, b: np.ndarray) -> int:
    """Largest difference of two uint8 images."""
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def asked(denoiser: Denoiser, x: torch.Tensor, t: float, context: Context) -> torch.Tensor:
    """What the denoiser says at one time in 0..1."""
    return denoiser(x, torch.full((len(x),), 1000 * t), context)


def calls_of(denoiser: Denoiser) -> list[tuple[float, Context]]:
    """A list that every evaluation adds its time in 0..1 and its context to."""
    calls = []
    denoiser.register_forward_pre_hook(
        lambda module, args: calls.append((round(args[1][0].item() / 1000, 3), args[2]))
    )
    return calls
