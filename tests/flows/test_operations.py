"""As an operator sees it: schedules that fire, workers that are stopped and killed, runs that go
on; and nothing stuck.
"""

import configparser
import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from operating import (
    BIN,
    FINAL,
    REPOSITORY,
    SMALL_TRAINING,
    Project,
    draw,
    processes_naming,
    run_id_in,
    sets,
    small,
)

from flows.run.whereabouts import read_whereabouts
from storage.artifact import artifacts
from storage.runs import latest_checkpoint

MANUAL = (REPOSITORY / "docs" / "operations.md").read_text()
WORKER = ("prefect", "worker", "start", "--pool", "rdm")
LONG = {
    "name": "long",
    "training": SMALL_TRAINING | {"steps": 100_000},
    "reporting": {"checkpoint_steps": 50_000},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made = Project(tmp_path_factory.mktemp("operation"), small)
    draw(made.folder / "pictures", [f"picture-{number:02d}" for number in range(24)])
    made.typed("prefect", "work-pool", "create", "rdm", "--type", "rdm")
    made.typed("prefect", "deploy", "--all")
    made.start("worker", *WORKER)
    yield made
    made.stop()


def training(project, name):
    """Start a long training; its run and its directory, once it learns."""
    run = run_id_in(project.typed("rdm", "run", "train-rdm", *sets(LONG | {"name": name})))
    return run, project.trains(name)


def learning(project):
    """The long training that the test before has left at work, or a new one: its run and its
    directory.
    """
    at_work = project.runs(flow_runs={"state": {"type": {"any_": ["RUNNING"]}}})
    left = [run for run in at_work if run["parameters"]["config"]["name"] == "long"]
    if not left:
        return training(project, "long")
    directory = project.trains("long")
    goes_on(project, directory)
    return left[-1]["id"], directory


def goes_on(project, directory):
    """Wait until the training has told one more step."""
    metrics, now = directory / "metrics.jsonl", time.time()
    project.wait(lambda: metrics.stat().st_mtime > now, 90, "the training did not go on")


def limits_of_queues(project):
    """Queue of the pool -> how many of its runs may go on at once."""
    queues = project.asked("/work_pools/rdm/queues/filter", {})
    return {queue["name"]: queue["concurrency_limit"] for queue in queues}


def limit_queue(project, name, limit):
    """As the form of the UI does it."""
    (queue,) = project.asked(
        "/work_pools/rdm/queues/filter", {"work_queues": {"name": {"any_": [name]}}}
    )
    project.asked(f"/work_queues/{queue['id']}", {"concurrency_limit": limit}, "PATCH")


def resumed(project, run):
    """The run that goes on in place of a lost one: red-fox, red-fox-2, red-fox-3."""
    name = project.asked(f"/flow_runs/{run}")["name"]
    first, _, number = name.rpartition("-")
    following = f"{first}-{int(number) + 1}" if number.isdigit() else f"{name}-2"
    return project.run_named(following)


def test_deploying_makes_the_queues_and_limits_that_runs_need_and_leaves_what_an_operator_changed(
    project,
):
    assert limits_of_queues(project) == {"default": None, "gpu": 1, "rebuild": 1}
    assert project.asked("/v2/concurrency_limits/downloads")["limit"] == 1
    limit_queue(project, "gpu", 2)
    project.typed("prefect", "deploy", "--name", "gc")
    assert limits_of_queues(project)["gpu"] == 2
    limit_queue(project, "gpu", 1)


def test_a_schedule_that_is_switched_on_schedules_runs_and_a_worker_carries_them_out(project):
    weekly_schedule = project.asked("/deployments/name/rebuild/rebuild-coco")["schedules"][0]["id"]
    project.typed("prefect", "deployment", "schedule", "resume", "rebuild-coco", weekly_schedule)
    project.wait(
        lambda: len(project.runs()) >= 3, 60, "switching a weekly schedule on scheduled nothing"
    )
    weekly = [run for run in project.runs() if run["auto_scheduled"]]
    assert all(run["state"]["type"] == "SCHEDULED" for run in weekly)
    project.typed("prefect", "deployment", "schedule", "create", "rebuild-coco", "--interval", "25")

    def done():
        completed = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
        return [run for run in project.runs(**completed) if run["auto_scheduled"]]

    project.wait(lambda: len(done()) >= 2, 120, "no scheduled run was carried out twice")
    project.typed("prefect", "deployment", "schedule", "clear", "rebuild-coco", "--accept-yes")
    first, second = done()[:2]
    inside = {"flow_runs": {"parent_flow_run_id": {"any_": [first["id"]]}}}
    assert len(project.asked("/flow_runs/filter", inside)) >= 5, "the first one builds"
    inside["flow_runs"]["parent_flow_run_id"]["any_"] = [second["id"]]
    assert project.asked("/flow_runs/filter", inside) == [], (
        "the second one has nothing to do, and says so"
    )
    assert sum(" kept " in line for line in project.messages(second["id"])) == 5
    kinds = {artifact.kind for artifact in artifacts(project.folder / "data")}
    assert kinds == {"shards", "embeddings", "index", "neighbors", "latents"}


def test_a_worker_that_is_asked_to_stop_lets_the_training_save_and_the_next_one_goes_on(project):
    run, directory = learning(project)
    began = time.monotonic()
    project.end("worker", signal.SIGTERM)
    assert time.monotonic() - began < 40
    state = project.state(run)
    assert (state["type"], state["message"].split(". ")[0]) == ("CRASHED", "Its worker was stopped")
    assert "(1 of at most 3 times)" in state["message"]
    step, _ = latest_checkpoint(directory)
    assert 0 < step < 50_000, "a state between two checkpoints"
    assert processes_naming(directory) == []

    project.start("worker", *WORKER)
    project.begins(resumed(project, run))
    metrics = directory / "metrics.jsonl"
    project.wait(
        lambda: metrics.read_text().count("\n") * 2 > step, 90, "the training did not go on"
    )


@pytest.mark.long
def test_the_run_of_a_stopped_worker_goes_on_with_another_at_once(project):
    run, _ = learning(project)
    first = project.asked(f"/flow_runs/{run}")["labels"]["prefect.worker.name"]
    project.start("worker-2", *WORKER, "--name", "second")
    project.end("worker")
    following = resumed(project, run)
    project.begins(following)
    assert project.asked(f"/flow_runs/{following}")["labels"]["prefect.worker.name"] != first
    project.processes["worker"] = project.processes.pop("worker-2")


def test_a_machine_that_went_down_leaves_no_run_behind_and_every_run_goes_on(project):
    """SIGKILL to worker and flow at once, as a power cut does it."""
    run, directory = learning(project)
    waiting = run_id_in(project.typed("rdm", "run", "train-rdm", *sets({"name": "waiting"})))
    whereabouts = read_whereabouts(project.asked(f"/flow_runs/{run}")["infrastructure_pid"])
    os.killpg(whereabouts.process.process_id, signal.SIGKILL)
    project.end("worker", signal.SIGKILL)
    assert project.state(run)["type"] == "RUNNING", "nobody has told Prefect yet"

    project.start("worker", *WORKER)
    lost = project.ends(run, "CRASHED", 60)
    assert lost["message"].startswith(
        "Its process is gone: it was killed, or its worker or its machine was stopped. Resumed"
    )
    following = resumed(project, run)
    project.begins(following)
    goes_on(project, directory)
    project.cancel(following)
    cancelled = project.ends(following, "CANCELLED", 60)
    assert cancelled["message"] == "Cancelled as asked; what was done is kept."
    assert not [line for line in project.messages(following) if "Crash detected" in line]
    project.ends(waiting, "COMPLETED")
    assert len(list(project.folder.glob("tmp/rdm-worker-*"))) == 1, (
        "the killed worker's workspaces are gone"
    )
    inside = {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}}
    for child in project.asked("/flow_runs/filter", inside):
        assert child["state"]["type"] in {"COMPLETED", "CRASHED"}


