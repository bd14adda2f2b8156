"""Exact search by a bound: a cheap product says which rows may be among the nearest, and only
these are scored in fp32.

With a query q = q' + e and a row x = c + x' + f, where q' and x' are what the cheap product sees
and c is the centre of the row's tile, Cauchy and Schwarz give
<q, x> <= <q, c> + <q', x'> + |q'| |f| + |e| |x - c|. A row whose right side is below the k-th best
score known so far cannot be among the k nearest, so leaving it out loses nothing, whatever the
data: recall is 1 by construction. Where a cheap product cannot tell a query's rows apart, the
query is given up and handed back, to be searched in fp32.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from rdm_core.device import shortest_seconds
from rdm_core.errors import RequestError

GROUP = 16
"""Columns of a product that are looked at together first: most groups hold no candidate."""
CLIP = 6.0
"""int8 reaches this many standard deviations; what lies beyond is cut off, and counted as lost."""
APART = 4
"""Rows of a tile that lose most: each is scored for every query, so that it does not widen the
bound for all other rows."""
CROWDED = 1 / 4
"""Share of a tile's groups with a candidate from which on the tile's own best rows are scored
first, for a higher threshold."""
HOPELESS = 1 / 2
"""Share from which on scoring candidates costs what a product in fp32 does."""
MOST = 2**30
"""More than any sum of products of int8."""
REDUCED_ROWS = 512
"""Rows that are reduced at once: they stay in a core's cache."""

Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Pairs = tuple[torch.Tensor, torch.Tensor]
"""Places of queries, columns of a tile: int64 [P] each."""


@dataclass(frozen=True)
class Blocks:
    """How much is held at a time."""

    rows: int
    """Of the database: a tile."""
    queries: int
    pairs: int
    """Query and row are copied beside each other to be scored."""


# On a CPU, larger products than 16 MB are given back to the system and got anew each time.
BLOCKS = {"cpu": Blocks(16_384, 256, 256), "cuda": Blocks(65_536, 1024, 65_536)}


@dataclass(frozen=True)
class Queries:
    """Queries in a cheap precision, and what that lost."""

    exact: torch.Tensor
    """float32 [Q, D]."""
    values: torch.Tensor
    """int8 or float16 [Q, D]."""
    scales: torch.Tensor
    """[Q]: values times scales are the queries that the product sees."""
    lengths: torch.Tensor
    """[Q]: of these."""
    lost: torch.Tensor
    """[Q]: length of what was lost."""

    def part(self, start: int, stop: int) -> "Queries":
        """Some of them."""
        every = self.exact, self.values, self.scales, self.lengths, self.lost
        return Queries(*(of_each[start:stop] for of_each in every))


@dataclass(frozen=True)
class Tile:
    """Rows of a database in a cheap precision, and what that lost."""

    exact: torch.Tensor
    """[N, D] as stored."""
    values: torch.Tensor
    """int8 or float16 [N, D]."""
    centre: torch.Tensor
    """float32 [D]."""
    scale: float
    """Values times this plus the centre are the rows that the product sees."""
    apart: torch.Tensor
    """Columns int64 of the APART rows that lost most, and of those that make no whole group."""
    lost: torch.Tensor
    """[]: the greatest length of what another row lost."""
    longest: torch.Tensor
    """[]: the greatest distance of a row from the centre."""


@dataclass(frozen=True)
class Precision:
    """A way to multiply cheaply."""

    name: str
    queries: Callable[[torch.Tensor], Queries]
    """Of float32 [Q, D]."""
    tile: Callable[[torch.Tensor], Tile]
    """Of float16 or float32 [N, D]."""
    product: Product
    result_rounding: float
    """Relative rounding of a result near 1."""


def int8_queries(vectors: torch.Tensor) -> Queries:
    """Each in 255 steps by its own largest entry."""
    scales = (vectors.abs().amax(dim=1, keepdim=True) / 127).clamp_min(1e-12)
    values = (vectors / scales).round()
    seen = values * scales
    lost = (vectors - seen).norm(dim=1)
    return Queries(vectors, values.to(torch.int8), scales[:, 0], seen.norm(dim=1), lost)


