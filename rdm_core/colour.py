"""Decoded pixels of any kind -> 8-bit sRGB, as a viewer shows them.

A file's ICC profile is used if it fits its pixels; without such a profile they are taken as sRGB. A
large picture is converted band by band, so that it is never held in three forms at once.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from rdm_core.metadata import MOST_PROFILE_BYTES

BAND_PIXELS = 2_000_000
"""Pixels that are converted at once."""
SAME_COLOUR = 2
"""Of 255 levels. A profile that changes no colour by more is sRGB, and is not applied."""
_SPACE_OF = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}
"""Pillow's mode -> the colour space of the profiles that fit it."""
UNCONVERTIBLE = {
    "I": "integers of more than 16 bits, or signed",
    "F": "floats",
    "LAB": "Lab",
    "HSV": "HSV",
}
"""Pillow's modes from which there is no agreed way to 8-bit RGB, in words."""


@dataclass(frozen=True)
class Stored:
    """How the pixels of a file are to be read."""

    profile: bytes | None = None
    """ICC profile."""
    clear: tuple[int, ...] | None = None
    """The one transparent colour, in the file's own depth, where the decoder does not know it."""
    depth: int = 8
    """Bits of a channel as the file has them."""
    white_is_zero: bool = False
    """16-bit grey: 0 is white."""


def is_convertible(mode: str) -> bool:
    """Whether there is an agreed way from Pillow's mode to RGB."""
    return mode not in UNCONVERTIBLE


def to_srgb(image: Image.Image, stored: Stored = Stored()) -> np.ndarray:
    """A loaded Pillow image of a convertible mode -> uint8 [H, W, 3].

    Transparent pixels are laid over white.
    """
    if image.width * image.height <= BAND_PIXELS:
        return np.array(_band_to_srgb(image, stored))
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for top, bottom in _bands(image.width, image.height):
        band = image.crop((0, top, image.width, bottom))
        pixels[top:bottom] = _band_to_srgb(band, stored)
    return pixels


def _band_to_srgb(band: Image.Image, stored: Stored) -> np.ndarray:
    """A band of an image -> uint8 [h, W, 3]."""
    return _deep(band, stored) if band.mode.startswith("I;16") else _shallow(band, stored)


def _bands(width: int, height: int) -> Iterator[tuple[int, int]]:
    """The first row and the row behind the last of each band of BAND_PIXELS or fewer."""
    rows = max(1, BAND_PIXELS // width)
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def _deep(band: Image.Image, stored: Stored) -> np.ndarray:
    """Grey of 9 to 16 bits -> uint8 [h, W, 3], scaled and rounded; Pillow would clip it."""
    deep = np.asarray(band).astype(np.uint32)
    # 12 bits, for example, go from 0 to 4095. + most // 2 rounds the division.
    most = 2 ** (stored.depth if 8 < stored.depth <= 16 else 16) - 1
    scaled = ((np.minimum(deep, most) * 255 + most // 2) // most).astype(np.uint8)
    grey = Image.fromarray(255 - scaled if stored.white_is_zero else scaled)
    clear = None if stored.clear is None else deep == stored.clear[0]
    return _over_white(_converted(grey, stored.profile), clear)


def _shallow(band: Image.Image, stored: Stored) -> np.ndarray:
    """Pixels of 8 bits a channel -> uint8 [h, W, 3]."""
    if stored.clear is not None:
        return _over_white(_converted(band, stored.profile), _is_clear(np.asarray(band), stored))
    if not band.has_transparency_data:
        return np.asarray(_converted(band, stored.profile))
    layer = band if band.mode in ("RGBA", "LA") else band.convert("RGBA")
    white = Image.new("RGB", layer.size, (255, 255, 255))
    white.paste(
        _converted(layer.convert(layer.mode[:-1]), stored.profile), mask=layer.getchannel("A")
    )
    return np.asarray(white)


def _is_clear(pixels: np.ndarray, stored: Stored) -> np.ndarray:
    """Which pixels, of uint8 [H, W] or [H, W, C], have the transparent colour: bool [H, W]."""
    assert stored.clear is not None, "only called where there is one"
    # The colour is in the file's depth. Pillow scales 2 and 4 bits to 8, and keeps 8 of 16 bits.
    scales = {1: 1, 2: 85, 4: 17, 8: 1}
    if stored.depth == 16:
        wanted = [value >> 8 for value in stored.clear]
    else:
        wanted = [value * scales[stored.depth] for value in stored.clear]
    return (pixels.reshape(*pixels.shape[:2], -1) == wanted).all(axis=2)


def _over_white(image: Image.Image, clear: np.ndarray | None) -> np.ndarray:
    """An RGB image -> uint8 [H, W, 3], white where `clear`, bool [H, W], is True."""
    pixels = np.array(image)
    if clear is not None:
        pixels[clear] = 255
    return pixels


def _converted(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An opaque image in RGB, through the profile where it fits."""
    if image.mode not in _SPACE_OF and image.mode != "1":
        image = image.convert("RGB")  # palettes, YCbCr
    if profile and image.mode in _SPACE_OF:
        transform = transform_of(profile, image.mode)
        if transform is not None:
            return transform.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


@lru_cache(maxsize=32)
def transform_of(profile: bytes, mode: str) -> Any:
    """Pillow's transform of pixels of a mode (RGB, L, CMYK) with an ICC profile to sRGB.

    None where there is nothing to do: the profile is sRGB, is broken, or belongs to pixels of
    another kind.
    """
    if len(profile) > MOST_PROFILE_BYTES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != _SPACE_OF[mode]:
            return None
        transform = ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), mode, "RGB",
            ImageCms.Intent.PERCEPTUAL, ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )  # fmt: skip
        probe = _probe(mode)
        moved = np.asarray(transform.apply(probe)).astype(int) - np.asarray(probe.convert("RGB"))
    except (OSError, ValueError, TypeError, MemoryError, ImageCms.PyCMSError):
        return None
    return None if mode != "CMYK" and np.abs(moved).max() <= SAME_COLOUR else transform


def _probe(mode: str) -> Image.Image:
    """An image with colours from all over a mode's space: all greys, or 9 levels a channel."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    count = len(Image.new(mode, (1, 1)).getbands())
    channels = np.stack(np.meshgrid(*[levels] * count, indexing="ij"), axis=-1)
    return Image.fromarray(channels.reshape(len(levels), -1, channels.shape[-1]), mode)
