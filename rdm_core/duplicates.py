"""Near-duplicates: the cosine that copies of one picture have under an encoder, and groups of rows
that are copies of each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rdm_core.decode import decode
from rdm_core.images import centre_crop, encode, fitted, resize_shorter_side

if TYPE_CHECKING:
    from rdm_core.clip import Encoder

COPIES_ABOVE = 0.95
"""Share of altered copies whose cosine with their original is above the calibrated cap."""
GLANCE_PIXELS, SAME_AT_A_GLANCE = 8, 0.9
"""Two images are made this small; from this correlation of their pixels on they may be copies. 98 %
of altered copies of photographs and drawn shapes have a higher one, and 0.02 % of different images.
"""


@dataclass(frozen=True)
class Cap:
    """A cosine, and how well it separates copies from images that are only alike."""

    cosine: float
    """The share COPIES_ABOVE of the altered copies have a higher one with their originals."""
    mistaken: float
    """Share of the images that have a higher one with another image whose pixels differ."""


def altered_copies(image: np.ndarray) -> list[np.ndarray]:
    """Three copies of an image uint8 [H, W, 3] as one meets them: compressed hard, half as large,
    and cut at the edges; uint8 [h, w, 3] each.
    """
    shorter = min(image.shape[:2])
    compressed = decode(encode(image, "jpg", 40))
    small = resize_shorter_side(image, max(16, shorter // 2))
    cut = centre_crop(image, max(1, round(0.94 * shorter)))
    return [compressed, small, cut]


def calibrated_cap(encoder: Encoder, images: Sequence[np.ndarray], originals: np.ndarray) -> Cap:
    """The cap for N images uint8 [H, W, 3] under the encoder that gave them the unit vectors
    `originals` float32 [N, D].
    """
    copies, _ = encoder.encode_images(_copies_of_each(images))
    copies_of_each = copies.reshape(len(images), -1, originals.shape[1])
    cosines = np.einsum("nd,ncd->nc", originals, copies_of_each)
    cap = float(np.quantile(cosines, 1 - COPIES_ABOVE))

    # Pairs above the cap whose tiny pictures differ are no copies.
    glances = np.stack([at_a_glance(image) for image in images])
    mistaken = (originals @ originals.T > cap) & (glances @ glances.T < SAME_AT_A_GLANCE)
    np.fill_diagonal(mistaken, False)
    return Cap(cap, float(mistaken.any(axis=1).mean()))


def _copies_of_each(images: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """The altered copies uint8 [h, w, 3] of each image uint8 [H, W, 3], made one by one."""
    for image in images:
        yield from altered_copies(image)


def at_a_glance(image: np.ndarray) -> np.ndarray:
    """An image uint8 [H, W, 3] -> a unit vector float64 [3 GLANCE_PIXELS^2].

    The product of two is the correlation of the pixels of the two tiny pictures.
    """
    pixels = fitted(image, GLANCE_PIXELS).astype(np.float64).ravel()
    pixels -= pixels.mean()
    return pixels / max(float(np.linalg.norm(pixels)), 1e-9)


def groups_of(pairs: np.ndarray, count: int) -> np.ndarray:
    """Pairs of rows int64 [P, 2] -> the group of each row, int32 [count].

    Two rows are in one group if a chain of pairs connects them.
    """
    ones = np.ones(len(pairs), np.int8)
    links = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(links, directed=False)[1]
