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
    Nearest,
    reduced_queries,
    reduced_tile,
    search_by_bound,
    search_by_bound_on,
    search_tile,
)
from rdm_core.reduced import HALF, INT8, int8_may_pay

NO_ROW = -1
NO_SCORE = -2.0
HELD_BYTES = 2 * 2**30
"""Memory that a database may take which is searched again and again."""
TILE_BYTES = 256 * 2**20
"""Size of the float32 tile that a part of a float16 database is converted into."""
MANY_PRODUCTS = 50_000_000_000
"""Queries times rows times dimensions. From there on it pays to look for the fastest way to
multiply.
"""
MOST_NEIGHBORS = 64
"""Largest k of a search by a bound. Beyond it so many rows are near the last one that to score them
costs what faiss does.
"""
TRIED_SHARE = 1 / 50
"""Share of a search's pairs that is searched both ways, to see which is faster."""
FEWEST_TRIED = 64
"""Queries in that trial, at least."""
FEWER_LATER = 4
"""Tiles of a search. With more of them, the first one has more candidates than most."""


def search_exact(
    queries: np.ndarray, vectors: np.ndarray, k: int, tile_rows: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Compare unit queries float32 [Q, D] with unit vectors float16 or float32 [N, D].

    Returns rows int64 [Q, k] and scores float32 [Q, k], nearest first, equal scores by row; where k
    > N the rest is NO_ROW with NO_SCORE. The vectors may be memory-mapped: one tile of them is held
    in memory at a time. Large searches use `rdm_core.exact` on all GPUs, or on this CPU if that is
    faster with these data. All other searches, and queries that it gives up, use faiss.
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
        rows[given_up], scores[given_up] = search_in_fp32(queries[given_up], vectors, k, tile_rows)
    return rows, scores


def int8_pays(queries: np.ndarray, vectors: np.ndarray, k: int) -> bool:
    """Whether this CPU searches vectors [N, D] for queries [Q, D] faster by int8 than by faiss.

    Both ways are measured on some of the queries and rows, evenly spread, from stored rows to
    scores in fp32. All queries share the work of reducing the rows, so only the share of the tried
    queries counts. Queries that are given up count twice.
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
    # What is tried is like the first tile, which has the most candidates. Where many tiles follow,
    # int8 may be a fifth slower in it.
    allowed = plain * (1.2 if len(vectors) > FEWER_LATER * blocks.rows else 1.0)
    began = clock()
    tile = reduced_tile(rows, 0, len(rows), INT8)
    reducing = (clock() - began) * len(some) / len(queries)
    for _ in range(3):  # the first try may have something to set up
        began = clock()
        nearest = Nearest.of(len(some), k, torch.device("cpu"))
        search_tile(reduced_queries(some, INT8), tile, 0, nearest, INT8, blocks)
        _, _, given_up = nearest.result()
        again = float(given_up.mean()) * plain
        if clock() - began + reducing + again < allowed:
            return True
    return False


def _spread(vectors: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the vectors [N, D], evenly spread."""
    at = np.linspace(0, len(vectors) - 1, min(count, len(vectors)))
    return vectors[at.astype(np.int64)]


def search_in_fp32(
    queries: np.ndarray, vectors: np.ndarray, k: int, tile_rows: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The same as `search_exact`, by faiss: queries [Q, D], vectors [N, D].

    Vectors that are float32 and may be held in memory are searched at once, others in tiles.
    """
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
        # Merge with the tiles before: nearest first, equal scores by row.
        rows = np.concatenate([rows, at + start], axis=1)
        scores = np.concatenate([scores, near], axis=1)
        order = np.lexsort((rows, -scores), axis=1)[:, :k]
        rows, scores = np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)
    return rows, scores


def rows_of_a_tile(vectors: np.ndarray) -> int:
    """How many rows of vectors [N, D] are searched at once.

    All of them if they need no conversion and may be held in memory, else TILE_BYTES of them. Each
    tile costs one merge, whatever its size, so tiles are large.
    """
    if vectors.dtype == np.float32 and vectors.nbytes <= HELD_BYTES:
        return max(1, len(vectors))
    return max(1, TILE_BYTES // (4 * vectors.shape[1]))


def _nearest(queries: np.ndarray, tile: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest rows of one tile [N, D] to queries [Q, D]: scores float32 and rows int64 [Q, k].

    Where several rows tie for the last place, faiss keeps any of them. Here the first rows are
    kept, so that the tiles' size does not change the result.
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
    """Vectors [N, D] as float32 in memory, for many searches, if they fit into `most_bytes`.

    Larger ones are returned as they are, float16 or float32.
    """
    if 4 * vectors.size > most_bytes:
        return vectors
    return np.ascontiguousarray(vectors, dtype=np.float32)


def build_index(vectors: np.ndarray, path: Path, memory: str = "4G") -> str:
    """Build an approximate inner-product index over unit vectors [N, D] with autofaiss, save it,
    and return its recipe.

    autofaiss chooses the recipe by the number of vectors and by the `memory` that the index may
    take. Its tuning measures time, so two calls may differ: record the recipe. Building takes up to
    as much memory again. Raises RequestError when the memory is not enough.
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
        # Without it autofaiss would set this process to all cores, and leave it so.
        nb_cores=faiss.omp_get_max_threads(),
        verbose=logging.CRITICAL,  # the exception below says what matters
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
    """Turn vectors of any length and numeric type, [D] or [Q, D], into unit queries float32 [Q, D].

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
    """Set a saved index to the least effort with which it finds the share `recall_target` of the
    exact rows int64 [Q, K] of queries float32 [Q, D], or to its greatest effort if none does.

    Efforts double from 8 to 4,096. Each effort that was tried is returned with its recall and
    latency, the chosen one last. An index without an effort to set (Flat) gives one row. Unlike
    autofaiss's tuning, this choice does not depend on time.
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
    """The settings of an index to try, from the least effort on; [""] where nothing can be set."""
    is_wrapped = isinstance(index, faiss.IndexPreTransform)
    inner = faiss.downcast_index(index.index if is_wrapped else index)
    if isinstance(inner, faiss.IndexHNSW):
        name, most = "efSearch", 4096
    elif isinstance(inner, faiss.IndexIVF):
        name, most = "nprobe", inner.nlist  # lists to look into: no more than there are
    else:
        return [""]
    settings, effort = [], 8
    while effort <= 4096 and effort < 2 * most:
        settings.append(f"{name}={effort}")
        effort *= 2
    return settings


def measured_setting(index: Any, setting: str, queries: np.ndarray, exact: np.ndarray) -> Setting:
    """Measure a faiss index as it is set: recall of the exact rows int64 [Q, K], and latency.

    The queries float32 [Q, D] are searched one at a time.
    """
    rows_of_each, milliseconds = [], []
    for query in np.ascontiguousarray(queries, dtype=np.float32):
        began = time.perf_counter()
        _, rows = index.search(query[None], exact.shape[1])
        rows_of_each.append(rows[0])
        milliseconds.append(1000 * (time.perf_counter() - began))
    p50, p95 = np.quantile(milliseconds, [0.5, 0.95]).round(3).tolist()
    return Setting(setting, round(recall_at_k(np.stack(rows_of_each), exact), 4), p50, p95)


class Searcher:
    """Searches one database: by its approximate index if it has one, exactly otherwise."""

    def __init__(self, vectors: np.ndarray, faiss_file: Path | None = None) -> None:
        """Unit vectors float16 or float32 [N, D], and the file of an index over them, if any."""
        self.vectors = vectors
        self.index = faiss.read_index(str(faiss_file), faiss.IO_FLAG_MMAP) if faiss_file else None

    @property
    def candidates(self) -> int:
        """How many rows may be found."""
        return len(self.vectors)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Unit queries float32 [Q, D] -> rows int64 and scores float32 [Q, k], nearest first;
        NO_ROW where there are fewer.
        """
        if self.index is None:
            return self.search_all(queries, k)
        scores, rows = self.index.search(np.ascontiguousarray(queries, dtype=np.float32), k)
        return rows, np.where(rows == NO_ROW, NO_SCORE, scores).astype(np.float32)

    def search_all(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `search`, by comparing with every row, whatever index there is."""
        return search_exact(queries, self.vectors, k)


def recall_at_k(rows: np.ndarray, exact: np.ndarray) -> float:
    """Share of the exact rows int64 [Q, K] that `rows` int64 [Q, K] contains.

    NO_ROW does not count; the share is 1 where there is no exact row.
    """
    hits = 0
    for of_query, wanted_of_query in zip(rows, exact, strict=True):
        shared = set(of_query) & set(wanted_of_query)
        hits += len(shared - {NO_ROW})
    wanted = int((exact != NO_ROW).sum())
    return hits / wanted if wanted else 1.0
