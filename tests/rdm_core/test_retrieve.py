"""Retrieval for sampling: what each strategy gives the denoiser, and what is refused."""

from dataclasses import replace

import faiss
import numpy as np
import pytest

from rdm_core.context import ABSENT, NEIGHBOR, QUERY, TEXT
from rdm_core.errors import RequestError
from rdm_core.retrieve import (
    STRATEGIES,
    Database,
    Queries,
    Retrieved,
    draw_pseudo_queries,
    interpolated,
    joined,
    neighbors_from_pool,
    neighbors_only,
    query_and_neighbors,
    query_only,
    retrieval_counts,
)
from rdm_core.search import NO_ROW, NO_SCORE, Searcher
from rdm_core.words import WordIndex

ROWS, DIMENSION = 50, 8


def unit(count: int, seed: int) -> np.ndarray:
    """Random unit vectors float32 [count, DIMENSION]."""
    vectors = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


VECTORS, NORMS = unit(ROWS, seed=0), np.linspace(5, 15, ROWS, dtype=np.float32)
QUERIES = Queries(unit(3, seed=1), np.array([7, 8, 9], np.float32), texts=True)
IMAGES = Queries(QUERIES.vectors, QUERIES.norms, texts=False)
FIELDS = ("vectors", "norms", "slots", "rows", "scores")


@pytest.fixture
def database() -> Database:
    """Fifty rows in half precision, as they are stored."""
    return Database(Searcher(VECTORS.astype(np.float16)), NORMS)


def nearest(k: int) -> np.ndarray:
    """Rows [3, k] by hand."""
    return np.argsort(-(QUERIES.vectors @ VECTORS.astype(np.float16).astype(np.float32).T), axis=1)[
        :, :k
    ]


def check(found: Retrieved, count: int, slots: int) -> None:
    """Check what holds for all contexts, whatever the strategy."""
    assert len(found) == count
    assert found.vectors.shape == (count, slots, DIMENSION)
    types = (np.float32, np.float32, np.int8, np.int64, np.float32)
    for name, dtype in zip(FIELDS, types, strict=True):
        array = getattr(found, name)
        assert array.dtype == dtype, name
        assert array.shape[:2] == (count, slots), name
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=-1), 1, atol=1e-6)


def same(a: Retrieved, b: Retrieved) -> bool:
    """Equal in everything."""
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


@pytest.mark.parametrize(
    ("queries", "kind"), [(QUERIES, TEXT), (IMAGES, QUERY)], ids=["text", "image"]
)
def test_the_query_alone_needs_no_database(queries, kind):
    found = query_only(queries, None, 4)
    check(found, 3, 1)
    np.testing.assert_array_equal(found.vectors[:, 0], QUERIES.vectors)
    np.testing.assert_array_equal(found.norms[:, 0], QUERIES.norms)
    assert (found.slots == kind).all()
    assert (found.rows == NO_ROW).all()
    assert (found.scores == 1).all()


def test_neighbors_are_the_nearest_rows_with_their_own_norms_and_not_the_query(database):
    found = neighbors_only(QUERIES, database, 4)
    check(found, 3, 4)
    np.testing.assert_array_equal(found.rows, nearest(4))
    np.testing.assert_allclose(found.vectors, VECTORS[nearest(4)], atol=1e-3)
    np.testing.assert_array_equal(found.norms, NORMS[nearest(4)])
    expected = np.einsum("bd,bkd->bk", QUERIES.vectors, VECTORS[nearest(4)])
    np.testing.assert_allclose(found.scores, expected, atol=1e-3)
    assert (found.slots == NEIGHBOR).all()
    assert same(neighbors_only(IMAGES, database, 4), found)


@pytest.mark.parametrize(
    ("queries", "kind"), [(QUERIES, TEXT), (IMAGES, QUERY)], ids=["text", "image"]
)
def test_query_and_neighbors_is_the_query_first_then_one_neighbor_less(queries, kind, database):
    found = query_and_neighbors(queries, database, 4)
    check(found, 3, 4)
    assert same(found, joined(query_only(queries, None, 1), neighbors_only(queries, database, 3)))
    np.testing.assert_array_equal(found.rows, np.hstack([np.full((3, 1), NO_ROW), nearest(3)]))
    np.testing.assert_array_equal(found.slots, [[kind, NEIGHBOR, NEIGHBOR, NEIGHBOR]] * 3)


