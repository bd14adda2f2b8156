"""SQL over everything that was built, by DuckDB: every kind of artifact is a view, and nothing can
be written.

The views cost nothing until a query names them. The same Parquet files open without this module
too: docs/analysis.md.
"""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import chain, count, groupby
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
from storage.views import pictures, removed, seen

PARQUET_KINDS = ("shards", "embeddings", "neighbors", "latents", "samples")
"""Kinds whose parts are Parquet tables; runs are their metrics, evaluations one JSON each."""
KINDS_SHOWN = (*PARQUET_KINDS, "runs", "evaluations")
VIEWS = (*KINDS_SHOWN, "artifacts", "pictures", "removed", "seen")


_NO_TABLE = re.compile(rf"Table with name ({'|'.join(KINDS_SHOWN)}) does not exist", re.IGNORECASE)


class QueryError(StorageError):
    """A query that DuckDB refuses, or that is more than a reading one."""


class QueryResult:
    """What a query gave: a table that can be printed, listed and saved."""

    def __init__(self, table: pa.Table, text: str) -> None:
        self.table = table.rename_columns(_told_apart(table.column_names))
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

    `shards`, `embeddings`, `neighbors`, `latents`, `samples`, `runs` (a row a logged step) and
    `evaluations` hold the current version of every name, told apart by the column `artifact`;
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
        connection.execute(f"SET allowed_paths = {_sql([str(path) for path in files])}")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        found = connection.sql(sql)
        if found is None:
            raise QueryError("query", "it gives no table", "Write a SELECT.")
        table = found.to_arrow_table()
        return QueryResult(table, str(connection.from_arrow(table)).rstrip())
    except duckdb.Error as error:
        if absent := _NO_TABLE.search(str(error)):
            what = f"nothing of kind {absent[1].lower()} has been built under {root} yet"
            raise QueryError(
                "query", what, "Build one, or ask `artifacts` for what is there."
            ) from error
        raise QueryError(
            "query", _told(error), f"Views: {', '.join(VIEWS)}; columns: DESCRIBE embeddings."
        ) from error
    finally:
        connection.close()


