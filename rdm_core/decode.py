"""Bytes to pixels: whatever users really have becomes an upright 8-bit sRGB picture, or a
rejection with its cause.
"""

import struct
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from rdm_core.colour import UNCONVERTIBLE, Stored, is_convertible, to_srgb
from rdm_core.formats import is_avif, opened
from rdm_core.memory import Room, all_memory_bytes
from rdm_core.metadata import Bare, bare
from rdm_core.rejections import ImageRejected, rejection

COLOUR_PROFILE = "sRGB, through the ICC profile"
"""What colours a decoded picture is in, for plans."""

_LFS_HEAD = b"version https://git-lfs.github.com/spec/"
# EXIF orientation -> (transpose first, then how many quarter turns counter-clockwise).
_ORIENTATIONS = {1: (False, 0), 2: (True, 3), 3: (False, 2), 4: (True, 1),
                 5: (True, 0), 6: (False, 3), 7: (True, 2), 8: (False, 1)}  # fmt: skip
BYTES_A_PIXEL = {"AVIF": 13, "WEBP": 17}
"""What decoding a picture and cutting windows out of it takes at its peak, where it is more than
OTHERS_BYTES_A_PIXEL.
"""
OTHERS_BYTES_A_PIXEL = 11
"""Of all other formats: measured were 5 (GIF) to 10 (progressive JPEG)."""


@dataclass(frozen=True)
class DecodeLimits:
    """What decode() accepts: file length in bytes, width x height in pixels, shortest side in
    pixels.

    Above 2 x PIL.Image.MAX_IMAGE_PIXELS Pillow refuses by itself.
    """

    max_bytes: int = 256 * 2**20
    max_pixels: int = 100_000_000
    min_side: int = 16


def decode(
    data: bytes, limits: DecodeLimits = DecodeLimits(), rotation_degrees: int = 0
) -> np.ndarray:
    """The upright sRGB pixels of an image file, uint8 [H, W, 3].

    Sizes are checked in the header before a pixel is decoded; of an animation or a multi-picture
    file the first picture counts. Colours go through the file's ICC profile to sRGB (perceptual
    intent, black point compensated); without a profile, or with one that is broken or made for
    other pixels (an RGB profile on grey ones), they are taken as sRGB. Transparency is laid over
    white, 9 to 16 bits are scaled to 8, CMYK and palettes are converted. Bad metadata is forgiven,
    missing pixels never. rotation_degrees: counter-clockwise, 0, 90, 180 or 270, from the data
    set's records; it states the same fact as the EXIF orientation, and replaces it unless it is 0.

    Large pictures that several threads decode wait for each other: `decoding_room`. Raises
    ImageRejected for anything about the bytes, ValueError for a wrong rotation.
    """
    with decoded(data, limits, rotation_degrees) as pixels:
        return pixels


@contextmanager
def decoded(
    data: bytes, limits: DecodeLimits = DecodeLimits(), rotation_degrees: int = 0
) -> Iterator[np.ndarray]:
    """What `decode` returns, its memory held in `decoding_room` until the block ends. Decode
    nothing else inside.
    """
    if rotation_degrees not in (0, 90, 180, 270):
        raise ValueError(f"rotation_degrees is {rotation_degrees}, must be 0, 90, 180 or 270")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set: half images would pass. Set it to False."
        )
    _check_bytes(data, limits)
    _silence_pillow()
    stripped = bare(data)
    if stripped.unsupported:
        raise ImageRejected("unsupported pixels", stripped.unsupported)
    with _rejected_by_cause(stripped.data, limits):
        image = opened(stripped.data)
        _check_size(image.size, limits)
    bytes_a_pixel = BYTES_A_PIXEL.get(image.format or "", OTHERS_BYTES_A_PIXEL)
    with decoding_room().holding(image.width * image.height * bytes_a_pixel + len(data)):
        with _rejected_by_cause(stripped.data, limits):
            pixels = _pixels(image, stripped, limits, rotation_degrees)
        yield pixels


