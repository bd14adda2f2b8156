"""Pictures to learn editing from: images of which a circle shows something of a neighbor.

A network that is given such a picture, and a context that describes the image, learns to keep what
agrees and to draw anew what does not; no mask tells it where (kNN-Diffusion, arXiv 2204.02849,
which pastes neighbors after an ECC alignment). Pure functions of pixels uint8 [B, 3, H, W] and
random numbers.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from rdm_core.errors import RequestError
from rdm_core.families.diffusion.config import EditingConfig

ECC_SIDE = 64
"""ECC looks at images reduced to this side, at most; its transform is scaled up."""
ECC_STEPS, ECC_CHANGE = 50, 1e-3
"""It ends after so many steps, or when the correlation rises by less."""
ROLLS = 11
"""Random numbers of one sample."""


@dataclass(frozen=True)
class Exchange:
    """What is exchanged in each of B images, drawn for the whole batch."""

    ranks: torch.Tensor
    """Which neighbors, as shares of those to choose from: float64 [B, 2] in 0..1."""
    identity: torch.Tensor
    """Whether the picture is the image itself: bool [B]."""
    without: torch.Tensor
    """Whether there is no picture: bool [B]."""
    centre: torch.Tensor
    """Of the circle, y and x as shares of the side: float64 [B, 2]."""
    radius: torch.Tensor
    """A share of the side: float64 [B]."""
    fade: torch.Tensor
    """The share of the radius over which the circle fades: float64 [B]."""
    first: torch.Tensor
    """The weight of the first neighbor in the circle: float64 [B]; 1 where nothing is mixed."""
    with_image: torch.Tensor
    """Whether it is mixed with the image, not with the second neighbor: bool [B]."""

    def rows(self, mine: slice) -> "Exchange":
        """Those of some images."""
        return Exchange(**{name: tensor[mine] for name, tensor in vars(self).items()})


def draw_exchange(count: int, config: EditingConfig, generator: torch.Generator) -> Exchange:
    """Draw the exchanges of a batch of `count` images, on the CPU."""
    rolls = torch.rand(count, ROLLS, generator=generator, dtype=torch.float64)
    radii = config.radius_most - config.radius_least
    mixed = rolls[:, 8] < config.blend_share
    return Exchange(
        ranks=rolls[:, :2],
        identity=rolls[:, 2] < config.identity_share,
        without=rolls[:, 3] < config.picture_dropout,
        centre=rolls[:, 4:6],
        radius=config.radius_least + radii * rolls[:, 6],
        fade=config.soft_edge * rolls[:, 7],
        # At least half of a mixture is the first neighbor's.
        first=torch.where(mixed, 0.5 + 0.5 * rolls[:, 9], 1.0),
        with_image=rolls[:, 10] < 0.5,
    )


def picked(rows: np.ndarray, ranks: np.ndarray, from_top: int, no_row: int) -> np.ndarray:
    """Two neighbors of each sample, int64 [B, 2], of its list of rows int64 [B, S], nearest first,
    by ranks float64 [B, 2] in 0..1; `no_row` where there is none.
    """
    usable = rows[:, : from_top or rows.shape[1]]
    present = (usable != no_row).sum(axis=1)  # the absent ones stand last
    places = (ranks * present[:, None]).astype(np.int64)
    chosen = np.take_along_axis(usable, np.minimum(places, usable.shape[1] - 1), axis=1)
    return np.where(present[:, None] > 0, chosen, no_row)


def pictures(
    images: torch.Tensor, neighbors: torch.Tensor, has: torch.Tensor, exchange: Exchange,
    config: EditingConfig,
) -> torch.Tensor:  # fmt: skip
    """Pictures uint8 [B, 3, H, W] of images uint8 [B, 3, H, W] and two neighbors of each, uint8
    [B, 2, 3, H, W]; `has` bool [B, 2] tells which of these there are.

    Raises RequestError where `align` needs a library that is not installed.
    """
    changes = has[:, 0] & ~exchange.identity & ~exchange.without
    mixes = changes & has[:, 1] & (exchange.first < 1) & ~exchange.with_image
    image = images.double()
    first, covered = _in_place(images, neighbors[:, 0], changes, config)
    second, beside = _in_place(images, neighbors[:, 1], mixes, config)
    # Where a second neighbor shows nothing, the first is mixed with the image.
    other = torch.where(beside, second, image)
    weight = exchange.first[:, None, None, None]
    content = weight * first + (1 - weight) * other
    changed = region(images.shape[-1], exchange) * covered
    return (image + changed * (content - image)).round().to(torch.uint8)


def _in_place(
    images: torch.Tensor, neighbors: torch.Tensor, wanted: torch.Tensor, config: EditingConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Neighbors uint8 [B, 3, H, W] as `aligned` moves them, float64, and where they may be shown,
    bool [B, 1, H, W]: nowhere for those that are not `wanted`, bool [B], or do not fit.
    """
    moved, shown = images.double(), torch.zeros_like(images[:, :1], dtype=torch.bool)
    if wanted.any():
        pixels, covers, correlation = aligned(images[wanted], neighbors[wanted], config)
        moved[wanted] = pixels
        shown[wanted] = covers & (correlation >= config.least_correlation)[:, None, None, None]
    return moved, shown


