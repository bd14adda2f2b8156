"""Search: exact is exact, own images are left out, an approximate index answers in the same
terms.
"""

import faiss
import numpy as np
import pytest

from rdm_core import search
from rdm_core.errors import RequestError
from rdm_core.search import (
    NO_ROW,
    NO_SCORE,
    Searcher,
    build_index,
    recall_at_k,
    rows_of_a_tile,
    search_exact,
    tune_index,
    unit_queries,
)


def unit(count: int, dimension: int = 32, seed: int = 0) -> np.ndarray:
    """Random unit vectors float32 [count, dimension]."""
    vectors = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_hand(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Every score, sorted; equal scores by row."""
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(scores, rows, axis=1)


@pytest.mark.parametrize("queries", [1, 7, 40], ids=lambda n: f"{n} queries")
@pytest.mark.parametrize("tile_rows", [1, 7, 100, 299, 300, 1000])
def test_exact_search_is_brute_force_whatever_the_tiles(queries, tile_rows):
    asked, vectors = unit(queries, seed=1), unit(300)
    rows, scores = search_exact(asked, vectors, 12, tile_rows)
    expected_rows, expected_scores = by_hand(asked, vectors, 12)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize("tile_rows", [7, 64, 1000])
@pytest.mark.parametrize("k", [1, 3, 7, 20, 120])
@pytest.mark.parametrize("queries", [3, 40], ids=lambda n: f"{n} queries")
def test_equal_scores_are_ordered_by_row_whatever_the_tiles(queries, k, tile_rows):
    # unit, all products exact
    corners = np.random.default_rng(0).integers(0, 2, (200, 4)).astype(np.float32) - 0.5
    rows, _ = search_exact(corners[:queries], corners, k, tile_rows)
    np.testing.assert_array_equal(rows, by_hand(corners[:queries], corners, k)[0])


def test_more_neighbors_than_rows_leaves_the_rest_empty():
    rows, scores = search_exact(unit(2), unit(3), 5, tile_rows=2)
    assert (rows[:, 3:] == NO_ROW).all()
    assert (scores[:, 3:] == NO_SCORE).all()
    assert sorted(rows[0, :3]) == [0, 1, 2]


def test_half_precision_from_a_memory_map_is_searched_as_stored(tmp_path):
    stored = np.memmap(tmp_path / "vectors.f16", dtype=np.float16, mode="w+", shape=(300, 32))
    stored[:] = unit(300)
    stored.flush()
    mapped = np.memmap(tmp_path / "vectors.f16", dtype=np.float16, mode="r", shape=(300, 32))
    rows, scores = search_exact(unit(5, seed=1), mapped, 10, tile_rows=64)
    expected_rows, expected_scores = by_hand(unit(5, seed=1), mapped, 10)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)


def test_an_index_that_autofaiss_builds_is_saved_and_finds_nearly_what_exact_search_finds(tmp_path):
    centres = unit(20)
    vectors = centres[np.arange(1500) % 20] + 0.3 * unit(1500, seed=2)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    threads = faiss.omp_get_max_threads()
    recipe = build_index(vectors, tmp_path / "index.faiss", memory="64M")
    assert recipe
    assert faiss.omp_get_max_threads() == threads, "the process is left as it was"
    queries = vectors[:100]
    found, scores = Searcher(vectors, tmp_path / "index.faiss").search(queries, 10)
    exact, exact_scores = search_exact(queries, vectors, 10)
    assert recall_at_k(found, exact) > 0.9
    assert (found.dtype, scores.dtype) == (np.int64, np.float32)
    np.testing.assert_allclose(
        scores[:, 0], exact_scores[:, 0], atol=1e-5, err_msg="a score is a cosine, larger is nearer"
    )
    assert (np.diff(scores, axis=1) <= 0).all()


def test_too_little_memory_for_an_index_is_refused(tmp_path):
    with pytest.raises(
        RequestError,
        match=r"1KB is not enough for an index over 1,200 vectors of dimension 32.*Give more",
    ):
        build_index(unit(1200), tmp_path / "index.faiss", memory="1KB")
    assert not (tmp_path / "index.faiss").exists()


@pytest.fixture
def inverted_lists(tmp_path):
    """The file of an index that looks at one of eight lists only, so that it finds less than is
    there.
    """
    index = faiss.index_factory(32, "IVF8,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(unit(400))
    index.add(unit(400))
    faiss.write_index(index, str(tmp_path / "index.faiss"))
    return tmp_path / "index.faiss"


def test_an_index_is_set_to_the_least_effort_that_reaches_the_recall_asked_for(inverted_lists):
    curve = tune_index(
        inverted_lists,
        unit(50, seed=3),
        search_exact(unit(50, seed=3), unit(400), 10)[0],
        recall_target=0.999,
    )
    assert curve[0].setting == "nprobe=8" and curve[-1].recall >= 0.999, "all eight lists"
    for setting in curve:
        assert 0 < setting.p50_milliseconds <= setting.p95_milliseconds
    found, _ = Searcher(unit(400), inverted_lists).search(unit(50, seed=3), 10)
    np.testing.assert_array_equal(
        found, search_exact(unit(50, seed=3), unit(400), 10)[0], "the setting is in the file"
    )


def test_a_graph_is_searched_harder_until_it_finds_enough_and_the_curve_rises(tmp_path):
    index = faiss.index_factory(32, "HNSW4", faiss.METRIC_INNER_PRODUCT)
    index.add(unit(3000))
    faiss.write_index(index, str(tmp_path / "i"))
    low = tune_index(
        tmp_path / "i",
        unit(100, seed=3),
        search_exact(unit(100, seed=3), unit(3000), 10)[0],
        recall_target=0.5,
    )
    high = tune_index(
        tmp_path / "i",
        unit(100, seed=3),
        search_exact(unit(100, seed=3), unit(3000), 10)[0],
        recall_target=0.9,
    )
    assert low[-1].recall >= 0.5 and high[-1].recall >= 0.9 and len(high) > len(low)
    assert [s.setting for s in high[:2]] == ["efSearch=8", "efSearch=16"]
    recalls = [setting.recall for setting in high]
    assert recalls == sorted(recalls)


def test_a_target_out_of_reach_leaves_the_most_effort_and_an_exhaustive_index_has_one_row(tmp_path):
    index = faiss.index_factory(32, "HNSW4", faiss.METRIC_INNER_PRODUCT)
    index.add(unit(200))
    faiss.write_index(index, str(tmp_path / "i"))
    curve = tune_index(
        tmp_path / "i",
        unit(20, seed=3),
        search_exact(unit(20, seed=3), unit(200), 10)[0],
        recall_target=1.1,
    )
    assert curve[-1].setting == "efSearch=4096"
    flat = faiss.IndexFlatIP(32)
    flat.add(unit(200))
    faiss.write_index(flat, str(tmp_path / "flat"))
    (only,) = tune_index(
        tmp_path / "flat",
        unit(20, seed=3),
        search_exact(unit(20, seed=3), unit(200), 10)[0],
        recall_target=1.0,
    )
    assert (only.setting, only.recall) == ("exhaustive", 1.0)


def test_a_searcher_maps_its_index_instead_of_reading_it(inverted_lists):
    searcher = Searcher(unit(400), inverted_lists)
    lists = faiss.downcast_InvertedLists(faiss.extract_index_ivf(searcher.index).invlists)
    assert isinstance(lists, faiss.OnDiskInvertedLists)


def test_what_an_index_does_not_find_is_empty(inverted_lists):
    rows, scores = Searcher(unit(400), inverted_lists).search(unit(3, seed=9), 300)
    assert (rows == NO_ROW).any()
    np.testing.assert_array_equal(scores == NO_SCORE, rows == NO_ROW)


def test_a_searcher_without_index_is_exact():
    rows, scores = Searcher(unit(300)).search(unit(4, seed=1), 9)
    np.testing.assert_array_equal(rows, by_hand(unit(4, seed=1), unit(300), 9)[0])
    assert scores.dtype == np.float32


def test_recall_is_the_share_of_exact_rows_found():
    exact = np.array([[0, 1, 2, 3], [4, 5, NO_ROW, NO_ROW]])
    assert recall_at_k(exact, exact) == 1
    assert recall_at_k(exact[:, ::-1], exact) == 1, "order does not count"
    assert recall_at_k(
        np.array([[0, 1, 8, 9], [4, NO_ROW, NO_ROW, NO_ROW]]), exact
    ) == pytest.approx(3 / 6)
    assert recall_at_k(np.full((2, 4), NO_ROW), exact) == 0
    assert recall_at_k(exact, np.full((2, 4), NO_ROW)) == 1, "there was nothing to find"


def test_vectors_from_outside_become_unit_queries():
    raw = 5 * unit(3)
    np.testing.assert_allclose(unit_queries(raw, 32, "here"), unit(3), atol=1e-6)
    assert unit_queries(raw[0], 32, "here").shape == (1, 32)
    assert unit_queries(np.full(32, 1e30, np.float32), 32, "here")[0, 0] == pytest.approx(
        32**-0.5
    ), "no overflow"


@pytest.mark.parametrize(
    "vectors, told",
    [
        (np.zeros(32), "vector 0 has no direction"),
        (np.full(32, np.inf), "no direction"),
        (np.ones(31), "a query has 32 numbers"),
    ],
)
def test_vectors_without_a_direction_are_refused(vectors, told):
    with pytest.raises(RequestError, match=f"here: .*{told}"):
        unit_queries(vectors, 32, "here")


def test_a_tile_is_all_rows_that_need_no_conversion_and_may_be_held(monkeypatch):
    vectors = np.zeros((1000, 64), np.float32)
    assert rows_of_a_tile(vectors) == 1000
    assert rows_of_a_tile(vectors.astype(np.float16)) == 256 * 2**20 // (4 * 64)
    monkeypatch.setattr(search, "HELD_BYTES", vectors.nbytes - 1)
    monkeypatch.setattr(search, "TILE_BYTES", 4 * 64 * 10)
    assert rows_of_a_tile(vectors) == rows_of_a_tile(vectors.astype(np.float16)) == 10
