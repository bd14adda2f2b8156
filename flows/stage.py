"""The frame every stage shares: look the artifact up, otherwise make its missing parts, then publish it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import Flow, flow
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.context import FlowRunContext, TaskRunContext
from prefect.states import Completed
from prefect.tasks import Task, exponential_backoff, task

from flows.messages import tell_causes_once
from flows.notify import tell
from flows.progress import Clock, say, track
from flows.workers import workers
from storage.artifact import Artifact, Part, Plan
from storage.build import Build, begin, finished_artifact
from storage.errors import StorageError

tell_causes_once()
P = ParamSpec("P")
R = TypeVar("R")
Wanted = Mapping[str, str]
"""Part name -> hash over all that determines the part (`storage.artifact.made_from`)."""
CACHED = "Cached"
"""Prefect's word for a run that found its result done."""
MOST_TASK_RUNS = 200
"""A flow of thousands of parts groups them, because every task run costs a row in Prefect's database."""


def stage_flow(name: str, threads: int | None = 1) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """`@flow` for a stage. threads: task runs at once on this machine; 1 where one uses every core, None: one a core."""
    told: list[Any] = [tell]
    return flow(
        name=name,
        task_runner=workers(threads),
        on_completion=told,
        on_failure=told,
        on_crashed=told,  # of cancelled and lost runs the worker tells: flows.work_pool
    )


def stage_task(name: str, **options: Any) -> Callable[[Callable[P, R]], Task[P, R]]:
    """`@task` for a stage; arguments wrapped by `whole` arrive as they were.

    The manifest is the only cache: Prefect's own would serve paths whose files are gone.
    """

    def decorated(function: Callable[P, R]) -> Task[P, R]:
        @wraps(function)
        def opened(*args: Any, **kwargs: Any) -> R:
            given = [a.value if isinstance(a, _Whole) else a for a in args]
            return function(*given, **{k: a.value if isinstance(a, _Whole) else a for k, a in kwargs.items()})

        return task(name=name, cache_policy=NO_CACHE, persist_result=False, **options)(opened)

    return decorated


def is_passing(task: Any, run: Any, state: State) -> bool:
    """Whether a failure is the network's, which may be back in a moment; any other would only come again."""
    error: BaseException | None = state.result(raise_on_failure=False)
    while error is not None:
        if isinstance(error, (ConnectionError, TimeoutError)) or type(error).__module__.split(".")[0] in _NETWORK:
            return True
        error = error.__cause__ or error.__context__
    return False


_NETWORK = {"aiohttp", "botocore", "httpcore", "httpx", "requests", "urllib3"}
NETWORK_RETRIES: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=5),
    "retry_jitter_factor": 1.0,
    "retry_condition_fn": is_passing,
}
"""For a task that fetches weights from a hub or reads and writes an object store."""
DOWNLOADS = "downloads"
"""Prefect's global limit for what fetches from the network; `prefect gcl create downloads --limit 1` makes it polite."""


def download() -> AbstractContextManager[object]:
    """Where weights are fetched: in a run under the limit, for which Prefect takes two seconds; elsewhere freely."""
    return concurrency(DOWNLOADS) if FlowRunContext.get() or TaskRunContext.get() else nullcontext()


def whole(value: R) -> R:
    """A large argument of a stage's task, handed over as it is: Prefect would look into every record of it for futures.

    Prefect's own `quote` does not survive the way to a Dask worker.
    """
    return _Whole(value)  # type: ignore[return-value]


class _Whole:
    """Something that Prefect and Dask do not look into."""

    def __init__(self, value: Any) -> None:
        self.value = value


@contextmanager
def building(root: Path, plan: Plan) -> Iterator[Build]:
    """The build of a plan, held until the block ends; says so when it waits for another run of the same build."""
    with begin(root, plan, lambda holder: say(plan.kind, plan.name, f"waits for {holder}, which builds the same")) as build:
        yield build


