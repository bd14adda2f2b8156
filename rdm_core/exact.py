"""Exact search by a bound: a cheap product says which rows may be among the nearest, and only
these are scored in fp32.

With a query q = q' + e and a row x = c + x' + f, where q' and x' are what the cheap product sees
and c is the centre of the row's tile, Cauchy and Schwarz give
<q, x> <= <q, c> + <q', x'> + |q'| |f| + |e| |x - c|. A row whose right side is below the k-th best
score known so far cannot be among the k nearest, so leaving it out loses nothing, whatever the
data: recall is 1 by construction. Where a cheap product cannot tell a query's rows apart, the
query is given up and handed back, to be searched in fp32.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from rdm_core.errors import RequestError
from rdm_core.reduced import GROUP, Precision, Queries, Tile

CROWDED = 1 / 4
"""A share of a tile's groups. When more of them hold a candidate, the tile's own best rows are
scored first: they give a higher threshold."""
HOPELESS = 1 / 2
"""A share of a tile's groups. When more of them hold a candidate, a product in fp32 costs less than
to score the candidates."""
MOST = 2**30
"""More than any sum of products of int8."""
Pairs = tuple[torch.Tensor, torch.Tensor]
"""Queries, by their place, and rows, by their column of a tile: int64 [P] each."""


@dataclass(frozen=True)
class Blocks:
    """How much is held in memory at a time."""

    rows: int
    """Rows of a tile of the database."""
    queries: int
    """Queries that are multiplied with a tile at once."""
    pairs: int
    """Pairs whose query and row are copied beside each other, to be scored."""


# On a CPU, a product of more than 16 MB gets new memory from the system each time.
BLOCKS = {"cpu": Blocks(16_384, 256, 256), "cuda": Blocks(65_536, 1024, 65_536)}


def search_by_bound(
    queries: np.ndarray, vectors: np.ndarray, k: int, precision: Precision, device: str = "cpu",
    blocks: Blocks | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Compare unit queries float32 [Q, D] with unit vectors float16 or float32 [N, D], k <= N.

    Returns rows int64 [Q, k] and scores float32 [Q, k], nearest first, equal scores by row, and
    bool [Q]: whether a query was given up; its rows and scores say nothing. The vectors may be
    memory-mapped: one tile of them and one block of products are held in memory at a time. Raises
    RequestError for vectors that hold NaN or infinity: nothing is less than a bound of NaN.
    """
    blocks = blocks or BLOCKS[torch.device(device).type]
    reduced = reduced_queries(queries, precision, device)
    nearest = Nearest.of(len(queries), k, reduced.exact.device)
    for start in range(0, len(vectors), blocks.rows):
        tile = reduced_tile(vectors, start, blocks.rows, precision, device)
        search_tile(reduced, tile, start, nearest, precision, blocks)
    return nearest.result()


def reduced_queries(queries: np.ndarray, precision: Precision, device: str = "cpu") -> Queries:
    """Put queries [Q, D] on a device and reduce them. Raises RequestError for NaN and infinity."""
    on_device = torch.from_numpy(np.ascontiguousarray(queries, dtype=np.float32)).to(device)
    reduced = precision.queries(on_device)
    _check_finite("the queries", reduced.lost + reduced.lengths)
    return reduced


def reduced_tile(
    vectors: np.ndarray, start: int, count: int, precision: Precision, device: str = "cpu"
) -> Tile:
    """Put `count` rows of a database [N, D], from `start` on, on a device and reduce them.

    Raises RequestError for NaN and infinity.
    """
    stored = torch.from_numpy(np.array(vectors[start : start + count])).to(device)
    tile = precision.tile(stored)
    _check_finite(f"the rows {start:,} to {start + len(stored):,}", tile.longest)
    return tile


def _check_finite(which: str, lengths: torch.Tensor) -> None:
    """Raise RequestError unless all lengths float32 [*] are finite numbers."""
    if not bool(lengths.isfinite().all()):
        raise RequestError("search", f"{which} hold NaN or infinity", "Embed the images again.")


