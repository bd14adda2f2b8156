"""Entities of the built-in world: things with a name of their own, each with one fixed look.

    number --seed--> Entity: a made-up name, a glyph of 5 x 5 cells, two colours, a texture
    (split, index, seed) --draw--> which entity, where, on what --render--> uint8 [side, side, 3]
                                                                --caption--> "a photograph of a
                                                                nefa at the top left on a ..."

No word says how an entity looks: only a picture of it does. Some are frequent in what a model
learns from, some are rare, and some are held out: they are only in databases. So it shows what a
model takes from retrieved pictures (Re-Imagen, arXiv 2209.14491; RA-CM3, arXiv 2211.12561).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from rdm_core.shapes import drawing
from rdm_core.shapes.world import BACKGROUNDS, POSITIONS, derive_seed

COUNT, HELD_OUT = 500, 50
"""How many entities there are; the last ones of them are held out."""
GROUPS = ("all", "known", "frequent", "rare", "held out")
"""Groups of entities: those that training shows, of them the half shown often and the half shown
seldom, and those that it never shows.
"""
RARE_SHARE = 0.2
"""Of the pictures with known entities, those that show a rare one."""

CELLS = 5
"""Cells of a glyph, along a side. The left half is the right one mirrored."""
TEXTURES = ("plain", "bands", "columns", "diagonal", "core", "checks")
"""Which filled cells have the second colour: none, every other row, every other column, each third
diagonal, the inner ones, or every other cell.
"""
RADIUS = 0.62
"""Half the side of a glyph, canvas units: the picture spans -1..1."""
MOST_DEGREES = 5
"""No glyph is turned further."""
STYLE = "photograph"
GRAIN = 0.016
"""As in every photograph of the built-in world."""

Grid = np.ndarray  # float32 [n, n]

_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "kr")
_VOWELS = ("a", "e", "i", "o", "u")


@dataclass(frozen=True)
class Entity:
    """One thing with a name."""

    number: int
    """0..COUNT-1."""
    name: str
    """A made-up word."""
    cells: tuple[tuple[bool, ...], ...]
    """Which cells of the glyph are filled, CELLS rows of CELLS, from the top."""
    body: str
    """Colour of the filled cells: a name in drawing.PIGMENTS."""
    mark: str
    """Colour of the texture on them; another one."""
    texture: str
    """One of TEXTURES; plain shows no mark."""


@dataclass(frozen=True)
class EntitySample:
    """One picture with its record: pixels are uint8 [side, side, 3]."""

    pixels: np.ndarray
    entity: Entity
    position: str
    background: str
    caption: str


@lru_cache(maxsize=1)
def entities() -> tuple[Entity, ...]:
    """All COUNT entities, by number: no two have a name or a look in common."""
    rng = np.random.default_rng(derive_seed("entities"))
    colours = tuple(drawing.PIGMENTS)
    names: list[str] = []
    found: list[Entity] = []
    while len(found) < COUNT:
        name = _name(rng)
        half = rng.random((CELLS, 3)) < 0.6
        body, mark = rng.choice(len(colours), 2, replace=False).tolist()
        texture = TEXTURES[int(rng.integers(len(TEXTURES)))]
        cells = np.concatenate([half, half[:, 1::-1]], axis=1)
        full = int(cells.sum())
        # Neither a speck nor a block; each row and column but one has a cell, so the size shows.
        seen = cells.any(axis=1).sum() >= CELLS - 1 and cells[:, 0].any() and cells[0].any()
        if name in names or not 9 <= full <= 19 or not seen:
            continue
        new = Entity(
            len(found), name, tuple(tuple(row) for row in cells.tolist()),
            colours[body], colours[mark], texture,
        )  # fmt: skip
        if any(_alike(new, other) for other in found):
            continue
        names.append(name)
        found.append(new)
    return tuple(found)


def group(name: str) -> tuple[Entity, ...]:
    """The entities of one of GROUPS. Raises ValueError for another name."""
    known = COUNT - HELD_OUT
    ranges = {
        "all": (0, COUNT),
        "known": (0, known),
        "frequent": (0, known // 2),
        "rare": (known // 2, known),
        "held out": (known, COUNT),
    }
    if name not in ranges:
        raise ValueError(f"entities is {name!r}; choose one of {GROUPS!r}")
    first, end = ranges[name]
    return entities()[first:end]


def sample(
    split: str,
    index: int,
    side: int,
    seed: int = 0,
    entities: str = "known",
    backgrounds: Sequence[str] = BACKGROUNDS,
    positions: Sequence[str] = POSITIONS,
) -> EntitySample:
    """One picture of a split with its record. Splits are independent streams.

    Of the known entities the rare ones share RARE_SHARE of the pictures; in every other group, and
    in a split called database, all are equally frequent. Raises ValueError for an index below 0, an
    unknown group and an unknown or empty restriction.
    """
    if index < 0:
        raise ValueError(f"index of split {split!r} is {index}; it must be 0 or more")
    restricted = (("backgrounds", backgrounds, BACKGROUNDS), ("positions", positions, POSITIONS))
    for name, allowed, values in restricted:
        if not allowed or any(value not in values for value in allowed):
            raise ValueError(f"{name} {tuple(allowed)!r}: choose one or more of {values!r}")
    rolls = np.random.default_rng(derive_seed("entity", split, index, seed)).random(4)
    chosen = group(entities)
    if entities == "known" and split != "database":
        chosen = group("rare" if rolls[3] < RARE_SHARE else "frequent")
    entity = chosen[int(rolls[0] * len(chosen))]
    position = positions[int(rolls[1] * len(positions))]
    background = backgrounds[int(rolls[2] * len(backgrounds))]
    pixels = render(
        entity, position, background, side, derive_seed("entity-render", split, index, seed)
    )
    text = caption(entity.name, position, background)
    return EntitySample(pixels, entity, position, background, text)


def render(entity: Entity, position: str, background: str, side: int, seed: int) -> np.ndarray:
    """Draw an entity: uint8 [side, side, 3]. The seed moves nuisance only: light, grain, and the
    place and size by a little.
    """
    rng = np.random.default_rng(seed)
    n = side * (3 if side < 48 else 2)  # averaged down, so edges are smooth
    filled, marked = np.array(entity.cells), marks(entity)

    def form(x: Grid, y: Grid) -> Grid:
        """Distance to the filled cells, each a little larger than its place."""
        distance = np.full(x.shape, np.float32(9))
        for row, column in zip(*np.nonzero(filled), strict=True):
            middle_x, middle_y = _middle(column), -_middle(row)
            box = np.maximum(np.abs(x - middle_x), np.abs(y - middle_y)) - np.float32(0.22)
            distance = np.minimum(distance, box)
        return distance

    scene = drawing.arranged(form, np.zeros(3), background, position, RADIUS, n, rng, MOST_DEGREES)
    x, y = scene.local(scene.x, scene.y)
    column = np.clip(((x + 1) / 2 * CELLS).astype(int), 0, CELLS - 1)
    row = np.clip(((1 - y) / 2 * CELLS).astype(int), 0, CELLS - 1)
    pair = np.array([drawing.PIGMENTS[entity.body], drawing.PIGMENTS[entity.mark]], np.float32)
    scene = replace(scene, pigment=pair[marked[row, column].astype(int)])
    return drawing.averaged(drawing.photograph(scene, rng), side, GRAIN, rng)


def marks(entity: Entity) -> np.ndarray:
    """Which cells have the entity's second colour, if they are filled: bool [CELLS, CELLS]."""
    row, column = np.mgrid[:CELLS, :CELLS]
    outwards = np.abs(column - CELLS // 2)  # the same on both sides of the middle
    patterns = {
        "plain": np.zeros((CELLS, CELLS), bool),
        "bands": row % 2 == 1,
        "columns": outwards % 2 == 1,
        "diagonal": (row + outwards) % 3 == 0,
        "core": (outwards <= 1) & (np.abs(row - CELLS // 2) <= 1),
        "checks": (row + outwards) % 2 == 0,
    }
    return patterns[entity.texture]


def _middle(cell: int) -> np.float32:
    """The middle of a cell, -1..1."""
    return np.float32((2 * cell + 1) / CELLS - 1)


def caption(name: str, position: str | None = None, background: str | None = None) -> str:
    """English that names an entity, and where it is and on what, if that is given."""
    text = f"a {STYLE} of {'an' if name[0] in 'aeiou' else 'a'} {name}"
    if position is not None:
        text += " in the centre" if position == "centre" else f" at the {position}"
    if background is not None:
        text += f" on a {background} background"
    return text


def _name(rng: np.random.Generator) -> str:
    """A word of two or three syllables."""
    word = ""
    for _ in range(int(rng.integers(2, 4))):
        word += _ONSETS[int(rng.integers(len(_ONSETS)))] + _VOWELS[int(rng.integers(len(_VOWELS)))]
    return word


def _alike(a: Entity, b: Entity) -> bool:
    """Whether two looks are hard to tell apart: their glyphs differ in few cells, or they share
    their colours and most cells.
    """
    differ = int((np.array(a.cells) != np.array(b.cells)).sum())
    return differ < 2 or (differ < 5 and a.body == b.body)
