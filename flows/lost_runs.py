"""Runs whose process is gone: found, told, their slots freed, and resumed as their deployment says.

Prefect believes a run until its process says how it ended. A process that was killed says nothing: the run would stay
`Running` for ever and hold its slot. So the worker of our work pool (flows.work_pool) looks, when it starts and at every
poll, whether the process of each unfinished run still lives:

    on this machine   by its process id and the run's id in its environment
    on another one    by the run's heartbeats: none for HEARTBEATS_MISSED_SECONDS, at two looks that far apart

Policy: a deployment with the tag `resume:3` has its lost runs resumed at most three times, each time by a new run with the
same parameters; all work is kept by the artifacts, so the new run goes on where the lost one was.
"""

import asyncio
import os
import re
import signal
import socket
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, TaskRun
from prefect.events.filters import (
    EventFilter,
    EventNameFilter,
    EventOccurredFilter,
    EventResourceFilter,
)
from prefect.logging import get_logger
from prefect.states import Cancelled, Crashed, Scheduled

from flows.notify import tell

HEARTBEATS_MISSED_SECONDS = 300.0
"""prefect.yaml has runs send one a minute."""
PENDING_SECONDS = 120.0
"""From `Pending` to a process; only a worker that died in between takes longer."""
SECONDS_TO_END = 25.0
"""What a process gets to save its work before it is killed: a training takes up to 15."""
GONE = "its process is gone: it was killed, or its worker or its machine was stopped"
STOPPED = "its worker was stopped"
AWAY = "Prefect's server was away while it ran"
_AWAY = re.compile(r"ConnectError: All connection attempts failed|Failed to reach API at")
"""What Prefect's own calls say in a run's process where its server does not answer."""
_RESUME_TAG = re.compile(r"resume:(\d{1,3})")
_RESUMED = re.compile(r"rdm-resumed:(\d+):(?P<name>.*):[0-9a-f-]{36}")
_UNFINISHED = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
logger = get_logger("rdm.lost_runs")


def place_of(process_id: int) -> str:
    """Host, process namespace and id of a process on this machine: what a run's `infrastructure_pid` says.

    Two containers may share a host's name, and each has a process 7: the namespace tells them apart.
    """
    return f"{socket.gethostname()}:{_namespace()}:{process_id}"


def process_at(place: str | None) -> int | None:
    """The process id of a place on this machine; None for another machine, another namespace or no place at all."""
    host, _, process_id = (place or "").rpartition(":")
    ours = host == f"{socket.gethostname()}:{_namespace()}"
    return int(process_id) if ours and process_id.isdigit() else None


def lives(process_id: int, run_id: object) -> bool:
    """Whether that process of this machine still works on the run: ids of processes are used again after a restart."""
    try:
        process = psutil.Process(process_id)
        zombie = process.status() == psutil.STATUS_ZOMBIE
        return not zombie and process.environ().get("PREFECT__FLOW_RUN_ID") == str(run_id)
    except psutil.AccessDenied:  # another user's: it is there, and nobody can say more
        return True
    except psutil.NoSuchProcess:
        return False


def failed_without_server(state: State[Any] | None) -> bool:
    """Whether a run failed for nothing of its own, but because Prefect's server was away."""
    return state is not None and state.type == StateType.FAILED and bool(_AWAY.search(state.message or ""))


def times_resumed(run: FlowRun) -> int:
    """How many runs before this one were lost."""
    match = _RESUMED.fullmatch(run.idempotency_key or "")
    return int(match[1]) if match else 0


def times_allowed(run: FlowRun) -> int:
    """How often its deployment lets a lost run be resumed: the N of the tag `resume:N`; 0 without one."""
    allowed = (_RESUME_TAG.fullmatch(tag) for tag in run.tags)
    return max((int(match[1]) for match in allowed if match), default=0)