def search_tile(
    queries: Queries, tile: Tile, start: int, nearest: "Nearest", precision: Precision,
    blocks: Blocks,
) -> None:  # fmt: skip
    """Add to `nearest` [Q, k] what is near in a tile [N, D], whose first row is `start`."""
    for first in range(0, len(queries.exact), blocks.queries):
        part = queries.part(first, first + blocks.queries)
        known = nearest.scores[first : first + blocks.queries]
        pairs, thresholds = candidates(part, tile, known, precision, blocks.pairs)
        scores = scored(part.exact, tile.exact, pairs, blocks.pairs)
        nearest.add(first, start, pairs, scores, thresholds)


def search_by_bound_on(
    devices: Sequence[str], queries: np.ndarray, vectors: np.ndarray, k: int, precision: Precision
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same as `search_by_bound`, on several devices: queries [Q, D], vectors [N, D].

    The rows are split evenly over as many of the devices as get k rows each; then the results are
    merged. A query that one device gave up is given up.
    """
    count = min(len(devices), len(vectors) // k)
    edges = np.linspace(0, len(vectors), count + 1).astype(int).tolist()
    starts, stops = edges[:-1], edges[1:]

    def search(device: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        part = vectors[start:stop]
        rows, scores, given_up = search_by_bound(queries, part, k, precision, device)
        return rows + start, scores, given_up

    with ThreadPoolExecutor(len(starts)) as pool:
        results = pool.map(search, devices, starts, stops)
        rows_of_each, scores_of_each, given_up_of_each = zip(*results, strict=True)
    rows = np.concatenate(rows_of_each, axis=1)
    scores = np.concatenate(scores_of_each, axis=1)
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    given_up = np.any(given_up_of_each, axis=0)
    return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1), given_up


def candidates(
    queries: Queries, tile: Tile, known: torch.Tensor, precision: Precision, at_once: int
) -> tuple[Pairs, torch.Tensor]:
    """The pairs (query, row) that may be among the k best, int64 [P] twice, and for each query a
    threshold float32 [Q] that the score of every other row of the tile is certainly below.

    The threshold is the last of the k best scores `known` so far, float32 [Q, k], or, where that
    leaves many pairs, a score that k rows of the tile reach. A query that still has so many pairs
    that a product in fp32 costs less gets an infinite threshold, and no pair.
    """
    k, thresholds = known.shape[1], known[:, -1]

    # The largest product of each group: group g has the columns g, g + width, g + 2 width, ...
    product = precision.product(queries.values, tile.values)
    product.index_fill_(1, tile.apart, -MOST)
    width = product.shape[1] // GROUP
    best = product[:, : width * GROUP].reshape(len(product), GROUP, width).amax(dim=1)
    slack = _slack(queries, tile) + precision.result_rounding

    def least(thresholds: torch.Tensor) -> torch.Tensor:
        """Thresholds float32 [Q] -> the product [Q, 1] from which on a row is a candidate."""
        products = ((thresholds - slack) / (queries.scales * tile.scale))[:, None]
        if product.is_floating_point():
            return products
        return products.clamp(-MOST, MOST).floor().int()  # floor: a bound may only get looser

    # Raise the threshold of queries with many candidates: score the best row of the k best groups.
    crowded = ((best >= least(thresholds)).sum(dim=1) > CROWDED * width).nonzero()[:, 0]
    if len(crowded) and k <= width:
        groups = best.index_select(0, crowded).topk(k, dim=1).indices.reshape(-1)
        places = crowded.repeat_interleave(k)
        columns = _members(product, places, groups).argmax(dim=1) * width + groups
        reached = scored(queries.exact, tile.exact, (places, columns), at_once).reshape(-1, k)
        higher = torch.maximum(thresholds[crowded], reached.amin(dim=1))
        thresholds = thresholds.index_put((crowded,), higher)

    # Give up the queries that still have too many candidates.
    lowest = least(thresholds)
    passing = best >= lowest
    hopeless = passing.sum(dim=1) > HOPELESS * width
    passing &= ~hopeless[:, None]

    # Look into the groups that may hold a candidate, and add the rows that are apart.
    places, groups = passing.nonzero(as_tuple=True)
    members = _members(product, places, groups) >= lowest.index_select(0, places)
    which, member = members.nonzero(as_tuple=True)
    everyone, apart = (~hopeless).nonzero()[:, 0], tile.apart
    places = torch.cat([places[which], everyone.repeat_interleave(len(apart))])
    columns = torch.cat([member * width + groups[which], apart.repeat(len(everyone))])
    return (places, columns), torch.where(hopeless, torch.inf, thresholds)


def _members(product: torch.Tensor, places: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """The products [P, GROUP], of all [Q, N], of queries int64 [P] with the columns of groups int64
    [P].
    """
    width = product.shape[1] // GROUP
    columns = torch.arange(GROUP, device=product.device) * width
    at = (places * product.shape[1] + groups)[:, None] + columns
    return product.reshape(-1).index_select(0, at.reshape(-1)).reshape(at.shape)


def _slack(queries: Queries, tile: Tile) -> torch.Tensor:
    """By how much a score may exceed queries.scales * tile.scale * product, for rows that are not
    apart: float32 [Q].
    """
    rounding = 2.0**-22 * queries.exact.shape[1]  # sums in fp32 on either side of a comparison
    bound = queries.lengths * tile.lost + queries.lost * tile.longest
    return queries.exact @ tile.centre + bound + rounding


def scored(queries: torch.Tensor, rows: torch.Tensor, pairs: Pairs, at_once: int) -> torch.Tensor:
    """The scores float32 [P] of pairs of queries [Q, D] and rows [N, D].

    They are not taken from a matrix product: equal rows would not have equal scores there.
    """
    all_places, all_columns = pairs
    scores = []
    for places, columns in zip(all_places.split(at_once), all_columns.split(at_once), strict=True):
        products = queries.index_select(0, places) * rows.index_select(0, columns)
        scores.append(products.sum(dim=1))
    return torch.cat(scores)


@dataclass
class Nearest:
    """The k best rows of each query so far, nearest first.

    A place that is still empty has the row -1 and the score -2. All places of a query that is given
    up have the score infinity.
    """

    rows: torch.Tensor
    """int64 [Q, k]."""
    scores: torch.Tensor
    """float32 [Q, k]."""

    @classmethod
    def of(cls, count: int, k: int, device: torch.device) -> "Nearest":
        """Nothing yet: empty places [count, k]."""
        rows = torch.full((count, k), -1, dtype=torch.int64, device=device)
        return cls(rows, torch.full((count, k), -2.0, device=device))

    def add(
        self, first: int, start: int, pairs: Pairs, scores: torch.Tensor, thresholds: torch.Tensor
    ) -> None:
        """Add new pairs int64 [P] with their scores float32 [P], and keep the k best.

        The pairs are of the queries from `first` on and of the tile whose first row is `start`. At
        least k rows, known or new, reach each query's threshold, float32 [Q].
        """
        places, columns = pairs
        last = self.scores[first : first + len(thresholds), -1]
        # A row as near as the last one, but later, is not among the k best.
        better = (scores > last[places]) & (scores >= thresholds[places])
        places, rows, scores = places[better], columns[better] + start, scores[better]
        # Sort the pairs by query, then by row: one number holds both.
        rows_end = int(rows.amax()) + 1 if len(rows) else 1
        order = (places * rows_end + rows).argsort()
        places, rows, scores = places[order], rows[order], scores[order]
        # Write one line for each query: what is known, then what is new, by row. A stable sort
        # keeps equal scores in this order.
        counts = places.bincount(minlength=len(last))
        first_pairs = (counts.cumsum(0) - counts)[places]
        k, most = self.rows.shape[1], int(counts.amax())
        slots = k + torch.arange(len(places), device=rows.device) - first_pairs
        part = slice(first, first + len(last))
        every_row = torch.nn.functional.pad(self.rows[part], (0, most), value=-1)
        every_score = torch.nn.functional.pad(self.scores[part], (0, most), value=-3.0)
        every_row[places, slots], every_score[places, slots] = rows, scores
        nearest, at = every_score.sort(dim=1, descending=True, stable=True)
        self.rows[part], self.scores[part] = every_row.gather(1, at[:, :k]), nearest[:, :k]
        self.scores[first + thresholds.isinf().nonzero()[:, 0]] = torch.inf

    def result(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows int64 [Q, k], scores float32 [Q, k], and which queries were given up, bool [Q]."""
        given_up = self.scores[:, -1].isinf()
        return self.rows.cpu().numpy(), self.scores.cpu().numpy(), given_up.cpu().numpy()
