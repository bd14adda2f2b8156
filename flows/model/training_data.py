"""The data of a training: latents, the neighbor rows of each, and the database's vectors, joined by
key.
"""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from flows.model.captions import texts_of_database, texts_of_images
from rdm_core.clip import Encoder
from rdm_core.data import NO_ROW, References, StoredLatents, TrainingData
from rdm_core.families.facts import Reads
from storage.artifact import (
    Artifact,
    all_with_fingerprint,
    artifacts,
    open_artifact,
    with_fingerprint,
)
from storage.checks import images_missing, vectors_of_images
from storage.embeddings import read_columns, read_vectors
from storage.errors import ArtifactMismatch, ArtifactMissing
from storage.index import open_means, open_norms, open_vectors
from storage.latents import factor_of, open_latents
from storage.neighbors import read_neighbors
from storage.removals import on_list, read_removals


def open_training_data(
    root: Path,
    references: Mapping[str, str],
    reads: Reads = Reads(),  # noqa: B008 - frozen
    encoder: Encoder | None = None,
) -> TrainingData:
    """Open the artifacts in the roles latents, neighbors and index (`name@id` each) and join them
    by key, with what else a family reads of them; neighbor_images may be named, or is found.
    Captions are read by the tokenizer of the encoder, which must be given then.

    Large arrays are memory-mapped; the training images' own vectors are held in memory. What was
    removed from the queries' database is not trained on. Raises ArtifactMismatch when another
    latent has no row in the neighbor table.
    """
    of_latents = open_artifact(root, "latents", references["latents"])
    keys, latents = open_latents(of_latents)
    table = open_artifact(root, "neighbors", references["neighbors"])
    query_keys, rows, scores = read_neighbors(table)
    index = open_artifact(root, "index", references["index"])
    row_of_key = _row_by_key(query_keys)
    keys, latents = _without_removed(root, table, keys, latents, row_of_key.keys())
    absent = _absent(keys, row_of_key.keys())
    if absent:
        raise ArtifactMismatch(
            f"latents/{references['latents']}",
            f"{len(absent):,} samples have no neighbors in {references['neighbors']}, "
            f"the first is {absent[0]!r}",
            "Find neighbors for the embeddings of the same shards.",
        )
    order = _rows_of(keys, row_of_key)
    query_vectors, query_norms = _queries_of(root, table, keys) if reads.query else (None, None)
    of_database = None
    if reads.latents_of_database:
        named = references.get("neighbor_images")
        found = open_artifact(root, "latents", named) if named else None
        encoded = found or latents_of_database(root, table, of_latents)
        of_database = _references_of(root, table, encoded)
    texts = neighbor_texts = None
    if reads.captions:
        assert encoder is not None, "captions are read by its tokenizer"
        texts = texts_of_images(root, of_latents, keys, encoder)
        neighbor_texts = texts_of_database(root, table, encoder) if reads.references else None
    return TrainingData(
        latents=StoredLatents(latents),
        neighbor_rows=rows[order],
        neighbor_scores=scores[order],
        vectors=open_vectors(index),
        norms=open_norms(index),
        means=open_means(index),
        query_vectors=query_vectors,
        query_norms=query_norms,
        keys=keys,
        texts=texts,
        neighbor_texts=neighbor_texts,
        references=of_database if reads.references else None,
        neighbor_images=of_database if reads.neighbor_images else None,
        factor=factor_of(of_latents),
    )


def _row_by_key(keys: Sequence[str]) -> dict[str, int]:
    """Key -> its row in a table with these keys."""
    return {key: row for row, key in enumerate(keys)}


def _rows_of(keys: Sequence[str], row_of_key: Mapping[str, int]) -> np.ndarray:
    """The row of each key: int64 [N]. Raises KeyError for a key that the table lacks."""
    return np.asarray([row_of_key[key] for key in keys], dtype=np.int64)


def _absent(keys: Sequence[str], present: Set[str]) -> list[str]:
    """The keys that are not among the present ones."""
    return [key for key in keys if key not in present]


