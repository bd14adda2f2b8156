"""The images that an autoencoder is trained and measured on, read from the shards when needed."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.config.autoencoder import TrainAutoencoder
from rdm_core.decode import decode
from rdm_core.images import centre_square, seed_of
from storage.artifact import Artifact
from storage.errors import FormatError, StorageError
from storage.stored_images import StoredImages, stored_images

MOST_THREADS = 8
"""That decode the images of one step."""
FEWEST_HELD_OUT = 2
"""A Frechet distance needs two images."""


class ShardImages:
    """N images uint8 [H, W, 3], decoded when they are asked for."""

    dtype: Any = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, stored: StoredImages, size: int | None) -> None:
        """Stored images of one size, scaled to `size` where it is given."""
        self._stored, self._size = stored, size
        self._threads = ThreadPoolExecutor(min(MOST_THREADS, len(os.sched_getaffinity(0))))
        width, height = (size, size) if size else stored.sizes[0].tolist()
        self.shape = (len(stored), height, width, 3)

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        """Rows int64 [B] -> images uint8 [B, H, W, 3]."""
        return np.stack(list(self._threads.map(self._image, np.asarray(rows).tolist())))

    def _image(self, row: int) -> np.ndarray:
        image = decode(self._stored.read(row))
        if self._size:
            image = centre_square(image, self._size)
        if image.shape != self.shape[1:]:
            what = f"the image {self._stored.source_keys[row]} has not the size of its record"
            raise FormatError("shards", what, "Run `rdm check`, then import again.")
        return image


@dataclass(frozen=True)
class Divided:
    """What is trained on, and what is measured on; no image of one is in the other."""

    training: ShardImages
    held_out: ShardImages


def divided(config: TrainAutoencoder, shards: Artifact) -> Divided:
    """The images of some shards, divided by their keys: all crops of an image are on one side.

    Raises StorageError where there are none, none of one side, or not all of one size.
    """
    stored, where = stored_images(shards), f"shards/{shards.name}"
    if not len(stored):
        cure = f"Look at its rejects: rdm show shards/{shards.name}"
        raise StorageError(where, "holds no accepted image", cure)
    refuse_sizes(config, stored, where)
    draws = np.array([draw_of(key) for key in stored.source_keys.tolist()])
    held_out = draws < config.held_out
    for side, least in ((held_out, FEWEST_HELD_OUT), (~held_out, 1)):
        if side.sum() < least:
            what = f"of its {len(stored):,} images, {held_out.sum():,} are held out at a share of "
            what += f"{config.held_out}; {FEWEST_HELD_OUT} or more must be, and not all"
            raise StorageError(where, what, "Change it: --set held_out=..., or import more images.")
    # In the order of the draws: data sets may be sorted, by class or by style.
    rows = np.argsort(draws, kind="stable")[: held_out.sum()][: config.measured_images]
    return Divided(
        ShardImages(stored.take(~held_out), config.size),
        ShardImages(stored.take(rows), config.size),
    )


def draw_of(source_key: str) -> float:
    """A number in 0..1 that is the image's for ever: below the share of those held out, it is one
    of them, whatever others are there.
    """
    return seed_of("held out", source_key) / 2**64


def refuse_sizes(config: TrainAutoencoder, stored: StoredImages, where: str) -> None:
    """Raise StorageError for images of several sizes, or smaller ones than are asked for."""
    sizes = np.unique(stored.sizes, axis=0).tolist()
    told = ", ".join(f"{width}x{height}" for width, height in sizes[:4])
    smallest = min(min(size) for size in sizes)
    if config.size is None and len(sizes) > 1:
        what = f"its images have {len(sizes)} sizes: {told}"
        raise StorageError(where, what, f"Scale them to one: --set size={smallest}")
    if config.size is not None and config.size > smallest:
        what = f"its images are {told} pixels, size={config.size} asks for larger ones"
        raise StorageError(where, what, f"Use --set size={smallest} or less, or leave it out.")
