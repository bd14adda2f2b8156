"""Search by a bound finds exactly what comparing everything finds, in any precision and on any
data.
"""

import numpy as np
import pytest
import torch

from rdm_core import exact, reduced, search
from rdm_core.errors import RequestError
from rdm_core.exact import Blocks, candidates, search_by_bound, search_by_bound_on
from rdm_core.reduced import HALF, INT8, Precision, int8_may_pay, int8_tile

PRECISIONS = pytest.mark.parametrize(
    "precision", [INT8, HALF], ids=lambda precision: precision.name
)


def unit(count, dimension=64, seed=0, clusters=0):
    """Random unit vectors float32; around `clusters` centres, if any, so that many lie near to each
    other.
    """
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


def blocks(rows=16_384, queries=256):
    return Blocks(rows, queries, 256)


@PRECISIONS
@pytest.mark.parametrize("clusters", [0, 20], ids=["Gaussian", "clustered"])
@pytest.mark.parametrize("stored", [np.float16, np.float32])
@pytest.mark.parametrize("tile_rows, query_rows", [(3001, 7), (4096, 64), (100_000, 1024)])
def test_nothing_is_missed(precision, clusters, stored, tile_rows, query_rows):
    queries, vectors = (
        unit(40, seed=1, clusters=clusters),
        unit(9000, clusters=clusters).astype(stored),
    )
    sizes = blocks(tile_rows, query_rows)
    rows, scores, given_up = search_by_bound(queries, vectors, 12, precision, blocks=sizes)
    assert given_up.mean() < 0.5, "most are searched"
    # What is given up is searched in another way: here only the others count.
    expected_rows, expected_scores = by_hand(queries[~given_up], vectors, 12)
    np.testing.assert_allclose(scores[~given_up], expected_scores, atol=1e-6)
    same = (rows[~given_up] == expected_rows).mean()
    assert same > 0.999, "scores within rounding may change places"
    assert (rows.dtype, scores.dtype, given_up.dtype) == (np.int64, np.float32, np.bool_)


@PRECISIONS
def test_equal_vectors_come_in_the_order_of_their_rows(precision):
    vectors = np.repeat(unit(1000), 30, axis=0)
    rows, _, given_up = search_by_bound(
        vectors[::3000], vectors, 20, precision, blocks=blocks(4096)
    )
    np.testing.assert_array_equal(rows, 3000 * np.arange(10)[:, None] + np.arange(20))
    assert not given_up.any()


def spiky(count):
    """Rows of which every twentieth loses much in int8: one large entry is clipped at 6 sigma."""
    vectors = unit(count)
    vectors[::20, 5] += 6
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@PRECISIONS
def test_every_row_that_is_no_candidate_is_below_the_threshold(precision):
    """The bound itself, on vectors that lose much, and with each query's k-th score at hand."""
    vectors, asked = spiky(2000), unit(50, seed=2)
    asked[:, 5] += 0.6
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    queries = precision.queries(torch.from_numpy(asked))
    tile = precision.tile(torch.from_numpy(vectors))
    scores = asked.astype(np.float64) @ vectors.astype(np.float64).T
    # The 20 best scores of each query, the best first: the last is the threshold to keep.
    known = torch.from_numpy(np.sort(scores, axis=1)[:, :-21:-1].astype(np.float32))
    (places, columns), thresholds = candidates(queries, tile, known, precision, 256)
    given = np.zeros(scores.shape, bool)
    given[places.numpy(), columns.numpy()] = True
    followed = ~thresholds.isinf().numpy()
    assert followed.mean() > 0.5, "most are followed"
    assert (thresholds.numpy()[followed] >= known[:, -1].numpy()[followed]).all()
    # No row at or above the threshold may be missing among the candidates.
    near = scores[followed] >= thresholds.numpy()[followed, None]
    assert near.any() and given[followed][near].all()
    assert given[followed].mean() < 0.6, "it does rule something out"
    assert not given[~followed].any()


def test_what_the_clip_takes_off_a_row_is_counted():
    rows = torch.from_numpy(spiky(2000))
    tile = int8_tile(rows)
    seen = tile.values.float() * tile.scale + tile.centre
    lost = (rows - seen).norm(dim=1)
    assert int((tile.values.abs() == 127).any(dim=1).sum()) == 100, "these are clipped"
    assert float(lost.amax()) > 0.05
    others = torch.ones(2000, dtype=torch.bool)
    others[tile.apart] = False
    assert float(tile.lost) >= float(lost[others].amax()) * (1 - 1e-5)
    assert float(tile.longest) >= float((rows - tile.centre).norm(dim=1).amax()) * (1 - 1e-5)


