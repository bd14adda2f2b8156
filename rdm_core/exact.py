"""Exact search by a bound: a cheap product says which rows may be among the nearest, and only these are scored in fp32.

With q = q' + e and x = x' + f, where q' and x' are what the cheap product sees, Cauchy and Schwarz give
<q, x> <= <q', x'> + |q'| |f| + |e| |x|. A row whose right side is below the k-th best score known so far cannot be among
the k nearest, so leaving it out loses nothing, whatever the data: recall is 1 by construction.
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
ROUNDING = 1e-4
"""Room for the rounding of fp32 sums over at most 4,096 numbers of unit vectors, on either side of a comparison."""
SAMPLE_ROWS = 8192
"""Rows, evenly spread, whose best scores are the first thresholds."""
TOO_MANY = 32
"""A tile of which every TOO_MANY-th row is a candidate is scored whole: gathering rows costs more than a product."""
WHOLE_QUERIES = 64
"""Queries that a whole tile is scored for at once: every pair may be kept."""
PAIRS = 2**16
"""Pairs that are scored at once: their vectors are copied beside each other."""

Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Pairs = tuple[torch.Tensor, torch.Tensor]
"""Places of queries, columns of a tile: int64 [P] each."""


@dataclass(frozen=True)
class Reduced:
    """Vectors in a cheap precision, and what that lost."""

    values: torch.Tensor
    """[N, D]: int8, or float16."""
    scales: torch.Tensor
    """[N] or [1]: values times scales are the vectors that the product sees."""
    lengths: torch.Tensor
    """[N]: of these."""
    lost: torch.Tensor
    """[N]: length of what was lost."""

    def part(self, start: int, stop: int) -> "Reduced":
        """Some of the rows."""
        scales = self.scales[start:stop] if len(self.scales) > 1 else self.scales
        return Reduced(self.values[start:stop], scales, self.lengths[start:stop], self.lost[start:stop])


def int8(vectors: torch.Tensor, one_scale: bool) -> Reduced:
    """Vectors float [N, D] in 255 steps, each row by its own largest entry or all by the largest of all."""
    largest = vectors.abs().amax().reshape(1, 1) if one_scale else vectors.abs().amax(dim=1, keepdim=True)
    scales = (largest / 127).clamp_min(1e-12)
    values = (vectors / scales).round().clamp(-127, 127)
    seen = values * scales
    return Reduced(values.to(torch.int8), scales[:, 0], seen.norm(dim=1), (vectors - seen).norm(dim=1))


def half(vectors: torch.Tensor, one_scale: bool) -> Reduced:
    """Vectors float [N, D] as float16; those of a database on disk are float16 already, and lose nothing."""
    values = vectors.half()
    seen = values.float()
    ones = torch.ones(1, device=vectors.device)
    return Reduced(values, ones, seen.norm(dim=1), (vectors - seen).norm(dim=1))


def int8_product(queries: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """int8 [Q, D] x int8 [N, D] -> int32 [Q, N], exactly."""
    return torch._int_mm(queries, rows.T)


def half_product(queries: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """float16 [Q, D] x float16 [N, D] -> float32 [Q, N]; what float16 loses of the result is given back to the bound."""
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False  # sums in fp32: the bound counts on it
    return (queries @ rows.T).float()


@dataclass(frozen=True)
class Precision:
    """A way to multiply cheaply."""

    name: str
    reduce: Callable[[torch.Tensor, bool], Reduced]
    product: Product
    result_rounding: float
    """Relative rounding of a result near 1."""


INT8 = Precision("int8", int8, int8_product, 0.0)
HALF = Precision("float16", half, half_product, 2.0**-10)


@cache
def cheap_precision(device: str) -> Precision | None:
    """The precision whose product pays on a device: float16 on a GPU, int8 on a CPU that is at least twice as fast with it
    as with fp32 (measured here, in a second) and whose products of int8 are exact, else None."""
    if device.startswith("cuda"):
        return HALF
    rng = torch.Generator().manual_seed(0)
    queries, rows = (torch.randn(count, 512, generator=rng) for count in (256, 4096))
    small_queries, small_rows = (int8(vectors, True).values for vectors in (queries, rows))
    plain = shortest_seconds(lambda: queries @ rows.T)
    pays = shortest_seconds(lambda: int8_product(small_queries, small_rows), most=2 * plain) < plain / 2
    return INT8 if pays and int8_is_exact() else None


def int8_is_exact() -> bool:
    """Whether the largest products add up: some CPUs without VNNI add pairs of them in 16 bits, which saturate."""
    signs = torch.tensor([127, -127], dtype=torch.int8)[torch.randint(2, (64, 512), generator=torch.Generator().manual_seed(0))]
    most = torch.cat([torch.full((32, 512), 127, dtype=torch.int8), signs])
    return torch.equal(int8_product(most, most).long(), most.long() @ most.long().T)


def search_by_bound(
    queries: np.ndarray, vectors: np.ndarray, k: int, precision: Precision, device: str = "cpu",
    tile_rows: int = 65_536, query_rows: int = 1024,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Unit queries float32 [Q, D] against unit vectors [N, D] (float16 or float32, memory-mapped or not), k <= N.

    Returns rows int64 [Q, k] and scores float32 [Q, k], nearest first, equal scores by row. Holds one tile of the database
    and one block of products in memory at a time. Raises RequestError for vectors that hold NaN or infinity: nothing is
    less than a bound of NaN.
    """
    asked = torch.from_numpy(np.ascontiguousarray(queries, dtype=np.float32)).to(device)
    reduced = _finite(precision.reduce(asked, False), "the queries")
    found = _Found.of(len(asked), k, first_thresholds(asked, vectors, k, device))
    for start in range(0, len(vectors), tile_rows):
        tile = _on_device(vectors[start : start + tile_rows], device)
        rows = _finite(precision.reduce(tile.float(), True), f"the rows {start:,} to {start + len(tile):,}")
        for first in range(0, len(asked), query_rows):
            last = min(first + query_rows, len(asked))
            passed = candidates(reduced.part(first, last), rows, found.thresholds[first:last], precision)
            if passed is None:
                for at in range(first, last, WHOLE_QUERIES):
                    to = min(at + WHOLE_QUERIES, last)
                    found.add(
                        at, to, start, *_scored(asked[at:to], tile, _every_near(asked[at:to], tile, found.thresholds[at:to]))
                    )
            else:
                found.add(first, last, start, *_scored(asked[first:last], tile, passed))
    return found.rows.cpu().numpy(), found.scores.cpu().numpy()


