"""The way from the first step to the last: what is read when, told and kept."""

from dataclasses import replace
from threading import Condition

import numpy as np
import pytest
import torch

from rdm_core.autoencoders.batches import Batches
from rdm_core.autoencoders.config import AutoencoderConfig, AutoencoderReporting
from rdm_core.autoencoders.loop import Hooks, mean_losses, train_to_the_end
from rdm_core.autoencoders.measures import deviation_of_latents, likeness
from rdm_core.autoencoders.networks import build_autoencoder
from rdm_core.autoencoders.train import AutoencoderTraining
from rdm_core.errors import RequestError, TrainingStopped

SMALL = AutoencoderConfig(widths=(8,), latent_channels=4, batch=3, steps=7)
REPORTING = AutoencoderReporting(log_steps=2, checkpoint_steps=3)


class Stored:
    """Images that are read when they are asked for; remembers which were."""

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(self, images: np.ndarray) -> None:
        self.images, self.shape, self.read = images, images.shape, []
        self.reading = Condition()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        with self.reading:
            self.read.append(rows.tolist())
            self.reading.notify()
        return self.images[rows]

    def wait_for(self, count: int) -> None:
        """Until so many were asked for, some seconds at most."""
        with self.reading:
            self.reading.wait_for(lambda: len(self.read) >= count, timeout=10)


@pytest.fixture
def images() -> np.ndarray:
    """Noise [20, 8, 8, 3]."""
    return np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)


def trained(training, begun=lambda training: None):
    """The records told and the states kept, by step."""
    records, states = [], {}
    begun(training)
    train_to_the_end(training, Hooks(records.append, states.__setitem__), REPORTING)
    return records, states


def test_a_resumed_training_tells_and_keeps_what_an_unbroken_one_does(images):
    records, states = trained(AutoencoderTraining(SMALL, images))
    assert [record["step"] for record in records] == [2, 3, 4, 6, 7]
    assert list(states) == [3, 6, 7]
    resumed = trained(AutoencoderTraining(SMALL, images), lambda one: one.restore(states[3]))
    assert resumed[0] == records[2:]
    for name, array in states[7].items():
        np.testing.assert_array_equal(array, resumed[1][7][name])


def test_asked_to_stop_it_keeps_its_state_first_and_tells_later_what_an_unbroken_one_does(images):
    records, states = trained(AutoencoderTraining(SMALL, images))
    training, early, kept = AutoencoderTraining(SMALL, images), [], {}
    hooks = Hooks(early.append, kept.__setitem__, stopping=lambda: training.done == 5)
    with pytest.raises(TrainingStopped, match="after step 5, whose state is kept"):
        train_to_the_end(training, hooks, REPORTING)
    assert list(kept) == [3, 5] and training.done == 5
    resumed = trained(AutoencoderTraining(SMALL, images), lambda one: one.restore(kept[5]))
    assert early + resumed[0] == records
    assert states[7].keys() == resumed[1][7].keys()
    for name, array in states[7].items():
        np.testing.assert_array_equal(array, resumed[1][7][name])


def test_asked_to_stop_after_the_last_step_it_is_done(images):
    records, states = [], {}
    training = AutoencoderTraining(SMALL, images)
    hooks = Hooks(records.append, states.__setitem__, stopping=lambda: training.done == 7)
    train_to_the_end(training, hooks, REPORTING)
    assert list(states) == [3, 6, 7]


def test_a_record_is_the_mean_of_the_steps_since_the_last_one(images):
    records, _ = trained(AutoencoderTraining(replace(SMALL, l1=2.0, chroma=0.0, kl=0.5), images))
    apart = AutoencoderTraining(replace(SMALL, l1=2.0, chroma=0.0, kl=0.5), images)
    told = [apart.step() for _ in range(2)]
    first = records[0]
    assert first["l1"] == pytest.approx((told[0]["l1"] + told[1]["l1"]) / 2)
    parts = first["gradient"] + first["low_frequencies"] + 2 * first["l1"] + 0.5 * first["kl"]
    assert first["loss"] == pytest.approx(parts)


