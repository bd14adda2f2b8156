"""What does the host do for each image before the encoder sees it? Our path against open_clip's
transform over webdataset.

    python -m benchmarks.embedding_host [--images 400]

Shards of JPEGs (quality 95) are read, decoded, scaled to 224 pixels and stacked; the network is
left out. CPU seconds of one thread, alternating, best of three.
"""

import argparse
import io
import itertools
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import webdataset
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from rdm_core.preparation import decode_stored, preparation_of

CLIP = {"size": 224, "interpolation": "bicubic", "resize_mode": "shortest"}
CLIP |= {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
BATCH = 64


def main() -> None:
    """Both paths over shards of two sizes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=400)
    images = parser.parse_args().images
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        for height, width in ((500, 400), (256, 256)):
            shard = Path(directory) / f"{width}.tar"
            write_shard(shard, images, height, width)
            times = [
                (cpu_seconds(lambda s=shard: ours(s)), cpu_seconds(lambda s=shard: theirs(s)))
                for _ in range(3)
            ]
            mine, peer = (images / min(column) for column in zip(*times, strict=True))
            print(
                f"{width}x{height}: ours {mine:,.0f} images/s, open_clip over webdataset "
                f"{peer:,.0f}, ratio {mine / peer:.2f}"
            )


def write_shard(path: Path, count: int, height: int, width: int) -> None:
    """A tar of JPEGs whose bytes are about those of photographs: smooth shapes with some grain."""
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize(
                (width, height)
            )
            grain = rng.normal(0, 6, (height, width, 3))
            file = io.BytesIO()
            Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)).save(
                file, "JPEG", quality=95
            )
            member = tarfile.TarInfo(f"{number:06d}.jpg")
            member.size = file.tell()
            file.seek(0)
            tar.addfile(member, file)


def ours(shard: Path) -> int:
    """As `embed_parts` does: the tar's members, decoded, resized and stacked as uint8."""
    preparation, count = preparation_of(CLIP), 0
    assert preparation is not None
    with tarfile.open(shard, "r:") as tar:
        images = (decode_stored(tar.extractfile(member).read()) for member in tar)  # type: ignore[union-attr]
        while batch := list(itertools.islice(images, BATCH)):
            count += len(preparation.resized(batch))
    return count


def theirs(shard: Path) -> int:
    """Pillow images through open_clip's transform, stacked as floats."""
    transform = image_transform_v2(PreprocessCfg(**CLIP), is_train=False)
    images = (
        transform(sample["jpg"])
        for sample in webdataset.WebDataset(str(shard), shardshuffle=False).decode("pil")
    )
    count = 0
    while batch := list(itertools.islice(images, BATCH)):
        count += len(torch.stack(batch))
    return count


def cpu_seconds(work: Callable[[], int]) -> float:
    """CPU time of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
