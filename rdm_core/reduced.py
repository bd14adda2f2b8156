"""Queries and rows of a database in a precision that multiplies fast: int8 or float16, and how much
of each vector that loses.

Q queries, N rows of a tile, D the encoder's dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from rdm_core.device import shortest_seconds

GROUP = 16
"""Columns of a product that are looked at together first: most groups hold no candidate."""
CLIP = 6.0
"""int8 reaches this many standard deviations; what lies beyond is cut off, and counted as lost."""
APART = 4
"""Rows of a tile that lose most: each is scored for every query, so that it does not widen the
bound for all other rows."""
REDUCED_ROWS = 512
"""Rows that are reduced at once: they stay in a core's cache."""

Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Queries [Q, D] x rows [N, D], both int8 or both float16 -> int32 or float32 [Q, N]."""


@dataclass(frozen=True)
class Queries:
    """Queries in a cheap precision, and what that lost."""

    exact: torch.Tensor
    """float32 [Q, D]."""
    values: torch.Tensor
    """int8 or float16 [Q, D]."""
    scales: torch.Tensor
    """float32 [Q]: values times scales are the queries that the product sees."""
    lengths: torch.Tensor
    """float32 [Q]: the length of each of these."""
    lost: torch.Tensor
    """float32 [Q]: the length of what each query lost."""

    def part(self, start: int, stop: int) -> "Queries":
        """The queries [start:stop] of Q."""
        rows = slice(start, stop)
        return Queries(
            self.exact[rows], self.values[rows], self.scales[rows], self.lengths[rows],
            self.lost[rows],
        )  # fmt: skip


@dataclass(frozen=True)
class Tile:
    """Rows of a database in a cheap precision, and what that lost."""

    exact: torch.Tensor
    """float16 or float32 [N, D], as stored."""
    values: torch.Tensor
    """int8 or float16 [N, D]."""
    centre: torch.Tensor
    """float32 [D]."""
    scale: float
    """Values times this plus the centre are the rows that the product sees."""
    apart: torch.Tensor
    """int64 [A]: the APART rows that lost most, and the last rows, which make no whole group."""
    lost: torch.Tensor
    """float32 []: the greatest length of what any other row lost."""
    longest: torch.Tensor
    """float32 []: the greatest distance of a row from the centre."""


@dataclass(frozen=True)
class Precision:
    """A way to multiply cheaply."""

    name: str
    queries: Callable[[torch.Tensor], Queries]
    """Reduces queries float32 [Q, D]."""
    tile: Callable[[torch.Tensor], Tile]
    """Reduces rows float16 or float32 [N, D]."""
    product: Product
    result_rounding: float
    """Relative rounding of a product near 1."""


def int8_queries(vectors: torch.Tensor) -> Queries:
    """Queries float32 [Q, D] -> int8 [Q, D], each in 255 steps by its own largest entry."""
    # A query of zeros would be divided by 0.
    scales = (vectors.abs().amax(dim=1, keepdim=True) / 127).clamp_min(1e-12)
    values = (vectors / scales).round()
    seen = values * scales
    lost = (vectors - seen).norm(dim=1)
    return Queries(vectors, values.to(torch.int8), scales[:, 0], seen.norm(dim=1), lost)


def int8_tile(rows: torch.Tensor) -> Tile:
    """Rows float16 or float32 [N, D] -> int8 [N, D], all in 255 steps of one size.

    The steps lie around the mean of some of the rows; entries that are too large are clipped.
    """
    some = rows[::GROUP].float()  # every 16th row: mean and spread need no more
    centre = some.mean(dim=0)
    scale = max(CLIP / 127 * float((some - centre).square().mean().sqrt()), 1e-12)
    values = torch.empty(rows.shape, dtype=torch.int8)
    lost, lengths = torch.empty(len(rows)), torch.empty(len(rows))
    for start in range(0, len(rows), REDUCED_ROWS):
        part = slice(start, start + REDUCED_ROWS)
        wanted = (rows[part] - centre).mul_(1 / scale)
        seen = wanted.round().clamp_(-127, 127)
        values[part] = seen
        lengths[part] = torch.linalg.vector_norm(wanted, dim=1)
        lost[part] = torch.linalg.vector_norm(seen.sub_(wanted), dim=1)
    return Tile(rows, values, centre, scale, *_apart(scale * lost), scale * lengths.amax())


def half_queries(vectors: torch.Tensor) -> Queries:
    """Queries float32 [Q, D] as float16 [Q, D]."""
    values = vectors.half()
    seen = values.float()
    scales = torch.ones(len(vectors), device=vectors.device)
    return Queries(vectors, values, scales, seen.norm(dim=1), (vectors - seen).norm(dim=1))


def half_tile(rows: torch.Tensor) -> Tile:
    """Rows float16 or float32 [N, D] as float16 [N, D]; rows that are float16 lose nothing."""
    values = rows.half()
    seen = values.float()
    lost, longest = (rows - seen).norm(dim=1), rows.float().norm(dim=1).amax()
    return Tile(rows, values, torch.zeros_like(seen[0]), 1.0, *_apart(lost), longest)


def _apart(lost: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What each row of a tile lost, float32 [N] -> the rows that are scored for every query, int64
    [A], and the most that any other row lost, float32 [].
    """
    others = lost.clone()  # -1 marks a row that is apart
    others[len(lost) // GROUP * GROUP :] = -1.0
    others[others.topk(min(APART, len(lost))).indices] = -1.0
    return (others < 0).nonzero()[:, 0], others.amax().clamp_min(0.0)


def int8_product(queries: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """int8 [Q, D] x int8 [N, D] -> int32 [Q, N], exactly."""
    return torch._int_mm(queries, rows.T)


def half_product(queries: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """float16 [Q, D] x float16 [N, D] -> float32 [Q, N], rounded as `HALF.result_rounding` says."""
    # The bound counts on sums in fp32.
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    return (queries @ rows.T).float()


INT8 = Precision("int8", int8_queries, int8_tile, int8_product, 0.0)
HALF = Precision("float16", half_queries, half_tile, half_product, 2.0**-10)


@cache
def int8_may_pay() -> bool:
    """Whether this CPU multiplies int8 faster than fp32, and adds it up exactly.

    That is measured once a process, in milliseconds. Whether a search is faster depends on its data
    too.
    """
    rng = torch.Generator().manual_seed(0)
    queries = torch.randn(16, 512, generator=rng)
    rows = torch.randn(1024, 512, generator=rng)
    small_queries, small_rows = int8_queries(queries).values, int8_tile(rows).values
    plain = shortest_seconds(lambda: queries @ rows.T)
    small = shortest_seconds(lambda: int8_product(small_queries, small_rows))
    return small < plain and int8_is_exact()


def int8_is_exact() -> bool:
    """Whether the sums of the largest products are right.

    Some CPUs without VNNI add pairs of products in 16 bits, which are too few for the largest.
    """
    rng = torch.Generator().manual_seed(0)
    signs = torch.tensor([127, -127], dtype=torch.int8)[torch.randint(2, (64, 512), generator=rng)]
    most = torch.cat([torch.full((32, 512), 127, dtype=torch.int8), signs])
    return torch.equal(int8_product(most, most).long(), most.long() @ most.long().T)
