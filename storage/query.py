"""SQL over everything that was built, by DuckDB: every kind of artifact is a view, and nothing can
be written.

The views cost nothing until a query names them. The same Parquet files open without this module
too: docs/analysis.md.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from storage.artifact import Artifact, artifacts, check, is_current
from storage.errors import StorageError, as_text
from storage.runs import METRICS_FILE, read_metrics
from storage.samples import SAMPLES
from storage.saved import finite_rows, save_table
from storage.shards import SIDECAR
from storage.views import pictures, removed, seen, sql_list

PARQUET_KINDS = ("shards", "embeddings", "neighbors", "latents", "samples")
"""Kinds whose parts are Parquet tables; evaluations are one JSON each."""
METRIC_KINDS = ("autoencoders", "runs")
"""Kinds that are the metrics of their training."""
KINDS_SHOWN = (*PARQUET_KINDS, *METRIC_KINDS, "evaluations")
VIEWS = (*KINDS_SHOWN, "artifacts", "pictures", "removed", "seen")
_NO_TABLE = re.compile(rf"Table with name ({'|'.join(KINDS_SHOWN)}) does not exist", re.IGNORECASE)


class QueryError(StorageError):
    """A query that DuckDB refuses, or that is more than a reading one."""


class QueryResult:
    """What a query gave: a table that can be printed, listed and saved."""

    def __init__(self, table: pa.Table, text: str) -> None:
        self.table = table.rename_columns(_distinct(table.column_names))
        self.text = text
        """As DuckDB prints it: long results and wide columns shortened, with their counts."""

    def rows(self) -> list[dict[str, Any]]:
        """Every row; NaN and infinity, which JSON has no words for, are None."""
        return finite_rows(self.table)

    def save(self, path: Path) -> None:
        """Write every row to a .parquet, .csv or .json file. Raises StorageError as `save_table`
        does.
        """
        save_table(path, self.table)


def query(root: Path, sql: str) -> QueryResult:
    """Run one reading statement over the views of a root.

    `shards`, `embeddings`, `neighbors`, `latents`, `samples`, `runs` and `autoencoders` (a row a
    logged step) and `evaluations` hold the current version of every name, told apart by the column
    `artifact`;
    `embeddings."coco"` is one name alone and `embeddings."coco@0123456789ab"` one version of it;
    `artifacts` has a row for every version. `pictures` says where in its tar each stored image
    lies, `removed` what was taken out of each database, `seen` what every version of every run was
    trained with. Of names that differ by case alone, one is meant when it is written as it is.

    Raises QueryError for anything but one SELECT, and for what DuckDB does not understand;
    ArtifactDamaged where a file of what is asked for is absent or short.
    """
    if as_text(sql) != sql:
        raise QueryError("query", f"{sql} is not UTF-8", "Write it in UTF-8.")
    connection = duckdb.connect(":memory:")
    try:
        _check_reads(connection, sql)
        sql, files = _create_views(connection, root, sql)
        # From here on the query may open the files of its views and no others, and cannot undo
        # that: the configuration is locked last.
        connection.execute(f"SET allowed_paths = {sql_list(files)}")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        relation = connection.sql(sql)
        if relation is None:
            raise QueryError("query", "it gives no table", "Write a SELECT.")
        table = relation.to_arrow_table()
        return QueryResult(table, str(connection.from_arrow(table)).rstrip())
    except duckdb.Error as error:
        no_table = _NO_TABLE.search(str(error))
        if no_table:
            what = f"nothing of kind {no_table[1].lower()} has been built under {root} yet"
            cure = "Build one, or ask `artifacts` for what is there."
        else:
            what = _first_paragraph(error)
            cure = f"Views: {', '.join(VIEWS)}; columns: DESCRIBE embeddings."
        raise QueryError("query", what, cure) from error
    finally:
        connection.close()


def _check_reads(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    statements = connection.extract_statements(sql)
    kinds = [statement.type.name for statement in statements]
    if kinds != ["SELECT"]:  # EXPLAIN ANALYZE would run what it explains
        what = f"it is {' and '.join(kinds)}" if kinds else "it is empty"
        raise QueryError(
            "query",
            f"{what}, where one SELECT is allowed",
            "Artifacts never change; read them with one SELECT.",
        )


def _create_views(
    connection: duckdb.DuckDBPyConnection, root: Path, sql: str
) -> tuple[str, list[Path]]:
    """Make the views whose names occur in the query.

    Returns the query with these names as the views have them, and the files that they read.
    """
    every, outside = artifacts(root), _without_texts(sql)
    in_use = [artifact for artifact in every if is_current(root, artifact)]
    current = {artifact.reference for artifact in in_use}
    rows = [_artifact_row(artifact, current) for artifact in every]
    connection.register("artifacts", pa.Table.from_pylist(rows, pa.schema(_ARTIFACT_COLUMNS)))
    files = _create_other_views(connection, root, outside.lower(), in_use)
    for kind in KINDS_SHOWN:
        if kind in outside.lower():
            of_kind = [artifact for artifact in every if artifact.kind == kind]
            meant = _mentioned(kind, outside, of_kind, current)
            files += _create_views_of_kind(connection, kind, outside, of_kind, meant, current)
            sql = _with_view_names(kind, sql, meant)
    return sql, files


def _create_views_of_kind(
    connection: duckdb.DuckDBPyConnection,
    kind: str,
    outside: str,
    of_kind: Sequence[Artifact],
    meant: Mapping[str, Artifact],
    current: set[str],
) -> list[Path]:
    """Make the view of a whole kind, where the query names it, and those of single artifacts.

    Returns the files that they read.
    """
    connection.execute(f"CREATE SCHEMA {kind}")
    # The kind without a dot after it means all of the kind: shards, but not shards."one".
    all_of_kind = re.search(rf'\b{kind}\b(?!"?\s*\.)', outside, re.IGNORECASE) is not None
    selects, files = [], []
    for artifact in of_kind:
        names = [name for name in meant if meant[name] is artifact]
        in_union = all_of_kind and artifact.reference in current
        if not in_union and not names:
            continue
        check(artifact, hashes=False)
        select, read = _select(connection, artifact)
        files += read
        for name in names:
            connection.execute(f'CREATE VIEW {kind}."{_view_name(name, meant)}" AS {select}')
        if in_union:
            selects.append(f"SELECT '{artifact.name}' AS artifact, * FROM ({select})")
    if selects:
        connection.execute(f"CREATE VIEW main.{kind} AS {' UNION ALL BY NAME '.join(selects)}")
    elif all_of_kind and kind in _COLUMNS:
        # Nothing of the kind is there: an empty table is an answer too.
        columns = pa.schema([("artifact", pa.string()), *_COLUMNS[kind]])
        connection.register(kind, columns.empty_table())
    return files


def _mention(kind: str) -> re.Pattern[str]:
    """Matches shards."one", shards.one and "shards"."one", in whatever case the kind is written.

    Groups: the kind with its dot, the name in quotes, the name without quotes.
    """
    return re.compile(rf'(\b{kind}"?\s*\.\s*)(?:"([^"]+)"|(\w+))', re.IGNORECASE)


def _mentioned(
    kind: str, outside: str, of_kind: Sequence[Artifact], current: set[str]
) -> dict[str, Artifact]:
    """Name as it is written in the query -> the artifact that is meant; what is no artifact's name
    is left out.

    Names are those of artifacts in any case, as SQL has it, unless they differ by case alone.
    Raises QueryError where one is written as none of them is.
    """
    named = {}
    for artifact in of_kind:
        named[f"{artifact.name}@{artifact.id}"] = artifact
        if artifact.reference in current:
            named[artifact.name] = artifact
    meant: dict[str, Artifact] = {}
    for _, quoted, plain in _mention(kind).findall(outside):
        written = quoted or plain
        alike = _in_any_case(written, named)
        if written in named:
            meant[written] = named[written]
        elif len(alike) > 1:
            what = f"{kind}.{written} may be {' or '.join(alike)}, which differ by case alone"
            raise QueryError("query", what, f'Write one as it is: {kind}."{alike[0]}".')
        elif alike and not _in_any_case(written, meant):
            meant[alike[0]] = named[alike[0]]
    return meant


def _in_any_case(name: str, names: Iterable[str]) -> list[str]:
    """Those of the names that equal this one but for upper and lower case, sorted."""
    return sorted(other for other in names if other.lower() == name.lower())


def _view_name(name: str, meant: Mapping[str, Artifact]) -> str:
    """The name itself; numbered where another name in the query differs by case alone, which DuckDB
    does not tell apart.
    """
    alike = _in_any_case(name, meant)
    return f"{name}~{alike.index(name)}" if len(alike) > 1 else name


def _with_view_names(kind: str, sql: str, meant: Mapping[str, Artifact]) -> str:
    """The query with every name that has a numbered view replaced by that; strings and comments
    stay.
    """
    renamed = {}
    for name in meant:
        view_name = _view_name(name, meant)
        if view_name != name:
            renamed[name] = view_name
    if not renamed:
        return sql

    def replaced(match: re.Match[str]) -> str:
        written = match[2] or match[3]
        return f'{match[1]}"{renamed[written]}"' if written in renamed else match[0]

    statement = ""
    for is_text, piece in _pieces(sql):
        statement += piece if is_text else _mention(kind).sub(replaced, piece)
    return statement


def _create_other_views(
    connection: duckdb.DuckDBPyConnection, root: Path, lower: str, in_use: Sequence[Artifact]
) -> list[Path]:
    """Those of `storage.views` whose names occur in the query, and the files that they read."""
    if re.search(r"\bpictures\b", lower):
        connection.register("pictures", pictures([a for a in in_use if a.kind == "shards"]))
    if re.search(r"\bremoved\b", lower):
        connection.register("removed", removed(root))
    if not re.search(r"\bseen\b", lower):
        return []
    select, files = seen(root)
    connection.execute(f"CREATE VIEW main.seen AS {select}")
    return files


def _without_texts(sql: str) -> str:
    """A statement without its strings and comments, whose words name no view."""
    outside = ""
    for is_text, piece in _pieces(sql):
        outside += " " if is_text else piece
    return outside


def _pieces(sql: str) -> list[tuple[bool, str]]:
    """A statement cut into its strings and comments (True) and what stands between them."""
    data, tokens = sql.encode(), duckdb.tokenize(sql)  # offsets count bytes
    # A token says where it starts; it reaches to where the next one starts.
    ends = [start for start, _ in tokens[1:]] + [len(data)]
    pieces: list[tuple[bool, str]] = []
    for (start, kind), end in zip(tokens, ends, strict=True):
        is_text = kind in (duckdb.token_type.string_const, duckdb.token_type.comment)
        piece = data[start:end].decode()
        if pieces and pieces[-1][0] == is_text:  # neighbors of one sort become one piece
            piece = pieces.pop()[1] + piece
        pieces.append((is_text, piece))
    return pieces


def _select(connection: duckdb.DuckDBPyConnection, artifact: Artifact) -> tuple[str, list[Path]]:
    """SQL that reads one artifact, and the files it needs."""
    if artifact.kind in PARQUET_KINDS:
        files = artifact.files(".parquet")
        return f"SELECT * FROM read_parquet({sql_list(files)})", files
    if artifact.kind in METRIC_KINDS:
        metrics = artifact.file(METRICS_FILE)
        logged = read_metrics(metrics) if metrics.is_file() else []
        table = (
            pa.Table.from_pylist(logged) if logged else pa.table({"step": pa.array([], pa.int64())})
        )
    else:
        table = pa.table({"evaluation": [artifact.files(".json")[0].read_text(encoding="utf-8")]})
    # The reference, as versions of two names may share an id.
    connection.register(artifact.reference, table)
    return f'SELECT * FROM "{artifact.reference}"', []


_COLUMNS = {
    "shards": SIDECAR,
    "samples": SAMPLES,
    "autoencoders": pa.schema([("step", pa.int64())]),
    "runs": pa.schema([("step", pa.int64())]),
    "evaluations": pa.schema([("evaluation", pa.string())]),
}
"""Kinds whose columns are known before one is there; the others' depend on what is built."""
_ARTIFACT_COLUMNS = (
    ("kind", pa.string()), ("name", pa.string()), ("id", pa.string()),
    ("version", pa.int64()), ("current", pa.bool_()),
    ("rows", pa.int64()), ("bytes", pa.int64()),
    ("created_at", pa.string()), ("fingerprint", pa.string()),
    ("parameters", pa.string()), ("inputs", pa.string()),
    ("counts", pa.string()), ("measured", pa.string()),
)  # fmt: skip


def _artifact_row(artifact: Artifact, current: set[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"current": artifact.reference in current}
    for name, _ in _ARTIFACT_COLUMNS:
        if name in ("parameters", "inputs", "counts", "measured"):  # mappings: JSON in their cell
            row[name] = json.dumps(dict(getattr(artifact, name)), default=str)
        elif name != "current":
            row[name] = getattr(artifact, name)
    return row


def _first_paragraph(error: duckdb.Error) -> str:
    """What an error says first, on one line; spaces stay, as a path may hold several."""
    first = str(error).partition("\n\n")[0]
    return re.sub(r"\s*\n\s*", " ", first).strip()[:400]


def _distinct(names: Sequence[str]) -> list[str]:
    """key, key -> key, key_1, as DuckDB prints them: a row is a dict by its columns' names."""
    distinct: list[str] = []
    for name in names:
        candidate, number = name, 0
        while candidate in distinct:
            number += 1
            candidate = f"{name}_{number}"
        distinct.append(candidate)
    return distinct
