"""How much disk space images, and all that is made from them, need; checked before a rebuild."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from flows.config.database import BuildDatabase, Rebuild
from flows.config.images import AnyImages, Coco, Drawn, Images
from flows.data.autoencoder import space_of
from flows.data.encoders import encoder_for
from storage.artifact import current_id
from storage.errors import StorageError

if TYPE_CHECKING:
    from rdm_core.clip import Encoder
    from rdm_core.latents import LatentSpace
from storage.sources import members_in_zips

JPEG_BYTES_PER_VALUE, PNG_BYTES_PER_VALUE = 0.3, 0.8
"""Of a crop's pixels times three, above what photographs were seen to take."""
RECORD_BYTES = 400
"""Of an image's row in one Parquet file: key, credits, captions."""


class PreflightFailed(StorageError):
    """The request cannot be done on this machine. The message names everything that is missing, and
    the cure.
    """


def check_rebuild(config: Rebuild) -> str:
    """A line that says how much disk space a rebuild needs. Raises PreflightFailed, or what loading
    the weights raises.
    """
    check_images(config.images, f"rebuild {config.name}")
    encoder, space = weights_of(config)
    # What is imported already takes no more room; most of a rebuild is then taken over.
    images = 0 if current_id(config.root, "shards", config.name) else image_count(config.images)
    side = config.images.size // space.factor
    latent = space.bytes_per_place(config.stored) * side * side
    crop = latent + bytes_of_row(encoder.dimension, config.k)
    needed = images * (bytes_of_image(config.images) + config.images.crops_per_image * crop)
    free = free_bytes(config.root)
    if needed > free:
        raise PreflightFailed(
            f"rebuild {config.name}",
            disk_problem(config.root, needed, free),
            "Nothing has been started.",
        )
    return f"needs {in_gb(needed)} of the {in_gb(free)} free on the disk; weights are at hand"


def weights_of(config: Rebuild) -> tuple[Encoder, LatentSpace]:
    """The encoder and the latent space of a rebuild. Raises what loading them raises."""
    here = {"root": config.root, "name": config.name, "shards": config.name}
    encoder = encoder_for(BuildDatabase(**here, **config.encoding()))
    return encoder, space_of(config.root, config.autoencoder)


def bytes_of_image(images: Images) -> int:
    """Of its stored crops and their records."""
    # Three values a pixel: red, green and blue.
    share = PNG_BYTES_PER_VALUE if images.encoding == "png" else JPEG_BYTES_PER_VALUE
    return images.crops_per_image * int(3 * images.size**2 * share + RECORD_BYTES)


def bytes_of_row(dimension: int, k: int) -> int:
    """Of its vector in the Parquet and the index, its list of neighbors, and its records."""
    # Two copies of a float16 vector; a row number, a score and a key for each neighbor.
    return 2 * 2 * dimension + 48 * k + 2 * RECORD_BYTES


def image_count(images: AnyImages) -> int:
    """How many there are, at most: files count, whatever they are, and those in COCO's zips.

    Raises SourceError where such a zip cannot be opened.
    """
    if isinstance(images, Drawn):
        return images.count
    count = members_in_zips(images.path, images.split) if isinstance(images, Coco) else 0
    for _, _, files in os.walk(images.path):
        count += len(files)
    return count


def check_images(images: AnyImages, where: str) -> None:
    """Raise PreflightFailed when the data set is not where it is said to be."""
    if not isinstance(images, Drawn) and not images.path.is_dir():
        what = f"images: there is no folder {images.path.absolute()}"
        raise PreflightFailed(
            where, what, "Put the data set there, or change images.path. Nothing has been started."
        )


def free_bytes(root: Path) -> int:
    """On the disk that holds the root, or will."""
    directory = root.absolute()
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free


def disk_problem(root: Path, needed: int, free: int) -> str:
    """The message for a disk that is too full."""
    return f"disk: {in_gb(needed)} at most, {in_gb(free)} are free at {root}; free some, or rdm gc"


def in_gb(size_bytes: int) -> str:
    """In gigabytes of 10^9 bytes, to a tenth."""
    return f"{size_bytes / 1e9:.1f} GB"
