"""What a condition (--where) costs a search, k = 20, 512 dimensions, one core: exactly, and by an
index.

    python -m benchmarks.conditions [--rows 500000]

Prints what it takes to find out which rows satisfy a condition (the column read from Parquet,
DuckDB's answer; once a process), then milliseconds a query with conditions that keep all, half, a
tenth and a hundredth of the rows, their ratio to the search without any, and the recall of the
nearest rows that satisfy it. Rows are stored as float16, as a database's are; every query is asked
alone, the ways in turn, and times are medians.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.vectors import clip_like
from rdm_core.search import Searcher, held, recall_at_k
from rdm_core.selection import SelectiveSearcher
from storage.conditions import columns_used, evaluated

K, QUERIES = 20, 64
SHARES = (1.0, 0.5, 0.1, 0.01)


def main() -> None:
    """Exactly, then by an index of inverted lists."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=500_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    vectors = np.concatenate(list(clip_like(options.rows, seed=2)))
    queries = next(clip_like(QUERIES, seed=1))
    with tempfile.TemporaryDirectory() as folder:
        places = Path(folder, "rows.parquet")
        share = np.random.default_rng(3).random(options.rows)
        pq.write_table(pa.table({"share": share.astype(np.float32)}), places)
        stored = Path(folder, "vectors.npy")
        np.save(stored, vectors.astype(np.float16))
        index = Path(folder, "index.faiss")
        faiss.write_index(lists_over(vectors), str(index))
        on_disk = np.load(stored, mmap_mode="r")
        for name, searcher in {
            "exactly, held in memory": Searcher(held(vectors)),
            "exactly, from the disk": Searcher(on_disk),
            "by an index": Searcher(on_disk, index),
        }.items():
            compare(name, searcher, queries, places)


def lists_over(vectors: np.ndarray) -> faiss.Index:
    """An index of inverted lists whose effort finds most of the nearest of all rows."""
    index = faiss.index_factory(vectors.shape[1], "IVF1024,SQ8", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[:: max(1, len(vectors) // 50_000)])
    index.add(vectors)
    index.nprobe = 32
    return index


def compare(name: str, searcher: Searcher, queries: np.ndarray, places: Path) -> None:
    """A line a condition."""
    print(f"{len(searcher.vectors):,} rows, {name}")
    plain = [milliseconds(searcher.search, query) for query in queries]
    exact, _ = searcher.search_all(queries, K)
    recall = recall_at_k(searcher.search(queries, K)[0], exact)
    print(f"  no condition: {np.median(plain):.2f} ms a query, recall {recall:.3f}")
    for share in SHARES:
        condition = f"share < {share}"
        began = time.perf_counter()
        rows = pq.read_table(places, columns=columns_used(condition, ["share"]))
        allowed = evaluated(condition, rows)
        asked = 1000 * (time.perf_counter() - began)
        began = time.perf_counter()
        chosen = SelectiveSearcher(searcher, allowed)
        if chosen.index is None:
            chosen.search(queries[:1], K)  # the rows are gathered
        ready = 1000 * (time.perf_counter() - began)
        # In turns, so that a loaded machine disturbs both.
        with_it, without = [], []
        for query in queries:
            with_it.append(milliseconds(chosen.search, query))
            without.append(milliseconds(searcher.search, query))
        ratio = np.median(np.array(without) / np.array(with_it))
        recall = recall_at_k(chosen.search(queries, K)[0], chosen.search_all(queries, K)[0])
        each = f"{np.median(with_it):.2f} ms a query, {ratio:.2f} times as fast"
        once = f"{asked:.0f} ms for the condition, {ready:.0f} ms for its rows"
        print(f"  keeps {100 * share:>3.0f} %: {each}, recall {recall:.3f}; once: {once}")


def milliseconds(
    search: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]], query: np.ndarray
) -> float:
    """Of one query."""
    began = time.perf_counter()
    search(query[None], K)
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    main()