@cache
def decoding_room() -> Room:
    """What the pictures may take that threads of this process decode at once: 2 GiB, or a
    quarter of a larger machine's memory; a picture that needs more is decoded alone.
    """
    return Room(max(2 * 2**30, all_memory_bytes() // 4))


@contextmanager
def _rejected_by_cause(data: bytes, limits: DecodeLimits) -> Iterator[None]:
    """Whatever a decoder raises becomes an ImageRejected."""
    try:
        yield
    except ImageRejected:
        raise
    except Exception as error:
        # decoders raise some twenty types on hostile bytes; none is swallowed
        if is_avif(data) and isinstance(error, UnidentifiedImageError):
            _check_avif_size(data, limits)
        raise rejection(error, data) from error


def _pixels(
    image: Image.Image, stripped: Bare, limits: DecodeLimits, rotation_degrees: int
) -> np.ndarray:
    """Decode an open image, and close it."""
    with closing(image):
        if not is_convertible(image.mode) or _is_signed(image):
            raise ImageRejected(
                "unsupported pixels", UNCONVERTIBLE.get(image.mode, "signed integers")
            )
        image.load()
        _check_size(image.size, limits)  # of a HEIF it may be known only now
        orientation = 1 if rotation_degrees else _exif_orientation(image)
        pixels = to_srgb(image, _stored(image, stripped))
    return _upright(pixels, orientation, rotation_degrees)


def _is_signed(image: Image.Image) -> bool:
    """Whether the pixels of a TIFF are signed integers; Pillow takes those of 8 bits for
    unsigned ones.
    """
    return getattr(image, "tag_v2", {}).get(339, (1,))[0] == 2


def _stored(image: Image.Image, stripped: Bare) -> Stored:
    """How the file's pixels are to be understood."""
    profile = stripped.profile or image.info.get("icc_profile")
    depth, white_is_zero = stripped.depth, False
    tags = getattr(image, "tag_v2", None)
    # a TIFF: Pillow neither scales nor inverts these
    if tags is not None and image.mode.startswith("I;16"):
        depth, white_is_zero = tags.get(258, (16,))[0], tags.get(262) == 0
    return Stored(
        profile if isinstance(profile, bytes) else None, stripped.clear, depth, white_is_zero
    )


def _check_bytes(data: bytes, limits: DecodeLimits) -> None:
    """Raise ImageRejected for what can be told from the bytes without a decoder."""
    if not data:
        raise ImageRejected("empty file", "0 bytes")
    if len(data) > limits.max_bytes:
        raise ImageRejected("too many bytes", f"{len(data)} bytes, the limit is {limits.max_bytes}")
    if data.startswith(_LFS_HEAD):
        raise ImageRejected(
            "git-lfs pointer", "run `git lfs pull` in the repository this file came from"
        )


def _check_size(size: tuple[int, int], limits: DecodeLimits) -> None:
    """Raise ImageRejected if (width, height), in pixels, is outside the limits."""
    width, height = size
    if width * height > limits.max_pixels:
        raise ImageRejected(
            "too many pixels", f"{width}x{height}, the limit is {limits.max_pixels} pixels"
        )
    if min(width, height) < limits.min_side:
        raise ImageRejected(
            "too small", f"{width}x{height}, the limit is {limits.min_side} pixels a side"
        )


def _check_avif_size(data: bytes, limits: DecodeLimits) -> None:
    """_check_size for an AVIF that Pillow would not open: it refuses huge ones without saying
    that size is why.
    """
    place = data.find(b"ispe", 0, 65536)  # image spatial extents: 4 bytes of version, then the size
    if 0 <= place <= len(data) - 16:
        _check_size(struct.unpack_from(">II", data, place + 8), limits)


def _silence_pillow() -> None:
    """Ignore Pillow's warnings: an image is accepted or rejected. catch_warnings would be unsafe
    between threads.
    """
    if not any(getattr(known[3], "pattern", "") == r"PIL\." for known in warnings.filters):
        warnings.filterwarnings("ignore", module=r"PIL\.")


def _exif_orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8 of a loaded image; 1 (as stored) where the metadata are absent or
    unreadable.
    """
    try:
        orientation = image.getexif().get(0x0112, 1)
    except (
        SyntaxError,
        struct.error,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        OSError,
    ):
        return 1  # broken metadata do not make a picture worthless; viewers show it as stored, too
    return int(orientation) if orientation in range(1, 9) else 1


def _upright(pixels: np.ndarray, orientation: int, rotation_degrees: int) -> np.ndarray:
    """pixels [H, W, 3] turned by an EXIF orientation 1..8 and by degrees counter-clockwise;
    C-contiguous.
    """
    transposed, quarter_turns = _ORIENTATIONS[orientation]
    if transposed:
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(np.rot90(pixels, quarter_turns + rotation_degrees // 90))