def _finite(reduced: Reduced, which: str) -> Reduced:
    if not (reduced.lost.isfinite().all() and reduced.lengths.isfinite().all()):
        raise RequestError("search", f"{which} hold NaN or infinity", "Embed the images again.")
    return reduced


def _scored(queries: torch.Tensor, tile: torch.Tensor, pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Places, columns and, in fp32, the scores of pairs. Not from a product: equal rows would not have equal scores there."""
    parts = zip(*(which.split(PAIRS) for which in pairs), strict=True)
    return *pairs, torch.cat([(queries[places] * tile[columns].float()).sum(dim=1) for places, columns in parts])


def search_by_bound_on(
    devices: Sequence[str], queries: np.ndarray, vectors: np.ndarray, k: int, precision: Precision
) -> tuple[np.ndarray, np.ndarray]:
    """The same with the rows split evenly over as many of the devices as have k rows each, and what each found merged."""
    edges = np.linspace(0, len(vectors), min(len(devices), len(vectors) // k) + 1).astype(int).tolist()
    starts, stops = edges[:-1], edges[1:]

    def search(device: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        rows, scores = search_by_bound(queries, vectors[start:stop], k, precision, device)
        return rows + start, scores

    with ThreadPoolExecutor(len(starts)) as pool:
        found = list(pool.map(search, devices, starts, stops))
    rows, scores = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)


def first_thresholds(queries: torch.Tensor, vectors: np.ndarray, k: int, device: str) -> torch.Tensor:
    """A score [Q] that the k-th nearest row of each query has at least: that of the k-th nearest of some rows."""
    stride = max(1, len(vectors) // max(SAMPLE_ROWS, 2 * k))
    sample = _on_device(vectors[::stride], device).float()
    return torch.cat([(part @ sample.T).topk(k, dim=1).values[:, -1] for part in queries.split(1024)]) - ROUNDING


def candidates(queries: Reduced, rows: Reduced, thresholds: torch.Tensor, precision: Precision) -> Pairs | None:
    """The pairs (query, row) that may score at least the query's threshold; every other pair scores less, for certain.

    None: so many that a product in fp32 costs less.
    """
    most_lost, longest = rows.lost.amax(), (rows.lengths + rows.lost).amax()
    slack = queries.lengths * most_lost + queries.lost * longest + ROUNDING + precision.result_rounding
    product = precision.product(queries.values, rows.values)
    least = (thresholds - slack) / (queries.scales * rows.scales)
    least = least.floor().clamp(-(2**30), 2**30).to(product.dtype) if product.dtype == torch.int32 else least
    width = product.shape[1] // GROUP * GROUP
    groups = product[:, :width].reshape(len(product), -1, GROUP).amax(dim=2) >= least[:, None]
    if TOO_MANY * GROUP * int(groups.sum()) > 8 * product.numel():  # most groups with a candidate have one
        return None
    places, group = groups.nonzero(as_tuple=True)
    columns = (group[:, None] * GROUP + torch.arange(GROUP, device=product.device)).reshape(-1)
    places = places.repeat_interleave(GROUP)
    passed = product[places, columns] >= least[places]
    rest_places, rest_columns = (product[:, width:] >= least[:, None]).nonzero(as_tuple=True)
    places, columns = torch.cat([places[passed], rest_places]), torch.cat([columns[passed], rest_columns + width])
    return None if TOO_MANY * len(places) > product.numel() else (places, columns)


def _every_near(queries: torch.Tensor, tile: torch.Tensor, thresholds: torch.Tensor) -> Pairs:
    """The same by a product in fp32: for data that a cheap one cannot tell apart."""
    places, columns = (queries @ tile.float().T >= thresholds[:, None] - ROUNDING).nonzero(as_tuple=True)
    return places, columns


@dataclass
class _Found:
    """The best rows so far, nearest first; what is not found yet has the row -1 and the score -2."""

    rows: torch.Tensor
    scores: torch.Tensor
    thresholds: torch.Tensor

    @classmethod
    def of(cls, count: int, k: int, thresholds: torch.Tensor) -> "_Found":
        device = thresholds.device
        rows = torch.full((count, k), -1, dtype=torch.int64, device=device)
        return cls(rows, torch.full((count, k), -2.0, device=device), thresholds)

    def add(self, first: int, last: int, start: int, places: torch.Tensor, columns: torch.Tensor, scores: torch.Tensor) -> None:
        """Keep the k best of what is known of queries first..last and of new (place, column, score) in the tile at `start`."""
        count, k = last - first, self.rows.shape[1]
        known = torch.arange(count, device=columns.device).repeat_interleave(k)
        places = torch.cat([known, places])
        rows = torch.cat([self.rows[first:last].reshape(-1), columns + start])
        scores = torch.cat([self.scores[first:last].reshape(-1), scores])
        order = rows.argsort(stable=True)  # by query, then falling score, then row: stable sorts, the last one counts most
        order = order[(-scores[order]).argsort(stable=True)]
        order = order[places[order].argsort(stable=True)]
        places, rows, scores = places[order], rows[order], scores[order]
        begins = torch.searchsorted(places, torch.arange(count, device=rows.device))
        taken = begins[:, None] + torch.arange(k, device=rows.device)
        self.rows[first:last], self.scores[first:last] = rows[taken], scores[taken]
        full = self.rows[first:last, -1] >= 0
        worst = torch.where(full, self.scores[first:last, -1] - ROUNDING, self.thresholds[first:last])
        self.thresholds[first:last] = torch.maximum(self.thresholds[first:last], worst)


def _on_device(rows: np.ndarray, device: str) -> torch.Tensor:
    return torch.from_numpy(np.array(rows)).to(device)
