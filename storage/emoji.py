"""Emoji: the same concepts drawn by different hands, from packages of npm.

A concept is what its code points mean (1f600, grinning face), with the names and keywords of
emojibase-data. A style is one set of icons. What is drawn lies under a folder as

  <folder>/emoji.json                      every picture, with all that is known of it
  <folder>/<style>/<code points>.png       one picture, transparent where nothing is drawn
  <folder>/packages/                       the packages as they came

Variants by skin tone are left out: 330 concepts have five to twenty-five each, as many pictures as
all others together, whose names differ in the tone alone. Flags of countries and regions are left
out (letters and stripes), and so are the parts emoji are put together of.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from storage.atomic import canonical_json, write_bytes
from storage.icon_sets import IconSet, code_points_of, is_text, read_json_members, wrong
from storage.npm import Package, read_members
from storage.text import NotText, text_of

TABLE_NAME = "emoji.json"
TABLE_FORMAT = 1
PACKAGES_NAME = "packages"
HELD_OUT_SHARE = 0.1
"""Of the concepts, about: no training shows them."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A package of npm: exactly this one. integrity: its sha512, as npm writes it."""

    name: str
    version: str
    integrity: str


STYLES: Mapping[str, Pin] = {
    "noto": Pin(
        "@iconify-json/noto", "1.2.9",
        "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jf"
        "rTAeI3rcKF0mqHYeZVAuaw==",
    ),
    "twemoji": Pin(
        "@iconify-json/twemoji", "1.2.5",
        "sha512-uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXz"
        "AWU9yNLlj41WU6/mvgALsw==",
    ),
    "fluent": Pin(
        "@iconify-json/fluent-emoji-flat", "1.2.6",
        "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7"
        "yNGWqQYvuaSYM1M4fRXlUw==",
    ),
    "openmoji": Pin(
        "@iconify-json/openmoji", "1.2.29",
        "sha512-vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/WqfkQIRxevL5Geb/g+6GH/Qw"
        "nq1OqksEmaDGTCmZ5nFKJQ==",
    ),
    "noto_v1": Pin(
        "@iconify-json/noto-v1", "1.2.5",
        "sha512-/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UH"
        "Hb/XpBsw+1L1x3eyPqMuVA==",
    ),
    "emojione": Pin(
        "@iconify-json/emojione", "1.2.3",
        "sha512-T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8"
        "cCv7w5vJxS4Q1m8zb9CMMg==",
    ),
}  # fmt: skip
"""Style -> the set of icons it is. The last two are older and hold fewer concepts: more variety for
who trains, in a folder of their own.
"""
NAMED_AS: Mapping[str, str] = {"noto_v1": "noto", "emojione": "noto"}
"""Style without code points -> the style by whose names its icons go."""
NAMES = Pin(
    "emojibase-data", "17.0.0",
    "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTyg"
    "jA==",
)  # fmt: skip
"""Names, keywords and groups of all concepts (MIT)."""
AUTHORS: Mapping[str, Pin] = {
    "openmoji": Pin(
        "openmoji", "17.0.0",
        "sha512-EBnYrNGdcdw+OSXmENeNE1yBNRu6tOraTmoOyUbJkTmvT/+XETp8RZLSJFzD3lrP"
        "c5N9CzsyPnRTk0Vp4UaI9w==",
    ),
}  # fmt: skip
"""Style -> where the author of each single picture stands, for the styles that say so."""

_NAMES_PATH, _GROUPS_PATH = "en/data.json", "meta/groups.json"
_NAMES_BYTES = {_NAMES_PATH: 8 * 2**20, _GROUPS_PATH: 2**20}
_AUTHORS_PATH = "data/openmoji.csv"
_AUTHORS_BYTES = {_AUTHORS_PATH: 8 * 2**20}
_LEFT_OUT_GROUPS = frozenset({"component"})  # skin tones and hair, to be put onto others
_LEFT_OUT_SUBGROUPS = frozenset({"country-flag", "subdivision-flag"})
_MOST_NAME, _MOST_KEYWORDS = 200, 50
_TONES = frozenset({"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"})
_SIGNS = re.compile(r"(-200d-(2640|2642|27a1))+$")  # woman, man, to the right
_ADULTS = frozenset({"1f468", "1f469"})  # man, woman; in a joined one the same as 1f9d1, person


