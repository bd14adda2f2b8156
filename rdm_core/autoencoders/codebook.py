"""The codebook of a VQModel while it is trained: running means of the vectors that fall to each
entry, instead of gradients (van den Oord et al., arXiv 1711.00937, appendix A.1).
"""

import math
from collections.abc import Mapping

import torch

from rdm_core.codes import nearest_codes
from rdm_core.errors import CoreError

DEAD = 0.05
"""An entry is dead that gets less than this share of what each would get if all got the same."""
LEAST_USED = 0.1
"""Share of living entries below which the codes have collapsed."""
GRACE = 500
"""Steps after the codebook's start in which it may find its form."""
ROUNDS = 10
"""Of k-means."""


class CollapsedCodes(CoreError):
    """Nearly all vectors fall to a few entries."""


def k_means(vectors: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Means [count, C] of vectors float32 [M, C], by ROUNDS of Lloyd's algorithm.

    It starts from vectors drawn by the generator; a mean that nothing falls to is put on another
    vector.  Raises ValueError for fewer vectors than means.
    """
    if len(vectors) < count:
        raise ValueError(f"{len(vectors)} vectors cannot make {count} entries of a codebook")
    means = vectors[torch.randperm(len(vectors), generator=generator)[:count]].clone()
    for _ in range(ROUNDS):
        codes = nearest_codes(vectors, means)
        counts, sums = _gathered(vectors, codes, count)
        means = sums / counts.clamp(min=1)[:, None]
        empty = counts == 0
        spare = torch.randperm(len(vectors), generator=generator)[: int(empty.sum())]
        means[empty] = vectors[spare]
    return means


class Codebook:
    """Counts and sums of the vectors of each entry, as running means; entry = sum / count."""

    def __init__(
        self, count: int, width: int, decay: float, device: torch.device | str = "cpu"
    ) -> None:
        self.decay = decay
        self.counts = torch.zeros(count, device=device)
        self.sums = torch.zeros(count, width, device=device)

    @property
    def entries(self) -> torch.Tensor:
        """float32 [K, C]."""
        return self.sums / self.counts.clamp(min=1e-6)[:, None]

    @property
    def alive(self) -> torch.Tensor:
        """bool [K]: whether an entry gets its DEAD share of the vectors."""
        return self.counts >= DEAD * self.counts.mean()

    def start(self, entries: torch.Tensor, vectors_a_step: int) -> None:
        """Begin from entries [K, C], as if each had had its equal share of a step's vectors."""
        self.counts.fill_(vectors_a_step / len(entries))
        self.sums.copy_(entries * self.counts[:, None])

    def update(self, vectors: torch.Tensor, codes: torch.Tensor) -> None:
        """Take a step's vectors [M, C] in, that fell to codes int64 [M]."""
        counts, sums = _gathered(vectors, codes, len(self.counts))
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)

    def revive(self, vectors: torch.Tensor, generator: torch.Generator) -> int:
        """Put each dead entry on one of the vectors [M, C], drawn; returns how many there were."""
        dead = ~self.alive
        number = min(int(dead.sum()), len(vectors))
        rows = dead.nonzero().squeeze(1)[:number]
        drawn = vectors[torch.randperm(len(vectors), generator=generator)[:number]]
        # Half an equal share keeps it alive for as long as it takes to get vectors of its own.
        self.counts[rows] = 0.5 * self.counts.mean()
        self.sums[rows] = drawn * self.counts[rows][:, None]
        return number

    def refuse_collapse(self, where: str) -> None:
        """Raise CollapsedCodes, with the share, where fewer than LEAST_USED of the entries live."""
        share = float(self.alive.float().mean())
        if share < LEAST_USED:
            what = f"{share:.1%} of the codes are used, fewer than {LEAST_USED:.0%}"
            cure = "Lower the learning rate or the number of codes, or start the codebook later."
            raise CollapsedCodes(where, what, cure)

    def state(self) -> dict[str, torch.Tensor]:
        """Counts and sums by name."""
        return {"codebook/counts": self.counts, "codebook/sums": self.sums}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Undo `state`.  Raises KeyError naming what is absent."""
        self.counts.copy_(state["codebook/counts"])
        self.sums.copy_(state["codebook/sums"])


def share_in_use(codes: torch.Tensor, count: int) -> float:
    """Share of `count` entries that occur among codes int64 [...]."""
    return float((torch.bincount(codes.flatten(), minlength=count) > 0).float().mean())


def perplexity(codes: torch.Tensor, count: int) -> float:
    """exp of the entropy of codes int64 [...]: `count` if all occur alike, 1 if there is one."""
    shares = torch.bincount(codes.flatten(), minlength=count).double() / codes.numel()
    entropy = -(shares * shares.clamp(min=1e-30).log()).sum()
    return math.exp(float(entropy))


def _gathered(
    vectors: torch.Tensor, codes: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many vectors [M, C] fall to each code, float32 [count], and their sums [count, C]."""
    counts = torch.bincount(codes, minlength=count).float()
    sums = torch.zeros(count, vectors.shape[1], device=vectors.device)
    sums.index_add_(0, codes, vectors)
    return counts, sums
