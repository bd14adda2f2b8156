"""What is done with an image's pixels: scale, cut, encode, lay out a contact sheet.

`rdm_core.decode` makes pixels of bytes. An image is a numpy array uint8 [H, W, 3], RGB, upright. A
box is (x0, y0, x1, y1) in pixels, x1 and y1 excluded.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Box = tuple[int, int, int, int]
"""(x0, y0, x1, y1)."""

CELL_PIXELS = 128
"""Side of a picture in a contact sheet."""
MOST_PIXELS = 2**20
"""Of all images together of which copies in floating point are held at a time."""


def pieces(shape: Sequence[int], most: int) -> Iterator[slice]:
    """Slices of images of a shape (N, H, W, 3), one after the other: `most` of them each, fewer of
    large ones, and always one.
    """
    count, height, width, _ = shape
    length = max(1, min(most, MOST_PIXELS // (height * width)))
    for start in range(0, count, length):
        yield slice(start, start + length)


def resize_shorter_side(image: np.ndarray, side: int) -> np.ndarray:
    """Scale an image uint8 [H, W, 3], up or down, so that its shorter side is `side` pixels: uint8
    [h, w, 3], bicubic, antialiased.

    The longer side is rounded down, as torchvision and so CLIP's own preprocessing do. Raises
    ValueError if the result would be larger than 400 megapixels (a strip thousands of times longer
    than wide).
    """
    _check_image(image)
    width, height = _scaled_size(image, side)
    if width * height > 400_000_000:
        raise ValueError(
            f"{image.shape[1]}x{image.shape[0]} at shorter side {side} "
            f"would be {width}x{height} pixels"
        )
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def fitted(image: np.ndarray, side: int = CELL_PIXELS) -> np.ndarray:
    """The centred square of an image uint8 [H, W, 3] for a contact sheet: uint8 [side, side, 3].

    Small images are magnified without smoothing where `side` is a multiple of their height.
    """
    # Latents and tiny images stay sharp squares.
    if image.shape[0] < side and side % image.shape[0] == 0:
        times = side // image.shape[0]
        image = image.repeat(times, axis=0).repeat(times, axis=1)
    return centre_square(image, side)


def labelled(image: np.ndarray, lines: Sequence[str], size: int = 9) -> np.ndarray:
    """An image uint8 [H, W, 3] with lines of text below it: uint8 [H + lines (size + 3), W, 3].

    A line that is wider than the image is cut, and ends with "…".
    """
    _check_image(image)
    font, (high, wide) = ImageFont.load_default(size), image.shape[:2]
    sheet = Image.new("RGB", (wide, high + len(lines) * (size + 3)), "white")
    sheet.paste(Image.fromarray(image))
    for number, line in enumerate(lines):
        kept = len(line)  # letters; room for "…" is kept even where nothing is cut
        while kept > 0 and font.getlength(line[:kept] + "…") > wide:
            kept -= 1
        text = line if kept == len(line) else line[:kept] + "…"
        ImageDraw.Draw(sheet).text((0, high + number * (size + 3)), text, "#444", font)
    return np.array(sheet)


def centre_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The middle of an image uint8 [H, W, 3]: uint8 [size, size, 3]. ValueError if the image is
    smaller.
    """
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
    """Square windows uint8 [size, size, 3] of an image uint8 [H, W, 3], each with its box in the
    square frame that it is cut from.

    The frame is the centred square of the image, scaled up or down (bicubic). In mode "centre" it
    is scaled to `size`, and is the one window. In mode "random" it is scaled to `frame_side`, and
    `count` windows are cut at independent uniform places. (RDM, arXiv 2204.11824, cuts windows of
    256 pixels out of 1200.) Raises ValueError for arguments that contradict each other.
    """
    _check_image(image)
    if mode == "centre":
        if count != 1:
            raise ValueError(f"mode 'centre' gives one window, count is {count}")
        return [(centre_square(image, size), (0, 0, size, size))]
    if mode != "random":
        raise ValueError(f"mode is {mode!r}, must be 'centre' or 'random'")
    if rng is None or frame_side is None or frame_side < size or count < 1:
        raise ValueError(
            f"mode 'random' needs rng, count >= 1 and frame_side >= {size}: "
            f"{rng=} {count=} {frame_side=}"
        )
    frame = centre_square(image, frame_side)
    corners = rng.integers(0, frame_side - size, size=(count, 2), endpoint=True)
    windows = []
    for x, y in corners.tolist():
        pixels = frame[y : y + size, x : x + size].copy()
        windows.append((pixels, (x, y, x + size, y + size)))
    return windows


