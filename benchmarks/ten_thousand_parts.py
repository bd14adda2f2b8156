"""What do 10,000 parts cost beside the work in them? An import of tiny parts against the same
images in few parts.

    python benchmarks/ten_thousand_parts.py [--images 10000] [--root DIRECTORY]

Prints seconds, task runs, and the peak memory of the flow's process for both, for a rerun that
finds all of it done, and the ratio of the two imports. The flow's memory should not grow with the
number of parts.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Import in processes of their own, so that each one's peak memory is its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    root = options.root or Path(tempfile.mkdtemp(prefix="ten-thousand-"))
    if options.one:
        measure(root, options.images, int(options.one))
        return
    print(f"{'parts':>8} {'task runs':>10} {'seconds':>9} {'peak MB':>8}")
    rows = [run(root, options.images, per_part) for per_part in (1, 1, options.images // 10)]
    print(f"10,000 parts / few parts: {rows[0]['seconds'] / rows[2]['seconds']:.1f} x the time")


def run(root: Path, images: int, per_part: int) -> dict[str, float]:
    """One import in a fresh process."""
    command = [
        sys.executable,
        __file__,
        "--images",
        str(images),
        "--root",
        str(root),
        "--one",
        str(per_part),
    ]
    row = json.loads(
        subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1]
    )
    print(
        f"{row['parts']:>8,} {row['task_runs']:>10,} {row['seconds']:>9.1f} {row['peak_mb']:>8.0f}",
        flush=True,
    )
    return row


def measure(root: Path, images: int, per_part: int) -> None:
    """Import and tell; Prefect's start-up is not in the seconds."""
    from flows.run import environment

    environment.prepare(root)
    from prefect import flow

    from flows.config.images import ImportImages
    from flows.data.import_images import import_images
    from flows.run.stage import groups

    flow(lambda: None, name="start-up")()
    config = ImportImages(
        root=root,
        name=f"by-{per_part}",
        source="shapes",
        size=16,
        encoding="png",
        count=images,
        images_per_part=per_part,
    )
    started = time.monotonic()
    shards = import_images(config)
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tasks = len(groups({part.name: "" for part in shards.parts}))
    print(
        json.dumps(
            {"parts": len(shards.parts), "task_runs": tasks, "seconds": seconds, "peak_mb": peak}
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
