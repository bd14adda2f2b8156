"""Drawing from a text and from references, each with its guidance.

With e(text, neighbors) for what the network predicts and 0 for what is left out, a step is guided
by the text, by the neighbors, or by both:

    e(0, n) + text (e(t, n) - e(0, n))                                         interleaved: by text
    e(t, 0) + neighbors (e(t, n) - e(t, 0))                               interleaved: by neighbors
    e(0, 0) + text (e(t, 0) - e(0, 0)) + neighbors (e(t, n) - e(t, 0))                         both

Interleaved guidance is Re-Imagen's (arXiv 2209.14491, section 3.3). References are encoded once a
drawing. B images, K slots, D dimensions; latents are float32 [B, C, h, w].
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import torch

from rdm_core.context import Context
from rdm_core.families.diffusion.draw import (
    ALWAYS,
    BATCH,
    Known,
    inpainted,
    known_of,
    noise_of,
    usual_interval,
)
from rdm_core.families.diffusion.noise import Process
from rdm_core.families.diffusion.samplers import Predict, sampler_of
from rdm_core.families.family import Beside
from rdm_core.families.references.attention import Features
from rdm_core.families.references.config import Draw
from rdm_core.families.references.denoiser import ReferenceDenoiser, without_text
from rdm_core.latents import LatentSpace

Shares = tuple[tuple[float, bool, bool], ...]
"""What a step's prediction is made of: (share, with text, with neighbors); the shares add up to
1.
"""


@torch.no_grad()
def generate(
    denoiser: ReferenceDenoiser,
    process: Process,
    space: LatentSpace,
    context: Context,
    seeds: Sequence[int],
    how: Draw,
    beside: Beside = Beside(),  # noqa: B008 - frozen
    progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Draw one image for each of B seeds: uint8 [B, H, W, 3].

    `context` holds B sets [B, K, D] with final latents as references. Raises RequestError for a
    sampler, eta or number of steps that does not fit the process.
    """
    draw = sampler_of(process, how.sampler, how.steps, how.eta)
    largest = max(how.guidance_scale, how.neighbor_scale or 0)
    interval = how.guidance_interval or usual_interval(process, space, largest)
    side = denoiser.network.config.sample_size
    known = None
    if beside.image is not None and beside.mask is not None:
        known = known_of(space, side, beside.image, beside.mask)
    device = denoiser.null.device
    images = []
    for start in range(0, len(seeds), BATCH):
        part = slice(start, min(start + BATCH, len(seeds)))
        given = context.rows(part).to(device)
        without = _away_from(given, beside, part)
        predict = _guided(denoiser, process, given, without, how, interval)
        known_part = None
        if known is not None:
            known_part = known.rows(part, device)
            predict = inpainted(process, predict, known_part)
        fresh = noise_of(seeds[part], (space.channels, side, side), device)
        final = draw(process, predict, fresh(), how.steps, fresh, how.eta)
        images.append(space.decode(_with_known(final, known_part)))
        progress(part.stop)
    return np.concatenate(images)


def _with_known(final: torch.Tensor, known: Known | None) -> torch.Tensor:
    """Latents [B, C, h, w] with the known ones in their places, if there are any."""
    return final if known is None else known.over(final)


def _away_from(context: Context, beside: Beside, part: slice) -> Context:
    """The same neighbors with the negative prompt's text, or with none: [b, K, D]."""
    nothing = without_text(context)
    if beside.negative is None or beside.negative.text is None:
        return nothing
    texts = beside.negative.text
    own = texts.expand(len(context.slots), -1) if len(texts) == 1 else texts[part]
    return replace(nothing, text=own.to(context.device))


def shares_of(how: Draw, by_text: bool) -> Shares:
    """What the prediction of a guided step is made of; `by_text` says whose turn it is where the
    two take turns.
    """
    text = how.guidance_scale
    neighbors = text if how.neighbor_scale is None else how.neighbor_scale
    if how.interleave is not None and by_text:
        return ((1 - text, False, True), (text, True, True))
    if how.interleave is not None:
        return ((1 - neighbors, True, False), (neighbors, True, True))
    return ((1 - text, False, False), (text - neighbors, True, False), (neighbors, True, True))


def is_texts_turn(step: int, share: float) -> bool:
    """Whether a step 0, 1, 2, ... is guided by the text, where that share of the steps is: as
    evenly as whole steps can be.
    """
    # The small number keeps a share such as 0.1 from losing its tenth step to rounding.
    return int((step + 1) * share + 1e-9) > int(step * share + 1e-9)


def _guided(
    denoiser: ReferenceDenoiser, process: Process, context: Context, without: Context, how: Draw,
    interval: tuple[float, float] = ALWAYS,
) -> Predict:  # fmt: skip
    """Predictions with guidance between some times: x float32 [B, C, h, w] and a time -> [B, C, h,
    w]. `without` is the context without the text.
    """
    count = len(context.slots)
    features: Features | None = denoiser.features_of(context) if denoiser.by_latents else None
    # What does not change from step to step is computed once: (text, neighbors) -> what is seen.
    given, seen = {}, {}
    for text, neighbors in product((True, False), repeat=2):
        chosen = context if text else without
        chosen = chosen if neighbors else chosen.without_neighbors()
        given[text, neighbors], seen[text, neighbors] = chosen, denoiser.seen(chosen)
    low, high = interval
    steps: list[float] = []  # times met so far; a sampler may ask twice at one time

    def answer(x: torch.Tensor, time: torch.Tensor, text: bool, neighbors: bool) -> torch.Tensor:
        shown = features if neighbors or features is None else features.without()
        which = text, neighbors
        return denoiser(x, time, given[which], features=shown, text=seen[which])

    def predict(x: torch.Tensor, t: float) -> torch.Tensor:
        if not steps or steps[-1] != t:
            steps.append(t)
        shares: Shares = ((1.0, True, True),)
        if low <= t <= high:
            turn = is_texts_turn(len(steps) - 1, how.interleave or 0.0)
            shares = shares_of(how, turn)
        times = torch.full((count,), t, device=context.device)
        time = process.network_time(times)
        total = torch.zeros_like(x)
        for share, text, neighbors in shares:
            if share:  # equal scales skip an evaluation
                total = total + share * answer(x, time, text, neighbors)
        return process.prediction(total, x, times)

    return predict
