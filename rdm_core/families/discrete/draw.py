"""Drawing: contexts -> images, all codes at once and step by step, with guidance on what the image
is guessed to be.

Each image has a seed of its own, so that it does not depend on what else is drawn. B images, N
positions, D dimensions, K codes; the mask is K.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from rdm_core.context import Context, nothing
from rdm_core.errors import RequestError
from rdm_core.families.discrete.config import Draw
from rdm_core.families.discrete.network import CodesTransformer
from rdm_core.families.discrete.transitions import Transitions
from rdm_core.families.family import Beside
from rdm_core.families.tokens import side_by_side

USUAL_STEPS = 50
"""Evaluations of the network, where nothing else is asked for and there are as many times."""
BATCH = 64
"""Images drawn together, at most."""
PROBABILITIES_AT_ONCE = 2**25
"""Probabilities [B, N, K] of the images that are drawn together, at most: 128 MiB."""


@torch.no_grad()
def generate(
    network: CodesTransformer,
    transitions: Transitions,
    likelihood: bool,
    context: Context,
    seeds: Sequence[int],
    how: Draw,
    beside: Beside = Beside(),  # noqa: B008 - frozen
    progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Draw the codes of an image for each of B seeds: uint16 [B, N].

    `likelihood` is the configuration's; `context` holds B sets [B, K, D].
    Raises RequestError for more steps than there are times.
    """
    steps = how.steps or min(USUAL_STEPS, transitions.times)
    if steps > transitions.times:
        what = f"are {steps}, and the run was trained with {transitions.times} times"
        raise RequestError("draw.steps", what, f"Use at most {transitions.times}.")
    device, positions = network.null.device, network.positions
    batch = min(BATCH, max(1, PROBABILITIES_AT_ONCE // (positions * transitions.codes)))
    drawn = []
    for start in range(0, len(seeds), batch):
        part = slice(start, min(start + batch, len(seeds)))
        sets = context.rows(part).to(device)
        away_from = reference_of(network.dimension, beside.negative, part).to(device)
        uniform = uniforms(seeds[part], steps + 1, positions)
        both = (sets, away_from)
        drawn.append(_codes(network, transitions, likelihood, both, uniform, how).cpu())
        progress(part.stop)
    return torch.cat(drawn).numpy().astype(np.uint16)


def reference_of(dimension: int, negative: Context | None, part: slice) -> Context:
    """What some of the B images are guided away from: a negative prompt, one or B sets, or nothing,
    for which the network has its learned null; sets [b, K, D].
    """
    count = part.stop - part.start
    if negative is None:
        return nothing(count, dimension)
    if len(negative.vectors) == 1:  # one for all
        return negative.rows(torch.zeros(count, dtype=torch.long))
    return negative.rows(part)


def uniforms(seeds: Sequence[int], draws: int, positions: int) -> torch.Tensor:
    """One number in 0..1 for each draw of each code, float64 [B, S, N]: from a generator for each
    image, on the CPU, so that they are the same on any device.
    """
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        rows.append(torch.rand(draws, positions, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def times_of(steps: int, times: int) -> list[int]:
    """The times that a drawing in so many steps passes, from `times` to 0: [S + 1]."""
    return [round(times * left / steps) for left in range(steps, -1, -1)]


def _codes(
    network: CodesTransformer,
    transitions: Transitions,
    likelihood: bool,
    both: tuple[Context, Context],
    uniform: torch.Tensor,
    how: Draw,
) -> torch.Tensor:
    """Codes int64 [B, N] for some images, each from its numbers `uniform` float64 [B, S + 1, N], in
    `both` the sets that it is drawn from and those that it is guided away from.
    """
    device = network.null.device
    scale = how.guidance_scale
    sets = []
    if scale != 0:
        sets.append(both[0])
    if scale != 1:
        sets.append(both[1])
    tokens, mask = side_by_side([network.seen(each) for each in sets])
    x = _start(transitions, uniform[:, 0].to(device))
    passed = times_of(uniform.shape[1] - 1, transitions.times)
    for step, (later, earlier) in enumerate(zip(passed, passed[1:], strict=False), start=1):
        t, s = (torch.full((len(x),), time, device=device) for time in (later, earlier))
        seen, times = x.repeat(len(sets), 1), t.repeat(len(sets))
        logits = network(seen, times, tokens, mask).float()
        if likelihood:
            logits = transitions.with_likelihood(logits, seen, times)
        log_image = guessed(logits, how, guided=len(sets) == 2)
        log_shares = transitions.log_posterior(log_image, x, s, t)
        x = chosen(log_shares, uniform[:, step].to(device))
    return x


def _start(transitions: Transitions, uniform: torch.Tensor) -> torch.Tensor:
    """x_T int64 [B, N], by numbers float64 [B, N] in 0..1: masks but for the few codes that the
    process leaves.
    """
    masked = transitions.masked[-1]
    places = (uniform - masked) / (1 - masked) * transitions.codes
    codes = places.long().clamp(0, transitions.codes - 1)
    return codes.masked_fill(uniform < masked, transitions.codes)


def guessed(logits: torch.Tensor, how: Draw, guided: bool) -> torch.Tensor:
    """log p(x_0 | x_t) float32 [B, N, K] from logits [B, N, K], or where it is guided [2B, N, K],
    those of the context first.

    Guided: log p_null + s (log p - log p_null), as the other families (VQ-Diffusion's own guidance
    is the same, arXiv 2205.16007, eq. 8). Then the temperature, then top-p, the likeliest codes
    that together have this probability.
    """
    log_image = logits.log_softmax(dim=2)
    if guided:
        wanted, reference = log_image.chunk(2)
        log_image = reference + how.guidance_scale * (wanted - reference)
    log_image = (log_image / how.temperature).log_softmax(dim=2)
    if how.top_p < 1:
        falling, order = log_image.sort(dim=2, descending=True, stable=True)
        # The code that crosses the threshold is kept too: what is before it was not yet enough.
        shares = falling.exp()
        enough = shares.cumsum(dim=2) - shares >= how.top_p
        enough[..., 0] = False
        left_out = torch.zeros_like(enough).scatter(2, order, enough)
        log_image = log_image.masked_fill(left_out, -torch.inf).log_softmax(dim=2)
    return log_image


def chosen(log_shares: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """One of the V classes for each of log-probabilities [B, N, V]: int64 [B, N], by a number
    float64 [B, N] in 0..1.
    """
    # The inverse of the distribution function: the first class whose sum is above the number.
    sums = log_shares.double().exp().cumsum(dim=2)
    sums = sums / sums[..., -1:]
    return torch.searchsorted(sums, uniform[..., None].contiguous(), right=True)[..., 0]
