"""Runs whose process is gone: they are found and reported, their slots are freed, and they are
resumed as their deployment says.

Prefect believes a run until its process says how it ended. A process that was killed says nothing:
the run would stay `Running` for ever and hold its slot. So the worker of our work pool
(flows.run.work_pool) looks, when it starts and at every poll, whether the process of each
unfinished run still lives:

    here        by its process, unless the worker that started it lives and looks itself
                (flows.run.whereabouts)
    elsewhere   by its heartbeats: none for HEARTBEATS_MISSED_SECONDS, at two looks that far apart

Policy: a deployment with the tag `resume:3` has its lost runs resumed at most three times, each
time by a new run with the same parameters; all work is kept by the artifacts, so the new run goes
on where the lost one was.
"""

import asyncio
import os
import re
import signal
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import httpx
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
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger
from prefect.states import Cancelled, Crashed, Scheduled

from flows.run.notify import tell
from flows.run.whereabouts import Process, read_whereabouts

HEARTBEATS_MISSED_SECONDS = 300.0
"""prefect.yaml has runs send one a minute."""
PENDING_SECONDS = 120.0
"""From `Pending` to a process; only a worker that died in between takes longer."""
SECONDS_TO_END = 25.0
"""What a process gets to save its work before it is killed: a training takes up to 15."""
GONE = "its process is gone: it was killed, or its worker or its machine was stopped"
STOPPED = "its worker was stopped"
CANCELLED = "Cancelled as asked; what was done is kept."
AWAY = "Prefect's server was away while it ran"
_AWAY = re.compile(
    r"Flow run encountered an exception: "
    r"(?:ConnectError: (?:All connection attempts failed|\[Errno \d+\] Connection refused)"
    r"|RuntimeError: Failed to reach API at)"
)
"""What Prefect's own calls say in a run's process where its server does not answer; a hub's errors
we tell in our words.
"""
_ASKED_TO_END = "aborted by a termination signal"
_RESUME_TAG = re.compile(r"resume:(\d{1,3})")
_RESUMED = re.compile(r"rdm-resumed:(\d+):(?P<name>.*):[0-9a-f-]{36}")
_UNFINISHED = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
logger = get_logger("rdm.lost_runs")


def failed_without_server(state: State[Any] | None) -> bool:
    """Whether a run failed for nothing of its own, but because Prefect's server was away."""
    return (
        state is not None
        and state.type == StateType.FAILED
        and bool(_AWAY.match(state.message or ""))
    )


def ended_by_signal(state: State[Any] | None) -> bool:
    """Whether a run says that somebody asked its process to end."""
    return (
        state is not None
        and state.type == StateType.CRASHED
        and _ASKED_TO_END in (state.message or "")
    )


def times_resumed(run: FlowRun) -> int:
    """How many runs before this one were lost."""
    match = _RESUMED.fullmatch(run.idempotency_key or "")
    return int(match[1]) if match else 0


def times_allowed(run: FlowRun) -> int:
    """How often its deployment lets a lost run be resumed: the N of the tag `resume:N`; 0 without
    one.
    """
    most = 0
    for tag in run.tags:
        match = _RESUME_TAG.fullmatch(tag)
        if match:
            most = max(most, int(match[1]))
    return most


