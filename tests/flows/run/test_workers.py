"""The same flows on a Dask cluster: one setting, equal fingerprints, a killed worker costs a retry
and not the run.
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect.task_runners import ThreadPoolTaskRunner

from flows.run.stage import Cached, stage_flow, stage_task
from flows.run.workers import dask_address, declares_gpus, refuse_no_address, task_runner
from rdm_core.errors import RequestError
from storage.artifact import artifacts, check

BIN = Path(sys.executable).parent
PIPELINE = """
import sys
from pathlib import Path
from flows.data.build_database import embed_images
from flows.config.database import BuildDatabase
from flows.config.images import ImportImages
from flows.data.import_images import import_images
root = Path(sys.argv[1])
import_images(ImportImages(root=root, name="s", source="shapes", size=32, encoding="png", \
count=1200, images_per_part=100))
embed_images(BuildDatabase(root=root, name="s", shards="s", \
encoder="rdm-shapes", weights="built-in"))
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(params=["alone", "recorded"])
def environment(request):
    """Without a server, and with one that is told of every task."""
    if request.param == "recorded":
        request.getfixturevalue("recorded")
    quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    # how long a lost scheduler is looked for
    quiet |= {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s"}
    quiet |= {"PREFECT_LOGGING_LEVEL": "INFO", "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO"}
    return os.environ | quiet


class Cluster:
    """A scheduler and workers in processes of their own."""

    def __init__(self, folder, environment):
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self.folder, self.environment, self.processes = folder, environment, {}
        host, port = self.address.removeprefix("tcp://").split(":")
        self.start("scheduler", "scheduler", "--host", host, "--port", port, "--no-dashboard")

    def start(self, name, *arguments):
        log = (self.folder / f"{name}.log").open("w")
        command = [str(BIN / "dask"), *arguments]
        self.processes[name] = subprocess.Popen(
            command, stdout=log, stderr=log, env=self.environment, cwd=self.folder
        )

    def worker(self, name, *more):
        alone = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--name", name, *more)
        self.start(name, "worker", self.address, *alone)

    def log(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")


@pytest.fixture
def cluster(tmp_path, environment):
    pytest.importorskip("prefect_dask", reason="the extra [dask] is not installed")
    made = Cluster(tmp_path, environment)
    made.worker("doomed")
    made.worker("plain")
    made.worker("device", "--resources", "GPU=1")
    yield made
    for process in made.processes.values():
        process.kill()
        process.wait(10)


def test_without_the_setting_task_runs_are_threads(monkeypatch):
    monkeypatch.delenv("RDM_DASK", raising=False)
    assert isinstance(task_runner(1), ThreadPoolTaskRunner)


def test_the_setting_chooses_a_cluster_and_says_what_is_missing(monkeypatch):
    dask = pytest.importorskip("prefect_dask", reason="the extra [dask] is not installed")
    monkeypatch.setenv("RDM_DASK", "tcp://127.0.0.1:1")
    assert isinstance(task_runner(1), dask.DaskTaskRunner)
    assert dask_address() == "tcp://127.0.0.1:1"
    monkeypatch.setenv("RDM_DASK", "local")
    assert dask_address() is None
    monkeypatch.setitem(sys.modules, "prefect_dask", None)
    with pytest.raises(ImportError, match=r"pip install 'rdm\[dask\]'"):
        task_runner(1)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"pip install 'rdm\[dask\]'"):
        dask_address()


@stage_task(name="counts")
def counts(values, more=0):
    return len(values) + more


@stage_task(name="breaks")
def breaks():
    raise ValueError("broken")


@stage_task(name="keeps")
def keeps(value):
    return Cached(value)


@stage_flow("counting", threads=2)
def counting(config, fails=False):
    assert keeps([1]) == keeps.submit([1]).result() == [1]
    futures = [counts.submit([1, 2, 3], more=number) for number in range(4)]
    if fails:
        futures.append(breaks.submit())
    return [future.result() for future in futures]


@pytest.mark.parametrize("where", ["alone", "recorded"])
def test_tasks_are_done_beside_each_other_and_the_first_failure_is_raised(where, request):
    if where == "recorded":
        request.getfixturevalue("recorded")
    assert counting(None) == [3, 4, 5, 6]
    with pytest.raises(ValueError, match="broken"):
        counting(None, fails=True)


@pytest.mark.parametrize(
    ("resources", "expected"), [([{}, {"GPU": 1}], True), ([{}, {"disk": 1}], False), ([], False)]
)
def test_gpus_are_taken_one_by_one_only_where_workers_declare_them(resources, expected):
    class Client:
        def scheduler_info(self, n_workers):
            return {"workers": {str(i): {"resources": r} for i, r in enumerate(resources)}}

    assert declares_gpus(Client()) is expected


@pytest.mark.long
def test_a_cluster_gives_equal_fingerprints_though_a_worker_is_killed_in_the_middle(
    cluster, tmp_path, environment
):
    on_dask = subprocess.Popen(
        [sys.executable, "-c", PIPELINE, str(tmp_path / "dask")],
        env=environment | {"RDM_DASK": cluster.address},
    )
    deadline = time.monotonic() + 120
    while (
        not list((tmp_path / "dask").glob("shards/*/*/.build/*.part.json"))
        and time.monotonic() < deadline
    ):
        assert on_dask.poll() is None
        time.sleep(0.05)
    cluster.processes["doomed"].kill()  # every worker is at it by now
    half_done = not list((tmp_path / "dask").glob("shards/*/*/manifest.json"))
    on_threads = subprocess.run(
        [sys.executable, "-c", PIPELINE, str(tmp_path / "threads")], env=environment, timeout=180
    )
    assert on_threads.returncode == 0 and on_dask.wait(180) == 0
    assert half_done, "the worker was killed after the import had ended"
    found = {
        name: {a.kind: a.fingerprint for a in artifacts(tmp_path / name)}
        for name in ("dask", "threads")
    }
    assert set(found["dask"]) == {"shards", "embeddings"} and found["dask"] == found["threads"]
    for artifact in artifacts(tmp_path / "dask"):
        check(artifact)
    assert "embed-parts" in cluster.log("device") and "embed-parts" not in cluster.log("plain")
    assert "import-parts" in cluster.log("plain")
    assert "name: doomed" in cluster.log("scheduler"), "it was one of the workers"


@pytest.mark.long
def test_a_run_whose_scheduler_is_gone_ends_with_an_error_and_goes_on_where_it_stopped(
    cluster, tmp_path, environment
):
    root = tmp_path / "left"
    command = [sys.executable, "-c", PIPELINE, str(root)]
    on_dask = subprocess.Popen(
        command, env=environment | {"RDM_DASK": cluster.address}, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(root.glob("shards/*/*/.build/*.part.json")) and time.monotonic() < deadline:
        assert on_dask.poll() is None
        time.sleep(0.05)
    cluster.processes["scheduler"].kill()
    _, told = on_dask.communicate(timeout=180)
    assert on_dask.returncode != 0 and not list(root.glob("*/*/*/manifest.json")), told[-2000:]
    finished = {path.name for path in root.glob("shards/*/*/.build/*.part.json")}
    assert finished, "what was finished is still there"
    assert subprocess.run(command, env=environment, timeout=180).returncode == 0
    assert {artifact.kind for artifact in artifacts(root)} == {"shards", "embeddings"}
    for artifact in artifacts(root):
        check(artifact)


@pytest.mark.parametrize(
    "stated", ["yes", "LOCAL", "local ", "tcp://", "tcp://host", "host", "host:", "a b:1"]
)
@pytest.mark.parametrize("asked", [dask_address, task_runner], ids=["alone", "recorded"])
def test_a_cluster_that_is_no_address_is_refused_by_name(stated, asked, monkeypatch):
    monkeypatch.setenv("RDM_DASK", stated)
    with pytest.raises(
        RequestError,
        match="RDM_DASK=.*neither local nor the address of a scheduler.*tcp://host:8786",
    ):
        asked()


@pytest.mark.parametrize(
    "stated", ["local", "tcp://127.0.0.1:8786", "host:8786", "tls://[::1]:8786", "tcp://a:1/"]
)
def test_a_cluster_that_is_an_address_is_not_refused(stated):
    refuse_no_address(stated)
