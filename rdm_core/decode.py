"""Bytes to pixels: whatever users really have becomes an upright 8-bit sRGB picture, or a rejection with its cause."""

import importlib
import io
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from rdm_core.colour import UNCONVERTIBLE, Stored, is_convertible, to_srgb
from rdm_core.memory import Room, all_memory_bytes
from rdm_core.metadata import JPEG_HEAD, PNG_HEAD, Bare, bare

# The only decoders that ever run; without this list Pillow would hand an EPS file to ghostscript. JPEG includes MPO.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
for _plugin in ("Avif", "Bmp", "Gif", "Jpeg", "Png", "Tiff", "WebP"):
    importlib.import_module(f"PIL.{_plugin}ImagePlugin")
if not set(FORMATS) <= set(Image.OPEN):
    raise ImportError(f"this Pillow cannot read {set(FORMATS) - set(Image.OPEN)}; install Pillow >= 11.3 from a wheel")
# Greys that Pillow decodes and does not look up: of 12 bits and of 16, 0 white, either end of a word first.
for _order in (b"II", b"MM"):
    for _photometric in (0, 1):
        TiffImagePlugin.OPEN_INFO.setdefault((_order, _photometric, (1,), 1, (12,), ()), ("I;16", "I;12"))
TiffImagePlugin.OPEN_INFO.setdefault((b"MM", 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))
READABLE = (*FORMATS, "HEIF")
"""All that is read; the decoder of HEIF (.heic) is loaded with the first of them."""
COLOURS = "sRGB, through the ICC profile"
"""What colours a decoded picture is in, for plans."""

# The vocabulary of ImageRejected.reason: stable, so that it can be counted and filtered on.
REASONS = {
    "missing file": "the data set lists it, but there is no such file",
    "unreadable file": "the operating system would not read it",
    "empty file": "no bytes at all",
    "git-lfs pointer": "the small text git-lfs leaves where the data should be",
    "too many bytes": "the file is longer than DecodeLimits.max_bytes",
    "not an image": "no picture format that is known here",
    "unsupported format": "a picture, of a format that is not in READABLE",
    "too many pixels": "the header claims more than DecodeLimits.max_pixels, or than Pillow's bomb limit",
    "too small": "a side is shorter than DecodeLimits.min_side",
    "truncated": "the file ends before its pixels do",
    "damaged": "an image format, but the decoder cannot make sense of the file",
    "unsupported pixels": "pixels that no decoder here reads, or without an agreed way to 8-bit RGB: floats, Lab, 12-bit JPEG",
    "out of memory": "the decoder could not get the memory; perhaps not the image's fault",
}

