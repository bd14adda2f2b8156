"""Neighbors for a table: own images, near-duplicates and neighbors that are alike are left out."""

import numpy as np

from rdm_core import neighbors
from rdm_core.neighbors import search_neighbors, taken_in_turns
from rdm_core.search import NO_ROW, NO_SCORE, search_exact


def unit(count: int, dimension: int = 32, seed: int = 0) -> np.ndarray:
    """Random unit vectors float32 [count, dimension]."""
    vectors = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def crops(images: int, most: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of 1..most crops of each image, crops of one image near each other, and the image
    each came from.
    """
    rng = np.random.default_rng(seed)
    sources = np.repeat(np.arange(images), rng.integers(1, most + 1, images))
    vectors = unit(images)[sources] + 0.05 * rng.standard_normal((len(sources), 32)).astype(
        np.float32
    )
    order = rng.permutation(len(sources))
    vectors = vectors[order] / np.linalg.norm(vectors[order], axis=1, keepdims=True)
    return vectors, np.array([f"image-{i}" for i in sources[order]])


def test_neighbors_leave_out_every_crop_of_the_querys_own_image_and_are_still_k():
    vectors, sources = crops(images=30, most=5)
    rows, scores = search_neighbors(vectors, sources, vectors, sources, k=6)
    assert rows.shape == (len(vectors), 6)
    assert (rows != NO_ROW).all()
    assert (sources[rows] != sources[:, None]).all()
    every = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    every[sources[:, None] == sources[None, :]] = -np.inf
    np.testing.assert_array_equal(rows, np.argsort(-every, axis=1, kind="stable")[:, :6])
    np.testing.assert_allclose(scores, np.take_along_axis(every, rows, 1), atol=1e-6)


def test_queries_from_elsewhere_lose_nothing():
    vectors, sources = crops(images=10, most=3)
    rows, scores = search_neighbors(
        unit(4, seed=5), np.array(["x", "y", "z", "x"]), vectors, sources, k=5
    )
    expected_rows, expected_scores = search_exact(unit(4, seed=5), vectors, 5)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


def test_a_list_shortened_by_the_querys_own_image_is_padded():
    vectors, sources = unit(5), np.array(["a", "a", "a", "b", "c"])
    rows, scores = search_neighbors(vectors, sources, vectors, sources, k=4)
    assert sorted(rows[0]) == [NO_ROW, NO_ROW, 3, 4]
    assert (rows[0, 2:] == NO_ROW).all(), "what is missing is at the end"
    np.testing.assert_array_equal(scores[rows == NO_ROW], NO_SCORE)
    assert (rows[3] != NO_ROW).sum() == 4
    assert scores.dtype == np.float32


def test_a_group_of_hundreds_is_left_out_whole_and_lists_are_still_k():
    vectors = unit(2000)
    groups = np.asarray([f"author-{i % 4}" for i in range(2000)], dtype=object)
    # 500 works near to each other
    vectors[groups == "author-0"] = vectors[0] + 0.1 * vectors[groups == "author-0"]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows, _ = search_neighbors(vectors[:3], groups[:3], vectors, groups, k=7)
    every = vectors[:3].astype(np.float64) @ vectors.astype(np.float64).T
    every[groups[:3, None] == groups[None]] = -np.inf
    np.testing.assert_array_equal(rows, np.argsort(-every, axis=1, kind="stable")[:, :7])


def test_groups_of_two_kinds_are_both_left_out_and_none_is_no_group():
    sources = np.asarray([f"image-{i}" for i in range(60)], dtype=object)
    authors = np.asarray(["Ada" if i % 2 else None for i in range(60)], dtype=object)
    groups = np.stack([sources, authors], axis=1)
    rows, _ = search_neighbors(unit(60)[:2], groups[:2], unit(60), groups, k=20)
    assert 0 not in rows[0] and None in authors[rows[0]], "an unknown author excludes nobody"
    assert set(authors[rows[1]]) == {None}, "Ada's own are left out"


def test_within_a_value_neighbors_are_the_nearest_of_that_value_alone():
    vectors = unit(900)
    sources = np.asarray([f"image-{i}" for i in range(900)], dtype=object)
    styles = np.asarray([("oil", "ink", None)[i % 3] for i in range(900)], dtype=object)
    within = (styles[:3], styles)
    rows, _ = search_neighbors(vectors[:3], sources[:3], vectors, sources, k=9, within=within)
    every = vectors[:3].astype(np.float64) @ vectors.astype(np.float64).T
    every[styles[:3, None] != styles[None]] = -np.inf
    every[np.arange(3), np.arange(3)] = -np.inf
    np.testing.assert_array_equal(rows, np.argsort(-every, axis=1, kind="stable")[:, :9])
    lonely = (np.asarray(["chalk"], dtype=object), styles)
    rows, _ = search_neighbors(vectors[:1], sources[:1], vectors, sources, k=2, within=lonely)
    assert (rows == NO_ROW).all()


def test_two_searches_are_taken_in_turns_each_row_once():
    def of(*lists):
        rows = np.asarray(lists)
        return rows, np.where(rows == NO_ROW, NO_SCORE, 1 - rows / 10).astype(np.float32)

    none = int(NO_ROW)
    rows, scores = taken_in_turns(
        of([1, 2, 3], [5, 6, none], [none, none, none]), of([3, 4, 5], [5, none, none], [none] * 3)
    )
    assert rows.tolist() == [[1, 3, 2], [5, 6, none], [none, none, none]]
    np.testing.assert_allclose(scores[0], [0.9, 0.7, 0.8], atol=1e-6)
    assert scores[1, 2] == scores[2, 0] == np.float32(NO_SCORE)


def test_planted_duplicates_above_the_cap_are_passed_over():
    vectors = unit(300)
    copies = np.concatenate([vectors[:10] + 0.01 * unit(10, seed=7 + i) for i in range(50)])
    database = np.concatenate([vectors, copies / np.linalg.norm(copies, axis=1, keepdims=True)])
    nobody = np.asarray([None] * 800, dtype=object)
    rows, scores = search_neighbors(
        vectors[:10], nobody[:10], database, nobody, k=5, score_cap=0.99
    )
    assert (scores <= 0.99).all() and (scores > NO_SCORE).all()
    every = np.where((full := vectors[:10] @ database.T) > 0.99, -np.inf, full)
    np.testing.assert_array_equal(rows, np.argsort(-every, axis=1, kind="stable")[:, :5])
    assert (
        search_neighbors(vectors[:10], nobody[:10], database, nobody, k=5)[1][:, 0] > 0.999
    ).all(), "without a cap they come"


NOBODY = np.asarray([None] * 4000, dtype=object)


def with_duplicates(count=60, copies=12):
    """A database float32 [count * copies, 32] in which every vector has near-duplicates, cosines of
    0.99 and more, in no order.
    """
    vectors = np.repeat(unit(count), copies, axis=0)
    vectors = vectors + 0.02 * unit(len(vectors), seed=1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors[np.random.default_rng(2).permutation(len(vectors))]


def greedy(query, database, k, most_alike):
    """The plainest way to say it: from the nearest on, whoever is like nobody before."""
    chosen = []
    for row in np.argsort(-(database @ query), kind="stable"):
        others = [query, *database[chosen]]
        if len(chosen) < k and max(database[row] @ other for other in others) <= most_alike:
            chosen.append(int(row))
    return chosen


def test_no_two_neighbors_are_alike_and_lists_are_still_k():
    database, queries = with_duplicates(), unit(7, seed=3)
    rows, scores = search_neighbors(queries, NOBODY[:7], database, NOBODY, 5, most_alike=0.9)
    assert (rows != NO_ROW).all()
    for query, of_query in zip(queries, rows, strict=True):
        assert of_query.tolist() == greedy(query, database, 5, 0.9)
        alike = database[of_query] @ database[of_query].T - 2 * np.eye(5)
        assert alike.max() <= 0.9
    found = np.einsum("qkd,qd->qk", database[rows], queries)
    np.testing.assert_allclose(scores, found, atol=1e-6)
    plain, _ = search_neighbors(queries, NOBODY[:7], database, NOBODY, 5)
    alike = np.einsum("qid,qjd->qij", database[plain], database[plain]) - 2 * np.eye(5)
    assert alike.max() > 0.98, "without it duplicates come"


def test_no_neighbor_is_like_the_query_either():
    database = with_duplicates()
    rows, scores = search_neighbors(database[:3], NOBODY[:3], database, NOBODY, k=4, most_alike=0.9)
    assert (rows != NO_ROW).all() and scores.max() <= 0.9


def test_the_memory_for_candidates_is_bounded_and_changes_nothing(monkeypatch):
    database, queries = with_duplicates(), unit(9, seed=3)
    asked = (queries, NOBODY[:9], database, NOBODY, 5, 0.95, 0.9)
    whole = search_neighbors(*asked)
    monkeypatch.setattr(neighbors, "TILE_BYTES", 1)
    for one, other in zip(whole, search_neighbors(*asked), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_database_of_one_picture_gives_one_neighbor_and_nothing_more():
    database = with_duplicates(count=1, copies=300)
    rows, scores = search_neighbors(
        unit(2, seed=3), NOBODY[:2], database, NOBODY, k=3, most_alike=0.9
    )
    assert (rows[:, 0] != NO_ROW).all() and (rows[:, 1:] == NO_ROW).all()
    np.testing.assert_array_equal(scores == NO_SCORE, rows == NO_ROW)


def by_number(places, count):
    """Finds the first rows, in falling order of a score that is no cosine, 30 of them at most."""
    rows = np.where(np.arange(count) < 30, np.arange(count), NO_ROW)
    scores = np.where(rows == NO_ROW, NO_SCORE, 1 - rows / 100).astype(np.float32)
    return np.tile(rows, (len(places), 1)), np.tile(scores, (len(places), 1))


def test_another_way_to_look_up_says_the_order_and_the_scores():
    rows, scores = search_neighbors(
        unit(2), NOBODY[:2], unit(90, seed=4), NOBODY, k=3, look_up=by_number
    )
    np.testing.assert_array_equal(rows, [[0, 1, 2]] * 2)
    np.testing.assert_allclose(scores, [[1, 0.99, 0.98]] * 2)


def test_the_cap_is_a_cosine_whatever_the_scores_are():
    database = unit(90, seed=4)
    queries = database[[1, 5]]  # their own near-duplicates
    rows, scores = search_neighbors(
        queries, NOBODY[:2], database, NOBODY, k=3, score_cap=0.99, look_up=by_number
    )
    np.testing.assert_array_equal(rows, [[0, 2, 3], [0, 1, 2]])
    assert scores[0, 0] == 1, "a score of 1 is no near-duplicate here"


def test_groups_and_likeness_are_left_out_of_what_is_looked_up_too():
    database = unit(90, seed=4)
    database[2] = database[0]
    groups = NOBODY[:90].copy()
    groups[1] = "own"
    rows, _ = search_neighbors(
        unit(1), np.array(["own"]), database, groups, k=3, most_alike=0.95, look_up=by_number
    )
    np.testing.assert_array_equal(rows, [[0, 3, 4]])


def test_a_list_that_ends_early_is_filled_with_nothing():
    rows, scores = search_neighbors(
        unit(1), NOBODY[:1], unit(90, seed=4), NOBODY, k=40, look_up=by_number
    )
    assert rows[0, :30].tolist() == list(range(30))
    assert (rows[0, 30:] == NO_ROW).all() and (scores[0, 30:] == NO_SCORE).all()
