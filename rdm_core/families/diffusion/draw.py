"""Drawing: contexts -> images, with guidance.

Each image has a seed of its own, so that it does not depend on what else is drawn. B images, K
slots, D dimensions; latents are float32 [B, C, h, w], times are in 0..1, 1 = pure noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from rdm_core.context import ABSENT, NEIGHBOR, QUERY, TEXT, Context, nothing, zeros
from rdm_core.errors import RequestError
from rdm_core.families.diffusion.config import TRAIN_CHANNELS, Draw
from rdm_core.families.diffusion.denoiser import Denoiser, channels_of
from rdm_core.families.diffusion.noise import FlowMatching, Process
from rdm_core.families.diffusion.samplers import Predict, sampler_of
from rdm_core.families.family import Beside
from rdm_core.images import centre_square
from rdm_core.latents import LatentSpace, places_kept

BATCH = 64
"""Images drawn together."""
ALWAYS = (0.0, 1.0)
"""The times of a whole drawing."""


@dataclass(frozen=True)
class Guidance:
    """How strongly, when and away from what images are drawn.

    The prediction is reference + scale (prediction - reference): classifier-free guidance (arXiv
    2207.12598, eq. 6, with scale = 1 + w).
    """

    scale: float = 2.0
    """1: no guidance, one evaluation a step; 0: the reference alone; above 1: guidance."""
    interval: tuple[float, float] = ALWAYS
    """Times between which it is applied (arXiv 2404.07724); elsewhere the scale is 1."""
    away_from: Context | None = None
    """The context of the reference, one or B sets: a negative prompt, or the zero vector of 2022.
    None: the learned null.
    """
    weaker: Denoiser | None = None
    """If set, the reference is this network with the same context (autoguidance, arXiv
    2406.02507).
    """
    neighbors: float | None = None
    """The scale of the neighbors where they have one of their own; `scale` is the query's then."""
    picture: float = 1.0
    """The scale of the picture that is given to be changed."""


@dataclass(frozen=True)
class Known:
    """Latents of which a part is known, for inpainting."""

    final: torch.Tensor
    """Final latents float32 [B or 1, C, h, w]."""
    mask: torch.Tensor
    """bool [1, 1, h, w], True where they are known and stay as they are."""

    def rows(self, part: slice, device: torch.device) -> "Known":
        """The known latents of some of the B images, on a device."""
        final = self.final if len(self.final) == 1 else self.final[part]
        return Known(final.to(device), self.mask.to(device))

    def over(self, x: torch.Tensor) -> torch.Tensor:
        """x float32 [B, C, h, w] with the known latents in their places."""
        return torch.where(self.mask, self.final, x)


def known_of(space: LatentSpace, side: int, image: np.ndarray, mask: np.ndarray) -> Known:
    """The latents of an image uint8 [H, W, 3] that stay, as a mask uint8 [H, W, 3] is not white
    there (above 127).

    Both are cut to their centred squares. A latent stays only if the mask is black at all of its
    pixels.
    """
    pixels = side * space.factor
    final = space.final(torch.from_numpy(space.encode([centre_square(image, pixels)])))
    return Known(final, places_kept(mask, side, space.factor)[None, None])


