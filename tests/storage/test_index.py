"""The index: one memory-mapped matrix, and the version that fits given embeddings."""

import numpy as np
import pytest

from storage.artifact import open_artifact
from storage.build import begin
from storage.embeddings import write_embeddings
from storage.errors import ArtifactDamaged, ArtifactMismatch, ArtifactMissing, FormatError
from storage.index import (
    FAISS_FILE,
    VECTORS_FILE,
    faiss_file,
    index_of,
    open_index_of,
    open_norms,
    open_vectors,
    write_vectors,
)
from storage.manifest import Plan


@pytest.fixture
def index(make, unit_vectors):
    """index(fingerprint, seed) publishes an exact index over embeddings of that fingerprint."""

    def made(fingerprint, seed=0, name="a"):
        return make(
            "index",
            name,
            lambda d, n: write_vectors(d, [unit_vectors(6, seed=seed)], 6),
            inputs={"embeddings": fingerprint},
        )

    return made


@pytest.fixture
def embeddings(make):
    """embeddings(text) publishes an embeddings artifact whose bytes follow from the text."""
    return lambda text: make(
        "embeddings", "a", lambda d, n: (d / n).write_text(text) and None, parameters={"text": text}
    )


def test_vectors_and_norms_come_back_memory_mapped(index, unit_vectors):
    artifact = index("aa")
    vectors, norms = unit_vectors(6)
    assert isinstance(open_vectors(artifact), np.memmap)
    assert isinstance(open_norms(artifact), np.memmap)
    np.testing.assert_array_equal(open_vectors(artifact), vectors.astype(np.float16))
    np.testing.assert_array_equal(open_norms(artifact), norms)
    assert artifact.rows == 6


def test_a_mapped_matrix_cannot_be_written_to(index):
    with pytest.raises(ValueError, match="read-only"):
        open_vectors(index("aa"))[0, 0] = 1


def test_an_unfinished_build_can_be_searched_to_measure_its_recall(tmp_path, unit_vectors):
    with begin(tmp_path, Plan("index", "a", {})) as build:
        build.write_part("index", "", lambda d: (write_vectors(d, [unit_vectors(4)], 4), {}))
        assert open_vectors(build).shape == (4, 8)
        assert faiss_file(build) is None


def test_there_is_a_faiss_file_only_when_one_was_built(make, index):
    assert faiss_file(index("aa")) is None
    approximate = make("index", "b", lambda d, n: (d / FAISS_FILE).write_bytes(b"faiss") and 1)
    assert faiss_file(approximate) == approximate.directory / FAISS_FILE


def test_the_index_of_given_embeddings_is_found_among_its_versions(tmp_path, index, embeddings):
    first, second = embeddings("first"), embeddings("second")
    of_first, of_second = index(first.fingerprint), index(second.fingerprint)
    assert index_of(tmp_path, first) == of_first
    assert index_of(tmp_path, second) == of_second
    # The current version is not the one that fits the first embeddings.
    assert open_artifact(tmp_path, "index", "a") == of_second


def test_the_current_one_of_two_that_fit_is_taken(tmp_path, make, embeddings):
    wanted = embeddings("x")

    def index_by(recipe):
        return make(
            "index",
            "a",
            lambda d, n: (d / n).write_text("") or 1,
            parameters={"recipe": recipe},
            inputs={"embeddings": wanted.fingerprint},
        )

    exact, approximate = index_by("exact"), index_by("autofaiss")
    for artifact in (exact, approximate, exact):
        with begin(tmp_path, Plan("index", "a", artifact.parameters, artifact.inputs)) as build:
            assert build.finished == artifact
        assert index_of(tmp_path, wanted) == artifact


def test_embeddings_without_an_index_are_told_how_to_get_one(tmp_path, index, embeddings):
    index("00", name="a")
    # One that fits, but under another name.
    index(embeddings("x").fingerprint, name="other")
    with pytest.raises(
        ArtifactMissing,
        match=f"index/a: no index .* {embeddings('x').fingerprint}. Build .*rdm build --name a",
    ):
        index_of(tmp_path, embeddings("x"))


@pytest.fixture
def of_rows(make, sidecar, unit_vectors):
    """of_rows(vectors, norms) publishes embeddings of ten rows in two parts, and an index over them
    or over those given.
    """

    def made(*other_rows):
        vectors, norms = unit_vectors(10)
        embeddings = make(
            "embeddings",
            "a",
            lambda d, n: write_embeddings(d, n, sidecar(10).slice(0, 5), vectors[:5], norms[:5]),
            lambda d, n: write_embeddings(d, n, sidecar(10).slice(5, 5), vectors[5:], norms[5:]),
            parameters={"encoder": {"dimension": 8}},
        )
        rows = other_rows or (vectors, norms)
        index = make(
            "index",
            "a",
            lambda d, n: write_vectors(d, [rows], len(rows[0])),
            inputs={"embeddings": embeddings.fingerprint},
            # The plan follows from the rows, so that other rows are another artifact.
            parameters={"first": rows[0][0].tolist()},
        )
        return embeddings, index

    return made


def test_an_index_is_opened_for_use_when_its_rows_are_those_of_the_embeddings(tmp_path, of_rows):
    embeddings, index = of_rows()
    assert open_index_of(tmp_path, embeddings) == index


@pytest.mark.parametrize(
    ("altered", "message"),
    [
        (
            lambda v, n: (v[2:], n[2:]),
            r"it holds 8 norms and vectors \[8, 8\], the embeddings are \[10, 8\]",
        ),
        (lambda v, n: (v[:, :7], n), r"vectors \[10, 7\]"),
        (lambda v, n: (v[::-1], n), "its first or last vector is not that of the embeddings"),
        (lambda v, n: (np.concatenate([v[:9], -v[9:]]), n), "its first or last vector"),
    ],
    ids=["fewer", "dimension", "order", "last"],
)
def test_an_index_of_other_rows_is_refused(tmp_path, of_rows, unit_vectors, altered, message):
    embeddings, _ = of_rows(*altered(*unit_vectors(10)))
    with pytest.raises(ArtifactMismatch, match=message):
        open_index_of(tmp_path, embeddings)


def test_an_index_that_was_cut_short_is_refused(tmp_path, of_rows):
    embeddings, index = of_rows()
    data = index.file(VECTORS_FILE).read_bytes()
    index.file(VECTORS_FILE).write_bytes(data[:-10])
    with pytest.raises(ArtifactDamaged, match="vectors.npy"):
        open_index_of(tmp_path, embeddings)


def test_what_is_written_has_all_its_rows_and_a_direction_each(tmp_path, unit_vectors):
    vectors, norms = unit_vectors(10)
    assert write_vectors(tmp_path, [(vectors[:4], norms[:4]), (vectors[4:], norms[4:])], 10) == 10
    np.testing.assert_array_equal(np.load(tmp_path / VECTORS_FILE), vectors.astype(np.float16))
    np.testing.assert_allclose(np.load(tmp_path / "means.npy")[0], vectors.mean(axis=0), atol=1e-6)
    for rows in (9, 11):
        with pytest.raises(FormatError, match="rows"):
            write_vectors(tmp_path, [(vectors, norms)], rows)
    # In the middle: the ends are checked when the index is opened.
    vectors[3, 2] = np.nan
    with pytest.raises(FormatError, match="NaN"):
        write_vectors(tmp_path, [(vectors, norms)], 10)
