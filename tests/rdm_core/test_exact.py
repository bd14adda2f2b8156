"""Search by a bound finds exactly what comparing everything finds, in any precision and on any data."""

import numpy as np
import pytest
import torch

from rdm_core import exact, search
from rdm_core.errors import RequestError
from rdm_core.exact import HALF, INT8, candidates, cheap_precision, first_thresholds, search_by_bound, search_by_bound_on

PRECISIONS = pytest.mark.parametrize("precision", [INT8, HALF], ids=lambda precision: precision.name)


def unit(count, dimension=64, seed=0, clusters=0):
    """Random unit vectors float32; around `clusters` centres, if any, so that many lie near to each other."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, dimension))
    if clusters:
        centres = np.random.default_rng(99).standard_normal((clusters, dimension))
        vectors = centres[rng.integers(0, clusters, count)] + 0.3 * vectors
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def by_hand(queries, vectors, k):
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(scores, rows, axis=1)


@PRECISIONS
@pytest.mark.parametrize("clusters", [0, 20], ids=["Gaussian", "clustered"])
@pytest.mark.parametrize("stored", [np.float16, np.float32])
@pytest.mark.parametrize("tile_rows, query_rows", [(500, 7), (4096, 64), (100_000, 1024)])
def test_nothing_is_missed(precision, clusters, stored, tile_rows, query_rows):
    queries, vectors = unit(40, seed=1, clusters=clusters), unit(3000, clusters=clusters).astype(stored)
    rows, scores = search_by_bound(queries, vectors, 12, precision, tile_rows=tile_rows, query_rows=query_rows)
    expected_rows, expected_scores = by_hand(queries, vectors, 12)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)
    assert (rows == expected_rows).mean() > 0.999, "scores within rounding may change places"
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)


@PRECISIONS
def test_equal_vectors_come_in_the_order_of_their_rows(precision):
    vectors = np.repeat(unit(100), 30, axis=0)
    rows, _ = search_by_bound(vectors[::300], vectors, 20, precision, tile_rows=512)
    np.testing.assert_array_equal(rows, 300 * np.arange(10)[:, None] + np.arange(20))


@PRECISIONS
def test_no_pair_above_the_threshold_is_left_out_of_the_candidates(precision, monkeypatch):
    """The bound itself, on vectors that lose much in int8: one large entry makes all others coarse."""
    vectors = unit(2000)
    vectors[::3, 5] += 20
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = torch.from_numpy(unit(50, seed=2))
    scores = (queries.double() @ torch.from_numpy(vectors).double().T).numpy()
    thresholds = torch.from_numpy(np.quantile(scores, 0.99, axis=1).astype(np.float32))
    reduced = precision.reduce(queries, False), precision.reduce(torch.from_numpy(vectors), True)
    monkeypatch.setattr(exact, "TOO_MANY", 1)
    places, rows = candidates(*reduced, thresholds, precision)
    given = np.zeros(scores.shape, bool)
    given[places.numpy(), rows.numpy()] = True
    assert given[scores >= thresholds.numpy()[:, None]].all()
    assert given.mean() < 0.9, "it does rule something out"


def test_the_first_thresholds_are_reached_by_the_k_nearest():
    queries, vectors = unit(30, seed=3), unit(20_000)
    thresholds = first_thresholds(torch.from_numpy(queries), vectors, 5, "cpu").numpy()
    assert (by_hand(queries, vectors, 5)[1][:, -1] >= thresholds).all() and thresholds.min() > 0


def test_a_tile_full_of_candidates_is_scored_whole(monkeypatch):
    whole = []
    every = exact._every_near
    monkeypatch.setattr(exact, "_every_near", lambda *given: whole.append(1) or every(*given))
    centre = np.tile(unit(1), (3000, 1)) + 0.001 * unit(3000, seed=4)
    vectors = (centre / np.linalg.norm(centre, axis=1, keepdims=True)).astype(np.float32)
    rows, scores = search_by_bound(vectors[:20], vectors, 5, INT8)
    np.testing.assert_allclose(scores, by_hand(vectors[:20], vectors, 5)[1], atol=1e-6)
    assert whole, "int8 cannot tell these apart"


def test_rows_split_over_devices_are_merged():
    queries, vectors = unit(20, seed=5), unit(1000)
    rows, scores = search_by_bound_on(["cpu", "cpu", "cpu"], queries, vectors, 10, HALF)
    expected_rows, expected_scores = by_hand(queries, vectors, 10)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)


def test_a_device_is_left_out_rather_than_given_fewer_rows_than_are_asked_for():
    queries, vectors = unit(20, seed=5), unit(25)
    rows, _ = search_by_bound_on(["cpu"] * 4, queries, vectors, 10, HALF)
    np.testing.assert_array_equal(rows, by_hand(queries, vectors, 10)[0])


def test_a_precision_is_chosen_by_measuring_and_only_where_it_is_twice_as_fast(monkeypatch):
    for times, chosen in (([1.0, 0.4], INT8), ([1.0, 0.6], None)):
        measured = iter(times)
        monkeypatch.setattr(exact, "shortest_seconds", lambda work, most=0.0, measured=measured: next(measured))
        assert cheap_precision.__wrapped__("cpu") is chosen


def test_a_large_search_goes_by_the_bound_where_it_pays(monkeypatch):
    queries, vectors = unit(40, seed=6), unit(3000).astype(np.float16)
    monkeypatch.setattr(search, "MANY_PAIRS", 1000)
    monkeypatch.setattr(search, "cheap_precision", lambda device: INT8)
    monkeypatch.setattr(search.faiss, "knn", None)
    rows, _ = search.search_exact(queries, vectors, 8)
    np.testing.assert_array_equal(rows, by_hand(queries, vectors, 8)[0])


@PRECISIONS
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused_instead_of_hiding_their_tile(precision, value):
    queries, vectors = unit(5, seed=1), unit(3000)
    vectors[1500, 3] = value
    with pytest.raises(RequestError, match="the rows 1,000 to 2,000 hold NaN or infinity"):
        search_by_bound(queries, vectors, 5, precision, tile_rows=1000)
    with pytest.raises(RequestError, match="the queries hold NaN"):
        search_by_bound(vectors[1498:1502], unit(3000), 5, precision)


@PRECISIONS
def test_a_database_of_copies_takes_no_more_memory_than_a_block(precision, monkeypatch):
    """Half of the rows are one image: all of them are candidates of a query that is near to it."""
    vectors = np.concatenate([np.repeat(unit(1), 3000, axis=0), unit(3000, seed=8)]).astype(np.float16)
    copied = []
    scored = exact._scored
    monkeypatch.setattr(exact, "PAIRS", 1000)
    monkeypatch.setattr(exact, "_scored", lambda q, t, pairs: copied.append(len(q) * len(t)) or scored(q, t, pairs))
    rows, scores = search_by_bound(np.repeat(unit(1), 200, axis=0), vectors, 10, precision, tile_rows=2000)
    np.testing.assert_array_equal(rows, np.tile(np.arange(10), (200, 1)))
    np.testing.assert_allclose(scores, 1, atol=1e-3)
    assert max(copied[:4]) == exact.WHOLE_QUERIES * 2000, "a whole tile is scored for a few queries at a time"


def test_int8_is_not_chosen_where_its_sums_saturate(monkeypatch):
    assert exact.int8_is_exact(), "on this machine"
    product = exact.int8_product
    monkeypatch.setattr(exact, "int8_product", lambda queries, rows: product(queries, rows).clamp(-(2**15), 2**15 - 1))
    monkeypatch.setattr(exact, "shortest_seconds", lambda work, most=0.0: 0.1 if most else 1.0)
    assert cheap_precision.__wrapped__("cpu") is None
