"""What cannot be done here is refused before the first stage, in one message that says what would
do.
"""

import ctypes
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from building import build_all

from flows.cli import main
from flows.config.database import Rebuild
from flows.config.images import Shapes
from flows.config.train import TrainRDM
from flows.data.rebuild import rebuild
from flows.data.space_needed import (
    PreflightFailed,
    bytes_of_image,
    check_rebuild,
    free_bytes,
    image_count,
    in_gb,
)
from flows.model import preflight
from flows.model.preflight import TrainingNeeds, _executions, check_training, disk_bytes
from flows.model.train_rdm import train_rdm
from rdm_core.errors import CoreError, RequestError
from rdm_core.families.diffusion.config import EditingConfig
from storage.artifact import artifacts
from storage.manifest import Plan

IMAGES = {"source": "shapes", "size": 32, "count": 40, "encoding": "png"}
UPSTREAM = {"images": IMAGES, "encoder": "rdm-shapes", "weights": "built-in"}


def upstream(root, **changes):
    """A training of which nothing is there yet."""
    network = {
        "network": "transformer",
        "channels": [32],
        "depth": 1,
        "head_channels": 16,
        "patch": 4,
    }
    names = dict.fromkeys(("name", "latents", "neighbors", "database"), "new")
    settings = {
        "root": root,
        **names,
        "model": {"denoiser": network, "noise": {"process": "flow"}},
        "context": {"k": 3},
        "device": "cpu",
        "upstream": UPSTREAM,
    }
    return TrainRDM(**settings | {"training": {"steps": 4, "batch": 8}} | changes)


def test_what_will_do_is_told_with_memory_disk_and_time(tmp_path, small_world, small_training):
    for config in (upstream(tmp_path), TrainRDM(**small_training(small_world.root, "another"))):
        needs = check_training(config)
        assert needs.memory.peak_bytes > needs.memory.state_bytes > 16 * needs.memory.parameters
        assert 0 < needs.hours < 1 and needs.device == "cpu"
        assert (
            needs.text.startswith("needs 0.0 GB of the ")
            and "M parameters" in needs.text
            and "rate" in needs.text
        )
    assert artifacts(tmp_path) == []


def test_images_that_are_encoded_while_training_need_memory_for_their_autoencoder(tmp_path):
    def needed(stored):
        made = UPSTREAM | {"autoencoder": "rdm-shapes-kl", "stored": stored}
        config = upstream(tmp_path, upstream=made)
        space = preflight.encodes_while_training(config)
        return space, preflight._memory(config, preflight.shape_of(config))

    (none, moments), (space, pixels) = needed("moments"), needed("pixels")
    assert none is None and space.name == "rdm-shapes-kl"
    weights = space.autoencoder.state_dict().values()
    added_bytes = pixels.state_bytes - moments.state_bytes
    assert added_bytes == sum(tensor.nbytes for tensor in weights)
    assert pixels.peak_bytes - moments.peak_bytes > added_bytes
    assert preflight.encodes_while_training(upstream(tmp_path)) is None, "in pixel space"


def test_a_network_that_does_not_fit_is_refused_with_the_change_that_fits(tmp_path, monkeypatch):
    config = upstream(tmp_path, training={"steps": 4, "batch": 64})
    peak = check_training(config).memory.peak_bytes
    monkeypatch.setattr(preflight, "device_memory_bytes", lambda device: int(0.8 * peak))
    with pytest.raises(
        PreflightFailed, match=r"train new: memory: .*it fits with --set execution.accumulate=\d+"
    ) as refused:
        train_rdm(config)
    assert "\n" not in str(refused.value)
    assert artifacts(tmp_path) == [], "refused before the first stage"
    advice = int(str(refused.value).split("accumulate=")[1].split()[0].strip(".;"))
    assert check_training(
        upstream(tmp_path, training=config.training, execution={"accumulate": advice})
    )


@pytest.mark.parametrize(("times", "tight"), [(2, True), (3, False)])
def test_a_training_on_a_cpu_with_little_room_gives_freed_memory_back(
    small_world, small_training, monkeypatch, times, tight
):
    class Launched(Exception):
        """Far enough."""

    def launch(run, config, watch, tight):
        raise Launched(tight)

    config = TrainRDM(**small_training(small_world.root, f"tight-{times}"))
    peak = check_training(config).memory.peak_bytes
    monkeypatch.setattr(preflight, "device_memory_bytes", lambda device: times * peak)
    monkeypatch.setattr("flows.model.train_rdm.launch_training", launch)
    with pytest.raises(Launched) as launched:
        train_rdm(config)
    assert launched.value.args == (tight,)


