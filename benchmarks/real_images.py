"""The path through an autoencoder on real images at 64 pixels: what each stage counts, and its
images a second.

    python -m benchmarks.real_images DIRECTORY [--steps 60] [--out sheet.png]

DIRECTORY holds coco/, openimages/ and wikiart/ in the layouts their readers know. COCO is trained
on, with neighbors from OpenImages; samples are drawn from OpenImages and, the weights untouched,
from WikiArt. CLIP has no meaning here (ViT-B/32 with random weights: its arithmetic is the real
one), the autoencoder (an AutoencoderKL, 64x64x3 to 16x16x4) is trained first, on the same images. A
few hundred images and steps give no pictures; they give figures of every stage.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from rdm_core.decode import decode
from rdm_core.images import encode, grid
from storage.artifact import Artifact
from storage.shards import read_images

ENCODER = {"encoder": "ViT-B-32", "weights": "random"}
NETWORK = {
    "network": "unet",
    "channels": [64, 128],
    "depth": 2,
    "attention_levels": [1],
    "head_channels": 32,
}
SAMPLES = 16
AUTOENCODER_STEPS = 120


def main() -> None:
    """Every stage once, and a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        run(Path(directory), options.data.resolve(), options.steps, options.out)


def run(root: Path, data: Path, steps: int, out: Path | None) -> None:
    """images -> shards -> embeddings -> tables -> latents -> run -> samples, at 64 pixels."""
    from flows.run import environment

    environment.prepare(root)
    from prefect import flow

    from flows.config.database import BuildDatabase, EncodeLatents, FindNeighbors
    from flows.config.images import ImportImages
    from flows.config.sample import SampleRDM
    from flows.config.train import TrainRDM
    from flows.data.build_database import build_database
    from flows.data.encode_latents import encode_latents
    from flows.data.encoders import encoder_of
    from flows.data.find_neighbors import find_neighbors
    from flows.data.import_images import import_images
    from flows.model.sample import sample_rdm
    from flows.model.train_rdm import train_rdm

    flow(lambda: None, name="start-up")()
    crops: dict[str, dict[str, Any]] = {
        "openimages": {"crop": "random", "crops_per_image": 2, "frame": 96}
    }
    shards = {}
    for name in ("coco", "openimages", "wikiart"):
        images = ImportImages(
            root=root, name=name, source=name, path=data / name, size=64, **crops.get(name, {})
        )
        shards[name] = told(f"import {name}", lambda images=images: import_images(images))
    encoder_of(*ENCODER.values())  # its loading is in no figure
    for name in shards:
        config = BuildDatabase(root=root, name=name, shards=name, **ENCODER)
        told(f"embed and index {name}", lambda config=config: build_database(config)[0])
    began = time.perf_counter()
    autoencoder, error = trained_autoencoder(
        [pixels for artifact in shards.values() for pixels in images_of(artifact)]
    )
    seconds = time.perf_counter() - began
    print(
        f"autoencoder: {AUTOENCODER_STEPS} steps of 8 in {seconds:.1f} s, "
        f"mean squared error {error:.4f} of [-1, 1]"
    )
    autoencoder.save_pretrained(root / "autoencoder")
    told(
        "encode coco",
        lambda: encode_latents(
            EncodeLatents(
                root=root, name="coco", shards="coco", autoencoder=str(root / "autoencoder")
            )
        ),
    )
    told(
        "neighbors of coco in openimages",
        lambda: find_neighbors(
            FindNeighbors(root=root, name="coco", queries="coco", database="openimages")
        ),
    )
    parts: dict[str, dict[str, Any]] = {
        "model": {"denoiser": NETWORK},
        "training": {"steps": steps, "batch": 16, "learning_rate": 5e-4},
        "reporting": {"log_steps": 10, "checkpoint_steps": steps},
    }
    inputs = {"latents": "coco", "neighbors": "coco", "database": "openimages"}
    config = TrainRDM(root=root, name="coco", **inputs, **parts, device="cpu")
    told("train", lambda: train_rdm(config), steps * 16)
    asked = {
        "root": root,
        "run": "coco",
        "texts": ("a dog",),
        "context": "neighbors",
        "count": SAMPLES,
        "draw": {"steps": 20},
    }
    own = told("sample from openimages", lambda: sample_rdm(SampleRDM(**asked, name="own")))
    art = told(
        "sample from wikiart",
        lambda: sample_rdm(SampleRDM(**asked, name="art", database="wikiart")),
    )
    if out:
        cells = [
            decode(path.read_bytes())
            for artifact in (own, art)
            for path in sorted(artifact.directory.rglob("0*.png"))
        ]
        out.write_bytes(encode(grid(cells, columns=SAMPLES), "png"))


def told(what: str, stage: Callable[[], Artifact], images: int | None = None) -> Artifact:
    """Run a stage and print what it counted."""
    began = time.perf_counter()
    artifact = stage()
    seconds, count = time.perf_counter() - began, images or artifact.rows
    print(
        f"{what}: {count:,} images in {seconds:.1f} s, {count / seconds:.1f} images/s", flush=True
    )
    return artifact


def images_of(shards: Artifact) -> list[np.ndarray]:
    """Every accepted crop, uint8 [64, 64, 3]."""
    return [decode(data) for part in shards.parts for _, data in read_images(shards, part.name)]


def trained_autoencoder(images: list[np.ndarray]) -> tuple[Any, float]:
    """A small AutoencoderKL that has learned to copy these images, and its last mean squared
    error.
    """
    torch.manual_seed(0)
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    }
    widths = {
        "block_out_channels": (24, 48, 48),
        "norm_num_groups": 8,
        "latent_channels": 4,
        "layers_per_block": 1,
    }
    model: Any = AutoencoderKL(**blocks, **widths)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    every = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    for _ in range(AUTOENCODER_STEPS):
        batch = every[torch.randint(len(every), (8,))]
        posterior = model.encode(batch).latent_dist
        error = functional.mse_loss(model.decode(posterior.sample()).sample, batch)
        optimizer.zero_grad()
        (error + 1e-4 * posterior.kl().mean() / posterior.mean[0].numel()).backward()
        optimizer.step()
    with torch.no_grad():
        moments = model.encode(every).latent_dist.mode()
    model.register_to_config(scaling_factor=float(1 / moments.std()))
    return model.eval(), error.item()


if __name__ == "__main__":
    main()
