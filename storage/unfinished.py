"""Unfinished builds: which there are, what they hold, and which stand in the way of a new one."""

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from storage import layout
from storage.errors import BuildRefused
from storage.locks import exclusive
from storage.manifest import REVISION, Plan, flat, read_plan
from storage.place import THIS_DISK, place_of


def unfinished(root: Path, kind: str = "*", name: str = "*") -> list[Path]:
    """Directories of builds that nobody has finished, whether somebody is at it or not."""
    place_of(root).follow_versions(root, kind, name, "plan.json", "manifest.json")
    plans = sorted(root.glob(f"{kind}/{name}/*/plan.json"))
    return [
        plan.parent
        for plan in plans
        if plan.parts[-4] in layout.KINDS and not layout.manifest_file(plan.parent).is_file()
    ]


def has_finished_work(directory: Path) -> bool:
    """Whether an unfinished build holds anything that a resumed run would use: parts or
    checkpoints.
    """
    return any(map(layout.is_finished_work, place_of(directory).listing(directory)))


def has_finished_work_here(directory: Path) -> bool:
    """The same of what lies on this disk."""
    return any(map(layout.is_finished_work, THIS_DISK.listing(directory)))


def follow_records(directory: Path) -> None:
    """Make the records of finished parts on this disk what they are where the truth is."""
    build, place = layout.build_directory(directory), place_of(directory)
    there = {build / name for name in place.listing(build) if layout.is_part_record(name)}
    here = {layout.part_record_file(directory, name) for name in layout.parts_on_record(directory)}
    place.follow(*(there | here))


def make_way(root: Path, plan: Plan) -> None:
    """Dead unfinished builds under the name: without finished work they go; with other parameters
    we refuse.

    In an object store nobody knows which are dead: there they stay for `rdm gc`, and only the
    mirror is cleared. Raises BuildRefused.
    """
    for directory in unfinished(root, plan.kind, plan.name):
        if directory.name != plan.id:
            # one that is being built right now stays: different builds never block each other
            with suppress(BlockingIOError), exclusive(layout.lock_file(directory)):
                _drop_or_refuse(directory, plan)


def drop_superseded(root: Path, plan: Plan) -> None:
    """Unfinished builds of the same parameters and older inputs: nobody can ask for them again. Not
    in an object store.
    """
    for directory in unfinished(root, plan.kind, plan.name):
        with suppress(BlockingIOError), exclusive(layout.lock_file(directory)):
            other = read_plan(directory)
            if other is None or _but_for_revision(other) == _but_for_revision(plan):
                shutil.rmtree(directory)


def _drop_or_refuse(directory: Path, plan: Plan) -> None:
    other = read_plan(directory)
    if other is None or not has_finished_work(directory):
        shutil.rmtree(directory)
        return
    if _is_an_earlier_revision(directory, plan, other):
        # its parts are taken over where they are still right, and it goes when this one is
        # published
        return
    differing = _differences(plan.parameters, other.parameters)
    if differing:
        raise BuildRefused(
            f"{plan.kind}/{plan.name}",
            f"an unfinished build under this name was asked for with {', '.join(differing)}",
            "Finish it with those values, take another --name, or drop it: "
            f"rdm gc --unfinished {plan.kind}/{plan.name}",
        )


def _is_an_earlier_revision(directory: Path, plan: Plan, other: Plan) -> bool:
    """Whether an unfinished build was begun by other code of the same stage, which nobody can
    finish it with.

    One with checkpoints is refused all the same: days of training are dropped by a person.
    """
    differs = plan.parameters.get(REVISION, 1) != other.parameters.get(REVISION, 1)
    trained = any(layout.checkpoints_directory(directory).glob("*/manifest.json"))
    return differs and not trained and _but_for_revision(plan) == _but_for_revision(other)


def _but_for_revision(plan: Plan) -> dict[str, Any]:
    """What a plan asks for, whichever revision of its stage does it."""
    return {key: value for key, value in plan.parameters.items() if key != REVISION}


def _differences(asked: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Each parameter that differs, with both values."""
    now, then = flat(asked), flat(before)
    told = []
    for key in sorted(now.keys() | then.keys()):
        one, other = json.dumps(now.get(key)), json.dumps(then.get(key))
        if one != other:
            told.append(f"{key}={other} (now {one})")
    return told
