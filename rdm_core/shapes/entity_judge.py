"""Which entity a picture shows, and where: judged by its pixels alone.

It shares nothing with the encoder that finds neighbors, nor with any network: the colours of the
picture, without their grey, are compared with those of each entity's glyph at each place.

    uint8 [N, H, W, 3] --resize to 32, colour without grey--> windows at 15 x 15 places
    --cosine with the glyph of each candidate--> the largest says who, its place says where
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rdm_core.shapes import drawing
from rdm_core.shapes.entities import CELLS, RADIUS, Entity, marks
from rdm_core.shapes.oracle import SIDE, to_input

WINDOW = 2 * round(RADIUS * SIDE / 2)
"""Side of a glyph in pixels."""
REACH = 7
"""How far a glyph may be from the middle of the picture, in pixels along a side."""
AT_ONCE = 32
"""Pictures compared together, to bound memory."""


@dataclass(frozen=True)
class Seen:
    """What N pictures show."""

    which: np.ndarray
    """Place of the nearest candidate in their list, int64 [N]."""
    cosines: np.ndarray
    """How alike the two are: float32 [N] in -1..1, 1 = equal but for light."""
    positions: np.ndarray
    """Where it is: str [N], values of world.POSITIONS."""


def recognise(images: np.ndarray, candidates: Sequence[Entity]) -> Seen:
    """The nearest of C candidates to each image uint8 [N, H, W, 3].

    Raises ValueError for arrays of another type or shape, and without a candidate.
    """
    if not candidates:
        raise ValueError("candidates: name one or more entities")
    glyphs = np.stack([glyph(entity) for entity in candidates]).reshape(len(candidates), -1)
    glyphs = glyphs / np.linalg.norm(glyphs, axis=1, keepdims=True)
    which, cosines, positions = [], [], []
    for start in range(0, len(images), AT_ONCE):
        windows = _windows(images[start : start + AT_ONCE])  # [n, places, pixels]
        of_all = windows @ glyphs.T  # [n, places, C]
        place = of_all.max(axis=2).argmax(axis=1)
        best = np.take_along_axis(of_all, place[:, None, None], 1)[:, 0]
        which.append(best.argmax(axis=1))
        cosines.append(best.max(axis=1))
        positions += [_position(int(one)) for one in place]
    return Seen(np.concatenate(which), np.concatenate(cosines), np.array(positions))


def glyph(entity: Entity) -> np.ndarray:
    """The colours of an entity without their grey, float32 [WINDOW, WINDOW, 3]; 0 where its glyph
    is open.
    """
    pair = np.array([drawing.PIGMENTS[entity.body], drawing.PIGMENTS[entity.mark]], np.float32)
    cells = _without_grey(pair[marks(entity).astype(int)]) * np.array(entity.cells)[..., None]
    at = np.arange(WINDOW) * CELLS // WINDOW
    return cells[at][:, at]


def _windows(images: np.ndarray) -> np.ndarray:
    """The colours of images uint8 [n, H, W, 3] at every place, each of length 1 (0 where all is
    grey): float32 [n, places, WINDOW * WINDOW * 3].
    """
    pixels = to_input(images).permute(0, 2, 3, 1).numpy() / 2 + 0.5
    # One place beyond the picture on each side, which is grey.
    middle = (SIDE - WINDOW) // 2
    margin = max(0, REACH - middle)
    colours = np.pad(_without_grey(pixels), ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    first = middle + margin - REACH
    windows = []
    for down in range(2 * REACH + 1):
        for right in range(2 * REACH + 1):
            top, left = first + down, first + right
            window = colours[:, top : top + WINDOW, left : left + WINDOW]
            windows.append(window.reshape(len(images), -1))
    stacked = np.stack(windows, axis=1)
    # By the length of the whole picture's colours: a window that leaves colours out is no better.
    lengths = np.linalg.norm(colours.reshape(len(images), -1), axis=1)
    return stacked / np.maximum(lengths, 1e-6)[:, None, None]


def _without_grey(colours: np.ndarray) -> np.ndarray:
    """Colours float32 [..., 3] without the mean of the three."""
    return colours - colours.mean(axis=-1, keepdims=True)


def _position(place: int) -> str:
    """The value of world.POSITIONS at a place of the windows."""
    down, right = divmod(place, 2 * REACH + 1)
    offset = np.array([right - REACH, down - REACH]) / (SIDE / 2)
    reach = 0.92 - RADIUS
    distances = {
        name: float(np.square(offset - reach * np.array(direction)).sum())
        for name, direction in drawing.DIRECTIONS.items()
    }
    return min(distances, key=lambda name: distances[name])
