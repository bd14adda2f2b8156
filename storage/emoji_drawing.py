"""The pictures of a style, drawn as PNG files that say themselves what they were drawn of."""

import os
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from storage.atomic import sha256_of, write_bytes
from storage.emoji import Concept, Picture
from storage.errors import SourceError
from storage.icon_sets import BadIcon, IconSet, svg_of
from storage.svg import CannotDraw, Drawer

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_END = 33  # signature, and IHDR: length, name, 13 bytes, checksum
_END = b"\0\0\0\0IEND\xaeB`\x82"
_KEYWORD = b"rdm drawn of\0"  # of a tEXt chunk
_RGBA_8_BIT = (8, 6)
_MOST_RAW_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Drawn:
    """The pictures of one style, and how many of them lay there already."""

    pictures: tuple[Picture, ...]
    kept: int


def draw_emoji(
    folder: Path,
    style: str,
    icons: IconSet,
    concepts: Sequence[Concept],
    side_pixels: int,
    authors: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Drawn:
    """Draw the concepts in one style to <folder>/<style>/<code points>.png, side_pixels a side.

    A picture that lies there and was drawn of the same SVG, by the same renderer and at the same
    size is kept. What cannot be drawn is a row with a reason, and has no file. authors: code points
    -> author, for pictures whose author is known. progress(done, of) is called after each. Raises
    ValueError for a side outside storage.svg.SIDES_PIXELS, SourceError where the renderer does not
    start.
    """
    pictures, kept = [], 0
    renderer = _renderer()
    with Drawer() as drawer:
        for done, concept in enumerate(concepts, start=1):
            path = folder / style / f"{concept.code_points}.png"
            svg_sha256 = reason = None
            try:
                svg = svg_of(icons, icons.names[concept.code_points])
                svg_sha256 = sha256_of(svg.encode())
                origin = f"{svg_sha256} {side_pixels} {renderer}"
                if drawn_of(path) == origin:
                    kept += 1
                else:
                    png = _saying(drawer.draw(svg, side_pixels), origin)
                    # Waiting for the disk takes longer than drawing: what a power cut undoes is
                    # drawn again.
                    write_bytes(path, png, durable=False)
            except (BadIcon, CannotDraw) as error:
                reason = str(error)
                path.unlink(missing_ok=True)  # of another SVG than this one
            author = (authors or {}).get(concept.code_points)
            author = f"{author}, {icons.author}" if author else icons.author
            row = Picture(
                style, concept, icons.licence, author, icons.source_url,
                icons.package.name, icons.package.version, svg_sha256, reason,
            )  # fmt: skip
            pictures.append(row)
            progress(done, len(concepts))
    return Drawn(tuple(pictures), kept)


def drawn_of(path: Path) -> str | None:
    """What a picture says it was drawn of; None where it says nothing, is cut or not there."""
    try:
        with path.open("rb") as stream:
            data = stream.read(_HEADER_END + 512)
            stream.seek(-len(_END), os.SEEK_END)
            if stream.read() != _END:
                return None
    except OSError:
        return None
    place = _HEADER_END
    length = int.from_bytes(data[place : place + 4], "big")
    text = data[place + 8 : place + 8 + length]
    whole = data.startswith(_SIGNATURE) and len(text) == length
    if not whole or data[place + 4 : place + 8] != b"tEXt" or not text.startswith(_KEYWORD):
        return None
    return text.removeprefix(_KEYWORD).decode("latin-1")


def _renderer() -> str:
    """What draws, with its version. Raises SourceError where it is not installed."""
    try:
        return f"resvg-py {version('resvg-py')}"
    except PackageNotFoundError as error:
        cure = "Run `pip install resvg-py`, and the same command again."
        raise SourceError("resvg-py", "is not installed, and draws the pictures", cure) from error


def _saying(png: bytes, origin: str) -> bytes:
    """A PNG with a text that says what it was drawn of. Raises CannotDraw where it shows nothing,
    or is no PNG as the renderer writes them.
    """
    if not png.startswith(_SIGNATURE) or png[12:16] != b"IHDR":
        raise CannotDraw("the renderer gave no PNG")
    if not _shows_something(png):
        raise CannotDraw("nothing to be seen in the drawing")
    return png[:_HEADER_END] + _chunk(b"tEXt", _KEYWORD + origin.encode()) + png[_HEADER_END:]


def _chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG: length, kind, data, checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _shows_something(png: bytes) -> bool:
    """Whether a pixel of an RGBA PNG is not wholly transparent.

    Wholly transparent pixels are zeros here, and rows of zeros stay zeros through every filter of
    PNG; so nothing is decoded but the packing.
    """
    width, _, *depth_and_kind = struct.unpack(">IIBB", png[16:26])
    if tuple(depth_and_kind) != _RGBA_8_BIT:
        return True
    packed, place = b"", _HEADER_END
    while place < len(png):
        length = int.from_bytes(png[place : place + 4], "big")
        if png[place + 4 : place + 8] == b"IDAT":
            packed += png[place + 8 : place + 8 + length]
        place += 12 + length
    raw = zlib.decompressobj().decompress(packed, _MOST_RAW_BYTES)
    row_bytes = 1 + 4 * width  # the filter's number comes first
    return any(any(raw[start + 1 : start + row_bytes]) for start in range(0, len(raw), row_bytes))
