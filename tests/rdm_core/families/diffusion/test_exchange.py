"""Pictures to learn editing from: neighbors are moved into place exactly, and shown in a circle
alone.
"""

import importlib.util
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from rdm_core.errors import RequestError
from rdm_core.families.diffusion.config import Config, EditingConfig
from rdm_core.families.diffusion.exchange import (
    Exchange,
    aligned,
    best_shift,
    by_ecc,
    draw_exchange,
    picked,
    pictures,
    region,
    shifted,
)

SIDE = 16
EDITS = EditingConfig(picture=True, identity_share=0, picture_dropout=0, blend_share=0)


def noise(count: int, seed: int = 0, side: int = SIDE) -> torch.Tensor:
    """Images of noise, uint8 [count, 3, side, side]."""
    numbers = np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    return torch.from_numpy(numbers)


def circles(count: int = 1, **changed) -> Exchange:
    """Hard circles of a quarter of the side in the middle, of one neighbor."""
    one = torch.ones(count, dtype=torch.float64)
    yes = torch.ones(count, dtype=torch.bool)
    usual = Exchange(
        ranks=torch.zeros(count, 2, dtype=torch.float64), identity=~yes, without=~yes,
        centre=torch.full((count, 2), 0.5, dtype=torch.float64), radius=0.25 * one,
        fade=0 * one, first=one, with_image=~yes,
    )  # fmt: skip
    return replace(usual, **changed)


