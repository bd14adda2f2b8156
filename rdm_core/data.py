"""Training data: latents joined with their neighbors' vectors, by row, from memory-mapped arrays.

What a step sees is a pure function of (seed, step), so a resumed or differently distributed run
sees the same. N samples, S stored neighbors of each, M database rows, D dimensions; B samples a
batch, K slots a context.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from rdm_core.config import ContextConfig
from rdm_core.context import ABSENT, NEIGHBOR, QUERY, Context
from rdm_core.errors import RequestError

NO_ROW = -1


@dataclass(frozen=True)
class StoredLatents:
    """Raw latents in the arrays of several parts, N over all of them."""

    arrays: Sequence[np.ndarray]
    """Of one part each: [n_i, C, h, w], or codes [n_i, h, w]."""

    def __len__(self) -> int:
        return sum(len(array) for array in self.arrays)

    def take(self, rows: np.ndarray) -> torch.Tensor:
        """Those of the rows [B]: [B, C, h, w], or int64 codes [B, h, w]."""
        starts = np.cumsum([0, *(len(array) for array in self.arrays)])
        parts = np.searchsorted(starts, rows, side="right") - 1
        taken = [
            self.arrays[part][row - starts[part]] for part, row in zip(parts, rows, strict=True)
        ]
        stacked = np.stack(taken)
        # torch computes with no unsigned 16 bits
        return torch.from_numpy(stacked.astype(np.int64) if stacked.dtype == np.uint16 else stacked)


@dataclass(frozen=True)
class References:
    """Latents of a database's images, to be looked up by row."""

    latents: StoredLatents
    places: np.ndarray
    """int64 [M]: where among the latents each row of the database is; NO_ROW where it has none."""

    def of(self, near: np.ndarray) -> torch.Tensor:
        """Raw latents [B, K, C, h, w] of database rows [B, K]; of the first row for an absent one.

        Raises RequestError naming a row that has no latents.
        """
        places = self.places[np.maximum(near, 0)]
        if (places == NO_ROW)[near != NO_ROW].any():
            row = int(near[(places == NO_ROW) & (near != NO_ROW)][0])
            what = f"row {row} of the database has no latents"
            raise RequestError("references", what, "Encode the database's shards.")
        flat = self.latents.take(np.maximum(places, 0).ravel())
        return flat.reshape(*near.shape, *flat.shape[1:])


