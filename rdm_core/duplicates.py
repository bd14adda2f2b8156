"""Near-duplicates: what cosine two copies of one picture have under an encoder, and which rows lie above it."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rdm_core.clip import Encoder
from rdm_core.decode import decode
from rdm_core.images import centre_crop, encode, resize_shorter_side

COPIES_ABOVE = 0.95
"""Share of altered copies whose cosine with their original is above the calibrated cap."""


def altered_copies(image: np.ndarray) -> list[np.ndarray]:
    """What a picture becomes on its way through the world: pressed hard, made small, trimmed; uint8 [H, W, 3] each."""
    shorter = min(image.shape[:2])
    pressed = decode(encode(image, "jpg", 40))
    small = resize_shorter_side(image, max(16, shorter // 2))
    trimmed = centre_crop(image, max(1, round(0.94 * shorter)))
    return [pressed, small, trimmed]


def calibrated_cap(encoder: Encoder, images: Sequence[np.ndarray]) -> float:
    """The cosine that COPIES_ABOVE of the altered copies of some images have with their originals, under this encoder."""
    originals, _ = encoder.encode_images(images)
    copies, _ = encoder.encode_images(copy for image in images for copy in altered_copies(image))
    cosines = np.einsum("nd,ncd->nc", originals, copies.reshape(len(images), -1, originals.shape[1]))
    return float(np.quantile(cosines, 1 - COPIES_ABOVE))


def groups_of(pairs: np.ndarray, count: int) -> np.ndarray:
    """Pairs of rows [P, 2] -> a number for each of `count` rows [count], equal for rows that a chain of pairs connects."""
    links = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(links, directed=False)[1]
