"""A training process cannot outlive the one that started it, keeps its state when asked to stop,
and says why it ended.
"""

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

from flows.config.train import TrainRDM
from flows.model import launch
from flows.model.launch import (
    TrainingFailed,
    get_ready,
    launch_command,
    launch_training,
    members,
    single_command,
    stop_all,
)
from flows.model.train_rdm import run_training, train_rdm
from storage.errors import BuildRefused
from storage.runs import METRICS_FILE, latest_checkpoint, read_metrics

WEIGHTS = "weights/network/diffusion_pytorch_model.safetensors"


def training(root, name="x", **changes):
    inputs = {"latents": "shapes", "neighbors": "shapes", "database": "shapes"}
    return TrainRDM(root=root, name=name, **inputs, threads=1, device="cpu", **changes)


def test_a_training_ends_with_all_its_processes_when_its_parent_is_gone(tmp_path):
    code = "import subprocess, sys, time; print('up', flush=True); "
    code += "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    (tmp_path / "launcher.py").write_text(code)
    command = [sys.executable, "-m", "flows.run.leash", "launcher"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    ) as launcher:
        assert launcher.stdout.readline() == "up\n"
        launcher.stdin.close()
        assert launcher.wait(timeout=20) == -signal.SIGKILL
    assert members(launcher.pid) == [], "its own children went with it"


def test_a_failed_training_tells_its_last_lines_and_the_cure(tmp_path):
    with pytest.raises(
        TrainingFailed, match=r"FileNotFoundError.*config\.json.*Change what it names"
    ) as caught:
        launch_training(tmp_path, training(tmp_path))
    assert not caught.value.resumable, "it would only fail again"


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """worker(code) stands for the training: a process that needs no second to begin, without the
    leash that would end it when we go; so what ends it here is what `launch_training` does.
    """

    def begins(code):
        (tmp_path / "worker.py").write_text(code)
        command = [sys.executable, str(tmp_path / "worker.py")]
        monkeypatch.setattr("flows.model.launch.single_command", lambda: command)

    return begins


WAITS = """
import signal, sys, time
def stop(*_):
    open(sys.argv[0] + ".asked", "w").close()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
print('{"step": 1, "loss": 0.5, "images_per_second": 2}', flush=True)
time.sleep(60)
"""


def test_an_interrupted_launch_asks_the_training_to_stop_and_leaves_no_process(tmp_path, worker):
    worker(WAITS)

    def interrupted(record):
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        launch_training(tmp_path, training(tmp_path), interrupted)
    assert (tmp_path / "worker.py.asked").exists(), "it could save its state"
    assert time.monotonic() - started < 30, "and nobody waited for it to end by itself"


def test_stopping_all_asks_every_training_of_this_process_to_stop(tmp_path, worker):
    worker(WAITS)
    with pytest.raises(TrainingFailed, match=r"ended from outside \(exit code 143\)") as caught:
        launch_training(tmp_path, training(tmp_path), lambda record: stop_all())
    assert caught.value.resumable and (tmp_path / "worker.py.asked").exists()


def test_a_training_past_its_time_is_asked_to_stop_and_is_not_tried_again(tmp_path, worker):
    worker(WAITS)
    with pytest.raises(TrainingFailed, match="did not end within 1 s.*resumes from") as caught:
        launch_training(tmp_path, training(tmp_path, timeout_seconds=1))
    assert not caught.value.resumable and (tmp_path / "worker.py.asked").exists()


