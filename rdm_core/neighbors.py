"""Neighbors of queries for a table: the nearest rows, without those that are no neighbors.

Q queries, N rows of a database, D dimensions of an encoder, C rows that are looked at for a query.
Left out are rows of the query's own group, near-duplicates of the query, and near-duplicates of a
neighbor that is taken already.
"""

from collections.abc import Callable

import numpy as np

from rdm_core.search import NO_ROW, NO_SCORE, TILE_BYTES, search_exact
from rdm_core.selection import chosen_vectors, search_among

EXTRA_ROWS = 8
"""Rows that are looked up beyond k at first, as some will be left out. Queries that need more are
searched again.
"""
APART_ROWS = 3
"""Times k that are looked up beyond k at first, where neighbors must not be alike."""
MOST_APART_ROWS = 64
"""Times k: where neighbors must not be alike, no more candidates than these are compared."""

LookUp = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""Places of some queries int64 [P], and a count -> rows int64 and scores float32 [P, count], the
nearest first; NO_ROW and NO_SCORE where there are fewer.
"""


def search_neighbors(
    queries: np.ndarray,
    query_groups: np.ndarray,
    vectors: np.ndarray,
    database_groups: np.ndarray,
    k: int,
    score_cap: float = 1.0,
    most_alike: float = 1.0,
    look_up: LookUp | None = None,
    within: tuple[np.ndarray, np.ndarray] | None = None,
    candidates: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Exact neighbors of unit queries [Q, D] in unit vectors [N, D], without banned rows.

    Returns rows int64 and scores float32 [Q, k] as `search_exact` does, or by `look_up` where the
    nearest are not those of the vectors. Banned are rows of the query's own group and, with a cap
    below 1, near-duplicates, whose cosine with the query is above the cap. With `most_alike` below
    1 neighbors are taken one by one from the nearest on, and rows whose cosine with the query or
    with one that is taken is above it are passed over (RA-CM3, arXiv 2211.12561, section 3.2);
    of the nearest MOST_APART_ROWS k. Groups are object arrays [Q] and [N], or [Q, G] and [N, G] for
    G kinds of groups: crops of one image, works of one author; None is no group. With `within`,
    values [Q] and [N], rows of another value than the query's are banned too. With candidates, rows
    int64 [M] that rise, no other row is a neighbor; `look_up` is to know that by itself. A query
    that gets fewer than k rows is searched again for more.
    """
    nearest = look_up or _by_vectors(queries, vectors, candidates)
    cap, is_apart = min(score_cap, most_alike), most_alike < 1
    most = len(vectors) if candidates is None else len(candidates)
    if is_apart:
        most = min(most, MOST_APART_ROWS * k)
    rows = np.full((len(queries), k), NO_ROW, dtype=np.int64)
    scores = np.full((len(queries), k), NO_SCORE, dtype=np.float32)
    query_groups = query_groups.astype(object).reshape(len(query_groups), -1)
    database_groups = database_groups.astype(object).reshape(len(database_groups), -1)
    pending = np.arange(len(queries))
    extra = max(EXTRA_ROWS, APART_ROWS * k) if is_apart else EXTRA_ROWS
    while len(pending):
        looked_up = min(k + extra, most)
        near_rows, near_scores = nearest(pending, max(looked_up, k))
        banned = _in_group(query_groups[pending], database_groups, near_rows)
        if within is not None:
            banned |= within[1][near_rows] != within[0][pending][:, None]
        if cap < 1:
            cosines = near_scores
            if look_up is not None:
                cosines = _cosines(queries[pending], vectors, near_rows)
            banned |= cosines > cap
        banned &= near_rows != NO_ROW
        if is_apart:
            banned |= _alike(vectors, near_rows, banned, k, most_alike)
        # A stable sort moves banned rows to the end and keeps the order of the others.
        order = np.argsort(banned, axis=1, kind="stable")[:, :k]
        banned = np.take_along_axis(banned, order, 1)
        rows[pending] = np.where(banned, NO_ROW, np.take_along_axis(near_rows, order, 1))
        scores[pending] = np.where(banned, NO_SCORE, np.take_along_axis(near_scores, order, 1))
        # Look up more rows for queries that got fewer than k, unless all rows were looked up.
        pending = pending[banned.any(axis=1)] if looked_up < most else pending[:0]
        extra *= 4
    return rows, scores


