"""The path of a new user, for real: server, work pool, deploy, worker, run, cancel; and what stands in prefect.yaml."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from importlib import import_module
from pathlib import Path

import psutil
import pytest
import yaml

from flows.config import EvaluateRDM, Rebuild, TrainRDM
from flows.deployments import FLOW_OF, merged
from flows.sample_config import SampleRDM
from flows.short_names import complete
from storage.artifact import artifacts
from storage.runs import latest_checkpoint

REPOSITORY = Path(__file__).resolve().parent.parent.parent
BIN = Path(sys.executable).parent
FILE = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
README_BLOCK = re.search(r"^```bash\n(.*?)^```", (REPOSITORY / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)[1]
README_COMMANDS = [line.split() for line in README_BLOCK.splitlines() if not line.startswith("export")]
DEPLOYMENTS = {deployment["name"]: deployment for deployment in FILE["deployments"]}
CONFIG = {"rebuild": Rebuild, "train-rdm": TrainRDM, "sample-rdm": SampleRDM, "evaluate-rdm": EvaluateRDM}
TINY = {
    "name": "tiny", "latents": "pics", "neighbors": "pics", "database": "pics", "device": "cpu", "preview": 2,
    "denoiser": {"network": "transformer", "channels": [32], "depth": 1, "head_channels": 16, "patch": 4},
    "noise": {"process": "flow"},
    "training": {"steps": 20, "batch": 8, "checkpoint_steps": 10, "log_steps": 2, "k": 3},
    "upstream": {
        "images": {"source": "shapes", "path": None, "size": 32, "encoding": "png", "count": 96, "images_per_part": 40},
        "encoder": "rdm-shapes", "weights": "built-in",
    },
}  # fmt: skip


# What stands in the file


def test_the_deployments_are_those_that_were_promised_and_their_short_names_lead_to_their_flows():
    assert set(DEPLOYMENTS) == {
        "rebuild-openimages", "rebuild-wikiart", "rebuild-coco", "train-rdm", "sample-rdm", "evaluate-rdm",
    }  # fmt: skip
    for name, deployment in DEPLOYMENTS.items():
        module, _, function = deployment["entrypoint"].rpartition(".")
        assert getattr(import_module(module), function).name == FLOW_OF[name]
    assert set(FLOW_OF) == set(DEPLOYMENTS)


@pytest.mark.parametrize("name", FLOW_OF)
def test_the_parameters_of_every_deployment_are_ones_its_flow_takes(name):
    config = CONFIG[FLOW_OF[name]](**DEPLOYMENTS[name]["parameters"]["config"])
    assert DEPLOYMENTS[name]["tags"][0] == "rdm" and config.root == Path("data")


def test_schedules_are_inactive_and_know_their_time_zone():
    schedules = [schedule for deployment in DEPLOYMENTS.values() for schedule in deployment.get("schedules", [])]
    assert len(schedules) == 3
    assert all(schedule["active"] is False and schedule["timezone"] and schedule["cron"] for schedule in schedules)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("prefect deployment run train-rdm", "prefect deployment run train-rdm/train-rdm"),
        ("prefect deployment run rebuild-coco --watch", "prefect deployment run rebuild/rebuild-coco --watch"),
        ("prefect deployment run --param train-rdm x/y", "prefect deployment run --param train-rdm x/y"),
        ("prefect deployment run other", "prefect deployment run other"),
        ("prefect deployment run train-rdm/train-rdm", "prefect deployment run train-rdm/train-rdm"),
        ("prefect deployment inspect train-rdm", "prefect deployment inspect train-rdm"),
    ],
)
def test_the_short_form_is_completed_and_nothing_else_is_touched(typed, meant):
    arguments = typed.split()
    complete(arguments)
    assert arguments == meant.split()


def test_changes_reach_into_deployed_parameters():
    deployed = {"training": {"steps": 5, "batch": 8}, "name": "a"}
    assert merged(deployed, {"training": {"steps": 9}}) == {"training": {"steps": 9, "batch": 8}, "name": "a"}
    assert deployed["training"]["steps"] == 5


# The path itself


class Project:
    """A folder with prefect.yaml in it, a server, and whatever a user types there."""

    def __init__(self, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.folder, self.api, self.processes = folder, f"http://127.0.0.1:{port}/api", []
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT")}
        self.environment = clean | {
            "PATH": f"{BIN}:{clean['PATH']}", "PREFECT_HOME": str(folder / "home"), "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1",
            "PREFECT_RUNNER_POLL_FREQUENCY": "2", "PREFECT_WORKER_QUERY_SECONDS": "2", "PREFECT_WORKER_PREFETCH_SECONDS": "1",
        }  # fmt: skip
        for name in ("prefect.yaml", "pyproject.toml"):
            (folder / name).write_bytes((REPOSITORY / name).read_bytes())
        self.start("prefect", "server", "start", "--port", str(port))
        self.wait(self.is_up, 90, "the server did not start")

    def start(self, *command):
        log = (self.folder / f"{command[1]}.log").open("w")
        where = {"cwd": self.folder, "env": self.environment, "start_new_session": True}
        started = subprocess.Popen(command, stdout=log, stderr=log, **where)
        self.processes.append(started)

    def typed(self, *command):
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
        return done.stdout

    def asked(self, path, body=None):
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.api + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read())

    def is_up(self):
        try:
            return self.asked("/health")
        except OSError:
            return False

    def wait(self, condition, seconds, message):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{message}: {self.logs()}"
            time.sleep(0.3)

    def logs(self):
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in self.folder.glob("*.log"))

    def ends(self, run_id, state, seconds=150):
        def ended():
            return self.asked(f"/flow_runs/{run_id}")["state"]["type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}

        self.wait(ended, seconds, f"{run_id} did not end")
        assert self.asked(f"/flow_runs/{run_id}")["state"]["type"] == state, self.logs()

    def stop(self):
        for started in self.processes:
            for process in [*psutil.Process(started.pid).children(recursive=True), started]:
                process.kill()
            started.wait(10)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made = Project(tmp_path_factory.mktemp("project"))
    yield made
    made.stop()


def run_id_in(text):
    return re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text)[0]


def sets(values, prefix=""):
    """--set arguments for nested parameters."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from sets(value, f"{prefix}{key}.")
        else:
            yield from ("--set", f"{prefix}{key}={json.dumps(value)}")