@dataclass(frozen=True, slots=True)
class Concept:
    """What an emoji means. code_points: hexadecimal, without fe0f. group, subgroup: Unicode's
    names, "food-drink" and "food-fruit".
    """

    code_points: str
    name: str
    keywords: tuple[str, ...]
    group: str
    subgroup: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A row of the table: one concept in one style. reason: why there is no picture of it; author:
    of this picture where the set says it, else of the set.
    """

    style: str
    concept: Concept
    licence: str
    author: str
    source_url: str
    package: str
    version: str
    svg_sha256: str | None
    reason: str | None = None


def concept_is_held_out(code_points: str) -> bool:
    """Whether no training is to show the concept: about HELD_OUT_SHARE of them, by a hash.

    The hash is of the concept without skin tone, woman or man, and direction, as a "woman running"
    is hardly new to who has seen a "man running". It knows no list, so it is the same for ever.
    """
    digest = hashlib.sha256(f"emoji {_without_variants(code_points)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64


def _without_variants(code_points: str) -> str:
    """The code points that variants of a concept have in common."""
    parts = code_points_of(code_points).split("-")
    joined = "200d" in parts
    kept = []
    for part in parts:
        if part not in _TONES:
            kept.append("1f9d1" if joined and part in _ADULTS else part)
    # What is nothing but a tone stays as it is.
    return _SIGNS.sub("", "-".join(kept)) or code_points


def read_concepts(package: Package) -> list[Concept]:
    """The concepts in emojibase-data, in its order. Raises SourceError where it is laid out in
    another way.
    """
    files = read_json_members(package, _NAMES_BYTES)
    groups, emoji = files[_GROUPS_PATH], files[_NAMES_PATH]
    if not isinstance(groups, dict) or not isinstance(emoji, list):
        raise wrong(package, _NAMES_PATH, "is no list, or has no groups beside it")
    concepts: dict[str, Concept] = {}
    for number, row in enumerate(emoji):
        if not isinstance(row, dict):
            raise wrong(package, f"{_NAMES_PATH}: {number}", "is no object")
        if "group" not in row:  # letters that flags are made of
            continue
        try:
            concept = _concept(row, groups)
        except ValueError as error:
            raise wrong(package, f"{_NAMES_PATH}: {number}", str(error)) from error
        if concept.group in _LEFT_OUT_GROUPS or concept.subgroup in _LEFT_OUT_SUBGROUPS:
            continue
        concepts.setdefault(concept.code_points, concept)
    return list(concepts.values())


def _concept(row: dict[str, Any], groups: dict[str, Any]) -> Concept:
    """One concept; its variants by skin tone stand inside it, and are left there. ValueError."""
    name, tags = row.get("label"), row.get("tags", [])
    if not is_text(name, _MOST_NAME):
        raise ValueError(f"has no name but {name!r}")
    if not isinstance(tags, list) or len(tags) > _MOST_KEYWORDS:
        raise ValueError(f"has no list of at most {_MOST_KEYWORDS} keywords")
    keywords = []
    for tag in tags:
        if not is_text(tag, _MOST_NAME):
            raise ValueError(f"has a keyword {tag!r}")
        if tag != name and tag not in keywords:
            keywords.append(tag)
    placed = []
    for of, key in (("groups", "group"), ("subgroups", "subgroup")):
        known = groups.get(of)
        place = known.get(str(row.get(key))) if isinstance(known, dict) else None
        if not is_text(place, _MOST_NAME):
            raise ValueError(f"is of no known {key}")
        placed.append(str(place))
    code_points = code_points_of(str(row.get("hexcode")))
    return Concept(code_points, str(name), tuple(keywords), *placed)


def concepts_in_all(concepts: Iterable[Concept], sets: Sequence[IconSet]) -> list[Concept]:
    """The concepts of which every set has an icon, in their order."""
    return [
        concept for concept in concepts if all(concept.code_points in icons.names for icons in sets)
    ]


def read_authors(package: Package) -> dict[str, str]:
    """Code points -> who drew that picture, from OpenMoji's own list. Raises SourceError."""
    data = read_members(package, _AUTHORS_BYTES)[_AUTHORS_PATH]
    try:
        rows = list(csv.DictReader(io.StringIO(text_of(data)), strict=True))
    except (csv.Error, NotText) as error:
        raise wrong(package, _AUTHORS_PATH, f"is no CSV: {error}") from error
    authors = {}
    for row in rows:
        author = (row.get("openmoji_author") or "").strip()
        try:
            code_points = code_points_of(row.get("hexcode") or "")
        except ValueError:  # the set's own author stands for a row that says nothing
            continue
        if is_text(author, _MOST_NAME):
            authors[code_points] = author
    if not authors:
        raise wrong(package, _AUTHORS_PATH, "names no author")
    return authors


def write_table(
    folder: Path, pictures: Iterable[Picture], packages: Iterable[Package], side_pixels: int
) -> None:
    """Write the table of the pictures in a folder, whole: it replaces the one before."""
    rows = []
    for picture in pictures:
        row = asdict(picture)
        is_held_out = concept_is_held_out(picture.concept.code_points)
        row["split"] = "held out" if is_held_out else "known"
        rows.append(row | row.pop("concept"))
    origins = [
        {"name": package.name, "version": package.version, "integrity": package.integrity}
        for package in packages
    ]
    head = {"format": TABLE_FORMAT, "side_pixels": side_pixels, "packages": origins}
    lines = b",\n".join(canonical_json(row) for row in rows)
    head_text = canonical_json(head).removesuffix(b"}")
    write_bytes(folder / TABLE_NAME, head_text + b',"pictures":[\n' + lines + b"\n]}\n")