def latents_of_database(root: Path, table: Artifact, alike: Artifact) -> Artifact:
    """Latents of the images in a table's database: of the same space and kind as those trained on.

    Raises ArtifactMissing where the database's images were not encoded so.
    """
    autoencoder = alike.measured.get("autoencoder_path", "the latents' own")
    return latents_encoded_so(root, table.inputs["database"], alike.parameters, autoencoder)


def latents_encoded_so(
    root: Path, of_database: str, parameters: Mapping[str, Any], autoencoder: str
) -> Artifact:
    """Latents with these parameters, of the images in the database of a fingerprint.

    Raises ArtifactMissing where there are none; its cure names the autoencoder.
    """
    database = with_fingerprint(root, "embeddings", of_database)
    shards = database.inputs.get("shards") if database is not None else None
    if database is not None and shards is None:
        raise ArtifactMissing(f"embeddings/{database.name}", *images_missing(database))
    encoded = None
    for candidate in artifacts(root, "latents"):
        if candidate.inputs["shards"] == shards and candidate.parameters == parameters:
            encoded = candidate  # the newest comes last
    if database is None or encoded is None:
        name = database.name if database is not None else of_database
        what = "its images are not encoded as the training images are, and the model reads them"
        stored = parameters["stored"]
        how = f"--set autoencoder={autoencoder} --set stored={stored}"
        cure = f"rdm encode --name {name}-{stored} --shards {name} {how}"
        raise ArtifactMissing(f"database {name}", what, cure)
    return encoded


def _references_of(root: Path, table: Artifact, encoded: Artifact) -> References:
    """The latents of a table's database, by the database's rows."""
    database = with_fingerprint(root, "embeddings", table.inputs["database"])
    assert database is not None, "its latents were found through it"
    keys, arrays = open_latents(encoded)
    row_of_key = _row_by_key(keys)
    database_keys = read_columns(database, ["key"])["key"].to_pylist()
    # Not every image of the database was encoded.
    rows = np.asarray([row_of_key.get(key, NO_ROW) for key in database_keys], dtype=np.int64)
    return References(StoredLatents(arrays), rows)


def _queries_of(root: Path, table: Artifact, keys: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The vectors and norms of the table's queries, in the order of `keys`."""
    queries = with_fingerprint(root, "embeddings", table.inputs["queries"])
    if queries is None:
        raise ArtifactMismatch(
            f"neighbors/{table.name}",
            "the embeddings of its queries are no longer under this root, and the network wants "
            "the images' own vectors",
            "Embed the training shards and find their neighbors again, or train a model "
            "that does not read them.",
        )
    why = "the model is given the training images' own vectors"
    vectors_of_images(queries, why, "train a model that does not read them")
    vectors, norms = read_vectors(queries)
    order = _rows_of(keys, _row_by_key(read_columns(queries, ["key"])["key"].to_pylist()))
    return vectors[order].astype(np.float16), norms[order]


def _without_removed(
    root: Path, table: Artifact, keys: list[str], latents: list[np.ndarray], present: Set[str]
) -> tuple[list[str], list[np.ndarray]]:
    """Latents and keys without those that the table lacks as they were removed.

    Removed from any database that has the queries' bytes: no table says which of them was searched
    for. Only the parts that held them are read.
    """
    absent = _absent(keys, present)
    if not absent:
        return keys, latents
    listed: set[str] = set()
    queries = all_with_fingerprint(root, "embeddings", table.inputs.get("queries", ""))
    for name in sorted({artifact.name for artifact in queries}):
        listed |= read_removals(root, name)
    removed = set(on_list(absent, frozenset(listed)))
    if not removed:
        return keys, latents
    kept_keys: list[str] = []
    kept_latents: list[np.ndarray] = []
    start = 0
    for array in latents:
        keys_of_part = keys[start : start + len(array)]
        rows = [row for row, key in enumerate(keys_of_part) if key not in removed]
        kept_keys += [keys_of_part[row] for row in rows]
        # A part that held none of them stays memory-mapped.
        kept_latents.append(array if len(rows) == len(array) else array[rows])
        start += len(array)
    return kept_keys, kept_latents
