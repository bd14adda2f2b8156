"""Is the encoder ever kept waiting? The whole stage `embed` against the bare network; and how the
stage grows.

    python -m benchmarks.embedding_rate [--images 384] [--growth 1000 10000]

The rate: ViT-B/32 (weights of no meaning) over shards of 256-pixel JPEGs, read, decoded, resized,
embedded and written as Parquet by the stage, against the same network on batches that lie ready in
memory. Growth: the built-in encoder over 1,000 and 10,000 drawn images, each in a process of its
own, so that each one's peak memory is its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

BATCH = 64
PER_PART = 128


def main() -> None:
    """One process a size; then the rate, alternating, best of two."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--growth", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.one:
        for count in options.growth:
            command = [sys.executable, "-m", "benchmarks.embedding_rate", "--one", str(count)]
            row = json.loads(
                subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1]
            )
            told = (
                f"{row['seconds']:.1f} s, {1000 * row['seconds'] / count:.2f} ms each, "
                f"peak {row['peak_mb']:.0f} MB"
            )
            print(f"{count:>7,} images: {told}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        if options.one:
            print(json.dumps(grown(Path(directory), options.one)))
        elif options.images:
            stage, bare = rates(Path(directory), options.images)
            print(f"stage {stage:.2f} images/s, bare forward {bare:.2f}, ratio {stage / bare:.3f}")


def rates(root: Path, count: int) -> tuple[float, float]:
    """Images a second of the stage, and of the bare forward."""
    start(root)
    from flows.config.database import BuildDatabase
    from flows.config.images import ImportImages
    from flows.data.build_database import embed_images
    from flows.data.encoders import encoder_of
    from flows.data.import_images import import_images

    photographs(root / "photographs", count)
    images = {
        "source": "folder",
        "path": root / "photographs",
        "size": 256,
        "images_per_part": PER_PART,
    }
    import_images(ImportImages(root=root, name="p", **images))
    encoder = encoder_of("ViT-B-32", "random")
    ready = torch.randn(BATCH, 3, 224, 224)

    def bare() -> None:
        with torch.inference_mode():
            for _ in range(count // BATCH):
                encoder.model.encode_image(ready)

    def stage(number: int) -> None:
        asked = {"encoder": "ViT-B-32", "weights": "random", "precision": "float32"}
        embed_images(BuildDatabase(root=root, name=f"p-{number}", shards="p", **asked))

    bare()
    seconds = [(timed(lambda n=number: stage(n)), timed(bare)) for number in range(2)]
    ours, network = (min(column) for column in zip(*seconds, strict=True))
    return count / ours, count // BATCH * BATCH / network


def grown(root: Path, count: int) -> dict[str, float]:
    """Seconds of one embedding, and the peak memory of the process."""
    start(root)
    from flows.config.database import BuildDatabase
    from flows.config.images import ImportImages
    from flows.data.build_database import embed_images
    from flows.data.encoders import encoder_of
    from flows.data.import_images import import_images

    drawn = {
        "source": "shapes",
        "size": 32,
        "encoding": "png",
        "count": count,
        "images_per_part": PER_PART,
    }
    import_images(ImportImages(root=root, name="s", **drawn))
    encoder_of("rdm-shapes", "built-in")
    asked = BuildDatabase(root=root, name="s", shards="s", encoder="rdm-shapes", weights="built-in")
    seconds = timed(lambda: embed_images(asked))
    return {
        "seconds": seconds,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def start(root: Path) -> None:
    """Prefect's start-up is in no figure."""
    from flows.run import environment

    environment.prepare(root)
    from prefect import flow

    flow(lambda: None, name="start-up")()


def photographs(folder: Path, count: int) -> None:
    """JPEGs whose bytes are about those of photographs: smooth shapes with some grain."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize(
            (256, 256)
        )
        grain = rng.normal(0, 6, (256, 256, 3))
        pixels = (np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:06d}.jpg", "JPEG", quality=95)


def timed(work: object) -> float:
    """Seconds on the wall."""
    began = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