def test_what_fits_no_way_is_said_to(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "device_memory_bytes", lambda device: 1000)
    with pytest.raises(PreflightFailed, match="does not fit one image at a time"):
        check_training(upstream(tmp_path))


def test_a_disk_without_room_is_refused_for_trainings_and_rebuilds_before_anything_is_written(
    tmp_path, monkeypatch
):
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(PreflightFailed, match="disk: .* at most, 0.0 GB are free"):
        train_rdm(upstream(tmp_path))
    with pytest.raises(PreflightFailed, match="disk: .* at most, 0.0 GB are free"):
        rebuild(Rebuild(root=tmp_path, name="new", **UPSTREAM))
    assert artifacts(tmp_path) == []


def test_processes_on_one_cpu_share_its_memory_and_its_speed(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "measured_rate", lambda *asked: 10.0)
    monkeypatch.setattr(preflight, "device_memory_bytes", lambda device: 8_000_000_000)
    alone, four = (check_training(upstream(tmp_path, processes=count)) for count in (1, 4))
    assert (alone.device_bytes, four.device_bytes) == (8_000_000_000, 2_000_000_000)
    assert alone.hours == four.hours


def test_a_device_that_something_else_fills_is_told_by_its_cause(tmp_path, monkeypatch):
    def full(*asked):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(preflight, "measured_rate", full)
    with pytest.raises(
        PreflightFailed, match="would fit into cpu, but it cannot be had: CUDA out of memory"
    ):
        check_training(upstream(tmp_path))


def test_on_a_gpu_the_rate_is_measured_in_a_process_that_is_gone_afterwards(tmp_path):
    class Cuda:
        type = "cuda"

    config = upstream(tmp_path)
    # a CPU stands for the GPU inside
    described = preflight._training_described(config, preflight.shape_of(config))
    assert preflight.rate_on(Cuda, described) > 0
    assert not [
        child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())
    ]


@pytest.mark.parametrize(
    ("hours", "text"),
    [(0.0, "a minute or less"), (0.03, "2 minutes"), (0.99, "59 minutes"), (1.5, "1.5 hours")],
)
def test_a_time_is_said_in_the_unit_that_suits(hours, text):
    assert preflight.hours_text(hours) == text


def test_what_is_loaded_on_the_device_is_let_go_before_the_training_begins(monkeypatch):
    from flows.data.autoencoder import space_of
    from flows.data.encoders import encoder_of
    from flows.model.train_rdm import give_memory_back

    before = encoder_of("rdm-shapes", "built-in"), space_of(Path("data"), "pixels")
    give_memory_back()
    after = encoder_of("rdm-shapes", "built-in"), space_of(Path("data"), "pixels")
    assert all(one is not other for one, other in zip(before, after, strict=True))


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc alone keeps it")
def test_what_is_freed_goes_back_to_the_system_before_the_training_begins():
    from flows.model.train_rdm import give_memory_back

    # Small pieces with one kept behind them: the C library cannot give the heap back by itself.
    pieces = [bytes(60_000) for _ in range(5_000)]
    kept = bytes(60_000)
    del pieces
    before = psutil.Process().memory_info().rss
    give_memory_back()
    assert before - psutil.Process().memory_info().rss > 150e6
    del kept


def test_both_problems_are_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    monkeypatch.setattr(preflight, "device_memory_bytes", lambda device: 1000)
    with pytest.raises(PreflightFailed, match="memory: .*; disk: "):
        check_training(upstream(tmp_path))


def test_ecc_without_opencv_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    made = UPSTREAM | {"stored": "pixels"}
    plain = upstream(tmp_path, upstream=made)
    editing = EditingConfig(picture=True, align="ecc")
    config = plain.model_copy(update={"model": replace(plain.model, editing=editing)})
    with pytest.raises(RequestError, match=r"model.editing.align: is 'ecc'.*rdm\[edit\]"):
        train_rdm(config)
    assert artifacts(tmp_path) == []


def test_a_data_set_that_is_not_there_is_refused_before_weights_are_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "encoder_for", lambda *_: pytest.fail("fetched"))
    images = {"source": "coco", "path": str(tmp_path / "nowhere")}
    with pytest.raises(PreflightFailed, match="there is no folder .*nowhere"):
        check_rebuild(Rebuild(root=tmp_path, name="new", images=images))
    with pytest.raises(PreflightFailed, match="there is no folder .*nowhere"):
        check_training(upstream(tmp_path, upstream=UPSTREAM | {"images": images}))


@pytest.mark.parametrize(
    "wrong", [{"weights": "/no/such/file.safetensors"}, {"autoencoder": "/no/such/folder"}]
)
def test_weights_that_cannot_be_had_end_a_run_before_its_first_stage(tmp_path, wrong):
    with pytest.raises(CoreError):
        train_rdm(upstream(tmp_path, upstream=UPSTREAM | wrong))
    with pytest.raises(CoreError):
        rebuild(Rebuild(root=tmp_path, name="new", **UPSTREAM | wrong))
    assert artifacts(tmp_path) == []


