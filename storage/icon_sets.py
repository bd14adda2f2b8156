"""Sets of icons in Iconify's JSON: bodies of SVG by name, names by code points, licence and author.

  icons.json   icons: name -> body and sizes; aliases: name -> parent, turned and mirrored or not
  chars.json   code points ("1f468-200d-2695") -> name
  info.json    author, licence

Every text in them is somebody else's: what is not of its kind is refused by its place.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from storage.errors import SourceError
from storage.npm import Package, read_members
from storage.text import is_whole, on_one_line

MOST_BYTES = {"icons.json": 64 * 2**20, "chars.json": 4 * 2**20, "info.json": 64 * 2**10}
"""Files of a set, and the most bytes each may have."""
MOST_ICONS = 50_000
CURE = "Delete the package and run the same command again."

_CODE_POINTS = re.compile(r"[0-9a-f]{2,6}(-[0-9a-f]{2,6})*")
_MOST_ALIASES = 8  # one of one of one ...
_MOST_UNITS = 10_000  # of a box's side
_VARIATION = "fe0f"  # asks for the coloured glyph; sets write it or not
_HEAD = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    'viewBox="{box}">'
)


class BadIcon(ValueError):
    """An icon that cannot be made an SVG; the message says why."""


@dataclass(frozen=True, slots=True)
class IconSet:
    """A set of icons. names: code points without fe0f -> the icon's name. licence: SPDX where the
    set states that. source_url: where its author publishes it.
    """

    package: Package
    icons: Mapping[str, Any]
    aliases: Mapping[str, Any]
    box: Mapping[str, Any]
    names: Mapping[str, str]
    licence: str
    author: str
    source_url: str


def code_points_of(text: str) -> str:
    """Code points in hexadecimal, "1f468-200d-2695": lower case, without fe0f. ValueError for
    others.
    """
    plain = "-".join(part for part in text.lower().split("-") if part != _VARIATION)
    if not _CODE_POINTS.fullmatch(plain) or len(plain) > 64:
        raise ValueError(f"no code points: {text[:80]!r}")
    return plain


def read_json_members(package: Package, wanted: Mapping[str, int]) -> dict[str, Any]:
    """The JSON files of a package by their path; wanted: path -> most bytes. Raises SourceError."""
    values = {}
    for name, data in read_members(package, wanted).items():
        try:
            values[name] = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise wrong(package, name, f"is not JSON: {error}") from error
    return values


def wrong(package: Package, place: str, what: str) -> SourceError:
    """The error for what a package holds at a place."""
    return SourceError(f"{package.path}, {place}", what, CURE)


def read_icon_set(package: Package) -> IconSet:
    """The set of icons in a package. Raises SourceError where it is not laid out as one, and where
    it states no licence or author.
    """
    files = read_json_members(package, MOST_BYTES)
    icons, info = files["icons.json"], files["info.json"]
    aliases = icons.get("aliases", {}) if isinstance(icons, dict) else {}
    for place, value in (
        ("icons.json", icons),
        ("icons.json: icons", icons.get("icons") if isinstance(icons, dict) else None),
        ("icons.json: aliases", aliases),
        ("chars.json", files["chars.json"]),
    ):
        if not isinstance(value, dict) or len(value) > MOST_ICONS:
            raise wrong(package, place, f"is no object of at most {MOST_ICONS:,} entries")
    names: dict[str, str] = {}
    for written, name in files["chars.json"].items():
        try:
            names[code_points_of(written)] = str(name)
        except ValueError as error:
            raise wrong(package, "chars.json", str(error)) from error
    stated = {
        "licence": _said(info, "license", "spdx") or _said(info, "license", "title"),
        "author": _said(info, "author", "name"),
        "source_url": _said(info, "author", "url"),
    }
    for what, text in stated.items():
        if not text:
            raise wrong(package, "info.json", f"states no {what}")
    return IconSet(package, icons["icons"], aliases, icons, names, **stated)


def named_as(icons: IconSet, other: IconSet) -> IconSet:
    """A set that states no code points, with those of another set's icons of the same names."""
    has = icons.icons.keys() | icons.aliases.keys()
    names = {code_points: name for code_points, name in other.names.items() if name in has}
    return replace(icons, names=names)