def test_query_and_neighbors_with_k_1_is_the_query_alone_and_needs_no_database():
    assert same(query_and_neighbors(QUERIES, None, 1), query_only(QUERIES, None, 1))


def test_the_strategies_are_known_by_name():
    found = [STRATEGIES[name] for name in ("query", "query+neighbors", "neighbors")]
    assert found == [query_only, query_and_neighbors, neighbors_only]
    assert len(STRATEGIES) == 3


@pytest.mark.parametrize("name", ["query+neighbors", "neighbors"])
def test_neighbors_without_a_database_are_refused(name):
    with pytest.raises(
        RequestError, match=r"database: this context needs neighbors.*context 'query'"
    ):
        STRATEGIES[name](QUERIES, None, 4)


def test_more_neighbors_than_rows_are_refused(database):
    with pytest.raises(
        RequestError, match=r"k: 51 neighbors asked of a database of 50 rows.*smaller k"
    ):
        neighbors_only(QUERIES, database, ROWS + 1)
    with pytest.raises(RequestError, match="k: 51 neighbors asked of a database of 50 rows"):
        query_and_neighbors(QUERIES, database, ROWS + 2)
    with pytest.raises(RequestError, match="k: 51 neighbors asked of a database of 50 rows"):
        neighbors_from_pool(QUERIES, database, ROWS + 1, 100, np.random.default_rng(0))
    for found in (
        neighbors_only(QUERIES, database, ROWS),
        query_and_neighbors(QUERIES, database, ROWS + 1),
    ):
        assert (found.slots != ABSENT).all()


def test_neighbors_that_are_alike_are_passed_over_where_it_is_asked(database):
    twice = np.concatenate([VECTORS, VECTORS])  # every row has a double
    doubled = Database(Searcher(twice), np.concatenate([NORMS, NORMS]))
    plain = neighbors_only(QUERIES, doubled, 4)
    assert (plain.rows[:, 1] == plain.rows[:, 0] + ROWS).all()
    apart = neighbors_only(QUERIES, replace(doubled, most_alike=0.999), 4)
    np.testing.assert_array_equal(apart.rows % ROWS, nearest(4))
    own = Queries(VECTORS[:3], NORMS[:3], texts=False)
    found = neighbors_only(own, replace(doubled, most_alike=0.999), 2)
    assert not (found.rows % ROWS == np.arange(3)[:, None]).any(), "nor the query itself"
    np.testing.assert_allclose(
        found.scores, (found.vectors * own.vectors[:, None]).sum(axis=2), atol=1e-6
    )


def test_words_find_no_two_that_are_alike_where_it_is_asked():
    words = WordIndex([["a red ring"]] * 2 + [["a red star"]])
    alike = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    database = Database(Searcher(alike), np.ones(3), words, most_alike=0.9)
    asked = Queries(np.array([[0.6, 0.8]], np.float32), np.ones(1), True, [["red", "ring"]])
    found = neighbors_only(asked, database, 2)
    assert found.rows.tolist() == [[0, 2]]
    plain = neighbors_only(asked, replace(database, most_alike=1.0), 2)
    assert plain.rows.tolist() == [[0, 1]]


