"""Retrieval for sampling: what each strategy gives the denoiser, and what is refused."""

import faiss
import numpy as np
import pytest

from rdm_core.errors import RequestError
from rdm_core.retrieve import (
    STRATEGIES,
    Context,
    Database,
    draw_pseudo_queries,
    neighbors_from_pool,
    neighbors_only,
    query_and_neighbors,
    query_only,
    retrieval_counts,
)
from rdm_core.search import NO_ROW, NO_SCORE, Searcher

ROWS, DIMENSION = 50, 8


def unit(count: int, seed: int) -> np.ndarray:
    """Random unit vectors float32 [count, DIMENSION]."""
    vectors = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


VECTORS, NORMS = unit(ROWS, seed=0), np.linspace(5, 15, ROWS, dtype=np.float32)
QUERIES, QUERY_NORMS = unit(3, seed=1), np.array([7, 8, 9], np.float32)


@pytest.fixture
def database() -> Database:
    """Fifty rows in half precision, as they are stored."""
    return Database(Searcher(VECTORS.astype(np.float16)), NORMS)


def nearest(k: int) -> np.ndarray:
    """Rows [3, k] by hand."""
    return np.argsort(-(QUERIES @ VECTORS.astype(np.float16).astype(np.float32).T), axis=1)[:, :k]


def check(context: Context, count: int, slots: int) -> None:
    """What holds for every context."""
    assert context.vectors.shape == (count, slots, DIMENSION)
    assert all(getattr(context, f).shape == (count, slots) for f in ("norms", "mask", "rows", "scores"))
    dtypes = [getattr(context, f).dtype for f in ("vectors", "norms", "mask", "rows", "scores")]
    assert dtypes == [np.float32, np.float32, np.bool_, np.int64, np.float32]
    np.testing.assert_allclose(np.linalg.norm(context.vectors, axis=-1), 1, atol=1e-6)


def test_the_query_alone_needs_no_database():
    context = query_only(QUERIES, QUERY_NORMS, None, 4)
    check(context, 3, 1)
    np.testing.assert_array_equal(context.vectors[:, 0], QUERIES)
    np.testing.assert_array_equal(context.norms[:, 0], QUERY_NORMS)
    assert context.mask.all()
    assert (context.rows == NO_ROW).all()
    assert (context.scores == 1).all()


def test_neighbors_are_the_nearest_rows_with_their_own_norms_and_not_the_query(database):
    context = neighbors_only(QUERIES, QUERY_NORMS, database, 4)
    check(context, 3, 4)
    np.testing.assert_array_equal(context.rows, nearest(4))
    np.testing.assert_allclose(context.vectors, VECTORS[nearest(4)], atol=1e-3)
    np.testing.assert_array_equal(context.norms, NORMS[nearest(4)])
    expected = np.einsum("bd,bkd->bk", QUERIES, VECTORS[nearest(4)])
    np.testing.assert_allclose(context.scores, expected, atol=1e-3)
    assert context.mask.all()


def test_query_and_neighbors_is_the_query_first_then_one_neighbor_less(database):
    context = query_and_neighbors(QUERIES, QUERY_NORMS, database, 4)
    check(context, 3, 4)
    np.testing.assert_array_equal(context.vectors[:, 0], QUERIES)
    np.testing.assert_array_equal(context.norms[:, 0], QUERY_NORMS)
    np.testing.assert_array_equal(context.rows, np.hstack([np.full((3, 1), NO_ROW), nearest(3)]))
    np.testing.assert_array_equal(context.scores[:, 0], 1)
    near = neighbors_only(QUERIES, QUERY_NORMS, database, 3)
    np.testing.assert_array_equal(context.scores[:, 1:], near.scores)
    np.testing.assert_array_equal(context.norms[:, 1:], near.norms)


def test_query_and_neighbors_with_k_1_is_the_query_alone_and_needs_no_database():
    context = query_and_neighbors(QUERIES, QUERY_NORMS, None, 1)
    check(context, 3, 1)
    np.testing.assert_array_equal(context.vectors[:, 0], QUERIES)


def test_the_strategies_are_known_by_name():
    found = [STRATEGIES[name] for name in ("query", "query+neighbors", "neighbors")]
    assert found == [query_only, query_and_neighbors, neighbors_only]
    assert len(STRATEGIES) == 3


@pytest.mark.parametrize("name", ["query+neighbors", "neighbors"])
def test_neighbors_without_a_database_are_refused(name):
    with pytest.raises(RequestError, match=r"database: this context needs neighbors.*context 'query'"):
        STRATEGIES[name](QUERIES, QUERY_NORMS, None, 4)


def test_more_neighbors_than_rows_are_refused(database):
    with pytest.raises(RequestError, match=r"k: 51 neighbors asked of a database of 50 rows.*smaller k"):
        neighbors_only(QUERIES, QUERY_NORMS, database, ROWS + 1)
    with pytest.raises(RequestError, match="k: 51 neighbors asked of a database of 50 rows"):
        query_and_neighbors(QUERIES, QUERY_NORMS, database, ROWS + 2)
    with pytest.raises(RequestError, match="k: 51 neighbors asked of a database of 50 rows"):
        neighbors_from_pool(QUERIES, database, ROWS + 1, 100, np.random.default_rng(0))
    assert neighbors_only(QUERIES, QUERY_NORMS, database, ROWS).mask.all()
    assert query_and_neighbors(QUERIES, QUERY_NORMS, database, ROWS + 1).mask.all()