def _check_reads(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    statements = connection.extract_statements(sql)
    kinds = [statement.type.name for statement in statements]
    if kinds != ["SELECT"]:  # EXPLAIN ANALYZE would run what it explains
        given = f"it is {' and '.join(kinds)}" if kinds else "it is empty"
        raise QueryError(
            "query",
            f"{given}, where one SELECT is allowed",
            "Artifacts never change; read them with one SELECT.",
        )


def _create_views(
    connection: duckdb.DuckDBPyConnection, root: Path, sql: str
) -> tuple[str, list[Path]]:
    """Make the views whose names occur in the query.

    Returns the query with these names as the views have them, and the files that they read.
    """
    every, outside = artifacts(root), _without_texts(sql)
    current = {artifact.reference for artifact in every if is_current(root, artifact)}
    rows = [_artifact_row(artifact, current) for artifact in every]
    connection.register("artifacts", pa.Table.from_pylist(rows, pa.schema(_ARTIFACT_COLUMNS)))
    files = _create_other_views(
        connection, root, outside.lower(), [a for a in every if a.reference in current]
    )
    for kind in (kind for kind in KINDS_SHOWN if kind in outside.lower()):
        connection.execute(f"CREATE SCHEMA {kind}")
        # not only shards."one"
        all_of_kind = re.search(rf'\b{kind}\b(?!"?\s*\.)', outside, re.IGNORECASE) is not None
        of_kind = [artifact for artifact in every if artifact.kind == kind]
        meant = _mentioned(kind, outside, of_kind, current)
        selects = []
        for artifact in of_kind:
            names = [name for name, one in meant.items() if one is artifact]
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
        elif all_of_kind and kind in _COLUMNS:  # an answer too: none of them is there
            held = pa.schema([("artifact", pa.string()), *_COLUMNS[kind]])
            connection.register(kind, held.empty_table())
        sql = _with_view_names(kind, sql, meant)
    return sql, files


def _mention(kind: str) -> re.Pattern[str]:
    """shards."one", shards.one or "shards"."one", in whatever case the kind is written."""
    return re.compile(rf'(\b{kind}"?\s*\.\s*)(?:"([^"]+)"|(\w+))', re.IGNORECASE)


def _mentioned(
    kind: str, outside: str, of_kind: Sequence[Artifact], current: set[str]
) -> dict[str, Artifact]:
    """Name as it is written in the query -> the artifact that is meant; what is no artifact's name
    is left out.

    Names are those of artifacts in any case, as SQL has it, unless they differ by case alone.
    Raises QueryError where one is written as none of them is.
    """
    named = {f"{artifact.name}@{artifact.id}": artifact for artifact in of_kind}
    named |= {artifact.name: artifact for artifact in of_kind if artifact.reference in current}
    meant: dict[str, Artifact] = {}
    for _, quoted, plain in _mention(kind).findall(outside):
        written = quoted or plain
        alike = [name for name in named if name.lower() == written.lower()]
        if written in named:
            meant[written] = named[written]
        elif len(alike) > 1:
            what = (
                f"{kind}.{written} may be {' or '.join(sorted(alike))}, which differ by case alone"
            )
            raise QueryError("query", what, f'Write one as it is: {kind}."{sorted(alike)[0]}".')
        elif alike and alike[0].lower() not in {name.lower() for name in meant}:
            meant[alike[0]] = named[alike[0]]
    return meant


def _view_name(name: str, meant: Mapping[str, Artifact]) -> str:
    """The name itself; numbered where another name in the query differs by case alone, which DuckDB
    does not tell apart.
    """
    alike = sorted(other for other in meant if other.lower() == name.lower())
    return f"{name}~{alike.index(name)}" if len(alike) > 1 else name


def _with_view_names(kind: str, sql: str, meant: Mapping[str, Artifact]) -> str:
    """The query with every name that has a numbered view replaced by that; strings and comments
    stay.
    """
    renamed = {name: _view_name(name, meant) for name in meant if _view_name(name, meant) != name}
    if not renamed:
        return sql

    def replaced(found: re.Match[str]) -> str:
        written = found[2] or found[3]
        return f'{found[1]}"{renamed[written]}"' if written in renamed else found[0]

    pieces = _pieces(sql)
    return "".join(
        piece if is_text else _mention(kind).sub(replaced, piece) for is_text, piece in pieces
    )


def _create_other_views(
    connection: duckdb.DuckDBPyConnection, root: Path, lower: str, current: Sequence[Artifact]
) -> list[Path]:
    """Those of `storage.views` whose names occur in the query, and the files that they read."""
    named = {view for view in ("pictures", "removed", "seen") if re.search(rf"\b{view}\b", lower)}
    if "pictures" in named:
        connection.register("pictures", pictures([a for a in current if a.kind == "shards"]))
    if "removed" in named:
        connection.register("removed", removed(root))
    if "seen" not in named:
        return []
    select, files = seen(root)
    connection.execute(f"CREATE VIEW main.seen AS {select}")
    return files


def _without_texts(sql: str) -> str:
    """A statement without its strings and comments, whose words name no view."""
    return "".join(" " if is_text else piece for is_text, piece in _pieces(sql))


def _pieces(sql: str) -> list[tuple[bool, str]]:
    """A statement cut into its strings and comments (True) and what stands between them."""
    data, tokens = sql.encode(), duckdb.tokenize(sql)  # offsets count bytes
    ends = [start for start, _ in tokens[1:]] + [len(data)]
    silent = (duckdb.token_type.string_const, duckdb.token_type.comment)
    cut = [
        (kind in silent, data[at:end].decode())
        for (at, kind), end in zip(tokens, ends, strict=True)
    ]
    return [
        (is_text, "".join(piece for _, piece in run))
        for is_text, run in groupby(cut, key=lambda piece: piece[0])
    ]


def _select(connection: duckdb.DuckDBPyConnection, artifact: Artifact) -> tuple[str, list[Path]]:
    """SQL that reads one artifact, and the files it needs."""
    if artifact.kind in PARQUET_KINDS:
        files = artifact.files(".parquet")
        return f"SELECT * FROM read_parquet({_sql([str(path) for path in files])})", files
    if artifact.kind == "runs":
        metrics = artifact.file(METRICS_FILE)
        logged = read_metrics(metrics) if metrics.is_file() else []
        table = (
            pa.Table.from_pylist(logged) if logged else pa.table({"step": pa.array([], pa.int64())})
        )
    else:
        table = pa.table({"evaluation": [artifact.files(".json")[0].read_text(encoding="utf-8")]})
    held = (
        f'"{artifact.kind}/{artifact.name}@{artifact.id}"'  # versions of two names may share an id
    )
    connection.register(held.strip('"'), table)
    return f"SELECT * FROM {held}", []


_COLUMNS = {
    "shards": SIDECAR,
    "samples": SAMPLES,
    "runs": pa.schema([("step", pa.int64())]),
    "evaluations": pa.schema([("evaluation", pa.string())]),
}
"""Kinds whose columns are known before one is there; the others' depend on what is built."""
_ARTIFACT_COLUMNS = (
    ("kind", pa.string()), ("name", pa.string()), ("id", pa.string()),
    ("version", pa.int64()), ("current", pa.bool_()),
    ("rows", pa.int64()), ("bytes", pa.int64()),
    ("created_at", pa.string()), ("fingerprint", pa.string()),
    *((name, pa.string()) for name in ("parameters", "inputs", "counts", "measured")),
)  # fmt: skip


def _artifact_row(artifact: Artifact, current: set[str]) -> dict[str, Any]:
    plain = ("kind", "name", "id", "version", "rows", "bytes", "created_at", "fingerprint")
    nested = ("parameters", "inputs", "counts", "measured")
    row = {name: getattr(artifact, name) for name in plain} | {
        "current": artifact.reference in current
    }
    return row | {name: json.dumps(dict(getattr(artifact, name)), default=str) for name in nested}


def _sql(texts: Sequence[str]) -> str:
    """A list of texts as an SQL literal."""
    return "[" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + "]"


def _told(error: duckdb.Error) -> str:
    """Its first paragraph on one line; spaces stay, as a path may hold several."""
    first = str(error).partition("\n\n")[0]
    return re.sub(r"\s*\n\s*", " ", first).strip()[:400]


def _told_apart(names: Sequence[str]) -> list[str]:
    """key, key -> key, key_1, as DuckDB prints them: a row is told by its columns' names."""
    told: list[str] = []
    for name in names:
        others = chain([name], (f"{name}_{number}" for number in count(1)))
        told.append(next(other for other in others if other not in told))
    return told