def test_a_network_that_its_latents_do_not_fit_is_refused_before_its_first_stage(tmp_path):
    network = {
        "network": "transformer",
        "channels": [32],
        "depth": 1,
        "head_channels": 16,
        "patch": 5,
    }
    with pytest.raises(PreflightFailed, match="cannot be built for latents of 3 x 32 x 32"):
        train_rdm(upstream(tmp_path, model={"denoiser": network}))
    assert artifacts(tmp_path) == []


def test_a_training_that_is_done_is_not_looked_at_again(small_world, small_training, monkeypatch):
    monkeypatch.setattr(
        "flows.model.train_rdm.check_training", lambda config: pytest.fail("looked")
    )
    assert train_rdm(TrainRDM(**small_training(small_world.root, "small"))).id == small_world.run.id


def test_a_dry_run_tells_what_would_be_needed_beside_the_parameters(small_world, capsys):
    words = [
        "train",
        "--dry-run",
        "--root",
        str(small_world.root),
        "--name",
        "dry",
        "--preset",
        "shapes-pixels",
    ]
    words += [f"--{role}=shapes" for role in ("latents", "neighbors", "database")]
    assert main(words) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["name"] == "dry"
    assert "train dry: needs 0." in told.err and "(1.3 M parameters)" in told.err
    assert main([*words, "--latents=never-made"]) == 0
    assert "known as soon as its latents are there" in capsys.readouterr().err
    assert not list(Path(small_world.root).glob("runs/dry"))


# What is counted


def test_a_run_writes_three_checkpoints_its_weights_and_what_is_made_upstream(tmp_path):
    memory = SimpleNamespace(checkpoint_bytes=1000, parameters=7)
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for name in ("a", "b", "deep/c"):
        (tmp_path / "images" / name).touch()
    images = {
        "source": "folder",
        "path": tmp_path / "images",
        "size": 32,
        "crop": "random",
        "crops_per_image": 2,
    }
    inputs = {"latents": "l", "neighbors": "n", "database": "d"}
    config = TrainRDM(root=tmp_path, name="x", **inputs)
    assert disk_bytes(config, memory) == 3 * 1000 + 4 * 7
    config = TrainRDM(root=tmp_path, name="x", **inputs, upstream={"images": images, "k": 5})
    crops = 2 * int(3 * 32 * 32 * 0.3 + 400)
    rows = 4 * 1024 + 48 * 5 + 800
    assert disk_bytes(config, memory) == 3 * 1000 + 4 * 7 + 3 * (2 * crops + 2 * rows), (
        "a row a crop"
    )
    build_all(tmp_path, Plan("shards", "l", {}))
    assert disk_bytes(config, memory) == 3 * 1000 + 4 * 7, "its shards are there"


def test_drawn_images_and_images_without_loss_are_counted_as_they_are_stored():
    drawn = Shapes(size=16, count=70, encoding="png")
    assert image_count(drawn) == 70 and bytes_of_image(drawn) == int(3 * 256 * 0.8 + 400)


def test_ways_to_run_the_loop_come_from_the_fastest_on_and_divide_the_batch():
    plain = [(pieces, False) for pieces in (1, 2, 4)]
    assert list(_executions(12)) == plain + [(pieces, True) for pieces in (1, 2, 4)]
    assert list(_executions(3)) == [(1, False), (1, True)]


def test_the_disk_that_holds_the_root_or_will_is_asked(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "flows.data.space_needed.shutil.disk_usage",
        lambda path: asked.append(path) or SimpleNamespace(free=9),
    )
    assert free_bytes(tmp_path / "not" / "yet") == 9 and asked == [tmp_path]
    assert in_gb(1_250_000_000) == "1.2 GB" and in_gb(49_000_000) == "0.0 GB"


@pytest.mark.parametrize(
    ("peak", "device", "tight"), [(41, "cpu", True), (40, "cpu", False), (41, "cuda", False)]
)
def test_memory_is_tight_where_what_is_alive_fits_and_what_a_process_grows_to_does_not(
    peak, device, tight
):
    memory = SimpleNamespace(peak_bytes=peak, parameters=2_500_000)
    needs = TrainingNeeds(memory, device, 100, 2 * 10**9, 3 * 10**9, 2.0)
    assert needs.tight is tight
    assert needs.text.endswith(
        "(2.5 M parameters), 2.0 GB of the 3.0 GB free on the disk, "
        "2.0 hours at the rate measured now"
    )
    assert "hours" not in replace(needs, hours=None).text
