"""The worker of our pool, without a server: what it does when asked to stop, and after a run."""

import asyncio
import os
import signal
import tempfile
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from prefect.exceptions import InfrastructureNotAvailable
from prefect.states import Cancelling, Completed, Failed, Running
from prefect.workers.base import BaseWorker
from prefect.workers.process import ProcessWorker, ProcessWorkerResult

from flows.run import work_pool
from flows.run.lost_runs import AWAY, GONE, STOPPED
from flows.run.whereabouts import Process, process_of, whereabouts_of
from flows.run.work_pool import RDMWorker

NOBODY = Process(2**22 - 1, "gone")


class LostRuns:
    """Notes who was looked after, and how."""

    def __init__(self):
        self.noted = []

    async def look(self, mine):
        self.noted.append(("look", mine))

    async def ended(self, run, why):
        self.noted.append(("ended", run.id, why))

    async def cancelled(self, run):
        self.noted.append(("cancelled", run.id))


class Client:
    """Knows the state of every run."""

    def __init__(self, state):
        self.state = state

    async def read_flow_run(self, run_id):
        return SimpleNamespace(id=run_id, state=self.state)


@pytest.fixture
def worker(monkeypatch):
    """A worker that has not begun; `exits` are the ends it would have come to."""
    made = RDMWorker(work_pool_name="rdm", name="one")
    made.exits, made.said = [], []
    monkeypatch.setattr(work_pool.os, "_exit", made.exits.append)
    made._printer = made.said.append
    made._client = Client(Running())
    made.__dict__["_lost_runs"] = LostRuns()
    return made


def test_prefect_finds_the_worker_by_the_type_of_its_pool_and_tells_what_it_does(worker):
    assert BaseWorker.get_worker_class_from_type("rdm") is type(worker)
    assert (worker.type, worker._display_name) == ("rdm", "rdm")
    told = "Processes on the worker's machine; lost runs are found, told and resumed."
    assert worker.get_description() == told


def test_its_lost_runs_are_those_of_its_pool(worker):
    del worker.__dict__["_lost_runs"]
    looks = worker._lost_runs
    assert looks is worker._lost_runs
    assert (looks._client, looks._pool) == (worker._client, "rdm")


# Asked to stop


def test_a_worker_without_runs_ends_as_soon_as_it_is_asked(worker):
    async def asked():
        ended = asyncio.get_running_loop().create_future()
        worker._asked_to_stop(SimpleNamespace(cancel=lambda: ended.set_result("cancelled")))
        return await asyncio.wait_for(ended, 5)

    assert asyncio.run(asked()) == "cancelled"
    assert worker.said == ["Asked to stop; 0 runs save their work and end."]
    assert worker._lost_runs.noted == [] and worker.exits == []
    assert asyncio.run(worker.get_and_submit_flow_runs()) == [], "it takes no run any more"


def test_a_worker_that_is_asked_ends_its_runs_marks_them_and_then_goes(worker, monkeypatch):
    ended = []

    def end(process):
        ended.append(process)
        worker._processes.clear()  # as their supervisors do, that see them end

    monkeypatch.setattr(work_pool, "end_process", end)
    worker._processes["a"] = NOBODY

    async def asked():
        gone = asyncio.get_running_loop().create_future()
        worker._asked_to_stop(SimpleNamespace(cancel=lambda: gone.set_result(None)))
        await asyncio.wait_for(gone, 5)

    asyncio.run(asked())
    assert worker.said == ["Asked to stop; 1 runs save their work and end."]
    assert ended == [NOBODY] and worker._lost_runs.noted == [("ended", "a", STOPPED)]


def test_a_run_that_cannot_be_marked_keeps_no_worker(worker, monkeypatch):
    def refused(process):
        raise PermissionError("not yours")

    monkeypatch.setattr(work_pool, "end_process", refused)
    worker._processes["a"] = NOBODY
    gone = []
    asyncio.run(worker._end_then(lambda: gone.append("gone")))
    assert gone == ["gone"] and worker._lost_runs.noted == []


def test_a_worker_that_is_asked_twice_kills_what_still_runs(worker, monkeypatch):
    killed = []
    monkeypatch.setattr(work_pool.os, "killpg", lambda *given: killed.append(given))
    worker._processes["a"] = Process(12345, "1")
    worker._stopping = True

    async def asked():
        worker._asked_to_stop(None)

    asyncio.run(asked())
    assert killed == [(12345, signal.SIGKILL)] and worker.said == []


# Looking for lost runs


