"""How near is the memory that `rdm_core.needs` tells before a training to what the training takes?

    python -m benchmarks.memory_estimate [--steps 3] [--case NAME ...]

Each case trains in a process of its own, over made-up data. On a CPU "alive" is how far the process
grew when freed blocks go back to the system at once (MALLOC_MMAP_THRESHOLD_=65536), which is what
is estimated, and "default" how far it grew with glibc's own settings, which keep freed blocks. On
CUDA they are what torch's allocator had allocated, and had reserved, at most.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from rdm_core.config import ContextConfig, ExecutionConfig, TrainingConfig
from rdm_core.data import StoredLatents, TrainingData
from rdm_core.device import best_device
from rdm_core.families import family_of
from rdm_core.families.diffusion.config import Config, DenoiserConfig
from rdm_core.families.facts import Shape
from rdm_core.latents import PIXELS, load_latent_space
from rdm_core.needs import memory_needed
from rdm_core.train import Hooks, train

DIMENSION = 512
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Blocks of 64 KiB and more are mapped singly, so that a freed one is the system's again."""
UNET = Config(denoiser=DenoiserConfig(channels=(96, 192, 288, 384), depth=1))  # 52.8 M parameters
WIDE = Config(
    denoiser=DenoiserConfig(channels=(96, 192, 288), depth=2, attention_levels=(2,))
)  # 33.1 M
TRANSFORMER = Config(
    denoiser=DenoiserConfig("transformer", (384,), depth=12, head_channels=64)
)  # 29.9 M
PLAIN, CHECKPOINTED = ExecutionConfig(), ExecutionConfig(gradient_checkpointing=True)

# name: model, side of its images, k and training, execution
CASES: dict[str, tuple[Config, int, dict[str, Any], ExecutionConfig]] = {
    "unet": (UNET, 64, {"batch": 8}, PLAIN),
    "unet checkpointed": (UNET, 64, {"batch": 20}, CHECKPOINTED),
    "unet bf16 posthoc": (UNET, 64, {"batch": 8, "precision": "bf16", "posthoc_ema": True}, PLAIN),
    "unet of one image": (UNET, 64, {"batch": 1}, PLAIN),
    "wide unet": (WIDE, 96, {"batch": 8}, PLAIN),
    "wide unet checkpointed": (WIDE, 96, {"batch": 8}, CHECKPOINTED),
    "transformer": (TRANSFORMER, 32, {"batch": 24, "k": 8}, PLAIN),
    "transformer bf16 in 2 pieces": (
        TRANSFORMER, 32, {"batch": 64, "k": 8, "precision": "bf16"}, ExecutionConfig(accumulate=2),
    ),
}  # fmt: skip


def main() -> None:
    """One line a case."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--case", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--train", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        print(growth_bytes(options.train, options.steps))
        return
    print(f"{best_device().type}, in GB")
    print(f"{'case':30} estimated     in  alive  ratio  default  ratio")
    for name in options.case:
        began = time.monotonic()
        estimated = estimate_bytes(name)
        seconds = time.monotonic() - began
        alive = in_a_process(name, options.steps, RETURNED)
        default = in_a_process(name, options.steps, {})
        print(
            f"{name:30} {estimated / 1e9:9.2f} {seconds:4.1f} s {alive / 1e9:6.2f} "
            f"{estimated / alive:6.2f} {default / 1e9:8.2f} {estimated / default:6.2f}",
            flush=True,
        )


def estimate_bytes(name: str) -> int:
    """What is told before."""
    model, side, training, execution = CASES[name]
    shape, device = Shape(3, side, DIMENSION), best_device()
    config, context = learned(training)
    return memory_needed(model, config, execution, context.k, shape, device).peak_bytes


def learned(training: dict[str, Any], **changes: Any) -> tuple[TrainingConfig, ContextConfig]:
    """How a case is trained, and with how many neighbors."""
    given = training | changes
    k = given.pop("k", ContextConfig().k)
    return TrainingConfig(**given), ContextConfig(k=k)


def in_a_process(name: str, steps: int, settings: dict[str, str]) -> int:
    """What a process that trains grew by at most, in bytes."""
    options = ["--steps", str(steps), "--train", name]
    again = [sys.executable, "-m", "benchmarks.memory_estimate", *options]
    environment = os.environ | settings
    ended = subprocess.run(
        again, env=environment, stdout=subprocess.PIPE, encoding="utf-8", check=True
    )
    return int(ended.stdout)


def growth_bytes(name: str, steps: int) -> int:
    """Train, and tell how far this process grew over what it had before there was a network."""
    config, side, training, execution = CASES[name]
    data, space = made_up_data(side), load_latent_space(PIXELS)
    hooks = Hooks(lambda record, speed: None, lambda step, state: None)
    before = psutil.Process().memory_info().rss
    shape = Shape(space.channels, side, DIMENSION)
    model = family_of(config.family).build(config, shape, space)
    how, context = learned(training, steps=steps)
    train(model, data, how, hooks, context=context, execution=execution)
    if best_device().type == "cuda":
        returned = os.environ.items() >= RETURNED.items()
        return torch.cuda.max_memory_allocated() if returned else torch.cuda.max_memory_reserved()
    # Not getrusage's ru_maxrss: that begins with what the parent had.
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")) - before


def made_up_data(side: int) -> TrainingData:
    """100 images of noise and 1000 vectors."""
    rng = np.random.default_rng(0)
    latents = [rng.integers(0, 256, (100, 3, side, side), dtype=np.uint8)]
    vectors = rng.standard_normal((1000, DIMENSION)).astype(np.float16)
    scores = np.full((100, 20), 0.5, np.float32)
    rows, norms = rng.integers(0, 1000, (100, 20)), np.ones(1000, np.float32)
    return TrainingData(StoredLatents(latents), rows, scores, vectors, norms)


if __name__ == "__main__":
    main()
