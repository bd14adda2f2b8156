"""Exact neighbor tables, k = 20, 512 dimensions, one core: ours against faiss and against autofaiss's default index.

    python -m benchmarks.exact_search [--rows 100000 200000 500000] [--autofaiss]

Prints which precision this machine chose, queries a second of each, recall, build time and bytes. The bound's int8 path is
timed too where it was not chosen, so that the choice can be judged.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch

from benchmarks.vectors import clip_like, gaussian
from rdm_core import search
from rdm_core.exact import INT8, cheap_precision, search_by_bound
from rdm_core.search import held, recall_at_k, search_exact

K, QUERIES = 20, 1024
RECALL_TARGETS = (0.95, 0.99)


def main() -> None:
    """Every size, then data without structure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 200_000, 500_000])
    parser.add_argument("--autofaiss", action="store_true", help="build autofaiss's default index too (minutes)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    chosen = cheap_precision("cpu")
    print(f"chosen on this machine: {chosen.name if chosen else 'fp32'}")
    for rows in options.rows:
        queries = next(clip_like(QUERIES, seed=1))
        compare(f"{rows:,} clustered", queries, np.concatenate(list(clip_like(rows, seed=2))), options.autofaiss)
    compare("100,000 Gaussian", gaussian(QUERIES, seed=1), gaussian(100_000, seed=2), options.autofaiss)


def compare(name: str, queries: np.ndarray, vectors: np.ndarray, with_autofaiss: bool) -> None:
    """One line a method."""
    stored = vectors.astype(np.float16)
    vectors = stored.astype(np.float32)
    known, peer = timed(lambda: faiss.knn(queries, vectors, K, metric=faiss.METRIC_INNER_PRODUCT)[1])
    print(f"{name}: faiss.knn {peer:,.0f} queries/s")
    kept = held(stored)
    ways: dict[str, Callable[[], np.ndarray]] = {
        "ours, as a table does": lambda: search_exact(queries, kept, K)[0],
        "ours, from the disk's float16": lambda: search_exact(queries, stored, K)[0],
    }
    if cheap_precision("cpu") is None:
        ways["ours, int8 by force"] = lambda: search_by_bound(queries[:16], stored, K, INT8)[0]
    for way, run in ways.items():
        found, rate = timed(run)
        rate *= len(found) / len(queries)
        print(f"  {way}: {rate:,.0f} queries/s, ratio {rate / peer:.2f}, recall {recall_at_k(found, known[: len(found)]):.5f}")
    if with_autofaiss:
        by_index(queries, vectors, known, peer)


def by_index(queries: np.ndarray, vectors: np.ndarray, known: np.ndarray, peer: float) -> None:
    """autofaiss's choice as it leaves it, then set as our databases set it: to the least effort that reaches the recall."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "index.faiss"
        began = time.process_time()
        recipe = search.build_index(vectors, path)
        built = time.process_time() - began
        print(f"  autofaiss {recipe}: built in {built:.0f} CPU s, {path.stat().st_size / len(vectors):,.0f} bytes a row")
        told(f"autofaiss {recipe} as it is by default", queries, vectors, path, known, peer)
        for target in RECALL_TARGETS:
            chosen = search.tune_index(path, queries[:256], known[:256], target)[-1]
            told(f"autofaiss {recipe} at {chosen.setting}, chosen for recall {target}", queries, vectors, path, known, peer)


def told(way: str, queries: np.ndarray, vectors: np.ndarray, path: Path, known: np.ndarray, peer: float) -> None:
    """One line of an approximate index."""
    searcher = search.Searcher(vectors, path)
    found, rate = timed(lambda: searcher.search(queries, K)[0])
    print(f"  {way}: {rate:,.0f} queries/s, ratio {rate / peer:.2f}, recall {recall_at_k(found, known):.5f}", flush=True)


def timed(run: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """What it found, and QUERIES over the CPU seconds of the better of two runs."""
    seconds = []
    for _ in range(2):
        began = time.process_time()
        found = run()
        seconds.append(time.process_time() - began)
    return found, QUERIES / min(seconds)


if __name__ == "__main__":
    main()
