"""The smallest networks and data that the core's tests need."""

import numpy as np
import pytest
import torch
from tiny import DIMENSION, PROCESSES, TINY

from rdm_core.clip import BUILT_IN, Encoder, load_encoder
from rdm_core.data import StoredLatents, TrainingData
from rdm_core.families.diffusion.config import DenoiserConfig
from rdm_core.families.diffusion.denoiser import Denoiser, build_denoiser
from rdm_core.families.diffusion.model import Diffusion
from rdm_core.families.diffusion.noise import FlowMatching, Process
from rdm_core.families.facts import Shape
from rdm_core.latents import PIXELS, load_latent_space
from rdm_core.shapes import encoder as shapes_encoder

PEAK = 1e12
"""Operations a second of the device that a test trains on."""


@pytest.fixture(params=list(TINY))
def tiny_config(request) -> DenoiserConfig:
    """Each network in turn, as small as it gets; for latents of 3 channels and vectors of
    DIMENSION.
    """
    return TINY[request.param]


@pytest.fixture(params=list(PROCESSES))
def process(request) -> Process:
    """Each forward process in turn."""
    return PROCESSES[request.param]


@pytest.fixture
def tiny_denoiser():
    """A function: configuration -> a denoiser for [*, 3, 8, 8] whose every parameter, the nulls
    too, is away from zero.
    """

    def build(config: DenoiserConfig = TINY["transformer"], seed: int = 0) -> Denoiser:
        denoiser = build_denoiser(config, 3, 8, DIMENSION, seed)
        with torch.no_grad():
            for parameter in denoiser.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            if config.remove_means:
                denoiser.means.copy_(0.3 * torch.randn(2, DIMENSION))
        return denoiser.eval()

    return build


@pytest.fixture
def tiny_model(tiny_denoiser):
    """A function: configuration, seed, process -> a model in pixel space that denoises with such a
    denoiser.
    """

    def build(
        config: DenoiserConfig = TINY["transformer"],
        seed: int = 0,
        process: Process = FlowMatching(),  # noqa: B008 - frozen
    ) -> Diffusion:
        denoiser, space = tiny_denoiser(config, seed), load_latent_space(PIXELS)
        return Diffusion(denoiser, process, Shape(space.channels, 8, DIMENSION), space).eval()

    return build


@pytest.fixture
def peak(monkeypatch) -> float:
    """Nothing is measured when a training begins: the device's limit is known."""
    limit = "rdm_core.train.matmul_flops_per_second"  # imported by those who train
    monkeypatch.setattr(limit, lambda device, precision: PEAK)
    return PEAK


@pytest.fixture
def tiny_data():
    """A function: sample count -> data of one colour each, whose own vector and nearest neighbor's
    tell the colour.
    """

    def build(count: int = 16, k: int = 2, seed: int = 0) -> TrainingData:
        rng = np.random.default_rng(seed)
        vectors = rng.standard_normal((count, DIMENSION))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        colours = np.clip(127.5 + 200 * vectors[:, :3], 0, 255).astype(np.uint8)
        latents = np.broadcast_to(colours[:, :, None, None], (count, 3, 8, 8))
        rows = np.stack([(np.arange(count) + i) % count for i in range(k)], axis=1)
        scores = np.tile(np.linspace(0.9, 0.5, k, dtype=np.float32), (count, 1))
        stored, norms, half = vectors.astype(np.float16), np.full(count, 10.0), count // 2
        parts = StoredLatents([latents[:half], latents[half:]])
        return TrainingData(
            parts, rows, scores, stored, norms, query_vectors=stored, query_norms=norms
        )

    return build


@pytest.fixture(scope="session")
def small() -> Encoder:
    """The built-in encoder."""
    return load_encoder(shapes_encoder.MODEL_NAME, BUILT_IN)


@pytest.fixture(scope="session")
def pictures() -> list[np.ndarray]:
    """Noise of different sizes, taller and wider than high, smaller and larger than the tower's
    input.
    """
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
        for h, w in [(64, 64), (40, 90), (200, 70), (65, 64), (9, 9)]
    ]
