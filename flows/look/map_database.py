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
from storage.embeddings import read_columns

Result = tuple[str, dict[str, Any]]
COLUMNS = ("style", "labels", "licence", "author", "captions", "source_url", "norm")
"""What points can be coloured by, all that rows may share; of a list the first counts."""
TOLD = ("captions", "labels", "style", "author", "licence", "source_url")
"""What is told of the row under the pointer."""
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
    rows = chosen_rows(database.retrieval.rows, config.rows, config.seed)
    say("map", config.database, f"{len(rows):,} of {database.retrieval.rows:,} rows")
    places = project(
        database.retrieval.vectors(rows), config.perplexity, config.seed, len(sched_getaffinity(0))
    )
    columns = (
        read_columns(database.embeddings, ["key", *dict.fromkeys(COLUMNS + TOLD)])
        .take(rows)
        .to_pydict()
    )
    page = map_page(
        database,
        places,
        columns,
        atlas_of(database, columns["key"], config.thumbnail),
        config.thumbnail,
    )
    write_bytes(config.out, as_bytes(page))
    value = {"out": str(config.out), "rows": len(rows), "database": database.embeddings.reference}
    return f"map of {len(rows):,} rows: {config.out}", value


def chosen_rows(count: int, most: int, seed: int) -> np.ndarray:
    """All rows, or a seeded draw of them, in their order."""
    return np.sort(np.random.default_rng(seed).choice(count, min(count, most), replace=False))


def atlas_of(database: OpenDatabase, keys: Sequence[str], side: int) -> bytes:
    """One picture with every row's thumbnail, line after line; grey where an image is no longer at
    hand.
    """
    found = database.images(list(keys))
    grey = np.full((side, side, 3), 128, dtype=np.uint8)
    cells = [fitted(decode(found[key]), side) if key in found else grey for key in keys]
    return encode(grid(cells, columns=across(len(keys)), pad=0), "jpg", 85)


def across(count: int) -> int:
    """Thumbnails in a line of the atlas, which is about square."""
    return int(np.ceil(np.sqrt(count)))


def map_page(
    database: OpenDatabase, places: np.ndarray, columns: Mapping[str, list], atlas: bytes, side: int
) -> Html:
    """The page, with all its data inside."""
    embeddings = database.embeddings
    data = {
        "points": [[round(float(x), 4), round(float(y), 4)] for x, y in places],
        "keys": columns["key"],
        "cell": side,
        "across": across(len(places)),
        "told": {name: [_text(value) for value in columns[name]] for name in TOLD},
        "columns": {
            name: coloured(columns[name])
            for name in COLUMNS
            if any(_first(value) for value in columns[name])
        },
    }
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


def coloured(values: Sequence[Any]) -> dict[str, Any]:
    """A column for the page: numbers with their range, or places in a list of names, the most
    frequent first.
    """
    firsts = [_first(value) for value in values]
    if all(isinstance(value, float | int | None) for value in firsts):
        known = [value for value in firsts if value is not None]
        return {
            "values": [None if v is None else round(v, 4) for v in firsts],
            "low": min(known),
            "high": max(known),
        }
    names = [name for name, _ in Counter(value or "not stated" for value in firsts).most_common()]
    places = {name: place for place, name in enumerate(names)}
    return {"names": names, "values": [places[value or "not stated"] for value in firsts]}


def _first(value: Any) -> Any:
    return (value[0] if value else None) if isinstance(value, list) else value


def _text(value: Any) -> str:
    return " · ".join(value) if isinstance(value, list) else value or ""
