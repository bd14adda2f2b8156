"""How well an autoencoder gives images back, and how it uses its codes."""

import math
from typing import Any

import numpy as np
import torch

from rdm_core.autoencoders.codebook import perplexity, share_in_use
from rdm_core.autoencoders.train import to_input
from rdm_core.codes import nearest_codes
from rdm_core.images import pieces
from rdm_core.judge.sharpness import edge_energy, grain

AT_ONCE = 64
"""Images that go through a network, or are compared, at once; fewer of large ones."""


@torch.no_grad()
def reconstruct(model: Any, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Images uint8 [N, H, W, 3] -> reconstructions, alike, and the codes int64 [N, h, w].

    An AutoencoderKL decodes the posterior's mean and has no codes: None.
    """
    made, numbers = [], []
    quantises = hasattr(model, "quantize")
    for piece in pieces(images.shape, AT_ONCE):
        encoded = model.encode(to_input(images[piece]).to(model.device))
        latents = encoded.latents if quantises else encoded.latent_dist.mode()
        decoded = model.decode(latents).sample.clamp(-1, 1)
        pixels = ((decoded + 1) * 127.5).round().to(torch.uint8)
        made.append(pixels.permute(0, 2, 3, 1).cpu().numpy())
        if quantises:
            vectors = latents.permute(0, 2, 3, 1)
            codes = nearest_codes(vectors.flatten(0, 2), model.quantize.embedding.weight)
            numbers.append(codes.view(vectors.shape[:3]).cpu().numpy())
    return np.concatenate(made), np.concatenate(numbers) if numbers else None


def mean_absolute_error(images: np.ndarray, others: np.ndarray) -> float:
    """Mean |a - b| of uint8 images [N, H, W, 3], in shares of the range 0..255."""
    total = 0
    for piece in pieces(images.shape, AT_ONCE):
        total += int(np.abs(images[piece].astype(np.int16) - others[piece]).sum(dtype=np.int64))
    return total / images.size / 255


def psnr(images: np.ndarray, others: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of uint8 images [N, H, W, 3], mean over the images.

    Equal images would have infinite dB; they count as if one level were wrong in one value.
    """
    least, total = 1 / np.prod(images.shape[1:]), 0.0
    for piece in pieces(images.shape, AT_ONCE):
        difference = images[piece].astype(np.float32) - others[piece]
        squared = np.square(difference).mean(axis=(1, 2, 3), dtype=np.float64)
        total += float((10 * np.log10(255**2 / np.maximum(squared, least))).sum())
    return total / len(images)


def likeness(images: np.ndarray, made: np.ndarray) -> dict[str, float]:
    """How near reconstructions come to their originals, both uint8 [N, H, W, 3], N of at least 1.

    Grain and edge energy are shares of the originals' (`rdm_core.judge.sharpness`); where these
    have none at all, there is no such row.
    """
    told = {"mean_absolute_error": mean_absolute_error(images, made), "psnr": psnr(images, made)}
    for name, measure in (("grain_kept", grain), ("edge_energy_kept", edge_energy)):
        of_originals = measure(images)
        if of_originals:
            told[name] = measure(made) / of_originals
    return told


@torch.no_grad()
def deviation_of_latents(model: Any, images: np.ndarray) -> float:
    """Standard deviation of the latents of images uint8 [N, H, W, 3], over all their numbers.

    Those of an AutoencoderKL are its posterior's means; the variances, which are small beside, have
    no part in it.
    """
    count, total, squares = 0, 0.0, 0.0
    for piece in pieces(images.shape, AT_ONCE):
        encoded = model.encode(to_input(images[piece]).to(model.device))
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        count += latents.numel()
        total += float(latents.double().sum())
        squares += float(latents.double().square().sum())
    return math.sqrt(max(0.0, squares / count - (total / count) ** 2))


def use_of_codes(codes: np.ndarray, count: int) -> dict[str, float]:
    """Codes int64 [...] of a codebook of `count` -> the share in use, and the perplexity."""
    numbers = torch.from_numpy(codes)
    return {
        "codes_in_use": share_in_use(numbers, count),
        "perplexity": perplexity(numbers, count),
    }
