"""What tests of operation share: a folder with a prefect.yaml for small pictures, a server,
workers, and what a user types.
"""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import yaml
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent.parent
BIN = Path(sys.executable).parent
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
SMALL_NETWORK = {
    "network": "transformer",
    "channels": [32],
    "depth": 1,
    "head_channels": 16,
    "patch": 4,
}
SMALL_TRAINING = {"steps": 20, "batch": 8}
SMALL_REPORTING = {"checkpoint_steps": 10, "log_steps": 2}
SERVER_ERRORS = re.compile(r"\bERROR\b|Traceback|\w+Error:|CRITICAL")
BUSY = "database is locked"
"""What SQLite answers to two who write at once: Prefect's server passes it on as 503, and its
clients ask again.
"""
SQLITE_IS_BUSY = 503
TWICE = "input_value={'type': 'auth'"
"""A client of Prefect that had no answer in time greets the server twice, and then connects
again.
"""


def small(file):
    """prefect.yaml with data, encoder, autoencoder and network that fit a test: a folder of
    pictures, 32 pixels.
    """
    encoder = {"encoder": "rdm-shapes", "weights": "built-in"}
    images = {
        "source": "folder",
        "path": "pictures",
        "size": 32,
        "encoding": "png",
        "images_per_part": 8,
    }
    for deployment in file["deployments"]:
        config = deployment["parameters"]["config"]
        if "rebuild" in deployment["tags"]:
            config.update({"images": images, "autoencoder": "pixels"} | encoder)
        if deployment["name"] == "train-rdm":
            config.update(
                model={"denoiser": SMALL_NETWORK},
                context={"k": 3},
                training=SMALL_TRAINING,
                reporting=SMALL_REPORTING,
                preview=2,
                device="cpu",
                execution={},
            )
            config["upstream"] = {"images": images, "autoencoder": "pixels"} | encoder
    return file


