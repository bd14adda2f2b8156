"""The arrays of a training run, joined by key: latents, the neighbor rows of each, and the database's vectors."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from storage.artifact import open_artifact
from storage.errors import ArtifactMismatch
from storage.index import open_norms, open_vectors
from storage.latents import open_latents
from storage.neighbors import read_neighbors


@dataclass(frozen=True)
class TrainingArrays:
    """Memory-mapped where they are large. N samples, M database rows, D dimensions, K stored neighbors."""

    latents: list[np.ndarray]
    """Raw latents, one array [n_i, C, h, w] a part; N over all of them."""
    neighbor_rows: np.ndarray
    """int64 [N, K], in the order of the latents."""
    vectors: np.ndarray
    """Unit vectors float16 [M, D]."""
    norms: np.ndarray
    """Raw norms float32 [M]."""

    @property
    def side(self) -> int:
        """Side of a latent."""
        return self.latents[0].shape[-1]


def open_training_arrays(root: Path, references: Mapping[str, str]) -> TrainingArrays:
    """Open the artifacts in the roles latents, neighbors and index (`name@id` each) and join them by key.

    Raises ArtifactMismatch when a latent has no row in the neighbor table.
    """
    keys, latents = open_latents(open_artifact(root, "latents", references["latents"]))
    query_keys, rows, _ = read_neighbors(open_artifact(root, "neighbors", references["neighbors"]))
    index = open_artifact(root, "index", references["index"])
    place = {key: i for i, key in enumerate(query_keys)}
    absent = [key for key in keys if key not in place]
    if absent:
        raise ArtifactMismatch(
            f"latents/{references['latents']}",
            f"{len(absent):,} samples have no neighbors in {references['neighbors']}, the first is {absent[0]!r}",
            "Find neighbors for the embeddings of the same shards.",
        )
    return TrainingArrays(latents, rows[[place[key] for key in keys]], open_vectors(index), open_norms(index))
