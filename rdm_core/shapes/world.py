"""The built-in world: endless captioned pictures of shapes, drawn, not downloaded.

    (split, index, seed) --draw_factors--> Factors --render--> uint8 [side, side, 3]
                                                   --caption--> "an oil painting of a red circle"

A picture is fixed by its split, index and seed, on every machine.  Seven factors
say what it shows; the rest (light, strokes, grain, small shifts) is nuisance.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from rdm_core.shapes import drawing

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "crescent")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
STYLES = ("photograph", "oil painting", "sketch")
BACKGROUNDS = ("light", "dark", "striped", "checkered")
POSITIONS = ("centre", "top left", "top right", "bottom left", "bottom right")
SIZES = ("small", "medium", "large")
NO_ACCESSORY = "none"
ACCESSORIES = (NO_ACCESSORY, "hat", "crown", "bow tie", "flag", "leaf")
"""What the object wears; half of the pictures show it without anything."""

FREQUENCIES = ("even", "uneven")
PAIRS = ("all", "known", "new")
"""Pairs of a shape and a colour: all of them, all but one colour of each shape, or only those."""

MIN_SIDE = 16


@dataclass(frozen=True)
class Factors:
    """What a picture shows; each field is one word (or phrase) of its vocabulary."""

    shape: str
    colour: str
    style: str
    background: str
    position: str
    size: str
    accessory: str = NO_ACCESSORY


VALUES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": COLOURS,
    "style": STYLES,
    "background": BACKGROUNDS,
    "position": POSITIONS,
    "size": SIZES,
    "accessory": ACCESSORIES,
}
FACTORS = tuple(field.name for field in fields(Factors))
RESTRICTIONS = {name: "accessories" if name == "accessory" else f"{name}s" for name in FACTORS}
"""Factor -> the parameter of draw_factors and sample that restricts it."""


@dataclass(frozen=True)
class ShapesSample:
    """One picture with its record: pixels are uint8 [side, side, 3]."""

    pixels: np.ndarray
    factors: Factors
    caption: str


def derive_seed(*parts: str | int) -> int:
    """A 64-bit seed from the parts, the same in every process and Python version."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def draw_factors(
    split: str,
    index: int,
    seed: int = 0,
    styles: Sequence[str] = STYLES,
    shapes: Sequence[str] = SHAPES,
    colours: Sequence[str] = COLOURS,
    backgrounds: Sequence[str] = BACKGROUNDS,
    positions: Sequence[str] = POSITIONS,
    sizes: Sequence[str] = SIZES,
    accessories: Sequence[str] = ACCESSORIES,
    frequencies: str = "even",
    pairs: str = "all",
) -> Factors:
    """Draw the factors of one picture independently, each with the shares that `shares` tells; of
    the colours those that may stand beside the shape, where only some `pairs` are wanted.

    Splits are independent streams.  Restricting one factor leaves the others as they were.
    Raises ValueError for an index below 0, an unknown or empty restriction, unknown frequencies or
    pairs, and a shape that has no allowed colour.
    """
    if index < 0:
        raise ValueError(f"index of split {split!r} is {index}; it must be 0 or more")
    if frequencies not in FREQUENCIES:
        raise ValueError(f"frequencies is {frequencies!r}; choose one of {FREQUENCIES!r}")
    if pairs not in PAIRS:
        raise ValueError(f"pairs is {pairs!r}; choose one of {PAIRS!r}")
    restricted = (shapes, colours, styles, backgrounds, positions, sizes, accessories)
    choices = dict(zip(FACTORS, restricted, strict=True))
    for name, allowed in choices.items():
        unknown = [value for value in allowed if value not in VALUES[name]]
        if unknown or not allowed:
            given, known = tuple(allowed), VALUES[name]
            raise ValueError(f"{RESTRICTIONS[name]} {given!r}: choose one or more of {known!r}")
    # A new factor's roll comes last, so those of the older ones stay what they were.
    rolls = np.random.default_rng(derive_seed("factors", split, index, seed)).random(len(FACTORS))
    drawn: dict[str, str] = {}
    for name, roll in zip(FACTORS, rolls, strict=True):
        if name == "colour" and pairs != "all":
            choices[name] = _colours_beside(drawn["shape"], choices[name], pairs)
        drawn[name] = _choose(name, choices[name], frequencies, float(roll))
    return Factors(**drawn)


