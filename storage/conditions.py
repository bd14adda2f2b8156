"""Conditions on the rows of a database: which of them may be neighbors.

A condition is what SQL has after WHERE: `licence IN ('CC0', 'CC BY 4.0') AND style <> 'sketch'`.
DuckDB evaluates it, over the columns of `embeddings` and nothing else: no sub-select, no other
table, no function but those of FUNCTIONS, so that nothing is read or written by it, it says the
same each time, and takes no memory to speak of. NULL is no: a row without a licence satisfies
neither `licence = 'CC0'` nor `licence <> 'CC0'`; `licence IS NULL` does.
"""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.artifact import Artifact
from storage.embeddings import read_columns_of
from storage.errors import StorageError, as_text

_TEXTS = """lower upper lcase ucase trim ltrim rtrim length len strlen contains starts_with
    ends_with prefix suffix replace substr substring left right strip_accents regexp_matches
    regexp_full_match regexp_extract like_escape ilike_escape not_like_escape not_ilike_escape
    ~~ !~~ ~~* !~~* ~~~ || ^@"""
_LISTS = """list_contains list_has list_has_any list_has_all array_contains array_has array_has_any
    array_has_all list_extract list_element array_extract array_length list_value && @> <@"""
_NUMBERS = "abs round floor ceil ceiling greatest least isnan isfinite + - * / // %"
FUNCTIONS = frozenset(f"{_TEXTS} {_LISTS} {_NUMBERS}".split())
"""What a condition may call, operators among them."""
_NODES = frozenset(
    ("COMPARISON", "CONJUNCTION", "OPERATOR", "CONSTANT", "COLUMN_REF", "FUNCTION", "BETWEEN",
     "CASE", "CAST", "TYPE")
)  # fmt: skip
"""Classes of expression that look at one row alone."""
_IN_WORDS = {
    "SUBQUERY": "a sub-select",
    "WINDOW": "a window function",
    "LAMBDA": "a function of its own (->)",
    "PARAMETER": "a parameter (?)",
    "STAR": "a star (*)",
}
LONGEST = 4000
"""Characters of a condition."""
_TABLE = "rows"


class ConditionError(StorageError):
    """A condition that cannot be evaluated, or that is more than a condition."""


def satisfying(embeddings: Artifact, condition: str) -> np.ndarray:
    """Which rows of a database satisfy a condition, in row order: bool [N].

    Raises ConditionError for what is no condition, for columns that are not there, for functions
    that are not among FUNCTIONS; and where no row satisfies it.
    """
    chosen = _satisfying(tuple(embeddings.files(".parquet")), condition)
    if not chosen.any():
        what = f"none of the {embeddings.rows:,} rows of {embeddings.name} satisfies it"
        cure = (
            "Ask what there is: rdm query 'SELECT DISTINCT licence FROM "
            f'embeddings."{embeddings.name}"\'; NULL satisfies IS NULL alone.'
        )
        raise ConditionError(_shown(condition), what, cure)
    return chosen


@lru_cache(maxsize=8)  # a page asks with one condition again and again
def _satisfying(files: tuple[Path, ...], condition: str) -> np.ndarray:
    if not files:
        return np.zeros(0, bool)
    there = [name for name in pq.read_schema(files[0]).names if name != "embedding"]
    used = columns_used(condition, there)
    # Some column is always read: it says how many rows there are.
    rows = read_columns_of(files, used or ["key"])
    chosen = evaluated(condition, rows)
    chosen.setflags(write=False)  # it is shared by all who ask
    return chosen


def evaluated(condition: str, rows: pa.Table) -> np.ndarray:
    """A condition's answer for each of N rows, NULL as no: bool [N]. Raises ConditionError."""
    import duckdb  # only where there is a condition: it takes time, and tells of itself at the end

    with duckdb.connect(":memory:") as connection:
        connection.execute("SET enable_external_access = false")
        connection.register(_TABLE, rows)
        connection.execute("SET lock_configuration = true")
        sql = f"SELECT ({condition}\n) AS satisfied FROM {_TABLE}"
        try:
            answer = connection.sql(sql)
            kind = str(answer.types[0])
            if kind != "BOOLEAN":
                what = f"it gives {kind}, not yes or no"
                raise ConditionError(_shown(condition), what, "Compare it: norm > 10.")
            satisfied = answer.to_arrow_table()["satisfied"]
        except duckdb.Error as error:
            raise ConditionError(
                _shown(condition), _first_line(error), "See docs/analysis.md for examples."
            ) from error
    return np.asarray(satisfied.combine_chunks().fill_null(False).to_numpy(zero_copy_only=False))


