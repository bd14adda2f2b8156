"""What does a database hold that is near to a text, an image, a row of its own or a vector? With
scores and credits.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flows.config.look import TABLES, SearchDatabase
from flows.config.parameters import path_as_text
from flows.data.database import OpenDatabase, searchable
from flows.data.query_image import query_image
from flows.look.figures import thumbnail
from flows.look.page import Html, as_bytes, document, element, note, number, table
from rdm_core.decode import decode
from rdm_core.errors import RequestError
from rdm_core.images import CELL_PIXELS, encode, fitted, grid, labelled
from rdm_core.search import NO_ROW, search_exact, unit_queries
from storage.arrays import open_array
from storage.artifact import open_artifact
from storage.atomic import write_bytes
from storage.checks import encoder_text
from storage.embeddings import of_what, read_columns
from storage.errors import FormatError
from storage.saved import SEARCH_ROWS, save_rows
from storage.text import on_one_line

Result = tuple[str, dict[str, Any]]
CREDIT = ("key", "captions", "licence", "author", "source_url")


@dataclass(frozen=True)
class Query:
    """What is looked for: its name for a person and a unit vector [D]."""

    name: str
    vector: np.ndarray
    source: str | None = None
    """The image it was cut from: its crops are no answer."""
    crops: int = 0
    """How many rows of the database these are."""


def search(config: SearchDatabase) -> Result:
    """Look everything up that was asked for; lines for a person, the same for a machine, and a
    contact sheet if wanted.

    Raises RequestError or a StorageError for what cannot be looked for.
    """
    database = searchable(config.root, open_artifact(config.root, "embeddings", config.database))
    queries = queries_of(config, database)
    rows = found_rows(database, queries, config.k, config.exact)
    found = [
        {"query": query.name, "found": hits} for query, hits in zip(queries, rows, strict=True)
    ]
    value: dict[str, Any] = {"database": database.embeddings.reference}
    value |= {"of": of_what(database.embeddings), "queries": found}
    lines = [line for query in found for line in _lines(query)]
    if config.out and config.out.suffix in TABLES:
        save_rows(config.out, answers_of(found), SEARCH_ROWS)
        value["out"] = str(config.out)
        lines.append(f"table: {config.out}")
    elif config.out and any(query["found"] for query in found):
        write_sheet(config.out, database, found)
        value["out"] = str(config.out)
        lines.append(f"contact sheet: {config.out}")
    elif config.out:
        lines.append("no contact sheet: nothing was found")
    return "\n".join(lines), value


def queries_of(config: SearchDatabase, database: OpenDatabase) -> list[Query]:
    """Texts, images, keys and vectors as unit vectors; an encoder is loaded for the first two
    only.
    """
    queries: list[Query] = []
    if config.texts or config.images:
        encoder = database.encoder
        texts = encoder.encode_prompts(config.texts, config.templates)
        images, _ = encoder.encode_images([query_image(path) for path in config.images])
        queries += [Query(text, vector) for text, vector in zip(config.texts, texts, strict=True)]
        queries += [
            Query(path_as_text(path), vector)
            for path, vector in zip(config.images, images, strict=True)
        ]
    if config.keys:
        queries += queries_by_key(config.keys, database)
    if config.vectors:
        given = given_vectors(config.vectors)
        vectors = unit_queries(
            given, database.embeddings.parameters["encoder"]["dimension"], config.vectors
        )
        file = path_as_text(config.vectors)
        names = [f"{file}[{i}]" for i in range(len(vectors))] if given.ndim > 1 else [file]
        queries += [Query(name, vector) for name, vector in zip(names, vectors, strict=True)]
    return queries


def given_vectors(path: Path) -> np.ndarray:
    """The array in a file. Raises RequestError when it is none."""
    try:
        return open_array(path)
    except FormatError as error:
        raise RequestError(path, error.what, "Give a file that numpy.save wrote.") from error


def queries_by_key(keys: Sequence[str], database: OpenDatabase) -> list[Query]:
    """Rows of the database as queries. Raises RequestError for a key that it does not hold."""
    columns = read_columns(database.embeddings, ["key", "source_key"])
    rows = {key: row for row, key in enumerate(columns["key"].to_pylist())}
    if absent := [key for key in keys if key not in rows]:
        name = database.embeddings.name
        cure = f"Keys: rdm query 'SELECT key FROM embeddings.\"{name}\" LIMIT 10'"
        raise RequestError(f"embeddings/{name}", f"there is no key {absent[0]!r}", cure)
    places = np.asarray([rows[key] for key in keys])
    sources = columns["source_key"].to_pylist()
    crops, name = Counter(sources), database.embeddings.name
    vectors = unit_queries(
        database.retrieval.vectors(places),
        database.embeddings.parameters["encoder"]["dimension"],
        name,
    )
    return [
        Query(key, vector, sources[row], crops[sources[row]])
        for key, row, vector in zip(keys, places, vectors, strict=True)
    ]


def found_rows(
    database: OpenDatabase, queries: Sequence[Query], k: int, exact: bool
) -> list[list[dict[str, Any]]]:
    """The k nearest rows of each query, nearest first: score, key, captions, licence, author and
    source url.
    """
    searcher, vectors = database.retrieval.searcher, np.stack([query.vector for query in queries])
    wanted = min(k + max(query.crops for query in queries), len(searcher.vectors))
    rows, scores = (
        search_exact(vectors, searcher.vectors, wanted)
        if exact
        else searcher.search(vectors, wanted)
    )
    unique = np.unique(rows[rows != NO_ROW]).tolist()
    credits = dict(zip(unique, database.credits(unique), strict=True))
    found = []
    for query, near, at in zip(queries, rows.tolist(), scores.tolist(), strict=True):
        present = [(row, score) for row, score in zip(near, at, strict=True) if row != NO_ROW]
        others = [
            (row, score)
            for row, score in present
            if query.source is None or credits[row]["source_key"] != query.source
        ]
        found.append([hit_of(row, score, credits[row]) for row, score in others[:k]])
    return found


def hit_of(row: int, score: float, credit: dict[str, Any]) -> dict[str, Any]:
    """What is told of a row that was found."""
    return {"score": round(score, 5), "row": row, **{name: credit[name] for name in CREDIT}}


def answers_of(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row an answer: the query, the answer's rank from 1, and what is told of it."""
    rows = []
    for query in found:
        for rank, hit in enumerate(query["found"], start=1):
            rows.append({"query": query["query"], "rank": rank, **hit})
    return rows


