"""Which images share a part: cut so that a change in the data set touches what is around it alone.

Cuts by position would shift with the first image added or removed, and every later part would be
made again. Here a part ends where the hashes of the images' ids say so: content-defined chunking,
as in LBFS (Muthitacharoen et al. 2001), or by the smallest hash around (Bjorner et al. 2010).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Final, Literal
from zlib import crc32

from storage.manifest import made_from
from storage.sources.source import Listing, SourceImage

Images = tuple[SourceImage, ...]

AUTO: Final = "auto"
REACHES = ((0, 50), (8_000, 100), (20_000, 250), (40_000, 500))
"""(place in the listing, reach from there on): parts of about 100, 200, 500 and 1,000 images."""


def cut_into_parts(listing: Listing, images_per_part: int | Literal["auto"]) -> dict[str, Images]:
    """Part name -> its images, in listing order.

    A number: so many on average, half of it at least, twice it at most.

    auto: about 100 each among the first thousands, up to 1,000 further into a large listing. So a
    change in a small data set makes little anew, and a large one has few parts: 10 of 1,000 images,
    80 of 8,000, about 1,100 of a million. Each holds 2 x reach on average, at least its reach
    unless it is the only one, and hardly ever more than 6 x reach. Whatever number of images there
    was and is, one more makes two parts anew at most, one less three, mostly one; a place of
    REACHES that falls on a cut adds two, and all other cuts stay.
    """
    ids = [image.source_id for image in listing.images]
    lasts = _winners(ids) if images_per_part == AUTO else _by_number(ids, images_per_part)
    bounds = {0, len(ids)}
    for last in lasts:
        bounds.add(last + 1)
    parts = {}
    for number, (start, end) in enumerate(pairwise(sorted(bounds))):
        parts[f"{number:05d}"] = listing.images[start:end]
    return parts


def _winners(ids: Sequence[str]) -> Iterator[int]:
    """Places whose hash is the smallest within reach on both sides; the list's ends are smaller.

    An image decides about cuts within reach of it alone. The further the reach the fewer win, all
    of whom would win with a nearer one too: past a place of REACHES cuts are left out, none moves.
    """
    hashes = [crc32(source_id.encode()) for source_id in ids]
    hashes.append(-1)  # smaller than all: it settles what is left at the end
    # A stack of hashes that may still win, smallest first. A hash leaves it when a smaller one
    # comes; by then the nearest smaller hash on either side is known, and so is its reach.
    rising: list[tuple[int, int, int]] = []  # (hash, place, places to the smaller one before it)
    for place, value in enumerate(hashes):
        while rising and rising[-1][0] > value:
            _, winner, before = rising.pop()
            if min(before, place - winner) > _reach_at(winner):
                yield winner
        before = place - rising[-1][1] if rising else place + 1
        rising.append((value, place, before))


def _reach_at(place: int) -> int:
    reach_here = 0
    for start, reach in REACHES:
        if place >= start:
            reach_here = reach
    return reach_here


def _by_number(ids: Sequence[str], images_per_part: int) -> Iterator[int]:
    """Last place of each part but perhaps the last one."""
    least, most = max(1, images_per_part // 2), 2 * images_per_part
    span = max(1, images_per_part - least)
    start = 0
    for place, source_id in enumerate(ids):
        length = place + 1 - start
        # Past the least length one id in `span` ends a part, whichever ids stand before it.
        if length == most or (length >= least and crc32(source_id.encode()) % span == 0):
            yield place
            start = place + 1


def origin_of(images: tuple[SourceImage, ...], parameters: Mapping[str, object]) -> str:
    """Hash over all that determines a part: how images are stored, what is known of each, and its
    file's size and time, or checksum.

    The folder or zip a data set lies in is not part of it.
    """
    known = []
    for image in images:
        facts = asdict(image) | {
            "path": None
        }  # as it has always been: other hashes are other parts
        del facts["member"]
        known.append(facts)
    return made_from(parameters, known)
