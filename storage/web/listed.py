"""Lists of addresses that users bring: CSV, Parquet or JSON lines, read row by row, however long.

The columns url, caption, licence and author go by several names; others may be given.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from storage.errors import SourceError
from storage.sources.disk import check_metadata
from storage.sources.tables import records
from storage.text import encoding_of
from storage.web.collection import ListedImage

NAMES: dict[str, tuple[str, ...]] = {
    "url": ("url", "image_url", "imageurl", "image", "link"),
    "captions": ("caption", "captions", "text", "title", "description", "alt"),
    "licence": ("licence", "license", "licence_url", "license_url"),
    "author": ("author", "creator", "photographer", "artist", "owner"),
    "source_url": ("source_url", "page", "page_url", "landing_page", "originallandingurl"),
    "style": ("style",),
    "labels": ("label", "labels", "tags"),
}
"""What is known of an image -> names of its column, in small letters, the likeliest first."""
JSON = (".jsonl", ".ndjson")
ROWS_AT_ONCE = 10_000
MOST_LINE = 2**20
"""Bytes of a line of JSON."""
CURE = "Give a .csv, .parquet or .jsonl file with a column url."


def read_list(path: Path, columns: Mapping[str, str], notes: Counter[str]) -> Iterator[ListedImage]:
    """The rows of a list, in its order, a few thousand in memory at a time.

    columns: what is known -> the name of its column, where it is called otherwise than in NAMES.
    notes: counts of rows that cannot be read, or have no address. Raises SourceError for a file
    that is no list, or lacks a column.
    """
    check_columns(columns)
    kind = path.suffix.lower()
    if kind == ".parquet":
        rows = _parquet_rows(path, columns)
    elif kind in JSON:
        rows = _json_rows(path, notes)
    elif kind in (".csv", ".tsv", ".txt"):
        rows = _csv_rows(path, notes, "\t" if kind == ".tsv" else ",")
    else:
        raise SourceError(path, f"is no list that is known by its ending {kind!r}", CURE)
    places: dict[str, str] = {}
    keys: tuple[str, ...] | None = None
    for row in rows:
        # Rows of JSON may each name other things; the first one must name the address.
        if keys is None:
            places = _places(path, list(row), columns)
        elif tuple(row) != keys:
            places = {known: name for known, name in columns.items() if name in row}
            places = _usual_places(row, places) | places
        keys = tuple(row)
        image = _image_of(row, places) if "url" in places else None
        if image is None:
            notes["rows_without_an_address"] += 1
        else:
            yield image
    if keys is None:
        raise SourceError(path, "holds no row", CURE)


def check_columns(columns: Mapping[str, str]) -> None:
    """Raise ValueError for the name of something that lists do not say."""
    unknown = sorted(set(columns) - set(NAMES))
    if unknown:
        raise ValueError(f"columns: {', '.join(unknown)} is none of {', '.join(NAMES)}")


def _places(path: Path, header: list[str], columns: Mapping[str, str]) -> dict[str, str]:
    """What is known -> the name of its column in this list."""
    for known, name in columns.items():
        if name not in header and path.suffix.lower() not in JSON:
            what = f"has no column {name!r}; it has {', '.join(header[:20])}"
            raise SourceError(path, what, f"Name the one of the {known}.")
    given = {known: name for known, name in columns.items() if name in header}
    places = _usual_places(header, given) | given
    if "url" not in places:
        what = f"has no column of addresses; it has {', '.join(header[:20]) or 'none'}"
        raise SourceError(path, what, 'Name it: --set columns=\'{"url": "NAME"}\'.')
    return places


def _usual_places(header: Iterable[str], given: Mapping[str, str]) -> dict[str, str]:
    """What is known and not given -> the likeliest name of its column, if there is one."""
    by_small = {name.strip().lower(): name for name in reversed(list(header))}
    places = {}
    for known, names in NAMES.items():
        found = [by_small[name] for name in names if name in by_small]
        if found and known not in given:
            places[known] = found[0]
    return places


def _image_of(row: Mapping[str, Any], places: Mapping[str, str]) -> ListedImage | None:
    url = _texts(row.get(places["url"]))
    if not url:
        return None
    known: dict[str, Any] = {}
    for name in ("captions", "labels"):
        known[name] = _texts(row.get(places[name])) if name in places else ()
    for name in ("licence", "author", "source_url", "style"):
        found = _texts(row.get(places[name])) if name in places else ()
        known[name] = found[0] if found else None
    return ListedImage(url[0], **known)


def _texts(value: Any) -> tuple[str, ...]:
    """A cell as texts: none for nothing, several for a list of them."""
    values = value if isinstance(value, list | tuple) else [value]
    texts = []
    for each in values:
        text = "" if each is None or each != each else str(each).strip()
        if text:
            # What is no Unicode (half a letter, a byte that is no UTF-8) could not be stored.
            texts.append(text.encode("utf-8", "backslashreplace").decode("utf-8"))
    return tuple(texts)


def _parquet_rows(path: Path, columns: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            # The others may hold the images themselves.
            places = _places(path, file.schema_arrow.names, columns)
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=sorted(set(places.values()))):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise SourceError(path, f"is no Parquet file that can be read: {error}", CURE) from error


def _json_rows(path: Path, notes: Counter[str]) -> Iterator[dict[str, Any]]:
    check_metadata(path, CURE)
    with path.open("rb") as file:
        while line := file.readline(MOST_LINE):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield row
            else:
                notes["rows_that_cannot_be_read"] += 1


def _csv_rows(path: Path, notes: Counter[str], separator: str) -> Iterator[dict[str, Any]]:
    check_metadata(path, CURE)
    with path.open("rb") as file:
        encoding = encoding_of(file.read(4))
    errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
    try:
        with path.open(encoding=encoding, errors=errors, newline="\n") as file:
            header = _header(file.readline(MOST_LINE), separator)
            if separator == "\t":
                for line in file:
                    cells = line.rstrip("\r\n").split("\t")
                    if len(cells) == len(header):
                        yield dict(zip(header, cells, strict=True))
                    elif line.strip():
                        notes["rows_that_cannot_be_read"] += 1
                return
            for _, row in records(file, len(header), first=2):
                if isinstance(row, str):
                    notes["rows_that_cannot_be_read"] += 1
                elif row:
                    yield dict(zip(header, row, strict=True))
    except UnicodeDecodeError as error:
        raise SourceError(path, f"is no text: {error}", "Save it as UTF-8.") from error


def _header(line: str, separator: str) -> list[str]:
    if separator == "\t":
        return [name.strip() for name in line.rstrip("\r\n").split("\t")]
    rows = [row for _, row in records([line], line.count(",") + 1)]
    if rows and isinstance(rows[0], list):
        return [name.strip() for name in rows[0]]
    return [name.strip().strip('"') for name in line.rstrip("\r\n").split(",")]
