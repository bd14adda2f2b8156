"""A database of 5 million rows, 5.1 GB on disk, searched within 4 GB of memory; and what opening it
costs.

    python -m benchmarks.larger_than_memory [--rows 5000000] [--queries 256] [--directory .]

The search runs in a process whose private memory is limited to 4 GB; pages of the mapped file
belong to the system.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.vectors import DIMENSION, clip_like

LIMIT_BYTES = 4 * 2**30


def main() -> None:
    """Write the matrix once, search it in a limited process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--directory", type=Path, default=Path())
    parser.add_argument("--search", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.search:
        search(options.search, options.queries)
        return
    path = options.directory / "larger_than_memory.npy"
    try:
        write(path, options.rows)
        again = [
            sys.executable,
            "-m",
            "benchmarks.larger_than_memory",
            "--search",
            str(path),
            "--queries",
            str(options.queries),
        ]
        subprocess.run(again, check=True)
    finally:
        path.unlink(missing_ok=True)


def write(path: Path, rows: int) -> None:
    """The matrix, block by block."""
    matrix = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(rows, DIMENSION))
    at = 0
    for block in clip_like(rows, seed=2):
        matrix[at : at + len(block)] = block
        at += len(block)
    matrix.flush()


def search(path: Path, queries: int) -> None:
    """Open and search with RLIMIT_DATA at the limit: what is mapped from a file does not count,
    what is allocated does.
    """
    from rdm_core.search import search_exact
    from storage.arrays import open_array

    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
    began = time.monotonic()
    vectors = open_array(path)
    opened = time.monotonic() - began
    asked = next(clip_like(queries, seed=1))
    began = time.monotonic()
    _, scores = search_exact(asked, vectors, 20)
    seconds = time.monotonic() - began
    private = next(
        int(line.split()[1])
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        if line.startswith("RssAnon")
    )
    print(
        f"{len(vectors):,} rows, {path.stat().st_size / 1e9:.1f} GB: "
        f"opened in {1000 * opened:.1f} ms, "
        f"{queries} queries in {seconds:.1f} s ({queries / seconds:.1f}/s), "
        f"{private / 1e6:.2f} GB of private memory at the end; "
        f"worst 20th score {scores[:, -1].min():.3f}"
    )


if __name__ == "__main__":
    main()