def test_a_new_user_deploys_runs_cancels_and_runs_again(project):
    # set up, as the README says
    server, pool, queue, deploy, worker, run = README_COMMANDS
    assert server == ["prefect", "server", "start"], "started by the fixture, on a free port"
    for command in (pool, queue, deploy):
        project.typed(*command)
    names = {deployment["name"] for deployment in project.asked("/deployments/filter", {})}
    assert names == set(FLOW_OF)
    project.start(*worker)

    # the user's own words; everything upstream is missing and gets built
    assert run == ["prefect", "deployment", "run", "train-rdm"]
    typed = project.typed(*run, "--param", f"config={json.dumps(TINY)}")
    first = run_id_in(typed)
    project.ends(first, "COMPLETED")
    root = project.folder / "data"
    assert {a.kind for a in artifacts(root)} == {"shards", "latents", "embeddings", "index", "neighbors", "runs", "samples"}
    shown = {artifact["key"]: artifact for artifact in project.asked("/artifacts/filter", {})}
    assert {"tiny-progress", "tiny-loss", "tiny-preview-images"} <= set(shown)
    assert shown["tiny-progress"]["data"] == 100.0
    assert len(json.loads(shown["tiny-loss"]["data"])) >= 10
    lines = [line["message"] for line in project.asked("/logs/filter", {"logs": {"flow_run_id": {"any_": [first]}}})]
    assert sum('"step"' in line for line in lines) == 10, "the training's output, line by line"

    # the same again, by our own short form: nothing is done, and the UI says so
    again = run_id_in(project.typed("rdm", "run", "train-rdm", *sets(TINY)))
    project.ends(again, "COMPLETED")
    assert project.asked(f"/flow_runs/{again}")["state"]["name"] == "Cached"

    # a long one, cancelled: its processes are gone within seconds and what it had learned is kept
    long = TINY | {"name": "long", "training": TINY["training"] | {"steps": 100_000, "checkpoint_steps": 50_000}}
    third = run_id_in(project.typed("rdm", "run", "train-rdm", *sets(long)))
    project.wait(lambda: any(root.glob("runs/long/*/metrics.jsonl")), 90, "the long training did not start")
    project.typed("prefect", "flow-run", "cancel", third)
    project.ends(third, "CANCELLED", 60)
    here = [p for p in psutil.process_iter(["cmdline"]) if str(root) in " ".join(p.info["cmdline"] or [])]
    assert here == []
    step, _ = latest_checkpoint(next(root.glob("runs/long/*")))
    assert 0 < step < 50_000, "a state between two checkpoints, saved when it was asked to stop"
