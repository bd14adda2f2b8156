"""A database on one page: its embeddings laid out on a plane, with pictures, coloured by any
column.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from os import sched_getaffinity
from pathlib import Path
from typing import Any

import numpy as np

from flows.config.look import MapDatabase
from flows.data.database import OpenDatabase, searchable
from flows.look.page import Html, as_bytes, data_url, document, element
from flows.run.progress import say
from rdm_core.decode import decode
from rdm_core.images import encode, fitted, grid
from rdm_core.projection import project
from storage.artifact import open_artifact
from storage.atomic import write_bytes
from storage.checks import encoder_text
from storage.conditions import satisfying
from storage.embeddings import read_columns

Result = tuple[str, dict[str, Any]]
COLUMNS = ("style", "labels", "licence", "author", "captions", "source_url", "norm")
"""What points can be coloured by, all that rows may share; of a list the first counts."""
SHOWN = ("captions", "labels", "style", "author", "licence", "source_url")
"""What the page shows of the row under the pointer."""
SCRIPT = Path(__file__).with_name("map.js")
STYLE = """
#map{width:100%;height:min(80vh,56rem);border:1px solid var(--line);border-radius:.3rem;\
touch-action:none;cursor:crosshair}
main{max-width:none}body{max-width:90rem}.beside{display:grid;grid-template-columns:1fr 16rem;\
gap:1rem}
@media(max-width:50rem){.beside{grid-template-columns:1fr}}\
#legend{list-style:none;padding:0;font-size:.85rem}
#legend button{font:inherit;color:inherit;background:none;border:0;padding:.1rem;cursor:pointer;\
text-align:left}
#legend button[aria-pressed=false]{opacity:.35}#legend span{display:inline-block;width:.8em;\
height:.8em;margin-right:.4em;
border-radius:50%}#told{font-size:.85rem;overflow-wrap:anywhere}#told dt{color:var(--soft)}\
#told dd{margin:0 0 .4rem}
#atlas{display:none}#picture{width:12rem;height:12rem;background:var(--tint);border-radius:.2rem}
"""


def map_database(config: MapDatabase) -> Result:
    """Lay the rows out and write the page. Raises RequestError for too few rows, or a
    StorageError.
    """
    database = searchable(config.root, open_artifact(config.root, "embeddings", config.database))
    shown = np.arange(database.embeddings.rows)
    if config.where is not None:
        shown = np.flatnonzero(satisfying(database.embeddings, config.where))
    rows = chosen_rows(shown, config.rows, config.seed)
    # The layout of many rows can take minutes, so it is announced.
    say("map", config.database, f"{len(rows):,} of {database.retrieval.rows:,} rows")
    places = project(
        database.retrieval.vectors(rows), config.perplexity, config.seed, len(sched_getaffinity(0))
    )
    names = ["key", *dict.fromkeys(COLUMNS + SHOWN)]  # each column once
    columns = read_columns(database.embeddings, names).take(rows).to_pydict()
    atlas = atlas_of(database, columns["key"], config.thumbnail)
    page = map_page(database, places, columns, atlas, config.thumbnail)
    write_bytes(config.out, as_bytes(page))
    value = {"out": str(config.out), "rows": len(rows), "database": database.embeddings.reference}
    return f"map of {len(rows):,} rows: {config.out}", value


def chosen_rows(rows: np.ndarray, most: int, seed: int) -> np.ndarray:
    """All of the rows int64 [M], or a seeded draw of them, in their order."""
    # Sorted, so that the parts of the database are read in order.
    return np.sort(np.random.default_rng(seed).choice(rows, min(len(rows), most), replace=False))


def atlas_of(database: OpenDatabase, keys: Sequence[str], side: int) -> bytes:
    """One picture with every row's thumbnail, line after line; grey where an image is no longer at
    hand.
    """
    images = database.images(list(keys))
    grey = np.full((side, side, 3), 128, dtype=np.uint8)
    cells = []
    for key in keys:
        cells.append(fitted(decode(images[key]), side) if key in images else grey)
    return encode(grid(cells, columns=across(len(keys)), pad=0), "jpg", 85)


def across(count: int) -> int:
    """Thumbnails in a line of the atlas, which is about square."""
    return int(np.ceil(np.sqrt(count)))


def map_page(
    database: OpenDatabase, places: np.ndarray, columns: Mapping[str, list], atlas: bytes, side: int
) -> Html:
    """The page, with all its data inside."""
    embeddings = database.embeddings
    data = page_data(places, columns, side)
    # The page in three parts: the map, what stands beside it, and the data that map.js reads.
    facts = (
        f"{len(places):,} of {embeddings.rows:,} rows, encoder {encoder_text(embeddings)}. "
        "Near rows have near vectors; the sizes of clumps and the distances between them mean "
        "nothing (t-SNE). Drag to move, wheel to come nearer."
    )
    controls = element("p", element("label", "Colour by ", element("select", id="colour")))
    beside = element(
        "div",
        element("canvas", id="picture", width=192, height=192),
        element("dl", id="told"),
        controls,
        element("ul", id="legend"),
    )
    # A `<` in a caption could end the script element that holds the data.
    held = Html(json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"))
    return document(
        f"Map of {embeddings.name}",
        element("style", Html(STYLE)),
        element("h1", embeddings.name),
        element("p", facts, class_="soft"),
        element(
            "div",
            element("canvas", id="map", role="img", aria_label=f"Map of {embeddings.name}"),
            beside,
            class_="beside",
        ),
        element("img", src=data_url(atlas, "image/jpeg"), alt="", id="atlas"),
        element("script", held, type="application/json", id="data"),
        script=SCRIPT.read_text(encoding="utf-8"),
    )


def page_data(places: np.ndarray, columns: Mapping[str, list[Any]], side: int) -> dict[str, Any]:
    """What map.js reads: N points of places [N, 2], and of every row what is shown of it and what
    it can be coloured by.
    """
    points, shown, colours = [], {}, {}
    for x, y in places:
        points.append([round(float(x), 4), round(float(y), 4)])
    for name in SHOWN:
        shown[name] = [_text(value) for value in columns[name]]
    for name in COLUMNS:
        if any(map(_first, columns[name])):  # a column without any value colours nothing
            colours[name] = coloured(columns[name])
    return {
        "points": points,
        "keys": columns["key"],
        "cell": side,
        "across": across(len(places)),
        "told": shown,
        "columns": colours,
    }


def coloured(values: Sequence[Any]) -> dict[str, Any]:
    """A column for the page: numbers with their range, or places in a list of names, the most
    frequent first.
    """
    # A column is of numbers only if every value in it is one, or absent.
    numbers: list[float] = []
    rounded: list[float | None] = []
    firsts = [_first(value) for value in values]
    for value in firsts:
        if not isinstance(value, float | int | None):
            return coloured_by_name([first or "not stated" for first in firsts])
        rounded.append(None if value is None else round(value, 4))
        if value is not None:
            numbers.append(value)
    return {"values": rounded, "low": min(numbers), "high": max(numbers)}


def coloured_by_name(values: Sequence[str]) -> dict[str, Any]:
    """Each value as its place in a list of all names."""
    places = {}
    for place, (name, _) in enumerate(Counter(values).most_common()):
        places[name] = place
    return {"names": list(places), "values": [places[value] for value in values]}


def _first(value: Any) -> Any:
    if isinstance(value, list):
        return value[0] if value else None
    return value


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " · ".join(value)
    return value or ""
