"""What a training is told to need, at the borders of each unit, word for word."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.config.images import Coco, Shapes
from flows.config.train import TrainRDM
from flows.data import space_needed
from flows.data.space_needed import PreflightFailed
from flows.model import preflight
from flows.model.preflight import TrainingNeeds
from rdm_core.config import ExecutionConfig, TrainingConfig

GB = 10**9
MINUTE = 1 / 60
TIMES = {
    0: "a minute or less",
    1: "a minute or less",
    1.4: "a minute or less",
    1.6: "2 minutes",
    2: "2 minutes",
    59: "59 minutes",
    59.4: "59 minutes",
    59.6: "1.0 hours",
    60: "1.0 hours",
    61: "1.0 hours",
    63.1: "1.1 hours",
    90: "1.5 hours",
    60 * 100: "100.0 hours",
}
"""Minutes -> what a person is told."""
NEEDS = TrainingNeeds(
    memory=SimpleNamespace(peak_bytes=5 * GB, parameters=1_247_000),
    device="cpu",
    device_bytes=16 * GB,
    disk_bytes=1_250_000_000,
    free_bytes=62_349_000_000,
    hours=1.5,
)


@pytest.mark.parametrize("minutes", TIMES)
def test_a_time_is_told_in_minutes_up_to_an_hour_and_in_hours_from_there_on(minutes):
    assert preflight.hours_text(minutes * MINUTE) == TIMES[minutes]


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (0, "0.0 GB"),
        (49_999_999, "0.0 GB"),
        (50_100_000, "0.1 GB"),
        (GB, "1.0 GB"),
        (10**12, "1000.0 GB"),
    ],
)
def test_bytes_are_told_in_gigabytes_to_a_tenth(count, told):
    assert space_needed.in_gb(count) == told


def test_all_that_is_needed_is_told_in_one_line():
    told = "needs 5.0 GB of the 16.0 GB of cpu (1.2 M parameters)"
    told += ", 1.2 GB of the 62.3 GB free on the disk"
    assert NEEDS.text == f"{told}, 1.5 hours at the rate measured now"
    assert replace(NEEDS, hours=None).text == told
    assert replace(NEEDS, hours=0.0).text == f"{told}, a minute or less at the rate measured now"


def test_a_full_disk_is_told_with_where_it_is_and_what_frees_it():
    told = space_needed.disk_problem(Path("/data"), 3 * GB, GB // 2)
    assert told == "disk: 3.0 GB at most, 0.5 GB are free at /data; free some, or rdm gc"


def test_a_data_set_that_is_not_there_is_told_with_its_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PreflightFailed) as refused:
        space_needed.check_images(Coco(path="coco"), "rebuild coco")
    assert str(refused.value) == (
        f"rebuild coco: images: there is no folder {tmp_path}/coco. "
        "Put the data set there, or change images.path. Nothing has been started."
    )
    (tmp_path / "coco").mkdir()
    space_needed.check_images(Coco(path="coco"), "rebuild coco")
    space_needed.check_images(Shapes(), "rebuild shapes")


# What does not fit


@pytest.fixture
def config(tmp_path):
    """A training of eight images a step."""
    inputs = {"latents": "l", "neighbors": "n", "database": "d"}
    return TrainRDM(root=tmp_path, name="cats", **inputs, training={"batch": 8}, device="cpu")


def peak_of(config, shape):
    """As if memory were the images at a time, in GB, and half of it with checkpointing."""
    images = config.training.batch // config.execution.accumulate
    halved = 2 if config.execution.gradient_checkpointing else 1
    return SimpleNamespace(peak_bytes=images * GB // halved, parameters=1, checkpoint_bytes=1)


@pytest.mark.parametrize(
    ("available", "cure"),
    [
        (4 * GB, "it fits with --set execution.accumulate=2"),
        (4 * GB - 1, "it fits with --set execution.accumulate=4"),
        (GB, "it fits with --set execution.accumulate=8"),
        (
            GB - 1,
            "it fits with --set execution.accumulate=8 --set execution.gradient_checkpointing=true",
        ),
        (
            GB // 2 - 1,
            "it does not fit one image at a time: take a smaller network, latents of an "
            "autoencoder, or precision bf16",
        ),
    ],
)
def test_the_cure_is_the_fastest_way_that_fits(config, available, cure, monkeypatch):
    monkeypatch.setattr(preflight, "_memory", peak_of)
    assert preflight.cure_of_memory(config, None, available) == cure


@pytest.mark.parametrize(
    ("memory", "disk", "problems"),
    [
        (0, 0, []),
        (1, 0, ["memory: 5.0 GB at the peak, cpu has 5.0 GB; the cure"]),
        (0, 1, ["disk: 1.0 GB at most, 1.0 GB are free at {root}; free some, or rdm gc"]),
        (1, 1, [
            "memory: 5.0 GB at the peak, cpu has 5.0 GB; the cure",
            "disk: 1.0 GB at most, 1.0 GB are free at {root}; free some, or rdm gc",
        ]),
    ],
)  # fmt: skip
def test_what_just_fits_is_begun_and_a_byte_less_is_refused_in_one_message(
    config, memory, disk, problems, monkeypatch
):
    room = {"device_bytes": 5 * GB - memory, "disk_bytes": GB, "free_bytes": GB - disk}
    needs = replace(NEEDS, **room)
    monkeypatch.setattr(preflight, "shape_of", lambda config: "a shape")
    monkeypatch.setattr(preflight, "training_needs", lambda config, shape: needs)
    monkeypatch.setattr(preflight, "cure_of_memory", lambda config, shape, available: "the cure")
    if not problems:
        assert preflight.check_training(config) is needs
        return
    with pytest.raises(PreflightFailed) as refused:
        preflight.check_training(config)
    told = "; ".join(problems).format(root=config.root)
    assert str(refused.value) == f"train cats: {told}. Nothing has been started."


@pytest.fixture
def measured(config, monkeypatch):
    """measured(...): the needs of a training where the rate is 100 images a second."""
    asked = []

    def rate(*given):
        asked.append(given)
        return 100.0

    monkeypatch.setattr(preflight, "measured_rate", rate)
    monkeypatch.setattr(preflight, "_memory", peak_of)
    monkeypatch.setattr(preflight, "free_bytes", lambda root: 7 * GB)

    def needs(device_bytes, **changes):
        monkeypatch.setattr(preflight, "device_memory_bytes", lambda device: device_bytes)
        changed = config.model_copy(update=changes)
        return preflight.training_needs(changed, preflight.Shape(3, 32, 64)), len(asked)

    return needs


def test_where_the_network_just_fits_its_rate_is_measured_and_where_it_does_not_no_time_is_told(
    measured,
):
    training = TrainingConfig(steps=4500, batch=8)
    needs, rates = measured(8 * GB, training=training)
    assert rates == 1 and needs.hours == pytest.approx(4500 * 8 / 100 / 3600)
    assert (needs.device, needs.device_bytes, needs.free_bytes) == ("cpu", 8 * GB, 7 * GB)
    assert needs.disk_bytes == preflight.CHECKPOINTS_KEPT + 1 + 4
    needs, rates = measured(8 * GB - 1, training=training)
    assert rates == 1 and needs.hours is None


def test_processes_of_one_cpu_share_it(measured):
    needs, _ = measured(16 * GB, processes=2, execution=ExecutionConfig(accumulate=1))
    assert needs.device_bytes == 8 * GB and needs.hours is not None


def test_memory_that_cannot_be_had_is_told_with_who_to_ask(config, measured, monkeypatch):
    def full(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(preflight, "measured_rate", full)
    with pytest.raises(PreflightFailed) as refused:
        measured(8 * GB)
    assert str(refused.value) == (
        "train cats: memory: 8.0 GB would fit into cpu, but it cannot be had: out of memory. "
        "See who uses the device (nvidia-smi). Nothing has been started."
    )


def test_a_network_that_cannot_be_built_is_told_with_its_latents(config, monkeypatch):
    def impossible(*_):
        raise ValueError("no such network")

    monkeypatch.setattr(preflight, "_memory", impossible)
    with pytest.raises(PreflightFailed) as refused:
        preflight.training_needs(config, preflight.Shape(3, 16, 64))
    assert str(refused.value) == (
        "train cats: the network cannot be built for latents of 3 x 16 x 16: no such network. "
        "Change model or training. Nothing has been started."
    )
