"""A training process cannot outlive the one that started it, keeps its state when asked to stop,
and says why it ended.
"""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from launching import (
    training,
)

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
from flows.model.train_rdm import run_training


def gone(is_gone, seconds=10):
    """Whether it is gone in time: who is killed has still to die, and takes a while when all wait
    for a core.
    """
    until = time.monotonic() + seconds
    while not is_gone() and time.monotonic() < until:
        time.sleep(0.02)
    return is_gone()


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
    assert gone(lambda: not members(launcher.pid)), "its own children went with it"


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


def alive(process):
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


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
    assert gone(lambda: not alive(left))


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