def ensured(stage: Flow[Any, Any], plan: Callable[..., Plan], *parameters: Any) -> Artifact:
    """What the stage returns; where it is finished already, a task finds it, and no flow run is spent on it.

    `plan(*parameters)` is the stage's plan. A flow run costs Prefect a second, a task some milliseconds.
    """
    named = look_up.with_options(task_run_name=f"look up {stage.name}")
    state: State[Any] = named(whole(plan), whole(parameters), return_state=True)
    found: Any = state.result() or stage(*parameters)
    return found


@stage_task(name="look-up", **NETWORK_RETRIES)
def look_up(plan: Callable[..., Plan], parameters: Sequence[Any]) -> Any:
    """The finished artifact in a state that Prefect shows as Cached, or None; the stage itself tells what is wrong."""
    try:
        asked = plan(*parameters)
        finished = finished_artifact(parameters[0].root, asked)
    except StorageError:
        return None
    return as_cached(finished) if finished else None


def kept(build: Build) -> Any:
    """The finished artifact that answers the request, in a state that Prefect shows as Cached."""
    assert build.finished is not None, "only called when begin() found a finished build"
    return as_cached(build.finished)


def as_cached(artifact: Artifact) -> Any:
    """Say that it is kept, and return it in a state that Prefect shows as Cached."""
    say(artifact.kind, artifact.name, f"kept {artifact.rows:,} rows ({artifact.id})")
    return Completed(name=CACHED, data=artifact)


def groups(wanted: Wanted, at_least: int = 1) -> list[Wanted]:
    """Consecutive parts, one mapping a task run: at most MOST_TASK_RUNS of them, and `at_least` so many parts in each."""
    pairs = list(wanted.items())
    size = max(at_least, -(-len(pairs) // MOST_TASK_RUNS))
    return [dict(pairs[start : start + size]) for start in range(0, len(pairs), size)]


def group_of_parts(build: Build, wanted: Wanted, work: Callable[[str], Part]) -> Any:
    """The parts of one task run in order: as an earlier run left them, or made by `work(name)`; Cached if none was made."""
    return group_in_one_go(build, wanted, lambda names: map(work, names))


def group_in_one_go(build: Build, wanted: Wanted, work: Callable[[Sequence[str]], Iterable[Part]]) -> Any:
    """The same where the parts that are not there yet are better made together: `work(names)` gives them in that order."""
    existing = {name: build.existing_part(name, origin) for name, origin in wanted.items()}
    made = iter(work([name for name, part in existing.items() if part is None]))
    parts = [part or next(made) for part in existing.values()]
    return Completed(name=CACHED, data=parts) if all(existing.values()) else parts


def gathered(build: Build, futures: Sequence[Any]) -> list[Part]:
    """The parts of every task run, in order, with a bar; the first failure ends the wait."""
    return [part for future in track(futures, len(futures), build.plan.kind, "group") for part in future.result()]


def only(artifact: Artifact, names: Iterable[str]) -> Artifact:
    """The artifact with only those of its parts: what a task run is given of a large one."""
    wanted = set(names)
    return replace(artifact, parts=tuple(part for part in artifact.parts if part.name in wanted))


def published(build: Build, parts: Sequence[Part], clock: Clock, **measured: Any) -> Artifact:
    """Commit the build and say so: rows, rejects, seconds."""
    artifact = build.commit(parts, {"seconds": clock.seconds, **measured})
    rejected = sum(count for reason, count in artifact.counts.items() if reason.startswith("rejected"))
    note = f", {rejected:,} rejected" if rejected else ""
    say(build.plan.kind, build.plan.name, f"built {artifact.rows:,} rows{note} in {clock.seconds:.1f} s ({artifact.id})")
    return artifact


def single_part(build: Build, part_name: str, write: Callable[..., tuple[int, Mapping[str, int]]]) -> list[Part]:
    """The only part of an artifact that is written in one piece: all of the plan determines it."""
    return [build.existing_part(part_name, build.plan.id) or build.write_part(part_name, build.plan.id, write)]
