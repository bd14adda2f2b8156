"""Generation: contexts -> images, with guidance, seeded per image so that a batch's make-up changes
nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from rdm_core.context import Context, nothing, zeros
from rdm_core.errors import RequestError
from rdm_core.families.diffusion.config import Draw
from rdm_core.families.diffusion.denoiser import Denoiser
from rdm_core.families.diffusion.noise import FlowMatching, Process
from rdm_core.families.diffusion.samplers import Predict, sampler_of
from rdm_core.families.family import Beside
from rdm_core.images import centre_crop, resize_shorter_side
from rdm_core.latents import LatentSpace

BATCH = 64
"""Images drawn together."""
ALWAYS = (0.0, 1.0)
"""The times of a whole drawing."""


@dataclass(frozen=True)
class Guidance:
    """How strongly, when and away from what a sample is drawn: reference + scale (context -
    reference).
    """

    scale: float = 2.0
    """1: no guidance, one evaluation a step; 0: the reference alone; above 1: stronger (arXiv
    2207.12598).
    """
    interval: tuple[float, float] = ALWAYS
    """Times at which it is applied, 1 = pure noise (arXiv 2404.07724); elsewhere the scale is 1."""
    away_from: Context | None = None
    """The reference's context, one or B sets: of a negative prompt, or the zero vector of 2022; the
    learned null without.
    """
    weaker: Denoiser | None = None
    """The reference is this network with the same context (autoguidance, arXiv 2406.02507)."""


@dataclass(frozen=True)
class Known:
    """Latents that are given in part, for inpainting."""

    final: torch.Tensor
    """Final latents [B or 1, C, h, w]."""
    mask: torch.Tensor
    """bool [1, 1, h, w], True where they are given and stay as they are."""

    def rows(self, part: slice, device: torch.device) -> "Known":
        """That of some samples, on a device."""
        return Known(
            (self.final if len(self.final) == 1 else self.final[part]).to(device),
            self.mask.to(device),
        )

    def over(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, C, h, w] with what is given in its place."""
        return torch.where(self.mask, self.final, x)


def known_of(space: LatentSpace, side: int, image: np.ndarray, mask: np.ndarray) -> Known:
    """The latents of an image uint8 [H, W, 3], kept but where the mask uint8 [H, W, 3] is white
    (above 127).

    Both are cut to the centred square. A latent is kept only when nothing that it stands for is to
    be painted over.
    """
    pixels = side * space.factor
    final = space.final(
        torch.from_numpy(space.encode([centre_crop(resize_shorter_side(image, pixels), pixels)]))
    )
    white = torch.from_numpy(
        centre_crop(resize_shorter_side(mask, pixels), pixels).max(axis=2) > 127
    )[None, None].float()
    return Known(final, functional.max_pool2d(white, space.factor) == 0)


