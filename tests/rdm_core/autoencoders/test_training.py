"""Training an autoencoder: it learns, resumes to the bit, and refuses what cannot be trained."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, VQModel

from rdm_core.autoencoders import codebook
from rdm_core.autoencoders.config import AutoencoderConfig
from rdm_core.autoencoders.measures import mean_absolute_error, psnr, reconstruct, use_of_codes
from rdm_core.autoencoders.train import AutoencoderTraining, State, learning_rate
from rdm_core.errors import RequestError

SMALL = AutoencoderConfig(
    widths=(8, 16),
    latent_channels=4,
    codes=32,
    codebook_from=2,
    revive_steps=1,
    texture=0.5,
    batch=4,
    steps=6,
)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Two-coloured pictures [64, 16, 16, 3]."""
    random = np.random.default_rng(0)
    colours = random.integers(0, 256, (64, 2, 1, 3))
    left = np.arange(16)[None, :, None] < random.integers(4, 12, (64, 1, 1))
    rows = np.where(left, colours[:, 0], colours[:, 1])
    return np.repeat(rows[:, None], 16, axis=1).astype(np.uint8)


def sha256(state: State) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "kl"},
        {"kind": "vq"},
        {"kind": "kl", "adversarial": 0.5, "adversarial_from": 1},
        {"kind": "vq", "adversarial": 0.5, "adversarial_from": 1},
        {"kind": "kl", "latent_noise": 0.5, "decoder_from": 2},
    ],
    ids=["kl", "vq", "kl and discriminator", "vq and discriminator", "decoder alone"],
)
def test_six_steps_are_three_and_three_more_to_the_bit(images, changes):
    config = replace(SMALL, **changes)
    whole = AutoencoderTraining(config, images)
    for _ in range(6):
        whole.step()
    first = AutoencoderTraining(config, images)
    for _ in range(3):
        first.step()
    second = AutoencoderTraining(config, images)
    second.restore(first.state())
    assert sha256(second.state()) == sha256(first.state())
    for _ in range(3):
        second.step()
    assert second.done == 6
    assert sha256(second.state()) == sha256(whole.state())
    assert sha256(first.state()) != sha256(whole.state())


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_training_makes_reconstructions_better(images, kind):
    longer = {"steps": 300, "codebook_from": 100, "revive_steps": 10}
    faster = {"learning_rate": 5e-3, "ema_decay": 0.9, "l2": 2.0}
    config = replace(SMALL, kind=kind, **longer, **faster)
    training = AutoencoderTraining(config, images)
    told = [training.step() for _ in range(300)]
    assert told[-1]["l1"] < 0.7 * told[0]["l1"]
    model = training.averaged()
    assert isinstance(model, VQModel if kind == "vq" else AutoencoderKL)
    made, codes = reconstruct(model, images)
    assert made.shape == images.shape and made.dtype == np.uint8
    assert mean_absolute_error(images, made) < 0.18
    if kind == "kl":
        assert codes is None
    else:
        assert codes is not None and codes.shape == (64, 8, 8)
        assert use_of_codes(codes, config.codes)["codes_in_use"] > 0.5


def test_nothing_of_the_first_entries_is_left_once_k_means_has_made_the_codebook(images):
    config = replace(SMALL, kind="vq", codebook_from=5, ema_decay=0.9, learning_rate=1e-6)
    training = AutoencoderTraining(config, images)
    first = training.averaged().quantize.embedding.weight
    for _ in range(6):
        training.step()
    entries, mean = training.codebook.entries, training.averaged().quantize.embedding.weight
    assert (mean - entries).norm() < 0.1 * (first - entries).norm()
    torch.testing.assert_close(training.model.quantize.embedding.weight, entries)


def test_in_its_last_part_the_decoder_learns_alone_from_latents_with_noise(images):
    config = replace(SMALL, latent_noise=0.5, decoder_from=2)
    training = AutoencoderTraining(config, images)

    def weights(of: str) -> torch.Tensor:
        named = training.model.named_parameters()
        chosen = [one.detach().flatten() for name, one in named if name.startswith(of)]
        return torch.cat(chosen)

    for done in range(4):
        encoder, decoder = weights("encoder"), weights("decoder")
        told = training.step()
        assert ("kl" in told) == (done < 2), "what is not learned is not pulled at"
        assert torch.equal(encoder, weights("encoder")) == (done >= 2)
        assert not torch.equal(decoder, weights("decoder"))