def region(side: int, exchange: Exchange) -> torch.Tensor:
    """How much of each place is exchanged, float64 [B, 1, side, side] in 0..1: 1 inside the circle,
    falling to 0 at its edge.
    """
    axis = torch.arange(side, dtype=torch.float64) + 0.5
    y, x = axis[None, :, None], axis[None, None, :]
    centre = (exchange.centre * side)[:, :, None, None]
    distance = ((y - centre[:, 0]).square() + (x - centre[:, 1]).square()).sqrt()
    radius = (exchange.radius * side)[:, None, None]
    # At the least half a pixel, so that a hard edge is no stair.
    fade = (radius * exchange.fade[:, None, None]).clamp(min=0.5)
    return ((radius - distance) / fade).clamp(0, 1)[:, None]


def aligned(
    images: torch.Tensor, neighbors: torch.Tensor, config: EditingConfig
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Neighbors uint8 [B, 3, H, W] moved to where their images show the same: pixels float64 [B, 3,
    H, W], where these are known bool [B, 1, H, W], and their correlation with the images, float64
    [B] in -1..1.
    """
    if config.align == "ecc":
        return by_ecc(images, neighbors)
    reach = round(config.reach * images.shape[-1]) if config.align == "shift" else 0
    shifts, correlation = best_shift(images, neighbors, reach)
    moved, covers = shifted(neighbors, shifts)
    return moved.double(), covers, correlation


def best_shift(
    images: torch.Tensor, neighbors: torch.Tensor, reach: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The shifts (down, right) int64 [B, 2] of neighbors uint8 [B, 3, H, W], none above `reach`,
    that correlate best with their images, and these correlations float64 [B].

    It is the normalised cross-correlation of brightness over what overlaps, exact: sums of whole
    numbers, whose products an FFT gives to less than a half. Of equal ones the smallest shift is
    taken. The correlation with an even picture is 0.
    """
    spread = torch.arange(-reach, reach + 1)
    one, other = images.double().sum(dim=1), neighbors.double().sum(dim=1)  # [B, H, W]
    # Over what overlaps at each shift: how many pixels, their sums, squares and products.
    count = _sums(torch.ones_like(one[:1]), spread)
    a, aa = _sums(one, spread), _sums(one.square(), spread)
    b, bb = _sums(other, -spread), _sums(other.square(), -spread)
    covariance = count * _products(one, other, reach) - a * b
    variance_a, variance_b = count * aa - a.square(), count * bb - b.square()
    scale = (variance_a.clamp(min=0) * variance_b.clamp(min=0)).sqrt()
    correlation = torch.where(scale > 0, covariance / scale.clamp(min=1), 0.0)
    # The smallest shift first: the first of equal ones is what argmax finds.
    every = torch.cartesian_prod(spread, spread)
    order = every[torch.argsort(every.square().sum(dim=1), stable=True)]
    candidates = correlation[:, order[:, 0] + reach, order[:, 1] + reach]
    best = np.argmax(candidates.numpy(), axis=1)
    return order[best], candidates[torch.arange(len(best)), torch.from_numpy(best)]


def _sums(values: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
    """The sums of whole numbers float64 [B, H, W] over the places that an image of that size covers
    too when it is moved by each pair of `shifts` int64 [S], down and right: [B, S, S].
    """
    side = values.shape[-1]
    until = functional.pad(values.cumsum(dim=1).cumsum(dim=2), (1, 0, 1, 0))
    low, high = shifts.clamp(min=0), side + shifts.clamp(max=0)
    rows = until[:, high] - until[:, low]
    return rows[:, :, high] - rows[:, :, low]


def _products(a: torch.Tensor, b: torch.Tensor, reach: int) -> torch.Tensor:
    """sum over y, x of a[y, x] b[y - down, x - right] of whole numbers float64 [B, H, W], for every
    shift up to `reach`: [B, 2 reach + 1, 2 reach + 1].
    """
    size = a.shape[-1] + reach  # so that nothing comes in again at the other side
    transform = torch.fft.rfft2(a, s=(size, size)) * torch.fft.rfft2(b, s=(size, size)).conj()
    products = torch.fft.irfft2(transform, s=(size, size)).round()
    places = torch.arange(-reach, reach + 1) % size
    return products[:, places][:, :, places]


def shifted(neighbors: torch.Tensor, shifts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 [B, 3, H, W] moved (down, right) by int64 [B, 2], and where they show something:
    bool [B, 1, H, W].
    """
    count, _, high, wide = neighbors.shape
    y = torch.arange(high)[None, :] - shifts[:, :1]  # [B, H]: the row that comes to each place
    x = torch.arange(wide)[None, :] - shifts[:, 1:]
    known_y, known_x = (y >= 0) & (y < high), (x >= 0) & (x < wide)
    each = torch.arange(count)[:, None, None, None]
    moved = neighbors[
        each,
        torch.arange(neighbors.shape[1])[None, :, None, None],
        y.clamp(0, high - 1)[:, None, :, None],
        x.clamp(0, wide - 1)[:, None, None, :],
    ]
    return moved, (known_y[:, :, None] & known_x[:, None, :])[:, None]


def by_ecc(
    images: torch.Tensor, neighbors: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `aligned`, by the affine transform of the largest enhanced correlation coefficient
    (Evangelidis and Psarakis, 2008). Where it finds none the correlation is -1.
    """
    cv2 = _opencv()
    moved, covers, correlations = [], [], []
    for image, neighbor in zip(images, neighbors, strict=True):
        pair = [pixels.permute(1, 2, 0).contiguous().numpy() for pixels in (image, neighbor)]
        pixels, known, correlation = _by_ecc(cv2, *pair)
        moved.append(torch.from_numpy(pixels).permute(2, 0, 1))
        covers.append(torch.from_numpy(known)[None])
        correlations.append(correlation)
    found = torch.tensor(correlations, dtype=torch.float64)
    return torch.stack(moved).double(), torch.stack(covers), found


def _by_ecc(
    cv2: Any, image: np.ndarray, neighbor: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """One neighbor uint8 [H, W, 3] as its image [H, W, 3] needs it, where it is known bool [H, W],
    and the correlation.
    """
    side = image.shape[0]
    reduced = min(side, ECC_SIDE)
    small = []
    for pixels in (image, neighbor):
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        small.append(cv2.resize(grey, (reduced, reduced), interpolation=cv2.INTER_AREA))
    transform = np.eye(2, 3, dtype=np.float32)
    until = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, ECC_STEPS, ECC_CHANGE)
    try:
        correlation, transform = cv2.findTransformECC(
            small[0], small[1], transform, cv2.MOTION_AFFINE, until, None, 5
        )
    except cv2.error:  # it does not converge: the two have too little in common
        return neighbor, np.zeros((side, side), dtype=bool), -1.0
    # Pixel i of the reduced image has its middle at (i + 1/2) side / reduced - 1/2.
    scale, half = side / reduced, (side / reduced - 1) / 2
    linear, offset = transform[:, :2], transform[:, 2]
    offset = scale * offset + half - linear @ np.full(2, half, dtype=np.float32)
    whole = np.concatenate([linear, offset[:, None]], axis=1).astype(np.float32)
    how = {"dsize": (side, side), "flags": cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP}
    pixels = cv2.warpAffine(neighbor, whole, **how)
    known = cv2.warpAffine(np.ones((side, side), dtype=np.float32), whole, **how)
    return pixels, known > 1 - 1e-3, float(correlation)


def check_opencv(config: EditingConfig) -> None:
    """Raise RequestError with the cure where `align` needs OpenCV and it is not installed; it is
    not imported.
    """
    if config.align == "ecc" and find_spec("cv2") is None:
        raise _without_opencv()


def _opencv() -> Any:
    """OpenCV. Raises RequestError with the cure where it is not installed."""
    try:
        import cv2
    except ImportError as error:
        raise _without_opencv() from error
    return cv2


def _without_opencv() -> RequestError:
    what = "is 'ecc', which OpenCV computes, and it is not installed"
    cure = "Run: pip install 'rdm[edit]'; or use align=shift."
    return RequestError("model.editing.align", what, cure)
