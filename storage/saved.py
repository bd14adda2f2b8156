"""A result as a file that other programs read: Parquet, CSV or JSON, by its ending; whole or not at
all.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.atomic import write_bytes
from storage.errors import StorageError

SEARCH_ROWS = pa.schema(
    [
        ("query", pa.string()), ("rank", pa.int64()), ("score", pa.float64()), ("row", pa.int64()),
        ("key", pa.string()), ("captions", pa.list_(pa.string())), ("licence", pa.string()),
        ("author", pa.string()), ("source_url", pa.string()),
    ]
)  # fmt: skip
"""What a search found: a row an answer, in the order of the queries and nearest first."""
COPIES = pa.schema([("key", pa.string()), ("of", pa.string()), ("score", pa.float64())])
"""Pairs of copies, the nearest first."""


def save_rows(path: Path, rows: Sequence[Mapping[str, Any]], columns: pa.Schema) -> None:
    """Write some rows, none or many. Raises StorageError as `save_table` does."""
    save_table(path, pa.Table.from_pylist([dict(row) for row in rows], schema=columns))


def save_table(path: Path, table: pa.Table) -> None:
    """Write every row. Lists become JSON in a cell of a .csv; NaN and infinity are null in .json.

    Raises StorageError for another ending, and for values that Parquet cannot hold.
    """
    writers = {".parquet": _parquet, ".csv": _csv, ".json": _json_rows}
    if path.suffix not in writers:
        endings = ", ".join(writers)
        raise StorageError(
            path, f"its ending is none of {endings}", "Give the file one of these endings."
        )
    try:
        write_bytes(path, writers[path.suffix](table))
    except pa.ArrowException as error:
        what = f"{path.suffix[1:]} cannot hold it ({error})"
        raise StorageError(path, what, "CAST the column to TEXT.") from error


def finite_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Every row; NaN and infinity, which JSON has no words for, are None.

    Raises StorageError for a date that Python has none for: before the year 1, after 9999,
    infinity.
    """
    return [_finite(row) for row in _rows(table)]


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    try:
        return table.to_pylist()
    except (OverflowError, ValueError) as error:
        raise StorageError(
            "result", f"a value cannot be read ({error})", "CAST its column to TEXT."
        ) from error


def _finite(value: Any) -> Any:
    """The value, with None for every NaN and infinity in it, however deep."""
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    # JSON has no NaN: json.dumps would write a word that other programs refuse.
    return None if isinstance(value, float) and not isfinite(value) else value


def _json_rows(table: pa.Table) -> bytes:
    return _json(finite_rows(table), indent=1).encode() + b"\n"


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, default=str)


def _parquet(table: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


def _csv(table: pa.Table) -> bytes:
    """Lists become JSON in their cell."""
    stream = io.StringIO(newline="")  # the writer ends lines by itself
    writer = csv.writer(stream)
    writer.writerow(table.column_names)
    for row in _rows(table):
        for name, cell in row.items():
            if isinstance(cell, list | dict):
                row[name] = _json(cell)
        writer.writerow(row.values())
    return stream.getvalue().encode()
