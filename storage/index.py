"""Index: the vectors of a database as one memory-mapped matrix and, for large sets, a faiss file over the same rows."""

from pathlib import Path

import numpy as np

from storage.arrays import open_array
from storage.artifact import Artifact, artifacts, is_current
from storage.build import Build
from storage.errors import ArtifactMissing

VECTORS_FILE = "vectors.npy"
FAISS_FILE = "index.faiss"


def write_vectors(directory: Path, vectors: np.ndarray, norms: np.ndarray, text_mean: np.ndarray | None = None) -> int:
    """Write unit vectors [N, D] as float16, raw norms [N] as float32 (row = index id) and the means. Returns N.

    `text_mean` [D]: mean unit vector of the captions; zeros are written where there are none.
    """
    image_mean = vectors.mean(axis=0, dtype=np.float64)
    means = np.stack([image_mean, np.zeros_like(image_mean) if text_mean is None else text_mean])
    np.save(directory / "means.npy", means.astype(np.float32), allow_pickle=False)
    np.save(directory / VECTORS_FILE, vectors.astype(np.float16), allow_pickle=False)
    np.save(directory / "norms.npy", norms.astype(np.float32), allow_pickle=False)
    return len(vectors)


def open_vectors(index: Artifact | Build) -> np.ndarray:
    """Unit vectors [N, D] float16, memory-mapped: opening costs nothing, a row is read when it is used."""
    return open_array(index.file(VECTORS_FILE))


def open_norms(index: Artifact | Build) -> np.ndarray:
    """Raw norms [N] float32, memory-mapped."""
    return open_array(index.file("norms.npy"))


def open_means(index: Artifact | Build) -> np.ndarray:
    """Mean unit vectors of the images and of their captions, float32 [2, D]; zeros for captions where there are none."""
    return open_array(index.file("means.npy"))


def faiss_file(index: Artifact | Build) -> Path | None:
    """The approximate index, or None when the recipe is exact."""
    path = index.file(FAISS_FILE)
    return path if path.is_file() else None


def open_index_of(root: Path, embeddings: Artifact) -> Artifact:
    """The index over exactly these embeddings, under the same name; the current one if it fits.

    Raises ArtifactMissing when none was built from them.
    """
    family = [a for a in artifacts(root, "index", embeddings.name) if a.inputs["embeddings"] == embeddings.fingerprint]
    if not family:
        raise ArtifactMissing(
            f"index/{embeddings.name}",
            f"no index was built from the embeddings {embeddings.fingerprint}",
            f"Build the database again: rdm build --name {embeddings.name} ...",
        )
    return next((a for a in family if is_current(root, a)), family[-1])
