"""Documents as sequences. A document is a caption of L words and then an image of T codes:

    places    0        1 .. L         L + 1 .. L + T     L + T + 1
              start    words, <pad>   codes              <gap>

A sequence is K retrieved documents, each behind a <retrieved>, and then the main one, behind a
<main>. Of the main document some places may be moved to its end: a <gap> stands where the first of
them was, and another before them (CM3, arXiv 2201.07520, section 2). What ends the document anyway
stays where it is, without gaps. B samples, N = L + T places of a document, n tokens of a sequence.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from rdm_core.context import NEIGHBOR, NO_TOKEN, Context
from rdm_core.data import Texts
from rdm_core.errors import RequestError

SPECIAL = 5
"""Tokens beyond codes and words."""
GAPS = 2
"""Gaps of a main document of which something is moved."""
RETRIEVED, MAIN = 0, 1
"""Marks of a token: which kind of document it is in."""


@dataclass(frozen=True)
class Sequence:
    """B sequences of n tokens, on one device."""

    tokens: torch.Tensor
    """int64 [B, n]."""
    places: torch.Tensor
    """The place of each in its document, int64 [B, n]."""
    marks: torch.Tensor
    """RETRIEVED or MAIN, int64 [B, n]."""
    counted: torch.Tensor
    """bool [B, n]: what is to be predicted. The rest is known: starts, gaps, and <pad> behind the
    first, which ends a caption.
    """

    def __getitem__(self, part: slice) -> "Sequence":
        """A part of the tokens: [B, m]."""
        return Sequence(
            self.tokens[:, part], self.places[:, part], self.marks[:, part], self.counted[:, part]
        )


@dataclass(frozen=True)
class Layout:
    """The sizes of documents, and the numbers of their tokens: codes, then words, then these."""

    codes: int
    """Entries of the codebook, V."""
    words: int
    """Words of the tokenizer."""
    filler: int
    """The word behind the end of a caption."""
    length: int
    """Places of a caption, L."""
    side: int
    """Codes of an image along a side; T is its square."""

    @property
    def positions(self) -> int:
        """Codes of an image, T."""
        return self.side**2

    @property
    def document(self) -> int:
        """Places of a document beside its start, N."""
        return self.length + self.positions

    @property
    def pad(self) -> int:
        """What fills a caption up. It follows the words: it can be predicted as they can."""
        return self.codes + self.words

    @property
    def no_caption(self) -> int:
        """What stands in place of a caption that is not there."""
        return self.pad + 1

    @property
    def gap(self) -> int:
        """What stands for places that are moved."""
        return self.pad + 2

    def start(self, mark: int) -> int:
        """What a document of a kind begins with."""
        return self.pad + 3 + mark

    @property
    def all_tokens(self) -> int:
        """How many tokens there are."""
        return self.pad + SPECIAL

    @property
    def all_places(self) -> int:
        """How many places there are, those of starts and gaps too."""
        return self.document + 2

    def captions(self, text: torch.Tensor) -> torch.Tensor:
        """Texts int64 [..., M] as a tokenizer gives them, NO_TOKEN where there is none -> captions
        int64 [..., L].

        Raises RequestError for a text of more than L words.
        """
        fills = (text == self.filler).long().flip(-1).cumprod(-1).flip(-1).bool()
        absent = text[..., :1] == NO_TOKEN
        tokens = torch.where(fills | absent, self.pad, text + self.codes)
        if (tokens[..., self.length :] != self.pad).any():
            self._refuse(int((tokens != self.pad).sum(dim=-1).max()))
        missing = max(0, self.length - text.shape[-1])
        tokens = functional.pad(tokens[..., : self.length], (0, missing), value=self.pad)
        first = torch.where(absent, self.no_caption, tokens[..., :1])
        return torch.cat([first, tokens[..., 1:]], dim=-1)

    def refuse_longer(self, *texts: Texts | None) -> None:
        """Raise RequestError where there are texts of more than L words."""
        for each in texts:
            if each is not None and (each.tokens[:, self.length :] != self.filler).any():
                words = (each.tokens != self.filler) * np.arange(1, each.tokens.shape[1] + 1)
                self._refuse(int(words.max()))

    def _refuse(self, longest: int) -> None:
        what = f"is {self.length}, and a caption has {longest} words"
        cure = "Train with a larger model.caption_tokens, or give shorter captions."
        raise RequestError("model.caption_tokens", what, cure)

    def texts(self, captions: torch.Tensor) -> torch.Tensor:
        """Captions int64 [..., L] -> texts as a tokenizer gives them, int64 [..., L]: what was left
        open inside of a caption is closed up.
        """
        is_open = captions >= self.pad
        order = is_open.long().argsort(dim=-1, stable=True)
        texts = torch.where(is_open, self.filler, captions - self.codes)
        return texts.gather(-1, order)

    def without_caption(self, count: int) -> torch.Tensor:
        """Captions int64 [count, L] that are not there."""
        return self.captions(torch.full((count, self.length), NO_TOKEN))

    def retrieved(self, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
        """The documents of contexts [B, K, ...] -> int64 [B, K, N], those that are there first, in
        the order of their slots, and how many are there, int64 [B].

        Raises RequestError for contexts with neighbors and without their latents or captions.
        """
        present = context.slots == NEIGHBOR
        count = present.sum(dim=1)
        if not present.any():
            return count.new_zeros(len(count), 0, self.document), count
        if context.references is None or context.neighbor_texts is None:
            what = "neighbors have no codes or no captions, and this model reads both"
            cure = "Encode the database's images as those trained on; its images need captions."
            raise RequestError("database", what, cure)
        captions = self.captions(context.neighbor_texts)
        documents = torch.cat([captions, context.references.long().flatten(2)], dim=2)
        order = (~present).long().argsort(dim=1, stable=True)
        documents = documents.gather(1, order[..., None].expand_as(documents))
        return documents[:, : int(count.max())], count

    def sequence(
        self, retrieved: torch.Tensor, main: torch.Tensor, moved: torch.Tensor
    ) -> Sequence:
        """Documents int64 [B, K, N], then main ones int64 [B, N] of which places bool [B, N] are
        moved to the end: n = K (N + 1) + N + 1 + GAPS tokens. Where no gaps are, two <pad> end it.
        """
        count, k = retrieved.shape[:2]
        before = self._behind_start(retrieved.flatten(0, 1), RETRIEVED)
        places = torch.arange(self.document + 1, device=main.device)
        parts = [
            Sequence(
                before.tokens.reshape(count, k * (self.document + 1)),
                places.repeat(k).expand(count, -1),
                before.marks.reshape(count, k * (self.document + 1)),
                before.counted.reshape(count, k * (self.document + 1)),
            ),
            self._arranged(self._behind_start(main, MAIN), moved),
        ]
        return Sequence(
            torch.cat([part.tokens for part in parts], dim=1),
            torch.cat([part.places for part in parts], dim=1),
            torch.cat([part.marks for part in parts], dim=1),
            torch.cat([part.counted for part in parts], dim=1),
        )

    def _behind_start(self, documents: torch.Tensor, mark: int) -> Sequence:
        """Documents int64 [B, N] in reading order, each behind its start: [B, N + 1]."""
        start = documents.new_full((len(documents), 1), self.start(mark))
        places = torch.arange(self.document + 1, device=documents.device)
        known = (documents == self.pad) | (documents == self.no_caption)
        # A <pad> is predicted where the word before it is none: it says that the caption ends.
        ends = (documents == self.pad) & ~functional.pad(known[:, :-1], (1, 0))
        return Sequence(
            torch.cat([start, documents], dim=1),
            places.expand(len(documents), -1),
            torch.full_like(places, mark).expand(len(documents), -1),
            functional.pad(~known | ends, (1, 0)),
        )

    def _arranged(self, main: Sequence, moved: torch.Tensor) -> Sequence:
        """Main documents [B, N + 1] with places bool [B, N] moved to the end: [B, N + 1 + GAPS]."""
        end = self.document + 1
        moved = functional.pad(moved, (1, 0))  # the start is not
        places = main.places
        gapped = ~stays(moved[:, 1:])[:, None]
        first = moved.long().argmax(dim=1, keepdim=True)
        # Twice the places, so that a gap fits between two.
        keys = torch.cat(
            [
                2 * places + torch.where(moved & gapped, 2 * end + 2, 0),
                torch.where(gapped, 2 * first - 1, 4 * end + 4),
                torch.where(gapped, 2 * end + 1, 4 * end + 4),
            ],
            dim=1,
        )
        order = keys.argsort(dim=1, stable=True)
        gaps = torch.where(gapped, self.gap, self.pad).expand(-1, GAPS)

        def ordered(values: torch.Tensor, of_gaps: torch.Tensor) -> torch.Tensor:
            return torch.cat([values, of_gaps], dim=1).gather(1, order)

        return Sequence(
            ordered(main.tokens, gaps),
            ordered(places, torch.full_like(gaps, end)),
            torch.full_like(order, MAIN),
            ordered(main.counted, torch.zeros_like(gaps, dtype=torch.bool)),
        )


def stays(moved: torch.Tensor) -> torch.Tensor:
    """Whether the places bool [B, N] are the end of a document, or none: bool [B]."""
    return (moved.long().diff(dim=1) >= 0).all(dim=1)
