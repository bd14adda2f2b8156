"""Retrieval for sampling: queries -> the set of vectors the denoiser is given, and where each came
from.

B images, K slots in a context, D the encoder's dimension, N rows of the database.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from rdm_core.context import ABSENT, NEIGHBOR, QUERY, TEXT, Context
from rdm_core.errors import RequestError
from rdm_core.search import NO_ROW, NO_SCORE, Searcher


@dataclass(frozen=True)
class Database:
    """What is retrieved from: a searcher over unit vectors [N, D] and the vectors' raw norms
    [N].
    """

    searcher: Searcher
    norms: np.ndarray

    @property
    def rows(self) -> int:
        """N."""
        return len(self.norms)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Unit vectors float32 [..., D] of int rows [...]; NO_ROW gives any vector, to be
        masked.
        """
        vectors = np.asarray(self.searcher.vectors[np.maximum(rows, 0)], dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Retrieved:
    """The contexts of B images, with where each vector came from."""

    vectors: np.ndarray
    """Unit [B, K, D] float32."""
    norms: np.ndarray
    """Raw norms [B, K] float32."""
    slots: np.ndarray
    """What each is, int8 [B, K]: the kinds of `rdm_core.context`."""
    rows: np.ndarray
    """Database row int64 [B, K]; NO_ROW where the slot holds the query itself or nothing."""
    scores: np.ndarray
    """Cosine with the query float32 [B, K]; 1 for the query itself, NO_SCORE for nothing."""

    @property
    def context(self) -> Context:
        """What the denoiser is given of it."""
        return Context.of(self.vectors, self.norms, self.scores, self.slots)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: np.ndarray) -> "Retrieved":
        """The contexts of some of the images."""
        return self._each(lambda array: array[chosen])

    def as_one_set(self) -> "Retrieved":
        """B contexts of one vector -> one context of B vectors."""
        return self._each(lambda array: array.swapaxes(0, 1))

    def without(self, slot: int) -> "Retrieved":
        """The contexts as if one slot had held nothing."""
        slots = self.slots.copy()
        slots[:, slot] = ABSENT
        return replace(self, slots=slots)

    def _each(self, change: Callable[[np.ndarray], np.ndarray]) -> "Retrieved":
        return Retrieved(**{f.name: change(getattr(self, f.name)) for f in fields(Retrieved)})


@dataclass(frozen=True)
class Queries:
    """What is looked up: unit vectors [Q, D], their raw norms [Q], and whether they are texts."""

    vectors: np.ndarray
    norms: np.ndarray
    texts: bool

    def take(self, chosen: np.ndarray) -> "Queries":
        """Some of them, in that order."""
        return Queries(self.vectors[chosen], self.norms[chosen], self.texts)


Strategy = Callable[[Queries, "Database | None", int], Retrieved]


def query_only(queries: Queries, database: Database | None, k: int) -> Retrieved:
    """The query's own vector and nothing else: K = 1; needs no database. (Text alone, in the 2022
    paper's words.)
    """
    count = len(queries.vectors)
    slots = np.full((count, 1), TEXT if queries.texts else QUERY, np.int8)
    rows, scores = np.full((count, 1), NO_ROW), np.ones((count, 1), np.float32)
    return Retrieved(queries.vectors[:, None], queries.norms[:, None], slots, rows, scores)


def neighbors_only(queries: Queries, database: Database | None, k: int) -> Retrieved:
    """The k nearest rows, as in training.

    Raises RequestError when there is no database or it has fewer than k rows.
    """
    database = _checked(database, k)
    rows, scores = database.searcher.search(queries.vectors, k)
    return _retrieved_rows(database, rows, scores)


def query_and_neighbors(queries: Queries, database: Database | None, k: int) -> Retrieved:
    """The query's own vector, then its k - 1 nearest rows: the 2022 release's default for texts and
    images.
    """
    own = query_only(queries, None, 1)
    return own if k == 1 else joined(own, neighbors_only(queries, database, k - 1))


def joined(*parts: Retrieved) -> Retrieved:
    """Contexts side by side: the vectors of all parts [B, K1 + K2 + ...]."""
    together = {
        f.name: np.concatenate([getattr(part, f.name) for part in parts], axis=1)
        for f in fields(Retrieved)
    }
    return Retrieved(**together)


