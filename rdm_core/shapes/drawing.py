"""How a photograph, an oil painting and a sketch of one shape are drawn.

    Scene (what is where, drawn once) --style--> canvas [n, n, 3] --average--> uint8 pixels

The canvas is a few times finer than the picture and is averaged down, so edges
are smooth.  Random draws do not depend on the side of the picture (only the
final grain does): the same seed shows the same picture at 32 and at 64 pixels.
Lengths are in canvas units: the picture spans -1..1, y points down.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from rdm_core.shapes import accessories

Grid = np.ndarray  # float32 [n, n]

RADII = {"small": 0.37, "medium": 0.51, "large": 0.66}
DIRECTIONS = {
    "centre": (0, 0),
    "top left": (-1, -1),
    "top right": (1, -1),
    "bottom left": (-1, 1),
    "bottom right": (1, 1),
}
# Pigments: saturated, and bright enough that shading never turns one into another.
PIGMENTS = {
    "red": (0.85, 0.08, 0.10),
    "orange": (0.98, 0.50, 0.03),
    "yellow": (0.97, 0.86, 0.08),
    "green": (0.10, 0.60, 0.16),
    "cyan": (0.10, 0.78, 0.82),
    "blue": (0.12, 0.25, 0.85),
    "purple": (0.47, 0.13, 0.68),
    "pink": (0.98, 0.50, 0.74),
}
# Mean tone of the background and how far its pattern swings around it.
TONES = {
    "light": (0.86, 0.0),
    "dark": (0.20, 0.0),
    "striped": (0.62, 0.15),
    "checkered": (0.62, 0.15),
}


@dataclass(frozen=True)
class Scene:
    """One shape on one background, placed: all that a style needs to draw it."""

    x: Grid
    y: Grid
    distance: Grid  # to the outline, canvas units, negative inside
    tone: Grid  # background, 0 black .. 1 white
    tint: np.ndarray  # [3], a slight cast of the background
    pigment: np.ndarray  # [3] or [n, n, 3], colour of the shape, 0..1
    place: Callable[[Grid, Grid], Grid]  # distance at any other points
    local: Callable[[Grid, Grid], tuple[Grid, Grid]]  # points -> the shape's own coordinates
    centre: tuple[float, float]
    radius: float
    worn: accessories.Worn | None = None  # drawn over the shape


def draw(
    shape: str,
    colour: str,
    style: str,
    background: str,
    position: str,
    size: str,
    side: int,
    seed: int,
    accessory: str = "none",
) -> np.ndarray:
    """Draw one picture; equal arguments give equal bytes.

    An accessory is drawn over what is there without it and moves nothing else.

    Returns uint8 [side, side, 3].  Raises KeyError for a name the world lacks.
    """
    rng = np.random.default_rng(seed)
    finer = 3 if side < 48 else 2
    scene = arranged(
        DISTANCES[shape], np.array(PIGMENTS[colour]), background, position, RADII[size],
        side * finer, rng,
    )  # fmt: skip
    if accessory != "none":
        worn = accessories.wear(accessory, scene.centre, scene.radius, seed)
        scene = replace(scene, worn=worn)
    grain = 0.016 if style == "photograph" else 0.006
    return averaged(PAINTERS[style](scene, rng), side, grain, rng)


def averaged(canvas: np.ndarray, side: int, grain: float, rng: np.random.Generator) -> np.ndarray:
    """A canvas float32 [n, n, 3] in 0..1, some times finer than the picture, as its pixels: uint8
    [side, side, 3], with grain of that deviation.
    """
    finer = len(canvas) // side
    pixels = canvas.reshape(side, finer, side, finer, 3).mean(axis=(1, 3), dtype=np.float32)
    pixels += rng.normal(0, grain, (side, side, 1)).astype(np.float32)
    return (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)


def arranged(
    form: Callable[[Grid, Grid], Grid],
    pigment: np.ndarray,
    background: str,
    position: str,
    radius: float,
    n: int,
    rng: np.random.Generator,
    most_degrees: float = 13,
) -> Scene:
    """Place a form with a little jitter and lay out the background's tones, on a canvas [n, n].

    The form gives distances in local coordinates, as those at the end of this file; its pigment is
    [3] in 0..1. It is turned by at most so many degrees.
    """
    x, y = _grid(n)
    jitter = rng.uniform(-1, 1, 8)
    radius = radius * (1 + 0.06 * jitter[0])
    # An off-centre shape moves as far out as keeps all of it inside the picture.
    reach = min(0.44, 0.92 - radius)
    right, down = DIRECTIONS[position]
    centre_x = right * reach + (0.04 if right == 0 else 0.02) * jitter[1]
    centre_y = down * reach + (0.04 if down == 0 else 0.02) * jitter[2]
    angle = np.deg2rad(most_degrees) * jitter[3]
    cos, sin = np.float32(np.cos(angle) / radius), np.float32(np.sin(angle) / radius)

    def local(at_x: Grid, at_y: Grid) -> tuple[Grid, Grid]:
        dx, dy = at_x - np.float32(centre_x), np.float32(centre_y) - at_y
        return cos * dx + sin * dy, cos * dy - sin * dx

    def place(at_x: Grid, at_y: Grid) -> Grid:
        return form(*local(at_x, at_y)) * np.float32(radius)

    mean, swing = TONES[background]
    tone = np.full((n, n), mean + 0.05 * jitter[4], np.float32)
    if swing:
        tone += np.float32(swing) * _pattern(background, x, y, jitter[5], jitter[6])
    pigment = np.clip(pigment + rng.normal(0, 0.02, 3), 0, 1)
    tint = 1 + rng.normal(0, 0.025, 3)
    centre = (float(centre_x), float(centre_y))
    return Scene(x, y, place(x, y), tone, tint, pigment, place, local, centre, float(radius))


def _pattern(background: str, x: Grid, y: Grid, turn: float, shift: float) -> Grid:
    """Stripes or checks as -1 and 1, turned and shifted a little (both -1..1)."""
    angle = np.deg2rad(45 if background == "striped" else 0) + 0.15 * turn
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = cos * x + sin * y + np.float32(0.2 * shift), cos * y - sin * x + np.float32(0.2 * shift)
    bands = np.floor(u / 0.25) if background == "striped" else np.floor(u / 0.4) + np.floor(v / 0.4)
    return (2 * (bands % 2) - 1).astype(np.float32)


def photograph(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A rounded solid under one soft light: shading, highlight, cast shadow, vignette."""
    angle = rng.uniform(0, 2 * np.pi)
    light_x, light_y = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    ground = scene.tone + 0.10 * (light_x * scene.x + light_y * scene.y)
    ground += 0.03 * _smooth_noise(rng, 5, len(ground))
    ground *= 1 - 0.10 * (scene.x**2 + scene.y**2)
    shadow = scene.place(scene.x + 0.14 * light_x, scene.y + 0.14 * light_y)
    ground *= 1 - 0.55 * _fall(shadow, -0.06, 0.16)
    canvas = ground[..., None] * scene.tint.astype(np.float32)

    # The solid rises from its outline like a quarter circle, then stays flat.
    bevel = np.float32(0.24)
    rise = 1 - np.clip(-scene.distance / bevel, 0, 1)
    slope_y, slope_x = np.gradient(scene.distance, 2 / len(ground))
    facing = rise * (slope_x * light_x + slope_y * light_y)
    shade = np.clip(0.86 + 0.40 * facing, 0.35, 1.2)
    gleam = 0.75 * np.clip(facing - 0.35, 0, 1) ** 2
    solid = shade[..., None] * scene.pigment.astype(np.float32) + gleam[..., None]
    canvas = np.where((scene.distance < 0)[..., None], solid, canvas)
    if scene.worn:
        canvas = accessories.solid(canvas, scene.worn, scene.x, scene.y, (light_x, light_y))
    return canvas