class LostRuns:
    """Looks after the runs of one work pool, for the worker that serves it."""

    def __init__(self, client: PrefectClient, pool: str) -> None:
        self._client, self._pool = client, pool
        self._silent_since: dict[Any, float] = {}
        """Runs of other machines that sent no heartbeat -> when that was first seen, by the monotonic clock."""

    async def look(self, mine: set[Any]) -> None:
        """Find lost runs and end them; `mine` are the ids of runs that this worker is at, and looks after itself."""
        runs = await self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=_in_states(_UNFINISHED)),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[self._pool])),
        )
        self._silent_since = {
            run: since for run, since in self._silent_since.items() if run in {r.id for r in runs}
        }
        for run in runs:
            if run.id in mine or not await self._is_lost(run):
                continue
            assert run.state is not None, "found by its state"
            if run.state.type == StateType.CANCELLING:
                await self.cancelled(run)
            elif run.state.type == StateType.PENDING:
                await self._back(run)
            else:
                await self.ended(run, GONE)

    async def ended(self, run: FlowRun, why: str) -> None:
        """Resume a lost run if its deployment says so, then mark it and all inside it crashed, in one line."""
        run = await self._client.read_flow_run(run.id)
        told = {StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED}
        if run.state is not None and run.state.type in told and not failed_without_server(run.state):
            return  # it could tell its end after all
        if run.state is not None and run.state.type == StateType.CANCELLING:
            await self.cancelled(run)
            return
        # First the new run, which has one key however often it is asked for: a worker that dies between the two finds
        # the old one again.
        message = f"{why[0].upper()}{why[1:]}. {await self._resume(run)}"
        logger.warning("%s: %s", run.name, message)
        await self._mark(run, Crashed(message=message))
        if run.state is None or run.state.type != StateType.CRASHED:  # else the process has told it itself
            await _told(self._client, run, Crashed(message=message))

    async def cancelled(self, run: FlowRun) -> None:
        """End what is left of a run that was asked to cancel, and say that it is cancelled; what it had made is kept."""
        process_id = process_at(run.infrastructure_pid)
        if process_id is not None and lives(process_id, run.id):
            # Without a word: asked politely, it would report a crash. Its training ends with it (flows.leash).
            await asyncio.to_thread(end_process, process_id, (signal.SIGKILL,))
        state: State[Any] = Cancelled(message="Cancelled as asked; what was done is kept.")
        await self._mark(run, state)
        await _told(self._client, run, state)

    async def _is_lost(self, run: FlowRun) -> bool:
        assert run.state is not None, "found by its state"
        if run.state.type == StateType.PENDING and not run.infrastructure_pid:
            return _age_seconds(run.state) > PENDING_SECONDS
        process_id = process_at(run.infrastructure_pid)
        if process_id is not None:
            # Nobody but us can end the process of a run whose worker is gone.
            return run.state.type == StateType.CANCELLING or not lives(process_id, run.id)
        return await self._is_silent(run)

    async def _is_silent(self, run: FlowRun) -> bool:
        """Whether a run of another machine has sent no heartbeat twice: once may be a server that was away itself."""
        since = datetime.now(UTC) - timedelta(seconds=HEARTBEATS_MISSED_SECONDS)
        assert run.state is not None, "found by its state"
        if _age_seconds(run.state) < HEARTBEATS_MISSED_SECONDS or await self._beats(run, since):
            self._silent_since.pop(run.id, None)
            return False
        first = self._silent_since.setdefault(run.id, time.monotonic())
        return time.monotonic() - first > HEARTBEATS_MISSED_SECONDS

    async def _beats(self, run: FlowRun, since: datetime) -> bool:
        heard = await self._client.read_events(
            EventFilter(
                event=EventNameFilter(name=["prefect.flow-run.heartbeat"]),
                resource=EventResourceFilter(id=[f"prefect.flow-run.{run.id}"]),
                occurred=EventOccurredFilter(since=since),
            ),
            limit=1,
        )
        return bool(heard.events)

    async def _back(self, run: FlowRun) -> None:
        """A run that never began goes back to where it was taken from."""
        text = "Its worker was gone before it began; it waits for the next one."
        await self._client.set_flow_run_state(run.id, Scheduled(message=text), force=True)

    async def _resume(self, run: FlowRun) -> str:
        """Start the run that goes on where this one was; says so, or why there is none."""
        done, allowed = times_resumed(run), times_allowed(run)
        if run.deployment_id is None:
            return "It belongs to no deployment, so nothing resumes it."
        if done >= allowed:
            why = f"it was {done} times already" if allowed else "its deployment has no tag resume:N"
            return f"Not resumed: {why}. Run it again: it continues where it stopped."
        match = _RESUMED.fullmatch(run.idempotency_key or "")
        first = match["name"] if match else run.name
        resumed = await self._client.create_flow_run_from_deployment(
            run.deployment_id,
            parameters=run.parameters,
            job_variables=run.job_variables,
            name=f"{first}-{done + 2}",
            tags=run.tags,
            idempotency_key=f"rdm-resumed:{done + 1}:{first}:{run.id}",
        )
        return f"Resumed as {resumed.name} ({done + 1} of at most {allowed} times)."

    async def _mark(self, run: FlowRun, state: State[Any]) -> None:
        """Give the run its last state, and the runs and tasks inside it that had none."""
        inside = await self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]), state=_in_states(_UNFINISHED)
            )
        )
        for child in inside:
            await self._mark(child, type_of(state)(message=f"{run.name}, which it is part of, has ended: {state.name}."))
        await self._client.set_flow_run_state(run.id, state, force=True)
        tasks = await self._client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
            task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=_UNFINISHED))),
        )
        for task in tasks:
            await self._mark_task(task, state)

    async def _mark_task(self, task: TaskRun, state: State[Any]) -> None:
        told = type_of(state)(message=f"Its flow run has ended: {state.name}.")
        await self._client.set_task_run_state(task.id, told, force=True)


def type_of(state: State[Any]) -> Any:
    """Makes states of the same kind."""
    return Cancelled if state.type == StateType.CANCELLED else Crashed


def end_process(process_id: int, signs: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGKILL)) -> None:
    """Ask a process to end, wait until it has saved its work and gone, and kill its group if it does not."""
    for sign in signs:
        try:
            process = psutil.Process(process_id)
            process.send_signal(sign)
            if sign == signal.SIGKILL:
                os.killpg(process_id, sign)
        except (psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            return
        if _is_gone_within(process, SECONDS_TO_END):
            return


def _is_gone_within(process: psutil.Process, seconds: float) -> bool:
    """Without reaping it, if it is a child of ours: that is for whoever started it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


async def _told(client: PrefectClient, run: FlowRun, state: State[Any]) -> None:
    """What the process itself would have done at its end: flows.notify."""
    flow: Any = await client.read_flow(run.flow_id)
    await asyncio.to_thread(tell, flow, run, state)


def _in_states(types: list[StateType]) -> FlowRunFilterState:
    return FlowRunFilterState(type=FlowRunFilterStateType(any_=types))


def _age_seconds(state: State[Any]) -> float:
    return (datetime.now(UTC) - state.timestamp).total_seconds()


def _namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino
