"""Bytes to pixels and back: decode what users really have, cut windows, encode, lay out a contact sheet.

An image is a numpy array uint8 [H, W, 3], RGB, upright. A box is (x0, y0, x1, y1) in pixels, x1 and y1 excluded.
"""

import hashlib
import io
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFile, ImageFont, UnidentifiedImageError

Box = tuple[int, int, int, int]

# The only decoders that ever run; without this list Pillow would hand an EPS file to ghostscript. JPEG includes MPO.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
Image.init()
if not set(FORMATS) <= set(Image.OPEN):
    raise ImportError(f"this Pillow cannot read {set(FORMATS) - set(Image.OPEN)}; install Pillow >= 11.3 from a wheel")

# The vocabulary of ImageRejected.reason: stable, so that it can be counted and filtered on.
REASONS = {
    "missing file": "the data set lists it, but there is no such file",
    "unreadable file": "the operating system would not read it",
    "empty file": "no bytes at all",
    "git-lfs pointer": "the small text git-lfs leaves where the data should be",
    "too many bytes": "the file is longer than DecodeLimits.max_bytes",
    "not an image": "none of FORMATS",
    "too many pixels": "the header claims more than DecodeLimits.max_pixels, or than Pillow's bomb limit",
    "too small": "a side is shorter than DecodeLimits.min_side",
    "truncated": "the file ends before its pixels do",
    "damaged": "an image format, but the decoder cannot make sense of the file",
    "unsupported pixels": "pixels without an agreed way to 8-bit RGB: 32-bit integers, floats, Lab",
    "out of memory": "the decoder could not get the memory; perhaps not the image's fault",
}

CELL_PIXELS = 96
"""Side of a picture in a contact sheet."""
_LFS_HEAD = b"version https://git-lfs.github.com/spec/"
_HEADS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
# EXIF orientation -> (transpose first, then how many quarter turns counter-clockwise); 1 is upright.
_ORIENTATIONS = {1: (False, 0), 2: (True, 3), 3: (False, 2), 4: (True, 1),
                 5: (True, 0), 6: (False, 3), 7: (True, 2), 8: (False, 1)}  # fmt: skip


@dataclass(frozen=True)
class DecodeLimits:
    """What decode() accepts: file length in bytes, width x height in pixels, shortest side in pixels.

    Decoding peaks at 11 to 18 bytes a pixel. Above 2 x PIL.Image.MAX_IMAGE_PIXELS Pillow refuses by itself.
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
    """The upright RGB pixels of an image file, uint8 [H, W, 3].

    Sizes are checked in the header before a pixel is decoded; of an animation or a multi-picture file the first picture
    counts. Transparency is laid over white, 16 bits are scaled to 8, CMYK and palettes are converted, colour profiles
    are ignored. Bad metadata is forgiven, missing pixels never. rotation_degrees: counter-clockwise, 0, 90, 180 or 270,
    from the data set's records; it states the same fact as the EXIF orientation, and replaces it unless it is 0.
    Raises ImageRejected for anything about the bytes, ValueError for a wrong rotation.
    """
    if rotation_degrees not in (0, 90, 180, 270):
        raise ValueError(f"rotation_degrees is {rotation_degrees}, must be 0, 90, 180 or 270")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set: half images would pass. Set it to False.")
    _check_bytes(data, limits)
    _silence_pillow()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.size, limits)
            image.load()
            orientation = 1 if rotation_degrees else _exif_orientation(image)
            return _upright(_rgb(image), orientation, rotation_degrees)
    except ImageRejected:
        raise
    except Exception as error:  # Pillow's decoders raise some twenty types on hostile bytes; none is swallowed
        raise _rejection(error, data, limits) from error


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
        is_avif = data[4:11] == b"ftypavi"
        if is_avif:
            _check_avif_size(data, limits)
        if is_avif or data.startswith(_HEADS) or data[8:12] == b"WEBP":
            return ImageRejected("damaged", "the header cannot be read")
        return ImageRejected("not an image", f"starts with {data[:16]!r}; readable are {', '.join(FORMATS)}")
    if isinstance(error, MemoryError):
        return ImageRejected("out of memory", "the decoder could not get the memory it needs")
    detail = f"{type(error).__name__}: {error}"[:200]
    if isinstance(error, Image.DecompressionBombError):
        return ImageRejected("too many pixels", detail)
    return ImageRejected("truncated" if "truncated" in detail.lower() else "damaged", detail)


def _rgb(image: Image.Image) -> np.ndarray:
    """Pixels of a loaded Pillow image of any mode, uint8 [H, W, 3]; ImageRejected where no conversion is agreed."""
    if image.mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.uint32)
        grey = ((deep + 128) // 257).astype(np.uint8)  # 65535 / 255 = 257: scaled and rounded; Pillow would clip
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F", "LAB"):
        raise ImageRejected("unsupported pixels", f"Pillow mode {image.mode}")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGB", layer.size, (255, 255, 255))
        white.paste(layer, mask=layer)
        return np.array(white)
    return np.array(image.convert("RGB"))


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


def resize_shorter_side(image: np.ndarray, side: int) -> np.ndarray:
    """image uint8 [H, W, 3] scaled so that its shorter side is `side` pixels; bicubic, antialiased, up or down.

    The longer side is rounded down, as torchvision and so CLIP's own preprocessing do. Raises ValueError if the
    result would be larger than 400 megapixels (a strip thousands of times longer than wide).
    """
    _check_image(image)
    width, height = _scaled_size(image, side)
    if width * height > 400_000_000:
        raise ValueError(f"{image.shape[1]}x{image.shape[0]} at shorter side {side} would be {width}x{height} pixels")
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def fitted(image: np.ndarray, side: int = CELL_PIXELS) -> np.ndarray:
    """The image's centred square at side x side pixels, for a contact sheet; small ones are magnified without smoothing."""
    if image.shape[0] < side and side % image.shape[0] == 0:
        times = side // image.shape[0]
        image = image.repeat(times, axis=0).repeat(times, axis=1)
    return centre_crop(resize_shorter_side(image, side), side)