def oil_painting(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Thick strokes, each of one colour, laid in two directions on a woven canvas."""
    angle = rng.uniform(0, np.pi)
    under = _strokes(scene, angle, rng)
    over = _strokes(scene, angle + np.pi / 2 + rng.uniform(-0.4, 0.4), rng)
    # Whole strokes overshoot or fall short of the outline, which leaves it ragged.
    inside = scene.distance + 0.035 * over.wander < 0
    varied = rng.normal(0, 0.06, 3).astype(np.float32)
    ground = np.clip(scene.tone + 0.12 * under.shade + 0.05, 0.05, 1)[..., None] * (
        scene.tint.astype(np.float32) + (0.8 * varied + 0.05) * under.hue[..., None]
    )
    pigment = scene.pigment.astype(np.float32)
    body = pigment * (0.95 + 0.20 * over.shade)[..., None] + 0.07 * over.hue[..., None] * (
        0.5 - varied
    )
    canvas = np.where(inside[..., None], body, ground)
    if scene.worn:
        layer = over.wander, over.shade
        canvas = accessories.painted(canvas, scene.worn, scene.x, scene.y, *layer)
    relief = np.where(inside, over.relief, under.relief)
    n = len(relief)
    weave = np.sin(scene.x * 75) * np.sin(scene.y * 75)
    relief = 0.13 * relief + (0.025 * weave if n >= 96 else 0)
    return canvas * (1 + relief)[..., None]


@dataclass(frozen=True)
class Strokes:
    """A layer of brush strokes; every field is [n, n], about -1..1."""

    shade: Grid  # lightness, constant within a stroke
    hue: Grid  # drift of colour, constant within a stroke
    wander: Grid  # how far the stroke overshoots an outline
    relief: Grid  # ridges of paint along the stroke, light on one flank


def _strokes(scene: Scene, angle: float, rng: np.random.Generator) -> Strokes:
    """Cover the picture with staggered strokes that run along `angle` (radians)."""
    width, length = np.float32(0.17), np.float32(0.62)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along, across = cos * scene.x + sin * scene.y, cos * scene.y - sin * scene.x
    across = across + 0.05 * np.sin(3 * along + np.float32(rng.uniform(0, 6)))
    lane = across / width + 16
    row = lane.astype(np.int32)
    start = rng.random(32).astype(np.float32)
    column = (along / length + 8 + start[row]).astype(np.int32)
    table = rng.uniform(-1, 1, (3, 32 * 20)).astype(np.float32)
    stroke = row * 20 + column
    flank = lane - row  # 0..1 across the stroke
    bristles = np.sin(flank * 12 + 6 * table[2][stroke])
    relief = 0.9 * (1 - 2 * flank) + 0.4 * bristles
    return Strokes(table[0][stroke], table[1][stroke], table[2][stroke], relief)


def sketch(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Coloured pencil on paper: a doubled, wobbly outline, hatching, graphite around it."""
    n = len(scene.x)
    tooth = _smooth_noise(rng, 40, n)  # the paper's grain, which breaks up every line
    paper = (0.955 + 0.022 * tooth)[..., None] * np.array([1.0, 0.985, 0.945], np.float32)
    wobble = _smooth_noise(rng, 5, n)
    distance = scene.distance + 0.022 * wobble
    angle = np.deg2rad(rng.uniform(30, 60) + 90 * rng.integers(2))

    graphite = _hatching(scene, angle + 1.2, 0.13, wobble, rng)
    darkness = np.clip((0.93 - scene.tone) * (0.55 + 0.55 * graphite) + 0.05 * tooth, 0, 0.85)
    darkness *= np.where(scene.tone > 0.72, 0.35, 1) * (distance > 0)
    canvas = paper * (1 - darkness[..., None] * np.array([0.98, 0.97, 0.93], np.float32))

    # Hatching first, then the outline pressed harder with the same pencil.
    fill = _hatching(scene, angle, 0.15, wobble, rng) * (distance < 0)
    fill = np.clip(fill * (0.85 + 0.25 * tooth), 0, 1)
    again = scene.distance + 0.03 * _smooth_noise(rng, 4, n) + 0.012
    line = np.maximum(
        _fall(np.abs(distance), 0.022, 0.05), 0.6 * _fall(np.abs(again), 0.012, 0.035)
    )
    line = np.clip(line * (0.95 + 0.2 * tooth), 0, 1)
    pigment = scene.pigment.astype(np.float32)
    canvas += (0.80 * fill)[..., None] * (pigment - canvas)
    canvas = canvas + line[..., None] * (0.80 * pigment - canvas)
    if scene.worn:
        canvas = accessories.pencilled(canvas, scene.worn, scene.x, scene.y, tooth)
    return canvas


def _hatching(
    scene: Scene, angle: float, spacing: float, wobble: Grid, rng: np.random.Generator
) -> Grid:
    """Parallel pencil lines along `angle`, 0 (paper) .. 1 (pencil), `spacing` apart."""
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    across = (cos * scene.y - sin * scene.x) / np.float32(spacing) + np.float32(rng.random())
    phase = np.abs((across + 0.35 * wobble) % 1 - 0.5)  # 0 on a line, 0.5 between two
    return _fall(phase, 0.18, 0.34)


PAINTERS: dict[str, Callable[[Scene, np.random.Generator], np.ndarray]] = {
    "photograph": photograph,
    "oil painting": oil_painting,
    "sketch": sketch,
}


def _fall(values: Grid, one_below: float, zero_above: float) -> Grid:
    """Smooth step down: 1 below the first bound, 0 above the second."""
    t = np.clip((np.float32(zero_above) - values) / np.float32(zero_above - one_below), 0, 1)
    return t * t * (3 - 2 * t)


def _smooth_noise(rng: np.random.Generator, cells: int, n: int) -> Grid:
    """Normal noise on a lattice of `cells`, interpolated to [n, n]."""
    lattice = rng.standard_normal((cells + 1, cells + 1), dtype=np.float32)
    weights = _interpolation(cells, n)
    return weights @ lattice @ weights.T


@lru_cache(maxsize=64)
def _interpolation(cells: int, n: int) -> np.ndarray:
    """Weights [n, cells + 1] that interpolate a lattice linearly along one axis."""
    at = (np.arange(n) + 0.5) / n * cells
    low = np.minimum(at.astype(int), cells - 1)
    weights = np.zeros((n, cells + 1), np.float32)
    weights[np.arange(n), low] = 1 - (at - low)
    weights[np.arange(n), low + 1] = at - low
    return weights


@lru_cache(maxsize=16)
def _grid(n: int) -> tuple[Grid, Grid]:
    """Coordinates of the canvas' points, x right and y down, [n, n] each."""
    axis = ((np.arange(n, dtype=np.float32) + 0.5) / n) * 2 - 1
    x, y = np.meshgrid(axis, axis)
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


# Signed distances of the shapes.  Each takes local coordinates x (right) and
# y (up), [n, n], in which the shape fills about the unit disk, and returns the
# distance to its outline: negative inside, positive outside.  Where it is only
# a bound (crescent, cross) its sign is still exact, and the sign decides a pixel.


def circle(x: Grid, y: Grid) -> Grid:
    """Distance to a disk."""
    return np.hypot(x, y) - 0.93


def square(x: Grid, y: Grid) -> Grid:
    """Distance to an upright square."""
    return _box(x, y, 0.8, 0.8)


def triangle(x: Grid, y: Grid) -> Grid:
    """Distance to an equilateral triangle that points up."""
    root3, half = np.float32(3**0.5), np.float32(0.98)
    x, y = np.abs(x) - half, (y + 0.12) + half / root3
    fold = x + root3 * y > 0
    x, y = np.where(fold, (x - root3 * y) / 2, x), np.where(fold, (-root3 * x - y) / 2, y)
    x = x - np.clip(x, -2 * half, 0)
    return -np.hypot(x, y) * np.sign(y)


def star(x: Grid, y: Grid) -> Grid:
    """Distance to a five-pointed star, one point up."""
    radius, waist = np.float32(1.08), np.float32(0.42)
    fold_x, fold_y = np.float32(0.809017), np.float32(-0.587785)
    x, y = np.abs(x), y - 0.04
    for side in (1, -1):
        reach = np.maximum(side * fold_x * x + fold_y * y, 0)
        x, y = x - 2 * reach * side * fold_x, y - 2 * reach * fold_y
    x, y = np.abs(x), y - radius
    edge_x, edge_y = -waist * fold_y, waist * fold_x - 1
    along = np.clip((x * edge_x + y * edge_y) / (edge_x**2 + edge_y**2), 0, radius)
    return np.hypot(x - edge_x * along, y - edge_y * along) * np.sign(y * edge_x - x * edge_y)


def heart(x: Grid, y: Grid) -> Grid:
    """Distance to a heart, tip down."""
    scale = np.float32(1.62)
    x, y = np.abs(x) / scale, y / scale + 0.55
    lobe = np.hypot(x - 0.25, y - 0.75) - np.float32(0.125**0.5)
    ramp = np.maximum(x + y, 0) / 2
    body = np.minimum(np.hypot(x, y - 1), np.hypot(x - ramp, y - ramp)) * np.sign(x - y)
    return np.where(x + y > 1, lobe, body) * scale


def cross(x: Grid, y: Grid) -> Grid:
    """Distance to an upright cross with two equal bars."""
    return np.minimum(_box(x, y, 0.96, 0.31), _box(x, y, 0.31, 0.96))


def ring(x: Grid, y: Grid) -> Grid:
    """Distance to a ring whose hole is half as wide as the ring."""
    return np.abs(np.hypot(x, y) - 0.73) - 0.25


def crescent(x: Grid, y: Grid) -> Grid:
    """Distance to a moon whose horns point right."""
    x = x - 0.15
    return np.maximum(np.hypot(x, y) - 0.98, 0.78 - np.hypot(x - 0.5, y))


def _box(x: Grid, y: Grid, half_width: float, half_height: float) -> Grid:
    dx, dy = np.abs(x) - half_width, np.abs(y) - half_height
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return outside + np.minimum(np.maximum(dx, dy), 0)


DISTANCES: dict[str, Callable[[Grid, Grid], Grid]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "heart": heart,
    "cross": cross,
    "ring": ring,
    "crescent": crescent,
}