@dataclass(frozen=True)
class TrainingData:
    """The training set, read where it lies: opening it loads nothing but the neighbor table."""

    latents: StoredLatents
    """Raw latents of the N images."""
    neighbor_rows: np.ndarray
    """int64 [N, S] in the order of the latents, nearest first, NO_ROW where there are fewer."""
    neighbor_scores: np.ndarray
    """Cosine float32 [N, S]."""
    vectors: np.ndarray
    """Unit vectors of the database [M, D]."""
    norms: np.ndarray
    """Their raw norms [M]."""
    means: np.ndarray | None = None
    """Mean unit vectors of the database's images and captions [2, D]."""
    query_vectors: np.ndarray | None = None
    """Unit vectors of the training images themselves [N, D]; only families that read them need
    them.
    """
    query_norms: np.ndarray | None = None
    """Their raw norms [N]."""
    keys: Sequence[str] = ()
    """Keys of the training images, N of them."""
    captions: Sequence[Sequence[str]] | None = None
    """Captions of each training image; only families that read captions need them."""
    references: References | None = None
    """Latents of the database's rows; only families that read references need them."""

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def side(self) -> int:
        """Side of a latent."""
        return self.latents.arrays[0].shape[-1]

    @property
    def dimension(self) -> int:
        """Of the database's vectors, D."""
        return self.vectors.shape[1]

    def raw(self, rows: np.ndarray) -> torch.Tensor:
        """Raw latents [B, C, h, w], or codes [B, h, w], of the samples `rows` [B]."""
        return self.latents.take(rows)

    def neighbors(self, rows: np.ndarray, k: int) -> Context:
        """The k nearest neighbors of the samples `rows` [B], nothing left out: what is measured
        with.
        """
        return self.context(rows, np.tile(np.arange(self._stored(k))[:k], (len(rows), 1)))

    def context(
        self, rows: np.ndarray, places: np.ndarray, dropped_query: np.ndarray | None = None
    ) -> Context:
        """The neighbors of `rows` [B] at `places` [B, K] of their lists, -1 for an empty slot; and
        the samples' own vectors in a first slot of their own when `dropped_query` [B] bool says
        whose are left out.
        """
        near = np.where(places < 0, NO_ROW, self.neighbor_rows[rows[:, None], places])
        safe = np.maximum(near, 0)
        vectors, norms = _unit(self.vectors[safe]), np.asarray(self.norms[safe], dtype=np.float32)
        scores = self.neighbor_scores[rows[:, None], places]
        slots = np.where(near == NO_ROW, ABSENT, NEIGHBOR)
        if dropped_query is not None:
            own_vectors, own_norms = self._queries(rows)
            vectors = np.concatenate([own_vectors, vectors], 1)
            norms = np.concatenate([own_norms, norms], 1)
            scores = np.concatenate([np.ones((len(rows), 1), np.float32), scores], 1)
            slots = np.concatenate([np.where(dropped_query, ABSENT, QUERY)[:, None], slots], 1)
        context = Context.of(vectors, norms, scores, slots)
        if self.references is None:
            return context
        return replace(context, references=self.references.of(near))

    def _queries(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.query_vectors is None or self.query_norms is None:
            raise RequestError(
                "query",
                "the training images' own vectors are absent",
                "Embed the training shards.",
            )
        return _unit(self.query_vectors[rows][:, None]), np.asarray(
            self.query_norms[rows][:, None], dtype=np.float32
        )

    def _stored(self, k: int) -> int:
        if k > (stored := self.neighbor_rows.shape[1]):
            cure = f"Use k={stored}, or look up more neighbors with `rdm neighbors`."
            raise RequestError("k", f"{k} neighbors asked of a table that holds {stored}", cure)
        return stored


def training_context(
    data: TrainingData,
    config: ContextConfig,
    with_query: bool,
    rows: np.ndarray,
    seed: int,
    step: int,
    mine: slice,
) -> Context:
    """The contexts of one step: which neighbors, how many, what is dropped and how much noise,
    drawn for the whole batch `rows` [B] and returned for the share `mine` of it.
    """
    # a stream of its own beside the epochs' permutations
    rng = np.random.default_rng([seed, step, 1])
    places = chosen_places(data, config, rows, rng)
    if config.random_k:
        places[np.arange(config.k) >= rng.integers(1, config.k + 1, (len(rows), 1))] = -1
    places[rng.random(places.shape) < config.each_neighbor_dropout] = -1
    without = rng.random(len(rows)) < config.neighbor_dropout
    dropped_query = rng.random(len(rows)) < config.query_dropout if with_query else None
    context = data.context(
        rows[mine], places[mine], dropped_query[mine] if dropped_query is not None else None
    )
    context.slots[torch.from_numpy(without[mine])] = ABSENT
    if config.embedding_noise:
        shape = (len(rows), *context.vectors.shape[1:])
        length = config.embedding_noise / shape[-1] ** 0.5
        noise = rng.standard_normal(shape, dtype=np.float32)[mine] * length
        noisy = context.vectors + torch.from_numpy(noise)
        context.vectors[:] = torch.nn.functional.normalize(noisy, dim=-1)
    return context


def chosen_places(
    data: TrainingData, config: ContextConfig, rows: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Places [B, k] in the samples' neighbor lists, nearest first, -1 where there are fewer.

    The k nearest, or k drawn from the `from_top` nearest; those above `score_cap` do not count.
    """
    stored = data._stored(max(config.k, config.from_top))
    usable = data.neighbor_rows[rows] != NO_ROW
    if config.score_cap < 1:
        usable &= data.neighbor_scores[rows] <= config.score_cap
    rank = np.cumsum(usable, axis=1) - 1
    order = np.where(usable & (rank < (config.from_top or config.k)), rank, stored).astype(
        np.float64
    )
    if config.from_top:
        order = np.where(order < stored, rng.random(order.shape), stored)
    taken = np.argsort(order, axis=1, kind="stable")[:, : config.k]
    present = np.take_along_axis(order, taken, 1) < stored
    places = np.sort(np.where(present, taken, stored), axis=1)
    return np.where(places < stored, places, -1)


def rows_of_step(count: int, batch: int, step: int, seed: int) -> np.ndarray:
    """The sample rows [batch] of one step: consecutive pieces of a new permutation of 0..count-1
    every epoch.
    """
    positions = np.arange(step * batch, (step + 1) * batch)
    epochs = positions // count
    rows = np.empty(batch, dtype=np.int64)
    for epoch in np.unique(epochs):
        rows[epochs == epoch] = _permutation(count, seed, int(epoch))[
            positions[epochs == epoch] % count
        ]
    return rows


@lru_cache(maxsize=2)  # a step meets at most two epochs of a set larger than its batch
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)  # unit again after float16