class Project:
    """A folder with prefect.yaml in it, a server, workers, and whatever a user types there."""

    def __init__(self, folder, change=lambda file: file):
        self.folder, self.port, self.processes = folder, free_port(), {}
        self.api = f"http://127.0.0.1:{self.port}/api"
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT")}
        self.environment = clean | {
            "PATH": f"{BIN}:{clean['PATH']}",
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_API_URL": self.api,
            "DO_NOT_TRACK": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "10",
            "TMPDIR": str(folder / "tmp"),
            "PREFECT_RUNNER_POLL_FREQUENCY": "2",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_WORKER_PREFETCH_SECONDS": "1",
        }
        (folder / "tmp").mkdir()
        (folder / "pyproject.toml").write_bytes((REPOSITORY / "pyproject.toml").read_bytes())
        file = change(yaml.safe_load((REPOSITORY / "prefect.yaml").read_text()))
        (folder / "prefect.yaml").write_text(yaml.safe_dump(file))
        self.start_server()

    def start_server(self):
        self.start("server", "prefect", "server", "start", "--port", str(self.port))
        self.wait(self.is_up, 90, "the server did not start")

    def start(self, name, *command):
        """Start a process in a session of its own; `name` is what it is stopped by, and the name of
        its log.
        """
        with (self.folder / f"{name}.log").open("a") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def end(self, name, sign=signal.SIGTERM, seconds=60):
        """Send a signal to one process, as systemd would, and wait until it is gone; a killed
        server goes with its child.
        """
        process = self.processes.pop(name)
        inside = psutil.Process(process.pid).children(recursive=True) if name == "server" else []
        process.send_signal(sign)
        for child in inside if sign == signal.SIGKILL else []:
            child.kill()
        process.wait(seconds)

    def typed(self, *command):
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
        return done.stdout

    def asked(self, path, body=None, method=None):
        deadline = time.monotonic() + 60
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(
            self.api + path, data, {"Content-Type": "application/json"}, method=method
        )
        while True:
            try:
                # a busy machine takes its time
                with urllib.request.urlopen(request, timeout=120) as answer:
                    return json.loads(answer.read() or "null")
            except urllib.error.HTTPError as error:
                if error.code != SQLITE_IS_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.3)

    def cancel(self, run_id):
        """As the button of the UI does it: in no time, while `prefect` takes seconds to start."""
        answer = self.asked(f"/flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING"}})
        assert answer["status"] == "ACCEPT", answer

    def is_up(self):
        try:
            return self.asked("/health")
        except OSError:
            return False

    def wait(self, condition, seconds, message):
        deadline = time.monotonic() + seconds
        while True:
            found = condition()
            if found:
                return found
            assert time.monotonic() < deadline, f"{message}: {self.logs()}"
            time.sleep(0.3)

    def logs(self):
        return "\n".join(
            path.read_text(errors="replace")[-3000:] for path in self.folder.glob("*.log")
        )

    def state(self, run_id):
        return self.asked(f"/flow_runs/{run_id}")["state"]

    def begins(self, run_id, seconds=150):
        """Wait until the run's own process says that it runs."""
        self.wait(
            lambda: self.state(run_id)["type"] == "RUNNING", seconds, f"{run_id} did not begin"
        )

    def trains(self, name, seconds=150):
        """Wait until a training has told its first step; its directory."""

        def learning():
            return [
                path.parent
                for path in self.folder.glob(f"data/runs/{name}/*/metrics.jsonl")
                if path.stat().st_size
            ]

        return self.wait(learning, seconds, f"the training {name} did not start")[0]

    def ends(self, run_id, state, seconds=150):
        self.wait(lambda: self.state(run_id)["type"] in FINAL, seconds, f"{run_id} did not end")
        assert self.state(run_id)["type"] == state, f"{self.state(run_id)['message']} {self.logs()}"
        return self.state(run_id)

    def runs(self, **filters):
        """Top-level flow runs, the first one first."""
        found = self.asked("/flow_runs/filter", {"sort": "EXPECTED_START_TIME_ASC"} | filters)
        return [run for run in found if run["parent_task_run_id"] is None]

    def run_named(self, name, seconds=60):
        """The id of the run of that name, once it is there."""
        by_name = {"flow_runs": {"name": {"any_": [name]}}}
        return self.wait(lambda: self.runs(**by_name), seconds, f"there is no run {name}")[0]["id"]

    def messages(self, run_id):
        """The lines of an ended run's log, in order.

        Prefect sends lines in batches, the last ones when the run's process ends, which is
        after the run has ended: so that process is waited for.
        """
        self.wait(lambda: not processes_of(run_id), 60, f"the process of {run_id} did not end")
        asked = {"logs": {"flow_run_id": {"any_": [run_id]}}, "sort": "TIMESTAMP_ASC"}
        return [line["message"] for line in self.asked("/logs/filter", asked)]

    def server_errors(self):
        """The first lines of what no healthy server logs."""
        log = (self.folder / "server.log").read_text(errors="replace")
        entries = re.split(r"^(?=\d\d:\d\d:\d\d\.\d+ \| )", log, flags=re.MULTILINE)
        return [
            entry.split("\n")[0]
            for entry in entries
            if SERVER_ERRORS.search(entry) and BUSY not in entry and TWICE not in entry
        ]

    def times_busy(self):
        """How often SQLite was busy."""
        return (
            (self.folder / "server.log")
            .read_text(errors="replace")
            .count(f"sqlite3.OperationalError: {BUSY}")
        )

    def database_bytes(self):
        """What the rows of Prefect's database take, without what is free in its file."""
        with sqlite3.connect(
            f"file:{self.folder / 'home' / 'prefect.db'}?mode=ro", uri=True
        ) as database:
            page, pages, free = (
                database.execute(f"PRAGMA {what}").fetchone()[0]
                for what in ("page_size", "page_count", "freelist_count")
            )
        return page * (pages - free)

    def stop(self):
        for started in self.processes.values():
            if psutil.pid_exists(started.pid):
                for process in [*psutil.Process(started.pid).children(recursive=True), started]:
                    process.kill()
            started.wait(10)
        for process in processes_naming(self.folder):  # what a killed worker has left
            process.kill()


def processes_naming(path):
    """The living processes whose command names that path."""
    naming = []
    for process in psutil.process_iter(["cmdline"]):
        if str(path) in " ".join(process.info["cmdline"] or []):
            naming.append(process)
    return naming


def processes_of(run_id):
    """The processes that work for that flow run."""
    working = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PREFECT__FLOW_RUN_ID") == run_id:
                working.append(process)
        except psutil.Error:  # ended meanwhile, or somebody else's
            continue
    return working


def draw(folder, names, colour=120):
    """Small pictures, each of another colour."""
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        pixels = np.full((32, 32, 3), (colour, 7 * number % 256, 90), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")


def run_id_in(text):
    return re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text)[0]


def sets(values, prefix=""):
    """--set arguments for nested parameters."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from sets(value, f"{prefix}{key}.")
        else:
            yield from ("--set", f"{prefix}{key}={json.dumps(value)}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