def write_sheet(
    path: Path, database: OpenDatabase, found: Sequence[dict[str, Any]], title: str = "Found"
) -> None:
    """A line of pictures a query, nearest first, with scores and credits: complete as .html, cut to
    a cell's width as .png.
    """
    pictures = database.images([hit["key"] for query in found for hit in query["found"]])
    page = (
        as_bytes(sheet_html(database, found, pictures, title))
        if path.suffix == ".html"
        else sheet_png(found, pictures)
    )
    write_bytes(path, page)


def sheet_png(found: Sequence[dict[str, Any]], pictures: dict[str, bytes]) -> bytes:
    """Pictures with score, licence and author; white where an image is no longer at hand."""
    white = np.full((CELL_PIXELS, CELL_PIXELS, 3), 255, dtype=np.uint8)
    most = max(len(query["found"]) for query in found)
    cells: list[np.ndarray] = []
    for query in found:
        for hit in query["found"]:
            picture = fitted(decode(pictures[hit["key"]])) if hit["key"] in pictures else white
            credit = (hit["licence"] or "licence not stated", hit["author"] or "author not stated")
            cells.append(labelled(picture, (f"{hit['score']:.3f}", *credit)))
        cells += [white] * (most - len(query["found"]))
    return encode(grid(cells, columns=most), "png")


def sheet_html(
    database: OpenDatabase, found: Sequence[dict[str, Any]], pictures: dict[str, bytes], title: str
) -> Html:
    """Pictures with their scores, and below each query the credit of every one."""
    embeddings = database.embeddings
    facts = (
        f"Database {embeddings.name} ({embeddings.rows:,} rows), "
        f"encoder {encoder_text(embeddings)}. "
        "Scores are cosines, to within 0.0005: rows are stored as float16."
    )
    parts: list[Html] = []
    for query in found:
        cells = []
        for hit in query["found"]:
            data = pictures.get(hit["key"])
            alt = (hit["captions"] or [hit["key"]])[0]
            cells.append(
                element(
                    "div",
                    thumbnail(data, alt) if data else note("not at hand"),
                    number(hit["score"], 3),
                )
            )
        head = ["Key", "Score", "Caption", "Licence", "Author", "Source"]
        credits = [
            [
                hit["key"],
                number(hit["score"], 3),
                " · ".join(hit["captions"][:1]),
                hit["licence"] or "not stated",
                hit["author"] or "not stated",
                hit["source_url"] or "not stated",
            ]
            for hit in query["found"]
        ]
        listed = table("Who made them", head, credits)
        parts += [element("h2", query["query"]), element("div", *cells, class_="row"), listed]
    return document(f"{title} in {embeddings.name}", element("h1", title), note(facts), *parts)


def _lines(query: dict[str, Any]) -> list[str]:
    lines = [on_one_line(query["query"])]
    for hit in query["found"]:
        credit = " · ".join(
            [hit["licence"] or "licence not stated", hit["author"] or "author not stated"]
        )
        told = f"{hit['key']:<32} {credit}  {(hit['captions'] or [''])[0][:60]}"
        lines.append(f"  {hit['score']:.4f}  {on_one_line(told)}")
    return lines