def test_what_the_index_does_not_find_is_absent(tmp_path):
    index = faiss.index_factory(DIMENSION, "IVF4,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(VECTORS)
    index.add(VECTORS)
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    database = Database(Searcher(VECTORS, tmp_path / "index.faiss"), NORMS)
    found = neighbors_only(QUERIES, database, ROWS)
    absent = found.rows == NO_ROW
    assert absent.any()
    np.testing.assert_array_equal(found.slots, np.where(absent, ABSENT, NEIGHBOR))
    np.testing.assert_array_equal(found.context.mask, ~absent)
    np.testing.assert_array_equal(found.scores[absent], NO_SCORE)
    assert np.isfinite(found.vectors).all()
    assert np.isfinite(found.norms).all()


def test_a_pool_gives_k_of_its_rows_nearest_first_and_by_seed(database):
    drawn = [
        neighbors_from_pool(QUERIES, database, 3, 10, np.random.default_rng(seed))
        for seed in range(200)
    ]
    again = neighbors_from_pool(QUERIES, database, 3, 10, np.random.default_rng(0))
    np.testing.assert_array_equal(again.rows, drawn[0].rows)
    assert len({found.rows.tobytes() for found in drawn}) > 100
    pool = nearest(10)
    for found in drawn[:20]:
        check(found, 3, 3)
        assert (found.slots == NEIGHBOR).all()
        assert (np.diff(found.scores, axis=1) < 0).all(), "nearest first"
    # Over 200 draws every row of the pool comes, about equally often.
    for query in range(3):
        rows = np.stack([found.rows[query] for found in drawn])
        for of_image in rows:
            assert len(set(of_image)) == 3, "no row comes twice"
        counted = np.bincount(rows.ravel(), minlength=ROWS)
        assert set(np.flatnonzero(counted)) == set(pool[query]), "all of the pool and nothing else"
        assert counted[pool[query]].min() > 30, "60 of 200 draws are expected of each"


def test_each_query_draws_from_its_pool_on_its_own(database):
    found = neighbors_from_pool(
        QUERIES.take(np.zeros(20, int)), database, 3, 10, np.random.default_rng(0)
    )
    assert len({row.tobytes() for row in found.rows}) > 10


def test_a_pool_may_be_the_whole_database_but_not_smaller_than_k(database):
    assert (
        neighbors_from_pool(QUERIES, database, 3, 1000, np.random.default_rng(0)).slots == NEIGHBOR
    ).all()
    np.testing.assert_array_equal(
        neighbors_from_pool(QUERIES, database, 4, 4, np.random.default_rng(0)).rows,
        nearest(4),
        "a pool of k is the neighbors",
    )
    with pytest.raises(RequestError, match=r"pool: 3 rows cannot give 4 neighbors.*at least k"):
        neighbors_from_pool(QUERIES, database, 4, 3, np.random.default_rng(0))


# -- putting together and taking apart


def test_what_the_denoiser_is_given_is_what_was_retrieved(database):
    found = query_and_neighbors(QUERIES, database, 4)
    for name in ("vectors", "norms", "slots", "scores"):
        np.testing.assert_array_equal(getattr(found.context, name), getattr(found, name))


def test_joined_contexts_lie_side_by_side(database):
    parts = [
        query_only(IMAGES, None, 1),
        neighbors_only(QUERIES, database, 2),
        query_only(QUERIES, None, 1),
    ]
    together = joined(*parts)
    check(together, 3, 4)
    np.testing.assert_array_equal(together.slots, [[QUERY, NEIGHBOR, NEIGHBOR, TEXT]] * 3)
    for name in FIELDS:
        for at, part in zip((slice(0, 1), slice(1, 3), slice(3, 4)), parts, strict=True):
            np.testing.assert_array_equal(getattr(together, name)[:, at], getattr(part, name))


def test_queries_of_one_vector_each_become_one_set_of_them_all():
    together = query_only(IMAGES, None, 1).as_one_set()
    check(together, 1, 3)
    np.testing.assert_array_equal(together.vectors[0], IMAGES.vectors)
    np.testing.assert_array_equal(together.norms[0], IMAGES.norms)
    assert (together.slots == QUERY).all()
    assert (together.rows == NO_ROW).all()


def test_contexts_and_queries_are_taken_in_any_order_and_number(database):
    chosen = np.array([2, 0, 0, 1])
    found = neighbors_only(QUERIES, database, 4)
    assert same(found.take(chosen), neighbors_only(QUERIES.take(chosen), database, 4))
    assert QUERIES.take(chosen).texts
    assert not IMAGES.take(chosen).texts
    np.testing.assert_array_equal(QUERIES.take(chosen).norms, [9, 7, 7, 8])


# -- between two queries

SHARES = [0.0, 0.25, 0.5, 1.0]
OTHERS = Queries(unit(3, seed=2), np.array([11, 10, 9], np.float32), texts=True)


def between(a: Queries, b: Queries) -> np.ndarray:
    """The interpolated vectors [3, 4, D]."""
    found = interpolated(a, b, SHARES)
    assert found.vectors.dtype == np.float32
    return found.vectors.reshape(3, len(SHARES), DIMENSION)


def test_between_two_queries_both_ends_are_exact():
    found = between(QUERIES, OTHERS)
    np.testing.assert_allclose(found[:, 0], QUERIES.vectors, atol=1e-6)
    np.testing.assert_allclose(found[:, -1], OTHERS.vectors, atol=1e-6)


def test_between_two_queries_lies_the_great_circle_at_even_speed():
    found = between(QUERIES, OTHERS)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-6)
    angles = np.arccos(np.clip(np.einsum("qd,qsd->qs", QUERIES.vectors, found), -1, 1))
    whole = np.arccos((QUERIES.vectors * OTHERS.vectors).sum(axis=1))
    np.testing.assert_allclose(angles, whole[:, None] * SHARES, atol=2e-3)
    for query in range(3):
        plane = np.linalg.svd(
            np.stack([QUERIES.vectors[query], OTHERS.vectors[query]]), full_matrices=False
        )[2]
        np.testing.assert_allclose(found[query] @ plane.T @ plane, found[query], atol=1e-6)