@torch.no_grad()
def generate(
    denoiser: Denoiser,
    process: Process,
    space: LatentSpace,
    context: Context,
    seeds: Sequence[int],
    how: Draw,
    beside: Beside = Beside(),  # noqa: B008 - frozen
    weaker: Denoiser | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Draw one image a seed: uint8 [B, H, W, 3]. `context` holds B sets; `weaker` is the network of
    `beside.weaker`.

    Raises RequestError for a sampler, eta or number of steps that does not fit the process.
    """
    draw = sampler_of(process, how.sampler, how.steps, how.eta)
    guidance = guidance_of(denoiser, how, beside, weaker)
    if how.guidance_interval is None:
        interval = usual_interval(process, space, how.guidance_scale)
        guidance = replace(guidance, interval=interval)
    side = denoiser.network.config.sample_size
    known = None
    if beside.image is not None and beside.mask is not None:
        known = known_of(space, side, beside.image, beside.mask)
    device = denoiser.null.device
    shape = (space.channels, side, side)
    images = []
    for start in range(0, len(seeds), BATCH):
        part = slice(start, min(start + BATCH, len(seeds)))
        guided = _guidance_for(guidance, part, device)
        predict = _guided(denoiser, process, context.rows(part).to(device), guided)
        if beside.style is not None:
            late = _guided(denoiser, process, beside.style.rows(part).to(device), guided)
            predict = _switched(process, predict, late, how.style_from_snr)
        given = known.rows(part, device) if known is not None else None
        if given is not None:
            predict = _inpainted(process, predict, given)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[part]]

        def fresh(generators: list[torch.Generator] = generators) -> torch.Tensor:
            return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device)

        final = draw(process, predict, fresh(), how.steps, fresh, how.eta)
        if given is not None:  # DDIM ends at the least noisy time
            final = given.over(final)
        images.append(space.decode(final))
        progress(part.stop)
    return np.concatenate(images)


def guidance_of(denoiser: Denoiser, how: Draw, beside: Beside, weaker: Denoiser | None) -> Guidance:
    """What is guided away from: a negative prompt, the zero vector of 2022, a weaker network, or
    the learned null.

    Raises RequestError for more than one of them.
    """
    given = {
        "negative": beside.negative is not None,
        "null": how.null == "zero",
        "weaker_run": weaker is not None,
    }
    if sum(given.values()) > 1:
        what = " and ".join(name for name, on in given.items() if on)
        raise RequestError(what, "are two things to guide away from", "Keep one of them.")
    away_from = zeros(1, denoiser.dimension) if how.null == "zero" else beside.negative
    return Guidance(how.guidance_scale, how.guidance_interval or ALWAYS, away_from, weaker)


def usual_interval(process: Process, space: LatentSpace, scale: float) -> tuple[float, float]:
    """When guidance of that scale acts unless something else is asked for.

    In pixels the last steps draw single pixels, where guidance above 1 multiplies what the two
    predictions differ in by chance: grain. A decoder cannot draw grain; and 2022 guided always.
    """
    in_pixels = space.autoencoder is None
    grainy = in_pixels and isinstance(process, FlowMatching) and scale > 1
    return (0.3, 1.0) if grainy else ALWAYS


def _guided(denoiser: Denoiser, process: Process, context: Context, guidance: Guidance) -> Predict:
    count = len(context.vectors)
    reference = guidance.away_from or nothing(count, denoiser.dimension).to(context.device)
    low, high = guidance.interval

    def answer(x: torch.Tensor, time: torch.Tensor, scale: float) -> torch.Tensor:
        if scale == 1.0:
            return denoiser(x, time, context)
        if guidance.weaker:
            other = guidance.weaker(x, time, context)
        else:
            other = denoiser(x, time, reference)
        return other + scale * (denoiser(x, time, context) - other) if scale else other

    def predict(x: torch.Tensor, t: float) -> torch.Tensor:
        times = torch.full((count,), t, device=context.device)
        scale = guidance.scale if low <= t <= high else 1.0
        return process.prediction(answer(x, process.network_time(times), scale), x, times)

    return predict


def _switched(process: Process, early: Predict, late: Predict, from_snr: float) -> Predict:
    def predict(x: torch.Tensor, t: float) -> torch.Tensor:
        alpha, sigma = process.scales(torch.tensor([t]))
        return late(x, t) if alpha.item() ** 2 >= from_snr * sigma.item() ** 2 else early(x, t)

    return predict


def _inpainted(process: Process, predict: Predict, given: Known) -> Predict:
    """Where latents are given the answer is the one that leads to them, so that every sampler heads
    for them.
    """

    def wrapped(x: torch.Tensor, t: float) -> torch.Tensor:
        leading = process.prediction_of(x, given.final, torch.tensor([t], device=x.device))
        return torch.where(given.mask, leading, predict(x, t))

    return wrapped


def _guidance_for(guidance: Guidance, part: slice, device: torch.device) -> Guidance:
    reference = guidance.away_from
    if reference is None:
        return guidance
    chosen = (
        torch.zeros(part.stop - part.start, dtype=torch.long)
        if len(reference.vectors) == 1
        else part
    )
    return replace(guidance, away_from=reference.rows(chosen).to(device))
