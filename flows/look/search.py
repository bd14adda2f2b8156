"""The rows of a database that are nearest to a text, an image, a row of its own or a vector, with
their scores and credits.
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
from rdm_core.search import NO_ROW, unit_queries
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
    """Of a query that is a row of the database: its image, whose crops are left out."""
    crops: int = 0
    """How many rows of the database are crops of that image."""


def search(config: SearchDatabase) -> Result:
    """Search for every query of the request. Returns lines for a person and the same for a machine;
    writes a table or a contact sheet if the request names a file.

    Raises RequestError or a StorageError for a query that cannot be used.
    """
    database = searchable(config.root, open_artifact(config.root, "embeddings", config.database))
    # First, so that a wrong condition waits for no encoder.
    database = database.only_where(config.where, config.k)
    queries = queries_of(config, database)
    answers, lines, hits_in_all = [], [], 0
    for query, hits in zip(
        queries, nearest_rows(database, queries, config.k, config.exact), strict=True
    ):
        answer = {"query": query.name, "found": hits}
        answers.append(answer)
        lines += _lines(answer)
        hits_in_all += len(hits)
    value: dict[str, Any] = {"database": database.embeddings.reference}
    value |= {"of": of_what(database.embeddings), "queries": answers}
    if config.where:
        value |= {"where": config.where, "where_rows": database.retrieval.candidates}
    if config.out and config.out.suffix in TABLES:
        save_rows(config.out, table_rows(answers), SEARCH_ROWS)
        value["out"] = str(config.out)
        lines.append(f"table: {config.out}")
    elif config.out and hits_in_all:
        write_sheet(config.out, database, answers)
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
    # Texts and images need the encoder, which takes the longest to load.
    if config.texts or config.images:
        encoder = database.encoder
        names, pictures = [], []
        texts = encoder.encode_prompts(config.texts, config.templates)
        for path in config.images:
            names.append(path_as_text(path))
            pictures.append(query_image(path))
        images, _ = encoder.encode_images(pictures)
        queries += named_queries(config.texts, texts)
        queries += named_queries(names, images)
    # Keys and vectors are vectors already.
    if config.keys:
        queries += queries_by_key(config.keys, database)
    if config.vectors:
        queries += queries_in_file(config.vectors, database)
    return queries


def queries_in_file(path: Path, database: OpenDatabase) -> list[Query]:
    """One query for a vector [D], or one for each of vectors [N, D]."""
    array = read_array(path)
    vectors = unit_queries(array, database.embeddings.parameters["encoder"]["dimension"], path)
    file = path_as_text(path)
    if array.ndim <= 1:
        return named_queries([file], vectors)
    return named_queries([f"{file}[{place}]" for place in range(len(vectors))], vectors)


def named_queries(names: Sequence[str], vectors: np.ndarray) -> list[Query]:
    """A query for each of N names and of vectors [N, D]."""
    queries = []
    for name, vector in zip(names, vectors, strict=True):
        queries.append(Query(name, vector))
    return queries


def read_array(path: Path) -> np.ndarray:
    """The array in a file. Raises RequestError when the file holds none."""
    try:
        return open_array(path)
    except FormatError as error:
        raise RequestError(path, error.what, "Give a file that numpy.save wrote.") from error


def queries_by_key(keys: Sequence[str], database: OpenDatabase) -> list[Query]:
    """Rows of the database as queries. Raises RequestError for a key that it does not hold."""
    columns = read_columns(database.embeddings, ["key", "source_key"])
    rows = {key: row for row, key in enumerate(columns["key"].to_pylist())}
    name = database.embeddings.name
    for key in keys:
        if key not in rows:
            cure = f"Keys: rdm query 'SELECT key FROM embeddings.\"{name}\" LIMIT 10'"
            raise RequestError(f"embeddings/{name}", f"there is no key {key!r}", cure)
    places = np.asarray([rows[key] for key in keys])
    sources = columns["source_key"].to_pylist()
    crops = Counter(sources)  # how many rows each image has
    vectors = unit_queries(
        database.retrieval.vectors(places),
        database.embeddings.parameters["encoder"]["dimension"],
        name,
    )
    queries = []
    for key, row, vector in zip(keys, places, vectors, strict=True):
        queries.append(Query(key, vector, sources[row], crops[sources[row]]))
    return queries


def nearest_rows(
    database: OpenDatabase, queries: Sequence[Query], k: int, exact: bool
) -> list[list[dict[str, Any]]]:
    """The k nearest rows of each query, nearest first: score, key, captions, licence, author and
    source url.
    """
    searcher, vectors = database.retrieval.searcher, np.stack([query.vector for query in queries])
    # A query that is a row of the database finds the crops of its own image, which are left out:
    # so many more rows are searched for.
    most_crops = max(query.crops for query in queries)
    wanted = min(k + most_crops, searcher.candidates)
    search = searcher.search_all if exact else searcher.search
    rows, scores = search(vectors, wanted)
    # Credits are read at once for all queries: rows of one part often answer several of them.
    unique = np.unique(rows[rows != NO_ROW]).tolist()
    credits = dict(zip(unique, database.credits(unique), strict=True))
    hits_of_queries = []
    for query, its_rows, its_scores in zip(queries, rows.tolist(), scores.tolist(), strict=True):
        hits: list[dict[str, Any]] = []
        for row, score in zip(its_rows, its_scores, strict=True):
            if row == NO_ROW:
                continue
            is_own_crop = query.source is not None and credits[row]["source_key"] == query.source
            if not is_own_crop and len(hits) < k:
                hits.append(hit_of(row, score, credits[row]))
        hits_of_queries.append(hits)
    return hits_of_queries


def hit_of(row: int, score: float, credit: dict[str, Any]) -> dict[str, Any]:
    """One row of an answer: its score, its number, and its credit."""
    return {"score": round(score, 5), "row": row, **{name: credit[name] for name in CREDIT}}


def table_rows(answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a hit: the query, the rank of the hit from 1, and the hit."""
    rows = []
    for answer in answers:
        for rank, hit in enumerate(answer["found"], start=1):
            rows.append({"query": answer["query"], "rank": rank, **hit})
    return rows