def picture_of(denoiser: Denoiser, space: LatentSpace, image: np.ndarray) -> torch.Tensor:
    """What a denoiser is given to change of an image uint8 [H, W, 3] or several [B, H, W, 3], cut
    to their centred squares: float32 [1 or B, C + 1, h, w].

    Raises RequestError for a network without input channels for a picture.
    """
    if not denoiser.picture_channels:
        what = "this network has no input channels for a picture"
        raise RequestError("edit", what, TRAIN_CHANNELS)
    side = denoiser.network.config.sample_size * space.factor
    squares = [centre_square(one, side) for one in image.reshape(-1, *image.shape[-3:])]
    final = []
    for square in squares:  # each alone, so that none depends on the others
        final.append(space.final(torch.from_numpy(space.encode([square]))))
    return channels_of(torch.cat(final), torch.ones(len(final)))


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
    """Draw one image for each of B seeds: uint8 [B, H, W, 3].

    `context` holds B sets [B, K, D]; `weaker` is the network of `beside.weaker`. Raises
    RequestError for a sampler, eta or number of steps that does not fit the process.
    """
    if how.neighbor_scale is not None and not bool(is_query(context).any()):
        what = f"is {how.neighbor_scale:g}, and there is no query beside the neighbors"
        raise RequestError("neighbor_scale", what, "Leave it out, and use guidance_scale.")
    draw = sampler_of(process, how.sampler, how.steps, how.eta)
    guidance = guidance_of(denoiser, how, beside, weaker)
    if how.guidance_interval is None:
        largest = max(how.guidance_scale, how.neighbor_scale or 0)
        interval = usual_interval(process, space, largest)
        guidance = replace(guidance, interval=interval)
    side = denoiser.network.config.sample_size
    known = None
    if beside.image is not None and beside.mask is not None:
        known = known_of(space, side, beside.image, beside.mask)
    picture = None
    if beside.picture is not None:
        picture = picture_of(denoiser, space, beside.picture)
    device = denoiser.null.device
    shape = (space.channels, side, side)
    images = []
    for start in range(0, len(seeds), BATCH):
        part = slice(start, min(start + BATCH, len(seeds)))
        guided = _guidance_for(guidance, part, device)
        given = None
        if picture is not None:
            own = picture if len(picture) == 1 else picture[part]
            given = own.to(device).expand(part.stop - part.start, -1, -1, -1)
        predict = _guided(denoiser, process, context.rows(part).to(device), guided, given)
        if beside.style is not None:
            late = _guided(denoiser, process, beside.style.rows(part).to(device), guided, given)
            predict = _switched(process, predict, late, how.style_from_snr)
        known_part = known.rows(part, device) if known is not None else None
        if known_part is not None:
            predict = inpainted(process, predict, known_part)
        fresh = noise_of(seeds[part], shape, device)
        final = draw(process, predict, fresh(), how.steps, fresh, how.eta)
        if known_part is not None:  # DDIM ends at the least noisy time, not without noise
            final = known_part.over(final)
        images.append(space.decode(final))
        progress(part.stop)
    return np.concatenate(images)


