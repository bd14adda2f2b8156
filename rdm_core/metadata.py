"""The metadata of PNG and JPEG files, which are read here and kept from the decoders.

Viewers show a picture even if its texts, profiles or resolutions are broken or very large; Pillow
refuses many such files. So decoders get only the bytes that they need for the pixels.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

PNG_HEAD = b"\x89PNG\r\n\x1a\n"
JPEG_HEAD = b"\xff\xd8\xff"
MOST_TEXT_BYTES = 1_000_000
"""Unpacked length of a text that may say how the picture is turned. Pillow refuses longer ones."""
MOST_PROFILE_BYTES = 16_000_000
"""Unpacked length of a colour profile. Those of printing presses reach 2 or 3 MB."""
_TURNING_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
_GREY, _RGB, _PALETTE = 0, 2, 3
"""Colour types of PNG that can have one transparent colour, or a list of them."""
# Markers of JPEG (ITU T.81, table B.1) that start a frame which libjpeg can read: baseline,
# extended, progressive, and the last two with arithmetic coding.
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
_UNREADABLE_FRAMES = {
    0xC3: "lossless", 0xC5: "hierarchical", 0xC6: "hierarchical", 0xC7: "hierarchical",
    0xCB: "lossless arithmetic", 0xCD: "hierarchical arithmetic",
    0xCE: "hierarchical arithmetic", 0xCF: "hierarchical arithmetic",
}  # fmt: skip


@dataclass(frozen=True)
class Bare:
    """A file without its metadata, and what was read of them."""

    data: bytes
    """The file without what no decoder needs; the whole file if it is neither PNG nor JPEG."""
    profile: bytes | None = None
    """ICC profile, whole but otherwise unchecked."""
    clear: tuple[int, ...] | None = None
    """PNG: the one transparent colour, grey or (red, green, blue), in the file's own depth."""
    depth: int = 8
    """PNG: bits of a channel as the file has them."""
    unsupported: str | None = None
    """JPEG: why no decoder here can read it, in words."""


