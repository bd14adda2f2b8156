"""Emoji in several styles, as `rdm acquire emoji` leaves them.

<root>/emoji.json                    a row for every picture: names, groups, licence, author
<root>/<style>/<code points>.png     the picture
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.emoji import TABLE_FORMAT, TABLE_NAME, concept_is_held_out
from storage.errors import SourceError
from storage.icon_sets import code_points_of, is_text
from storage.sources.disk import (
    check_damage,
    check_root,
    is_folder,
    names_in,
    read_json,
    wrong_layout,
)
from storage.sources.source import Listing, SourceImage, absent, listing_of, readable
from storage.sources.walk import Entry, check_not_ours, walk

LAYOUT = "emoji.json and a folder of pictures for each style"
CURE = "Make it anew: `rdm acquire emoji`."
CONCEPTS = ("all", "known", "held out")
_STYLE = re.compile(r"[a-z0-9_]{1,32}")
_MOST_TEXT, _MOST_KEYWORDS = 300, 100
_MOST_ROWS = 200_000


def read_emoji(
    root: Path, style: str = "all", concepts: str = "all", ours: Path | None = None
) -> Listing:
    """List the pictures of a table of emoji.

    style: "all", or styles of the table with commas between them. concepts: "all"; "held out",
    those that no training is to show, about one in ten; "known", all others. source_id:
    "<style>-<code points>". captions: the name, then each keyword. labels: "group=..." and
    "subgroup=...". split: "held out" or "known". licence, author and source_url: as the style's
    package states them. A picture that could not be drawn, or whose file is gone, is a row with a
    reason; files that the table does not name are counted. ours: the root of this project's files,
    which is not entered. Raises SourceError for a folder without a table that can be read, for a
    style that it does not hold, and where nothing of what is asked for is in it; ValueError for
    other concepts.
    """
    if concepts not in CONCEPTS:
        raise ValueError(f"concepts is {concepts!r}, must be one of {CONCEPTS}")
    check_root(root, "emoji", LAYOUT)
    check_not_ours(root, ours)
    if TABLE_NAME not in names_in(root):
        raise wrong_layout(root, "emoji", LAYOUT)
    notes: Counter[str] = Counter()
    rows = _rows(root / TABLE_NAME, notes)
    styles = _asked_styles(root / TABLE_NAME, style, sorted({row["style"] for row in rows}))
    files = {name: _files(root / name, ours, notes) for name in styles}
    images, listed = [], set()
    for row in rows:
        if row["style"] not in files:
            continue
        listed.add((row["style"], f"{row['code_points']}.png"))
        image = _image(row, files[row["style"]], notes)
        if concepts in ("all", image.split):
            images.append(image)
    for name, entries in files.items():
        notes["files_not_in_the_table"] += sum((name, file) not in listed for file in entries)
    if not images:
        what = f"lists no pictures of concepts={concepts} in style={style}"
        raise SourceError(root / TABLE_NAME, what, "Ask for others.")
    notes["without_picture"] = sum(image.path is None for image in images)
    return listing_of(root, images, notes)


def _asked_styles(table: Path, asked: str, known: list[str]) -> list[str]:
    """The styles that are asked for. Raises SourceError for one that the table does not hold."""
    if asked == "all":
        return known
    styles = [name.strip() for name in asked.split(",")]
    for name in styles:
        if name not in known:
            what = f"holds no style {readable(name)!r}"
            raise SourceError(table, what, f"Ask for some of {', '.join(known)}, or for all.")
    return styles


def _rows(table: Path, notes: Counter[str]) -> list[Mapping[str, Any]]:
    """The rows that can be read; others are counted. Raises SourceError where there are many."""
    content = read_json(table, CURE)
    if not isinstance(content, dict) or content.get("format") != TABLE_FORMAT:
        raise SourceError(table, f"is no table of emoji of format {TABLE_FORMAT}", CURE)
    listed = content.get("pictures")
    if not isinstance(listed, list) or not 0 < len(listed) <= _MOST_ROWS:
        raise SourceError(table, f"lists no pictures, or more than {_MOST_ROWS:,}", CURE)
    rows: dict[tuple[str, str], Mapping[str, Any]] = {}
    damaged, first = 0, ""
    for number, row in enumerate(listed, start=1):
        wrong = _what_is_wrong(row)
        if wrong is None and (row["style"], row["code_points"]) in rows:
            wrong = "is there twice"
        if wrong is not None:
            damaged += 1
            first = first or f"picture {number} {wrong}"
            continue
        rows[row["style"], row["code_points"]] = row
    notes["table_rows_damaged"] += damaged
    check_damage(table, damaged, len(listed), first, CURE)
    return list(rows.values())


def _what_is_wrong(row: Any) -> str | None:
    """Why a row is none that was written here, or None. What it names becomes part of a path."""
    if not isinstance(row, dict):
        return "is no object"
    for key in ("style", "code_points", "name", "group", "subgroup", "licence", "author"):
        if not is_text(row.get(key), _MOST_TEXT):
            return f"has no {key}"
    try:
        is_plain = code_points_of(row["code_points"]) == row["code_points"]
    except ValueError:
        is_plain = False
    if not is_plain or not _STYLE.fullmatch(row["style"]):
        return f"names {row['style'][:40]!r}, {row['code_points'][:40]!r}"
    keywords = row.get("keywords")
    if not isinstance(keywords, list) or len(keywords) > _MOST_KEYWORDS:
        return "has no list of keywords"
    if not all(is_text(keyword, _MOST_TEXT) for keyword in keywords):
        return "has a keyword that is no text"
    for key in ("source_url", "reason"):
        if row.get(key) is not None and not is_text(row[key], _MOST_TEXT):
            return f"has a {key} that is no text"
    return None


def _files(folder: Path, ours: Path | None, notes: Counter[str]) -> dict[str, Entry]:
    """What lies in a style's folder, by name."""
    if not is_folder(folder):
        return {}
    entries = walk(folder, notes, ours, deep=False, links_out=False)
    return {entry.name: entry for entry in entries}


def _image(row: Mapping[str, Any], files: Mapping[str, Entry], notes: Counter[str]) -> SourceImage:
    """One row of the table with its file, if there is one."""
    style, code_points = row["style"], row["code_points"]
    name = f"{code_points}.png"
    entry = files.get(name)
    reason = row.get("reason")
    if reason is not None:
        reason, entry = f"could not be drawn: {reason}", None
    elif entry is None:
        notes["listed_but_absent"] += 1
        reason = absent(TABLE_NAME, f"{style}/{name}")
    else:
        reason = entry.reason
    captions = dict.fromkeys((row["name"], *row["keywords"]))
    return SourceImage(
        "emoji",
        f"{style}-{code_points}",
        entry.file if entry else None,
        tuple(captions),
        (f"group={row['group']}", f"subgroup={row['subgroup']}"),
        style=style,
        author=row["author"],
        licence=row["licence"],
        source_url=row.get("source_url"),
        split="held out" if concept_is_held_out(code_points) else "known",
        reason=reason,
        stamp=entry.stamp if entry else None,
    )
