"""An hour of unattended operation: `make soak`. Prints figures, and exits with 1 if a run is stuck
or anything is lost.

An interval schedule rebuilds a data set every 20 seconds while pictures are added, removed,
changed, broken and mended; now and then the worker is stopped, the worker is killed, worker and run
are killed together, or the server is killed; beside them a training of small steps is started again
whenever it has ended. At the end the schedule is switched off and everything has a few minutes to
come to rest. Then:

    no run is stuck       every run has a final state, and waits for nobody
    nothing is lost       the last version holds exactly the pictures that lie in the folder, and
                          every file is as written
    nothing grows         Prefect's database and the memory of server and worker, against the
                          middle of the hour
    the server is well    its log holds no error of a background service
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from operating import SMALL_TRAINING, Project, draw, sets, small

from storage.artifact import artifacts, check, open_artifact
from storage.shards import read_sidecar

SECONDS_BETWEEN_RUNS = 20
SECONDS_BETWEEN_KILLS = 45
SECONDS_TO_REST = 300
WORKER = ("prefect", "worker", "start", "--pool", "rdm")


class Soak:
    """One project, what is done to it, and what was seen."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.project = Project(folder, small)
        self.pictures = folder / "pictures"
        self.done: Counter[str] = Counter()
        self.sizes: list[dict[str, float]] = []
        draw(self.pictures, [f"first-{number:03d}" for number in range(60)])
        self.project.typed("prefect", "work-pool", "create", "rdm", "--type", "rdm")
        self.project.typed("prefect", "deploy", "--all")
        self.project.start("worker", *WORKER)
        interval = ("--interval", str(SECONDS_BETWEEN_RUNS))
        self.project.typed("prefect", "deployment", "schedule", "create", "rebuild-coco", *interval)

    def change(self) -> None:
        """Something happens to the data set."""
        files = sorted(self.pictures.iterdir())
        name = self.random.choice(["add", "add", "remove", "change", "break", "mend"])
        if name == "add":
            draw(
                self.pictures,
                [f"added-{self.random.randrange(10**6):06d}"],
                self.random.randrange(256),
            )
        elif name == "remove" and len(files) > 30:
            self.random.choice(files).unlink()
        elif name == "change":
            draw(self.pictures, [self.random.choice(files).stem], self.random.randrange(256))
        elif name == "break":
            self.random.choice(files).write_bytes(b"\x89PNG\r\n\x1a\n cut short")
        elif name == "mend":
            for broken in [path for path in files if path.stat().st_size < 40]:
                draw(self.pictures, [broken.stem])
        self.done[f"pictures: {name}"] += 1

    def harm(self) -> None:
        """Something happens to the machine."""
        name = self.random.choice(
            ["stop worker", "kill worker", "kill worker and runs", "kill server", "kill a run"]
        )
        self.done[name] += 1
        print(time.strftime("%H:%M:%S"), name, flush=True)
        if name == "stop worker":
            self.project.end("worker", signal.SIGTERM)
        elif name == "kill worker":
            self.project.end("worker", signal.SIGKILL)
        elif name == "kill server":
            self.project.end("server", signal.SIGKILL)
            time.sleep(self.random.uniform(0, 5))
            self.project.start_server()
        else:
            runs = [
                child
                for child in self.processes("worker")
                if "prefect.engine" in " ".join(child.cmdline())
            ]
            if name == "kill worker and runs":
                self.project.end("worker", signal.SIGKILL)
            for run in runs:
                run.kill()
        if "worker" not in self.project.processes:
            time.sleep(self.random.uniform(0, 5))
            self.project.start("worker", *WORKER)

    def train(self) -> None:
        """Start a training unless one is under way."""
        unfinished = {
            "flow_runs": {
                "state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING"]}}
            }
        }
        if any("train" in run["tags"] for run in self.project.runs(**unfinished)):
            return
        self.done["trainings"] += 1
        config = {
            "name": f"run-{self.done['trainings']}",
            "training": SMALL_TRAINING | {"steps": 2000},
        }
        self.project.typed("rdm", "run", "train-rdm", *sets(config))

    def measure(self, minute: float) -> None:
        """Memory of server and worker, bytes of the database."""
        sizes = {
            "minute": round(minute, 1),
            "database_megabytes": self.project.database_bytes() / 1e6,
        }
        for name in ("server", "worker"):
            main = psutil.Process(self.project.processes[name].pid)
            sizes[f"{name}_megabytes"] = main.memory_info().rss / 1e6
        self.sizes.append(sizes)
        print(json.dumps({name: round(value, 1) for name, value in sizes.items()}), flush=True)

    def processes(self, name: str) -> list[psutil.Process]:
        return psutil.Process(self.project.processes[name].pid).children(recursive=True)

    def run(self, minutes: float) -> None:
        """The hour."""
        began = time.monotonic()
        next_harm, next_change, next_measure = SECONDS_BETWEEN_KILLS, 0.0, 60.0
        while (now := time.monotonic() - began) < 60 * minutes:
            if now >= next_change:
                self.change()
                next_change = now + self.random.uniform(2, 20)
            if now >= next_harm:
                self.harm()
                next_harm = now + self.random.uniform(0.5, 1.5) * SECONDS_BETWEEN_KILLS
            if now >= next_measure:
                self.measure(now / 60)
                self.train()
                next_measure = now + 60
            time.sleep(0.5)

    def rest(self) -> list[str]:
        """Switch the schedule off and wait until nothing is to be done; the runs that are stuck, in
        words.
        """
        self.project.typed(
            "prefect", "deployment", "schedule", "clear", "rebuild-coco", "--accept-yes"
        )
        deadline = time.monotonic() + SECONDS_TO_REST
        while (waiting := self.unfinished()) and time.monotonic() < deadline:
            time.sleep(2)
        last = self.project.typed("rdm", "run", "rebuild-coco", "--json")
        self.project.ends(json.loads(last)["id"], "COMPLETED")
        return waiting

    def unfinished(self) -> list[str]:
        names = {"any_": ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING", "PAUSED"]}
        runs = self.project.asked("/flow_runs/filter", {"flow_runs": {"state": {"type": names}}})
        return [f"{run['name']} {run['state']['name']} {run['state']['message']}" for run in runs]

    def lost(self) -> list[str]:
        """What the last version does not hold of the folder, and what is damaged."""
        root = self.project.folder / "data"
        shards = open_artifact(root, "shards", "coco")
        table = [
            row for part in shards.parts for row in read_sidecar(shards, part.name).to_pylist()
        ]
        broken = {path.stem for path in self.pictures.iterdir() if path.stat().st_size < 40}
        whole = {path.stem for path in self.pictures.iterdir()} - broken
        stored = Counter(row["status"] for row in table)
        told = []
        if (stored["ok"], stored["rejected"]) != (len(whole), len(broken)):
            told.append(
                f"{len(whole)} pictures and {len(broken)} broken ones lie there, "
                f"stored are {dict(stored)}"
            )
        for artifact in artifacts(root):
            check(artifact)
        return told


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--minutes", type=float, default=60)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    soak = Soak(Path(tempfile.mkdtemp(prefix="soak-")), options.seed)
    try:
        soak.run(options.minutes)
        stuck = soak.rest()
        soak.measure(options.minutes)
        states: Counter[str] = Counter(run["state"]["name"] for run in every_run(soak.project))
        errors = soak.project.server_errors()
        figures = {
            "done": dict(soak.done),
            "runs": dict(states),
            "stuck": stuck,
            "lost": soak.lost(),
        }
        figures["failed"] = [
            run["state"]["message"]
            for run in every_run(soak.project)
            if run["state"]["type"] == "FAILED"
        ]
        figures["times_sqlite_was_busy"] = soak.project.times_busy()
        print(json.dumps(figures | {"server_errors": errors[:20], "sizes": soak.sizes}, indent=2))
        return 1 if stuck or figures["lost"] or figures["failed"] or errors else 0
    finally:
        soak.project.stop()


def every_run(project: Project) -> list[dict]:
    """Every top-level run there was; the API gives 200 at a time."""
    found: list[dict] = []
    while True:
        page = project.asked(
            "/flow_runs/filter", {"sort": "EXPECTED_START_TIME_ASC", "offset": len(found)}
        )
        found += page
        if not page:
            return [run for run in found if run["parent_task_run_id"] is None]


if __name__ == "__main__":
    sys.exit(main())
