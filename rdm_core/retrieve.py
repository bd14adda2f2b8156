"""Retrieval for sampling: queries -> the context of each image, and the rows that it is made of.

B images, Q queries, K slots in a context, D the encoder's dimension, N rows of the database. The
strategies are those of RDM (arXiv 2204.11824, section 3).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from rdm_core.context import ABSENT, NEIGHBOR, QUERY, TEXT, Context
from rdm_core.errors import RequestError
from rdm_core.neighbors import search_neighbors
from rdm_core.search import NO_ROW, NO_SCORE, Searcher
from rdm_core.selection import SelectiveSearcher
from rdm_core.words import WordIndex


@dataclass(frozen=True)
class Database:
    """A searcher over unit vectors, and the norms that these had."""

    searcher: Searcher
    """Over unit vectors float16 or float32 [N, D]."""
    norms: np.ndarray
    """float [N]."""
    words: WordIndex | None = None
    """The words of its captions, for queries that are looked up by words."""
    most_alike: float = 1.0
    """The largest cosine of a neighbor with the query, or with one before it."""
    allowed: np.ndarray | None = None
    """Which rows may be neighbors, bool [N]; all unless given."""

    def only(self, searcher: SelectiveSearcher) -> "Database":
        """The same database, of which only the rows that a searcher finds are ever neighbors."""
        return replace(self, searcher=searcher, allowed=searcher.allowed)

    @property
    def candidates(self) -> int:
        """The number of rows that may be neighbors."""
        return self.searcher.candidates

    @property
    def rows(self) -> int:
        """The number of rows, N."""
        return len(self.norms)

    def nearest(self, queries: "Queries", k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows int64 and scores float32 [Q, k] of Q queries, the nearest first: by their words, if
        they have any, and else by their vectors; NO_ROW where there are fewer.
        """
        if self.most_alike == 1:
            return self._of_all(queries, k)
        nobody = np.full(len(queries.vectors), None), np.full(self.rows, None)
        return search_neighbors(
            queries.vectors, nobody[0], self.searcher.vectors, nobody[1], k,
            most_alike=self.most_alike,
            look_up=lambda places, count: self._of_all(queries.take(places), count),
        )  # fmt: skip

    def _of_all(self, queries: "Queries", k: int) -> tuple[np.ndarray, np.ndarray]:
        """`nearest`, whatever is alike."""
        if queries.words is None:
            return self.searcher.search(queries.vectors, k)
        assert self.words is not None, "opened for words"
        return self.words.search(queries.words, k, self.allowed)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Unit vectors float32 [..., D] of rows int64 [...]. NO_ROW gives any vector: mask it."""
        vectors = np.asarray(self.searcher.vectors[np.maximum(rows, 0)], dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Retrieved:
    """The contexts of B images, and the row of each vector."""

    vectors: np.ndarray
    """Unit vectors float32 [B, K, D]."""
    norms: np.ndarray
    """The norms that these had, float32 [B, K]."""
    slots: np.ndarray
    """The kind of each slot, int8 [B, K]: those of `rdm_core.context`."""
    rows: np.ndarray
    """Database rows int64 [B, K]; NO_ROW where the slot holds the query or nothing."""
    scores: np.ndarray
    """Cosines with the query float32 [B, K], or what a search by words gives; 1 for the query
    itself, NO_SCORE for nothing.
    """

    @property
    def context(self) -> Context:
        """The part that a model reads: sets [B, K, D]."""
        return Context.of(self.vectors, self.norms, self.scores, self.slots)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: np.ndarray) -> "Retrieved":
        """The contexts of some of the images: int64 [M] or bool [B]."""
        return self._each(lambda array: array[chosen])

    def as_one_set(self) -> "Retrieved":
        """B contexts of one vector, [B, 1, D] -> one context of B vectors, [1, B, D]."""
        return self._each(lambda array: array.swapaxes(0, 1))

    def _each(self, change: Callable[[np.ndarray], np.ndarray]) -> "Retrieved":
        """Contexts whose arrays [B, K, ...] are changed, each in the same way."""
        return Retrieved(
            change(self.vectors), change(self.norms), change(self.slots), change(self.rows),
            change(self.scores),
        )  # fmt: skip


@dataclass(frozen=True)
class Queries:
    """Vectors whose neighbors are looked up."""

    vectors: np.ndarray
    """Unit vectors float32 [Q, D]."""
    norms: np.ndarray
    """The norms that these had, float32 [Q]."""
    texts: bool
    """Whether they are vectors of texts; else they are of images."""
    words: Sequence[Sequence[str]] | None = None
    """The words of each, where neighbors are looked up by words (`rdm_core.words.query_of`)."""

    def take(self, chosen: np.ndarray) -> "Queries":
        """Some of the queries: int64 [M], in that order, or bool [Q]."""
        words = None
        if self.words is not None:
            words = [self.words[place] for place in np.arange(len(self.words))[chosen]]
        return Queries(self.vectors[chosen], self.norms[chosen], self.texts, words)


Strategy = Callable[[Queries, "Database | None", int], Retrieved]
"""Q queries, a database, k -> Q contexts [Q, K, D]."""


def query_only(queries: Queries, database: Database | None, k: int) -> Retrieved:
    """The query's own vector and nothing else: [Q, 1, D]. It needs no database."""
    count = len(queries.vectors)
    slots = np.full((count, 1), TEXT if queries.texts else QUERY, np.int8)
    rows, scores = np.full((count, 1), NO_ROW), np.ones((count, 1), np.float32)
    return Retrieved(queries.vectors[:, None], queries.norms[:, None], slots, rows, scores)