def test_the_few_rows_that_lose_most_widen_no_bound():
    vectors = unit(4096)
    vectors[[7, 1000, 4095]] = np.eye(64, dtype=np.float32)[[3, 4, 5]]
    tile = int8_tile(torch.from_numpy(vectors))
    assert {7, 1000, 4095} <= set(tile.apart.tolist())
    assert float(tile.lost) < 0.02
    rows, _, _ = search_by_bound(vectors[[7, 1000, 4095]], vectors, 3, INT8)
    np.testing.assert_array_equal(rows[:, 0], [7, 1000, 4095])


def near_to_each_other(count):
    centre = np.tile(unit(1), (count, 1)) + 0.0005 * unit(count, seed=4)
    return (centre / np.linalg.norm(centre, axis=1, keepdims=True)).astype(np.float32)


def test_queries_whose_rows_int8_cannot_tell_apart_are_given_up_and_no_others():
    vectors = np.concatenate([near_to_each_other(3000), unit(3000, seed=8)])
    queries = np.concatenate([vectors[:20], unit(20, seed=9)])
    vectors = vectors[np.random.default_rng(0).permutation(6000)]
    rows, scores, given_up = search_by_bound(queries, vectors, 5, INT8)
    np.testing.assert_array_equal(given_up, np.arange(40) < 20)
    np.testing.assert_allclose(scores[20:], by_hand(queries[20:], vectors, 5)[1], atol=1e-6)


def test_a_database_in_the_order_of_its_classes_is_searched_all_the_same():
    """The first tile says nothing of a class that fills another one."""
    centres = unit(12, seed=3)
    vectors = np.repeat(centres, 1000, axis=0) + unit(12_000)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    queries = vectors[5500:11_500:200]
    rows, scores, given_up = search_by_bound(queries, vectors, 5, INT8, blocks=blocks(4096))
    assert not given_up.any()
    np.testing.assert_allclose(scores, by_hand(queries, vectors, 5)[1], atol=1e-6)


def test_rows_split_over_devices_are_merged():
    queries, vectors = unit(20, seed=5), unit(6000)
    rows, scores, given_up = search_by_bound_on(["cpu", "cpu", "cpu"], queries, vectors, 10, HALF)
    expected_rows, expected_scores = by_hand(queries, vectors, 10)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)
    assert not given_up.any()


def test_a_query_that_one_device_gives_up_is_given_up():
    queries = np.concatenate([near_to_each_other(2), unit(2, seed=9)])
    vectors = np.concatenate([unit(3000), near_to_each_other(3000)])
    given_up = search_by_bound_on(["cpu", "cpu"], queries, vectors, 10, INT8)[2]
    np.testing.assert_array_equal(given_up, [True, True, False, False])


def test_a_device_is_left_out_rather_than_given_fewer_rows_than_are_asked_for(monkeypatch):
    asked = []
    by_bound = exact.search_by_bound
    monkeypatch.setattr(
        exact, "search_by_bound", lambda *given: asked.append(len(given[1])) or by_bound(*given)
    )
    search_by_bound_on(["cpu"] * 4, unit(20, seed=5), unit(25), 10, HALF)
    assert sorted(asked) == [12, 13]


def test_int8_may_pay_only_where_its_product_is_faster(monkeypatch):
    for times, pays in (([1.0, 0.9], True), ([1.0, 1.1], False)):
        measured = iter(times)
        monkeypatch.setattr(
            reduced, "shortest_seconds", lambda work, measured=measured: next(measured)
        )
        assert int8_may_pay.__wrapped__() is pays


def test_int8_is_not_taken_where_its_sums_saturate(monkeypatch):
    assert reduced.int8_is_exact(), "on this machine"
    product = reduced.int8_product
    monkeypatch.setattr(
        reduced,
        "int8_product",
        lambda queries, rows: product(queries, rows).clamp(-(2**15), 2**15 - 1),
    )
    measured = iter([1.0, 0.1])
    monkeypatch.setattr(reduced, "shortest_seconds", lambda work: next(measured))
    assert not int8_may_pay.__wrapped__()


