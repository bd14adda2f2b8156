"""Drawing: contexts -> images, a code at a time, with guidance on the logits.

Each image has a seed of its own, so that it does not depend on what else is drawn. B images, T
positions, K slots, D dimensions, V codes.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from rdm_core.context import Context, nothing, zeros
from rdm_core.errors import RequestError
from rdm_core.families.autoregressive.config import Draw, OneByOne
from rdm_core.families.autoregressive.decoder import Cache, CausalTransformer
from rdm_core.families.family import Beside
from rdm_core.families.tokens import side_by_side

BATCH = 64
"""Images drawn together."""


@torch.no_grad()
def generate(
    network: CausalTransformer,
    context: Context,
    seeds: Sequence[int],
    how: Draw,
    beside: Beside = Beside(),  # noqa: B008 - frozen
    progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Draw a sequence of codes for each of B seeds: uint16 [B, T], in reading order.

    `context` holds B sets [B, K, D]. Raises RequestError for two things to guide away from, and for
    a top_k above the number of codes.
    """
    if how.top_k > network.codes:
        what = f"{how.top_k} of a codebook that has {network.codes:,} codes"
        raise RequestError("top_k", what, f"Use at most {network.codes}, or 0 for all.")
    if how.null == "zero" and beside.negative is not None:
        what = "are two things to guide away from"
        raise RequestError("negative and null", what, "Keep one of them.")
    device = network.null.device
    drawn = []
    for start in range(0, len(seeds), BATCH):
        part = slice(start, min(start + BATCH, len(seeds)))
        sets = context.rows(part).to(device)
        away_from = reference_of(network.dimension, how, beside, part).to(device)
        uniform = uniforms(seeds[part], network.positions.shape[1]).to(device)
        drawn.append(_sequences(network, sets, away_from, uniform, how).cpu())
        progress(part.stop)
    return torch.cat(drawn).numpy().astype(np.uint16)


def reference_of(dimension: int, how: Draw, beside: Beside, part: slice) -> Context:
    """What some of the B images are guided away from: a negative prompt, the zero vector of 2022,
    or nothing, for which the network has its learned null; sets [b, K, D].
    """
    count = part.stop - part.start
    if beside.negative is None:
        return zeros(count, dimension) if how.null == "zero" else nothing(count, dimension)
    if len(beside.negative.vectors) == 1:  # one for all
        return beside.negative.rows(torch.zeros(count, dtype=torch.long))
    return beside.negative.rows(part)


def uniforms(seeds: Sequence[int], positions: int) -> torch.Tensor:
    """One number in 0..1 for each code, float64 [B, T]: from a generator for each image, on the
    CPU, so that they are the same on any device.
    """
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        rows.append(torch.rand(positions, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def _sequences(
    network: CausalTransformer,
    context: Context,
    away_from: Context,
    uniform: torch.Tensor,
    how: Draw,
) -> torch.Tensor:
    """Codes int64 [B, T] for some images, each from its numbers `uniform` float64 [B, T].

    Guided logits are l_null + s (l - l_null), as RARM's (arXiv 2204.11824, section 3.3).
    """
    count, positions = uniform.shape
    scale = how.guidance_scale
    sets = []
    if scale != 0:
        sets.append(context)
    if scale != 1:
        sets.append(away_from)
    tokens, mask = side_by_side([network.seen(each) for each in sets])
    cache = Cache(positions)
    codes = torch.empty(count, positions, dtype=torch.long, device=uniform.device)
    before = network.after_start(codes[:, :1])  # the start alone
    for position in range(positions):
        logits = network.logits(before.repeat(len(sets), 1), tokens, mask, position, cache)[:, 0]
        if len(sets) == 2:
            wanted, reference = logits.float().chunk(2)
            logits = reference + scale * (wanted - reference)
        codes[:, position] = chosen(logits, uniform[:, position], how)
        before = codes[:, position, None]
    return codes


def chosen(logits: torch.Tensor, uniform: torch.Tensor, how: OneByOne) -> torch.Tensor:
    """One code for each row of logits [B, V]: int64 [B], by a number float64 [B] in 0..1.

    Temperature first, then top-k, then top-p (nucleus sampling, arXiv 1904.09751, section 3.1).
    """
    logits = logits.double() / how.temperature
    if how.top_k:
        least = logits.topk(how.top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    shares = logits.softmax(dim=1)
    if how.top_p < 1:
        falling, order = shares.sort(dim=1, descending=True, stable=True)
        # The code that crosses the threshold is kept too: what is before it was not yet enough.
        enough = falling.cumsum(dim=1) - falling >= how.top_p
        shares = shares.masked_fill(torch.zeros_like(enough).scatter(1, order, enough), 0.0)
    # The inverse of the distribution function: the first code whose sum is above the number.
    sums = shares.cumsum(dim=1)
    sums = sums / sums[:, -1:]
    return torch.searchsorted(sums, uniform[:, None].contiguous(), right=True)[:, 0]