def neighbors_only(queries: Queries, database: Database | None, k: int) -> Retrieved:
    """The k nearest rows, as in training: [Q, k, D] (RDM, arXiv 2204.11824: xi_k(x, D)).

    Raises RequestError when there is no database or it has fewer than k rows.
    """
    database = _checked(database, k)
    rows, scores = database.nearest(queries, k)
    return _retrieved_rows(database, rows, scores)


def query_and_neighbors(queries: Queries, database: Database | None, k: int) -> Retrieved:
    """The query's own vector, then its k - 1 nearest rows: [Q, k, D], the default of the 2022
    release for texts and images.
    """
    own = query_only(queries, None, 1)
    return own if k == 1 else joined(own, neighbors_only(queries, database, k - 1))


def joined(*parts: Retrieved) -> Retrieved:
    """One context of the vectors of all parts, for each image: [B, K1 + K2 + ..., D]."""
    arrays = {}
    for field in fields(Retrieved):
        of_parts = [getattr(part, field.name) for part in parts]
        arrays[field.name] = np.concatenate(of_parts, axis=1)
    return Retrieved(**arrays)


def interpolated(a: Queries, b: Queries, shares: Sequence[float]) -> Queries:
    """Queries on the great circle from each of `a` [Q, D] to its counterpart in `b` [Q, D], at each
    of S shares in 0..1: [Q * S, D].
    """
    # sin((1 - s) w) a + sin(s w) b has the direction of the great circle at s, with w the angle.
    cosine = np.clip((a.vectors * b.vectors).sum(axis=1, keepdims=True), -1, 1)
    angle = np.arccos(cosine)
    vectors, norms = [], []
    for share in shares:
        mixed = np.sin((1 - share) * angle) * a.vectors + np.sin(share * angle) * b.vectors
        flat = (1 - share) * a.vectors + share * b.vectors  # where the two are all but equal
        mixed = np.where(angle < 1e-4, flat, mixed)
        vectors.append(mixed / np.linalg.norm(mixed, axis=1, keepdims=True))
        norms.append((1 - share) * a.norms + share * b.norms)
    flat_vectors = np.stack(vectors, axis=1).reshape(-1, a.vectors.shape[1])
    return Queries(flat_vectors.astype(np.float32), np.stack(norms, axis=1).ravel(), a.texts)


STRATEGIES: dict[str, Strategy] = {
    "query": query_only,
    "query+neighbors": query_and_neighbors,
    "neighbors": neighbors_only,
}


