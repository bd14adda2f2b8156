"""The built-in world: endless captioned pictures of shapes, drawn, not downloaded.

    (split, index, seed) --draw_factors--> Factors --render--> uint8 [side, side, 3]
                                                   --caption--> "an oil painting of a red circle"

A picture is fixed by its split, index and seed, on every machine.  Six factors
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


VALUES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": COLOURS,
    "style": STYLES,
    "background": BACKGROUNDS,
    "position": POSITIONS,
    "size": SIZES,
}
FACTORS = tuple(field.name for field in fields(Factors))


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
) -> Factors:
    """Draw the factors of one picture, each uniformly and independently.

    Splits are independent streams.  Restricting one factor leaves the others as
    they were.  Raises ValueError for an index below 0 or an unknown or empty restriction.
    """
    if index < 0:
        raise ValueError(f"index of split {split!r} is {index}; it must be 0 or more")
    choices = dict(
        zip(FACTORS, (shapes, colours, styles, backgrounds, positions, sizes), strict=True)
    )
    for name, allowed in choices.items():
        unknown = [value for value in allowed if value not in VALUES[name]]
        if unknown or not allowed:
            raise ValueError(f"{name}s {tuple(allowed)!r}: choose one or more of {VALUES[name]!r}")
    rolls = np.random.default_rng(derive_seed("factors", split, index, seed)).random(len(FACTORS))
    drawn = {
        name: choices[name][int(roll * len(choices[name]))]
        for name, roll in zip(FACTORS, rolls, strict=True)
    }
    return Factors(**drawn)


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
    split: str, index: int, side: int, seed: int = 0, **restrictions: Sequence[str]
) -> ShapesSample:
    """One picture of a split with its factors and full caption.

    `restrictions` are those of draw_factors (styles, shapes, colours, ...).
    """
    factors = draw_factors(split, index, seed, **restrictions)
    pixels = render(factors, side, derive_seed("render", split, index, seed))
    return ShapesSample(pixels, factors, caption(factors))


def caption(factors: Factors, include: Sequence[str] | None = None) -> str:
    """English that names the included factors (None: all six) and no other.

    ("colour", "shape") gives "a red circle", ("style",) gives "an oil painting".
    Raises ValueError for a factor that does not exist.
    """
    named = set(FACTORS if include is None else include)
    if unknown := named - set(FACTORS):
        raise ValueError(f"include names {sorted(unknown)}; factors are {FACTORS}")
    if named == {"style"}:
        return _article(factors.style)
    noun = factors.shape if "shape" in named else "object"
    adjectives = [getattr(factors, name) for name in ("size", "colour") if name in named]
    text = _article(" ".join([*adjectives, noun]))
    if "style" in named:
        text = f"{_article(factors.style)} of {text}"
    if "position" in named:
        text += f" {_place(factors.position)}"
    if "background" in named:
        text += f" on a {factors.background} background"
    return text


def captions(factors: Factors) -> tuple[str, ...]:
    """Captions of one picture, from one factor named to all six, in several wordings.

    Made for training an encoder: short and long prompts both get a share.
    """
    shape, colour, style = factors.shape, factors.colour, factors.style
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
