"""The worker of our work pool: Prefect's process worker, which also looks after runs whose process
is gone.

    prefect work-pool create rdm --type rdm
    prefect worker start --pool rdm

Differences from a pool of type `process`: lost runs are found and resumed (flows.run.lost_runs); a
worker that is asked to stop (SIGTERM, as systemd does, or Ctrl-C) lets its runs save their work and
end instead of waiting for them for days; a run says on which machine its process is. Prefect finds
the class through the entry point in pyproject.toml.
"""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import httpx
import psutil
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import InfrastructureNotAvailable
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult

from flows.run.lost_runs import (
    AWAY,
    GONE,
    SECONDS_TO_END,
    STOPPED,
    LostRuns,
    end_process,
    ended_by_signal,
    failed_without_server,
)
from flows.run.whereabouts import Process, process_of, read_whereabouts, this_system, whereabouts_of

SECONDS_FOR_A_START = 5.0
"""What a run that is just being started gets to have a process, when the worker is asked to stop.
"""
SECONDS_FOR_A_GOODBYE = 10.0
SECONDS_BETWEEN_LOOKS = 0.5
ENDED_BY_SIGNAL = {-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGKILL, 128 + signal.SIGTERM}
"""Exit codes of a process that somebody else ended; an error of its own would only come again."""