def noise_of(
    seeds: Sequence[int], shape: tuple[int, ...], device: torch.device
) -> Callable[[], torch.Tensor]:
    """A function that gives new noise ~ N(0, I), float32 [B, *shape], at each call.

    Each image has a generator of its own, on the CPU: the same noise on any device.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def fresh() -> torch.Tensor:
        noise = [torch.randn(shape, generator=generator) for generator in generators]
        return torch.stack(noise).to(device)

    return fresh


def guidance_of(denoiser: Denoiser, how: Draw, beside: Beside, weaker: Denoiser | None) -> Guidance:
    """The guidance that is asked for: away from a negative prompt, the zero vector [1, 1, D] of
    2022, a weaker network, or the learned null.

    Raises RequestError for more than one of them, and for scales of what is not given.
    """
    if how.picture_scale != 1 and beside.picture is None:
        what = f"is {how.picture_scale:g}, and no picture is given to be changed"
        raise RequestError("picture_scale", what, "Give one with edit, or leave it out.")
    if weaker is not None and (how.neighbor_scale is not None or beside.picture is not None):
        other = "neighbor_scale" if how.neighbor_scale is not None else "edit"
        what = "guides by one other network, which knows no steps between"
        raise RequestError(f"weaker_run and {other}", what, "Leave one of them out.")
    references = []
    if beside.negative is not None:
        references.append("negative")
    if how.null == "zero":
        references.append("null")
    if weaker is not None:
        references.append("weaker_run")
    if len(references) > 1:
        where = " and ".join(references)
        raise RequestError(where, "are two things to guide away from", "Keep one of them.")
    away_from = zeros(1, denoiser.dimension) if how.null == "zero" else beside.negative
    interval = how.guidance_interval or ALWAYS
    scales = (how.neighbor_scale, how.picture_scale)
    return Guidance(how.guidance_scale, interval, away_from, weaker, *scales)


def usual_interval(process: Process, space: LatentSpace, scale: float) -> tuple[float, float]:
    """When guidance of that scale acts unless something else is asked for.

    In pixels the last steps draw single pixels, where guidance above 1 multiplies what the two
    predictions differ in by chance: grain. A decoder cannot draw grain; and 2022 guided always.
    """
    in_pixels = space.autoencoder is None
    grainy = in_pixels and isinstance(process, FlowMatching) and scale > 1
    return (0.3, 1.0) if grainy else ALWAYS


def _guided(
    denoiser: Denoiser, process: Process, context: Context, guidance: Guidance,
    picture: torch.Tensor | None = None,
) -> Predict:  # fmt: skip
    """Predictions with guidance (arXiv 2207.12598, eq. 6): x float32 [B, C, h, w] and a time -> [B,
    C, h, w]. A picture to be changed is [B, C + 1, h, w].
    """
    count = len(context.vectors)
    if picture is not None or guidance.neighbors is not None:
        return _guided_in_steps(denoiser, process, context, guidance, picture)
    reference = guidance.away_from or nothing(count, denoiser.dimension).to(context.device)
    low, high = guidance.interval

    def answer(x: torch.Tensor, time: torch.Tensor, scale: float) -> torch.Tensor:
        if scale == 1.0:
            return denoiser(x, time, context)
        if guidance.weaker:
            away_from = guidance.weaker(x, time, context)
        else:
            away_from = denoiser(x, time, reference)
        if not scale:
            return away_from
        return away_from + scale * (denoiser(x, time, context) - away_from)

    def predict(x: torch.Tensor, t: float) -> torch.Tensor:
        times = torch.full((count,), t, device=context.device)
        scale = guidance.scale if low <= t <= high else 1.0
        return process.prediction(answer(x, process.network_time(times), scale), x, times)

    return predict


def _guided_in_steps(
    denoiser: Denoiser, process: Process, context: Context, guidance: Guidance,
    picture: torch.Tensor | None,
) -> Predict:  # fmt: skip
    """Predictions as in `_guided`, with a scale for each thing that is given: with e0 for nothing,
    e1 for the picture, e2 for the query too and e3 for the neighbors too,

        e0 + picture (e1 - e0) + query (e2 - e1) + neighbors (e3 - e2).
    """
    count = len(context.vectors)
    nothing_else = guidance.away_from or nothing(count, denoiser.dimension).to(context.device)
    steps = (
        (nothing_else, None),
        (nothing_else, picture),
        (queries_of(context), picture),
        (context, picture),
    )
    scale = guidance.scale
    neighbors = scale if guidance.neighbors is None else guidance.neighbors
    low, high = guidance.interval

    def predict(x: torch.Tensor, t: float) -> torch.Tensor:
        guides = low <= t <= high
        # Without a picture e0 and e1 are one.
        of_picture = guidance.picture if guides and picture is not None else 1.0
        of_query, of_neighbors = (scale, neighbors) if guides else (1.0, 1.0)
        shares = (
            1 - of_picture, of_picture - of_query, of_query - of_neighbors, of_neighbors,
        )  # fmt: skip
        times = torch.full((count,), t, device=context.device)
        time = process.network_time(times)
        answer = torch.zeros_like(x)
        for share, (known, shown) in zip(shares, steps, strict=True):
            if share:  # equal scales skip an evaluation
                answer = answer + share * denoiser(x, time, known, shown)
        return process.prediction(answer, x, times)

    return predict


def is_query(context: Context) -> torch.Tensor:
    """Which slots hold what was asked with, not what was found: bool [B, K]."""
    return (context.slots == QUERY) | (context.slots == TEXT)


def queries_of(context: Context) -> Context:
    """Contexts [B, K, D] with the queries alone: neighbors are absent."""
    is_neighbor = context.slots == NEIGHBOR
    return replace(context, slots=torch.where(is_neighbor, ABSENT, context.slots))


def _switched(process: Process, early: Predict, late: Predict, from_snr: float) -> Predict:
    """Predictions [B, C, h, w] that are `early` up to a signal-to-noise ratio, and `late` from
    there on.
    """

    def predict(x: torch.Tensor, t: float) -> torch.Tensor:
        alpha, sigma = process.scales(torch.tensor([t]))
        is_late = alpha.item() ** 2 >= from_snr * sigma.item() ** 2
        return late(x, t) if is_late else early(x, t)

    return predict


def inpainted(process: Process, predict: Predict, known: Known) -> Predict:
    """Predictions [B, C, h, w] that lead every sampler to the known latents."""

    def wrapped(x: torch.Tensor, t: float) -> torch.Tensor:
        leading = process.prediction_of(x, known.final, torch.tensor([t], device=x.device))
        return torch.where(known.mask, leading, predict(x, t))

    return wrapped


def _guidance_for(guidance: Guidance, part: slice, device: torch.device) -> Guidance:
    """The guidance of some of the B images, on a device; one set [1, K, D] is repeated for each."""
    reference = guidance.away_from
    if reference is None:
        return guidance
    rows: slice | torch.Tensor = part
    if len(reference.vectors) == 1:
        rows = torch.zeros(part.stop - part.start, dtype=torch.long)
    return replace(guidance, away_from=reference.rows(rows).to(device))