def bare(data: bytes) -> Bare:
    """Take a file's metadata away. Never raises: bytes that make no sense are kept, for the decoder
    to refuse.
    """
    if data.startswith(PNG_HEAD):
        return _bare_png(data)
    return _bare_jpeg(data) if data.startswith(JPEG_HEAD) else Bare(data)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each whole chunk of a PNG up to IEND."""
    start = len(PNG_HEAD)
    # A chunk is 4 bytes of length, 4 of kind, its content, and 4 of checksum.
    while start + 12 <= len(data):
        kind = data[start + 4 : start + 8]
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        if end > len(data):
            return
        yield kind, start, end
        if kind == b"IEND":
            return
        start = end


def _bare_png(data: bytes) -> Bare:
    """A PNG without its ancillary chunks, except those that say how its pixels are shown.

    Critical chunks stay, broken or not.
    """
    # Bytes 24 and 25 are in the first chunk, IHDR: bits of a channel, and colour type.
    depth, colour = (data[24], data[25]) if len(data) > 25 else (8, _RGB)
    kept, end = [data[: len(PNG_HEAD)]], len(PNG_HEAD)
    profile, clear = None, None
    for kind, start, end in _chunks(data):  # noqa: B007 - the last one's end is used below
        body = data[start + 8 : end - 4]
        if not kind[0] & 0x20:  # a capital letter first: a critical chunk
            kept.append(data[start:end])
        elif not _is_sound(kind, body, data[end - 4 : end]):
            continue
        elif kind == b"iCCP":
            profile = profile or _png_profile(body)
        elif kind == b"tRNS" and colour != _PALETTE:
            clear = _clear_colour(body, colour)
        else:
            kept.append(data[start:end])
    if kept[-1][4:8] != b"IEND":
        kept.append(data[end:])  # half a chunk, which the decoder will refuse
    return Bare(b"".join(kept), profile, clear, depth)


def _is_sound(kind: bytes, body: bytes, checksum: bytes) -> bool:
    """Whether an ancillary chunk is used here, and its checksum is right."""
    if kind in (b"iTXt", b"zTXt", b"tEXt"):
        if not body.startswith(_TURNING_TEXTS) or not _may_turn(kind, body):
            return False
    elif kind not in (b"tRNS", b"iCCP", b"eXIf"):
        return False
    return zlib.crc32(body, zlib.crc32(kind)) == int.from_bytes(checksum, "big")


def _clear_colour(body: bytes, colour: int) -> tuple[int, ...] | None:
    """The transparent colour of a tRNS chunk; None where the colour type has none, or the chunk
    is short.
    """
    channels = {_GREY: 1, _RGB: 3}.get(colour, 0)
    if not channels or len(body) < 2 * channels:
        return None
    return struct.unpack_from(f">{channels}H", body)


def _png_profile(body: bytes) -> bytes | None:
    """The colour profile of an iCCP chunk: a name, 0, one byte of method, the packed profile."""
    name_end = body.find(b"\0", 0, 80)
    return _unpacked(body[name_end + 2 :], MOST_PROFILE_BYTES) if name_end > 0 else None


def _may_turn(kind: bytes, body: bytes) -> bool:
    """Whether Pillow accepts a text that may hold the orientation: it refuses long ones."""
    rest = body.partition(b"\0")[2]
    if kind == b"tEXt":
        return len(rest) <= MOST_TEXT_BYTES
    if kind == b"zTXt":
        return rest[:1] == b"\0" and _unpacked(rest[1:], MOST_TEXT_BYTES) is not None
    flags, fields = rest[:2], rest[2:].split(b"\0", 2)  # language, translated keyword, text
    if len(fields) != 3 or len(fields[2]) > MOST_TEXT_BYTES:
        return False
    return flags == b"\0\0" or _unpacked(fields[2], MOST_TEXT_BYTES) is not None


def _unpacked(packed: bytes, most: int) -> bytes | None:
    """Unpack what zlib packed. None if it is broken, not whole, or longer than `most` bytes."""
    unpacking = zlib.decompressobj()
    try:
        content = unpacking.decompress(packed, most)
    except zlib.error:
        return None
    return content if unpacking.eof else None


def _bare_jpeg(data: bytes) -> Bare:
    """A JPEG without its segments for applications, except those that say how its colours are
    stored and how the picture is turned.
    """
    pieces: dict[int, tuple[int, bytes]] = {}
    kept, unsupported, start = [data[:2]], None, 2
    while (segment := _segment(data, start)) is not None:
        marker, body, end = segment
        is_metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE  # APP0 to APP15, or a comment
        if not is_metadata or _says_how_to_read(marker, body):
            kept.append(data[start:end])
        if not is_metadata:
            unsupported = unsupported or _unsupported_frame(marker, body)
        # A long profile is in several segments: its name, a number from 1 on, their count, a piece.
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0") and len(body) > 14:
            pieces.setdefault(body[12], (body[13], body[14:]))
        start = end
    stripped = b"".join([*kept, data[start:]])
    # Behind the segments may be junk that makes no JPEG of the rest.
    whole = stripped if stripped.startswith(JPEG_HEAD) else data
    return Bare(whole, _joined(pieces), unsupported=unsupported)


def _segment(data: bytes, at: int) -> tuple[int, bytes, int] | None:
    """Marker, content and end of the segment at a place of a JPEG.

    None at the first scan, and where there is no whole segment.
    """
    place = at
    while data[place : place + 2] == b"\xff\xff":  # any number of these may stand before a marker
        place += 1
    if place + 4 > len(data) or data[place] != 0xFF:
        return None
    marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
    end = place + 2 + length
    # 0x00, 0x01 and 0xD0 to 0xD9 have no content; 0xDA starts the scan.
    if marker in (0x00, 0x01, *range(0xD0, 0xDB)) or length < 2 or end > len(data):
        return None
    return marker, data[place + 4 : end], end


def _says_how_to_read(marker: int, body: bytes) -> bool:
    """Whether libjpeg or Pillow uses an application's segment; short ones make Pillow fail."""
    return (
        (marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14)
        or (marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12)
        or (marker == 0xE1 and body.startswith((b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0")))
    )


def _unsupported_frame(marker: int, body: bytes) -> str | None:
    """Why the frame that a segment starts cannot be read; None if it can, or if none starts."""
    if marker in _UNREADABLE_FRAMES:
        return f"a {_UNREADABLE_FRAMES[marker]} JPEG"
    if marker in _FRAMES and body and body[0] != 8:
        return f"a JPEG of {body[0]} bits a channel"
    return None


def _joined(pieces: dict[int, tuple[int, bytes]]) -> bytes | None:
    """The profile that segments 1 to n hold in pieces; None if one is absent.

    `pieces` has the number of each segment -> (n as that segment says, its piece).
    """
    if not pieces:
        return None
    count, _ = next(iter(pieces.values()))
    profile = []
    for number in range(1, count + 1):
        if number not in pieces:
            return None
        profile.append(pieces[number][1])
    return b"".join(profile) if profile else None
