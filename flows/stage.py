"""The frame every stage shares: look the artifact up, otherwise make its missing parts, then publish it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.states import Completed
from prefect.tasks import task

from flows.progress import Clock, say, track
from storage.artifact import Artifact, Part, Plan
from storage.build import Build, begin

Wanted = Mapping[str, str]
"""Part name -> hash over all that determines the part (`storage.artifact.made_from`)."""
CACHED = "Cached"
"""Prefect's word for a run that found its result done."""
MOST_TASK_RUNS = 200
"""A flow of thousands of parts groups them, because every task run costs a row in Prefect's database."""

# The manifest is the only cache: Prefect's own would serve paths whose files are gone.
stage_task = task(cache_policy=NO_CACHE, persist_result=False)


@contextmanager
def building(root: Path, plan: Plan) -> Iterator[Build]:
    """The build of a plan, held until the block ends; says so when it waits for another run of the same build."""
    with begin(root, plan, lambda holder: say(plan.kind, plan.name, f"waits for {holder}, which builds the same")) as build:
        yield build


def kept(build: Build) -> Any:
    """Say that the finished artifact answers the request, and return it in a state that Prefect shows as Cached."""
    assert build.finished is not None, "only called when begin() found a finished build"
    say(build.plan.kind, build.plan.name, f"kept {build.finished.rows:,} rows ({build.finished.id})")
    return Completed(name=CACHED, data=build.finished)


def groups(wanted: Wanted) -> list[Wanted]:
    """Consecutive parts, one mapping a task run, at most MOST_TASK_RUNS of them."""
    pairs = list(wanted.items())
    size = max(1, -(-len(pairs) // MOST_TASK_RUNS))
    return [dict(pairs[start : start + size]) for start in range(0, len(pairs), size)]


def group_of_parts(build: Build, wanted: Wanted, work: Callable[[str], Part]) -> Any:
    """The parts of one task run in order: as an earlier run left them, or made by `work(name)`; Cached if none was made."""
    existing = {name: build.existing_part(name, origin) for name, origin in wanted.items()}
    parts = [part or work(name) for name, part in existing.items()]
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
