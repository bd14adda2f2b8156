"""Latents: what a decoding head is trained on, encoded once. One array and one key table a part.

What the arrays hold is one of three things, and the plan's `stored` says which:

  pixels    the images themselves, uint8 [n, 3, H, W]; where an autoencoder is named, it encodes
            them each time they are read, so that a training may change them first
  moments   what an autoencoder's encoder says before anything is drawn or rounded, float16: the
            posterior's moments [n, 2C, h, w], so that scaling and sampling stay a choice of the
            training run; of one with a codebook its output before the codes [n, C, h, w]
  codes     the positions of the nearest entries of its codebook, uint16 [n, h, w]
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from storage.arrays import open_array
from storage.artifact import Artifact
from storage.errors import ArtifactMismatch, FormatError
from storage.parquet import column, read_table, write_table

LATENT_KEYS = pa.schema(
    [column("key", pa.string(), "key of the sample in this row of the array")],
    metadata={"doc": "row order = order of the array beside it"},
)
LAYOUTS = {
    "pixels": (np.dtype(np.uint8), 4),
    "moments": (np.dtype(np.float16), 4),
    "codes": (np.dtype(np.uint16), 3),
}
"""What is stored -> the type of a number in the array, and the number of its axes."""


def write_latents(directory: Path, part_name: str, keys: list[str], raw: np.ndarray) -> int:
    """Write raw latents in one of the three layouts, and their keys. Returns n.

    Raises FormatError for an array of another layout.
    """
    # Called for its check alone.
    layout_of(raw, directory / f"{part_name}.npy")
    np.save(directory / f"{part_name}.npy", raw, allow_pickle=False)
    write_table(
        directory / f"{part_name}.parquet",
        pa.table([pa.array(keys, pa.string())], schema=LATENT_KEYS),
    )
    return len(keys)


def open_latents(latents: Artifact) -> tuple[list[str], list[np.ndarray]]:
    """Keys in row order, and one memory-mapped array [n, ...] a part.

    Raises FormatError when an array and its keys differ in length, when a file is no plain array,
    and when an array is not laid out as the plan says.
    """
    keys: list[str] = []
    arrays = []
    for part in latents.parts:
        names = read_table(latents.file(f"{part.name}.parquet"), ["key"])["key"].to_pylist()
        path = latents.file(f"{part.name}.npy")
        array = open_array(path)
        stored = layout_of(array, path)
        planned = latents.parameters.get("stored", stored)  # older plans do not say
        if stored != planned:
            what = f"holds {stored} ({_type_and_shape(array)}), and its plan says {planned}"
            raise FormatError(path, what, "Run `rdm check`, then encode again.")
        if len(names) != len(array):
            raise FormatError(
                latents.directory,
                f"part {part.name} has {len(array)} arrays for {len(names)} keys",
                "Encode again.",
            )
        keys += names
        arrays.append(array)
    return keys, arrays


def factor_of(latents: Artifact) -> int:
    """Stored places for one of a final latent, along a side: the autoencoder's factor where images
    are stored, else 1.
    """
    of_images = latents.parameters.get("stored") == "pixels"
    return int(latents.parameters["space"]["factor"]) if of_images else 1


def side_of(latents: Artifact) -> int:
    """Side of a final latent. Raises what `open_latents` raises."""
    return open_latents(latents)[1][0].shape[-1] // factor_of(latents)


def layout_of(array: np.ndarray, path: Path) -> str:
    """Which of the LAYOUTS an array has. Raises FormatError, naming the file, for none."""
    for stored, (kind, axes) in LAYOUTS.items():
        if array.dtype == kind and array.ndim == axes:
            return stored
    wanted = ", ".join(f"{kind} of {axes} axes" for kind, axes in LAYOUTS.values())
    what = f"holds {_type_and_shape(array)}, and latents are {wanted}"
    raise FormatError(path, what, "Run `rdm check`, then encode again.")


def _type_and_shape(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def refuse_other_latents(latents: Artifact, wanted: Sequence[str], family: str) -> None:
    """Raise ArtifactMismatch for latents that a family of models is not trained on: codes name
    entries, and diffusion needs numbers that are near where the images are.
    """
    stored = latents.parameters.get("stored", wanted[0])
    if stored not in wanted:
        made_by = latents.measured.get("autoencoder_path", "...")
        if wanted[-1] == "codes":  # which this autoencoder may not have
            made_by = "VQMODEL"
        raise ArtifactMismatch(
            f"latents/{latents.name}",
            f"holds {stored}, and {family} is trained on {' or '.join(wanted)}",
            "Encode its shards again under another name, and name that: rdm encode --name ... "
            f"--shards ... --set autoencoder={made_by} --set stored={wanted[-1]}",
        )