def _said(info: Any, outer: str, inner: str) -> str:
    """What info.json says under two names, or nothing."""
    value = info.get(outer) if isinstance(info, dict) else None
    text = value.get(inner) if isinstance(value, dict) else None
    return str(text) if is_text(text, most=300) else ""


def is_text(value: object, most: int) -> bool:
    """Whether a value is a text of one line, not empty, of at most so many characters."""
    if not isinstance(value, str) or not value.strip() or len(value) > most:
        return False
    return is_whole(value) and on_one_line(value) == value


# An icon as SVG


def svg_of(icons: IconSet, name: str) -> str:
    """The icon of that name as a square SVG: what is not square is in the middle of a square.

    Aliases are followed, with their quarter turns and mirrorings. Raises BadIcon.
    """
    facts = _facts(icons, name)
    body = facts.get("body")
    if not isinstance(body, str) or not body.strip():
        raise BadIcon("it has no drawing")
    left, top = (_number(facts, icons.box, side, 0.0) for side in ("left", "top"))
    width, height = (_number(facts, icons.box, side, 16.0) for side in ("width", "height"))
    if width <= 0 or height <= 0:
        raise BadIcon(f"its box is {width:g} x {height:g}")
    side = max(width, height)
    middle_x, middle_y = left + width / 2, top + height / 2
    turned = _turned(facts, middle_x, middle_y)
    if turned:
        body = f'<g transform="{turned}">{body}</g>'
    corner = (middle_x - side / 2, middle_y - side / 2)
    box = f"{corner[0]:g} {corner[1]:g} {side:g} {side:g}"
    return f"{_HEAD.format(box=box)}{body}</svg>"


def _facts(icons: IconSet, name: str) -> dict[str, Any]:
    """What is said of an icon and of the aliases that lead to it: turns are added, mirrorings
    cancel out, else the nearest says it.
    """
    facts: dict[str, Any] = {"rotate": 0, "hFlip": False, "vFlip": False}
    for _ in range(_MOST_ALIASES):
        is_icon = name in icons.icons
        said = icons.icons[name] if is_icon else icons.aliases.get(name)
        if not isinstance(said, dict):
            raise BadIcon(f"the set has no icon {on_one_line(name)[:80]!r}")
        turns = said.get("rotate", 0)
        if not isinstance(turns, int):
            raise BadIcon(f"it is turned by {on_one_line(turns)[:40]} quarters")
        facts["rotate"] = (facts["rotate"] + turns) % 4
        for mirrored in ("hFlip", "vFlip"):
            facts[mirrored] ^= said.get(mirrored) is True
        for key in ("body", "left", "top", "width", "height"):
            if key in said:
                facts.setdefault(key, said[key])
        if is_icon:
            return facts
        name = str(said.get("parent"))
    raise BadIcon(f"it is an alias of more than {_MOST_ALIASES} others, or of itself")


def _number(facts: dict[str, Any], box: Mapping[str, Any], key: str, default: float) -> float:
    """A number of an icon's box, or the set's for all icons, or the default of the format."""
    value = facts.get(key, box.get(key, default))
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or abs(value) > _MOST_UNITS:
        raise BadIcon(f"its {key} is {on_one_line(value)[:40]}")
    return float(value)


def _turned(facts: dict[str, Any], x: float, y: float) -> str:
    """The transformation of an icon that is turned clockwise or mirrored around its middle; empty
    if it is neither. Mirroring comes first.
    """
    scale = (-1 if facts["hFlip"] else 1, -1 if facts["vFlip"] else 1)
    steps = []
    if facts["rotate"]:
        steps.append(f"rotate({90 * facts['rotate']} {x:g} {y:g})")
    if scale != (1, 1):
        steps.append(
            f"translate({x:g} {y:g}) scale({scale[0]} {scale[1]}) translate({-x:g} {-y:g})"
        )
    return " ".join(steps)
