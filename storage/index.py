"""Index: the vectors of a database as one memory-mapped matrix and, for large sets, a faiss file
over the same rows.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from storage.arrays import open_array
from storage.artifact import Artifact, artifacts, check, is_current
from storage.build import Build
from storage.embeddings import end_vectors
from storage.errors import ArtifactMismatch, ArtifactMissing, FormatError

VECTORS_FILE = "vectors.npy"
FAISS_FILE = "index.faiss"
ROUNDED_TWICE = 2e-3
"""What an entry of a unit vector may lose by two roundings to float16, at most."""


def write_vectors(
    directory: Path,
    parts: Iterable[tuple[np.ndarray, np.ndarray]],
    rows: int,
    text_mean: np.ndarray | None = None,
) -> int:
    """Write unit vectors [N, D] as float16, raw norms [N] as float32 (row = index id) and the
    means. Returns N = `rows`.

    `parts`: vectors and norms of one part after the other, so that one is held in memory at a time;
    at least one. `text_mean` [D]: mean unit vector of the captions; zeros are written where there
    are none. Raises FormatError for another number of rows, and for a vector that is not finite.
    """
    matrix: Any = None
    # Sums are in float64: a million rows added up in float16 or float32 would lose digits.
    sums, norms, done = np.zeros(0), [], 0
    for vectors, lengths in parts:
        if matrix is None:
            shape = (rows, vectors.shape[1])
            matrix = np.lib.format.open_memmap(
                directory / VECTORS_FILE, mode="w+", dtype=np.float16, shape=shape
            )
            sums = np.zeros(shape[1])
        # Checked before they are written: too many rows would not fit the file.
        if done + len(vectors) > rows or not np.isfinite(vectors).all():
            what = (
                f"rows {done:,} to {done + len(vectors):,} of {rows:,} "
                "are too many, or hold NaN or infinity"
            )
            raise FormatError(directory / VECTORS_FILE, what, "Embed the images again.")
        matrix[done : done + len(vectors)] = vectors
        sums += vectors.sum(axis=0, dtype=np.float64)
        norms.append(lengths)
        done += len(vectors)
    if done != rows:
        raise FormatError(
            directory / VECTORS_FILE,
            f"{done:,} rows came instead of {rows:,}",
            "Embed the images again.",
        )
    matrix.flush()
    # Row 0: of the images. Row 1: of the captions.
    means = np.stack([sums / rows, np.zeros_like(sums) if text_mean is None else text_mean])
    np.save(directory / "means.npy", means.astype(np.float32), allow_pickle=False)
    np.save(directory / "norms.npy", np.concatenate(norms).astype(np.float32), allow_pickle=False)
    return rows


def open_vectors(index: Artifact | Build) -> np.ndarray:
    """Unit vectors [N, D] float16, memory-mapped: opening costs nothing, a row is read when it is
    used.
    """
    return open_array(index.file(VECTORS_FILE))


def open_norms(index: Artifact | Build) -> np.ndarray:
    """Raw norms [N] float32, memory-mapped."""
    return open_array(index.file("norms.npy"))


def open_means(index: Artifact | Build) -> np.ndarray:
    """Mean unit vectors of the rows (of the images, where those are embedded) and of their
    captions, float32 [2, D]; zeros for captions where there are none.
    """
    return open_array(index.file("means.npy"))


def faiss_file(index: Artifact | Build) -> Path | None:
    """The approximate index, or None when the recipe is exact."""
    path = index.file(FAISS_FILE)
    return path if path.is_file() else None


def index_of(root: Path, embeddings: Artifact) -> Artifact:
    """The index over exactly these embeddings, under the same name; the current one if it fits. Its
    files are not looked at.

    Raises ArtifactMissing when none was built from them.
    """
    newest = None
    for index in artifacts(root, "index", embeddings.name):
        if index.inputs["embeddings"] == embeddings.fingerprint:
            # The current one wins; else the newest, which comes last.
            if is_current(root, index):
                return index
            newest = index
    if newest is None:
        raise ArtifactMissing(
            f"index/{embeddings.name}",
            f"no index was built from the embeddings {embeddings.fingerprint}",
            f"Build the database again: rdm build --name {embeddings.name} ...",
        )
    return newest


def open_index_of(root: Path, embeddings: Artifact) -> Artifact:
    """The index that `index_of` gives, checked: its files have their sizes, and its rows are those
    of the embeddings.

    Shapes are compared, and the first and the last vector; `rdm check` compares everything. Raises
    ArtifactMissing, ArtifactDamaged or ArtifactMismatch.
    """
    index = index_of(root, embeddings)
    check(index, hashes=False)
    vectors, norms = open_vectors(index), open_norms(index)
    expected = (embeddings.rows, embeddings.parameters["encoder"]["dimension"])
    what = (
        f"it holds {len(norms)} norms and vectors {list(vectors.shape)}, "
        f"the embeddings are {list(expected)}"
    )
    fits = vectors.shape == expected and norms.shape == expected[:1]
    if fits:
        what = "its first or last vector is not that of the embeddings"
        # Only two rows are read: all of them would cost as much as a build.
        fits = bool(np.allclose(vectors[[0, -1]], end_vectors(embeddings), atol=ROUNDED_TWICE))
    if not fits:
        cure = (
            f"Remove {index.directory} and build the database again: "
            f"rdm build --name {index.name} ..."
        )
        raise ArtifactMismatch(f"index/{index.name}", what, cure)
    return index
