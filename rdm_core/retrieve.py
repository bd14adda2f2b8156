"""Retrieval for sampling: queries -> the set of vectors the denoiser is given, and where each came from.

B images, K slots in a context, D the encoder's dimension, N rows of the database.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rdm_core.errors import RequestError
from rdm_core.search import NO_ROW, NO_SCORE, Searcher


@dataclass(frozen=True)
class Database:
    """What is retrieved from: a searcher over unit vectors [N, D] and the vectors' raw norms [N]."""

    searcher: Searcher
    norms: np.ndarray

    @property
    def rows(self) -> int:
        """N."""
        return len(self.norms)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Unit vectors float32 [..., D] of int rows [...]; NO_ROW gives any vector, to be masked."""
        vectors = np.asarray(self.searcher.vectors[np.maximum(rows, 0)], dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Context:
    """What the denoiser is given for B images."""

    vectors: np.ndarray
    """Unit [B, K, D] float32."""
    norms: np.ndarray
    """Raw norms [B, K] float32."""
    mask: np.ndarray
    """bool [B, K], True where there is a vector."""
    rows: np.ndarray
    """Database row int64 [B, K]; NO_ROW where the slot holds the query itself or nothing."""
    scores: np.ndarray
    """Cosine with the query float32 [B, K]; 1 for the query itself, NO_SCORE for nothing."""


Strategy = Callable[[np.ndarray, np.ndarray, "Database | None", int], Context]


def query_only(queries: np.ndarray, norms: np.ndarray, database: Database | None, k: int) -> Context:
    """The query's own vector and nothing else: K = 1; needs no database. (Text alone, in the 2022 paper's words.)"""
    count = len(queries)
    rows, scores = np.full((count, 1), NO_ROW), np.ones((count, 1), np.float32)
    return Context(queries[:, None], norms[:, None], np.ones((count, 1), bool), rows, scores)


def neighbors_only(queries: np.ndarray, norms: np.ndarray, database: Database | None, k: int) -> Context:
    """The k nearest rows, as in training.

    Raises RequestError when there is no database or it has fewer than k rows.
    """
    database = _checked(database, k)
    rows, scores = database.searcher.search(queries, k)
    return _context_of_rows(database, rows, scores)


def query_and_neighbors(queries: np.ndarray, norms: np.ndarray, database: Database | None, k: int) -> Context:
    """The query's own vector, then its k - 1 nearest rows: the 2022 release's default for texts and images."""
    own = query_only(queries, norms, None, 1)
    if k == 1:
        return own
    near = neighbors_only(queries, norms, database, k - 1)
    fields = ("vectors", "norms", "mask", "rows", "scores")
    return Context(*(np.concatenate([getattr(own, f), getattr(near, f)], axis=1) for f in fields))


STRATEGIES: dict[str, Strategy] = {
    "query": query_only,
    "query+neighbors": query_and_neighbors,
    "neighbors": neighbors_only,
}


def neighbors_from_pool(queries: np.ndarray, database: Database, k: int, pool: int, rng: np.random.Generator) -> Context:
    """k rows drawn at random, nearest first, from each query's `pool` nearest rows (class-conditional sampling)."""
    if pool < k:
        raise RequestError("pool", f"{pool} rows cannot give {k} neighbors", "Ask for a pool of at least k.")
    database = _checked(database, k)
    rows, scores = database.searcher.search(queries, min(pool, database.rows))
    chosen = np.sort(np.stack([rng.permutation(rows.shape[1])[:k] for _ in range(len(rows))]), axis=1)
    return _context_of_rows(database, np.take_along_axis(rows, chosen, 1), np.take_along_axis(scores, chosen, 1))


def retrieval_counts(neighbor_rows: np.ndarray, database_rows: int) -> np.ndarray:
    """How often each database row is among the neighbors [Q, K] of the training queries: int64 [N].

    Divided by its sum this is the proposal p_D of the paper's unconditional sampling.
    """
    return np.bincount(neighbor_rows[neighbor_rows != NO_ROW], minlength=database_rows)


def draw_pseudo_queries(counts: np.ndarray, top_m: float, count: int, rng: np.random.Generator, weighted: bool) -> np.ndarray:
    """Draw database rows [count] as pseudo-queries among the share `top_m` in (0, 1] most often retrieved.

    Only rows that were ever retrieved take part; equal counts rank by row. Uniform inside the kept set, or by their
    counts when `weighted`. Raises RequestError for an impossible share or when no row was ever retrieved.
    """
    if not 0 < top_m <= 1:
        raise RequestError(
            "top_m", f"{top_m} is not in (0, 1]", "Use 1 for every row that was ever retrieved, 0.01 for the top 1 %."
        )
    ranked = np.lexsort((np.arange(len(counts)), -counts))[: int((counts > 0).sum())]
    if not len(ranked):
        raise RequestError(
            "proposal", "no database row was ever retrieved", "Use the neighbor table of the run's own database."
        )
    kept = ranked[: max(1, round(top_m * len(ranked)))]
    weights = counts[kept] / counts[kept].sum() if weighted else None
    return rng.choice(kept, size=count, p=weights)


def _checked(database: Database | None, k: int) -> Database:
    if database is None:
        raise RequestError("database", "this context needs neighbors", "Name a database, or use the context 'query'.")
    if k > database.rows:
        raise RequestError(
            "k", f"{k} neighbors asked of a database of {database.rows} rows", "Use a smaller k or a larger database."
        )
    return database


def _context_of_rows(database: Database, rows: np.ndarray, scores: np.ndarray) -> Context:
    mask = rows != NO_ROW
    norms = np.asarray(database.norms[np.maximum(rows, 0)], dtype=np.float32)
    return Context(database.vectors(rows), norms, mask, rows, np.where(mask, scores, NO_SCORE).astype(np.float32))