def int8_tile(rows: torch.Tensor) -> Tile:
    """All in 255 steps of one size, around the mean of some of them and clipped."""
    some = rows[::GROUP].float()
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
    """As float16."""
    values = vectors.half()
    seen = values.float()
    scales = torch.ones(len(vectors), device=vectors.device)
    return Queries(vectors, values, scales, seen.norm(dim=1), (vectors - seen).norm(dim=1))


def half_tile(rows: torch.Tensor) -> Tile:
    """As float16; those of a database on disk are that already, and lose nothing."""
    values = rows.half()
    seen = values.float()
    lost, longest = (rows - seen).norm(dim=1), rows.float().norm(dim=1).amax()
    return Tile(rows, values, torch.zeros_like(seen[0]), 1.0, *_apart(lost), longest)


def _apart(lost: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which rows of a tile are scored for every query, and the most that another one lost [N]."""
    others = lost.clone()
    others[len(lost) // GROUP * GROUP :] = -1.0
    others[others.topk(min(APART, len(lost))).indices] = -1.0
    return (others < 0).nonzero()[:, 0], others.amax().clamp_min(0.0)


def int8_product(queries: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """int8 [Q, D] x int8 [N, D] -> int32 [Q, N], exactly."""
    return torch._int_mm(queries, rows.T)


def half_product(queries: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """float16 [Q, D] x float16 [N, D] -> float32 [Q, N]; what float16 loses of the result is given
    back to the bound."""
    # Sums in fp32: the bound counts on it.
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    return (queries @ rows.T).float()


INT8 = Precision("int8", int8_queries, int8_tile, int8_product, 0.0)
HALF = Precision("float16", half_queries, half_tile, half_product, 2.0**-10)


@cache
def int8_may_pay() -> bool:
    """Whether this CPU multiplies int8 faster than fp32, and adds it up exactly: measured once a
    process, in milliseconds. Whether a search is faster depends on its data too."""
    rng = torch.Generator().manual_seed(0)
    queries, rows = (torch.randn(count, 512, generator=rng) for count in (16, 1024))
    small_queries, small_rows = int8_queries(queries).values, int8_tile(rows).values
    plain = shortest_seconds(lambda: queries @ rows.T)
    small = shortest_seconds(lambda: int8_product(small_queries, small_rows))
    return small < plain and int8_is_exact()


def int8_is_exact() -> bool:
    """Whether the largest products add up: some CPUs without VNNI add pairs of them in 16 bits,
    which saturate."""
    rng = torch.Generator().manual_seed(0)
    signs = torch.tensor([127, -127], dtype=torch.int8)[torch.randint(2, (64, 512), generator=rng)]
    most = torch.cat([torch.full((32, 512), 127, dtype=torch.int8), signs])
    return torch.equal(int8_product(most, most).long(), most.long() @ most.long().T)


def search_by_bound(
    queries: np.ndarray, vectors: np.ndarray, k: int, precision: Precision, device: str = "cpu",
    blocks: Blocks | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Unit queries float32 [Q, D] against unit vectors [N, D] (float16 or float32, memory-mapped
    or not), k <= N.

    Returns rows int64 [Q, k] and scores float32 [Q, k], nearest first, equal scores by row, and
    bool [Q]: whether a query was given up; its rows and scores say nothing. Holds one tile of the
    database and one block of products in memory at a time. Raises RequestError for vectors that
    hold NaN or infinity: nothing is less than a bound of NaN.
    """
    blocks = blocks or BLOCKS[torch.device(device).type]
    reduced = reduced_queries(queries, precision, device)
    found = Found.of(len(queries), k, reduced.exact.device)
    for start in range(0, len(vectors), blocks.rows):
        tile = reduced_tile(vectors, start, blocks.rows, precision, device)
        search_tile(reduced, tile, start, found, precision, blocks)
    return found.result()


def reduced_queries(queries: np.ndarray, precision: Precision, device: str = "cpu") -> Queries:
    """Queries on a device. Raises RequestError for NaN and infinity."""
    asked = torch.from_numpy(np.ascontiguousarray(queries, dtype=np.float32)).to(device)
    reduced = precision.queries(asked)
    _check_finite("the queries", reduced.lost + reduced.lengths)
    return reduced


def reduced_tile(
    vectors: np.ndarray, start: int, count: int, precision: Precision, device: str = "cpu"
) -> Tile:
    """Some of the rows of a database on a device. Raises RequestError for NaN and infinity."""
    stored = torch.from_numpy(np.array(vectors[start : start + count])).to(device)
    tile = precision.tile(stored)
    _check_finite(f"the rows {start:,} to {start + len(stored):,}", tile.longest)
    return tile


def _check_finite(which: str, lengths: torch.Tensor) -> None:
    if not bool(lengths.isfinite().all()):
        raise RequestError("search", f"{which} hold NaN or infinity", "Embed the images again.")


def search_tile(
    queries: Queries, tile: Tile, start: int, found: "Found", precision: Precision, blocks: Blocks
) -> None:
    """Add what is near in the tile of the rows from `start` on."""
    for first in range(0, len(queries.exact), blocks.queries):
        part = queries.part(first, first + blocks.queries)
        known = found.scores[first : first + blocks.queries]
        pairs, thresholds = candidates(part, tile, known, precision, blocks.pairs)
        scores = scored(part.exact, tile.exact, pairs, blocks.pairs)
        found.add(first, start, pairs, scores, thresholds)


def search_by_bound_on(
    devices: Sequence[str], queries: np.ndarray, vectors: np.ndarray, k: int, precision: Precision
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same with the rows split evenly over as many of the devices as have k rows each, and what
    each found merged; a query that one of them gave up is given up."""
    count = min(len(devices), len(vectors) // k)
    edges = np.linspace(0, len(vectors), count + 1).astype(int).tolist()
    starts, stops = edges[:-1], edges[1:]

    def search(device: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        part = vectors[start:stop]
        rows, scores, given_up = search_by_bound(queries, part, k, precision, device)
        return rows + start, scores, given_up

    with ThreadPoolExecutor(len(starts)) as pool:
        found = list(pool.map(search, devices, starts, stops))
    rows, scores = (np.concatenate([one[i] for one in found], axis=1) for i in (0, 1))
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    given_up = np.any([one[2] for one in found], axis=0)
    return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1), given_up


def candidates(
    queries: Queries, tile: Tile, known: torch.Tensor, precision: Precision, at_once: int
) -> tuple[Pairs, torch.Tensor]:
    """The pairs (query, row) that may be among the k best, and a threshold [Q] that every other row
    of the tile is below, for certain.

    It is the last of the k best scores known so far [Q, k] or, where that leaves many pairs, a
    score that k rows of the tile reach. A query that still has so many that a product in fp32
    costs less has an infinite threshold, and no pair.
    """
    k, thresholds = known.shape[1], known[:, -1]
    product = precision.product(queries.values, tile.values)
    product.index_fill_(1, tile.apart, -MOST)
    width = product.shape[1] // GROUP
    best = product[:, : width * GROUP].reshape(len(product), GROUP, width).amax(dim=1)
    slack = _slack(queries, tile) + precision.result_rounding

    def least(thresholds: torch.Tensor) -> torch.Tensor:
        """The product [Q, 1] from which on a row is a candidate."""
        products = ((thresholds - slack) / (queries.scales * tile.scale))[:, None]
        return (
            products if product.is_floating_point() else products.clamp(-MOST, MOST).floor().int()
        )

    crowded = ((best >= least(thresholds)).sum(dim=1) > CROWDED * width).nonzero()[:, 0]
    if len(crowded) and k <= width:
        groups = best.index_select(0, crowded).topk(k, dim=1).indices.reshape(-1)
        places = crowded.repeat_interleave(k)
        columns = _members(product, places, groups).argmax(dim=1) * width + groups
        reached = scored(queries.exact, tile.exact, (places, columns), at_once).reshape(-1, k)
        higher = torch.maximum(thresholds[crowded], reached.amin(dim=1))
        thresholds = thresholds.index_put((crowded,), higher)
    lowest = least(thresholds)
    passing = best >= lowest
    hopeless = passing.sum(dim=1) > HOPELESS * width
    passing &= ~hopeless[:, None]
    places, groups = passing.nonzero(as_tuple=True)
    members = _members(product, places, groups) >= lowest.index_select(0, places)
    which, member = members.nonzero(as_tuple=True)
    everyone, apart = (~hopeless).nonzero()[:, 0], tile.apart
    places = torch.cat([places[which], everyone.repeat_interleave(len(apart))])
    columns = torch.cat([member * width + groups[which], apart.repeat(len(everyone))])
    return (places, columns), torch.where(hopeless, torch.inf, thresholds)


def _members(product: torch.Tensor, places: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """The products [P, GROUP] of some queries with the columns of some groups [P]."""
    width = product.shape[1] // GROUP
    columns = torch.arange(GROUP, device=product.device) * width
    at = (places * product.shape[1] + groups)[:, None] + columns
    return product.reshape(-1).index_select(0, at.reshape(-1)).reshape(at.shape)


def _slack(queries: Queries, tile: Tile) -> torch.Tensor:
    """What a score may exceed queries.scales * tile.scale * product by [Q], for rows not apart."""
    rounding = 2.0**-22 * queries.exact.shape[1]  # sums in fp32 on either side of a comparison
    bound = queries.lengths * tile.lost + queries.lost * tile.longest
    return queries.exact @ tile.centre + bound + rounding


def scored(queries: torch.Tensor, rows: torch.Tensor, pairs: Pairs, at_once: int) -> torch.Tensor:
    """The scores [P] of pairs in fp32. Not from a product: equal rows would not have equal scores
    there."""
    parts = zip(*(which.split(at_once) for which in pairs), strict=True)
    return torch.cat(
        [
            (queries.index_select(0, places) * rows.index_select(0, columns)).sum(dim=1)
            for places, columns in parts
        ]
    )


@dataclass
class Found:
    """The best rows so far, nearest first; what is not found yet has the row -1 and the score -2,
    what a query that is given up has found the score infinity."""

    rows: torch.Tensor
    scores: torch.Tensor

    @classmethod
    def of(cls, count: int, k: int, device: torch.device) -> "Found":
        """Nothing yet."""
        rows = torch.full((count, k), -1, dtype=torch.int64, device=device)
        return cls(rows, torch.full((count, k), -2.0, device=device))

    def add(
        self, first: int, start: int, pairs: Pairs, scores: torch.Tensor, thresholds: torch.Tensor
    ) -> None:
        """Keep the k best of what is known of the queries from `first` on and of new pairs with
        rows of the tile at `start`, of which k or k known ones reach the query's threshold."""
        places, columns = pairs
        last = self.scores[first : first + len(thresholds), -1]
        # A row as near as the last one, but later, is not among the k best.
        better = (scores > last[places]) & (scores >= thresholds[places])
        places, rows, scores = places[better], columns[better] + start, scores[better]
        order = (places * (int(rows.amax()) + 1 if len(rows) else 1) + rows).argsort()
        places, rows, scores = places[order], rows[order], scores[order]
        # A line a query: what is known, then what is new, by row. A stable sort keeps equal ones
        # so.
        counts = places.bincount(minlength=len(last))
        k, most = self.rows.shape[1], int(counts.amax())
        slots = (
            k + torch.arange(len(places), device=rows.device) - (counts.cumsum(0) - counts)[places]
        )
        part = slice(first, first + len(last))
        every_row = torch.nn.functional.pad(self.rows[part], (0, most), value=-1)
        every_score = torch.nn.functional.pad(self.scores[part], (0, most), value=-3.0)
        every_row[places, slots], every_score[places, slots] = rows, scores
        nearest, at = every_score.sort(dim=1, descending=True, stable=True)
        self.rows[part], self.scores[part] = every_row.gather(1, at[:, :k]), nearest[:, :k]
        self.scores[first + thresholds.isinf().nonzero()[:, 0]] = torch.inf

    def result(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, scores, and which queries were given up."""
        given_up = self.scores[:, -1].isinf()
        return self.rows.cpu().numpy(), self.scores.cpu().numpy(), given_up.cpu().numpy()