_LFS_HEAD = b"version https://git-lfs.github.com/spec/"
_HEADS = (JPEG_HEAD, PNG_HEAD, b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_AVIF_BRANDS = {b"avif", b"avis"}
# Formats that are told by their first bytes and not read.
_OTHER_HEADS = {
    b"\0\0\0\x0cjP  \r\n": "JPEG 2000", b"\xff\x4f\xff\x51": "JPEG 2000", b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL ": "JPEG XL",
    b"8BPS": "Photoshop", b"\0\0\1\0": "ICO", b"%PDF-": "PDF", b"%!PS": "EPS", b"\x76\x2f\x31\x01": "OpenEXR",
    b"#?RADIANCE": "Radiance HDR", b"qoif": "QOI", b"gimp xcf": "GIMP", b"DDS ": "DDS", b"BPG\xfb": "BPG",
    b"II\xbc\x01": "JPEG XR", b"IIRO": "camera raw", b"IIU\0": "camera raw", b"FUJIFILM": "camera raw",
    **{b"P%d" % kind + white: "PPM" for kind in range(1, 8) for white in (b"\n", b" ", b"\r", b"\t")},
}  # fmt: skip
# EXIF orientation -> (transpose first, then how many quarter turns counter-clockwise); 1 is upright.
_ORIENTATIONS = {1: (False, 0), 2: (True, 3), 3: (False, 2), 4: (True, 1),
                 5: (True, 0), 6: (False, 3), 7: (True, 2), 8: (False, 1)}  # fmt: skip
BYTES_A_PIXEL = {"WEBP": 16}
"""What decoding a picture and cutting windows out of it takes at its peak, where it is more than OTHERS_BYTES_A_PIXEL."""
OTHERS_BYTES_A_PIXEL = 11
"""Of all other formats: measured were 5 (GIF) to 10 (AVIF, progressive JPEG)."""


@dataclass(frozen=True)
class DecodeLimits:
    """What decode() accepts: file length in bytes, width x height in pixels, shortest side in pixels.

    Above 2 x PIL.Image.MAX_IMAGE_PIXELS Pillow refuses by itself.
    """

    max_bytes: int = 256 * 2**20
    max_pixels: int = 100_000_000
    min_side: int = 16


class ImageRejected(Exception):
    """This file does not become an image. `reason` is one of REASONS; `detail` says more and is for people."""

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in REASONS, f"{reason!r} is not in the vocabulary REASONS"
        self.reason, self.detail = reason, detail
        super().__init__(reason, detail)

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def decode(data: bytes, limits: DecodeLimits = DecodeLimits(), rotation_degrees: int = 0) -> np.ndarray:
    """The upright sRGB pixels of an image file, uint8 [H, W, 3].

    Sizes are checked in the header before a pixel is decoded; of an animation or a multi-picture file the first picture
    counts. Colours go through the file's ICC profile to sRGB (perceptual intent, black point compensated); without a
    profile, or with one that is broken or made for other pixels (an RGB profile on grey ones), they are taken as sRGB.
    Transparency is laid over white, 9 to 16 bits are scaled to 8, CMYK and palettes are converted. Bad metadata is
    forgiven, missing pixels never. rotation_degrees: counter-clockwise, 0, 90, 180 or 270, from the data set's records;
    it states the same fact as the EXIF orientation, and replaces it unless it is 0.

    Large pictures that several threads decode wait for each other: `decoding_room`.
    Raises ImageRejected for anything about the bytes, ValueError for a wrong rotation.
    """
    with decoded(data, limits, rotation_degrees) as pixels:
        return pixels


@contextmanager
def decoded(data: bytes, limits: DecodeLimits = DecodeLimits(), rotation_degrees: int = 0) -> Iterator[np.ndarray]:
    """What `decode` returns, its memory held in `decoding_room` until the block ends. Decode nothing else inside."""
    if rotation_degrees not in (0, 90, 180, 270):
        raise ValueError(f"rotation_degrees is {rotation_degrees}, must be 0, 90, 180 or 270")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set: half images would pass. Set it to False.")
    _check_bytes(data, limits)
    _silence_pillow()
    stripped = bare(data)
    if stripped.unsupported:
        raise ImageRejected("unsupported pixels", stripped.unsupported)
    with _rejected_by_cause(stripped.data, limits):
        image = _opened(stripped.data)
        _check_size(image.size, limits)
    bytes_a_pixel = BYTES_A_PIXEL.get(image.format or "", OTHERS_BYTES_A_PIXEL)
    with decoding_room().holding(image.width * image.height * bytes_a_pixel + len(data)):
        with _rejected_by_cause(stripped.data, limits):
            pixels = _pixels(image, stripped, limits, rotation_degrees)
        yield pixels


@cache
def decoding_room() -> Room:
    """What the pictures may take that threads of this process decode at once: 2 GiB, or a quarter of a larger machine's
    memory; a picture that needs more is decoded alone."""
    return Room(max(2 * 2**30, all_memory_bytes() // 4))


@contextmanager
def _rejected_by_cause(data: bytes, limits: DecodeLimits) -> Iterator[None]:
    """Whatever a decoder raises becomes an ImageRejected."""
    try:
        yield
    except ImageRejected:
        raise
    except Exception as error:  # Pillow's decoders raise some twenty types on hostile bytes; none is swallowed
        raise _rejection(error, data, limits) from error


def _pixels(image: Image.Image, stripped: Bare, limits: DecodeLimits, rotation_degrees: int) -> np.ndarray:
    """Decode an open image, and close it."""
    with closing(image):
        if not is_convertible(image.mode) or _is_signed(image):
            raise ImageRejected("unsupported pixels", UNCONVERTIBLE.get(image.mode, "signed integers"))
        image.load()
        _check_size(image.size, limits)  # of a HEIF it may be known only now
        orientation = 1 if rotation_degrees else _exif_orientation(image)
        pixels = to_srgb(image, _stored(image, stripped))
    return _upright(pixels, orientation, rotation_degrees)


def _opened(data: bytes) -> Image.Image:
    """The header of a file, by the one decoder that its first bytes ask for."""
    if not _is_heif(data):
        return Image.open(io.BytesIO(data), formats=FORMATS)
    _load_heif()
    return Image.open(io.BytesIO(data), formats=("HEIF",))


@cache
def _load_heif() -> None:
    import pi_heif

    pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)


def _brands(data: bytes) -> set[bytes]:
    """What a file in boxes (AVIF, HEIF, films) says that it is; nothing for any other file."""
    end = min(int.from_bytes(data[:4], "big"), 256) if data[4:8] == b"ftyp" else 0
    return {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))} if end else set()


def _is_avif(data: bytes) -> bool:
    return bool(_brands(data) & _AVIF_BRANDS)


def _is_heif(data: bytes) -> bool:
    return not _is_avif(data) and bool(_brands(data) & _HEIF_BRANDS)


def _is_signed(image: Image.Image) -> bool:
    """Whether the pixels of a TIFF are signed integers; Pillow takes those of 8 bits for unsigned ones."""
    return getattr(image, "tag_v2", {}).get(339, (1,))[0] == 2


def _stored(image: Image.Image, stripped: Bare) -> Stored:
    """How the file's pixels are to be understood."""
    profile = stripped.profile or image.info.get("icc_profile")
    depth, white_is_zero = stripped.depth, False
    tags = getattr(image, "tag_v2", None)
    if tags is not None and image.mode.startswith("I;16"):  # a TIFF: Pillow neither scales nor inverts these
        depth, white_is_zero = tags.get(258, (16,))[0], tags.get(262) == 0
    return Stored(profile if isinstance(profile, bytes) else None, stripped.clear, depth, white_is_zero)


def _check_bytes(data: bytes, limits: DecodeLimits) -> None:
    """Raise ImageRejected for what can be told from the bytes without a decoder."""
    if not data:
        raise ImageRejected("empty file", "0 bytes")
    if len(data) > limits.max_bytes:
        raise ImageRejected("too many bytes", f"{len(data)} bytes, the limit is {limits.max_bytes}")
    if data.startswith(_LFS_HEAD):
        raise ImageRejected("git-lfs pointer", "run `git lfs pull` in the repository this file came from")


def _check_size(size: tuple[int, int], limits: DecodeLimits) -> None:
    """Raise ImageRejected if (width, height), in pixels, is outside the limits."""
    width, height = size
    if width * height > limits.max_pixels:
        raise ImageRejected("too many pixels", f"{width}x{height}, the limit is {limits.max_pixels} pixels")
    if min(width, height) < limits.min_side:
        raise ImageRejected("too small", f"{width}x{height}, the limit is {limits.min_side} pixels a side")


def _check_avif_size(data: bytes, limits: DecodeLimits) -> None:
    """_check_size for an AVIF that Pillow would not open: it refuses huge ones without saying that size is why."""
    place = data.find(b"ispe", 0, 65536)  # image spatial extents: 4 bytes of version, then width and height
    if 0 <= place <= len(data) - 16:
        _check_size(struct.unpack_from(">II", data, place + 8), limits)


def _silence_pillow() -> None:
    """Ignore Pillow's warnings: an image is accepted or rejected. catch_warnings would be unsafe between threads."""
    if not any(getattr(known[3], "pattern", "") == r"PIL\." for known in warnings.filters):
        warnings.filterwarnings("ignore", module=r"PIL\.")


