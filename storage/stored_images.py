"""Images of shards by number, each read where it lies in its tar: for who wants any of them at any
time, and more than memory holds.
"""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from storage.artifact import Artifact
from storage.errors import FormatError
from storage.shards import accepted, read_sidecar

IMAGES = ("jpg", "png")
"""Endings of the members of a tar that are images."""
CURE = "Run `rdm check` on it, then import again."


@dataclass(frozen=True)
class StoredImages:
    """N encoded images, in the order of the shards."""

    tars: tuple[Path, ...]
    places: np.ndarray
    """int64 [N, 3]: number of the tar, position and bytes in it."""
    sizes: np.ndarray
    """int32 [N, 2]: width and height in pixels."""
    source_keys: np.ndarray
    """Text [N]: equal for all crops of one image."""

    def __len__(self) -> int:
        return len(self.places)

    def take(self, rows: np.ndarray) -> "StoredImages":
        """Those at some rows, or where a mask is true."""
        places, sizes = self.places[rows], self.sizes[rows]
        return replace(self, places=places, sizes=sizes, source_keys=self.source_keys[rows])

    def read(self, row: int) -> bytes:
        """The bytes of one image. Raises FormatError where its tar ends before them."""
        number, position, size = self.places[row].tolist()
        with self.tars[number].open("rb") as tar:
            data = os.pread(tar.fileno(), size, position)
        if len(data) != size:
            raise FormatError(self.tars[number], "it is shorter than it was", CURE)
        return data


def stored_images(shards: Artifact) -> StoredImages:
    """Every accepted image of some shards; only the heads in the tars are read.

    Raises FormatError for a tar that is damaged, or does not hold exactly the accepted samples of
    its sidecar.
    """
    tars, places, sizes, source_keys = [], [], [], []
    for number, part in enumerate(shards.parts):
        path = shards.file(f"{part.name}.tar")
        columns = ["key", "source_key", "status", "width", "height"]
        listed = accepted(read_sidecar(shards, part.name, columns))
        keys = []
        for name, position, size in members(path):
            key, _, ending = name.rpartition(".")
            if ending in IMAGES:
                keys.append(key)
                places.append((number, position, size))
        if keys != listed["key"].to_pylist():
            raise FormatError(path, "its images are not those that the sidecar lists", CURE)
        tars.append(path)
        sizes.append(np.stack([listed["width"].to_numpy(), listed["height"].to_numpy()], axis=1))
        source_keys += listed["source_key"].to_pylist()
    return StoredImages(
        tuple(tars),
        np.array(places, np.int64).reshape(-1, 3),
        np.concatenate(sizes) if sizes else np.zeros((0, 2), np.int32),
        np.array(source_keys, str),
    )


def members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, position and bytes of each plain file of a tar. Raises FormatError for a damaged
    tar.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.size < 0:  # some versions of tarfile would walk in a circle
                    raise tarfile.ReadError(f"{member.name} has a negative size")
                if member.isreg() and not member.issparse():
                    yield member.name, member.offset_data, member.size
    except (tarfile.TarError, ValueError, OverflowError, MemoryError, OSError) as error:
        raise FormatError(path, f"damaged tar ({error})", CURE) from error