def columns_used(condition: str, there: Sequence[str]) -> list[str]:
    """The columns that a condition looks at, of those that are there, which it may write in any
    case. Raises ConditionError as `satisfying` does.
    """
    known = {name.lower(): name for name in there}
    used: list[str] = []
    for node in _nodes(_parsed(condition)):
        if node["class"] not in _NODES:
            what = f"it has {_IN_WORDS.get(node['class'], node['class'].lower())}"
            cure = "A condition compares columns of one row: style = 'sketch' AND norm > 10."
            raise ConditionError(_shown(condition), what, cure)
        if node["class"] == "FUNCTION":
            _check_function(node, condition)
        if node["class"] == "COLUMN_REF":
            written = ".".join(node["column_names"])
            if written.lower() not in known:
                what = f"there is no column {written}"
                cure = f"Columns: {', '.join(there)}. A text stands in single quotes."
                raise ConditionError(_shown(condition), what, cure)
            if known[written.lower()] not in used:
                used.append(known[written.lower()])
    return used


def _check_function(node: dict[str, Any], condition: str) -> None:
    plain = not (node["schema"] or node["catalog"] or node["distinct"] or node["filter"])
    if plain and not node["order_bys"]["orders"] and node["function_name"] in FUNCTIONS:
        return
    names = ", ".join(sorted(name for name in FUNCTIONS if name[0].isalpha()))
    what = f"it may not call {node['function_name']}"
    raise ConditionError(_shown(condition), what, f"It may call: {names}.")


def _parsed(condition: str) -> dict[str, Any]:
    """The expression of a condition, as DuckDB reads it."""
    if not condition.strip():
        raise ConditionError("condition", "it is empty", "Leave it out, or write one.")
    if len(condition) > LONGEST or as_text(condition) != condition:
        what = f"it has {len(condition):,} characters, or is no UTF-8"
        raise ConditionError(_shown(condition), what, f"Write at most {LONGEST:,} in UTF-8.")
    # Whatever a condition adds to the statement around it (a comma, an ORDER BY, another statement)
    # shows in all but the one expression, which is compared with that of a plain one.
    statement, plain = _statement(condition), _statement("true")
    expression = statement["where_clause"]
    del statement["where_clause"], plain["where_clause"]
    if statement != plain:
        what = "it is more than one expression"
        cure = "Write what SQL has after WHERE, and nothing behind it."
        raise ConditionError(_shown(condition), what, cure)
    return dict(expression)


def _statement(condition: str) -> dict[str, Any]:
    """SELECT ... WHERE (condition), as DuckDB reads it."""
    import duckdb

    with duckdb.connect(":memory:") as connection:
        # The line break ends a comment that the condition may hold.
        sql = f"SELECT 1 FROM {_TABLE} WHERE ({condition}\n)"
        try:
            row = connection.execute("SELECT json_serialize_sql($1::VARCHAR)", [sql]).fetchone()
            read = json.loads(row[0] if row else "")
        except (duckdb.Error, RecursionError) as error:
            what = f"it cannot be read: {_first_line(error)}"
            raise ConditionError(_shown(condition), what, "Write it more simply.") from error
    if read["error"]:
        what = f"it cannot be read: {_first_line(read['error_message'])}"
        cure = "Write what SQL has after WHERE: licence = 'CC0' AND norm > 10."
        raise ConditionError(_shown(condition), what, cure)
    nodes = [one["node"] for one in read["statements"]]
    if len(nodes) != 1 or "where_clause" not in nodes[0]:
        what = "it is more than one expression"
        cure = "Write what SQL has after WHERE, and nothing behind it."
        raise ConditionError(_shown(condition), what, cure)
    return dict(nodes[0])


def _nodes(expression: dict[str, Any]) -> list[dict[str, Any]]:
    """Every expression inside an expression, itself first."""
    found, left = [], [expression]
    while left:
        node = left.pop()
        if isinstance(node, list):
            left += node
        elif isinstance(node, dict):
            if "class" in node:
                found.append(node)
            # The type of a cast is no expression, and holds others of its own.
            left += [value for name, value in node.items() if name != "cast_type"]
    return found


def _shown(condition: str) -> str:
    short = re.sub(r"\s+", " ", as_text(condition)).strip()
    return f"where {short if len(short) <= 120 else short[:117] + '...'}"


def _first_line(error: object) -> str:
    return str(error).partition("\n")[0].strip()[:300] or type(error).__name__
