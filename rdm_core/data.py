"""Training data: latents joined with their neighbors' vectors, by row, from memory-mapped arrays.

What a step sees is a pure function of (seed, step). So a run that is resumed, or that is divided
over another number of processes, sees the same. N samples, S stored neighbors of each, M database
rows, D dimensions; B samples a batch, K slots a context.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from rdm_core.config import ContextConfig
from rdm_core.context import ABSENT, NEIGHBOR, NO_TOKEN, QUERY, Context
from rdm_core.errors import RequestError

NO_ROW = -1


@dataclass(frozen=True)
class StoredLatents:
    """Raw latents in the arrays of several parts, N over all of them."""

    arrays: Sequence[np.ndarray]
    """One for each part: uint8 or float16 [n_i, C, h, w], or codes uint16 [n_i, h, w]."""

    def __len__(self) -> int:
        return sum(len(array) for array in self.arrays)

    def take(self, rows: np.ndarray) -> torch.Tensor:
        """Latents of rows int64 [B]: uint8 or float16 [B, C, h, w], or codes int64 [B, h, w]."""
        lengths = [len(array) for array in self.arrays]
        starts = np.cumsum([0, *lengths])
        parts = np.searchsorted(starts, rows, side="right") - 1  # the part that each row is in
        latents = []
        for part, row in zip(parts, rows, strict=True):
            latents.append(self.arrays[part][row - starts[part]])
        stacked = np.stack(latents)
        # torch cannot compute with uint16.
        return torch.from_numpy(stacked.astype(np.int64) if stacked.dtype == np.uint16 else stacked)


@dataclass(frozen=True)
class References:
    """Latents of a database's images, by row."""

    latents: StoredLatents
    places: np.ndarray
    """int64 [M]: the place of each database row among the latents; NO_ROW where it has none."""

    def of(self, near: np.ndarray) -> torch.Tensor:
        """Raw latents [B, K, C, h, w] of database rows int64 [B, K].

        In place of NO_ROW the latents of the first row are given. Raises RequestError naming a row
        that has no latents.
        """
        places = self.places[np.maximum(near, 0)]
        if (places == NO_ROW)[near != NO_ROW].any():
            row = int(near[(places == NO_ROW) & (near != NO_ROW)][0])
            what = f"row {row} of the database has no latents"
            raise RequestError("references", what, "Encode the database's shards.")
        flat = self.latents.take(np.maximum(places, 0).ravel())
        return flat.reshape(*near.shape, *flat.shape[1:])


@dataclass(frozen=True)
class Texts:
    """The captions of N images, as an encoder's tokenizer gives them."""

    tokens: np.ndarray
    """All captions of all images, whole numbers [M, L]."""
    starts: np.ndarray
    """int64 [N + 1]: the captions of image i are starts[i] up to starts[i + 1]."""

    @classmethod
    def made(
        cls, captions: Sequence[Sequence[str]], tokens_of: Callable[[Sequence[str]], np.ndarray]
    ) -> "Texts":
        """The captions of N images, with the function that gives texts their tokens [M, L]."""
        flat = [text for of_image in captions for text in of_image]
        starts = np.cumsum([0, *map(len, captions)], dtype=np.int64)
        tokens = tokens_of(flat or [""])  # of no caption at all: L is known, and no row is read
        return cls(tokens.astype(np.int32), starts)  # half the memory

    def of(self, images: np.ndarray, shares: np.ndarray) -> torch.Tensor:
        """One caption of each of the images int64 [*], the one at its share [*] in 0..1 of all that
        it has: int64 [*, L].

        For an image NO_ROW, or one without a caption, it is NO_TOKEN everywhere.
        """
        safe = np.maximum(images, 0)
        counts = self.starts[safe + 1] - self.starts[safe]
        chosen = self.starts[safe] + (shares * counts).astype(np.int64)
        absent = (images == NO_ROW) | (counts == 0)
        tokens = self.tokens[np.where(absent, 0, chosen)]
        return torch.from_numpy(np.where(absent[..., None], NO_TOKEN, tokens).astype(np.int64))