def test_between_two_queries_norms_are_mixed_and_a_text_stays_a_text():
    found = interpolated(QUERIES, OTHERS, SHARES)
    np.testing.assert_allclose(
        found.norms.reshape(3, 4), [[7, 8, 9, 11], [8, 8.5, 9, 10], [9, 9, 9, 9]]
    )
    assert found.texts
    assert not interpolated(IMAGES, IMAGES, SHARES).texts


def test_between_two_equal_queries_there_is_only_that_query():
    nearly = QUERIES.vectors + 1e-6
    nearly = Queries(
        nearly / np.linalg.norm(nearly, axis=1, keepdims=True), QUERIES.norms, texts=True
    )
    for other in (QUERIES, nearly):
        for step in range(len(SHARES)):
            np.testing.assert_allclose(between(QUERIES, other)[:, step], QUERIES.vectors, atol=1e-5)


# -- pseudo-queries


def test_counts_say_how_often_each_row_was_retrieved():
    table = np.array([[0, 1, 2], [1, 2, NO_ROW], [2, NO_ROW, NO_ROW]])
    np.testing.assert_array_equal(retrieval_counts(table, 5), [1, 2, 3, 0, 0])


COUNTS = np.array([0, 5, 1, 5, 0, 9, 1, 2, 0, 1])
RANKED = [5, 1, 3, 7, 2, 6, 9]
"""Rows that were retrieved, most often first, equal counts by row."""


@pytest.mark.parametrize(
    ("top_m", "kept"), [(1, 7), (5 / 7, 5), (0.5, 4), (2 / 7, 2), (0.2, 1), (0.001, 1)]
)
def test_pseudo_queries_are_drawn_among_the_share_most_often_retrieved(top_m, kept):
    drawn = draw_pseudo_queries(COUNTS, top_m, 500, np.random.default_rng(0), weighted=False)
    assert drawn.shape == (500,)
    assert set(drawn) == set(RANKED[:kept])


def test_pseudo_queries_are_uniform_or_weighted_by_count():
    uniform = draw_pseudo_queries(COUNTS, 1, 20_000, np.random.default_rng(0), weighted=False)
    weighted = draw_pseudo_queries(COUNTS, 1, 20_000, np.random.default_rng(0), weighted=True)
    retrieved = COUNTS > 0
    np.testing.assert_allclose(
        np.bincount(uniform, minlength=10) / 20_000, retrieved / retrieved.sum(), atol=0.015
    )
    np.testing.assert_allclose(
        np.bincount(weighted, minlength=10) / 20_000, COUNTS / COUNTS.sum(), atol=0.015
    )


def test_pseudo_queries_depend_on_the_seed_alone():
    first = draw_pseudo_queries(COUNTS, 1, 50, np.random.default_rng(0), True)
    again = draw_pseudo_queries(COUNTS, 1, 50, np.random.default_rng(0), True)
    other = draw_pseudo_queries(COUNTS, 1, 50, np.random.default_rng(1), True)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("top_m", [0, -0.1, 1.01, float("nan")])
def test_an_impossible_share_is_refused(top_m):
    with pytest.raises(RequestError, match=r"top_m: .* is not in \(0, 1\].*top 1 %"):
        draw_pseudo_queries(COUNTS, top_m, 5, np.random.default_rng(0), weighted=False)


def test_a_database_nothing_was_retrieved_from_has_no_proposal():
    with pytest.raises(
        RequestError, match=r"proposal: no database row was ever retrieved.*neighbor table"
    ):
        draw_pseudo_queries(np.zeros(5, int), 1, 5, np.random.default_rng(0), weighted=False)
