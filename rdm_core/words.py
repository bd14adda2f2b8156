"""Search by words: which rows of a database have captions that say what a query says.

A word counts the more, the fewer captions have it (BM25, by the library bm25s). So a name is found
that no encoder has learned. N rows, Q queries.
"""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Sequence
from math import log

import numpy as np

from rdm_core.errors import RequestError
from rdm_core.search import NO_ROW, NO_SCORE

K1, B = 1.5, 0.75
"""How soon more of one word counts no more, and how much less a word of a long caption counts."""


ARTICLES = frozenset({"a", "an", "the"})
"""What a prompt begins with and no picture shows."""


def words_of(text: str) -> list[str]:
    """The words of a text, in small letters. None is left out: common ones count next to nothing
    by themselves.
    """
    return re.findall(r"\w+", text.casefold())


def query_of(text: str, dropout: float = 0.0, key: str = "") -> list[str]:
    """The words that are looked up for a text, each once.

    With `dropout` in 0..1 every word is left out with that probability, one stays at least (query
    dropout of RA-CM3, arXiv 2211.12561): the same ones whenever the key is the same.
    """
    words = list(dict.fromkeys(words_of(text)))
    if not dropout or not words:
        return words
    digest = hashlib.sha256(f"words of {key}".encode()).digest()
    rolls = np.random.default_rng(int.from_bytes(digest[:8], "big")).random(len(words))
    kept = [word for word, roll in zip(words, rolls, strict=True) if roll >= dropout]
    return kept or [words[int(rolls.argmax())]]


def prompt_of(text: str) -> list[str]:
    """The words that are looked up for a prompt: those of `query_of` without articles, unless it
    has no others. People write "a goose", and where captions are names, a letter is a thing.
    """
    words = query_of(text)
    return [word for word in words if word not in ARTICLES] or words


class WordIndex:
    """The words of a database's captions."""

    def __init__(self, captions: Sequence[Sequence[str]]) -> None:
        """The captions of each of N rows. Several of one row are read as one text; a row without
        any is never found.

        Raises RequestError where no row has a word.
        """
        import bm25s  # with scipy: a quarter of a second that other searches do not need

        # It asks for its own debugging lines, which show as soon as any library sets up logging.
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        texts = [words_of(" ".join(of_row)) for of_row in captions]
        rows_with: Counter[str] = Counter()
        for words in texts:
            rows_with.update(set(words))
        if not rows_with:
            what = "none of its rows has a caption, and neighbors are looked up by words"
            raise RequestError("captions", what, "Import captions, or search=vectors.")
        self.rows = len(texts)
        self._rows_with = rows_with
        self._mean_length = sum(map(len, texts)) / len(texts)
        self._index = bm25s.BM25(method="lucene", k1=K1, b=B)
        self._index.index(texts, show_progress=False)

    def knows(self, queries: Sequence[Sequence[str]]) -> np.ndarray:
        """Which of Q queries have a word that a caption has, bool [Q]."""
        known = [any(word in self._rows_with for word in words) for words in queries]
        return np.array(known, dtype=bool)

    def search(
        self, queries: Sequence[Sequence[str]], k: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The words of Q queries, each once (`query_of`) -> rows int64 and scores float32 [Q, k],
        the best first, equal scores by row; of rows that are allowed, bool [N], where that is
        given.

        A score is BM25's, as a share of what a caption of just the query's words would get: in
        0..1, and 1 for whatever gets more. A row that shares no word is not found: NO_ROW and
        NO_SCORE fill a list.
        """
        rows = np.full((len(queries), k), NO_ROW, dtype=np.int64)
        scores = np.full((len(queries), k), NO_SCORE, dtype=np.float32)
        for place, words in enumerate(queries):
            known = [word for word in words if word in self._rows_with]
            if not known:
                continue
            of_all = self._index.get_scores(known)
            if allowed is not None:
                of_all = np.where(allowed, of_all, 0)
            found = np.flatnonzero(of_all > 0)
            if len(found) > k:  # those that tie for the last place stay for the moment
                last = np.partition(of_all[found], -k)[-k]
                found = found[of_all[found] >= last]
            found = found[np.lexsort((found, -of_all[found]))][:k]
            rows[place, : len(found)] = found
            scores[place, : len(found)] = np.minimum(1, of_all[found] / self._own_score(words))
        return rows, scores

    def _own_score(self, words: Sequence[str]) -> float:
        """What a caption of just these words would get."""
        reach = K1 * (1 - B + B * len(words) / self._mean_length)
        score = 0.0
        for word in words:
            rows_with = self._rows_with[word]  # 0 for a word that no caption has
            score += log(1 + (self.rows - rows_with + 0.5) / (rows_with + 0.5)) / (1 + reach)
        return score