@pytest.mark.parametrize("error", [None, httpx.ConnectError("away"), ValueError("refused")])
def test_runs_are_taken_after_lost_ones_were_looked_for_whatever_came_of_that(
    worker, error, monkeypatch
):
    looked = []

    async def look(mine):
        looked.append(mine)
        if error:
            raise error

    async def taken(self):
        return ["a run"]

    worker._lost_runs.look = look
    monkeypatch.setattr(ProcessWorker, "get_and_submit_flow_runs", taken)
    assert asyncio.run(worker.get_and_submit_flow_runs()) == ["a run"] and looked == []
    worker._has_successfully_synced = True
    worker._processes["mine"] = NOBODY
    worker._submitting_flow_run_ids.add("begins")
    assert asyncio.run(worker.get_and_submit_flow_runs()) == ["a run"]
    assert looked == [{"mine", "begins"}], "these it looks after itself"


# After a run


BY_SIGNAL = Failed(message="by itself")
OF_PREFECT = Failed(
    message="Flow run encountered an exception: RuntimeError: Failed to reach API at x"
)


@pytest.mark.parametrize(
    ("code", "state", "stopping", "noted", "told"),
    [
        (0, Completed(), False, [], 0),
        (1, BY_SIGNAL, False, [], 1),
        (-9, Running(), False, [("ended", "a", GONE)], 0),
        (-15, Running(), False, [("ended", "a", GONE)], 0),
        (137, Running(), False, [("ended", "a", GONE)], 0),
        (143, Running(), False, [("ended", "a", GONE)], 0),
        (-11, Running(), False, [], -11),
        (1, OF_PREFECT, False, [("ended", "a", AWAY)], 1),
        (-9, Running(), True, [], -9),
    ],
)
def test_a_run_that_a_signal_or_the_server_ended_is_a_lost_one_and_any_other_is_as_it_says(
    worker, code, state, stopping, noted, told, monkeypatch
):
    began = []

    async def run(self, flow_run, configuration, task_status):
        task_status.started(os.getpid())
        began.append(dict(self._processes))
        return ProcessWorkerResult(status_code=code, identifier="somewhere")

    monkeypatch.setattr(ProcessWorker, "run", run)
    worker._client, worker._stopping = Client(state), stopping
    reported = []
    status = SimpleNamespace(started=reported.append)
    result = asyncio.run(worker.run(SimpleNamespace(id="a"), None, status))
    assert (result.status_code, result.identifier) == (told, "somewhere")
    assert worker._lost_runs.noted == noted
    assert began == [{"a": process_of(os.getpid())}] and worker._processes == {}
    assert reported == [str(whereabouts_of(os.getpid()))], (
        "Prefect is told the place, not the bare id"
    )


@pytest.mark.parametrize(
    ("state", "noted"), [(Cancelling(), [("cancelled", "a")]), (Running(), [])]
)
def test_a_cancelled_run_is_told_as_soon_as_its_process_is_gone(worker, state, noted):
    worker._client = Client(state)
    asyncio.run(worker._cancelled_in_time(SimpleNamespace(id="a"), NOBODY))
    assert worker._lost_runs.noted == noted


def test_only_a_process_of_this_machine_is_ended(worker, monkeypatch):
    ended = []
    monkeypatch.setattr(work_pool, "end_process", ended.append)
    for elsewhere in ("host:1:7", str(whereabouts_of(1)).replace("/", "-x/", 1)):
        with pytest.raises(InfrastructureNotAvailable, match=f"^{elsewhere} is on another machine"):
            asyncio.run(worker.kill_infrastructure(elsewhere, None))
    asyncio.run(worker.kill_infrastructure(str(whereabouts_of(os.getpid())), None))
    assert ended == [process_of(os.getpid())]


# Its workspaces


def test_its_workspaces_lie_in_a_folder_of_its_own_and_those_of_killed_workers_go(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    namespace = work_pool.this_system().rpartition("/")[2]
    folders = {
        "of a killed worker": f"rdm-worker-{namespace}-{2**22 - 1}-abc",
        "of a living worker": f"rdm-worker-{namespace}-{os.getpid()}-abc",
        "of another container": f"rdm-worker-{namespace}0-{2**22 - 1}-abc",
        "of nobody we know": f"rdm-worker-{namespace}-old-abc",
    }
    for folder in folders.values():
        (tmp_path / folder / "inside").mkdir(parents=True)
    with work_pool._workspaces_of_our_own():
        own = Path(tempfile.gettempdir())
        prefix = f"rdm-worker-{namespace}-{os.getpid()}-"
        assert own.parent == tmp_path and own.name.startswith(prefix) and own.is_dir()
        left = {what for what, folder in folders.items() if (tmp_path / folder).exists()}
    assert left == {*folders} - {"of a killed worker"}
    assert tempfile.tempdir == str(tmp_path) and not own.exists()


def test_a_folder_that_a_run_still_works_in_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    namespace = work_pool.this_system().rpartition("/")[2]
    used = tmp_path / f"rdm-worker-{namespace}-{2**22 - 1}-abc" / "inside"
    used.mkdir(parents=True)
    monkeypatch.chdir(used)
    with work_pool._workspaces_of_our_own():
        assert used.is_dir()
