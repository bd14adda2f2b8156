"""Accessories: what an object of the built-in world may wear, drawn over the finished object.

An accessory sits at the edge of its object, above it, beside it or below, and moves inwards where
the picture ends.  It is dull in colour, so the object's own colour stays the only vivid one, and
has a contrasting rim, so it shows on every background.  Lengths are in canvas units: the picture
spans -1..1, y points down; the local coordinates of an accessory have y up and fill about -1..1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Grid = np.ndarray  # float32 [n, n]

RIM = np.float32(0.045)
"""Width of the rim around an accessory, canvas units."""
EDGE = 0.985
"""No accessory reaches beyond this far from the middle of the picture."""
CHARCOAL, IVORY = (0.11, 0.10, 0.12), (0.95, 0.93, 0.88)
BROWN, GOLD, OLIVE = (0.42, 0.22, 0.12), (0.79, 0.62, 0.22), (0.40, 0.44, 0.12)


@dataclass(frozen=True)
class Pattern:
    """How one accessory looks, and where on an object it sits."""

    parts: tuple[tuple[Callable[[Grid, Grid], Grid], tuple[float, float, float]], ...]
    """Distances in local coordinates (negative inside) with their colours, painted in order."""
    rim: tuple[float, float, float]
    half: tuple[float, float]
    """Half its width and height, local."""
    right: float
    """Where its middle is, in radii of the object from the object's middle."""
    up: float
    out: float
    """How much of its own half height (or width, at the side) it is moved further out."""


@dataclass(frozen=True)
class Worn:
    """One accessory placed in a picture."""

    pattern: Pattern
    middle: tuple[float, float]
    scale: float
    angle: float
    mirrored: bool

    def distances(self, x: Grid, y: Grid) -> list[Grid]:
        """Of each part, at points of the canvas [n, n]: negative inside, canvas units."""
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        scale = np.float32(self.scale)
        dx, dy = (x - np.float32(self.middle[0])) / scale, (np.float32(self.middle[1]) - y) / scale
        u, v = cos * dx + sin * dy, cos * dy - sin * dx
        if self.mirrored:
            u = -u
        return [distance(u, v) * scale for distance, _ in self.pattern.parts]

    def colours(self) -> list[np.ndarray]:
        """Of each part, float32 [3] in 0..1."""
        return [np.array(colour, np.float32) for _, colour in self.pattern.parts]


def wear(accessory: str, centre: tuple[float, float], radius: float, seed: int) -> Worn | None:
    """Place an accessory on an object of a radius around a centre (canvas units); None for "none".

    Its random draws are its own: with another accessory, or none, the rest of the picture is the
    same.  Raises KeyError for an accessory that PATTERNS lacks.
    """
    if accessory == "none":
        return None
    pattern = PATTERNS[accessory]
    jitter = np.random.default_rng([seed, 1]).uniform(-1, 1, 4)
    scale = (0.19 + 0.19 * radius) * (1 + 0.06 * jitter[0])
    # What sits at one side sits at the inner one, where there is room.
    mirrored = bool(centre[0] > 0.2 or (abs(centre[0]) <= 0.2 and jitter[1] > 0))
    side = -1.0 if mirrored else 1.0
    width, height = (scale * half + float(RIM) for half in pattern.half)
    away_x = pattern.right * radius + (pattern.out * width if pattern.right else 0)
    away_y = pattern.up * radius + (np.sign(pattern.up) * pattern.out * height)
    x = centre[0] + side * away_x + 0.02 * jitter[2]
    y = centre[1] - away_y
    # Where the picture ends, it slips down the object's inner flank and does not cover it.
    x += side * 1.1 * max(0.0, abs(y) + height - EDGE) if not pattern.right else 0.0
    middle = (
        float(np.clip(x, width - EDGE, EDGE - width)),
        float(np.clip(y, height - EDGE, EDGE - height)),
    )
    return Worn(pattern, middle, scale, float(np.deg2rad(7) * jitter[3]), mirrored)


def solid(
    canvas: np.ndarray, worn: Worn, x: Grid, y: Grid, light: tuple[np.float32, np.float32]
) -> np.ndarray:
    """As a photograph shows it: a cast shadow, a rim, shaded parts.

    Canvas float32 [n, n, 3] in 0..1 and coordinates [n, n] -> canvas; `light` points to the light.
    """
    cast = np.minimum.reduce(worn.distances(x + 0.05 * light[0], y + 0.05 * light[1]))
    canvas = canvas * (1 - 0.4 * np.clip((0.03 - cast) / 0.08, 0, 1))[..., None]
    canvas = _rimmed(canvas, worn, np.minimum.reduce(worn.distances(x, y)), RIM)
    for distance, colour in zip(worn.distances(x, y), worn.colours(), strict=True):
        slope_y, slope_x = np.gradient(distance, 2 / len(distance))
        facing = (1 - np.clip(-distance / 0.07, 0, 1)) * (slope_x * light[0] + slope_y * light[1])
        shade = np.clip(0.92 + 0.35 * facing, 0.5, 1.25)
        canvas = np.where((distance < 0)[..., None], shade[..., None] * colour, canvas)
    return canvas