class RDMWorker(ProcessWorker):
    """Runs flows as processes of this machine, and looks after those whose process is gone."""

    type = "rdm"
    _display_name = "rdm"
    _description = "Processes on the worker's machine; lost runs are found, told and resumed."

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._processes: dict[Any, Process] = {}
        """Run -> process, of the runs this worker is at."""
        self._watches: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._printer: Callable[..., None] = print

    @cached_property
    def _lost_runs(self) -> LostRuns:
        return LostRuns(self.client, self._work_pool_name)

    async def start(
        self,
        run_once: bool = False,
        with_healthcheck: bool = False,
        printer: Callable[..., None] = print,
    ) -> None:
        """As Prefect's, but SIGTERM and SIGINT end the runs in order before the worker ends
        itself.
        """
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"
        self._printer = printer
        with _workspaces_of_our_own():
            await self._start(task, run_once, with_healthcheck)

    async def _start(
        self, task: asyncio.Task[None], run_once: bool, with_healthcheck: bool
    ) -> None:
        # not in the main thread: somebody else stops us
        with suppress(ValueError, RuntimeError, NotImplementedError):
            for sign in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(sign, self._asked_to_stop, task)
        try:
            await super().start(run_once, with_healthcheck, self._printer)
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            task.uncancel()
            self._printer(f"Worker {self.name!r} stopped!")

    def _asked_to_stop(self, task: asyncio.Task[None]) -> None:
        loop = asyncio.get_running_loop()
        if self._stopping:  # asked twice: at once
            for process in self._processes.values():
                with suppress(ProcessLookupError):
                    os.killpg(process.process_id, signal.SIGKILL)
            loop.call_later(SECONDS_FOR_A_GOODBYE, os._exit, 1)
            return
        self._stopping = True
        self._printer(f"Asked to stop; {len(self._processes)} runs save their work and end.")
        # Whatever happens: Prefect would wait for a server that is away, and for the hooks of its
        # runs.
        loop.call_later(
            SECONDS_FOR_A_START + SECONDS_TO_END + 3 * SECONDS_FOR_A_GOODBYE, os._exit, 1
        )
        self._end = loop.create_task(self._end_then(task.cancel))

    async def _end_then(self, go: Callable[[], Any]) -> None:
        """End every run of this worker, mark and resume it, then `go`."""
        try:
            for _ in range(int(10 * SECONDS_FOR_A_START)):
                if not self._submitting_flow_run_ids:
                    break
                await asyncio.sleep(0.1)
            endings = [
                self._end_run(run, process) for run, process in list(self._processes.items())
            ]
            for result in await asyncio.gather(*endings, return_exceptions=True):
                if isinstance(result, BaseException):  # the next worker finds it
                    self._logger.error(
                        "A run could not be marked: %s %s", type(result).__name__, result
                    )
        finally:
            asyncio.get_running_loop().call_later(SECONDS_FOR_A_GOODBYE, os._exit, 0)  # all is said
            go()

    async def _end_run(self, run_id: Any, process: Process) -> None:
        await asyncio.to_thread(end_process, process)
        # until its supervisor has seen it, and said what it saw
        for _ in range(int(10 * SECONDS_FOR_A_GOODBYE)):
            if run_id not in self._processes:
                break
            await asyncio.sleep(0.1)
        async with asyncio.timeout(SECONDS_FOR_A_GOODBYE):
            await self._lost_runs.ended(await self.client.read_flow_run(run_id), STOPPED)

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Look after lost runs, then take new ones, unless the worker is about to stop."""
        if self._stopping:
            return []
        if self._has_successfully_synced:
            try:
                await self._lost_runs.look({*self._processes, *self._submitting_flow_run_ids})
            except httpx.TransportError as error:
                # the server is away; taking runs will say so, and wait
                self._logger.debug("Lost runs were not looked for: %s", error)
            except Exception as error:  # whatever Prefect answers: runs are taken all the same
                self._logger.error(
                    "Lost runs were not looked for: %s: %s", type(error).__name__, error
                )
        return [] if self._stopping else await super().get_and_submit_flow_runs()

    async def run(
        self, flow_run: FlowRun, configuration: ProcessJobConfiguration, task_status: Any = None
    ) -> ProcessWorkerResult:
        """As Prefect's; a run whose process was ended by a signal nobody here sent is a lost
        one.
        """
        began: Any = _WithPlace(task_status, partial(self._began, flow_run))
        try:
            result = await super().run(flow_run, configuration, began)
        finally:
            self._processes.pop(flow_run.id, None)
        if self._stopping:
            return result
        state = (await self.client.read_flow_run(flow_run.id)).state
        if result.status_code in ENDED_BY_SIGNAL or ended_by_signal(state):
            await self._lost_runs.ended(flow_run, GONE)
            return ProcessWorkerResult(status_code=0, identifier=result.identifier)  # all is said
        if failed_without_server(state):
            await self._lost_runs.ended(flow_run, AWAY)
        return result

    def _began(self, flow_run: FlowRun, process_id: int) -> None:
        process = self._processes[flow_run.id] = process_of(process_id)
        watch = asyncio.get_running_loop().create_task(self._cancelled_in_time(flow_run, process))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)

    async def _cancelled_in_time(self, flow_run: FlowRun, process: Process) -> None:
        """Say that a run is cancelled as soon as its process is gone: Prefect first starts another
        process for hooks.
        """
        while process.lives:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
        with suppress(httpx.HTTPError):  # the server is away: Prefect's own way comes later
            run = await self.client.read_flow_run(flow_run.id)
            if run.state is not None and run.state.is_cancelling():
                await self._lost_runs.cancelled(run)

    async def kill_infrastructure(
        self,
        infrastructure_pid: str,
        configuration: ProcessJobConfiguration,
        grace_seconds: int = 30,
    ) -> None:
        """End the process of a run that could not be cancelled; Prefect asks for it after five
        minutes.

        Raises InfrastructureNotAvailable for a process of another machine.
        """
        whereabouts = read_whereabouts(infrastructure_pid)
        if whereabouts is None or not whereabouts.here:
            raise InfrastructureNotAvailable(f"{infrastructure_pid} is on another machine")
        await asyncio.to_thread(end_process, whereabouts.process)


@contextmanager
def _workspaces_of_our_own() -> Iterator[None]:
    """Let Prefect make its workspaces in a directory of this worker's; what killed workers have
    left of theirs goes.
    """
    before, parent = tempfile.tempdir, Path(tempfile.gettempdir())
    namespace, process_id = this_system().rpartition("/")[2], os.getpid()
    for left in parent.glob(f"rdm-worker-{namespace}-*"):
        its_worker = left.name.split("-")[3]
        gone = its_worker.isdigit() and not psutil.pid_exists(int(its_worker))
        if gone and not left.is_symlink() and not _is_in_use(left):
            shutil.rmtree(left, ignore_errors=True)  # another user's stays
    # A name that nobody can have made before us.
    own = Path(tempfile.mkdtemp(prefix=f"rdm-worker-{namespace}-{process_id}-"))
    tempfile.tempdir = str(own)
    try:
        yield
    finally:
        tempfile.tempdir = before
        shutil.rmtree(own, ignore_errors=True)


def _is_in_use(directory: Path) -> bool:
    """Whether a process works there: a run may outlive the worker that started it."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(directory):
                return True
    return False


class _WithPlace:
    """Prefect's `task_status`, which is told the place of a process instead of its bare id."""

    def __init__(self, inner: Any, started: Callable[[int], None]) -> None:
        self._inner, self._started = inner, started

    def started(self, process_id: int) -> None:
        """Takes the id of the process that has begun."""
        self._started(process_id)
        if self._inner is not None:
            self._inner.started(str(whereabouts_of(process_id)))