@pytest.mark.long
def test_a_run_that_was_cancelled_while_no_worker_was_there_is_cancelled_by_the_next(project):
    run, directory = training(project, "orphan")
    project.end("worker", signal.SIGKILL)
    project.cancel(run)
    project.start("worker", *WORKER)
    project.ends(run, "CANCELLED", 60)
    assert processes_naming(directory) == []


@pytest.mark.long
def test_a_server_that_is_restarted_loses_no_run(project):
    run = run_id_in(
        project.typed(
            "rdm", "run", "train-rdm", *sets({"name": "outlives"}), "--set", "training.steps=1000"
        )
    )
    project.trains("outlives")
    project.end("server", signal.SIGKILL)
    time.sleep(5)
    project.start_server()
    project.ends(run, "COMPLETED", 180)


def test_the_cause_of_a_failure_is_the_first_line_of_its_state_and_stands_once_in_its_log(project):
    wrong = {"name": "wrong", "latents": "absent", "upstream": {"images": None, "k": 3}}
    run = run_id_in(project.typed("rdm", "run", "train-rdm", *sets(wrong)))
    state = project.ends(run, "FAILED", 60)
    assert "there is no artifact shards/absent" in state["message"].split("\n")[0]
    lines = project.messages(run)
    assert sum("there is no artifact" in line for line in lines) == 1
    assert not any("Traceback" in line for line in lines)
    assert not any("hook" in line.lower() for line in lines)