@pytest.fixture
def large(monkeypatch):
    """Searches of this file's sizes count as large, and this CPU as one that multiplies int8."""
    monkeypatch.setattr(search, "MANY_PRODUCTS", 1000)
    monkeypatch.setattr(search.torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(search, "int8_may_pay", lambda: True)


def test_a_large_search_goes_by_the_bound_where_it_pays(large, monkeypatch):
    queries, vectors = unit(40, seed=6), unit(9000).astype(np.float16)
    monkeypatch.setattr(search, "int8_pays", lambda *given: True)
    monkeypatch.setattr(search.faiss, "knn", None)
    rows, _ = search.search_exact(queries, vectors, 8)
    np.testing.assert_array_equal(rows, by_hand(queries, vectors, 8)[0])


def test_queries_that_are_given_up_are_searched_in_fp32(large, monkeypatch):
    monkeypatch.setattr(search, "int8_pays", lambda *given: True)
    asked = []
    in_fp32 = search.search_in_fp32
    monkeypatch.setattr(
        search, "search_in_fp32", lambda q, *rest: asked.append(len(q)) or in_fp32(q, *rest)
    )
    vectors = np.concatenate([unit(6000), near_to_each_other(4000)])
    vectors = vectors[np.random.default_rng(0).permutation(10_000)]
    queries = np.concatenate([unit(5, seed=9), near_to_each_other(3), unit(5, seed=10)])
    rows, scores = search.search_exact(queries, vectors, 8)
    assert asked == [3]
    np.testing.assert_allclose(scores, by_hand(queries, vectors, 8)[1], atol=1e-6)


@pytest.mark.parametrize("slow", ["int8", "faiss"])
def test_the_faster_way_is_found_by_timing_both_on_the_data_at_hand(large, monkeypatch, slow):
    """The clock is what each is made to take; nothing else moves it."""
    now = [0.0]
    monkeypatch.setattr(search.time, "thread_time", lambda: now[0])
    monkeypatch.setattr(search.time, "perf_counter", lambda: now[0])
    seen = []

    def timed(name, seconds):
        real = getattr(search, name)

        def run(first, second, *rest):
            now[0] += seconds
            seen.append((name, first if name == "search_in_fp32" else first.exact.numpy()))
            return real(first, second, *rest)

        monkeypatch.setattr(search, name, run)

    timed("search_tile", 2.0 if slow == "int8" else 1.0)
    timed("search_in_fp32", 1.5)
    queries, vectors = unit(3200, seed=6), unit(3000)
    assert search.int8_pays(queries, vectors, 8) is (slow == "faiss")
    assert [name for name, _ in seen] == ["search_in_fp32"] + ["search_tile"] * (
        3 if slow == "int8" else 1
    )
    for _, tried in seen:
        assert len(tried) == search.FEWEST_TRIED
        assert (tried[0] == queries[0]).all() and (tried[-1] == queries[-1]).all(), "evenly spread"


def test_queries_that_would_be_given_up_count_against_int8(large, monkeypatch):
    now = iter(float(n) for n in range(100))  # each reading of the clock is a second later
    monkeypatch.setattr(search.time, "thread_time", lambda: next(now))
    monkeypatch.setattr(search.time, "perf_counter", lambda: next(now))
    assert not search.int8_pays(near_to_each_other(80), near_to_each_other(3000), 8)


def test_no_trial_is_made_where_int8_cannot_pay(large, monkeypatch):
    monkeypatch.setattr(search, "int8_may_pay", lambda: False)
    monkeypatch.setattr(search, "search_tile", None)
    assert not search.int8_pays(unit(80), unit(3000), 8)


@pytest.mark.parametrize("k, rows", [(search.MOST_NEIGHBORS + 1, 3000), (11, 10)])
def test_many_neighbors_are_searched_in_fp32(large, monkeypatch, k, rows):
    monkeypatch.setattr(search, "int8_pays", None)
    found, _ = search.search_exact(unit(400, seed=6), unit(rows), k)
    np.testing.assert_array_equal(
        found[:, : min(k, rows)], by_hand(unit(400, seed=6), unit(rows), k)[0]
    )


@PRECISIONS
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused_instead_of_hiding_their_tile(precision, value):
    queries, vectors = unit(5, seed=1), unit(3000)
    vectors[1500, 3] = value
    with pytest.raises(RequestError, match="the rows 1,000 to 2,000 hold NaN or infinity"):
        search_by_bound(queries, vectors, 5, precision, blocks=blocks(1000))
    with pytest.raises(RequestError, match="the queries hold NaN"):
        search_by_bound(vectors[1498:1502], unit(3000), 5, precision)


def test_no_product_is_larger_than_a_block_and_few_pairs_are_scored_at_once(monkeypatch):
    """Half of the rows are one image: all of them are near to a query that asks for it."""
    vectors = np.concatenate([np.repeat(unit(1), 3000, axis=0), unit(3000, seed=8)])
    vectors = vectors[np.random.default_rng(0).permutation(6000)].astype(np.float16)
    products = []
    watched = Precision(
        "int8", INT8.queries, INT8.tile,
        lambda q, x: products.append((len(q), len(x))) or INT8.product(q, x), 0.0,
    )  # fmt: skip
    queries = np.concatenate([unit(150, seed=9), np.repeat(unit(1), 150, axis=0)])
    given_up = search_by_bound(queries, vectors, 10, watched, blocks=blocks(2000, 100))[2]
    assert set(products) == {(100, 2000)}
    assert given_up[150:].all() and given_up[:150].mean() < 0.1
