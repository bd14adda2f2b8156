"""Search: which rows of a database are nearest to a query. Scores are cosines, so larger is
nearer.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from rdm_core.errors import RequestError
from rdm_core.exact import (
    BLOCKS,
    HALF,
    INT8,
    Found,
    int8_may_pay,
    reduced_queries,
    reduced_tile,
    search_by_bound,
    search_by_bound_on,
    search_tile,
)

NO_ROW = -1
NO_SCORE = -2.0
EXTRA_ROWS = 8
"""Asked for beyond k at first, for those that will be left out; more follow for queries that need
them.
"""
HELD_BYTES = 2 * 2**30
"""What a database that is searched again and again may take in memory."""
TILE_BYTES = 256 * 2**20
"""Of float32, that a stored float16 database is converted into at a time."""
MANY_PRODUCTS = 50_000_000_000
"""Queries times rows times dimensions from which it pays to look for the fastest way to
multiply.
"""
MOST_NEIGHBORS = 64
"""For more, so many rows are near the last one that scoring them costs what faiss does."""
TRIED_SHARE = 1 / 50
"""Of a search's pairs, to see which way is faster: some queries, at most a block, on a tile's worth
of rows."""
FEWEST_TRIED = 64
FEWER_LATER = 4
"""Tiles from which on the first one is not like most others."""


def search_exact(
    queries: np.ndarray, vectors: np.ndarray, k: int, tile_rows: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Unit queries [Q, D] against unit vectors [N, D] (float16 or float32, memory-mapped or not).

    Returns rows int64 [Q, k] and scores float32 [Q, k], nearest first, equal scores by row; where k
    > N the rest is NO_ROW with NO_SCORE. Holds one tile of the database in memory at a time. Large
    searches go by `rdm_core.exact`, over every GPU or where this CPU is faster so with these data;
    the others, and queries that it gives up, by faiss.
    """
    if len(queries) * vectors.size < MANY_PRODUCTS or k > min(MOST_NEIGHBORS, len(vectors)):
        return search_in_fp32(queries, vectors, k, tile_rows)
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if gpus:
        rows, scores, given_up = search_by_bound_on(gpus, queries, vectors, k, HALF)
    elif int8_pays(queries, vectors, k):
        rows, scores, given_up = search_by_bound(queries, vectors, k, INT8)
    else:
        return search_in_fp32(queries, vectors, k, tile_rows)
    if given_up.any():
        found = search_in_fp32(queries[given_up], vectors, k, tile_rows)
        rows[given_up], scores[given_up] = found
    return rows, scores


def int8_pays(queries: np.ndarray, vectors: np.ndarray, k: int) -> bool:
    """Whether this CPU searches these data faster by int8 than by faiss, measured the whole way
    from stored rows to scores in fp32 on some of the queries and rows, evenly spread.

    Reducing the rows, which all queries share, counts by the share that is tried, and queries that
    are given up count twice. The first tile of a search, which is what is tried here, has the most
    candidates: where FEWER_LATER or more follow, int8 may be a fifth slower in it.
    """
    if not int8_may_pay():
        return False
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    blocks = BLOCKS["cpu"]
    rows = _spread(vectors, blocks.rows)
    tried = int(TRIED_SHARE * len(queries) * len(vectors) / len(rows))
    some = _spread(queries, min(max(tried, FEWEST_TRIED), blocks.queries))
    began = clock()
    search_in_fp32(some, rows, k)
    plain = clock() - began
    allowed = plain * (1.2 if len(vectors) > FEWER_LATER * blocks.rows else 1.0)
    began = clock()
    tile = reduced_tile(rows, 0, len(rows), INT8)
    reducing = (clock() - began) * len(some) / len(queries)
    for _ in range(3):  # the first try may have something to set up
        began = clock()
        found = Found.of(len(some), k, torch.device("cpu"))
        search_tile(reduced_queries(some, INT8), tile, 0, found, INT8, blocks)
        again = float(found.result()[2].mean()) * plain
        if clock() - began + reducing + again < allowed:
            return True
    return False


def _spread(vectors: np.ndarray, count: int) -> np.ndarray:
    """At most so many of them, evenly spread."""
    at = np.linspace(0, len(vectors) - 1, min(count, len(vectors)))
    return vectors[at.astype(np.int64)]


