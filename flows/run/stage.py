"""The frame every stage shares: look the artifact up, otherwise make its missing parts, then
publish it.

A stage is one function, with or without Prefect. Where a Prefect server is configured it is a flow
and its pieces are task runs (flows.run.recorded). Where none is, the same functions are called as
they are: no server is started, and Prefect is not even imported.
"""

import math
import pkgutil
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, update_wrapper
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

from flows.run.environment import inside_a_run, is_recorded, prepare, usual_numbers
from flows.run.progress import Clock, say, track
from flows.run.server import connected
from flows.run.workers import pool, submitted
from storage.artifact import Artifact
from storage.build import Build, begin, finished_artifact
from storage.errors import StorageError
from storage.manifest import Part, Plan

P = ParamSpec("P")
R = TypeVar("R")
Wanted = Mapping[str, str]
"""Part name -> hash over all that determines the part (`storage.manifest.made_from`)."""
MOST_TASK_RUNS = 200
"""A flow of thousands of parts groups them, because every task run costs a row in Prefect's
database.
"""


@dataclass(frozen=True)
class Cached:
    """A result that was done already; Prefect shows its run as Cached."""

    value: Any


@dataclass(frozen=True)
class Retries:
    """Whether a failed task is tried again, how often, and how long after."""

    when: Callable[[BaseException], bool] = lambda error: False
    seconds: tuple[float, ...] = ()
    """Before each further try; up to twice as long, so that several do not come at once."""


NO_RETRIES = Retries()