def centre_square(image: np.ndarray, side: int) -> np.ndarray:
    """The centred square of an image uint8 [H, W, 3], scaled: uint8 [side, side, 3].

    A long strip is not scaled as a whole, which would take too much memory.
    """
    scaled_width, scaled_height = _scaled_size(image, side)
    if max(scaled_width, scaled_height) <= 8 * side:
        return centre_crop(resize_shorter_side(image, side), side)
    # The square in pixels of the image itself, so that Pillow scales only that part.
    height, width = image.shape[:2]
    scale_x, scale_y = width / scaled_width, height / scaled_height
    left, top = round((scaled_width - side) / 2), round((scaled_height - side) / 2)
    box = (
        left * scale_x,
        top * scale_y,
        min((left + side) * scale_x, width),
        min((top + side) * scale_y, height),
    )
    return np.array(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC, box=box))


def _scaled_size(image: np.ndarray, side: int) -> tuple[int, int]:
    """(width, height) of an image uint8 [H, W, 3] when its shorter side becomes `side` pixels."""
    if side < 1:
        raise ValueError(f"a side of {side} pixels")
    height, width = image.shape[:2]
    shorter = min(height, width)
    return side * width // shorter, side * height // shorter


def seed_of(*parts: str | int) -> int:
    """A 64-bit seed from names and numbers: equal parts give equal seeds on every machine."""
    digest = hashlib.sha256()
    for part in parts:
        text = f"{type(part).__name__}:{part}".encode("utf-8", "surrogatepass")
        # With its length before each part, ("ab", "c") and ("a", "bc") give different seeds.
        digest.update(len(text).to_bytes(8, "big") + text)
    return int.from_bytes(digest.digest()[:8], "big")


def crop_rng(seed: int, source_key: str) -> np.random.Generator:
    """Random numbers for the crops of one image: a function of seed and key alone, so that order
    and processes do not matter.
    """
    return np.random.default_rng(seed_of("crop", seed, source_key))


def encode(image: np.ndarray, encoding: str, quality: int = 95) -> bytes:
    """An image uint8 [H, W, 3] as the bytes of a file.

    `encoding` is "jpg" (quality 1..100, colour at full resolution) or "png" (lossless); any other
    raises ValueError. Equal pixels give equal bytes with one version of Pillow. No metadata are
    written.
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


def side_by_side(
    originals: np.ndarray, made: np.ndarray, columns: int = 8, most: int = 16
) -> np.ndarray:
    """A contact sheet uint8 [H, W, 3] of the first `most` originals: rows of them, each above the
    row of what was made of them; both are [N, H, W, 3]. Small images are magnified.
    """
    side = originals.shape[1] * max(1, CELL_PIXELS // originals.shape[1])
    cells, columns = [], min(columns, len(originals))
    # A last row that is not full would put originals beside what was made.
    for start in range(0, min(most, len(originals)) - columns + 1, columns):
        for images in (originals, made):
            cells += [fitted(image, side) for image in images[start : start + columns]]
    return grid(cells, columns)


def grid(images: Sequence[np.ndarray], columns: int, pad: int = 2) -> np.ndarray:
    """A contact sheet uint8 [H, W, 3] of images uint8 [h, w, 3], row by row.

    There are `pad` white pixels around each cell. Cells have the size of the largest image; smaller
    ones stand in the middle. ValueError for no images.
    """
    if len(images) == 0 or columns < 1 or pad < 0:
        raise ValueError(
            f"a grid needs images, columns >= 1, pad >= 0: {len(images)} images, {columns=}, {pad=}"
        )
    high = max(image.shape[0] for image in images)
    wide = max(image.shape[1] for image in images)
    rows = -(-len(images) // columns)  # rounded up
    sheet = np.full(
        (pad + rows * (high + pad), pad + columns * (wide + pad), 3), 255, dtype=np.uint8
    )
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