@pytest.mark.long
def test_a_full_disk_is_told_and_the_same_command_goes_on_when_there_is_room(project):
    small_disk = project.folder / "small-disk"
    small_disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", small_disk], capture_output=True
    ).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        training, reporting = SMALL_TRAINING | {"steps": 1500}, {"checkpoint_steps": 50}
        asked = {"training": training, "reporting": reporting}
        command = (
            "rdm",
            "run",
            "train-rdm",
            *sets({"name": "full", "root": "small-disk", **asked}),
        )
        run = run_id_in(project.typed(*command))
        states = small_disk / "runs" / "full"
        project.wait(
            lambda: list(states.glob("*/checkpoints/*/manifest.json")),
            90,
            "the training did not start",
        )
        with suppress(OSError):  # the training takes some of it meanwhile
            (small_disk / "filler").write_bytes(b"0" * shutil.disk_usage(small_disk).free)
        failed = project.ends(run, "FAILED", 90)
        assert (
            "cannot be written: No space left on device. Free some space"
            in failed["message"].split("\n")[0]
        )
        (small_disk / "filler").unlink()
        again = run_id_in(project.typed(*command))
        project.ends(again, "COMPLETED", 240)
        assert any(
            re.search(r"continues from step [\d,]+ of 1,500", line)
            for line in project.messages(again)
        )
    finally:
        subprocess.run(["umount", "-l", small_disk], check=True)


@pytest.mark.long
def test_every_command_of_the_manual_runs_in_its_order(project):
    blocks = re.findall(r"^```bash\n(.*?)^```", MANUAL, flags=re.MULTILINE | re.DOTALL)
    started = [block.splitlines()[-1] for block in blocks[:2]]
    assert started == ["prefect server start", "prefect worker start --pool rdm"], (
        "the fixture has started these"
    )
    assert len(blocks) >= 8
    # its schedule again, which another test has cleared
    project.typed("prefect", "deploy", "--name", "rebuild-coco")
    for block in blocks[2:]:
        done = project.typed("bash", "-ec", block)
        assert "Traceback" not in done
    assert (project.folder / "prefect-backup.db").stat().st_size > 100_000
    project.typed("prefect", "deployment", "schedule", "clear", "rebuild-coco", "--accept-yes")
    project.typed("prefect", "work-queue", "set-concurrency-limit", "gpu", "1", "--pool", "rdm")
    for run in project.runs():
        if run["state"]["type"] not in FINAL:
            project.typed("prefect", "flow-run", "cancel", run["id"])
    project.wait(
        lambda: all(run["state"]["type"] in FINAL for run in project.runs()),
        90,
        "not all could be cancelled",
    )


def test_the_units_of_the_manual_start_what_this_project_installs():
    blocks = re.findall(r"^```ini\n(.*?)^```", MANUAL, flags=re.MULTILINE | re.DOTALL)
    units = [block for block in blocks if "[Service]" in block]
    assert len(units) == 2
    for unit in units:
        parsed = configparser.ConfigParser(strict=False, interpolation=None)
        parsed.optionxform = str
        parsed.read_string(unit)
        command = parsed["Service"]["ExecStart"].split()
        assert (BIN / Path(command[0]).name).is_file() and " ".join(command[1:]) in MANUAL
        assert parsed["Service"]["WorkingDirectory"] == "/srv/rdm", (
            "prefect.yaml and pyproject.toml are found there"
        )
        assert int(parsed["Service"]["TimeoutStopSec"]) >= 30
    assert "KillMode=mixed" in units[1]


def test_no_background_service_of_the_server_has_failed_meanwhile(project):
    assert project.server_errors() == []