class LostRuns:
    """Looks after the runs of one work pool, for the worker that serves it."""

    def __init__(self, client: PrefectClient, pool: str) -> None:
        self._client, self._pool = client, pool
        self._silent_since: dict[Any, float] = {}
        """Runs of other machines that sent no heartbeat -> when that was first seen, by the
        monotonic clock.
        """

    async def look(self, mine: set[Any]) -> None:
        """Find lost runs and end them. `mine` are the ids of runs that this worker has started, and
        looks after itself.
        """
        runs = await self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=_in_states(_UNFINISHED)),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[self._pool])),
        )
        for ended in self._silent_since.keys() - {run.id for run in runs}:
            del self._silent_since[ended]
        for run in runs:
            try:
                if run.id not in mine and await self._is_lost(run):
                    await self._end(run)
            except httpx.TransportError:  # the server is away, for the others too
                raise
            except Exception as error:
                # one that Prefect refuses must not hide the others, nor end the worker
                logger.error(
                    "%s could not be looked after: %s: %s", run.name, type(error).__name__, error
                )

    async def _end(self, run: FlowRun) -> None:
        assert run.state is not None, "found by its state"
        if run.state.type == StateType.CANCELLING:
            await self.cancelled(run)
        elif run.state.type == StateType.PENDING:
            await self._put_back(run)
        else:
            await self.ended(run, GONE)

    async def ended(self, run: FlowRun, why: str) -> None:
        """Resume a lost run if its deployment says so, then mark it and all inside it crashed, in
        one line.
        """
        run = await self._client.read_flow_run(run.id)
        ends_of_its_own = {StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED}
        has_ended = run.state is not None and run.state.type in ends_of_its_own
        if has_ended and not failed_without_server(run.state):
            return  # it could report its end after all
        if run.state is not None and run.state.type == StateType.CANCELLING:
            await self.cancelled(run)
            return
        # First the new run, which has one key however often it is asked for: a worker that dies
        # between the two finds the old one again.
        message = f"{why[0].upper()}{why[1:]}. {await self._resume(run)}"
        logger.warning("%s: %s", run.name, message)
        await self._mark(run, Crashed(message=message))
        if run.state is None or not run.state.is_final():  # else its own process has notified
            await _notify(self._client, run, Crashed(message=message))

    async def cancelled(self, run: FlowRun) -> None:
        """End what is left of a run that was asked to cancel, and say that it is cancelled; what it
        had made is kept.
        """
        run = await self._client.read_flow_run(run.id)
        if run.state is None or not run.state.is_cancelling():
            return  # somebody has said it meanwhile
        whereabouts = read_whereabouts(run.infrastructure_pid)
        if whereabouts is not None and whereabouts.here:
            # Without a word: asked politely, it would report a crash. Its training ends with it
            # (flows.run.leash).
            await asyncio.to_thread(end_process, whereabouts.process, (signal.SIGKILL,))
        state: State[Any] = Cancelled(message=CANCELLED)
        await self._mark(run, state)
        await _notify(self._client, run, state)

    async def _is_lost(self, run: FlowRun) -> bool:
        assert run.state is not None, "found by its state"
        whereabouts = read_whereabouts(run.infrastructure_pid)
        if run.state.type == StateType.PENDING:
            begins = whereabouts is not None and whereabouts.here and whereabouts.process.lives
            return not begins and _age_seconds(run.state) > PENDING_SECONDS
        if whereabouts is None or not (whereabouts.here or whereabouts.before_restart):
            return await self._is_silent(run)
        if whereabouts.before_restart:
            return True
        if whereabouts.worker.lives and not whereabouts.is_mine:
            return False  # it looks after its run itself
        # Nobody but us can end the process of a run whose worker is gone.
        return run.state.type == StateType.CANCELLING or not whereabouts.process.lives

    async def _is_silent(self, run: FlowRun) -> bool:
        """Whether a run of another machine has sent no heartbeat twice: once may be a server that
        was away itself.
        """
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

    async def _put_back(self, run: FlowRun) -> None:
        """A run that never began goes back to where it was taken from."""
        text = "Its worker was gone before it began; it waits for the next one."
        await self._client.set_flow_run_state(run.id, Scheduled(message=text), force=True)

    async def _resume(self, run: FlowRun) -> str:
        """Start the run that goes on where this one was; says so, or why there is none."""
        done, allowed = times_resumed(run), times_allowed(run)
        if run.deployment_id is None:
            return "It belongs to no deployment, so nothing resumes it."
        if done >= allowed:
            why = (
                f"it was {done} times already" if allowed else "its deployment has no tag resume:N"
            )
            return f"Not resumed: {why}. Run it again: it continues where it stopped."
        match = _RESUMED.fullmatch(run.idempotency_key or "")
        first = match["name"] if match else run.name
        try:
            resumed = await self._client.create_flow_run_from_deployment(
                run.deployment_id,
                parameters=run.parameters,
                job_variables=run.job_variables,
                name=f"{first}-{done + 2}",
                tags=run.tags,
                idempotency_key=f"rdm-resumed:{done + 1}:{first}:{run.id}",
            )
        except (ObjectNotFound, httpx.HTTPStatusError) as error:
            code = getattr(getattr(error, "response", None), "status_code", HTTPStatus.NOT_FOUND)
            if code == HTTPStatus.NOT_FOUND:
                return "Not resumed: its deployment was deleted."
            why = f"its deployment does not take its parameters any more ({code})"
            return f"Not resumed: {why}. Run it again with those of today: it continues."
        return f"Resumed as {resumed.name} ({done + 1} of at most {allowed} times)."

    async def _mark(self, run: FlowRun, state: State[Any]) -> None:
        """Give the run its last state, and the runs and tasks inside it that had none."""
        inside = await self._client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]),
                state=_in_states(_UNFINISHED),
            )
        )
        for child in inside:
            message = f"{run.name}, which it is part of, has ended: {state.name}."
            await self._mark(child, type_of(state)(message=message))
        await self._client.set_flow_run_state(run.id, state, force=True)
        tasks = await self._client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
            task_run_filter=TaskRunFilter(
                state=TaskRunFilterState(type=TaskRunFilterStateType(any_=_UNFINISHED))
            ),
        )
        for task in tasks:
            await self._mark_task(task, state)

    async def _mark_task(self, task: TaskRun, state: State[Any]) -> None:
        ended = type_of(state)(message=f"Its flow run has ended: {state.name}.")
        await self._client.set_task_run_state(task.id, ended, force=True)


def type_of(state: State[Any]) -> Any:
    """Makes states of the same kind."""
    return Cancelled if state.type == StateType.CANCELLED else Crashed


def end_process(
    process: Process, signs: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGKILL)
) -> None:
    """Ask a process to end, wait until it has saved its work and gone, and kill its group if it
    does not.
    """
    for sign in signs:
        if not process.lives:
            return
        try:
            os.kill(process.process_id, sign)
            if sign == signal.SIGKILL:
                os.killpg(process.process_id, sign)
        except (ProcessLookupError, PermissionError):
            return
        deadline = time.monotonic() + SECONDS_TO_END
        while process.lives and time.monotonic() < deadline:
            time.sleep(0.05)


async def _notify(client: PrefectClient, run: FlowRun, state: State[Any]) -> None:
    """What the process itself would have done at its end: flows.run.notify."""
    flow: Any = await client.read_flow(run.flow_id)
    await asyncio.to_thread(tell, flow, run, state)


def _in_states(types: list[StateType]) -> FlowRunFilterState:
    return FlowRunFilterState(type=FlowRunFilterStateType(any_=types))


def _age_seconds(state: State[Any]) -> float:
    return (datetime.now(UTC) - state.timestamp).total_seconds()