def _rejection(error: Exception, data: bytes, limits: DecodeLimits) -> ImageRejected:
    """The rejection that stands for what a decoder raised. Its text depends on the bytes alone (no addresses)."""
    if isinstance(error, UnidentifiedImageError):
        if _is_avif(data):
            _check_avif_size(data, limits)
        elif not (_is_heif(data) or data.startswith(_HEADS) or data[8:12] == b"WEBP"):
            return _foreign(data)
        error = _refusal(data)
    if isinstance(error, MemoryError):
        return ImageRejected("out of memory", "the decoder could not get the memory it needs")
    detail = f"{type(error).__name__}: {error}"[:200]
    if isinstance(error, Image.DecompressionBombError):
        return ImageRejected("too many pixels", detail)
    return _rejection_by_words(str(error).lower(), detail, data)


def _rejection_by_words(words: str, detail: str, data: bytes) -> ImageRejected:
    """Pillow raises the same types for what it does not know and for what is broken; the words differ."""
    if "no meta box found" in words:  # a sequence of pictures (.heics), or nothing at all
        return ImageRejected("unsupported format", "HEIF without a still picture (no meta box)")
    tags = _tiff_tags(data)
    if tags.get(259, 1) not in TiffImagePlugin.COMPRESSION_INFO:
        return ImageRejected("unsupported pixels", f"a TIFF of compression {tags.get(259)}")
    if any(said in words for said in ("unknown pixel mode", "cannot handle", "unsupported", "not available")):
        return ImageRejected("unsupported pixels", _tiff_kind(tags) if tags else detail)
    short = any(said in words for said in ("truncated", "end of file", "cannot read full"))
    return ImageRejected("truncated" if short else "damaged", detail)


def _foreign(data: bytes) -> ImageRejected:
    """The rejection of a file that none of the decoders takes."""
    other = next((name for head, name in _OTHER_HEADS.items() if data.startswith(head)), None)
    beginning = data[:1000].lstrip()
    if other is None and beginning.startswith((b"<svg", b"<?xml")) and b"<svg" in beginning:
        other = "SVG"
    if other:
        return ImageRejected("unsupported format", f"{other}; readable are {', '.join(READABLE)}")
    return ImageRejected("not an image", f"starts with {data[:16]!r}; readable are {', '.join(READABLE)}")


def _refusal(data: bytes) -> Exception:
    """Why a decoder does not take a file that starts as its own do: Image.open does not say."""
    if _is_heif(data):
        _load_heif()
    for name in (["HEIF"] if _is_heif(data) else FORMATS):
        factory, accepts = Image.OPEN[name]
        if accepts is not None and accepts(data[:16]) is True:
            try:
                factory(io.BytesIO(data), "")
            except Exception as error:
                return error
    return SyntaxError("the header cannot be read")


def _tiff_tags(data: bytes) -> Mapping[int, Any]:
    """The tags of a TIFF's first picture; none where it is no TIFF, or its tags cannot be read."""
    if not data.startswith((b"II", b"MM")):
        return {}
    try:
        file = io.BytesIO(data)
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        return {number: tags[number] for number in (258, 259, 262, 339) if number in tags}
    except Exception:  # whatever the bytes
        return {}


def _tiff_kind(tags: Mapping[int, Any]) -> str:
    """What the pixels of a TIFF are, in words."""
    kinds = {2: "signed integers", 3: "floats", 4: "numbers of no stated kind", 5: "complex integers", 6: "complex floats"}
    bits, kind = tags.get(258, (1,)), kinds.get(tags.get(339, (1,))[0], "integers")
    several = f"{len(bits)} channels" if len(bits) > 1 else "1 channel"
    return f"a TIFF of {several} of {bits[0]}-bit {kind}, photometric interpretation {tags.get(262)}"


def _exif_orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8 of a loaded image; 1 (as stored) where the metadata are absent or unreadable."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except (SyntaxError, struct.error, LookupError, TypeError, ValueError, AttributeError, OverflowError, OSError):
        return 1  # broken metadata do not make a picture worthless; viewers show it as stored, too
    return int(orientation) if orientation in range(1, 9) else 1


def _upright(pixels: np.ndarray, orientation: int, rotation_degrees: int) -> np.ndarray:
    """pixels [H, W, 3] turned by an EXIF orientation 1..8 and by degrees counter-clockwise; C-contiguous."""
    transposed, quarter_turns = _ORIENTATIONS[orientation]
    if transposed:
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(np.rot90(pixels, quarter_turns + rotation_degrees // 90))
