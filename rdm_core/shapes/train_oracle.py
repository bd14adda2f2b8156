"""Train the oracle: `python -m rdm_core.shapes.train_oracle --out oracle.safetensors`.

    render split "oracle" -> resize to 32 -> blur, noise, shifts, light -> cross-entropy of seven
    heads

The gates the result must pass are in tests/rdm_core/shapes/test_oracle.py.
"""

import argparse
import time
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from rdm_core.shapes import world
from rdm_core.shapes.oracle import SIDE, ShapesOracle, load_oracle, to_input

SIDES = (32, 64)
BATCH = 256


def main() -> None:
    """Render, train, save, measure on held-out renders."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="where the weights go (.safetensors)"
    )
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--images", type=int, default=20_000, help="how many renders to train on")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    images, targets = training_images(args.images, args.threads)
    oracle = ShapesOracle()
    train(oracle, images, targets, args.steps)
    save_file({name: value.contiguous() for name, value in oracle.state_dict().items()}, args.out)
    for side in SIDES:
        measured = accuracy(load_oracle(args.out), "heldout", 2000, side)
        print(
            f"held out, {side} pixels:", {name: round(value, 4) for name, value in measured.items()}
        )


def training_images(count: int, processes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Render `count` images of split "oracle", alternating sides.

    Returns images float32 [count, 3, SIDE, SIDE] in -1..1 and codes int64 [count, 7], in the order
    of world.FACTORS.
    """
    with Pool(processes) as pool:
        rendered = pool.map(_training_image, range(count), chunksize=256)
    images = torch.from_numpy(np.concatenate([image for image, _ in rendered]))
    return images, torch.tensor([codes for _, codes in rendered])


def _training_image(index: int) -> tuple[np.ndarray, list[int]]:
    sample = world.sample("oracle", index, SIDES[index % len(SIDES)])
    codes = [world.VALUES[name].index(getattr(sample.factors, name)) for name in world.FACTORS]
    # As an array: each tensor would take a file handle on its way between processes.
    return to_input(sample.pixels[None]).numpy(), codes


def train(oracle: ShapesOracle, images: torch.Tensor, targets: torch.Tensor, steps: int) -> None:
    """Fit the oracle in place: AdamW, one cycle of the learning rate, equal weight for each
    head.
    """
    oracle.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch takes it, its stubs do not
    optimizer = torch.optim.AdamW(oracle.parameters(), lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 3e-3, total_steps=steps, pct_start=0.1
    )
    started = time.time()
    for step in range(steps):
        rows = torch.randint(0, len(images), (BATCH,))
        with torch.autocast("cpu", torch.bfloat16):
            logits = oracle(augment(images[rows]))
        losses = [
            F.cross_entropy(logits[name].float(), targets[rows, column], label_smoothing=0.02)
            for column, name in enumerate(world.FACTORS)
        ]
        optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            shown = "  ".join(
                f"{name} {loss.item():.2f}"
                for name, loss in zip(world.FACTORS, losses, strict=True)
            )
            print(f"step {step:5d}  {shown}  {time.time() - started:.0f} s", flush=True)


def augment(images: torch.Tensor) -> torch.Tensor:
    """Shifts, blur, light, contrast and noise: what a generated picture may suffer from.

    float32 [B, 3, SIDE, SIDE] in -1..1, in and out.
    """
    batch = len(images)
    padded = F.pad(images, (2, 2, 2, 2), mode="replicate")
    shifts = torch.randint(0, 5, (8, 2)).tolist()
    images = torch.cat(
        [
            part[:, :, down : down + SIDE, right : right + SIDE]
            for part, (down, right) in zip(padded.tensor_split(8), shifts, strict=True)
        ]
    )
    blurred = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    images = torch.lerp(
        images, blurred, 0.8 * torch.rand(batch, 1, 1, 1) * (torch.rand(batch, 1, 1, 1) < 0.5)
    )
    images = images * (1 + 0.3 * (torch.rand(batch, 1, 1, 1) - 0.5)) + 0.3 * (
        torch.rand(batch, 1, 1, 1) - 0.5
    )
    images = images + torch.randn_like(images) * 0.2 * torch.rand(batch, 1, 1, 1) ** 2
    return images.clamp(-1, 1).contiguous(memory_format=torch.channels_last)


def accuracy(oracle: ShapesOracle, split: str, count: int, side: int) -> dict[str, float]:
    """Share of the first `count` pictures of a split whose value of each factor is told right."""
    samples = [world.sample(split, index, side) for index in range(count)]
    told = oracle.predict(np.stack([sample.pixels for sample in samples]))
    return {
        name: float(
            np.mean(
                [
                    value == getattr(sample.factors, name)
                    for value, sample in zip(told[name], samples, strict=True)
                ]
            )
        )
        for name in world.FACTORS
    }


if __name__ == "__main__":
    main()
