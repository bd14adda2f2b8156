"""Training data: latents joined with their neighbors' vectors, by row, from memory-mapped arrays.

Which rows a step sees is a pure function of (seed, step), so a resumed or differently distributed run sees the same.
"""

from dataclasses import dataclass

import numpy as np
import torch

from rdm_core.errors import RequestError

NO_ROW = -1


@dataclass(frozen=True)
class Batch:
    """One step's samples: raw latents [B, C, h, w], unit vectors [B, K, D], norms [B, K], mask [B, K] bool."""

    raw: torch.Tensor
    vectors: torch.Tensor
    norms: torch.Tensor
    mask: torch.Tensor


class TrainingData:
    """Latents of the training set, the neighbor rows of each, and the database's vectors."""

    def __init__(self, latents: list[np.ndarray], neighbor_rows: np.ndarray, vectors: np.ndarray, norms: np.ndarray) -> None:
        """`latents` arrays [n_i, C, h, w]; `neighbor_rows` int64 [N, K] in the same order, NO_ROW where there are fewer;
        `vectors` [M, D] unit and `norms` [M] of the database."""
        self.latents = latents
        self.starts = np.cumsum([0, *(len(array) for array in latents)])
        self.neighbor_rows = neighbor_rows
        self.vectors = vectors
        self.norms = norms

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one raw latent: (C, h, w)."""
        return self.latents[0].shape[1:]

    def batch(self, rows: np.ndarray, k: int, context_of: np.ndarray | None = None) -> Batch:
        """The samples `rows` [B] with their k nearest neighbors, or with those of the samples `context_of` [B].

        Raises RequestError when the table holds fewer than k for each.
        """
        if k > (stored := self.neighbor_rows.shape[1]):
            cure = f"Use k={stored}, or look up more neighbors with `rdm neighbors`."
            raise RequestError("k", f"{k} neighbors asked of a table that holds {stored}", cure)
        part = np.searchsorted(self.starts, rows, side="right") - 1
        raw = np.stack([self.latents[p][row - self.starts[p]] for p, row in zip(part, rows, strict=True)])
        near = self.neighbor_rows[rows if context_of is None else context_of, :k]
        present = near != NO_ROW
        safe = np.where(present, near, 0)
        vectors = np.asarray(self.vectors[safe], dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)  # unit again after float16
        tensors = (raw, vectors, np.asarray(self.norms[safe], dtype=np.float32), present)
        return Batch(*(torch.from_numpy(np.ascontiguousarray(t)) for t in tensors))


def rows_of_step(count: int, batch: int, step: int, seed: int) -> np.ndarray:
    """The sample rows [batch] of one step: consecutive pieces of a new permutation of 0..count-1 every epoch."""
    positions = np.arange(step * batch, (step + 1) * batch)
    epochs = positions // count
    rows = np.empty(batch, dtype=np.int64)
    for epoch in np.unique(epochs):
        order = np.random.default_rng([seed, int(epoch)]).permutation(count)
        rows[epochs == epoch] = order[positions[epochs == epoch] % count]
    return rows
