"""Search among some rows of a database: those that satisfy a condition.

The condition acts inside the k nearest: what is found are the k nearest of the rows that are
allowed, never the k nearest of all with some left out. N rows, M of them allowed, Q queries, D
dimensions.
"""

from typing import Any

import faiss
import numpy as np
import torch

from rdm_core.errors import RequestError
from rdm_core.search import HELD_BYTES, NO_ROW, NO_SCORE, Searcher, recall_at_k, search_exact

FEW_ROWS = 20_000
"""So many rows are compared one by one, whatever index there is: it takes milliseconds, and what an
index leads to are mostly other rows.
"""
GATHERED_ROWS = 16_384
"""Rows that are gathered at a time."""
TRIED_QUERIES = 64
"""Allowed rows that are asked with to measure what an index finds under a condition."""


class RowsOf:
    """Some rows of vectors [N, D], each read when it is looked at: an array [M, D] as far as
    `search_exact` needs one.
    """

    def __init__(self, vectors: np.ndarray, rows: np.ndarray) -> None:
        """The rows int64 [M] in any order."""
        self._vectors, self._rows = vectors, rows
        self.shape = (len(rows), vectors.shape[1])
        self.size = len(rows) * vectors.shape[1]
        self.dtype = vectors.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, chosen: slice | np.ndarray) -> np.ndarray:
        return np.asarray(self._vectors[self._rows[chosen]])


def chosen_vectors(vectors: np.ndarray, rows: np.ndarray, most_bytes: int = HELD_BYTES) -> Any:
    """Some rows int64 [M] of vectors [N, D] for many searches: float32 in memory if they fit into
    `most_bytes`, else read when they are looked at.
    """
    if 4 * len(rows) * vectors.shape[1] > most_bytes:
        return RowsOf(vectors, rows)
    chosen = torch.empty(len(rows), vectors.shape[1])
    for start in range(0, len(rows), GATHERED_ROWS):
        some = rows[start : start + GATHERED_ROWS]
        # numpy's own conversion from float16 takes eight times as long
        chosen[start : start + len(some)] = torch.from_numpy(np.asarray(vectors[some]))
    return chosen.numpy()


def search_among(
    queries: np.ndarray, chosen: Any, rows: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """As `search_exact`, among the vectors [M, D] of rows int64 [M] that rise: rows of the database
    and scores [Q, k].
    """
    places, scores = search_exact(queries, chosen, k)
    return np.where(places == NO_ROW, NO_ROW, rows[np.maximum(places, 0)]), scores


class SelectiveSearcher(Searcher):
    """A searcher that finds only some rows: exactly where they are few, else by the index."""

    def __init__(self, searcher: Searcher, allowed: np.ndarray) -> None:
        """Which rows may be found, bool [N]. Raises RequestError when there is none."""
        self.vectors, self.allowed = searcher.vectors, allowed
        self.rows = np.flatnonzero(allowed)
        if not len(self.rows):
            raise RequestError("rows", "none of them is allowed", "Allow some.")
        self._chosen: Any = None
        self.index = searcher.index if len(self.rows) > FEW_ROWS else None
        self._how = None
        if self.index is not None:
            # faiss keeps pointers to both
            self._bits = np.packbits(allowed, bitorder="little")
            self._selector = faiss.IDSelectorBitmap(self._bits)
            self._how = search_parameters(self.index, self._selector)

    @property
    def candidates(self) -> int:
        """How many rows may be found."""
        return len(self.rows)

    def without_index(self) -> "SelectiveSearcher":
        """The same, comparing with every allowed row."""
        return SelectiveSearcher(Searcher(self.vectors), self.allowed)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Searcher.search`. Queries for which the index leads to fewer than k rows, though more
        are allowed, are searched exactly.
        """
        if self.index is None:
            return self.search_all(queries, k)
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        scores, rows = self.index.search(queries, k, params=self._how)
        scores = np.where(rows == NO_ROW, NO_SCORE, scores).astype(np.float32)
        short = np.flatnonzero((rows == NO_ROW).any(axis=1))
        if len(short) and k <= len(self.rows):
            rows[short], scores[short] = self.search_all(queries[short], k)
        return rows, scores

    def search_all(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `search`, by comparing with every allowed row."""
        if self._chosen is None:
            self._chosen = chosen_vectors(self.vectors, self.rows)
        return search_among(queries, self._chosen, self.rows, k)

    def recall(self, k: int, seed: int = 0) -> float:
        """What the index finds of the k nearest allowed rows, 0..1, asked with TRIED_QUERIES of
        them; 1 where there is none.
        """
        if self.index is None:
            return 1.0
        rng = np.random.default_rng(seed)
        tried = np.sort(rng.choice(self.rows, min(TRIED_QUERIES, len(self.rows)), replace=False))
        queries = np.asarray(self.vectors[tried], dtype=np.float32)
        k = min(k, len(self.rows))
        return recall_at_k(self.search(queries, k)[0], self.search_all(queries, k)[0])


def search_parameters(index: Any, selector: Any) -> Any:
    """What restricts the search of a faiss index to a selector's rows, with its own effort.

    Raises RequestError for an index that cannot be restricted.
    """
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        inner = search_parameters(index.index, selector)
        return faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(index, faiss.IndexRefine):
        inner = search_parameters(index.base_index, selector)
        return faiss.IndexRefineSearchParameters(k_factor=index.k_factor, base_index_params=inner)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=index.hnsw.efSearch)
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(sel=selector, nprobe=index.nprobe)
    if isinstance(index, faiss.IndexFlat):
        return faiss.SearchParameters(sel=selector)
    raise RequestError(
        "index",
        f"faiss cannot restrict {type(index).__name__} to some rows",
        "Search exactly, or build the database again.",
    )
