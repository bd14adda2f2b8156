"""The frame every stage shares: look the artifact up, otherwise make its missing parts, then publish it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.tasks import task

from flows.progress import Clock, say, track
from storage.artifact import Artifact, Build, Part

# The manifest is the only cache: Prefect's own would serve paths whose files are gone.
stage_task = task(cache_policy=NO_CACHE, persist_result=False)
MOST_TASK_RUNS = 200
"""A flow of thousands of parts groups them, because every task run costs a row in Prefect's database."""


def kept(build: Build) -> Artifact:
    """Say that the finished artifact answers the request, and return it."""
    assert build.finished is not None, "only called when begin() found a finished build"
    say(build.plan.kind, build.plan.name, f"kept {build.finished.rows:,} rows ({build.finished.id})")
    return build.finished


def groups(names: Sequence[str]) -> list[list[str]]:
    """Consecutive part names, one list a task run, at most MOST_TASK_RUNS lists."""
    size = max(1, -(-len(names) // MOST_TASK_RUNS))
    return [list(names[start : start + size]) for start in range(0, len(names), size)]


def write_parts(build: Build, names: Sequence[str], work: Callable[[str], Part]) -> list[Part]:
    """Every part in order: as an earlier run left it, or made by `work(name)`."""
    return [build.existing_part(name) or work(name) for name in names]


def in_order(build: Build, groups_of_names: Sequence[list[str]], run: Callable[[list[str]], list[Part]]) -> list[Part]:
    """Run one task after another, with a bar: for work that already uses every core."""
    return [part for names in track(groups_of_names, len(groups_of_names), build.plan.kind, "part") for part in run(names)]


def published(build: Build, parts: Sequence[Part], clock: Clock, **measured: Any) -> Artifact:
    """Commit the build and say so: rows, rejects, seconds."""
    artifact = build.commit(parts, {"seconds": clock.seconds, **measured})
    rejected = sum(count for reason, count in artifact.counts.items() if reason.startswith("rejected"))
    note = f", {rejected:,} rejected" if rejected else ""
    say(build.plan.kind, build.plan.name, f"built {artifact.rows:,} rows{note} in {clock.seconds:.1f} s ({artifact.id})")
    return artifact


def single_part(build: Build, part_name: str, write: Callable[..., tuple[int, Mapping[str, int]]]) -> list[Part]:
    """The only part of an artifact that is written in one piece."""
    return [build.existing_part(part_name) or build.write_part(part_name, write)]
