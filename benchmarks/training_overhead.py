"""How much of a training step is the network? The whole loop against the bare forward, backward and
update.

    python benchmarks/training_overhead.py [--steps 60]

Prints both rates and their ratio; 1.0 would be a loop that costs nothing beside its network.
"""

import argparse
import time

import numpy as np
import torch
from rdm_core.denoiser import build_denoiser
from rdm_core.noise import process_of

from flows.presets import PRESETS
from rdm_core.config import DenoiserConfig, NoiseConfig, TrainingConfig
from rdm_core.context import Context
from rdm_core.data import TrainingData
from rdm_core.latents import load_latent_space
from rdm_core.train import Hooks, train

PRESET = PRESETS["shapes"]
BATCH, DIMENSION = PRESET["training"]["batch"], 64


def main() -> None:
    """Time both, alternating, and print the median ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    steps = parser.parse_args().steps
    pairs = [(loop_seconds(steps), bare_seconds(steps)) for _ in range(3)]
    loop, bare = sorted(pairs, key=lambda pair: pair[1] / pair[0])[1]
    print(
        f"whole loop {steps / loop:.2f} steps/s, "
        f"bare network {steps / bare:.2f} steps/s, ratio {bare / loop:.3f}"
    )


def network() -> torch.nn.Module:
    """The preset's denoiser."""
    torch.manual_seed(0)
    return build_denoiser(DenoiserConfig(**PRESET["denoiser"]), 3, 32, DIMENSION)


def loop_seconds(steps: int) -> float:
    """Seconds of `train` over random data."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1000, DIMENSION)).astype(np.float16)
    latents = [rng.integers(0, 256, (1000, 3, 32, 32), dtype=np.uint8)]
    scores = np.full((1000, 20), 0.5, np.float32)
    data = TrainingData(
        latents, rng.integers(0, 1000, (1000, 20)), scores, vectors, np.ones(1000, np.float32)
    )
    config = TrainingConfig(**PRESET["training"] | {"steps": steps, "checkpoint_steps": 10**9})
    hooks = Hooks(lambda record, speed: None, lambda step, state: None)
    start = time.monotonic()
    train(
        network(),
        process_of(NoiseConfig(process="flow")),
        load_latent_space("pixels"),
        data,
        config,
        hooks,
    )
    return time.monotonic() - start


def bare_seconds(steps: int) -> float:
    """Seconds of the network's own forward, backward and AdamW update on one fixed batch."""
    denoiser = network()
    optimizer = torch.optim.AdamW(denoiser.parameters(), 1e-4)
    x, ones = torch.randn(BATCH, 3, 32, 32), torch.ones(BATCH, 4)
    context = Context(torch.randn(BATCH, 4, DIMENSION), ones, ones, ones.to(torch.int8))
    times = torch.rand(BATCH) * 1000
    start = time.monotonic()
    for _ in range(steps):
        optimizer.zero_grad()
        denoiser(x, times, context).square().mean().backward()
        optimizer.step()
    return time.monotonic() - start


if __name__ == "__main__":
    main()
