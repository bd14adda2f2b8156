"""Many and large images are measured in as little memory as a few small ones."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rdm_core import images as module
from rdm_core.autoencoders.measures import (
    deviation_of_latents,
    likeness,
    mean_absolute_error,
    psnr,
    reconstruct,
)
from rdm_core.images import pieces


class Halves:
    """An autoencoder whose latents are the images, and whose reconstructions are half as bright."""

    device = "cpu"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def encode(self, x: torch.Tensor) -> SimpleNamespace:
        self.batches.append(len(x))
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: x))

    def decode(self, latents: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=(latents + 1) / 2 - 1)


def noise(count: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def test_errors_are_those_of_all_images_at_once_though_they_are_compared_in_pieces(monkeypatch):
    images, others = noise(150, 8), noise(150, 8, seed=1)
    monkeypatch.setattr(module, "MOST_PIXELS", 8 * 8 * 7)
    difference = images.astype(float) - others
    assert mean_absolute_error(images, others) == pytest.approx(np.abs(difference).mean() / 255)
    squared = np.square(difference).mean(axis=(1, 2, 3))
    assert psnr(images, others) == pytest.approx((10 * np.log10(255**2 / squared)).mean())


def test_comparing_images_holds_no_copy_of_all_of_them(monkeypatch):
    monkeypatch.setattr(module, "MOST_PIXELS", 32 * 32 * 4)
    images, others = noise(300, 32), noise(300, 32, seed=1)
    tracemalloc.start()
    try:
        likeness(images, others)
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held < images.nbytes / 2, "in floating point they are four times their bytes"


def test_fewer_of_large_images_go_through_an_autoencoder_at_once():
    small, large = Halves(), Halves()
    images = noise(5, 512)
    made, codes = reconstruct(large, images)
    assert large.batches == [4, 1] and codes is None
    np.testing.assert_allclose(made, images / 2, atol=1)
    deviation_of_latents(large, images)
    assert large.batches == [4, 1] * 2
    reconstruct(small, noise(70, 8))
    assert small.batches == [64, 6]


def test_pieces_hold_every_image_once_and_one_at_least(monkeypatch):
    monkeypatch.setattr(module, "MOST_PIXELS", 100)
    for shape, lengths in {
        (7, 5, 5, 3): [3, 3, 1],
        (2, 50, 9, 3): [1, 1],
        (0, 5, 5, 3): [],
    }.items():
        found = [list(range(shape[0]))[piece] for piece in pieces(shape, 3)]
        assert [len(numbers) for numbers in found] == lengths
        assert [number for numbers in found for number in numbers] == list(range(shape[0]))