def is_new_pair(shape: str, colour: str) -> bool:
    """Whether this pair is one of the eight that images with pairs="known" never show."""
    return (SHAPES.index(shape) + COLOURS.index(colour)) % len(COLOURS) == 0


def _colours_beside(shape: str, colours: Sequence[str], pairs: str) -> list[str]:
    """The colours that make known, or new, pairs with a shape.  Raises ValueError for none."""
    fitting = [colour for colour in colours if is_new_pair(shape, colour) == (pairs == "new")]
    if not fitting:
        raise ValueError(f"colours {tuple(colours)!r}: none of them makes a {pairs} pair: {shape}")
    return fitting


def shares(name: str, allowed: Sequence[str], frequencies: str = "even") -> tuple[float, ...]:
    """The share of pictures that show each allowed value of a factor; they add up to 1.

    Even: the same for each.  Uneven: 1, 1/2, 1/3, ... by the value's place in the restriction
    (Zipf's law).  "none", where accessories are allowed besides it, always takes half, and the
    accessories share the other half.
    """
    bare = name == "accessory" and NO_ACCESSORY in allowed and len(set(allowed)) > 1
    weights, rank = [], 0
    for value in allowed:
        if bare and value == NO_ACCESSORY:
            weights.append(0.0)
            continue
        rank += 1
        weights.append(1.0 if frequencies == "even" else 1 / rank)
    part = (0.5 if bare else 1.0) / sum(weights)
    bares = sum(value == NO_ACCESSORY for value in allowed) if bare else 0
    return tuple(part * weight if weight else 0.5 / bares for weight in weights)


def _choose(name: str, allowed: Sequence[str], frequencies: str, roll: float) -> str:
    """The allowed value in whose share of 0..1 the roll falls."""
    if frequencies == "even" and name != "accessory":
        # Not by sums of shares: rounded, they could put a roll beside where it has always fallen.
        return allowed[int(roll * len(allowed))]
    reached = 0.0
    for value, share in zip(allowed, shares(name, allowed, frequencies), strict=True):
        reached += share
        if roll < reached:
            return value
    return allowed[-1]


def render(factors: Factors, side: int, seed: int) -> np.ndarray:
    """Draw the picture; the seed moves nuisance only (place, light, strokes, grain).

    Returns uint8 [side, side, 3].  Raises ValueError below 16 pixels a side or
    for a factor outside the vocabulary.
    """
    if side < MIN_SIDE:
        raise ValueError(f"side is {side}; shapes need at least {MIN_SIDE} pixels")
    named = {name: getattr(factors, name) for name in FACTORS}
    for name, value in named.items():
        if value not in VALUES[name]:
            raise ValueError(f"{name} is {value!r}; choose one of {VALUES[name]!r}")
    return drawing.draw(**named, side=side, seed=seed)


def sample(
    split: str,
    index: int,
    side: int,
    seed: int = 0,
    frequencies: str = "even",
    pairs: str = "all",
    **restrictions: Sequence[str],
) -> ShapesSample:
    """One picture of a split with its factors and full caption.

    `frequencies`, `pairs` and `restrictions` are those of draw_factors (styles, shapes, ...).
    """
    factors = draw_factors(split, index, seed, frequencies=frequencies, pairs=pairs, **restrictions)
    pixels = render(factors, side, derive_seed("render", split, index, seed))
    return ShapesSample(pixels, factors, caption(factors))


def caption(factors: Factors, include: Sequence[str] | None = None) -> str:
    """English that names the included factors and no other; None names all that is to be seen.

    ("colour", "shape") gives "a red circle", ("style",) gives "an oil painting", and
    ("shape", "accessory") "a circle with a hat" or, without accessory, "a plain circle".  With
    None an accessory that is not there is not named: "plain" stands only where it is asked for.
    Raises ValueError for a factor that does not exist.
    """
    named = set(FACTORS if include is None else include)
    if unknown := named - set(FACTORS):
        raise ValueError(f"include names {sorted(unknown)}; factors are {FACTORS}")
    if named == {"style"}:
        return _article(factors.style)
    noun = factors.shape if "shape" in named else "object"
    bare = factors.accessory == NO_ACCESSORY
    plain = ["plain"] if bare and include is not None and "accessory" in named else []
    adjectives = [getattr(factors, name) for name in ("size", "colour") if name in named]
    text = _article(" ".join([*plain, *adjectives, noun]))
    if "style" in named:
        text = f"{_article(factors.style)} of {text}"
    if "accessory" in named and not bare:
        text += f" with {_article(factors.accessory)}"
    if "position" in named:
        text += f" {_place(factors.position)}"
    if "background" in named:
        text += f" on a {factors.background} background"
    return text


