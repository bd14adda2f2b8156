"""Which images share a part: cut so that a change in the data set touches the parts around it and no other.

Cuts by position would shift with the first image added or removed, and every later part would be made again. Here a part
ends where the hash of an image's id says so (content-defined chunking, as in LBFS, Muthitacharoen et al. 2001).
"""

from collections.abc import Mapping
from dataclasses import asdict
from zlib import crc32

from storage.artifact import made_from
from storage.sources.source import Listing, SourceImage


def cut_into_parts(listing: Listing, images_per_part: int) -> dict[str, tuple[SourceImage, ...]]:
    """Part name -> its images, in listing order: images_per_part on average, half of it at least, twice it at most."""
    least, most = max(1, images_per_part // 2), 2 * images_per_part
    span = max(1, images_per_part - least)
    parts: list[tuple[SourceImage, ...]] = []
    start = 0
    for end, image in enumerate(listing.images, 1):
        length = end - start
        ends_here = length >= least and crc32(image.source_id.encode()) % span == 0
        if ends_here or length == most or end == len(listing.images):
            parts.append(listing.images[start:end])
            start = end
    return {f"{number:05d}": images for number, images in enumerate(parts)}


def origin_of(images: tuple[SourceImage, ...], listing: Listing, parameters: Mapping[str, object]) -> str:
    """Hash over all that determines a part: how images are stored, what is known of each, and its file's size and time.

    The folder a data set lies in is not part of it.
    """
    known = [asdict(image) | {"path": None, "stamp": listing.stamps.get(image.source_id)} for image in images]
    return made_from(parameters, known)
