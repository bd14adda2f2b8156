"""Exact neighbor tables, k = 20, 512 dimensions, one core: ours against faiss and against
autofaiss's default index.

    python -m benchmarks.exact_search [--rows 100000 200000 500000] [--autofaiss]

Prints the CPU and its instructions for int8, then of each way queries a second of CPU time, their
ratio to faiss's and recall: faiss and ours alternate, and ratios are medians over the rounds, so
that a loaded machine disturbs both. The bound by int8 is timed by force too, on a few queries where
the CPU cannot multiply int8 fast, so that the choice can be judged.
"""

import argparse
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch

from benchmarks.vectors import clip_like, gaussian
from rdm_core import search
from rdm_core.exact import search_by_bound
from rdm_core.reduced import INT8, int8_may_pay
from rdm_core.search import held, int8_pays, recall_at_k, search_exact

K, QUERIES, ROUNDS = 20, 1024, 3
RECALL_TARGETS = (0.95, 0.99)


def main() -> None:
    """Every size, then data without structure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 200_000, 500_000])
    parser.add_argument(
        "--autofaiss", action="store_true", help="build autofaiss's default index too (minutes)"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    print(cpu())
    for rows in options.rows:
        queries = next(clip_like(QUERIES, seed=1))
        compare(
            f"{rows:,} clustered",
            queries,
            np.concatenate(list(clip_like(rows, seed=2))),
            options.autofaiss,
        )
    compare(
        "100,000 Gaussian", gaussian(QUERIES, seed=1), gaussian(100_000, seed=2), options.autofaiss
    )


def cpu() -> str:
    """The processor's name and which instructions for int8 and bfloat16 it has, as Linux says."""
    lines = (
        Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    )
    facts = dict(re.split(r"\s*: ", line, maxsplit=1) for line in lines if ": " in line)
    flags = facts.get("flags", "").split()
    has = [flag for flag in flags if re.search("avx2|avx512f|vnni|amx|bf16", flag)]
    fast = "multiplies" if int8_may_pay() else "does not multiply"
    name = facts.get("model name", "unknown CPU").strip()
    return f"{name}: {' '.join(has) or 'no flags known'}; {fast} int8 faster than fp32"


def compare(name: str, queries: np.ndarray, vectors: np.ndarray, with_autofaiss: bool) -> None:
    """One line a method."""
    stored = vectors.astype(np.float16)
    vectors = stored.astype(np.float32)
    kept = held(stored)
    few = QUERIES if int8_may_pay() else 16
    peer: Callable[[], np.ndarray] = lambda: faiss.knn(  # noqa: E731
        queries, vectors, K, metric=faiss.METRIC_INNER_PRODUCT
    )[1]
    ways: dict[str, Callable[[], np.ndarray]] = {
        "ours, as a table does": lambda: search_exact(queries, kept, K)[0],
        "ours, from the disk's float16": lambda: search_exact(queries, stored, K)[0],
        "ours, int8 by force": lambda: search_by_bound(queries[:few], stored, K, INT8)[0],
    }
    chosen = "int8" if int8_pays(queries, kept, K) else "fp32"
    known, own = timed(peer)
    print(
        f"{name}: faiss.knn {QUERIES / own:,.0f} queries/s; chosen for a table: {chosen}",
        flush=True,
    )
    found: dict[str, np.ndarray] = {}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    ratios: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        own = timed(peer)[1]
        for way, run in ways.items():
            found[way], took = timed(run)
            took *= QUERIES / len(found[way])
            seconds[way].append(took)
            ratios[way].append(own / took)
    for way in ways:
        recall = recall_at_k(found[way], known[: len(found[way])])
        rate, ratio = QUERIES / np.median(seconds[way]), np.median(ratios[way])
        print(f"  {way}: {rate:,.0f} queries/s, ratio {ratio:.2f}, recall {recall:.5f}", flush=True)
    if with_autofaiss:
        by_index(queries, vectors, known, QUERIES / own)


def by_index(queries: np.ndarray, vectors: np.ndarray, known: np.ndarray, peer: float) -> None:
    """autofaiss's choice as it leaves it, then set as our databases set it: to the least effort
    that reaches the recall.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "index.faiss"
        began = time.process_time()
        recipe = search.build_index(vectors, path)
        built = time.process_time() - began
        print(
            f"  autofaiss {recipe}: built in {built:.0f} CPU s, "
            f"{path.stat().st_size / len(vectors):,.0f} bytes a row"
        )
        told(f"autofaiss {recipe} as it is by default", queries, vectors, path, known, peer)
        for target in RECALL_TARGETS:
            chosen = search.tune_index(path, queries[:256], known[:256], target)[-1]
            told(
                f"autofaiss {recipe} at {chosen.setting}, chosen for recall {target}",
                queries,
                vectors,
                path,
                known,
                peer,
            )


def told(
    way: str, queries: np.ndarray, vectors: np.ndarray, path: Path, known: np.ndarray, peer: float
) -> None:
    """One line of an approximate index."""
    searcher = search.Searcher(vectors, path)
    found, took = timed(lambda: searcher.search(queries, K)[0])
    rate = QUERIES / took
    print(
        f"  {way}: {rate:,.0f} queries/s, ratio {rate / peer:.2f}, "
        f"recall {recall_at_k(found, known):.5f}",
        flush=True,
    )


def timed(run: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """What it found, and the CPU seconds it took."""
    began = time.process_time()
    found = run()
    return found, time.process_time() - began


if __name__ == "__main__":
    main()
