"""Grain and edge energy: noise raises the one, blur lowers the other."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from rdm_core.judge import sharpness
from rdm_core.judge.sharpness import as_shares, edge_energy, grain
from rdm_core.shapes import world


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.stack([world.sample("heldout", index, 32).pixels for index in range(60)])


def blurred(pictures: np.ndarray) -> np.ndarray:
    one_by_one = (Image.fromarray(picture) for picture in pictures)
    return np.stack([np.asarray(one.filter(ImageFilter.GaussianBlur(1))) for one in one_by_one])


def noisy(pictures: np.ndarray, levels: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, levels, pictures.shape)
    return np.clip(pictures + noise, 0, 255).round().astype(np.uint8)


def test_blurred_pictures_have_less_edge_energy_than_the_gate_allows(pictures):
    assert edge_energy(blurred(pictures)) < 0.7 * edge_energy(pictures)


def test_noisy_pictures_have_more_grain_than_the_gate_allows(pictures):
    assert grain(noisy(pictures, 6)) > 1.3 * grain(pictures)


def test_blur_smooths_grain_away_too(pictures):
    assert grain(blurred(pictures)) < 0.8 * grain(pictures)


def test_grey_pictures_have_no_grain_however_rough():
    rough = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1), dtype=np.uint8)
    assert grain(np.repeat(rough, 3, axis=3)) == pytest.approx(0, abs=1e-4)
    assert edge_energy(np.repeat(rough, 3, axis=3)) > 50


def test_grain_of_noise_is_its_chroma_beside_its_neighbors_mean():
    noise = np.random.default_rng(0).normal(128, 8, (400, 32, 32, 3))
    # Chroma keeps 2 of 3 parts of the variance, the four neighbors add a quarter.
    expected = 8 * (2 / 3 * 5 / 4) ** 0.5
    assert grain(noise.round().astype(np.uint8)) == pytest.approx(expected, rel=0.02)


def test_edge_energy_of_one_edge_is_its_height_over_the_places():
    picture = np.zeros((1, 8, 8, 3), np.uint8)
    picture[:, :, 4:] = 70
    assert edge_energy(picture) == pytest.approx(70 / 7 / 2, rel=1e-5)


def test_grain_is_measured_in_the_rows_at_the_top_and_at_the_bottom_only():
    pictures = np.full((1, 32, 32, 3), 100, np.uint8)
    pictures[:, 10:20, ::2] = (200, 0, 0)
    assert grain(pictures) == 0


def test_many_pictures_measure_as_a_few_at_a_time(pictures, monkeypatch):
    whole = grain(pictures), edge_energy(pictures)
    monkeypatch.setattr(sharpness, "AT_ONCE", 7)
    assert (grain(pictures), edge_energy(pictures)) == pytest.approx(whole)


@pytest.mark.parametrize("measure", [grain, edge_energy])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), "not uint8"),
        (np.zeros((8, 8, 3), np.uint8), "not uint8"),
        (np.zeros((0, 8, 8, 3), np.uint8), "not uint8"),
        (np.zeros((1, 1, 8, 3), np.uint8), "8x1 pixels"),
    ],
)
def test_arrays_that_are_not_pictures_are_refused(measure, images, message):
    with pytest.raises(ValueError, match=message):
        measure(images)


def test_shares_are_of_the_others_own_and_of_nothing_there_is_none(pictures):
    measures = sharpness.sharpness(noisy(pictures, 8))
    assert measures == {
        "grain": grain(noisy(pictures, 8)),
        "edges": edge_energy(noisy(pictures, 8)),
    }
    shares = as_shares(measures, sharpness.sharpness(pictures))
    assert shares["grain"] == pytest.approx(measures["grain"] / grain(pictures))
    assert shares["grain"] > 1 and shares["edges"] > 1
    blur = as_shares(sharpness.sharpness(blurred(pictures)), sharpness.sharpness(pictures))
    assert blur["edges"] < 0.7, "blur does not pass for cleanliness"
    grey = {"grain": 0.0, "edges": 4.0}
    assert as_shares({"grain": 1.0, "edges": 2.0}, grey) == {"edges": 0.5}
