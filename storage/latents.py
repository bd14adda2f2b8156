"""Latents: what the denoiser is trained on, encoded once. One array and one key table a part.

In pixel space the array holds the images themselves, uint8 [n, 3, H, W]. Behind an autoencoder it
holds the raw moments of the posterior, float16 [n, 2C, H, W], so that scaling and sampling stay a
choice of the training run; behind one with a codebook its output before the codes, float16 [n, C,
H, W].
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from storage.arrays import open_array
from storage.artifact import Artifact
from storage.errors import FormatError
from storage.parquet import column, read_table, write_table

LATENT_KEYS = pa.schema(
    [column("key", pa.string(), "key of the sample in this row of the array")],
    metadata={"doc": "row order = order of the array beside it"},
)


def write_latents(directory: Path, part_name: str, keys: list[str], raw: np.ndarray) -> int:
    """Write raw latents [n, C, H, W], uint8 pixels or float16 moments, and their keys. Returns
    n.
    """
    np.save(directory / f"{part_name}.npy", raw, allow_pickle=False)
    write_table(
        directory / f"{part_name}.parquet",
        pa.table([pa.array(keys, pa.string())], schema=LATENT_KEYS),
    )
    return len(keys)


def open_latents(latents: Artifact) -> tuple[list[str], list[np.ndarray]]:
    """Keys in row order, and one memory-mapped array [n, C, H, W] a part.

    Raises FormatError when an array and its keys differ in length, or when a file is no plain
    array.
    """
    keys: list[str] = []
    arrays = []
    for part in latents.parts:
        names = read_table(latents.file(f"{part.name}.parquet"), ["key"])["key"].to_pylist()
        array = open_array(latents.file(f"{part.name}.npy"))
        if len(names) != len(array):
            raise FormatError(
                latents.directory,
                f"part {part.name} has {len(array)} arrays for {len(names)} keys",
                "Encode again.",
            )
        keys += names
        arrays.append(array)
    return keys, arrays
