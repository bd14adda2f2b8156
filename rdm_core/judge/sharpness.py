"""How sharp and how clean pictures are, beside others of the same world.

Both are means over whole sets: compare a set with the images it should look like, of the same
size.  Blur lowers both; noise raises them.
"""

from collections.abc import Mapping

import numpy as np

from rdm_core.images import pieces

ROWS = 4
"""Inner rows at the top, and as many at the bottom, that grain is measured in."""
LUMINANCE = (0.299, 0.587, 0.114)
"""Shares of red, green and blue (ITU-R BT.601)."""
AT_ONCE = 512
"""Pictures whose floating-point copies are held at a time, at most."""


def grain(images: np.ndarray) -> float:
    """Left-over coloured noise of pictures uint8 [N, H, W, 3], in 8-bit levels.

    chroma = pixels minus their channel mean; residual = chroma minus the mean of its four
    neighbors; the result is the standard deviation of the residuals of all pictures, channels
    and inner columns in the ROWS topmost and the ROWS lowest inner rows, where objects are rare.
    The outermost pixels have not four neighbors and are not inner.  Raises ValueError for other
    arrays, and for pictures under ROWS + 2 pixels a side.
    """
    _refuse(images, ROWS + 2)
    count, total, squares = 0, 0.0, 0.0
    for piece in pieces(images.shape, AT_ONCE):
        pixels = images[piece].astype(np.float32)
        chroma = pixels - pixels.mean(axis=3, keepdims=True)
        around = chroma[:, :-2, 1:-1] + chroma[:, 2:, 1:-1]
        around = around + chroma[:, 1:-1, :-2] + chroma[:, 1:-1, 2:]
        residual = chroma[:, 1:-1, 1:-1] - around / 4
        inner = residual.shape[1]
        rows = sorted({*range(min(ROWS, inner)), *range(max(0, inner - ROWS), inner)})
        chosen = residual[:, rows].astype(np.float64)
        count += chosen.size
        total += float(chosen.sum())
        squares += float(np.square(chosen).sum())
    return float(np.sqrt(max(0.0, squares / count - (total / count) ** 2)))


def edge_energy(images: np.ndarray) -> float:
    """Mean absolute luminance gradient of pictures uint8 [N, H, W, 3], in 8-bit levels.

    The mean of |L[y, x + 1] - L[y, x]| and of |L[y + 1, x] - L[y, x]|, halved between the two
    directions, with L of LUMINANCE.  Raises ValueError for other arrays, and below 2 pixels a side.
    """
    _refuse(images, 2)
    right, down = 0.0, 0.0
    for piece in pieces(images.shape, AT_ONCE):
        luminance = images[piece].astype(np.float32) @ np.array(LUMINANCE, np.float32)
        right += float(np.abs(np.diff(luminance, axis=2)).mean(axis=(1, 2)).sum(dtype=np.float64))
        down += float(np.abs(np.diff(luminance, axis=1)).mean(axis=(1, 2)).sum(dtype=np.float64))
    return (right + down) / (2 * len(images))


def sharpness(images: np.ndarray) -> dict[str, float]:
    """Grain and edge energy of pictures uint8 [N, H, W, 3], by name."""
    return {"grain": grain(images), "edges": edge_energy(images)}


def as_shares(own: Mapping[str, float], others: Mapping[str, float]) -> dict[str, float]:
    """What `sharpness` says of some pictures, as shares of what it says of others: 1.0 is as much.

    Where the others have none of a thing (grey pictures have no grain), there is no share of it.
    """
    return {name: own[name] / value for name, value in others.items() if value > 0}


def _refuse(images: np.ndarray, least: int) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not len(images):
        raise ValueError(f"images are {images.dtype} {images.shape}, not uint8 [N, H, W, 3]")
    if min(images.shape[1:3]) < least:
        what = f"images are {images.shape[2]}x{images.shape[1]} pixels"
        raise ValueError(f"{what}; at least {least} a side are needed")
