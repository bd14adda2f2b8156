"""How much of a training step is the network? The whole loop against the bare forward, backward and
update.

    python benchmarks/training_overhead.py [--steps 60]

Prints both rates and their ratio; 1.0 would be a loop that costs nothing beside its network.
"""

import argparse
import time

import numpy as np
import torch

from flows.config.presets import PRESETS
from rdm_core.config import ContextConfig, ReportingConfig, TrainingConfig
from rdm_core.context import Context
from rdm_core.data import StoredLatents, TrainingData
from rdm_core.families import config_of, family_of
from rdm_core.families.diffusion.model import Diffusion
from rdm_core.families.facts import Shape
from rdm_core.latents import load_latent_space
from rdm_core.train import Hooks, train

PRESET = PRESETS["shapes-pixels"]
BATCH, DIMENSION = PRESET["training"]["batch"], 64


def main() -> None:
    """Time both, alternating, and print the median ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    steps = parser.parse_args().steps
    pairs = [(loop_seconds(steps), bare_seconds(steps)) for _ in range(3)]
    loop, bare = sorted(pairs, key=lambda pair: pair[1] / pair[0])[1]
    print(
        f"whole loop {steps / loop:.2f} steps/s, bare network {steps / bare:.2f} steps/s, "
        f"ratio {bare / loop:.3f}"
    )


def model() -> Diffusion:
    """The preset's model."""
    config = config_of(PRESET["model"]["family"]).of(PRESET["model"])
    space, shape = load_latent_space("pixels"), Shape(3, 32, DIMENSION)
    return family_of(PRESET["model"]["family"]).build(config, shape, space, seed=0)


def loop_seconds(steps: int) -> float:
    """Seconds of `train` over random data."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((1000, DIMENSION)).astype(np.float16)
    latents = [rng.integers(0, 256, (1000, 3, 32, 32), dtype=np.uint8)]
    scores = np.full((1000, 20), 0.5, np.float32)
    data = TrainingData(
        StoredLatents(latents),
        rng.integers(0, 1000, (1000, 20)),
        scores,
        vectors,
        np.ones(1000, np.float32),
    )
    config = TrainingConfig(**PRESET["training"] | {"steps": steps, "optimizer": "adamw"})
    context, reporting = ContextConfig(**PRESET["context"]), ReportingConfig(checkpoint_steps=10**9)
    hooks = Hooks(lambda record, speed: None, lambda step, state: None)
    start = time.monotonic()
    train(model(), data, config, hooks, context=context, reporting=reporting)
    return time.monotonic() - start


def bare_seconds(steps: int) -> float:
    """Seconds of the network's own forward, backward and AdamW update on one fixed batch."""
    denoiser = model().denoiser
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
