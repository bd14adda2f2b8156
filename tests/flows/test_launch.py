"""A training process cannot outlive the one that started it, keeps its state when asked to stop, and says why it ended."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest

from flows import launch
from flows.config import TrainRDM
from flows.launch import (
    TrainingFailed,
    get_ready,
    launch_command,
    launch_training,
    members,
    single_command,
    stop_all,
)
from flows.train_rdm import train_rdm
from storage.build import BuildRefused
from storage.runs import METRICS_FILE, latest_checkpoint, read_metrics

WEIGHTS = "weights/network/diffusion_pytorch_model.safetensors"


def training(root, name="x", **changes):
    inputs = {"latents": "shapes", "neighbors": "shapes", "database": "shapes"}
    return TrainRDM(root=root, name=name, **inputs, threads=1, device="cpu", **changes)


def test_a_training_ends_with_all_its_processes_when_its_parent_is_gone(tmp_path):
    code = "import subprocess, sys, time; print('up', flush=True); "
    code += "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    (tmp_path / "launcher.py").write_text(code)
    command = [sys.executable, "-m", "flows.leash", "launcher"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    ) as launcher:  # fmt: skip
        assert launcher.stdout.readline() == "up\n"
        launcher.stdin.close()
        assert launcher.wait(timeout=20) == -signal.SIGKILL
    assert members(launcher.pid) == [], "its own children went with it"


def test_a_failed_training_tells_its_last_lines_and_the_cure(tmp_path):
    with pytest.raises(TrainingFailed, match=r"FileNotFoundError.*config\.json.*Change what it names") as caught:
        launch_training(tmp_path, training(tmp_path))
    assert not caught.value.resumable, "it would only fail again"


def test_an_interrupted_launch_leaves_no_process_behind(tmp_path, monkeypatch):
    started = []

    def interrupted(child, steps, watch):
        started.append(child)
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.launch._follow", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launch_training(tmp_path, training(tmp_path))
    assert members(started[0].pid) == []


def test_nothing_of_the_users_own_accelerate_settings_enters(tmp_path):
    assert "accelerate" not in " ".join(single_command()), "one process needs no launcher"
    command = launch_command(tmp_path, training(tmp_path, processes=2))
    assert command[command.index("--config_file") + 1] == str(tmp_path / "accelerate.json")
    assert "--multi_gpu" in command
    two = launch_command(tmp_path, training(tmp_path, machines=2, main_process_ip="10.0.0.1"), rank=1)
    assert two[two.index("--machine_rank") + 1] == "1" and two[two.index("--num_processes") + 1] == "2"
    assert two[two.index("--main_process_ip") + 1] == "10.0.0.1" and "--multi_gpu" in two


PRINTS = """
import json, os, sys
run = sys.stdin.readline().strip()
told = {name: value for name, value in os.environ.items() if name.startswith(("ACCELERATE_", "MALLOC", "OMP_NUM", "WORLD"))}
print(json.dumps({"step": 1, "loss": 0.0, "images_per_second": 1.0, "run": run, "told": told, "pid": os.getpid()}), flush=True)
"""


@pytest.fixture
def single(monkeypatch):
    """A training that only tells what it was told; returns its records."""
    monkeypatch.setattr("flows.launch.single_command", lambda: [sys.executable, "-c", PRINTS])
    yield
    for child in launch._READY.values():
        child.kill()
        child.wait()
    launch._READY.clear()


def test_a_single_process_is_told_of_its_run_and_of_nothing_that_is_not_the_trainings(single, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    monkeypatch.setenv("WORLD_SIZE", "4")
    records = []
    launch_training(tmp_path, training(tmp_path), records.append)
    launch_training(tmp_path, training(tmp_path), records.append, tight=True)
    assert [record["run"] for record in records] == [str(tmp_path)] * 2
    assert records[0]["told"] == {"OMP_NUM_THREADS": "1"}
    assert records[1]["told"] == {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}


def test_a_process_that_is_ready_is_taken_once_and_not_where_memory_is_tight(single, tmp_path):
    records = []
    get_ready(training(tmp_path))
    ready = launch._READY[1].pid
    launch_training(tmp_path, training(tmp_path), records.append)
    launch_training(tmp_path, training(tmp_path), records.append)
    assert records[0]["pid"] == ready != records[1]["pid"]
    get_ready(training(tmp_path))
    ready = launch._READY[1]
    launch_training(tmp_path, training(tmp_path), records.append, tight=True)
    assert records[2]["pid"] != ready.pid and ready.poll() is not None, "it would not give its memory back"
    get_ready(training(tmp_path, processes=2))
    assert launch._READY == {}, "several are started by the launcher"


def test_a_process_that_waits_for_a_run_goes_when_nobody_will_name_one(tmp_path):
    get_ready(training(tmp_path))
    waiting = launch._READY.pop(1)
    waiting.stdin.close()
    assert waiting.wait(60) == 0
    waiting.stdout.close()


@pytest.fixture
def long_run(small_world, small_training):
    """A run that would take minutes, whose next checkpoint is far away."""
    settings = small_training(small_world.root, "stopped", steps=3000, checkpoint_steps=3000, log_steps=1)
    return lambda **changes: TrainRDM(**settings | {"threads": 1} | changes)


def run_directory(root, name):
    return next(path.parent for path in (root / "runs" / name).glob("*/plan.json"))


def stop_when(condition, act):
    """Watch beside a training and act once."""

    def watch():
        deadline = time.monotonic() + 120
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.05)
        act()

    threading.Thread(target=watch, daemon=True).start()


def steps_told(root, name):
    files = list((root / "runs" / name).glob(f"*/{METRICS_FILE}"))
    return len(read_metrics(files[0])) if files else 0


@pytest.mark.long
def test_a_stopped_training_saves_the_step_it_had_reached_and_goes_on_from_there_to_equal_weights(small_world, small_training):
    root = small_world.root
    settings = small_training(root, "whole", steps=60, checkpoint_steps=60, log_steps=7) | {"threads": 1}
    unbroken = train_rdm(TrainRDM(**settings))
    stop_when(lambda: steps_told(root, "halved") >= 2, stop_all)
    with pytest.raises(TrainingFailed, match="stopped after step") as caught:
        launched_once(TrainRDM(**settings | {"name": "halved"}))
    assert caught.value.resumable
    directory = run_directory(root, "halved")
    step, _ = latest_checkpoint(directory)
    assert 14 <= step < 60
    with pytest.raises(BuildRefused, match=r"training\.steps=60 \(now 61\)"):
        train_rdm(TrainRDM(**settings | {"name": "halved", "training": settings["training"] | {"steps": 61}}))
    resumed = train_rdm(TrainRDM(**settings | {"name": "halved"}))
    assert resumed.file(WEIGHTS).read_bytes() == unbroken.file(WEIGHTS).read_bytes()
    assert resumed.file(METRICS_FILE).read_bytes() == unbroken.file(METRICS_FILE).read_bytes()


def launched_once(config):
    """Train as the flow does, but without its retries."""
    module = sys.modules["flows.train_rdm"]
    once = module.run_training.once()
    original, module.run_training = module.run_training, once
    try:
        return train_rdm(config)
    finally:
        module.run_training = original


@pytest.mark.long
def test_a_training_past_its_time_ends_with_a_state_that_resumes(small_world, long_run, monkeypatch):
    class Timer:
        """Goes off when the training has begun, however long this machine takes to begin."""

        def __init__(self, seconds, function):
            self.seconds, self.function = seconds, function

        def start(self):
            assert self.seconds == 12
            stop_when(lambda: steps_told(small_world.root, "late") >= 2, self.function)

        def cancel(self):
            pass

    monkeypatch.setattr("flows.launch.threading.Timer", Timer)
    with pytest.raises(TrainingFailed, match="did not end within 12 s"):
        train_rdm(long_run(name="late", timeout_seconds=12))
    directory = run_directory(small_world.root, "late")
    step, _ = latest_checkpoint(directory)
    assert 0 < step < 3000
    assert json.loads((directory / "config.json").read_text())["training"]["steps"] == 3000


@pytest.mark.long
def test_a_killed_worker_is_retried_from_its_checkpoint(small_world, small_training):
    """SIGKILL of the training process alone, as the kernel does when memory is short."""
    settings = small_training(small_world.root, "killed", steps=40, checkpoint_steps=10, log_steps=1) | {"threads": 1}
    killed = []

    def kill():
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            if "flows.train_worker" in line and "accelerate" not in line and "/killed/" in line:
                process.kill()
                killed.append(process.pid)

    stop_when(lambda: steps_told(small_world.root, "killed") >= 15, kill)
    run = train_rdm(TrainRDM(**settings))
    assert killed and [record["step"] for record in read_metrics(run.file(METRICS_FILE))] == list(range(1, 41))


def losses_of(run):
    return [record["loss"] for record in read_metrics(run.file(METRICS_FILE))]


@pytest.fixture
def told(monkeypatch):
    """Every record that a training tells while it runs."""
    records = []
    monkeypatch.setattr("flows.train_rdm.TrainingProgress.watch", lambda self, record: records.append(record))
    return records


@pytest.mark.long
def test_two_processes_learn_what_one_learns_and_resume_to_a_millionth(small_world, small_training, told):
    root = small_world.root
    settings = small_training(root, "both") | {"threads": 1, "processes": 2, "main_process_port": 0}
    unbroken = train_rdm(TrainRDM(**settings))
    assert {record["processes"] for record in told} == {2}
    assert losses_of(unbroken) == pytest.approx(losses_of(small_world.run), rel=1e-5)
    stop_when(lambda: (root / "runs" / "broken").is_dir() and checkpoints(root, "broken"), stop_all)
    with pytest.raises(TrainingFailed):
        launched_once(TrainRDM(**settings | {"name": "broken"}))
    assert losses_of(train_rdm(TrainRDM(**settings | {"name": "broken"}))) == pytest.approx(losses_of(unbroken), rel=1e-6)


def checkpoints(root, name):
    return list((root / "runs" / name).glob("*/checkpoints/0*/manifest.json"))


@pytest.mark.long
def test_two_machines_train_one_run_with_the_command_that_the_first_tells(small_world, small_training, told):
    port = free_port()
    settings = small_training(small_world.root, "machines", steps=3, batch=8) | {"threads": 1, "machines": 2}
    config = TrainRDM(**settings | {"main_process_port": port})
    others = []

    def join():
        command = launch_command(run_directory(small_world.root, "machines"), config, rank=1)
        others.append(subprocess.Popen(command, env=os.environ | {"ACCELERATE_USE_CPU": "true"}, start_new_session=True))

    stop_when(lambda: list((small_world.root / "runs" / "machines").glob("*/config.json")), join)
    run = train_rdm(config)
    assert others[0].wait(60) == 0
    assert {record["processes"] for record in told} == {2} and len(losses_of(run)) == 3


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.long
def test_how_the_loop_runs_is_no_part_of_the_plan_and_changes_nothing_but_rounding(small_world, small_training):
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="[tensorboard] is not installed"
    )
    settings, plain = small_training(small_world.root, "frugal"), small_world.run
    frugal = {"accumulate": 2, "gradient_checkpointing": True, "channels_last": True, "tensorboard": True}
    run = train_rdm(TrainRDM(**settings | {"execution": frugal}))
    assert run.id == plain.id and losses_of(run) == pytest.approx(losses_of(plain), rel=1e-4)
    told = events.EventAccumulator(str(run.directory / "tensorboard")).Reload()
    assert [event.step for event in told.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert {"gradient_norm", "images_per_second", "flop_utilisation"} <= set(told.Tags()["scalars"])
    with pytest.raises(ValueError, match="8 cannot be divided over 3 processes and pieces"):
        TrainRDM(**settings | {"execution": {"accumulate": 3}})