def _by_vectors(queries: np.ndarray, vectors: np.ndarray, candidates: np.ndarray | None) -> LookUp:
    """Looks up the nearest vectors [N, D] of some of the queries [Q, D], among the candidates."""
    chosen = None if candidates is None else chosen_vectors(vectors, candidates)

    def look_up(places: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        if candidates is None:
            return search_exact(queries[places], vectors, count)
        return search_among(queries[places], chosen, candidates, count)

    return look_up


def taken_in_turns(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Rows int64 and scores float32 [Q, k] of two searches, nearest first -> as many of both, a row
    of the first and one of the second in turns, each row once; where one has no more, the other's.
    """
    rows = np.full(first[0].shape, NO_ROW, dtype=np.int64)
    scores = np.full(rows.shape, NO_SCORE, dtype=np.float32)
    for query in range(len(rows)):
        taken: dict[int, float] = {}
        lists = []
        for found, of_found in (first, second):
            pairs = zip(found[query].tolist(), of_found[query].tolist(), strict=True)
            lists.append([pair for pair in pairs if pair[0] != NO_ROW])
        while len(taken) < rows.shape[1] and any(lists):
            for left in lists:
                while left and left[0][0] in taken:
                    left.pop(0)
                if left and len(taken) < rows.shape[1]:
                    row, score = left.pop(0)
                    taken[row] = score
        rows[query, : len(taken)] = list(taken)
        scores[query, : len(taken)] = list(taken.values())
    return rows, scores


def _in_group(
    query_groups: np.ndarray, database_groups: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Whether each row int64 [Q, K] is of its query's own group, in any kind: bool [Q, K].

    Groups are object arrays [Q, G] and [N, G].
    """
    own = np.zeros(rows.shape, bool)
    for of_queries, of_database in zip(query_groups.T, database_groups.T, strict=True):
        is_group = np.array([group is not None for group in of_queries], bool)
        own |= (of_database[rows] == of_queries[:, None]) & is_group[:, None]
    return own


def _cosines(queries: np.ndarray, vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Cosines float32 [Q, C] of queries [Q, D] with rows int64 [Q, C] of the vectors [N, D]; any
    number for NO_ROW.
    """
    cosines = np.empty(rows.shape, np.float32)
    for part in _parts(rows, vectors):
        cosines[part] = np.einsum("qcd,qd->qc", _candidates(vectors, rows[part]), queries[part])
    return cosines


def _alike(
    vectors: np.ndarray, rows: np.ndarray, banned: np.ndarray, k: int, most_alike: float
) -> np.ndarray:
    """Which of the rows int64 [Q, C], nearest first, are too like one that is taken before them:
    bool [Q, C]. Rows behind the k-th that is taken may be anything.

    Banned ones, bool [Q, C], are never taken.
    """
    alike = np.zeros(rows.shape, bool)
    for part in _parts(rows, vectors):
        candidates = _candidates(vectors, rows[part])
        free = ~banned[part] & (rows[part] != NO_ROW)
        queries = np.arange(len(free))
        for _ in range(k):
            first, is_there = free.argmax(axis=1), free.any(axis=1)
            free[queries, first] = False
            cosines = np.einsum("qcd,qd->qc", candidates, candidates[queries, first])
            too_alike = free & (cosines > most_alike) & is_there[:, None]
            alike[part] |= too_alike
            free &= ~too_alike
    return alike


def _parts(rows: np.ndarray, vectors: np.ndarray) -> list[slice]:
    """So many of the rows int64 [Q, C] at a time that their vectors fit into TILE_BYTES."""
    at_once = max(1, TILE_BYTES // (4 * max(1, rows.shape[1]) * vectors.shape[1]))
    return [slice(start, start + at_once) for start in range(0, len(rows), at_once)]


def _candidates(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Vectors float32 [Q, C, D] of rows int64 [Q, C]; those of the first row for NO_ROW."""
    return np.asarray(vectors[np.maximum(rows, 0)], dtype=np.float32)