def test_the_noise_of_a_latent_is_a_share_of_its_deviation(images):
    training = AutoencoderTraining(replace(SMALL, latent_noise=0.5), images)
    latents = 3 * torch.randn(400, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    added = training._noisy(latents, torch.Generator().manual_seed(2)) - latents
    shares = added.flatten(1).std(dim=1) / 3
    assert 0 <= shares.min() < 0.05 and 0.45 < shares.max() < 0.6
    assert shares.mean() == pytest.approx(0.25, abs=0.03), "evenly from none to the most"


@pytest.mark.parametrize(
    "changes", [{"kind": "vq"}, {"decoder_from": 6}], ids=["vq", "never begins"]
)
def test_noise_on_latents_is_for_numbers_and_begins_before_the_end(changes):
    with pytest.raises(ValueError, match="latent_noise: is 0.5; it is for kind=kl, from a decod"):
        replace(SMALL, latent_noise=0.5, **changes)


def test_fine_terms_count_from_their_step_on(images):
    training = AutoencoderTraining(replace(SMALL, l2=1.0, details_from=2), images)
    told = [set(training.step()) for _ in range(3)]
    coarse = {"l2", "low_frequencies", "chroma", "kl"}
    assert told == [coarse, coarse, coarse | {"l1", "gradient", "texture"}]


def test_a_seed_gives_one_autoencoder_and_another_another(images):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(states))  # what others drew does not matter
        training = AutoencoderTraining(replace(SMALL, seed=seed), images)
        training.step()
        states.append(sha256(training.state()))
    assert states[0] == states[1] != states[2]


def test_a_loss_that_is_no_number_says_its_step_and_a_cure(images):
    training = AutoencoderTraining(SMALL, images)
    training.step()
    with torch.no_grad():
        training.model.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="step 2: the loss .* is nan; lower the learning"):
        training.step()
    assert training.done == 1


def test_collapsed_codes_stop_the_training_with_their_share(images, monkeypatch):
    monkeypatch.setattr(codebook, "GRACE", 0)
    monkeypatch.setattr("rdm_core.autoencoders.train.GRACE", 1)
    monkeypatch.setattr(codebook, "LEAST_USED", 1.1)  # not even all would do
    training = AutoencoderTraining(replace(SMALL, kind="vq"), images)
    with pytest.raises(codebook.CollapsedCodes, match=r"step 4: \d+\.\d% of the codes are used"):
        for _ in range(6):
            training.step()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.uint8), "4x4 pixels, and factor 2 needs 8"),
        (np.zeros((2, 16, 17, 3), np.uint8), "17x16 are no multiples of the factor 2"),
        (np.zeros((2, 3, 16, 16), np.uint8), "not uint8"),
        (np.zeros((2, 16, 16, 3), np.float32), "float32"),
        (np.zeros((0, 16, 16, 3), np.uint8), "not uint8"),
    ],
)
def test_images_that_cannot_be_trained_on_are_refused(given, message):
    with pytest.raises(RequestError, match=message):
        AutoencoderTraining(SMALL, given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "gan"}, "kind: is 'gan'"),
        ({"widths": (8, 12)}, "widths: are"),
        ({"widths": ()}, "widths: are"),
        ({"widths": (8, 8200)}, "widths: are .* 8192 at most"),
        ({"widths": (8,) * 13}, "widths: are 13, must be 12 at most"),
        ({"batch": 0}, "batch: is 0"),
        ({"batch": 10**9}, "batch: is 1000000000, must be between 1 and 10000"),
        ({"layers": 101}, "layers: is 101, must be between 1 and 100"),
        ({"latent_channels": 4097}, "latent_channels: is 4097, must be between 1 and 4096"),
        ({"steps": 10**10}, "steps: is 10000000000"),
        ({"revive_steps": 10**10}, "revive_steps: is 10000000000"),
        ({"kind": "vq", "codes": 65_537}, "codes: is 65537, must be between 2 and 65536"),
        ({"l1": 1e12}, "l1: is 1000000000000.0"),
        ({"learning_rate": 10.0}, "learning_rate: is 10.0, must be above 0, and 1 at most"),
        ({"texture": -1.0}, "texture: is -1.0"),
        ({"l1": 0.0}, "l1, l2: are both 0"),
        ({"details_from": 1}, "details_from: is above 0"),
        ({"ema_decay": 1.0}, "ema_decay: is 1.0"),
        ({"codes": 1}, "codes: is 1"),
        ({"learning_rate": 0.0}, "learning_rate: is 0.0"),
        (
            {"kind": "vq", "codebook_from": 6},
            "codebook_from: is 6, and a vq with steps=6 never rounds to codes; give fewer",
        ),
        ({"gradient": float("nan")}, "gradient: is nan"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_the_rate_rises_and_falls_to_nothing():
    config = replace(SMALL, steps=1000)
    rates = [learning_rate(config, step) for step in range(1000)]
    assert rates[0] == pytest.approx(config.learning_rate / 100)
    assert max(rates) == pytest.approx(config.learning_rate, rel=0.05)
    assert rates[-1] < 1e-5


def test_errors_of_reconstructions():
    black, grey = np.zeros((2, 8, 8, 3), np.uint8), np.full((2, 8, 8, 3), 51, np.uint8)
    assert mean_absolute_error(black, grey) == pytest.approx(0.2)
    assert mean_absolute_error(grey, black) == pytest.approx(0.2)
    assert psnr(black, grey) == pytest.approx(10 * np.log10(25))
    assert 70 < psnr(black, black) < 80
