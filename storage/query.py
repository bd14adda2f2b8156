"""SQL over everything that was built, by DuckDB: every kind of artifact is a view, and nothing can be written.

The views cost nothing until a query names them. The same Parquet files open without this module too: docs/analysis.md.
"""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from storage.artifact import Artifact, artifacts, is_current
from storage.errors import StorageError
from storage.runs import METRICS_FILE, read_metrics

PARQUET_KINDS = ("shards", "embeddings", "neighbors", "latents", "samples")
"""Kinds whose parts are Parquet tables; runs are their metrics, evaluations one JSON each."""
VIEWS = (*PARQUET_KINDS, "runs", "evaluations", "artifacts")


class QueryError(StorageError):
    """A query that DuckDB refuses, or that is more than a reading one."""


class Query:
    """What a query gave: a table that can be printed, listed and saved."""

    def __init__(self, table: pa.Table, text: str) -> None:
        self.table = table
        self.text = text
        """As DuckDB prints it: long results and wide columns shortened, with their counts."""

    def rows(self) -> list[dict[str, Any]]:
        """Every row."""
        return self.table.to_pylist()

    def save(self, path: Path) -> None:
        """Write every row to a .parquet, .csv or .json file. Raises QueryError for another ending."""
        writers: dict[str, Callable[[], None]] = {
            ".parquet": lambda: pq.write_table(self.table, path),
            ".csv": lambda: _write_csv(path, self.table),
            ".json": lambda: _write_json(path, self.rows()),
        }
        if path.suffix not in writers:
            raise QueryError(path, f"its ending is none of {', '.join(writers)}", "Give the file one of these endings.")
        writers[path.suffix]()


def query(root: Path, sql: str) -> Query:
    """Run one reading statement over the views of a root.

    `shards`, `embeddings`, `neighbors`, `latents`, `samples`, `runs` (a row a logged step) and `evaluations` hold the
    current version of every name, told apart by the column `artifact`; `embeddings."coco"` is one name alone and
    `embeddings."coco@0123456789ab"` one version of it; `artifacts` has a row for every version.

    Raises QueryError for anything but one statement that reads, and for what DuckDB does not understand.
    """
    connection = duckdb.connect(":memory:")
    try:
        _check_reads(connection, sql)
        files = _create_views(connection, root, sql)
        connection.execute(f"SET allowed_paths = {_sql([str(path) for path in files])}")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        found = connection.sql(sql)
        if found is None:
            raise QueryError("query", "it gives no table", "Write a SELECT.")
        table = found.to_arrow_table()
        return Query(table, str(connection.from_arrow(table)).rstrip())
    except duckdb.Error as error:
        raise QueryError("query", _told(error), f"Views: {', '.join(VIEWS)}; columns: DESCRIBE embeddings.") from error
    finally:
        connection.close()


def _check_reads(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    statements = connection.extract_statements(sql)
    kinds = [statement.type.name for statement in statements]
    if kinds not in (["SELECT"], ["EXPLAIN"]):
        given = f"it is {' and '.join(kinds)}" if kinds else "it is empty"
        raise QueryError("query", f"{given}, where one SELECT is allowed", "Artifacts never change; read them with one SELECT.")


def _create_views(connection: duckdb.DuckDBPyConnection, root: Path, sql: str) -> list[Path]:
    """Make the views whose names occur in the query, and return the files that they read."""
    files: list[Path] = []
    every, lower = artifacts(root), sql.lower()
    current = {artifact.reference for artifact in every if is_current(root, artifact)}
    rows = [_artifact_row(artifact, current) for artifact in every]
    connection.register("artifacts", pa.Table.from_pylist(rows, pa.schema(_ARTIFACT_COLUMNS)))
    for kind in (kind for kind in VIEWS[:-1] if kind in lower):
        connection.execute(f"CREATE SCHEMA {kind}")
        selects = []
        for artifact in (a for a in every if a.kind == kind):
            names = [f"{artifact.name}@{artifact.id}"]
            names += [artifact.name] * (artifact.reference in current)
            mentioned = [name for name in names if f'{kind}."{name}"'.lower() in lower or f"{kind}.{name}".lower() in lower]
            if artifact.reference not in current and not mentioned:
                continue
            select, read = _select(connection, artifact)
            files += read
            for name in mentioned:
                connection.execute(f'CREATE VIEW {kind}."{name}" AS {select}')
            if artifact.reference in current:
                selects.append(f"SELECT '{artifact.name}' AS artifact, * FROM ({select})")
        if selects:
            connection.execute(f"CREATE VIEW main.{kind} AS {' UNION ALL BY NAME '.join(selects)}")
    return files


def _select(connection: duckdb.DuckDBPyConnection, artifact: Artifact) -> tuple[str, list[Path]]:
    """SQL that reads one artifact, and the files it needs."""
    if artifact.kind in PARQUET_KINDS:
        files = artifact.files(".parquet")
        return f"SELECT * FROM read_parquet({_sql([str(path) for path in files])})", files
    if artifact.kind == "runs":
        metrics = artifact.file(METRICS_FILE)
        logged = read_metrics(metrics) if metrics.is_file() else []
        table = pa.Table.from_pylist(logged) if logged else pa.table({"step": pa.array([], pa.int64())})
    else:
        table = pa.table({"evaluation": [artifact.files(".json")[0].read_text()]})
    held = f'"{artifact.kind}/{artifact.name}@{artifact.id}"'  # versions of two names may share an id
    connection.register(held.strip('"'), table)
    return f"SELECT * FROM {held}", []


_ARTIFACT_COLUMNS = (
    ("kind", pa.string()), ("name", pa.string()), ("id", pa.string()), ("version", pa.int64()), ("current", pa.bool_()),
    ("rows", pa.int64()), ("bytes", pa.int64()), ("created_at", pa.string()), ("fingerprint", pa.string()),
    *((name, pa.string()) for name in ("parameters", "inputs", "counts", "measured")),
)  # fmt: skip


def _artifact_row(artifact: Artifact, current: set[str]) -> dict[str, Any]:
    plain = ("kind", "name", "id", "version", "rows", "bytes", "created_at", "fingerprint")
    nested = ("parameters", "inputs", "counts", "measured")
    row = {name: getattr(artifact, name) for name in plain} | {"current": artifact.reference in current}
    return row | {name: json.dumps(dict(getattr(artifact, name)), default=str) for name in nested}


def _sql(texts: Sequence[str]) -> str:
    """A list of texts as an SQL literal."""
    return "[" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + "]"


def _told(error: duckdb.Error) -> str:
    return " ".join(str(error).split("\n\n")[0].split())[:400]


def _write_csv(path: Path, table: pa.Table) -> None:
    """Lists become JSON in their cell."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table.column_names)
        for row in table.to_pylist():
            writer.writerow([json.dumps(cell) if isinstance(cell, list | dict) else cell for cell in row.values()])


def _write_json(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(rows, indent=1, default=str) + "\n")