def neighbors_from_pool(
    queries: Queries, database: Database, k: int, pool: int, rng: np.random.Generator
) -> Retrieved:
    """k rows drawn at random from the `pool` nearest rows of each query, nearest first: [Q, k, D].

    This is how RDM (arXiv 2204.11824) samples a class.
    """
    if pool < k:
        raise RequestError(
            "pool", f"{pool} rows cannot give {k} neighbors", "Ask for a pool of at least k."
        )
    database = _checked(database, k)
    rows, scores = database.nearest(queries, min(pool, database.candidates))
    # Each query gets k of its pool without repetition; sorted places are nearest first. A pool may
    # hold fewer: empty places are at its end.
    chosen = np.empty((len(rows), k), dtype=np.int64)
    for query, found in enumerate((rows != NO_ROW).sum(axis=1).tolist()):
        drawn = rng.permutation(found)[:k]
        empty = np.arange(found, found + k - len(drawn))
        chosen[query] = np.concatenate([np.sort(drawn), empty])
    return _retrieved_rows(
        database, np.take_along_axis(rows, chosen, 1), np.take_along_axis(scores, chosen, 1)
    )


def retrieval_counts(neighbor_rows: np.ndarray, database_rows: int) -> np.ndarray:
    """How often each database row is among the neighbors int64 [Q, K] of the training images: int64
    [N].

    Divided by their sum these are the proposal p_D of unconditional sampling: p_D(y) is the number
    of training images with y among their neighbors, over k |X| (RDM, arXiv 2204.11824, section 3).
    """
    return np.bincount(neighbor_rows[neighbor_rows != NO_ROW], minlength=database_rows)


def draw_pseudo_queries(
    counts: np.ndarray, top_m: float, count: int, rng: np.random.Generator, weighted: bool
) -> np.ndarray:
    """Draw database rows int64 [count] as pseudo-queries from the proposal with counts int64 [N].

    Of the rows that were ever retrieved, only the share `top_m` in (0, 1] with the highest counts
    takes part (the paper's top-m sampling); equal counts rank by row. They are drawn alike, or when
    `weighted` in proportion to their counts. Raises RequestError for an impossible share, or when
    no row was ever retrieved.
    """
    if not 0 < top_m <= 1:
        raise RequestError(
            "top_m",
            f"{top_m} is not in (0, 1]",
            "Use 1 for every row that was ever retrieved, 0.01 for the top 1 %.",
        )
    by_count = np.lexsort((np.arange(len(counts)), -counts))
    ranked = by_count[: int((counts > 0).sum())]
    if not len(ranked):
        raise RequestError(
            "proposal",
            "no database row was ever retrieved",
            "Use the neighbor table of the run's own database.",
        )
    kept = ranked[: max(1, round(top_m * len(ranked)))]
    weights = counts[kept] / counts[kept].sum() if weighted else None
    return rng.choice(kept, size=count, p=weights)


def _checked(database: Database | None, k: int) -> Database:
    """The database. Raises RequestError for none, and where fewer than k rows may be neighbors."""
    if database is None:
        raise RequestError(
            "database",
            "this context needs neighbors",
            "Name a database, or use the context 'query'.",
        )
    if k > database.candidates:
        may = (
            "" if database.allowed is None else f", of which {database.candidates} may be neighbors"
        )
        raise RequestError(
            "k",
            f"{k} neighbors asked of a database of {database.rows} rows{may}",
            "Use a smaller k or a larger database.",
        )
    return database


def _retrieved_rows(database: Database, rows: np.ndarray, scores: np.ndarray) -> Retrieved:
    """The contexts of database rows int64 [B, K] with scores float32 [B, K]."""
    present = rows != NO_ROW
    slots = np.where(present, NEIGHBOR, ABSENT).astype(np.int8)
    norms = np.asarray(database.norms[np.maximum(rows, 0)], dtype=np.float32)
    scores = np.where(present, scores, NO_SCORE).astype(np.float32)
    return Retrieved(database.vectors(rows), norms, slots, rows, scores)
