"""Embeddings as Parquet: how fast they are written, read, and asked by DuckDB and Polars; 200,000
rows of 512.

    python -m benchmarks.parquet [--rows 200000]

Ours (plain float16 in fixed-size lists) against the same table written with pyarrow's defaults;
.npy is the limit.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.vectors import DIMENSION, clip_like
from storage.parquet import vector_array, vectors_of, write_table


def main() -> None:
    """One line a layout and a query."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000)
    rows = parser.parse_args().rows
    vectors = np.concatenate(list(clip_like(rows))).astype(np.float16)
    columns = {
        "key": pa.array([f"coco-{i:012d}-00" for i in range(rows)]),
        "embedding": vector_array(vectors),
    }
    table = pa.table(columns | {"licence": pa.array(["CC-BY", "CC0"] * (rows // 2))})
    size = vectors.nbytes / 1e9
    with tempfile.TemporaryDirectory() as directory:
        ours, plain, array = (
            Path(directory) / name for name in ("ours.parquet", "defaults.parquet", "limit.npy")
        )
        writes = {
            ours: lambda: write_table(ours, table, plain=["embedding"]),
            plain: lambda: pq.write_table(table, plain),
            array: lambda: np.save(array, vectors),
        }
        reads: dict[Path, Callable[[], Any]] = {
            ours: lambda: vectors_of(pq.read_table(ours, columns=["embedding"]), "embedding"),
            plain: lambda: vectors_of(pq.read_table(plain, columns=["embedding"]), "embedding"),
            array: lambda: np.load(array),
        }
        for path in writes:
            written, read = best(writes[path]), best(reads[path])
            megabytes = path.stat().st_size / 1e6
            print(
                f"{path.name}: write {size / written:.2f} GB/s, "
                f"read to a matrix {size / read:.2f} GB/s, {megabytes:,.0f} MB"
            )
        query = vectors[0].astype(np.float32).tolist()
        score = (
            "SELECT key, array_inner_product("
            f"embedding::FLOAT[{DIMENSION}], $1::FLOAT[{DIMENSION}]) s FROM '{ours}'"
        )
        asked: dict[str, Callable[[], Any]] = {
            "DuckDB, rows of each licence": lambda: duckdb.sql(
                f"SELECT licence, count(*) FROM '{ours}' GROUP BY 1"
            ).fetchall(),
            "DuckDB, 10 nearest rows": lambda: duckdb.execute(
                f"{score} ORDER BY s DESC LIMIT 10", [query]
            ).fetchall(),
            "Polars, rows of each licence": lambda: (
                polars.scan_parquet(ours).group_by("licence").len().collect()
            ),
            "Polars, 10 nearest rows": lambda: polars_nearest(ours, vectors[0]),
        }
        for name, run in asked.items():
            print(f"{name}: {1000 * best(run):,.0f} ms")


def polars_nearest(path: Path, query: np.ndarray) -> Any:
    """The vectors as one matrix, a product, ten rows."""
    frame = polars.read_parquet(path, columns=["key", "embedding"])
    scores = frame["embedding"].to_numpy().astype(np.float32) @ query.astype(np.float32)
    return frame["key"][np.argsort(-scores)[:10].tolist()]


def best(run: Callable[[], Any]) -> float:
    """Seconds of the best of three."""
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        run()
        seconds.append(time.monotonic() - began)
    return min(seconds)


if __name__ == "__main__":
    main()
