"""What a model is given of what was retrieved: a set of at most K vectors a sample, and
what each of them is.

B samples, K slots, D the encoder's dimension. A set has no order; a slot's place says nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch

ABSENT, NEIGHBOR, QUERY, TEXT = 0, 1, 2, 3
"""What a slot holds: nothing, a database image, the query itself (an image), the query itself (a
text).
"""


@dataclass(frozen=True)
class Context:
    """The sets of B samples, on one device."""

    vectors: torch.Tensor
    """Unit vectors float32 [B, K, D]; any finite value where the slot is absent."""
    norms: torch.Tensor
    """The lengths they had before [B, K]."""
    scores: torch.Tensor
    """Cosine with the query [B, K]; 1 for the query itself."""
    slots: torch.Tensor
    """int8 [B, K], one of the kinds above."""
    references: torch.Tensor | None = None
    """Raw latents of the neighbors [B, K, C, h, w], for families that read them."""

    @property
    def mask(self) -> torch.Tensor:
        """bool [B, K], True where there is a vector."""
        return self.slots != ABSENT

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.vectors.device

    def to(self, device: torch.device) -> "Context":
        """Itself on a device."""
        return self._each(lambda tensor: tensor.to(device))

    def rows(self, chosen: slice | torch.Tensor) -> "Context":
        """The sets of some samples."""
        return self._each(lambda tensor: tensor[chosen])

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Context":
        changed = {
            field.name: change(value)
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None
        }
        return Context(**changed)

    @classmethod
    def of(
        cls, vectors: np.ndarray, norms: np.ndarray, scores: np.ndarray, slots: np.ndarray
    ) -> "Context":
        """From arrays."""
        return cls(
            *(
                torch.from_numpy(np.ascontiguousarray(a))
                for a in (vectors, norms, scores, slots.astype(np.int8))
            )
        )


def nothing(count: int, dimension: int) -> Context:
    """Sets without any vector: the denoiser answers with its learned null."""
    empty = torch.zeros(count, 1)
    return Context(
        torch.zeros(count, 1, dimension), empty, empty, torch.zeros(count, 1, dtype=torch.int8)
    )


def zeros(count: int, dimension: int) -> Context:
    """Sets of one zero vector: the null that the 2022 release guided with, and never trained."""
    empty = torch.zeros(count, 1)
    return Context(
        torch.zeros(count, 1, dimension),
        empty,
        empty,
        torch.full((count, 1), NEIGHBOR, dtype=torch.int8),
    )