@dataclass(frozen=True)
class TrainingData:
    """The training set, read where it lies: opening it loads nothing but the neighbor table."""

    latents: StoredLatents
    """Raw latents of the N images."""
    neighbor_rows: np.ndarray
    """int64 [N, S] in the order of the latents, nearest first; NO_ROW where there are fewer."""
    neighbor_scores: np.ndarray
    """Cosines, float32 [N, S]."""
    vectors: np.ndarray
    """Unit vectors of the database, float16 or float32 [M, D]."""
    norms: np.ndarray
    """The norms that these had, float [M]."""
    means: np.ndarray | None = None
    """Mean unit vectors of the database's images and captions, float32 [2, D]."""
    query_vectors: np.ndarray | None = None
    """Unit vectors of the training images themselves, float16 or float32 [N, D]; only some families
    need them.
    """
    query_norms: np.ndarray | None = None
    """The norms that these had, float [N]."""
    keys: Sequence[str] = ()
    """Keys of the training images, N of them."""
    texts: Texts | None = None
    """Captions of the N training images; only some families need them."""
    neighbor_texts: Texts | None = None
    """Captions of the database's M rows; for families that read captions and references."""
    references: References | None = None
    """Latents of the database's rows; only some families need them."""
    neighbor_images: References | None = None
    """Images of the database's rows, for families that pick single ones of them themselves."""
    factor: int = 1
    """Stored places for one of a latent, along a side: above 1 where the images themselves are
    stored and encoded each time they are read.
    """

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def side(self) -> int:
        """Side of a final latent, w."""
        return self.latents.arrays[0].shape[-1] // self.factor

    @property
    def dimension(self) -> int:
        """Dimension of the database's vectors, D."""
        return self.vectors.shape[1]

    def raw(self, rows: np.ndarray) -> torch.Tensor:
        """Raw latents [B, C, h, w], or codes int64 [B, h, w], of the samples `rows` int64 [B]."""
        return self.latents.take(rows)

    def neighbors(self, rows: np.ndarray, k: int, with_query: bool = False) -> Context:
        """The contexts [B, k, D] of the k nearest neighbors of the samples `rows` int64 [B], with
        nothing left out; losses of trained models are measured with these.

        With `with_query`, for a model that reads them, the samples' own vectors come first: [B, 1 +
        k, D].
        """
        self._stored(k)
        places = np.tile(np.arange(k), (len(rows), 1))
        return self.context(rows, places, np.zeros(len(rows), bool) if with_query else None)

    def context(
        self,
        rows: np.ndarray,
        places: np.ndarray,
        dropped_query: np.ndarray | None = None,
        shares: np.ndarray | None = None,
    ) -> Context:
        """The contexts [B, K, D] of samples `rows` int64 [B]: the neighbors at `places`, int64
        [B, K], of their lists; -1 is an empty slot.

        With `dropped_query` bool [B] one more slot comes first: the sample's own vector, or nothing
        where it is True. Where captions were read, `shares` [B, 1 + K] in 0..1 say which of all
        that it has: of the sample, and of each neighbor; the first ones unless given.
        """
        if shares is None:
            shares = np.zeros((len(rows), 1 + places.shape[1]))
        near = np.where(places < 0, NO_ROW, self.neighbor_rows[rows[:, None], places])
        safe = np.maximum(near, 0)  # an absent row is read as row 0, and marked as absent below
        vectors, norms = _unit(self.vectors[safe]), np.asarray(self.norms[safe], dtype=np.float32)
        scores = self.neighbor_scores[rows[:, None], places]
        slots = np.where(near == NO_ROW, ABSENT, NEIGHBOR)
        if dropped_query is not None:
            own_vectors, own_norms = self._queries(rows)
            vectors = np.concatenate([own_vectors, vectors], 1)
            norms = np.concatenate([own_norms, norms], 1)
            scores = np.concatenate([np.ones((len(rows), 1), np.float32), scores], 1)
            slots = np.concatenate([np.where(dropped_query, ABSENT, QUERY)[:, None], slots], 1)
            near, shares = np.insert(near, 0, NO_ROW, axis=1), np.insert(shares, 1, 0, axis=1)
        context = Context.of(vectors, norms, scores, slots)
        if self.references is not None:
            context = replace(context, references=self.references.of(near))
        if self.texts is not None:
            context = replace(context, text=self.texts.of(rows, shares[:, 0]))
        if self.neighbor_texts is not None:
            texts = self.neighbor_texts.of(near, shares[:, 1:])
            context = replace(context, neighbor_texts=texts)
        return context

    def _queries(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The own unit vectors float32 [B, 1, D] and norms float32 [B, 1] of samples int64 [B]."""
        if self.query_vectors is None or self.query_norms is None:
            raise RequestError(
                "query",
                "the training images' own vectors are absent",
                "Embed the training shards.",
            )
        norms = np.asarray(self.query_norms[rows][:, None], dtype=np.float32)
        return _unit(self.query_vectors[rows][:, None]), norms

    def _stored(self, k: int) -> int:
        """How many neighbors of each sample are stored, S. Raises RequestError if less than k."""
        stored = self.neighbor_rows.shape[1]
        if k > stored:
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
    """The contexts [b, K, D] of one step, for the share `mine` of the batch `rows` int64 [B].

    Which neighbors, how many, what is dropped and what noise is added is drawn for the whole batch,
    so that it does not depend on the share.
    """
    # The 1 keeps these random numbers apart from those of the epochs' permutations.
    rng = np.random.default_rng([seed, step, 1])
    places = chosen_places(data, config, rows, rng)

    # Leave out neighbors: all beyond a random k, single ones, and whole contexts.
    if config.random_k:
        places[np.arange(config.k) >= rng.integers(1, config.k + 1, (len(rows), 1))] = -1
    places[rng.random(places.shape) < config.each_neighbor_dropout] = -1
    without = rng.random(len(rows)) < config.neighbor_dropout
    dropped_query = rng.random(len(rows)) < config.query_dropout if with_query else None
    # What is drawn for texts comes from a stream of its own: everything else stays as it is
    # without them.
    of_texts = np.random.default_rng([seed, step, 2])
    shares = of_texts.random((len(rows), 1 + config.k))
    context = data.context(
        rows[mine],
        places[mine],
        dropped_query[mine] if dropped_query is not None else None,
        shares[mine],
    )
    context.slots[torch.from_numpy(without[mine])] = ABSENT

    if with_query and config.query_alone:
        alone = torch.from_numpy(rng.random(len(rows))[mine] < config.query_alone)
        context.slots[:, 1:][alone] = ABSENT

    if config.embedding_noise:
        # Noise of the length `embedding_noise` in D dimensions; the result is made unit again.
        shape = (len(rows), *context.vectors.shape[1:])
        length = config.embedding_noise / shape[-1] ** 0.5
        noise = rng.standard_normal(shape, dtype=np.float32)[mine] * length
        noisy = context.vectors + torch.from_numpy(noise)
        context.vectors[:] = torch.nn.functional.normalize(noisy, dim=-1)

    if context.text is not None:
        without_text = of_texts.random(len(rows)) < config.text_dropout
        context.text[torch.from_numpy(without_text[mine])] = NO_TOKEN
    return context.with_texts_of_neighbors_alone()


def chosen_places(
    data: TrainingData, config: ContextConfig, rows: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Places int64 [B, k] in the neighbor lists of samples `rows` int64 [B], nearest first.

    They are the k nearest, or k drawn from the `from_top` nearest; -1 where there are fewer.
    Neighbors whose score is above `score_cap` do not count.
    """
    stored = data._stored(max(config.k, config.from_top))
    usable = data.neighbor_rows[rows] != NO_ROW
    if config.score_cap < 1:
        usable &= data.neighbor_scores[rows] <= config.score_cap
    # Sort by rank among the usable ones; the number `stored` sorts all others to the end.
    rank = np.cumsum(usable, axis=1) - 1
    is_candidate = usable & (rank < (config.from_top or config.k))
    order = np.where(is_candidate, rank, stored).astype(np.float64)
    if config.from_top:
        order = np.where(order < stored, rng.random(order.shape), stored)
    # Take the first k in that order, and put their places back into the order of the list.
    taken = np.argsort(order, axis=1, kind="stable")[:, : config.k]
    present = np.take_along_axis(order, taken, 1) < stored
    places = np.sort(np.where(present, taken, stored), axis=1)
    return np.where(places < stored, places, -1)


def rows_of_step(count: int, batch: int, step: int, seed: int) -> np.ndarray:
    """The samples int64 [batch] of one step.

    Each epoch is a new permutation of 0..count-1; steps take consecutive pieces of it.
    """
    positions = np.arange(step * batch, (step + 1) * batch)
    epochs = positions // count
    rows = np.empty(batch, dtype=np.int64)
    for epoch in np.unique(epochs):
        of_epoch = epochs == epoch
        permutation = _permutation(count, seed, int(epoch))
        rows[of_epoch] = permutation[positions[of_epoch] % count]
    return rows


@lru_cache(maxsize=2)  # a step meets at most two epochs of a set larger than its batch
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the samples in an epoch, int64 [count]."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Stored vectors float16 or float32 [..., D] -> unit vectors float32 [..., D]."""
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)  # unit again after float16
