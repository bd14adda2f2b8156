"""The built-in autoencoders: small, loaded like any other, and true to held-out pictures."""

import numpy as np
import pytest
import torch
from safetensors import safe_open

from rdm_core.autoencoders.measures import reconstruct
from rdm_core.latents import CODES, load_latent_space
from rdm_core.shapes import (
    AUTOENCODERS,
    autoencoders,
    folder_of_autoencoder,
    train_autoencoders,
    world,
)

RENDERS = 1000


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, list[world.Factors]]:
    return autoencoders.heldout(RENDERS)


@pytest.fixture(scope="module")
def measured(pictures) -> dict[str, dict[str, float]]:
    found = {}
    for name in AUTOENCODERS:
        found[name] = autoencoders.measure(autoencoders.load_autoencoder(name), *pictures)
    return found


@pytest.mark.long
@pytest.mark.parametrize("name", AUTOENCODERS)
@pytest.mark.parametrize("gate", autoencoders.GATES)
def test_reconstructions_of_heldout_pictures_pass_the_gates(measured, name, gate):
    if gate not in measured[name]:
        assert (name, gate) == ("kl", "codes_in_use")
        return
    least, most = autoencoders.GATES[gate]
    assert least <= measured[name][gate] <= most


@pytest.mark.long
@pytest.mark.parametrize("name", AUTOENCODERS)
def test_what_is_measured_without_a_gate_is_sane(measured, name):
    assert measured[name]["mean_absolute_error"] < 0.06
    assert measured[name]["psnr"] > 20


@pytest.mark.parametrize(
    ("name", "channels", "side"), [("kl", 16, 8), ("vq", 8, 16)], ids=["kl", "vq"]
)
def test_an_autoencoder_is_a_latent_space_of_order_one(pictures, name, channels, side):
    images = list(pictures[0][:64])
    space = load_latent_space(f"rdm-shapes-{name}")
    final = space.final(torch.from_numpy(space.encode(images)))
    assert final.shape == (64, channels, side, side)
    assert 0.8 < float(final.std()) < 1.25
    made, _ = reconstruct(autoencoders.load_autoencoder(name), np.stack(images))
    # What is stored is rounded to half precision.
    assert np.abs(space.decode(final).astype(int) - made).mean() < 0.5
    if name == "vq":
        codes = space.encode(images, CODES)
        assert codes.shape == (64, 16, 16)
        assert np.abs(space.decode_codes(codes).astype(int) - made).mean() < 0.5


def test_the_weights_are_small_and_hold_only_tensors():
    total = 0
    for name in AUTOENCODERS:
        for path in folder_of_autoencoder(name).iterdir():
            total += path.stat().st_size
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as weights:
                    assert len(list(weights.keys())) > 50
    assert total <= 6 * 10**6


def test_weights_in_half_precision_reload_to_the_same_numbers(tmp_path):
    model = autoencoders.load_autoencoder("kl")
    train_autoencoders.save(model, tmp_path)
    for path in folder_of_autoencoder("kl").glob("*.safetensors"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_an_unknown_autoencoder_is_refused():
    with pytest.raises(ValueError, match="'gan'"):
        autoencoders.load_autoencoder("gan")


def test_training_goes_on_from_its_checkpoint_and_prints(tmp_path, capsys, monkeypatch):
    from dataclasses import replace

    from rdm_core.autoencoders.config import AutoencoderConfig
    from rdm_core.autoencoders.train import AutoencoderTraining

    images = train_autoencoders.training_images(tmp_path / "images.npy", 8)
    assert np.array_equal(images[3], world.sample("autoencoder", 3, 64).pixels)
    config = AutoencoderConfig(widths=(8, 8, 8, 8), latent_channels=4, batch=2, steps=4)
    checkpoint = tmp_path / "one.safetensors"
    monkeypatch.setattr(train_autoencoders, "CHECKPOINT_STEPS", 2)
    train_autoencoders.train(AutoencoderTraining(config, images), checkpoint, 2)
    training = AutoencoderTraining(replace(config), images)
    train_autoencoders.train(training, checkpoint, 4)
    assert training.done == 4
    another = AutoencoderTraining(replace(config, seed=1), images)
    train_autoencoders.save(training.averaged(), tmp_path / "one")
    train_autoencoders.begin_with(another, tmp_path / "one")
    for begun, kept in zip(another.averaged().parameters(), training.means, strict=True):
        assert torch.equal(begun, kept.half().float()), "of the running means, as they are kept"
    model = train_autoencoders.scaled(training.averaged(), images)
    train_autoencoders.report(model, 24)
    printed = capsys.readouterr().out
    assert "step      2  " in printed and "step      4  " in printed
    assert "missed: ['colour is" in printed
    assert train_autoencoders.sheet(model, 4, 1).shape == (2 * 130 + 2, 4 * 130 + 2, 3)
