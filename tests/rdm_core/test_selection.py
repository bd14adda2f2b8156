"""A search among some rows of a database finds the nearest of these."""

import numpy as np
import pytest

faiss = pytest.importorskip("faiss")

from rdm_core import selection  # noqa: E402
from rdm_core.errors import RequestError  # noqa: E402
from rdm_core.search import NO_ROW, NO_SCORE, Searcher, search_exact  # noqa: E402
from rdm_core.selection import RowsOf, SelectiveSearcher, chosen_vectors  # noqa: E402

PLAIN = ["Flat", "HNSW16", "IVF16,Flat", "IVF16,SQ8"]
REDUCED = ["OPQ8_32,IVF16,PQ8", "OPQ8_32,IVF16,PQ8x4fs", "IVF16_HNSW8,PQ8", "IVF16,PQ8,RFlat"]
"""Those of structureless vectors, as here, lose most of what is nearest."""


def unit(count, dimension=32, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


VECTORS, QUERIES = unit(2000), unit(20, seed=1)


def among(allowed, queries=QUERIES, k=10, vectors=VECTORS):
    """The nearest allowed rows, by scores of all that are sorted."""
    rows = np.flatnonzero(allowed)
    scores = queries @ np.asarray(vectors, dtype=np.float32)[rows].T
    return rows[np.argsort(-scores, axis=1, kind="stable")[:, :k]]


def some(share, seed=2):
    return np.random.default_rng(seed).random(len(VECTORS)) < share


@pytest.fixture
def indexed(tmp_path):
    def built(recipe):
        index = faiss.index_factory(VECTORS.shape[1], recipe, faiss.METRIC_INNER_PRODUCT)
        index.train(VECTORS)
        index.add(VECTORS)
        if "IVF" in recipe:
            faiss.ParameterSpace().set_index_parameter(index, "nprobe", 16)
        if "HNSW16" in recipe:
            index.hnsw.efSearch = 200
        faiss.write_index(index, str(tmp_path / "index.faiss"))
        return Searcher(VECTORS, tmp_path / "index.faiss")

    return built


@pytest.mark.parametrize("share", [0.01, 0.3, 0.99, 1.0])
@pytest.mark.parametrize("stored", [np.float16, np.float32])
def test_the_nearest_allowed_rows_are_found_exactly(share, stored):
    allowed, vectors = some(share), VECTORS.astype(stored)
    rows, scores = SelectiveSearcher(Searcher(vectors), allowed).search(QUERIES, 10)
    assert np.array_equal(rows, among(allowed, vectors=vectors))
    assert np.allclose(scores, np.take_along_axis(QUERIES @ VECTORS.T, rows, 1), atol=2e-3)


def test_rows_that_do_not_fit_into_memory_are_read_a_tile_at_a_time(monkeypatch):
    allowed = some(0.3)
    rows = np.flatnonzero(allowed)
    lazy = chosen_vectors(VECTORS, rows, most_bytes=100)
    assert isinstance(lazy, RowsOf) and lazy.shape == (len(rows), 32)
    found, _ = search_exact(QUERIES, lazy, 10, tile_rows=37)
    assert np.array_equal(rows[found], among(allowed))


def test_fewer_allowed_rows_than_asked_for_leave_empty_places():
    allowed = np.zeros(len(VECTORS), bool)
    allowed[[3, 5]] = True
    rows, scores = SelectiveSearcher(Searcher(VECTORS), allowed).search(QUERIES[:1], 4)
    assert sorted(rows[0, :2].tolist()) == [3, 5] and rows[0, 2:].tolist() == [NO_ROW, NO_ROW]
    assert scores[0, 2:].tolist() == [NO_SCORE, NO_SCORE]


def test_no_allowed_row_is_refused():
    with pytest.raises(RequestError, match="none of them is allowed"):
        SelectiveSearcher(Searcher(VECTORS), np.zeros(len(VECTORS), bool))


@pytest.mark.parametrize("recipe", PLAIN + REDUCED)
def test_an_index_of_every_recipe_finds_allowed_rows_alone_and_says_how_many_of_the_nearest(
    recipe, indexed, monkeypatch
):
    monkeypatch.setattr(selection, "FEW_ROWS", 100)
    allowed, searcher = some(0.3), indexed(recipe)
    chosen = SelectiveSearcher(searcher, allowed)
    assert chosen.index is not None
    rows, scores = chosen.search(QUERIES, 10)
    assert (rows != NO_ROW).all() and allowed[rows].all()
    hits = sum(len(set(a) & set(b)) for a, b in zip(rows, among(allowed), strict=True))
    least = 0.9 if recipe in PLAIN else 0.1
    assert hits / rows.size >= least and chosen.recall(10) >= least
    before, _ = searcher.search(QUERIES, 10)
    assert not allowed[before].all(), "the searcher itself finds all rows, as before"


def test_few_allowed_rows_are_compared_one_by_one_whatever_index_there_is(indexed):
    allowed = some(0.02)
    chosen = SelectiveSearcher(indexed("HNSW16"), allowed)
    assert chosen.index is None and chosen.recall(10) == 1 and chosen.candidates == allowed.sum()
    assert np.array_equal(chosen.search(QUERIES, 10)[0], among(allowed))


def test_what_an_index_leaves_open_is_searched_exactly(indexed, monkeypatch):
    """A graph that is walked among rows that are not allowed may lead nowhere."""
    monkeypatch.setattr(selection, "FEW_ROWS", 0)
    searcher = indexed("HNSW16")
    searcher.index.hnsw.efSearch = 1
    allowed = some(0.02)
    rows, _ = SelectiveSearcher(searcher, allowed).search(QUERIES, 15)
    assert (rows != NO_ROW).all() and allowed[rows].all()


def test_an_index_keeps_the_effort_that_it_was_set_to(indexed, monkeypatch):
    monkeypatch.setattr(selection, "FEW_ROWS", 0)
    searcher = indexed("IVF16,Flat")
    faiss.ParameterSpace().set_index_parameter(searcher.index, "nprobe", 1)
    assert SelectiveSearcher(searcher, some(0.5)).recall(10) < 0.9
    faiss.ParameterSpace().set_index_parameter(searcher.index, "nprobe", 16)
    assert SelectiveSearcher(searcher, some(0.5)).recall(10) == 1


def test_an_index_that_faiss_cannot_restrict_is_refused(indexed, monkeypatch):
    monkeypatch.setattr(selection, "FEW_ROWS", 0)
    with pytest.raises(RequestError, match="cannot restrict IndexLSH"):
        SelectiveSearcher(indexed("Flat"), some(0.5)).index = None
        selection.search_parameters(faiss.IndexLSH(32, 64), None)
