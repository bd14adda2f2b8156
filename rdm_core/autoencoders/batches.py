"""The images of each step, a function of (seed, step), read one step ahead of the training."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch

from rdm_core.autoencoders.config import AutoencoderConfig


class Images(Protocol):
    """N images of one size, which may be read only when they are asked for.  An array is one."""

    @property
    def dtype(self) -> Any:
        """uint8."""

    @property
    def ndim(self) -> int:
        """4."""

    @property
    def shape(self) -> tuple[Any, ...]:
        """(N, H, W, 3)."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, rows: Any, /) -> Any:
        """Rows int64 [B] -> images uint8 [B, H, W, 3]."""


def generator_of(seed: int, step: int) -> torch.Generator:
    """What is drawn in a step comes from here."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


class Batches:
    """The images of every step; while one step is taken, a thread reads those of the next."""

    def __init__(self, config: AutoencoderConfig, images: Images) -> None:
        self._config, self._images = config, images
        self._reader = ThreadPoolExecutor(1)
        self._ahead: tuple[int, Future[np.ndarray]] | None = None

    def of(self, step: int) -> np.ndarray:
        """Images uint8 [B, H, W, 3] of a step."""
        if self._ahead is not None and self._ahead[0] == step:
            reading = self._ahead[1]
        else:  # the first step, or the first after a resume
            reading = self._reader.submit(self._read, step)
        self._ahead = None
        if step + 1 < self._config.steps:
            self._ahead = (step + 1, self._reader.submit(self._read, step + 1))
        return reading.result()

    def _read(self, step: int) -> np.ndarray:
        generator = generator_of(self._config.seed, step)
        rows = torch.randint(len(self._images), (self._config.batch,), generator=generator)
        images: np.ndarray = self._images[rows.numpy()]
        if self._config.flips:
            over = (torch.rand(len(rows), generator=generator) < 0.5).numpy()
            images = np.where(over[:, None, None, None], images[:, :, ::-1], images)
        return images
