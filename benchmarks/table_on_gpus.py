"""The exact neighbor table on GPUs, k = 20, 512 dimensions: pairs a second, and the share of the
arithmetic limit they are.

    python -m benchmarks.table_on_gpus [--rows 10000000] [--queries 1000000] [--teraflops 790]
    [--devices cuda:0]

The limit: --teraflops of float16 products a device (790 is an H200's, measured by others). The rows
lie on disk as a database's do (10 GB for 10 million), and reading, sending and rescoring them are
part of the time. Recall is that of the first 256 queries against a product in fp32.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.larger_than_memory import write
from benchmarks.vectors import DIMENSION, clip_like
from rdm_core.exact import search_by_bound_on
from rdm_core.reduced import HALF
from rdm_core.search import recall_at_k

K, JUDGED = 20, 256


def main() -> None:
    """Write the rows, search them, judge some of what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--queries", type=int, default=1_000_000)
    parser.add_argument("--teraflops", type=float, default=790.0)
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    parser.add_argument("--devices", nargs="+", default=gpus or ["cpu"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as directory:
        path = Path(directory) / "rows.npy"
        write(path, options.rows)
        vectors = np.load(path, mmap_mode="r")
        queries = np.concatenate(list(clip_like(options.queries, seed=1)))
        # what a device does once
        search_by_bound_on(options.devices, queries[:K], vectors[: 100 * K], K, HALF)
        began = time.perf_counter()
        found, _, given_up = search_by_bound_on(options.devices, queries, vectors, K, HALF)
        seconds = time.perf_counter() - began
        recall = recall_at_k(
            found[:JUDGED], by_product(queries[:JUDGED], vectors, options.devices[0])
        )
    operations = 2 * DIMENSION * options.rows * options.queries
    share = operations / seconds / (1e12 * options.teraflops * len(options.devices))
    print(
        f"{options.queries:,} queries x {options.rows:,} rows on "
        f"{', '.join(options.devices)}: {seconds:.1f} s"
    )
    print(
        f"{options.queries / seconds:,.0f} queries/s, "
        f"{operations / seconds / 1e12:,.2f} TFLOP/s, {share:.1%} of the limit"
    )
    print(
        f"recall {recall:.5f} over {min(JUDGED, options.queries)} queries; "
        f"{given_up.sum()} given up"
    )


def by_product(
    queries: np.ndarray, vectors: np.ndarray, device: str, tile: int = 100_000
) -> np.ndarray:
    """The nearest rows [Q, K], every score in fp32."""
    asked = torch.from_numpy(queries).to(device)
    best, rows = (
        torch.empty(len(asked), 0, device=device),
        torch.empty(len(asked), 0, dtype=torch.int64, device=device),
    )
    for start in range(0, len(vectors), tile):
        scores = (
            asked @ torch.from_numpy(np.array(vectors[start : start + tile])).to(device).float().T
        )
        near, at = torch.cat([best, scores], dim=1).topk(K, dim=1)
        places = torch.arange(start, start + scores.shape[1], device=device).expand(len(asked), -1)
        best, rows = near, torch.cat([rows, places], dim=1).gather(1, at)
    return rows.cpu().numpy()


if __name__ == "__main__":
    main()
