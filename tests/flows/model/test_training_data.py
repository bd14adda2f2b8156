"""The arrays of a training run, joined by key and never by position."""

import shutil
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest

from flows.model.training_data import open_training_data
from rdm_core.families.facts import Reads
from storage.embeddings import write_embeddings
from storage.errors import ArtifactMismatch, ArtifactMissing
from storage.index import write_vectors
from storage.latents import write_latents
from storage.neighbors import write_neighbors
from storage.removals import add_removals
from storage.shards import SIDECAR


@pytest.fixture
def references(make, unit_vectors):
    """references(latent keys of each part, query keys) publishes the three artifacts; query i has
    the neighbor row 10 + i.
    """

    def made(latent_keys, query_keys, **inputs):
        def latents(keys):
            raw = np.stack([np.full((1, 4, 4), ord(key), np.uint8) for key in keys])
            return lambda d, n: write_latents(d, n, list(keys), raw)

        rows = 10 + np.arange(len(query_keys), dtype=np.int64)[:, None]
        database_keys = np.asarray([f"d{i}" for i in range(30)], dtype=object)
        scores = (rows / 100).astype(np.float32)
        artifacts = {
            "latents": make("latents", "l", *[latents(keys) for keys in latent_keys]),
            "neighbors": make(
                "neighbors",
                "n",
                lambda d, n: write_neighbors(d, n, list(query_keys), database_keys, rows, scores),
                inputs=inputs,
            ),
            "index": make(
                "index",
                "i",
                lambda d, n: write_vectors(d, [unit_vectors(30)], 30, text_mean=np.full(8, 0.5)),
            ),
        }
        return {role: f"{artifact.name}@{artifact.id}" for role, artifact in artifacts.items()}

    return made


def letters(data):
    """The keys of the latents of each part: every pixel of an image is the code of its letter."""
    return [bytes(array[:, 0, 0, 0]).decode() for array in data.latents.arrays]


def test_each_latent_gets_the_neighbors_of_its_key_whatever_their_order(
    tmp_path, references, unit_vectors
):
    data = open_training_data(tmp_path, references(["ca", "b"], "abxc"))
    assert letters(data) == ["ca", "b"]
    assert data.neighbor_rows.tolist() == [[13], [10], [11]]
    np.testing.assert_array_equal(data.vectors, unit_vectors(30)[0].astype(np.float16))
    np.testing.assert_array_equal(data.norms, unit_vectors(30)[1])
    np.testing.assert_allclose(
        data.means, [unit_vectors(30)[0].mean(axis=0), np.full(8, 0.5)], atol=1e-6
    )
    np.testing.assert_allclose(data.neighbor_scores, [[0.13], [0.10], [0.11]], atol=1e-6)
    assert data.query_vectors is None
    assert data.side == 4


def test_large_arrays_are_memory_mapped(tmp_path, references):
    data = open_training_data(tmp_path, references(["ab"], "ab"))
    for array in (*data.latents.arrays, data.vectors, data.norms):
        assert isinstance(array, np.memmap)


def test_a_latent_without_neighbors_is_a_mismatch_that_counts_and_names(tmp_path, references):
    wanted = references(["abcd"], "bd")
    with pytest.raises(ArtifactMismatch) as caught:
        open_training_data(tmp_path, wanted)
    assert str(caught.value) == (
        f"latents/{wanted['latents']}: 2 samples have no neighbors in "
        f"{wanted['neighbors']}, the first is 'a'. "
        "Find neighbors for the embeddings of the same shards."
    )


def test_what_was_removed_from_the_queries_is_not_trained_on(tmp_path, references, make):
    queries = make("embeddings", "q", lambda d, n: (d / n).write_bytes(b"rows"))
    wanted = references(["abc", "d", "ef"], "bef", queries=queries.fingerprint)
    add_removals(tmp_path, "q", ["a", "c"])
    with pytest.raises(ArtifactMismatch, match="1 samples have no neighbors.*the first is 'd'"):
        open_training_data(tmp_path, wanted)
    add_removals(tmp_path, "q", ["d"])
    data = open_training_data(tmp_path, wanted)
    assert letters(data) == ["b", "", "ef"]
    assert data.neighbor_rows.tolist() == [[10], [11], [12]] and data.side == 4
    assert isinstance(data.latents.arrays[2], np.memmap), (
        "a part that held none of them is not read"
    )


def test_the_removal_list_of_any_database_with_the_bytes_of_the_queries_counts(
    tmp_path, references, make
):
    """Two databases may be equal byte for byte, and the table names neither."""
    for name in ("q", "z"):
        queries = make("embeddings", name, lambda d, n: (d / n).write_bytes(b"rows"))
    wanted = references(["abc"], "bc", queries=queries.fingerprint)
    add_removals(tmp_path, "q", ["a"])
    assert open_training_data(tmp_path, wanted).neighbor_rows.tolist() == [[10], [11]]


def test_a_network_with_a_query_token_gets_each_images_own_vector_by_its_key(
    tmp_path, references, make, sidecar, sample, unit_vectors
):
    vectors, norms = unit_vectors(4, seed=9)
    table = pa.Table.from_pylist(
        [asdict(sample(i, key=key).record) for i, key in enumerate("dbca")], schema=SIDECAR
    )
    queries = make("embeddings", "q", lambda d, n: write_embeddings(d, n, table, vectors, norms))
    wanted = references(["ca", "b"], "abxc", queries=queries.fingerprint)
    data = open_training_data(tmp_path, wanted, Reads(query=True))
    assert data.query_vectors.dtype == np.float16
    np.testing.assert_allclose(data.query_vectors, vectors[[2, 3, 1]], atol=1e-3)
    np.testing.assert_array_equal(data.query_norms, norms[[2, 3, 1]])
    write = lambda d, n: write_embeddings(d, n, table, vectors, norms, "text")  # noqa: E731
    captions = make("embeddings", "t", write, parameters={"of": "text"})
    told = "embeddings/t: its vectors are of captions; .*own vectors.*train a model"
    asked = references(["ca", "b"], "abxc", queries=captions.fingerprint)
    open_training_data(tmp_path, asked)
    with pytest.raises(ArtifactMismatch, match=told):
        open_training_data(tmp_path, asked, Reads(query=True))
    shutil.rmtree(queries.directory)
    with pytest.raises(
        ArtifactMismatch,
        match="neighbors/n: the embeddings of its queries are no longer.*own vectors",
    ):
        open_training_data(tmp_path, wanted, Reads(query=True))


def test_references_of_a_database_of_published_vectors_are_refused(tmp_path, references, make):
    database = make("embeddings", "old", lambda d, n: (d / n).write_bytes(b"rows"))
    wanted = references(["ab"], "ab", database=database.fingerprint)
    with pytest.raises(ArtifactMissing, match="embeddings/old: .*never published.*rdm import"):
        open_training_data(tmp_path, wanted, Reads(references=True))