def search_in_fp32(
    queries: np.ndarray, vectors: np.ndarray, k: int, tile_rows: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The same by faiss; in one go where the vectors are float32 and may be held in memory."""
    tile_rows = tile_rows or rows_of_a_tile(vectors)
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    rows = np.full((len(queries), k), NO_ROW, dtype=np.int64)
    scores = np.full((len(queries), k), NO_SCORE, dtype=np.float32)
    room = torch.empty(min(tile_rows, len(vectors)), vectors.shape[1])
    for start in range(0, len(vectors), tile_rows):
        tile = vectors[start : start + tile_rows]
        # numpy's own conversion from float16 takes eight times as long
        if tile.dtype != np.float32:
            tile = room[: len(tile)].copy_(torch.from_numpy(np.array(tile))).numpy()
        near, at = _nearest(queries, tile, k)
        rows = np.concatenate([rows, at + start], axis=1)
        scores = np.concatenate([scores, near], axis=1)
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        rows, scores = np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
    return rows, scores


def rows_of_a_tile(vectors: np.ndarray) -> int:
    """How many rows are searched at once: every one that needs no conversion and may be held, else
    TILE_BYTES of them. A tile costs a list of k rows to be merged, whatever its size.
    """
    if vectors.dtype == np.float32 and vectors.nbytes <= HELD_BYTES:
        return max(1, len(vectors))
    return max(1, TILE_BYTES // (4 * vectors.shape[1]))


def _nearest(queries: np.ndarray, tile: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows [Q, k] of one tile. Which of the rows that tie for the last place faiss keeps
    is chance; here the lowest are kept, so that equal vectors in a database give the same neighbors
    however it is tiled.
    """
    scores, rows = faiss.knn(
        queries, tile, min(k + 1, len(tile)), metric=faiss.METRIC_INNER_PRODUCT
    )
    if k < len(tile):
        for tied in np.flatnonzero(scores[:, k] == scores[:, k - 1]):
            every = tile @ queries[tied]
            rows[tied, :k] = np.argsort(-every, kind="stable")[:k]
            scores[tied, :k] = every[rows[tied, :k]]
    return scores[:, :k], rows[:, :k]


def held(vectors: np.ndarray, most_bytes: int = HELD_BYTES) -> np.ndarray:
    """Vectors [N, D] as float32 in memory, for many searches, where that takes no more than
    `most_bytes`; else as they are.
    """
    return (
        np.ascontiguousarray(vectors, dtype=np.float32)
        if 4 * vectors.size <= most_bytes
        else vectors
    )


def search_neighbors(
    queries: np.ndarray,
    query_groups: np.ndarray,
    vectors: np.ndarray,
    database_groups: np.ndarray,
    k: int,
    score_cap: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Exact neighbors [Q, k] of unit queries [Q, D], without the rows that are no answer.

    These are the rows of the query's own group (crops of one image, works of one author: object
    arrays [Q] and [N], or [Q, G] and [N, G] for several kinds of group; None belongs to no group)
    and, below a cap of 1, rows whose score is above it, which are near-duplicates. Exact because a
    query whose list came out too short is asked again for more rows.
    """
    rows = np.full((len(queries), k), NO_ROW, dtype=np.int64)
    scores = np.full((len(queries), k), NO_SCORE, dtype=np.float32)
    query_groups, database_groups = (
        groups.astype(object).reshape(len(groups), -1) for groups in (query_groups, database_groups)
    )
    pending, extra = np.arange(len(queries)), EXTRA_ROWS
    while len(pending):
        asked = min(k + extra, len(vectors))
        near, at = search_exact(queries[pending], vectors, max(asked, k))
        banned = _in_group(query_groups[pending], database_groups, near)
        if score_cap < 1:
            banned |= at > score_cap
        banned &= near != NO_ROW
        order = np.argsort(banned, axis=1, kind="stable")[:, :k]
        near, at, gone = (np.take_along_axis(values, order, 1) for values in (near, at, banned))
        rows[pending], scores[pending] = np.where(gone, NO_ROW, near), np.where(gone, NO_SCORE, at)
        pending = pending[gone.any(axis=1)] if asked < len(vectors) else pending[:0]
        extra *= 4
    return rows, scores


def _in_group(
    query_groups: np.ndarray, database_groups: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Whether each row [Q, K] is of its query's own group, in any kind of group."""
    banned = np.zeros(rows.shape, bool)
    for queries, database in zip(query_groups.T, database_groups.T, strict=True):
        known = np.fromiter((query is not None for query in queries), bool, len(queries))
        banned |= (database[rows] == queries[:, None]) & known[:, None]
    return banned


def build_index(vectors: np.ndarray, path: Path, memory: str = "4G") -> str:
    """Build an approximate inner-product index over unit vectors [N, D] with autofaiss, save it,
    return its recipe.

    autofaiss chooses the recipe by size and the `memory` the index may take; what it chose is
    recorded because its tuning is by stopwatch. Building takes up to as much again. Raises
    RequestError when the memory is not enough.
    """
    import autofaiss  # with pandas and more: half a second that a search does not need
    from autofaiss.utils.cast import cast_bytes_to_memory_string, cast_memory_to_bytes

    with_room = cast_bytes_to_memory_string(2 * cast_memory_to_bytes(memory))
    index, infos = autofaiss.build_index(
        embeddings=np.ascontiguousarray(vectors, dtype=np.float32),
        save_on_disk=False,
        metric_type="ip",
        max_index_memory_usage=memory,
        current_memory_available=with_room,
        # it would set this process to all cores, and leave it so
        nb_cores=faiss.omp_get_max_threads(),
        verbose=logging.CRITICAL,  # what it would say is in the exception
    )
    if index is None:
        what = (
            f"{memory} is not enough for an index over {vectors.shape[0]:,} vectors "
            f"of dimension {vectors.shape[1]}"
        )
        raise RequestError("index memory", what, "Give more, for example 4G, or search exactly.")
    faiss.write_index(index, str(path))
    return str(infos["index_key"])


def unit_queries(vectors: np.ndarray, dimension: int, where: str | Path) -> np.ndarray:
    """Vectors from outside, [D] or [Q, D] of any length, as queries: unit float32 [Q, D].

    Raises RequestError for another dimension, for NaN or infinity, and for a vector of zeros.
    """
    queries = np.atleast_2d(vectors)
    if queries.ndim != 2 or queries.shape[1] != dimension or queries.dtype.kind not in "fiu":
        what = (
            f"it holds {queries.dtype} {list(np.shape(vectors))}, a query has {dimension} numbers"
        )
        raise RequestError(where, what, "Give vectors of the database's own encoder.")
    if not len(queries):
        raise RequestError(where, "it holds no vector", "Give at least one.")
    queries = queries.astype(np.float64)
    lengths = np.linalg.norm(queries, axis=1, keepdims=True)
    if wrong := np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0))).tolist():
        what = f"vector {wrong[0]} has no direction (its length is {lengths[wrong[0], 0]})"
        raise RequestError(where, what, "Remove vectors that are zero or hold NaN or infinity.")
    return (queries / lengths).astype(np.float32)