def test_stored_images_are_read_one_step_ahead_and_never_twice(images):
    stored = Stored(images)
    training = AutoencoderTraining(SMALL, stored)
    assert stored.read == []
    of_array = AutoencoderTraining(SMALL, images)
    for step in range(SMALL.steps):
        assert training.step() == of_array.step()
        ahead = min(step + 2, SMALL.steps)
        stored.wait_for(ahead)
        assert len(stored.read) == ahead
    assert {len(rows) for rows in stored.read} == {SMALL.batch}


def test_the_images_of_a_step_do_not_depend_on_those_before(images):
    config = replace(SMALL, flips=True)
    in_turn = Batches(config, images)
    every = [in_turn.of(step) for step in range(7)]
    np.testing.assert_array_equal(Batches(config, images).of(4), every[4])
    assert not np.array_equal(every[3], every[4])


def test_flips_turn_about_half_of_the_images_and_change_no_other(images):
    config = replace(SMALL, batch=200)
    plain, flipped = (Batches(replace(config, flips=on), images).of(0) for on in (False, True))
    over = (flipped != plain).any(axis=(1, 2, 3))
    assert 60 < over.sum() < 140
    np.testing.assert_array_equal(flipped[over], plain[over][:, :, ::-1])


def test_likeness_is_none_lost_for_equal_images_and_less_for_blurred_ones(images):
    equal = likeness(images, images)
    assert equal["mean_absolute_error"] == 0 and equal["psnr"] > 60
    assert equal["grain_kept"] == equal["edge_energy_kept"] == 1
    blurred = (images // 2 + np.roll(images, 1, axis=2) // 2).astype(np.uint8)
    assert likeness(images, blurred)["edge_energy_kept"] < 0.9
    flat = np.full_like(images, 7)
    assert set(likeness(flat, images)) == {"mean_absolute_error", "psnr"}


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_the_deviation_of_latents_is_that_of_all_their_numbers(images, kind):
    model = build_autoencoder(replace(SMALL, kind=kind, codebook_from=0)).eval()
    many = np.concatenate([images] * 5)
    latents = []
    for image in many:
        x = np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32) / 127.5 - 1
        with torch.no_grad():
            encoded = model.encode(torch.from_numpy(x))
        latents.append((encoded.latents if kind == "vq" else encoded.latent_dist.mode()).numpy())
    assert deviation_of_latents(model, many) == pytest.approx(np.std(latents), rel=1e-4)


def test_images_that_cannot_make_the_codes_are_refused_before_the_first_step(images):
    config = replace(SMALL, kind="vq", codes=1281, codebook_from=0)
    told = "training images: their latents are 1,280 vectors, too few for 1,281 codes"
    with pytest.raises(RequestError, match=told):
        AutoencoderTraining(config, images)
    assert AutoencoderTraining(replace(config, codes=1280), images).done == 0


@pytest.mark.parametrize("name", ["log_steps", "checkpoint_steps"])
def test_intervals_are_at_least_one(name):
    with pytest.raises(ValueError, match=f"{name}: is 0"):
        AutoencoderReporting(**{name: 0})


def test_the_sum_of_the_losses_does_not_depend_on_their_order(images):
    training = AutoencoderTraining(replace(SMALL, l1=0.3, gradient=0.7, chroma=1.1), images)
    told = {"l1": 0.1, "gradient": 0.2, "chroma": 0.3, "low_frequencies": 0.7, "kl": 1e9}
    reread = dict(sorted(told.items()))
    assert list(reread) != list(told)
    assert mean_losses(training, [told]) == mean_losses(training, [reread])
    assert list(mean_losses(training, [told])) == list(mean_losses(training, [reread]))
