"""What a training draws while it runs: the same few samples at every checkpoint, each beside its
neighbors.

The flow writes the neighbors' pictures once, because the worker knows vectors and not images; the
worker adds its samples.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flows.model.training_data import open_training_data
from rdm_core.decode import decode
from rdm_core.images import CELL_PIXELS, encode, fitted, grid
from storage.artifact import Artifact
from storage.checks import shards_of
from storage.embeddings import read_columns
from storage.neighbors import NO_ROW
from storage.shards import read_some_images

NEIGHBORS_FILE = "neighbors.png"


def preview_directory(run: Path) -> Path:
    """Where a run's pictures lie."""
    return run / "previews"


def preview_rows(count: int, samples: int) -> np.ndarray:
    """Rows of the training set that are drawn: evenly spread, the same at every checkpoint."""
    return np.linspace(0, samples - 1, min(count, samples)).round().astype(np.int64)


def write_preview_neighbors(
    root: Path, run: Path, references: Mapping[str, str], database: Artifact, count: int, k: int
) -> None:
    """The pictures of the drawn samples' neighbors, a line each, nearest first; white where an
    image is not at hand.
    """
    data = open_training_data(root, references)
    rows = data.neighbor_rows[preview_rows(count, len(data)), :k]
    keys = np.asarray(read_columns(database, ["key"])["key"].to_pylist(), dtype=object)
    shards = shards_of(root, database)
    files = read_some_images(shards, sorted(set(keys[rows[rows != NO_ROW]]))) if shards else {}
    white = np.full((CELL_PIXELS, CELL_PIXELS, 3), 255, dtype=np.uint8)
    cells = []
    for row in rows.ravel():
        file = files.get(keys[row]) if row != NO_ROW else None
        cells.append(white if file is None else fitted(decode(file)))
    preview_directory(run).mkdir(exist_ok=True)
    (preview_directory(run) / NEIGHBORS_FILE).write_bytes(
        encode(grid(cells, columns=rows.shape[1]), "png")
    )


def write_preview(run: Path, step: int, images: np.ndarray) -> Path:
    """Samples uint8 [B, H, W, 3] in a column, and beside them their neighbors."""
    column = grid([fitted(image) for image in images], columns=1)
    beside = preview_directory(run) / NEIGHBORS_FILE
    pictures = [column, decode(beside.read_bytes())] if beside.is_file() else [column]
    path = preview_directory(run) / f"{step:08d}.png"
    path.write_bytes(encode(np.concatenate(pictures, axis=1), "png"))
    return path


def newest_preview(run: Path) -> Path | None:
    """The picture of the newest checkpoint, if there is one."""
    return max(preview_directory(run).glob("[0-9]*.png"), default=None)
