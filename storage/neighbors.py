"""Neighbor table: for each query its nearest database rows, nearest first; those of two searches in
turns, where the plan says `in_turns`.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from storage.artifact import Artifact
from storage.parquet import column, read_table, vector_array, vector_type, vectors_of, write_table

NO_ROW = -1
"""Fills a list when a query has fewer than k neighbors."""
SCORES_OF = {
    "vectors": "cosine, falling; -2 where the row is -1",
    "words": "BM25 as a share of what a caption of the query's own words would get, 1 at most, "
    "falling; -2 where the row is -1",
}
"""By what the database was searched -> what stands in the column `scores`."""


def neighbors_schema(k: int, search: str = "vectors") -> pa.Schema:
    """Columns of a part of a table that was found by such a search."""
    return pa.schema(
        [
            column("key", pa.string(), "key of the query"),
            column(
                "rows",
                vector_type(k, pa.int64()),
                "database rows, nearest first; -1 where there are fewer than k",
            ),
            column(
                "keys", vector_type(k, pa.string()), "keys of those rows; empty where the row is -1"
            ),
            column("scores", vector_type(k, pa.float32()), SCORES_OF[search]),
        ],
        metadata={"doc": "one row a query; the database's fingerprint is among the inputs"},
    )


def write_neighbors(
    directory: Path,
    part_name: str,
    query_keys: list[str],
    database_keys: np.ndarray,
    rows: np.ndarray,
    scores: np.ndarray,
    search: str = "vectors",
) -> int:
    """Write one part; `rows` int64 [Q, K] with NO_ROW for absent, `scores` float32 [Q, K] of what
    SCORES_OF says of the search. Returns Q.
    """
    k = rows.shape[1]
    # NO_ROW is -1 and would name the last row: its key is looked up and thrown away.
    names = np.where(rows == NO_ROW, "", database_keys[rows])
    flat = pa.array(names.reshape(-1).tolist(), type=pa.string())
    keys = pa.FixedSizeListArray.from_arrays(flat, type=vector_type(k, pa.string()))
    columns = [
        pa.array(query_keys, type=pa.string()),
        vector_array(rows),
        keys,
        vector_array(scores),
    ]
    write_table(
        directory / f"{part_name}.parquet",
        pa.Table.from_arrays(columns, schema=neighbors_schema(k, search)),
    )
    return len(query_keys)


def read_neighbors(neighbors: Artifact) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Query keys, rows int64 [Q, K] and scores float32 [Q, K] of the whole table, in part order."""
    columns = ["key", "rows", "scores"]
    table = pa.concat_tables(read_table(path, columns) for path in neighbors.files(".parquet"))
    return table["key"].to_pylist(), vectors_of(table, "rows"), vectors_of(table, "scores")