def write_sheet(
    path: Path, database: OpenDatabase, answers: Sequence[dict[str, Any]], title: str = "Found"
) -> None:
    """A line of pictures a query, nearest first, with scores and credits: complete as .html, cut to
    a cell's width as .png.
    """
    keys: list[str] = []
    for answer in answers:
        for hit in answer["found"]:
            keys.append(hit["key"])
    # All pictures are read at once, each part of the shards no more than once.
    pictures = database.images(keys)
    if path.suffix == ".html":
        page = as_bytes(sheet_html(database, answers, pictures, title))
    else:
        page = sheet_png(answers, pictures)
    write_bytes(path, page)


def sheet_png(answers: Sequence[dict[str, Any]], pictures: dict[str, bytes]) -> bytes:
    """Pictures with score, licence and author; white where an image is no longer at hand."""
    white = np.full((CELL_PIXELS, CELL_PIXELS, 3), 255, dtype=np.uint8)
    most = max(len(answer["found"]) for answer in answers)
    cells: list[np.ndarray] = []
    for answer in answers:
        for hit in answer["found"]:
            picture = fitted(decode(pictures[hit["key"]])) if hit["key"] in pictures else white
            credit = (hit["licence"] or "licence not stated", hit["author"] or "author not stated")
            cells.append(labelled(picture, (f"{hit['score']:.3f}", *credit)))
        # White cells fill up a shorter line, so that the next query begins a new one.
        cells += [white] * (most - len(answer["found"]))
    return encode(grid(cells, columns=most), "png")


def sheet_html(
    database: OpenDatabase,
    answers: Sequence[dict[str, Any]],
    pictures: dict[str, bytes],
    title: str,
) -> Html:
    """Pictures with their scores, and below each query the credit of every one."""
    embeddings = database.embeddings
    facts = (
        f"Database {embeddings.name} ({embeddings.rows:,} rows), "
        f"encoder {encoder_text(embeddings)}. "
        "Scores are cosines, to within 0.0005: rows are stored as float16."
    )
    head = ["Key", "Score", "Caption", "Licence", "Author", "Source"]
    parts: list[Html] = []
    for answer in answers:
        # A row of pictures, and below it a table with a line a picture.
        cells, credits = [], []
        for hit in answer["found"]:
            data = pictures.get(hit["key"])
            alt = (hit["captions"] or [hit["key"]])[0]
            cells.append(
                element(
                    "div",
                    thumbnail(data, alt) if data else note("not at hand"),
                    number(hit["score"], 3),
                )
            )
            caption = " · ".join(hit["captions"][:1])
            stated = [hit[name] or "not stated" for name in ("licence", "author", "source_url")]
            credits.append([hit["key"], number(hit["score"], 3), caption, *stated])
        listed = table("Who made them", head, credits)
        parts += [element("h2", answer["query"]), element("div", *cells, class_="row"), listed]
    return document(f"{title} in {embeddings.name}", element("h1", title), note(facts), *parts)


def _lines(answer: dict[str, Any]) -> list[str]:
    lines = [on_one_line(answer["query"])]
    for hit in answer["found"]:
        licence = hit["licence"] or "licence not stated"
        author = hit["author"] or "author not stated"
        caption = hit["captions"][0][:60] if hit["captions"] else ""
        line = on_one_line(f"{hit['key']:<32} {licence} · {author}  {caption}")
        lines.append(f"  {hit['score']:.4f}  {line}")
    return lines
