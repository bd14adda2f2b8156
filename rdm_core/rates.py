"""How fast this machine does what a pipeline does to every image, measured on a few images of
random pixels by networks with random weights: what the pixels and the weights are changes nothing.
"""

import io
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from rdm_core.clip import BUILT_IN, Encoder, load_encoder
from rdm_core.decode import decode
from rdm_core.images import crop_windows, encode
from rdm_core.latents import LatentSpace
from rdm_core.search import search_exact

PHOTOGRAPH = (480, 640)
"""Height and width of the photograph that importing is measured with: COCO's."""
QUERIES, ROWS = 256, 20_000
"""Of the search that the search of all is reckoned from."""
EMBEDDED_TOGETHER, ENCODED_TOGETHER = 16, 2


def per_second(work: Callable[[], Any], count: int, seconds: float) -> float:
    """How many of the `count` things of one call are done in a second: the first call, which warms
    up, is not counted unless it takes all of the time.
    """
    began = time.monotonic()
    work()
    first = time.monotonic() - began
    if first > seconds:
        return count / first
    began, calls = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        work()
        calls += 1
    return calls * count / (time.monotonic() - began)


def photograph() -> bytes:
    """A JPEG of PHOTOGRAPH's size, as smooth as photographs are: files of noise are ten times as
    large.
    """
    pixels = np.random.default_rng(0).integers(0, 255, (*PHOTOGRAPH, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2)).save(sink, "jpeg", quality=90)
    return sink.getvalue()


def import_rate(cut: Callable[[np.ndarray], list[np.ndarray]], encoding: str, quality: int,
                seconds: float) -> float:  # fmt: skip
    """Photographs a second that one core reads, cuts as `cut` does, and encodes."""
    file = photograph()

    def one() -> None:
        for window in cut(decode(file)):
            encode(window, encoding, quality)

    return per_second(one, 1, seconds)


def windows_of(size: int, crop: str, count: int, frame: int) -> Callable[..., list[np.ndarray]]:
    """How an import cuts an image uint8 [H, W, 3]: into windows uint8 [size, size, 3]."""

    def cut(pixels: np.ndarray) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        return [window for window, _ in crop_windows(pixels, size, crop, count, frame, rng)]

    return cut


def encoder_like(name: str, weights: str, device: torch.device) -> Encoder:
    """The encoder, with its own weights if they are built in, else with random ones."""
    with _quiet():  # that weights are random is what is wanted
        return load_encoder(name, weights if weights.startswith(BUILT_IN) else "random", device)


def embedding_rate(encoder: Encoder, side: int, seconds: float) -> float:
    """Images of a side a second that an encoder embeds."""
    images = _images(side, EMBEDDED_TOGETHER)
    return per_second(lambda: encoder.encode_images(images), len(images), seconds)


def usual_space(name: str) -> LatentSpace:
    """A latent space of the form of Stable Diffusion's first: f8, four channels, 84 M parameters,
    with random weights.
    """
    from diffusers import AutoencoderKL

    form: Any = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
    )  # fmt: skip
    return LatentSpace(name, 4, 8, form.eval().requires_grad_(False), "")


def encoding_rate(space: LatentSpace, side: int, seconds: float) -> float:
    """Images of a side a second that an autoencoder encodes."""
    images = _images(side, ENCODED_TOGETHER)
    return per_second(lambda: space.encode(images), len(images), seconds)


def search_seconds(rows: int, dimension: int, k: int) -> float:
    """Seconds in which each of so many vectors is compared with all others: what QUERIES and ROWS
    take, times how many more there are.
    """
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((ROWS, dimension), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    search_exact(vectors[:QUERIES], vectors, k)
    began = time.monotonic()
    search_exact(vectors[:QUERIES], vectors, k)
    return (time.monotonic() - began) * (rows / QUERIES) * (rows / ROWS)


def _images(side: int, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 255, (count, side, side, 3), dtype=np.uint8))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings in anybody's log."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
