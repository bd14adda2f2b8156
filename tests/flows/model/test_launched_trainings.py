"""Real trainings in processes of their own: stopped, killed, on several processes and machines."""

import json
import os
import subprocess

import psutil
import pytest
from launching import (
    WEIGHTS,
    checkpoints,
    free_port,
    launched_once,
    losses_of,
    run_directory,
    steps_of,
    steps_told,
    stop_when,
)

from flows.config.train import TrainRDM
from flows.model.launch import (
    TrainingFailed,
    launch_command,
    stop_all,
)
from flows.model.train_rdm import train_rdm
from storage.errors import BuildRefused
from storage.runs import METRICS_FILE, latest_checkpoint


@pytest.fixture
def long_run(small_world, small_training):
    """A run that would take minutes, whose next checkpoint is far away."""
    settings = small_training(
        small_world.root, "stopped", steps=3000, checkpoint_steps=3000, log_steps=1
    )
    return lambda **changes: TrainRDM(**settings | {"threads": 1} | changes)


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
    assert killed and steps_of(run) == list(range(1, 41))


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