def captions(factors: Factors) -> tuple[str, ...]:
    """Captions of one picture, from one factor named to all seven, in several wordings.

    Made for training an encoder: short and long prompts both get a share.  Those that name the
    accessory, or that there is none, come last.
    """
    shape, colour, style = factors.shape, factors.colour, factors.style
    six = tuple(name for name in FACTORS if name != "accessory")
    bare = factors.accessory == NO_ACCESSORY
    worn = "plain" if bare else f"with {_article(factors.accessory)}"
    subsets = (
        ("shape",),
        ("colour",),
        ("style",),
        ("colour", "shape"),
        ("style", "shape"),
        ("style", "colour"),
        ("style", "colour", "shape"),
        ("size", "colour", "shape"),
        ("colour", "shape", "background"),
        ("colour", "shape", "position"),
        ("style", "colour", "shape", "background"),
        ("style", "size", "colour", "shape"),
        ("style", "colour", "shape", "position"),
        six,
        ("accessory",),
        ("shape", "accessory"),
        ("colour", "shape", "accessory"),
        ("style", "colour", "shape", "accessory"),
        FACTORS,
    )
    return tuple(caption(factors, subset) for subset in subsets) + (
        shape,
        colour,
        style,
        f"{colour} {shape}",
        f"{style} of a {shape}",
        f"{colour} {shape}, {style}",
        f"a picture of {_article(f'{colour} {shape}')}",
        f"{_article(f'{colour} {shape}')} in the style of {_article(style)}",
        f"the {shape} is {colour}",
        f"{_article(shape)} {_place(factors.position)}",
        f"{_article(factors.size + ' ' + shape)} on a {factors.background} background",
        f"{worn} {colour} {shape}" if bare else f"{colour} {shape} {worn}",
        f"{worn} {style}" if bare else f"{style} {worn}",
    )


# Other words people use for the same values; parse_caption accepts them too.
_SYNONYMS: dict[str, dict[str, str]] = {
    "style": {
        "photograph": "photo(?:graph)?s?",
        "oil painting": "(?:oil )?paint(?:ing|ings|ed)",
        "sketch": "sketch(?:es|ed)?|drawings?|pencil",
    },
    "shape": {
        "cross": "cross(?:es)?",
        "circle": "circles?|dis[ck]s?",
        "crescent": "crescents?|moons?",
    },
    "position": {"centre": "cent(?:re|er)|middle"},
    "accessory": {
        NO_ACCESSORY: "plain(?! background)|(?:without|no) (?:an )?accessory",
        "hat": "hats?",
        "crown": "crowns?",
        "bow tie": "bow ?ties?",
        "flag": "flags?",
        "leaf": "leaf|leaves",
    },
}


def parse_caption(text: str) -> dict[str, str]:
    """Which factors a text names, as {factor: value}; factors not named are absent.

    The first value named wins.  Case and punctuation do not matter.
    """
    words = " ".join(re.findall(r"[a-z]+", text.lower()))
    found = {}
    for name, values in VALUES.items():
        matches = [
            (match.start(), value)
            for value in values
            if (match := re.search(_pattern(name, value), words))
        ]
        if matches:
            found[name] = min(matches)[1]
    return found


def _pattern(name: str, value: str) -> str:
    """Regular expression of one value; a background must be called one ("light" is also a word)."""
    words = _SYNONYMS.get(name, {}).get(value, f"{value}s?" if name == "shape" else value)
    return rf"\b(?:{words})\b" + (r" background\b" if name == "background" else "")


def _place(position: str) -> str:
    return "in the centre" if position == "centre" else f"at the {position}"


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
