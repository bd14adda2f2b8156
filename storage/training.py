"""The arrays of a training run, joined by key: latents, the neighbor rows of each, and the
database's vectors.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from storage.artifact import Artifact, all_with_fingerprint, open_artifact, with_fingerprint
from storage.checks import vectors_of_images
from storage.embeddings import read_columns, read_vectors
from storage.errors import ArtifactMismatch
from storage.index import open_means, open_norms, open_vectors
from storage.latents import open_latents
from storage.neighbors import read_neighbors
from storage.removals import on_list, read_removals


@dataclass(frozen=True)
class TrainingArrays:
    """Memory-mapped where they are large. N samples, M database rows, D dimensions, K stored
    neighbors.
    """

    latents: list[np.ndarray]
    """Raw latents, one array [n_i, C, h, w] a part; N over all of them."""
    neighbor_rows: np.ndarray
    """int64 [N, K], in the order of the latents."""
    neighbor_scores: np.ndarray
    """Cosine float32 [N, K]."""
    vectors: np.ndarray
    """Unit vectors float16 [M, D]."""
    norms: np.ndarray
    """Raw norms float32 [M]."""
    means: np.ndarray
    """Mean unit vectors of the database's images and captions float32 [2, D]."""
    query_vectors: np.ndarray | None
    """Unit vectors of the training images themselves float16 [N, D], if they were asked for."""
    query_norms: np.ndarray | None
    """Their raw norms float32 [N]."""

    @property
    def side(self) -> int:
        """Side of a latent."""
        return self.latents[0].shape[-1]


def open_training_arrays(
    root: Path, references: Mapping[str, str], with_queries: bool = False
) -> TrainingArrays:
    """Open the artifacts in the roles latents, neighbors and index (`name@id` each) and join them
    by key.

    `with_queries` also reads the training images' own vectors, which are then held in memory. What
    was removed from the queries' database is not trained on. Raises ArtifactMismatch when another
    latent has no row in the neighbor table.
    """
    keys, latents = open_latents(open_artifact(root, "latents", references["latents"]))
    table = open_artifact(root, "neighbors", references["neighbors"])
    query_keys, rows, scores = read_neighbors(table)
    index = open_artifact(root, "index", references["index"])
    place = {key: i for i, key in enumerate(query_keys)}
    keys, latents = _without_removed(root, table, keys, latents, place.keys())
    absent = [key for key in keys if key not in place]
    if absent:
        raise ArtifactMismatch(
            f"latents/{references['latents']}",
            f"{len(absent):,} samples have no neighbors in {references['neighbors']}, the first is {absent[0]!r}",
            "Find neighbors for the embeddings of the same shards.",
        )
    order = np.asarray([place[key] for key in keys], dtype=np.int64)
    queries = _queries_of(root, table, keys) if with_queries else (None, None)
    return TrainingArrays(
        latents,
        rows[order],
        scores[order],
        open_vectors(index),
        open_norms(index),
        open_means(index),
        *queries,
    )


def _queries_of(root: Path, table: Artifact, keys: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The vectors and norms of the table's queries, in the order of `keys`."""
    queries = with_fingerprint(root, "embeddings", table.inputs["queries"])
    if queries is None:
        raise ArtifactMismatch(
            f"neighbors/{table.name}",
            "the embeddings of its queries are no longer under this root, and the network wants the images' own vectors",
            "Embed the training shards and find their neighbors again, or train with denoiser.query_token=false.",
        )
    why = "the network is given the training images' own vectors"
    vectors_of_images(queries, why, "train with denoiser.query_token=false")
    vectors, norms = read_vectors(queries)
    place = {key: i for i, key in enumerate(read_columns(queries, ["key"])["key"].to_pylist())}
    order = np.asarray([place[key] for key in keys], dtype=np.int64)
    return vectors[order].astype(np.float16), norms[order]


def _without_removed(
    root: Path, table: Artifact, keys: list[str], latents: list[np.ndarray], present: Set[str]
) -> tuple[list[str], list[np.ndarray]]:
    """Latents and keys without those that the table lacks as they were removed.

    Removed from any database that has the queries' bytes: no table says which of them was searched
    for. Only the parts that held them are read.
    """
    absent = [key for key in keys if key not in present]
    fingerprint = table.inputs.get("queries", "")
    queries = all_with_fingerprint(root, "embeddings", fingerprint) if absent else []
    listed = [read_removals(root, name) for name in sorted({artifact.name for artifact in queries})]
    removed = set(on_list(absent, frozenset().union(*listed)))
    if not removed:
        return keys, latents
    kept, start = [], 0
    for array in latents:
        rows = [
            row for row, key in enumerate(keys[start : start + len(array)]) if key not in removed
        ]
        kept.append(array if len(rows) == len(array) else array[rows])
        start += len(array)
    return [key for key in keys if key not in removed], kept