def labelled(image: np.ndarray, lines: Sequence[str], size: int = 9) -> np.ndarray:
    """The image uint8 [H, W, 3] with lines of text below it, each cut to its width: [H + lines x (size + 3), W, 3]."""
    _check_image(image)
    font, (high, wide) = ImageFont.load_default(size), image.shape[:2]
    sheet = Image.new("RGB", (wide, high + len(lines) * (size + 3)), "white")
    sheet.paste(Image.fromarray(image))
    for number, line in enumerate(lines):
        shown = next(
            line[:n] + "…" * (n < len(line)) for n in range(len(line), -1, -1) if font.getlength(line[:n] + "…") <= wide
        )
        ImageDraw.Draw(sheet).text((0, high + number * (size + 3)), shown, "#444", font)
    return np.array(sheet)


def centre_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The middle size x size pixels of image uint8 [H, W, 3]; ValueError if the image is smaller."""
    _check_image(image)
    height, width = image.shape[:2]
    if size < 1 or min(height, width) < size:
        raise ValueError(f"cannot cut {size}x{size} pixels out of {width}x{height}")
    top, left = round((height - size) / 2), round((width - size) / 2)  # rounded as torchvision does
    return np.ascontiguousarray(image[top : top + size, left : left + size])


def crop_windows(
    image: np.ndarray, size: int, mode: str = "centre", count: int = 1,
    frame_side: int | None = None, rng: np.random.Generator | None = None,
) -> list[tuple[np.ndarray, Box]]:  # fmt: skip
    """Square windows uint8 [size, size, 3] of image [H, W, 3], each with its box in the square frame it was cut from.

    The frame is the centre square of the image, scaled up or down (bicubic) to `size` ("centre": the one window is
    the frame) or to `frame_side` ("random": `count` windows at independent uniform places; the RDM paper cut
    256 px windows out of 1200 px). Raises ValueError for arguments that contradict each other.
    """
    _check_image(image)
    if mode == "centre":
        if count != 1:
            raise ValueError(f"mode 'centre' gives one window, count is {count}")
        return [(_centre_square(image, size), (0, 0, size, size))]
    if mode != "random":
        raise ValueError(f"mode is {mode!r}, must be 'centre' or 'random'")
    if rng is None or frame_side is None or frame_side < size or count < 1:
        raise ValueError(f"mode 'random' needs rng, count >= 1 and frame_side >= {size}: {rng=} {count=} {frame_side=}")
    frame = _centre_square(image, frame_side)
    corners = rng.integers(0, frame_side - size, size=(count, 2), endpoint=True)
    boxes = [(int(x), int(y), int(x) + size, int(y) + size) for x, y in corners]
    return [(frame[y0:y1, x0:x1].copy(), (x0, y0, x1, y1)) for x0, y0, x1, y1 in boxes]


def _centre_square(image: np.ndarray, side: int) -> np.ndarray:
    """The centre square of image [H, W, 3] scaled to `side`; a long strip is never scaled whole, for memory's sake."""
    scaled_width, scaled_height = _scaled_size(image, side)
    if max(scaled_width, scaled_height) <= 8 * side:
        return centre_crop(resize_shorter_side(image, side), side)
    height, width = image.shape[:2]
    scale_x, scale_y = width / scaled_width, height / scaled_height
    left, top = round((scaled_width - side) / 2), round((scaled_height - side) / 2)
    box = (left * scale_x, top * scale_y, min((left + side) * scale_x, width), min((top + side) * scale_y, height))
    return np.array(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC, box=box))