def interpolated(a: Queries, b: Queries, shares: Sequence[float]) -> Queries:
    """Queries on the great circle from each of `a` [Q, D] to its counterpart in `b`, at every share
    in 0..1: [Q * S, D].
    """
    cosine = np.clip((a.vectors * b.vectors).sum(axis=1, keepdims=True), -1, 1)
    angle = np.arccos(cosine)
    pieces = []
    for share in shares:
        mixed = np.sin((1 - share) * angle) * a.vectors + np.sin(share * angle) * b.vectors
        flat = (1 - share) * a.vectors + share * b.vectors  # where the two are all but equal
        mixed = np.where(angle < 1e-4, flat, mixed)
        pieces.append(mixed / np.linalg.norm(mixed, axis=1, keepdims=True))
    norms = np.stack([(1 - share) * a.norms + share * b.norms for share in shares], axis=1).ravel()
    return Queries(
        np.stack(pieces, axis=1).reshape(-1, a.vectors.shape[1]).astype(np.float32), norms, a.texts
    )


STRATEGIES: dict[str, Strategy] = {
    "query": query_only,
    "query+neighbors": query_and_neighbors,
    "neighbors": neighbors_only,
}


def neighbors_from_pool(
    queries: Queries, database: Database, k: int, pool: int, rng: np.random.Generator
) -> Retrieved:
    """k rows drawn at random, nearest first, from each query's `pool` nearest rows
    (class-conditional sampling).
    """
    if pool < k:
        raise RequestError(
            "pool", f"{pool} rows cannot give {k} neighbors", "Ask for a pool of at least k."
        )
    database = _checked(database, k)
    rows, scores = database.searcher.search(queries.vectors, min(pool, database.rows))
    chosen = np.sort(
        np.stack([rng.permutation(rows.shape[1])[:k] for _ in range(len(rows))]), axis=1
    )
    return _retrieved_rows(
        database, np.take_along_axis(rows, chosen, 1), np.take_along_axis(scores, chosen, 1)
    )


def retrieval_counts(neighbor_rows: np.ndarray, database_rows: int) -> np.ndarray:
    """How often each database row is among the neighbors [Q, K] of the training queries: int64 [N].

    Divided by its sum this is the proposal p_D of the paper's unconditional sampling.
    """
    return np.bincount(neighbor_rows[neighbor_rows != NO_ROW], minlength=database_rows)


def draw_pseudo_queries(
    counts: np.ndarray, top_m: float, count: int, rng: np.random.Generator, weighted: bool
) -> np.ndarray:
    """Draw database rows [count] as pseudo-queries among the share `top_m` in (0, 1] most often
    retrieved.

    Only rows that were ever retrieved take part; equal counts rank by row. Uniform inside the kept
    set, or by their counts when `weighted`. Raises RequestError for an impossible share or when no
    row was ever retrieved.
    """
    if not 0 < top_m <= 1:
        raise RequestError(
            "top_m",
            f"{top_m} is not in (0, 1]",
            "Use 1 for every row that was ever retrieved, 0.01 for the top 1 %.",
        )
    ranked = np.lexsort((np.arange(len(counts)), -counts))[: int((counts > 0).sum())]
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
    if database is None:
        raise RequestError(
            "database",
            "this context needs neighbors",
            "Name a database, or use the context 'query'.",
        )
    if k > database.rows:
        raise RequestError(
            "k",
            f"{k} neighbors asked of a database of {database.rows} rows",
            "Use a smaller k or a larger database.",
        )
    return database


def _retrieved_rows(database: Database, rows: np.ndarray, scores: np.ndarray) -> Retrieved:
    present = rows != NO_ROW
    slots = np.where(present, NEIGHBOR, ABSENT).astype(np.int8)
    norms = np.asarray(database.norms[np.maximum(rows, 0)], dtype=np.float32)
    return Retrieved(
        database.vectors(rows),
        norms,
        slots,
        rows,
        np.where(present, scores, NO_SCORE).astype(np.float32),
    )