def painted(
    canvas: np.ndarray, worn: Worn, x: Grid, y: Grid, wander: Grid, shade: Grid
) -> np.ndarray:
    """As laid in oil: ragged by the strokes' `wander`, toned by their `shade`, both about -1..1.

    Canvas float32 [n, n, 3] in 0..1 and grids [n, n] -> canvas.
    """
    ragged = np.float32(0.016) * wander
    canvas = _rimmed(canvas, worn, np.minimum.reduce(worn.distances(x, y)) + ragged, RIM)
    for distance, colour in zip(worn.distances(x, y), worn.colours(), strict=True):
        body = colour * (0.97 + 0.15 * shade)[..., None]
        canvas = np.where((distance + ragged < 0)[..., None], body, canvas)
    return canvas


def pencilled(canvas: np.ndarray, worn: Worn, x: Grid, y: Grid, tooth: Grid) -> np.ndarray:
    """As drawn in pencil, pressed hard, on paper whose `tooth` [n, n] breaks it up.

    Canvas float32 [n, n, 3] in 0..1 and coordinates [n, n] -> canvas.
    """
    silhouette = np.minimum.reduce(worn.distances(x, y))
    paper = np.array([0.955, 0.94, 0.90], np.float32)
    canvas = np.where((silhouette < RIM)[..., None], paper, canvas)
    for distance, colour in zip(worn.distances(x, y), worn.colours(), strict=True):
        press = np.clip(0.86 + 0.10 * tooth, 0, 1)[..., None]
        filled = paper + press * (colour - paper)
        canvas = np.where((distance < 0)[..., None], filled, canvas)
        line = np.clip(1 - np.abs(distance) / 0.026, 0, 1) * np.clip(0.85 + 0.2 * tooth, 0, 1)
        canvas = canvas + line[..., None] * (np.array(CHARCOAL, np.float32) - canvas)
    return canvas


def _rimmed(canvas: np.ndarray, worn: Worn, silhouette: Grid, width: np.float32) -> np.ndarray:
    rim = np.array(worn.pattern.rim, np.float32)
    return np.where((silhouette < width)[..., None], rim, canvas)


# Distances, negative inside; exact ones are not needed, as only their signs and slopes are used.


def _box(x: Grid, y: Grid, middle: tuple[float, float], half: tuple[float, float]) -> Grid:
    return np.maximum(np.abs(x - middle[0]) - half[0], np.abs(y - middle[1]) - half[1])


def _hat(x: Grid, y: Grid) -> Grid:
    brim, top = _box(x, y, (0, -0.62), (1.0, 0.17)), _box(x, y, (0, 0.1), (0.6, 0.72))
    return np.minimum(brim, top)


def _band(x: Grid, y: Grid) -> Grid:
    return _box(x, y, (0, -0.22), (0.6, 0.15))


def _crown(x: Grid, y: Grid) -> Grid:
    # Three spikes: the outline falls and rises again between them.
    reach = np.abs(((x + 1.0) * 1.5) % 2 - 1)
    spikes = (y - (-0.25 + 1.0 * (1 - reach))) * 0.55
    return np.maximum(np.maximum(spikes, np.abs(x) - 0.98), -0.78 - y)


def _jewels(x: Grid, y: Grid) -> Grid:
    return _box(x, y, (0, -0.5), (0.98, 0.1))


def _bow(x: Grid, y: Grid) -> Grid:
    return np.maximum(np.abs(y) - (0.14 + 0.5 * np.abs(x)), np.abs(x) - 1.05)


def _knot(x: Grid, y: Grid) -> Grid:
    return _box(x, y, (0, 0), (0.19, 0.27))


def _pole(x: Grid, y: Grid) -> Grid:
    return _box(x, y, (-0.72, 0), (0.11, 1.15))


def _cloth(x: Grid, y: Grid) -> Grid:
    waved = y - 0.1 * np.sin(4 * x)
    return _box(x, waved, (0.12, 0.52), (0.78, 0.5))


def _stripe(x: Grid, y: Grid) -> Grid:
    waved = y - 0.1 * np.sin(4 * x)
    return _box(x, waved, (0.12, 0.52), (0.78, 0.16))


def _turned(x: Grid, y: Grid) -> tuple[Grid, Grid]:
    half = np.float32(0.5**0.5)
    return half * (x + y), half * (y - x)


def _leaf(x: Grid, y: Grid) -> Grid:
    u, v = _turned(x, y)
    return np.hypot(u - 0.1, np.abs(v) + 0.72) - 1.3


def _rib(x: Grid, y: Grid) -> Grid:
    u, v = _turned(x, y)
    return _box(u, v, (-0.25, 0), (1.0, 0.085))


PATTERNS: dict[str, Pattern] = {
    "hat": Pattern(((_hat, CHARCOAL), (_band, IVORY)), IVORY, (1.0, 0.8), 0, 0.78, 0.8),
    "crown": Pattern(((_crown, GOLD), (_jewels, BROWN)), CHARCOAL, (1.0, 0.8), 0, 0.78, 0.8),
    "bow tie": Pattern(((_bow, BROWN), (_knot, CHARCOAL)), IVORY, (1.05, 0.65), 0, -0.8, 0.5),
    "flag": Pattern(
        ((_pole, CHARCOAL), (_cloth, IVORY), (_stripe, BROWN)),
        CHARCOAL, (0.95, 1.15), 0.75, 0.25, 0.6,
    ),
    "leaf": Pattern(((_leaf, OLIVE), (_rib, IVORY)), CHARCOAL, (0.95, 0.95), 0.5, 0.7, 0.45),
}  # fmt: skip
