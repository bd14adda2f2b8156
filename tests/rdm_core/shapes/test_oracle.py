"""The oracle: it tells the factors of pictures it never saw, clean or spoilt."""

import numpy as np
import pytest
import torch
from safetensors import safe_open

from rdm_core.shapes import oracle as module
from rdm_core.shapes import world
from rdm_core.shapes.train_oracle import accuracy, augment


@pytest.fixture(scope="module")
def oracle() -> module.ShapesOracle:
    return module.load_oracle()


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.stack([world.sample("heldout", index, 32).pixels for index in range(40)])


@pytest.fixture(scope="module", params=[32, 64])
def measured(oracle, request) -> dict[str, float]:
    """Accuracy of each factor on a thousand held-out renders."""
    return accuracy(oracle, "heldout", 1000, request.param)


def test_heldout_renders_are_told_by_shape_colour_and_style(measured):
    for name in ("shape", "colour", "style"):
        assert measured[name] >= 0.98, name


def test_background_position_size_and_accessory_are_told_too(measured):
    for name in ("background", "position", "size", "accessory"):
        assert measured[name] >= 0.95, name


def test_blur_and_noise_do_not_fool_the_oracle(oracle):
    samples = [world.sample("heldout", index, 32) for index in range(400)]
    torch.manual_seed(0)
    spoilt = augment(module.to_input(np.stack([sample.pixels for sample in samples])))
    pixels = ((spoilt.permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    told = oracle.predict(pixels)
    for name in ("shape", "colour", "style"):
        truth = np.array([getattr(sample.factors, name) for sample in samples])
        assert (told[name] == truth).mean() >= 0.95, name


def test_pure_noise_does_not_pass_for_every_shape_alike(oracle):
    noise = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
    told = oracle.predict(noise)
    truth = np.array([world.draw_factors("heldout", index).shape for index in range(200)])
    assert (told["shape"] == truth).mean() < 0.4


def test_features_have_one_row_a_picture_and_predict_does_not_depend_on_the_company(
    oracle, pictures
):
    features = oracle.features(pictures)
    assert features.shape == (40, module.FEATURES)
    assert features.dtype == np.float32
    np.testing.assert_allclose(oracle.features(pictures[7:8]), features[7:8], atol=1e-4)


def test_more_pictures_than_fit_one_chunk_are_all_told(oracle, pictures, monkeypatch):
    whole = oracle.features(pictures)
    monkeypatch.setattr(module, "_CHUNK", 16)
    np.testing.assert_allclose(oracle.features(pictures), whole, atol=1e-4)


def test_no_pictures_give_no_rows(oracle):
    nothing = np.zeros((0, 32, 32, 3), np.uint8)
    assert oracle.features(nothing).shape == (0, module.FEATURES)
    assert oracle.predict(nothing)["shape"].shape == (0,)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 32, 32, 3), np.float32),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((2, 3, 32, 32), np.uint8),
    ],
)
def test_arrays_that_are_not_pictures_are_refused(oracle, images):
    with pytest.raises(ValueError, match="the oracle wants uint8"):
        oracle.predict(images)


def test_the_weights_are_small_and_hold_only_tensors():
    assert module.WEIGHTS.stat().st_size <= 2 * 2**20
    with safe_open(module.WEIGHTS, framework="pt") as weights:
        assert {f"heads.{name}.weight" for name in world.FACTORS} <= set(weights.keys())