def test_what_the_index_does_not_find_is_masked(tmp_path):
    index = faiss.index_factory(DIMENSION, "IVF4,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(VECTORS)
    index.add(VECTORS)
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    database = Database(Searcher(VECTORS, tmp_path / "index.faiss"), NORMS)
    context = neighbors_only(QUERIES, QUERY_NORMS, database, ROWS)
    assert not context.mask.all()
    np.testing.assert_array_equal(context.mask, context.rows != NO_ROW)
    np.testing.assert_array_equal(context.scores[~context.mask], NO_SCORE)
    assert np.isfinite(context.vectors).all()
    assert np.isfinite(context.norms).all()


def test_a_pool_gives_k_of_its_rows_nearest_first_and_by_seed(database):
    drawn = [neighbors_from_pool(QUERIES, database, 3, 10, np.random.default_rng(seed)) for seed in range(200)]
    again = neighbors_from_pool(QUERIES, database, 3, 10, np.random.default_rng(0))
    np.testing.assert_array_equal(again.rows, drawn[0].rows)
    assert len({context.rows.tobytes() for context in drawn}) > 100
    pool = nearest(10)
    for context in drawn[:20]:
        check(context, 3, 3)
        assert (np.diff(context.scores, axis=1) < 0).all(), "nearest first"
    for query in range(3):
        rows = np.stack([context.rows[query] for context in drawn])
        assert all(len(set(each)) == 3 for each in rows), "no row comes twice"
        counted = np.bincount(rows.ravel(), minlength=ROWS)
        assert set(np.flatnonzero(counted)) == set(pool[query]), "all of the pool and nothing else"
        assert counted[pool[query]].min() > 30, "60 of 200 draws are expected of each"


def test_each_query_draws_from_its_pool_on_its_own(database):
    same = np.repeat(QUERIES[:1], 20, axis=0)
    context = neighbors_from_pool(same, database, 3, 10, np.random.default_rng(0))
    assert len({row.tobytes() for row in context.rows}) > 10


def test_a_pool_may_be_the_whole_database_but_not_smaller_than_k(database):
    assert neighbors_from_pool(QUERIES, database, 3, 1000, np.random.default_rng(0)).mask.all()
    np.testing.assert_array_equal(
        neighbors_from_pool(QUERIES, database, 4, 4, np.random.default_rng(0)).rows, nearest(4), "a pool of k is the neighbors"
    )
    with pytest.raises(RequestError, match=r"pool: 3 rows cannot give 4 neighbors.*at least k"):
        neighbors_from_pool(QUERIES, database, 4, 3, np.random.default_rng(0))


def test_counts_say_how_often_each_row_was_retrieved():
    table = np.array([[0, 1, 2], [1, 2, NO_ROW], [2, NO_ROW, NO_ROW]])
    np.testing.assert_array_equal(retrieval_counts(table, 5), [1, 2, 3, 0, 0])


COUNTS = np.array([0, 5, 1, 5, 0, 9, 1, 2, 0, 1])
RANKED = [5, 1, 3, 7, 2, 6, 9]
"""Rows that were retrieved, most often first, equal counts by row."""


@pytest.mark.parametrize(("top_m", "kept"), [(1, 7), (5 / 7, 5), (0.5, 4), (2 / 7, 2), (0.2, 1), (0.001, 1)])
def test_pseudo_queries_are_drawn_among_the_share_most_often_retrieved(top_m, kept):
    drawn = draw_pseudo_queries(COUNTS, top_m, 500, np.random.default_rng(0), weighted=False)
    assert drawn.shape == (500,)
    assert set(drawn) == set(RANKED[:kept])


def test_pseudo_queries_are_uniform_or_weighted_by_count():
    uniform = draw_pseudo_queries(COUNTS, 1, 20_000, np.random.default_rng(0), weighted=False)
    weighted = draw_pseudo_queries(COUNTS, 1, 20_000, np.random.default_rng(0), weighted=True)
    retrieved = COUNTS > 0
    np.testing.assert_allclose(np.bincount(uniform, minlength=10) / 20_000, retrieved / retrieved.sum(), atol=0.015)
    np.testing.assert_allclose(np.bincount(weighted, minlength=10) / 20_000, COUNTS / COUNTS.sum(), atol=0.015)


def test_pseudo_queries_depend_on_the_seed_alone():
    first, again, other = (draw_pseudo_queries(COUNTS, 1, 50, np.random.default_rng(seed), True) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("top_m", [0, -0.1, 1.01, float("nan")])
def test_an_impossible_share_is_refused(top_m):
    with pytest.raises(RequestError, match=r"top_m: .* is not in \(0, 1\].*top 1 %"):
        draw_pseudo_queries(COUNTS, top_m, 5, np.random.default_rng(0), weighted=False)


def test_a_database_nothing_was_retrieved_from_has_no_proposal():
    with pytest.raises(RequestError, match=r"proposal: no database row was ever retrieved.*neighbor table"):
        draw_pseudo_queries(np.zeros(5, int), 1, 5, np.random.default_rng(0), weighted=False)