def correlation_of(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's, of two pictures of numbers."""
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


@pytest.mark.parametrize("shift", [(0, 0), (2, -3), (-1, 2), (3, 3)])
def test_a_neighbor_that_is_the_image_elsewhere_is_moved_back_exactly(shift):
    canvas = noise(4, side=SIDE + 6)
    image = canvas[:, :, 3 : 3 + SIDE, 3 : 3 + SIDE]
    down, right = shift
    neighbor = canvas[:, :, 3 + down : 3 + down + SIDE, 3 + right : 3 + right + SIDE]
    shifts, correlation = best_shift(image, neighbor, 3)
    assert shifts.tolist() == [[down, right]] * 4
    assert correlation.numpy() == pytest.approx(1)
    moved, covers = shifted(neighbor, shifts)
    assert torch.equal(moved * covers, image * covers)
    assert covers.sum() == 4 * (SIDE - abs(down)) * (SIDE - abs(right))


def test_the_correlation_is_that_of_brightness_over_what_overlaps():
    image, neighbor = noise(1), noise(1, seed=1)
    best, place = -2.0, None
    one, other = image[0].double().sum(0).numpy(), neighbor[0].double().sum(0).numpy()
    for down in range(-2, 3):
        for right in range(-2, 3):
            rows = slice(max(0, down), SIDE + min(0, down))
            columns = slice(max(0, right), SIDE + min(0, right))
            there = np.roll(other, (down, right), (0, 1))[rows, columns]
            found = correlation_of(one[rows, columns], there)
            if found > best:
                best, place = found, [down, right]
    shifts, correlation = best_shift(image, neighbor, 2)
    assert shifts.tolist() == [place]
    assert correlation.item() == pytest.approx(best, abs=1e-12)


def test_of_equal_correlations_the_smallest_shift_is_taken():
    stripes = (torch.arange(SIDE) % 2 * 200).to(torch.uint8).expand(2, 3, SIDE, SIDE)
    shifts, correlation = best_shift(stripes, stripes, 3)
    assert shifts.tolist() == [[0, 0]] * 2 and correlation.tolist() == [1, 1]
    even = torch.full((1, 3, SIDE, SIDE), 7, dtype=torch.uint8)
    shifts, correlation = best_shift(even, stripes[:1], 3)
    assert shifts.tolist() == [[0, 0]] and correlation.tolist() == [0]


def test_what_is_found_for_one_does_not_depend_on_the_others():
    images, neighbors = noise(5), noise(5, seed=1)
    together = best_shift(images, neighbors, 3)
    for i in range(5):
        alone = best_shift(images[i : i + 1], neighbors[i : i + 1], 3)
        assert torch.equal(alone[0][0], together[0][i])
        assert torch.equal(alone[1][0], together[1][i])


def test_a_circle_is_whole_inside_and_fades_to_its_edge():
    hard = region(SIDE, circles())[0, 0]
    assert hard[8, 8] == 1 and hard[8, 12] == 0 and hard[0, 0] == 0
    assert torch.equal(hard, hard.T) and torch.equal(hard, hard.flip(0))
    soft = region(SIDE, circles(fade=torch.ones(1, dtype=torch.float64)))[0, 0]
    line = soft[8, 8:12]
    assert (line[:-1] > line[1:]).all() and 0 < line[-1] < 0.2
    assert (soft <= hard).all()


def test_a_picture_shows_the_neighbor_inside_the_circle_and_the_image_outside():
    images, neighbors = noise(3), noise(6, seed=1).view(3, 2, 3, SIDE, SIDE)
    has, how = torch.ones(3, 2, dtype=torch.bool), replace(EDITS, align="none")
    how = replace(how, least_correlation=-1.0)
    made = pictures(images, neighbors, has, circles(3), how)
    inside = (region(SIDE, circles(3)) == 1).expand_as(images)
    outside = (region(SIDE, circles(3)) == 0).expand_as(images)
    assert made.dtype == torch.uint8
    assert torch.equal(made[inside], neighbors[:, 0][inside])
    assert torch.equal(made[outside], images[outside])
    # mixed: half of each neighbor; with the image where there is no second one, or it is drawn so
    half = torch.full((3,), 0.5, dtype=torch.float64)
    has[1, 1] = False
    with_image = torch.tensor([False, False, True])
    mixed = circles(3, first=half, with_image=with_image)
    made = pictures(images, neighbors, has, mixed, how)[:, :, 8, 8].double()
    others = torch.stack([neighbors[0, 1], images[1], images[2]])[:, :, 8, 8].double()
    expected = (neighbors[:, 0, :, 8, 8].double() + others) / 2
    assert (made - expected).abs().max() <= 0.5


@pytest.mark.parametrize("why", ["identity", "no neighbor", "unlike", "without"])
def test_a_picture_of_which_nothing_is_to_be_exchanged_is_the_image(why):
    images, neighbors = noise(2), noise(4, seed=1).view(2, 2, 3, SIDE, SIDE)
    yes, how = torch.ones(2, dtype=torch.bool), EDITS
    exchange, has = circles(2), torch.ones(2, 2, dtype=torch.bool)
    if why in ("identity", "without"):
        exchange, how = circles(2, **{why: yes}), replace(how, least_correlation=-1.0)
    if why == "no neighbor":
        has, how = ~has, replace(how, least_correlation=-1.0)
    if why == "unlike":
        how = replace(how, least_correlation=0.9)
    assert torch.equal(pictures(images, neighbors, has, exchange, how), images)


def test_shares_and_radii_are_those_of_the_configuration():
    how = replace(
        EDITS, identity_share=0.2, picture_dropout=0.3, blend_share=0.4, radius_least=0.1,
        radius_most=0.3, soft_edge=0.5,
    )  # fmt: skip
    drawn = draw_exchange(4000, how, torch.Generator().manual_seed(0))
    assert drawn.identity.double().mean().item() == pytest.approx(0.2, abs=0.03)
    assert drawn.without.double().mean().item() == pytest.approx(0.3, abs=0.03)
    assert (drawn.first < 1).double().mean().item() == pytest.approx(0.4, abs=0.03)
    assert drawn.first.min() >= 0.5
    assert 0.1 <= drawn.radius.min() < 0.11 and 0.29 < drawn.radius.max() <= 0.3
    assert drawn.fade.max() <= 0.5 and drawn.centre.min() >= 0 and drawn.centre.max() <= 1
    both = (drawn.identity & drawn.without).double().mean().item()
    assert both == pytest.approx(0.06, abs=0.02), "independent of each other"


def test_neighbors_are_drawn_from_those_there_are():
    rows = np.array([[5, 6, 7, 8], [9, -1, -1, -1], [-1, -1, -1, -1]])
    ranks = np.array([[0.0, 0.99], [0.0, 0.99], [0.5, 0.5]])
    assert picked(rows, ranks, 0, -1).tolist() == [[5, 8], [9, 9], [-1, -1]]
    assert picked(rows, ranks, 2, -1).tolist() == [[5, 6], [9, 9], [-1, -1]]


def pattern(side: int = 64) -> np.ndarray:
    """Smooth blobs, which an affine transform can be found between."""
    y, x = np.mgrid[:side, :side] / side
    grey = np.sin(7 * x + 3 * y) + np.cos(9 * y - 2 * x) + np.exp(-20 * ((x - 0.6) ** 2 + y**2))
    grey = (grey - grey.min()) / np.ptp(grey)
    return np.repeat((255 * grey).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="OpenCV is not installed")
@pytest.mark.parametrize("side", [64, 128])
def test_ecc_undoes_a_turn_and_drops_what_has_nothing_in_common(side):
    import cv2

    image = pattern(side)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), 6, 1.05)
    neighbor = cv2.warpAffine(image, turn, (side, side), borderMode=cv2.BORDER_REFLECT)
    pair = [torch.from_numpy(one).permute(2, 0, 1)[None] for one in (image, neighbor)]
    before = (pair[0].double() - pair[1].double()).abs().mean()
    moved, covers, correlation = by_ecc(*pair)
    after = ((moved - pair[0]).abs() * covers).sum() / (3 * covers.sum())
    assert correlation.item() > 0.98 and covers.double().mean() > 0.7
    assert after < before / 5
    even = torch.full_like(pair[0], 9)
    _, covers, correlation = by_ecc(pair[0], even)
    assert correlation.item() == -1 and not covers.any()


def test_without_opencv_ecc_is_refused_with_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(RequestError, match=r"align.*not installed.*pip install 'rdm\[edit\]'"):
        aligned(noise(1), noise(1), replace(EDITS, align="ecc"))
    with pytest.raises(RequestError, match="not installed"):
        Config(editing=replace(EDITS, picture=True, align="ecc")).check_installed()
    for other in (EDITS, replace(EDITS, picture=False, align="ecc")):
        Config(editing=other).check_installed()
