"""The context of a sample: a set of at most K retrieved vectors, and what each of them is.

B samples, K slots, D the encoder's dimension. A set has no order: a slot's place means nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

ABSENT, NEIGHBOR, QUERY, TEXT = 0, 1, 2, 3
"""What a slot holds: nothing, an image of the database, a query image, a query text."""
NO_TOKEN = -1
"""In place of every token of a text that is not there."""


@dataclass(frozen=True)
class Context:
    """The sets of B samples, on one device."""

    vectors: torch.Tensor
    """Unit vectors float32 [B, K, D]; any finite value where the slot is absent."""
    norms: torch.Tensor
    """The lengths that they had before, float32 [B, K]."""
    scores: torch.Tensor
    """Cosine with the query, float32 [B, K]; 1 for the query itself."""
    slots: torch.Tensor
    """int8 [B, K], one of the kinds above."""
    references: torch.Tensor | None = None
    """Raw latents of the neighbors [B, K, C, h, w], or codes [B, K, h, w], for families that read
    them; any values where the slot holds no neighbor.
    """
    text: torch.Tensor | None = None
    """The text of each sample, for families that read it: int64 [B, L] as the encoder's tokenizer
    gives it; NO_TOKEN everywhere where there is none.
    """
    neighbor_texts: torch.Tensor | None = None
    """The caption of each neighbor, in the same way: int64 [B, K, L]."""

    @property
    def mask(self) -> torch.Tensor:
        """bool [B, K], True where there is a vector."""
        return self.slots != ABSENT

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""
        return self.vectors.device

    def to(self, device: torch.device) -> "Context":
        """The same sets [B, K, D] on a device."""
        return self._each(lambda tensor: tensor.to(device))

    def rows(self, chosen: slice | torch.Tensor) -> "Context":
        """The sets of some samples: a slice, int64 [M] or bool [B]."""
        return self._each(lambda tensor: tensor[chosen])

    def without(self, slot: int) -> "Context":
        """The same sets [B, K, D] with one slot marked as absent."""
        slots = self.slots.clone()
        slots[:, slot] = ABSENT
        return replace(self, slots=slots).with_texts_of_neighbors_alone()

    def without_neighbors(self) -> "Context":
        """The same texts, and sets [B, K, D] in which every slot is absent."""
        return replace(self, slots=torch.zeros_like(self.slots)).with_texts_of_neighbors_alone()

    def with_texts_of_neighbors_alone(self) -> "Context":
        """The same sets [B, K, D]; a slot that holds no neighbor has no text either."""
        if self.neighbor_texts is None:
            return self
        is_neighbor = (self.slots == NEIGHBOR)[..., None]
        texts = torch.where(is_neighbor, self.neighbor_texts, NO_TOKEN)
        return replace(self, neighbor_texts=texts)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Context":
        """Sets whose tensors [B, ...] are changed, each in the same way."""
        changed: dict[str, Any] = {}
        for field in fields(self):
            tensor = getattr(self, field.name)
            changed[field.name] = None if tensor is None else change(tensor)
        return Context(**changed)

    @classmethod
    def of(
        cls, vectors: np.ndarray, norms: np.ndarray, scores: np.ndarray, slots: np.ndarray
    ) -> "Context":
        """Make it of arrays: vectors float32 [B, K, D]; norms, scores and slots [B, K]."""

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array))

        return cls(tensor(vectors), tensor(norms), tensor(scores), tensor(slots.astype(np.int8)))


def nothing(count: int, dimension: int) -> Context:
    """Sets [count, 1, dimension] without any vector: the denoiser uses its learned null."""
    empty = torch.zeros(count, 1)
    return Context(
        torch.zeros(count, 1, dimension), empty, empty, torch.zeros(count, 1, dtype=torch.int8)
    )


def zeros(count: int, dimension: int) -> Context:
    """Sets [count, 1, dimension] of one zero vector: the null that the release of 2022 guided with
    and never trained (RDM, arXiv 2204.11824).
    """
    empty = torch.zeros(count, 1)
    return Context(
        torch.zeros(count, 1, dimension),
        empty,
        empty,
        torch.full((count, 1), NEIGHBOR, dtype=torch.int8),
    )
