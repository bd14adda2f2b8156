"""Drawing: documents of which some places are known -> the others, one after the other, in the
order of the training. Images, captions, and parts of either are one function.

Each sample has a seed of its own, so that it does not depend on what else is drawn. B samples, K
documents, N places of a document, L of them its caption's, T codes of an image, S places that are
drawn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from rdm_core.context import Context
from rdm_core.errors import RequestError
from rdm_core.families.autoregressive.config import OneByOne
from rdm_core.families.autoregressive.decoder import Cache
from rdm_core.families.autoregressive.draw import chosen, uniforms
from rdm_core.families.family import Beside
from rdm_core.families.multimodal.layout import GAPS, MAIN, stays
from rdm_core.families.multimodal.layout import Sequence as Tokens
from rdm_core.families.multimodal.network import DocumentTransformer
from rdm_core.images import centre_square
from rdm_core.latents import CODES, LatentSpace, places_kept

if TYPE_CHECKING:
    from rdm_core.families.multimodal.model import Multimodal

BATCH = 64
"""Samples drawn together."""


@dataclass(frozen=True)
class Known:
    """B samples of which some is known."""

    main: torch.Tensor
    """Main documents, int64 [B, N]; anything where it is not known."""
    unknown: torch.Tensor
    """The places that are drawn, bool [B, N]: all of them words, or all of them codes."""
    retrieved: torch.Tensor
    """Retrieved documents, those that are there first, int64 [B, K, N]."""
    there: torch.Tensor
    """How many of them are there, int64 [B]."""

    def rows(self, part: torch.Tensor) -> "Known":
        """Some samples, int64 [M], with no more documents than the first of them has."""
        there = self.there[part]
        retrieved = self.retrieved[part, : int(there[0])]
        return Known(self.main[part], self.unknown[part], retrieved, there)

    def to(self, device: torch.device) -> "Known":
        """The same samples [B, ...] on a device."""
        on = [tensor.to(device) for tensor in vars(self).values()]
        return Known(*on)


def images(
    model: "Multimodal",
    context: Context,
    seeds: Sequence[int],
    how: OneByOne,
    beside: Beside,
    progress: Callable[[int], None],
) -> np.ndarray:
    """Images uint8 [B, H, W, 3] of B contexts, as `Model.draw`."""
    side = model.layout.side
    codes = torch.zeros(len(seeds), side, side, dtype=torch.long)
    known = torch.zeros(len(seeds), side, side, dtype=torch.bool)
    if beside.image is not None and beside.mask is not None:
        given, stay = known_of(model.works_in, side, beside.image, beside.mask)
        codes, known = codes + given, known | stay
    drawn = infilled(model, context, codes, known, seeds, how, progress)
    return model.decoded(drawn.numpy().astype(np.uint16))


def known_of(
    space: LatentSpace, side: int, image: np.ndarray, mask: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """The codes int64 [h, w] of an image uint8 [H, W, 3], and which of them stay, bool [h, w],
    where a mask uint8 [H, W, 3] is not white (above 127).

    Both are cut to their centred squares. A code stays only if the mask is black at all of its
    pixels.
    """
    return codes_of(space, side, image[None])[0], places_kept(mask, side, space.factor)


def codes_of(space: LatentSpace, side: int, images: np.ndarray) -> torch.Tensor:
    """Codes int64 [B, side, side] of images uint8 [B, H, W, 3], cut to their centred squares."""
    pixels = side * space.factor
    codes = []
    for image in images:  # each alone, so that none depends on the others
        square = centre_square(image, pixels)
        codes.append(torch.from_numpy(space.encode([square], CODES).astype(np.int64)))
    return torch.cat(codes)


def infilled(
    model: "Multimodal",
    context: Context,
    codes: torch.Tensor,
    known: torch.Tensor,
    seeds: Sequence[int],
    how: OneByOne,
    progress: Callable[[int], None] = lambda done: None,
) -> torch.Tensor:
    """Codes int64 [B, h, w] of images of which some are known, bool [B, h, w], and stay; the others
    are drawn from the texts and documents of contexts, and from those that are known.
    """
    main = model.documents(context, codes)
    unknown = torch.zeros_like(main, dtype=torch.bool)
    unknown[:, model.layout.length :] = ~known.flatten(1)
    return _drawn(model, context, main, unknown, seeds, how, progress)[
        :, model.layout.length :
    ].view(codes.shape)


def captions(
    model: "Multimodal",
    context: Context,
    codes: torch.Tensor,
    seeds: Sequence[int],
    how: OneByOne,
    known: torch.Tensor | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> torch.Tensor:
    """A text int64 [B, L], as the encoder's tokenizer gives it, for each of the images' codes int64
    [B, h, w], from the documents of contexts. Words of the contexts' texts that are `known`, bool
    [B, L], stay; none of them unless it is given.
    """
    layout = model.layout
    if known is None:
        main = model.documents(replace(context, text=None), codes)
        known = torch.zeros(len(codes), layout.length, dtype=torch.bool)
    else:
        main = model.documents(context, codes)
    unknown = functional.pad(~known, (0, layout.positions))
    drawn = _drawn(model, context, main, unknown, seeds, how, progress)
    return layout.texts(drawn[:, : layout.length])


@torch.no_grad()
def _drawn(
    model: "Multimodal",
    context: Context,
    main: torch.Tensor,
    unknown: torch.Tensor,
    seeds: Sequence[int],
    how: OneByOne,
    progress: Callable[[int], None],
) -> torch.Tensor:
    """Main documents int64 [B, N], whose places `unknown` bool [B, N] are drawn.

    Raises RequestError for a top_k above the number of codes, or of words.
    """
    layout, network = model.layout, model.transformer
    of_codes = bool(unknown[:, layout.length :].any())
    most = layout.codes if of_codes else layout.words + 1
    if how.top_k > most:
        what = f"{how.top_k} of {most:,} that there are"
        raise RequestError("top_k", what, f"Use at most {most}, or 0 for all.")
    retrieved, there = model.retrieved(context)
    given, drawn, done = Known(main, unknown, retrieved, there), main.clone(), 0
    for rows in _alike(given):
        if unknown[rows[0]].any():
            numbers = uniforms([seeds[row] for row in rows.tolist()], layout.document)
            drawn[rows] = _completed(
                network, given.rows(rows).to(model.device), numbers.to(model.device), how
            ).cpu()
        done += len(rows)
        progress(done)
    return drawn


def _alike(given: Known) -> list[torch.Tensor]:
    """The samples int64 [M], M at most BATCH, that can be drawn together: with equally many
    documents, and equally many places that are moved to the end, or that are the end.
    """
    kinds = torch.stack([given.there, given.unknown.sum(dim=1), stays(given.unknown).long()], dim=1)
    groups = []
    for kind in kinds.unique(dim=0):
        rows = (kinds == kind).all(dim=1).nonzero()[:, 0]
        groups += list(rows.split(BATCH))
    return groups


def _completed(
    network: DocumentTransformer, given: Known, uniform: torch.Tensor, how: OneByOne
) -> torch.Tensor:
    """Main documents int64 [B, N] of samples that are alike, drawn by one number float64 [B, N] for
    each place.

    Guided logits are l_null + s (l - l_null), as RARM's (arXiv 2204.11824, section 3.3). The null
    has no documents, and no caption unless words are drawn.
    """
    layout, scale = network.layout, how.guidance_scale
    branches = []
    if scale != 0:
        branches.append(Branch(network, given))
    if scale != 1:
        branches.append(Branch(network, _null_of(network, given)))
    places = branches[0].places
    main, of_words = given.main.clone(), bool((places[0, 0] <= layout.length).item())
    ended = torch.zeros(len(main), dtype=torch.bool, device=main.device)
    before = None
    for step in range(places.shape[1]):
        all_logits = []
        for branch in branches:
            hidden = branch.following(step, before)
            logits_of = network.word_logits if of_words else network.code_logits
            all_logits.append(logits_of(hidden))
        logits = all_logits[-1]
        if len(branches) == 2:
            logits = logits + scale * (all_logits[0] - logits)
        at = places[:, step, None] - 1
        tokens = chosen(logits, uniform.gather(1, at)[:, 0], how)
        if of_words:
            tokens = torch.where(ended, layout.pad, tokens + layout.codes)
            ended = ended | (tokens == layout.pad)
        main.scatter_(1, at, tokens[:, None])
        before = tokens
    return main


def _null_of(network: DocumentTransformer, given: Known) -> Known:
    """What samples are guided away from."""
    length, main = network.layout.length, given.main
    if not given.unknown[:, :length].any():
        absent = network.layout.without_caption(len(main)).to(main.device)
        main = torch.cat([absent, main[:, length:]], dim=1)
    return Known(main, given.unknown, given.retrieved[:, :0], torch.zeros_like(given.there))


class Branch:
    """Samples that are alike while they are drawn: what is known of them is computed once, and
    kept.
    """

    def __init__(self, network: DocumentTransformer, given: Known) -> None:
        sequence = network.layout.sequence(given.retrieved, given.main, given.unknown)
        gaps = 0 if bool(stays(given.unknown[:1])) else GAPS
        drawn = int(given.unknown[0].sum())
        end = sequence.tokens.shape[1] - (GAPS - gaps)  # behind it are two <pad>, if no gaps are
        self.network = network
        self.known = sequence[: end - drawn]
        self.places = sequence.places[:, end - drawn : end]
        """Places that are drawn, in this order, int64 [B, S]."""
        self.cache = Cache(end)

    def start(self) -> torch.Tensor:
        """What is known of the first place, [B, width]."""
        following = torch.cat([self.known.places[:, 1:], self.places[:, :1]], dim=1)
        return self.network.hidden(self.known, following, self.cache)[:, -1]

    def following(self, step: int, before: torch.Tensor | None) -> torch.Tensor:
        """What is known of the place of a step, [B, width], once `before` int64 [B] was drawn at
        the place before it; None at the first.
        """
        if before is None:
            return self.start()
        own = self.places[:, step - 1 : step]
        new = Tokens(before[:, None], own, torch.full_like(own, MAIN), own > 0)
        return self.network.hidden(new, self.places[:, step : step + 1], self.cache)[:, 0]
