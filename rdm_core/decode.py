"""Bytes to pixels: any file becomes an upright 8-bit sRGB picture, or is rejected with a reason."""

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
"""The colours of a decoded picture, as plans record them."""

_LFS_HEAD = b"version https://git-lfs.github.com/spec/"
# EXIF orientation -> (transpose first, then how many quarter turns counter-clockwise).
_ORIENTATIONS = {1: (False, 0), 2: (True, 3), 3: (False, 2), 4: (True, 1),
                 5: (True, 0), 6: (False, 3), 7: (True, 2), 8: (False, 1)}  # fmt: skip
BYTES_A_PIXEL = {"AVIF": 13, "WEBP": 17}
"""The peak of memory while a picture is decoded and windows are cut out of it, by Pillow's name of
its format.
"""
OTHERS_BYTES_A_PIXEL = 11
"""The same for all other formats: 5 (GIF) to 10 (progressive JPEG) were measured."""


@dataclass(frozen=True)
class DecodeLimits:
    """The files that decode() accepts: length in bytes, width x height and shorter side in pixels.

    Above 2 x PIL.Image.MAX_IMAGE_PIXELS Pillow refuses by itself.
    """

    max_bytes: int = 256 * 2**20
    max_pixels: int = 100_000_000
    min_side: int = 16


def decode(
    data: bytes, limits: DecodeLimits = DecodeLimits(), rotation_degrees: int = 0
) -> np.ndarray:
    """The upright sRGB pixels of an image file, uint8 [H, W, 3].

    Sizes are checked in the header before a pixel is decoded. Of an animation or a file of several
    pictures the first one is taken. Colours go through the file's ICC profile to sRGB (perceptual
    intent, black point compensated). Without a profile, or with one that is broken or made for
    other pixels (an RGB profile on grey ones), they are taken as sRGB. Transparency is laid over
    white, 9 to 16 bits are scaled to 8, CMYK and palettes are converted. Broken metadata are
    ignored; missing pixels are not. `rotation_degrees` is counter-clockwise, 0, 90, 180 or 270, and
    comes from the records of a data set. It replaces the EXIF orientation unless it is 0.

    Large pictures that several threads decode wait for each other: `decoding_room`. Raises
    ImageRejected for whatever is wrong with the bytes, ValueError for a wrong rotation.
    """
    with decoded(data, limits, rotation_degrees) as pixels:
        return pixels


@contextmanager
def decoded(
    data: bytes, limits: DecodeLimits = DecodeLimits(), rotation_degrees: int = 0
) -> Iterator[np.ndarray]:
    """The pixels uint8 [H, W, 3] that `decode` returns, with their memory held in `decoding_room`
    until the block ends. Decode nothing else inside the block.
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


def is_transparent(data: bytes) -> bool:
    """Whether an image file that `decode` takes has transparent pixels, which it lays over
    white.
    """
    image = opened(bare(data).data)
    if not image.has_transparency_data:
        return False
    return bool((np.asarray(image.convert("RGBA"))[..., 3] < 255).any())


@cache
def decoding_room() -> Room:
    """The memory for all pictures that threads of this process decode at once.

    It is 2 GiB, or a quarter of the memory if that is more. A picture that needs more than the room
    is decoded alone.
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
        # Decoders raise some twenty types for hostile bytes; each becomes a rejection.
        if is_avif(data) and isinstance(error, UnidentifiedImageError):
            _check_avif_size(data, limits)
        raise rejection(error, data) from error


def _pixels(
    image: Image.Image, stripped: Bare, limits: DecodeLimits, rotation_degrees: int
) -> np.ndarray:
    """Decode an open image to uint8 [H, W, 3], and close it."""
    with closing(image):
        if not is_convertible(image.mode) or _is_signed(image):
            raise ImageRejected(
                "unsupported pixels", UNCONVERTIBLE.get(image.mode, "signed integers")
            )
        image.load()
        _check_size(image.size, limits)  # the true size of a HEIF may be known only now
        orientation = 1 if rotation_degrees else _exif_orientation(image)
        pixels = to_srgb(image, _stored(image, stripped))
    return _upright(pixels, orientation, rotation_degrees)


def _is_signed(image: Image.Image) -> bool:
    """Whether the pixels of a TIFF are signed integers, which Pillow takes for unsigned ones if
    they have 8 bits. Tag 339 is the kind of number, 2 is signed.
    """
    return getattr(image, "tag_v2", {}).get(339, (1,))[0] == 2


def _stored(image: Image.Image, stripped: Bare) -> Stored:
    """How the pixels of a file are to be read."""
    profile = stripped.profile or image.info.get("icc_profile")
    depth, white_is_zero = stripped.depth, False
    tags = getattr(image, "tag_v2", None)
    # Pillow neither scales nor inverts deep grey of a TIFF. Tag 258: bits; 262: 0 is white.
    if tags is not None and image.mode.startswith("I;16"):
        depth, white_is_zero = tags.get(258, (16,))[0], tags.get(262) == 0
    if not isinstance(profile, bytes):
        profile = None
    return Stored(profile, stripped.clear, depth, white_is_zero)


def _check_bytes(data: bytes, limits: DecodeLimits) -> None:
    """Raise ImageRejected for what is seen in the bytes without a decoder."""
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
    """Check the size of an AVIF that Pillow refused: for very large ones it gives no reason."""
    place = data.find(b"ispe", 0, 65536)  # image spatial extents: 4 bytes of version, then the size
    if 0 <= place <= len(data) - 16:
        _check_size(struct.unpack_from(">II", data, place + 8), limits)


def _silence_pillow() -> None:
    """Ignore Pillow's warnings: an image is accepted or rejected."""
    # warnings.catch_warnings is not safe between threads; so add the filter once, and keep it.
    for _, _, _, module, _ in warnings.filters:
        if getattr(module, "pattern", "") == r"PIL\.":
            return
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation 1..8 of a loaded image; 1 (as stored) if there is none that can be
    read.
    """
    try:
        orientation = image.getexif().get(0x0112, 1)  # the tag Orientation
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
        return 1  # viewers, too, show a picture with broken metadata as it is stored
    return int(orientation) if orientation in range(1, 9) else 1


def _upright(pixels: np.ndarray, orientation: int, rotation_degrees: int) -> np.ndarray:
    """Turn pixels uint8 [H, W, 3] by an EXIF orientation 1..8 and by degrees counter-clockwise:
    uint8 [H, W, 3] or [W, H, 3], C-contiguous.
    """
    transposed, quarter_turns = _ORIENTATIONS[orientation]
    if transposed:
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(np.rot90(pixels, quarter_turns + rotation_degrees // 90))
