"""Stages as Prefect knows them: flows and task runs, where a server is configured."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

from prefect import Flow, flow
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.states import Completed
from prefect.tasks import Task, task

from flows.run.messages import tell_causes_once
from flows.run.notify import tell
from flows.run.stage import Cached, Stage, StageTask, opened
from flows.run.workers import task_runner

CACHED = "Cached"
"""Prefect's word for a run that found its result done."""
JITTER = 1.0
"""As `flows.run.stage.Retries`: up to twice as long."""
tell_causes_once()


def flow_of(stage: Stage[..., Any]) -> Flow[..., Any]:
    """The stage as a flow: its parameters are validated, and somebody is notified of its end."""
    hooks: list[Any] = [tell]

    @wraps(stage.fn)
    def prepared(*args: Any, **kwargs: Any) -> Any:
        with stage.surroundings(args, kwargs):
            return stage.fn(*args, **kwargs)

    return flow(
        name=stage.name,
        task_runner=task_runner(stage.threads),
        on_completion=hooks,
        on_failure=hooks,
        on_crashed=hooks,  # for cancelled and lost runs the worker does it: flows.run.work_pool
    )(_stated(prepared))


def task_of(piece: StageTask[..., Any]) -> Task[..., Any]:
    """The piece as a task. The manifest is the only cache: Prefect's own would serve paths whose
    files are gone.
    """
    function = _stated(piece.fn)

    @wraps(piece.fn)
    def unwrapped(*args: Any, **kwargs: Any) -> Any:
        opened_args, opened_kwargs = opened(args, kwargs)
        return function(*opened_args, **opened_kwargs)

    def may_pass(task: Any, run: Any, state: State) -> bool:
        error: Any = state.result(raise_on_failure=False)
        return isinstance(error, BaseException) and piece.retries.when(error)

    return task(
        name=piece.name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=len(piece.retries.seconds),
        retry_delay_seconds=list(piece.retries.seconds) or None,
        retry_jitter_factor=JITTER,
        retry_condition_fn=may_pass,
    )(unwrapped)


def limited(name: str) -> AbstractContextManager[object]:
    """A place under one of the server's global limits; waits for it."""
    return concurrency(name)


def _stated(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which says of a cached result that it is one in Prefect's way."""

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if isinstance(result, Cached):
            return Completed(name=CACHED, data=result.value)
        return result

    return called