class Stage(Generic[P, R]):
    """One stage of the pipeline: called, it returns what it made. Recorded where a server is
    configured.
    """

    def __init__(self, function: Callable[P, R], name: str, threads: int | None) -> None:
        update_wrapper(self, function)
        self.fn, self.name, self.threads = function, name, threads
        self._plan: Callable[..., Plan] | None = None

    def plan(self, function: Callable[..., Plan]) -> Callable[..., Plan]:
        """Decorator of the function that makes this stage's plan of its parameters."""
        self._plan = function
        return function

    def ensured(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """What it returns; where that is finished already, a task finds it, and no flow run is
        spent on it.

        A flow run costs Prefect a second, a task some milliseconds.
        """
        assert self._plan is not None, "a stage whose plan is known"
        finished = look_up.named(f"look up {self.name}")(self._plan, args)
        return finished or self(*args, **kwargs)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it to its end. `config.root`, of its first parameter, is where it works.

        Raises what it raises, and ServerFailed when the configured server cannot be used.
        """
        with self.surroundings(args, kwargs):
            if not is_recorded():
                with pool(self.threads):
                    return uncached(self.fn(*args, **kwargs))
        if not inside_a_run():
            connected()
        return self.flow(*args, **kwargs)

    def surroundings(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> AbstractContextManager[None]:
        """What every call of it has around it, whoever calls."""
        prepare(getattr(args[0] if args else kwargs.get("config"), "root", None))
        return usual_numbers()

    @cached_property
    def flow(self) -> Any:
        """The same as a Prefect flow."""
        from flows.run.recorded import flow_of

        return flow_of(self)


class StageTask(Generic[P, R]):
    """One piece of a stage's work, tried again where that may help."""

    def __init__(self, function: Callable[P, R], name: str, retries: Retries) -> None:
        update_wrapper(self, function)
        self.fn, self.name, self.retries = function, name, retries

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Do it here and now."""
        if not is_recorded():
            return self.attempt(*args, **kwargs)
        closed_args, closed_kwargs = closed(args, kwargs)
        state = self.task(*closed_args, return_state=True, **closed_kwargs)
        return state.result()  # called plainly, it would return a cached result's state

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Do it beside others, as the stage's `threads` allow; a future, whose `result()` waits."""
        if is_recorded():
            closed_args, closed_kwargs = closed(args, kwargs)
            return self.task.submit(*closed_args, **closed_kwargs)
        return submitted(self.attempt, *args, **kwargs)

    def named(self, name: str) -> "StageTask[P, R]":
        """The same under a name of its own in Prefect."""
        return StageTask(self.fn, name, self.retries)

    def once(self) -> "StageTask[P, R]":
        """The same without a second try."""
        return StageTask(self.fn, self.name, NO_RETRIES)

    def attempt(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, again after a failure that may pass."""
        for seconds in self.retries.seconds:
            try:
                return uncached(self.fn(*args, **kwargs))
            except Exception as error:
                if not self.retries.when(error):
                    raise
                # Up to twice as long, so that several tasks do not try again all at once.
                waits = seconds * random.uniform(1, 2)
                say(self.name, "", f"{type(error).__name__}: {error}; again in {waits:.0f} s")
                time.sleep(waits)
        return uncached(self.fn(*args, **kwargs))

    @cached_property
    def task(self) -> Any:
        """The same as a Prefect task."""
        from flows.run.recorded import task_of

        return task_of(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """By name, so that a worker of a Dask cluster finds it in its own module."""
        return pkgutil.resolve_name, (f"{self.fn.__module__}:{self.fn.__qualname__}",)


def stage_flow(name: str, threads: int | None = 1) -> Callable[[Callable[P, R]], Stage[P, R]]:
    """Decorator of a stage. threads: its tasks at once on this machine; 1 where one uses every
    core, None: one a core.
    """
    return lambda function: Stage(function, name, threads)


def stage_task(
    name: str, retries: Retries = NO_RETRIES
) -> Callable[[Callable[P, R]], StageTask[P, R]]:
    """Decorator of a piece of a stage's work.

    The manifest is the only cache: Prefect's own would serve paths whose files are gone.
    """
    return lambda function: StageTask(function, name, retries)


def may_pass_if_repeated(error: BaseException | None) -> bool:
    """Whether a failure is the network's, which may be back in a moment; any other would only come
    again.
    """
    while error is not None:
        package = type(error).__module__.split(".")[0]
        if isinstance(error, (ConnectionError, TimeoutError)) or package in _NETWORK:
            return True
        # Our own errors are raised from those of the network.
        error = error.__cause__ or error.__context__
    return False


_NETWORK = {"aiohttp", "botocore", "httpcore", "httpx", "requests", "urllib3"}
NETWORK_RETRIES = Retries(may_pass_if_repeated, (5.0, 10.0, 20.0))
"""For a task that fetches weights from a hub or reads and writes an object store."""
DOWNLOADS = "downloads"
"""Prefect's global limit for what fetches from the network; `prefect gcl create downloads --limit
1` makes it polite.
"""


def download() -> AbstractContextManager[object]:
    """Where weights are fetched: in a run under the server's limit, for which Prefect takes two
    seconds; elsewhere freely.
    """
    if not is_recorded():
        return nullcontext()
    from flows.run.recorded import limited

    return limited(DOWNLOADS)


class Closed:
    """An argument of a task that Prefect and Dask do not look into for futures: they would read
    every record of a large one. Prefect's own `quote` does not survive the way to a Dask worker.
    """

    def __init__(self, value: Any) -> None:
        self.value = value


def closed(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments as a task is handed them where it is recorded."""
    return [Closed(value) for value in args], {key: Closed(value) for key, value in kwargs.items()}


def opened(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Undo `closed`."""
    return [arg.value for arg in args], {name: arg.value for name, arg in kwargs.items()}


def uncached(result: Any) -> Any:
    """What a stage or task returned, whether it was done already or not."""
    return result.value if isinstance(result, Cached) else result


@contextmanager
def building(root: Path, plan: Plan) -> Iterator[Build]:
    """The build of a plan, held until the block ends; says so when it waits for another run of the
    same build.
    """

    def say_who_holds(holder: str) -> None:
        say(plan.kind, plan.name, f"waits for {holder}, which builds the same")

    with begin(root, plan, say_who_holds) as build:
        yield build


@stage_task(name="look-up", retries=NETWORK_RETRIES)
def look_up(plan: Callable[..., Plan], parameters: Sequence[Any]) -> Any:
    """The finished artifact, Cached, or None. The stage, which runs then, says what is wrong with a
    plan.
    """
    try:
        finished = finished_artifact(parameters[0].root, plan(*parameters))
    except StorageError:
        return None
    return as_cached(finished) if finished else None


def kept(build: Build) -> Any:
    """The finished artifact that answers the request, as Cached."""
    assert build.finished is not None, "only called when begin() found a finished build"
    return as_cached(build.finished)


def as_cached(artifact: Artifact) -> Any:
    """Say that it is kept."""
    say(artifact.kind, artifact.name, f"kept {artifact.rows:,} rows ({artifact.id})")
    return Cached(artifact)


def groups(wanted: Wanted, at_least: int = 1) -> list[Wanted]:
    """Consecutive parts in groups, one group for each task run: at most MOST_TASK_RUNS groups, and
    no fewer than `at_least` parts in each but the last.
    """
    pairs = list(wanted.items())
    size = max(at_least, math.ceil(len(pairs) / MOST_TASK_RUNS))
    return [dict(pairs[start : start + size]) for start in range(0, len(pairs), size)]


def group_of_parts(build: Build, wanted: Wanted, work: Callable[[str], Part]) -> Any:
    """The parts of one task run in order: as an earlier run left them, or made by `work(name)`;
    Cached if none was made.
    """
    return group_in_one_go(build, wanted, lambda names: map(work, names))


def group_in_one_go(
    build: Build, wanted: Wanted, work: Callable[[Sequence[str]], Iterable[Part]]
) -> Any:
    """The same where the parts that are not there yet are better made together: `work(names)` gives
    them in that order.
    """
    existing = {name: build.existing_part(name, origin) for name, origin in wanted.items()}
    absent = [name for name, part in existing.items() if part is None]
    made = iter(work(absent))
    # The parts stay in the order of `wanted`, those from before and the new ones.
    parts = [part or next(made) for part in existing.values()]
    return parts if absent else Cached(parts)


def gathered(build: Build, futures: Sequence[Any]) -> list[Part]:
    """The parts of every task run, in order, with a bar; the first failure ends the wait."""
    parts: list[Part] = []
    for future in track(futures, len(futures), build.plan.kind, "group"):
        parts += future.result()
    return parts


def only(artifact: Artifact, names: Iterable[str]) -> Artifact:
    """The artifact with only those of its parts: what a task run is given of a large one."""
    wanted = set(names)
    return replace(artifact, parts=tuple(part for part in artifact.parts if part.name in wanted))


def published(build: Build, parts: Sequence[Part], clock: Clock, **measured: Any) -> Artifact:
    """Commit the build and say so: rows, rejects, seconds."""
    artifact = build.commit(parts, {"seconds": clock.seconds, **measured})
    rejected = 0
    for outcome, count in artifact.counts.items():
        if outcome.startswith("rejected"):
            rejected += count
    note = f", {rejected:,} rejected" if rejected else ""
    say(
        build.plan.kind,
        build.plan.name,
        f"built {artifact.rows:,} rows{note} in {clock.seconds:.1f} s ({artifact.id})",
    )
    return artifact


def single_part(
    build: Build,
    part_name: str,
    write: Callable[..., tuple[int, Mapping[str, int]]],
    origin: str | None = None,
) -> list[Part]:
    """A part that is written in one piece; all of the plan determines it, unless its `origin` is
    given.
    """
    origin = origin or build.plan.id
    return [build.existing_part(part_name, origin) or build.write_part(part_name, origin, write)]