def _scaled_size(image: np.ndarray, side: int) -> tuple[int, int]:
    """(width, height) in pixels after scaling the shorter side of image [H, W, 3] to `side`."""
    if side < 1:
        raise ValueError(f"a side of {side} pixels")
    height, width = image.shape[:2]
    shorter = min(height, width)
    return side * width // shorter, side * height // shorter


def seed_of(*parts: str | int) -> int:
    """A 64-bit seed from names and numbers: equal parts, equal seed, on every machine and in every process."""
    digest = hashlib.sha256()
    for part in parts:
        text = f"{type(part).__name__}:{part}".encode("utf-8", "surrogatepass")
        digest.update(len(text).to_bytes(8, "big") + text)  # the length keeps ("ab", "c") from being ("a", "bc")
    return int.from_bytes(digest.digest()[:8], "big")


def crop_rng(seed: int, source_key: str) -> np.random.Generator:
    """The random numbers for one image's crops: a function of seed and key, never of order, worker or batch."""
    return np.random.default_rng(seed_of("crop", seed, source_key))


def encode(image: np.ndarray, encoding: str, quality: int = 95) -> bytes:
    """image uint8 [H, W, 3] as a "jpg" (quality 1..100, colour at full resolution) or lossless "png" file.

    Equal pixels give equal bytes under one Pillow version; no metadata are written. ValueError for another encoding.
    """
    _check_image(image)
    if encoding not in ("jpg", "png"):
        raise ValueError(f"encoding is {encoding!r}, must be 'jpg' or 'png'")
    file = io.BytesIO()
    if encoding == "jpg":
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=0)
    else:
        Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def grid(images: Sequence[np.ndarray], columns: int, pad: int = 2) -> np.ndarray:
    """A contact sheet uint8 [H, W, 3]: images [h, w, 3] row by row, `pad` white pixels around each.

    Cells have the size of the largest image; smaller ones sit in the middle. ValueError for no images.
    """
    if len(images) == 0 or columns < 1 or pad < 0:
        raise ValueError(f"a grid needs images, columns >= 1, pad >= 0: {len(images)} images, {columns=}, {pad=}")
    high, wide = max(image.shape[0] for image in images), max(image.shape[1] for image in images)
    rows = -(-len(images) // columns)
    sheet = np.full((pad + rows * (high + pad), pad + columns * (wide + pad), 3), 255, dtype=np.uint8)
    for place, image in enumerate(images):
        _check_image(image)
        height, width = image.shape[:2]
        top = pad + place // columns * (high + pad) + (high - height) // 2
        left = pad + place % columns * (wide + pad) + (wide - width) // 2
        sheet[top : top + height, left : left + width] = image
    return sheet


def _check_image(image: np.ndarray) -> None:
    """Raise ValueError unless image is uint8 [H, W, 3] with pixels."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"an image is uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