DEAF = """
import signal, subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); \
time.sleep(60)"
if sys.argv[0].endswith("deaf.py"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
child.stdout.readline()
open(sys.argv[0] + ".child", "w").write(str(child.pid))
print('{"step": 1, "loss": 1, "images_per_second": 1}', flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("name", ["deaf", "hears"])
def test_what_does_not_stop_when_it_is_asked_to_is_killed_the_last_of_the_group_too(
    name, tmp_path, monkeypatch
):
    """Even where the first of the group has gone: a process left would go on using the device."""
    script = tmp_path / f"{name}.py"
    script.write_text(DEAF)
    monkeypatch.setattr("flows.model.launch.SECONDS_TO_STOP", 0.5)
    monkeypatch.setattr("flows.model.launch.single_command", lambda: [sys.executable, str(script)])
    code, began = {"deaf": -9, "hears": -15}[name], time.monotonic()
    with pytest.raises(TrainingFailed, match=f"exit code {code}") as caught:
        launch_training(tmp_path, training(tmp_path), lambda record: stop_all())
    assert caught.value.resumable and time.monotonic() - began < 40, (
        "nobody waited for its minute to end"
    )
    left = int((tmp_path / f"{name}.py.child").read_text())
    assert not psutil.pid_exists(left) or psutil.Process(left).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("ends", "told", "resumable"),
    [
        (
            "sys.exit(137)",
            "it was ended from outside (exit code 137). Run the same command again",
            True,
        ),
        ("sys.exit(128)", "exit code 128. Change what it names.", False),
        (
            "print('Signal 9 (SIGKILL) received by PID 7'); sys.exit(1)",
            "ended from outside (exit code 1)",
            True,
        ),
        (
            "print('torch.OutOfMemoryError: no memory'); sys.exit(1)",
            "failed: torch.OutOfMemoryError: no memory. C",
            False,
        ),
        ("raise KeyError('x')", "training failed: KeyError: 'x'. Change what it names.", False),
    ],
)
def test_only_a_training_that_was_ended_from_outside_can_be_resumed(
    ends, told, resumable, tmp_path, worker
):
    worker(f"import sys\n{ends}\n")
    with pytest.raises(TrainingFailed) as caught:
        launch_training(tmp_path, training(tmp_path))
    assert told in str(caught.value) and caught.value.resumable is resumable
    assert str(caught.value).startswith(f"runs/{tmp_path.parent.name}: training failed: ")


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (TrainingFailed("killed", resumable=True), True),
        (TrainingFailed("a mistake of its own", resumable=False), False),
        (KeyError("a mistake of ours"), False),
    ],
)
def test_a_training_is_tried_again_only_where_it_was_ended_from_outside(error, again):
    assert run_training.retries.when(error) is again
    assert len(run_training.retries.seconds) == 2


def test_what_a_training_tells_is_told_on_with_its_last_lines_and_every_record(
    tmp_path, worker, monkeypatch
):
    logged = []
    monkeypatch.setattr("flows.model.launch.detail", logged.append)
    records = [{"step": step, "loss": 0.25, "images_per_second": 7.5} for step in (1, 2, 3)]
    lines = [json.dumps(record) for record in records]
    lines += [f"line {number}" for number in range(30)] + ["[1, 2]", '{"no": 1}']
    worker(f"import sys\nprint({chr(10).join(lines)!r})\nsys.exit(3)\n")
    seen = []
    with pytest.raises(TrainingFailed) as caught:
        launch_training(
            tmp_path, training(tmp_path, training={"steps": 3, "batch": 8}), seen.append
        )
    assert seen == records
    last = str(caught.value).split("Its last lines:\n")[1].splitlines()
    assert last == [*(f"line {number}" for number in range(12, 30)), "[1, 2]", '{"no": 1}']
    assert logged[0] == "step 3 of 3 (100 %): loss 0.2500, 7.5 images a second"
    assert logged[1:3] == ["line 0", "line 1"] and len(logged) == 33


def test_nothing_of_the_users_own_accelerate_settings_enters(tmp_path):
    assert "accelerate" not in " ".join(single_command()), "one process needs no launcher"
    command = launch_command(tmp_path, training(tmp_path, processes=2))
    assert command[command.index("--config_file") + 1] == str(tmp_path / "accelerate.json")
    assert "--multi_gpu" in command
    two = launch_command(
        tmp_path, training(tmp_path, machines=2, main_process_ip="10.0.0.1"), rank=1
    )
    assert (
        two[two.index("--machine_rank") + 1] == "1" and two[two.index("--num_processes") + 1] == "2"
    )
    assert two[two.index("--main_process_ip") + 1] == "10.0.0.1" and "--multi_gpu" in two


PRINTS = """
import json, os, sys
run = sys.stdin.readline().strip()
told = {name: value for name, value in os.environ.items() \
if name.startswith(("ACCELERATE_", "MALLOC", "OMP_NUM", "WORLD"))}
print(json.dumps({"step": 1, "loss": 0.0, "images_per_second": 1.0, \
"run": run, "told": told, "pid": os.getpid()}), flush=True)
"""


@pytest.fixture
def single(monkeypatch):
    """A training that only tells what it was told; returns its records."""
    monkeypatch.setattr("flows.model.launch.single_command", lambda: [sys.executable, "-c", PRINTS])
    yield
    for child in launch._READY.values():
        child.kill()
        child.wait()
    launch._READY.clear()


def test_a_single_process_is_told_of_its_run_and_of_nothing_that_is_not_the_trainings(
    single, tmp_path, monkeypatch
):
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
    assert records[2]["pid"] != ready.pid and ready.poll() is not None, (
        "it would not give its memory back"
    )
    get_ready(training(tmp_path, processes=2))
    assert launch._READY == {}, "several are started by the launcher"


def test_a_process_that_waits_for_a_run_goes_when_nobody_will_name_one(tmp_path):
    get_ready(training(tmp_path))
    waiting = launch._READY.pop(1)
    waiting.stdin.close()
    assert waiting.wait(60) == -signal.SIGKILL
    waiting.stdout.close()


@pytest.fixture
def long_run(small_world, small_training):
    """A run that would take minutes, whose next checkpoint is far away."""
    settings = small_training(
        small_world.root, "stopped", steps=3000, checkpoint_steps=3000, log_steps=1
    )
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
def test_a_stopped_training_saves_the_step_it_had_reached_and_goes_on_from_there_to_equal_weights(
    small_world, small_training
):
    root = small_world.root
    settings = small_training(root, "whole", steps=60, checkpoint_steps=60, log_steps=7) | {
        "threads": 1
    }
    unbroken = train_rdm(TrainRDM(**settings))
    stop_when(lambda: steps_told(root, "halved") >= 2, stop_all)
    with pytest.raises(TrainingFailed, match="stopped after step") as caught:
        launched_once(TrainRDM(**settings | {"name": "halved"}))
    assert caught.value.resumable
    directory = run_directory(root, "halved")
    step, _ = latest_checkpoint(directory)
    assert 14 <= step < 60
    with pytest.raises(BuildRefused, match=r"training\.steps=60 \(now 61\)"):
        train_rdm(
            TrainRDM(
                **settings | {"name": "halved", "training": settings["training"] | {"steps": 61}}
            )
        )
    resumed = train_rdm(TrainRDM(**settings | {"name": "halved"}))
    assert resumed.file(WEIGHTS).read_bytes() == unbroken.file(WEIGHTS).read_bytes()
    assert resumed.file(METRICS_FILE).read_bytes() == unbroken.file(METRICS_FILE).read_bytes()


def launched_once(config):
    """Train as the flow does, but without its retries."""
    module = sys.modules["flows.model.train_rdm"]
    once = module.run_training.once()
    original, module.run_training = module.run_training, once
    try:
        return train_rdm(config)
    finally:
        module.run_training = original


@pytest.mark.long
def test_a_training_past_its_time_ends_with_a_state_that_resumes(
    small_world, long_run, monkeypatch
):
    class Timer:
        """Goes off when the training has begun, however long this machine takes to begin."""

        def __init__(self, seconds, function):
            self.seconds, self.function = seconds, function

        def start(self):
            assert self.seconds == 12
            stop_when(lambda: steps_told(small_world.root, "late") >= 2, self.function)

        def cancel(self):
            pass

    monkeypatch.setattr("flows.model.launch.threading.Timer", Timer)
    with pytest.raises(TrainingFailed, match="did not end within 12 s"):
        train_rdm(long_run(name="late", timeout_seconds=12))
    directory = run_directory(small_world.root, "late")
    step, _ = latest_checkpoint(directory)
    assert 0 < step < 3000
    assert json.loads((directory / "config.json").read_text())["training"]["steps"] == 3000


@pytest.mark.long
def test_a_killed_worker_is_retried_from_its_checkpoint(small_world, small_training):
    """SIGKILL of the training process alone, as the kernel does when memory is short."""
    settings = small_training(
        small_world.root, "killed", steps=40, checkpoint_steps=10, log_steps=1
    ) | {"threads": 1}
    killed = []

    def kill():
        for process in psutil.Process().children(recursive=True):
            line = " ".join(process.cmdline())
            if "flows.model.train_worker" in line and "accelerate" not in line:
                process.kill()
                killed.append(process.pid)

    stop_when(lambda: steps_told(small_world.root, "killed") >= 15, kill)
    run = train_rdm(TrainRDM(**settings))
    assert killed and [record["step"] for record in read_metrics(run.file(METRICS_FILE))] == list(
        range(1, 41)
    )


def losses_of(run):
    return [record["loss"] for record in read_metrics(run.file(METRICS_FILE))]


@pytest.fixture
def told(monkeypatch):
    """Every record that a training tells while it runs."""
    records = []
    monkeypatch.setattr(
        "flows.model.train_rdm.TrainingProgress.watch", lambda self, record: records.append(record)
    )
    return records


@pytest.mark.long
def test_two_processes_learn_what_one_learns_and_resume_to_a_millionth(
    small_world, small_training, told
):
    root = small_world.root
    settings = small_training(root, "both") | {"threads": 1, "processes": 2, "main_process_port": 0}
    unbroken = train_rdm(TrainRDM(**settings))
    assert {record["processes"] for record in told} == {2}
    assert losses_of(unbroken) == pytest.approx(losses_of(small_world.run), rel=1e-5)
    stop_when(lambda: (root / "runs" / "broken").is_dir() and checkpoints(root, "broken"), stop_all)
    with pytest.raises(TrainingFailed):
        launched_once(TrainRDM(**settings | {"name": "broken"}))
    assert losses_of(train_rdm(TrainRDM(**settings | {"name": "broken"}))) == pytest.approx(
        losses_of(unbroken), rel=1e-6
    )


def checkpoints(root, name):
    return list((root / "runs" / name).glob("*/checkpoints/0*/manifest.json"))


@pytest.mark.long
def test_two_machines_train_one_run_with_the_command_that_the_first_tells(
    small_world, small_training, told
):
    port = free_port()
    settings = small_training(small_world.root, "machines", steps=3, batch=8) | {
        "threads": 1,
        "machines": 2,
    }
    config = TrainRDM(**settings | {"main_process_port": port})
    others = []

    def join():
        command = launch_command(run_directory(small_world.root, "machines"), config, rank=1)
        others.append(
            subprocess.Popen(
                command, env=os.environ | {"ACCELERATE_USE_CPU": "true"}, start_new_session=True
            )
        )

    stop_when(lambda: list((small_world.root / "runs" / "machines").glob("*/config.json")), join)
    run = train_rdm(config)
    assert others[0].wait(60) == 0
    assert {record["processes"] for record in told} == {2} and len(losses_of(run)) == 3


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.long
def test_how_the_loop_runs_is_no_part_of_the_plan_and_changes_nothing_but_rounding(
    small_world, small_training
):
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="[tensorboard] is not installed",
    )
    settings, plain = small_training(small_world.root, "frugal"), small_world.run
    frugal = {"accumulate": 2, "gradient_checkpointing": True, "channels_last": True}
    reporting = settings["reporting"] | {"tensorboard": True}
    run = train_rdm(TrainRDM(**settings | {"execution": frugal, "reporting": reporting}))
    assert run.id == plain.id and losses_of(run) == pytest.approx(losses_of(plain), rel=1e-4)
    told = events.EventAccumulator(str(run.directory / "tensorboard")).Reload()
    assert [event.step for event in told.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert {"gradient_norm", "images_per_second", "flop_utilisation"} <= set(told.Tags()["scalars"])
    with pytest.raises(ValueError, match="8 cannot be divided over 3 processes and pieces"):
        TrainRDM(**settings | {"execution": {"accumulate": 3}})