@dataclass(frozen=True)
class Setting:
    """One setting of an approximate index, measured."""

    setting: str
    """In faiss's words: efSearch=64, nprobe=16."""
    recall: float
    """Share of the exact rows that are found."""
    p50_milliseconds: float
    """Half of the queries are answered within this time, one at a time."""
    p95_milliseconds: float
    """95 % are."""


def tune_index(
    path: Path, queries: np.ndarray, exact: np.ndarray, recall_target: float
) -> list[Setting]:
    """Set a saved index to the least effort that finds `recall_target` of the exact rows [Q, K] of
    queries [Q, D], or to its most if none does.

    Efforts double from 8 to 4,096; each that was tried is returned with its recall and latency, the
    chosen one last. An index without an effort to set (Flat) gives one row. Unlike autofaiss's
    tuning, the clock has no say in what is chosen.
    """
    index = faiss.read_index(str(path))
    measured: list[Setting] = []
    for setting in _settings(index):
        if setting:
            faiss.ParameterSpace().set_index_parameters(index, setting)
        measured.append(measured_setting(index, setting or "exhaustive", queries, exact))
        if measured[-1].recall >= recall_target:
            break
    faiss.write_index(index, str(path))
    return measured


def _settings(index: Any) -> list[str]:
    inner = faiss.downcast_index(
        index.index if isinstance(index, faiss.IndexPreTransform) else index
    )
    name = {"IndexHNSW": "efSearch", "IndexIVF": "nprobe"}
    kind = next(
        (word for base, word in name.items() if isinstance(inner, getattr(faiss, base))), None
    )
    most = inner.nlist if kind == "nprobe" else 4096
    return (
        [f"{kind}={effort}" for effort in (2**n for n in range(3, 13)) if effort < 2 * most]
        if kind
        else [""]
    )


def measured_setting(index: Any, setting: str, queries: np.ndarray, exact: np.ndarray) -> Setting:
    """Recall of the exact rows [Q, K], and latency, of a faiss index as it is set, asked one query
    of [Q, D] at a time.
    """
    found, milliseconds = [], []
    for query in np.ascontiguousarray(queries, dtype=np.float32):
        began = time.perf_counter()
        found.append(index.search(query[None], exact.shape[1])[1][0])
        milliseconds.append(1000 * (time.perf_counter() - began))
    p50, p95 = np.quantile(milliseconds, [0.5, 0.95]).round(3).tolist()
    return Setting(setting, round(recall_at_k(np.stack(found), exact), 4), p50, p95)


class Searcher:
    """Answers queries over one database: by its approximate index if it has one, exactly
    otherwise.
    """

    def __init__(self, vectors: np.ndarray, faiss_file: Path | None = None) -> None:
        self.vectors = vectors
        self.index = faiss.read_index(str(faiss_file), faiss.IO_FLAG_MMAP) if faiss_file else None

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Unit queries [Q, D] -> rows int64 [Q, k], scores float32 [Q, k], nearest first, NO_ROW
        where there are fewer.
        """
        if self.index is None:
            return search_exact(queries, self.vectors, k)
        scores, rows = self.index.search(np.ascontiguousarray(queries, dtype=np.float32), k)
        return rows, np.where(rows == NO_ROW, NO_SCORE, scores).astype(np.float32)


def recall_at_k(found: np.ndarray, exact: np.ndarray) -> float:
    """Share of the exact rows [Q, K] that the found rows [Q, K] contain, NO_ROW not counted; 1
    where there is none.
    """
    hits = sum(
        len(set(f[f != NO_ROW]) & set(e[e != NO_ROW])) for f, e in zip(found, exact, strict=True)
    )
    wanted = int((exact != NO_ROW).sum())
    return hits / wanted if wanted else 1.0
