"""Train the autoencoders of the built-in world: `python -m rdm_core.shapes.train_autoencoders
--name kl --work FOLDER`.

    render split "autoencoder" of the whole world at 64 pixels, once -> FOLDER/images.npy
    -> AutoencoderTraining, a checkpoint now and then -> FOLDER/NAME -> measures of held-out renders

Killed and started again it goes on from its last checkpoint.  Hours on one core; what came of it,
and in what time, is in docs/built-in-autoencoders.md.  The gates are in
tests/rdm_core/shapes/test_autoencoders.py.
"""

import argparse
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from rdm_core.autoencoders.config import AutoencoderConfig, AutoencoderReporting
from rdm_core.autoencoders.loop import Hooks, train_to_the_end
from rdm_core.autoencoders.measures import deviation_of_latents, reconstruct
from rdm_core.autoencoders.train import AutoencoderTraining, State
from rdm_core.errors import TrainingStopped
from rdm_core.images import side_by_side
from rdm_core.shapes import world
from rdm_core.shapes.autoencoders import SIDE, heldout, measure, missed

IMAGES = 20_000
CHECKPOINT_STEPS = 250
SCALE_IMAGES = 512
"""Pictures whose latents say what makes them of order 1."""
_SHARED = AutoencoderConfig(
    l1=0.3,
    l2=3.0,
    gradient=0.3,
    texture=1.0,
    grain=20.0,
    details_from=1200,
    codebook_from=800,
    learning_rate=1e-3,
    steps=7500,
)
CONFIGS = {
    "kl": replace(_SHARED, kind="kl", latent_channels=16, kl=1e-3),
    "vq": replace(_SHARED, kind="vq", widths=(16, 32, 64)),
    "vq-f8": replace(_SHARED, kind="vq"),
}


def main() -> None:
    """Render, train, save, measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", choices=tuple(CONFIGS), required=True)
    parser.add_argument("--work", type=Path, required=True, help="for images and checkpoints")
    parser.add_argument("--out", type=Path, help="the diffusers folder (FOLDER/NAME)")
    parser.add_argument("--steps", type=int, help="instead of the config's")
    parser.add_argument("--until", type=int, help="stop after so many steps and measure")
    parser.add_argument("--begin-with", type=Path, help="a diffusers folder: its weights")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="NAME=NUMBER of the config")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    images = training_images(args.work / "images.npy")
    config = CONFIGS[args.name]
    for one in args.set:
        field, value = one.split("=")
        config = replace(config, **{field: type(getattr(config, field))(float(value))})
    if args.steps:
        config = replace(config, steps=args.steps)
    training = AutoencoderTraining(config, images, autocast=True)
    if args.begin_with:
        begin_with(training, args.begin_with)
    train(training, args.work / f"{args.name}.safetensors", args.until or config.steps)
    model = scaled(training.averaged(), images)
    save(model, args.out or args.work / args.name)
    report(model)


def training_images(path: Path, count: int = IMAGES) -> np.ndarray:
    """Pictures uint8 [count, SIDE, SIDE, 3] of split "autoencoder", drawn once and kept."""
    if not path.exists():
        with Pool() as pool:
            drawn = pool.map(_training_image, range(count), chunksize=256)
        started = path.with_suffix(".part.npy")
        np.save(started, np.stack(drawn))
        started.replace(path)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _training_image(index: int) -> np.ndarray:
    return world.sample("autoencoder", index, SIDE).pixels


def begin_with(training: AutoencoderTraining, folder: Path) -> None:
    """Give a training the weights of a diffusers folder, also for their running means."""
    training.model.load_state_dict(type(training.model).from_pretrained(folder).state_dict())
    training.means = [parameter.detach().clone() for parameter in training.model.parameters()]


def train(training: AutoencoderTraining, checkpoint: Path, until: int) -> None:
    """Go on from the checkpoint, if there is one, until so many steps are done."""
    if checkpoint.exists():
        training.restore(load_file(checkpoint))
    if training.done >= until:
        return
    started, first = time.time(), training.done

    def tell(record: Mapping[str, float]) -> None:
        means = "  ".join(f"{name} {value:.4f}" for name, value in record.items() if name != "step")
        rate = (time.time() - started) / (training.done - first)
        alive = ""
        if training.codebook is not None:
            alive = f"  alive {float(training.codebook.alive.float().mean()):.2f}"
        print(f"step {record['step']:6d}  {means}{alive}  {rate:.2f} s a step", flush=True)

    def save_state(step: int, state: State) -> None:
        part = checkpoint.with_suffix(".part")
        save_file(state, part)
        part.replace(checkpoint)

    hooks = Hooks(tell, save_state, stopping=lambda: training.done >= until)
    with suppress(TrainingStopped):  # at `until`, with its state kept
        train_to_the_end(training, hooks, AutoencoderReporting(50, CHECKPOINT_STEPS))


def scaled(model: Any, images: np.ndarray) -> Any:
    """The model, whose config now says what makes its latents of order 1: 1 / their deviation."""
    deviation = deviation_of_latents(model, images[:SCALE_IMAGES])
    model.register_to_config(scaling_factor=round(1 / deviation, 5))
    return model


def save(model: Any, folder: Path) -> None:
    """Write a diffusers folder in half precision; the model then has what the folder holds."""
    model.half().save_pretrained(folder, safe_serialization=True)
    model.float()


def report(model: Any, count: int = 2000) -> None:
    """Print what held-out renders measure, and which gates they miss."""
    images, factors = heldout(count)
    measured = measure(model, images, factors)
    print({name: round(value, 4) for name, value in measured.items()})
    print("missed:", missed(measured) or "none")


def sheet(model: Any, columns: int = 12, pairs: int = 3) -> np.ndarray:
    """Rows of held-out pictures, each above the row of its reconstructions: uint8 [H, W, 3]."""
    images, _ = heldout(columns * pairs)
    made, _ = reconstruct(model, images)
    return side_by_side(images, made, columns, len(images))


if __name__ == "__main__":
    main()
