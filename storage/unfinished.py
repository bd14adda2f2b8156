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
    """Directories of builds that nobody has finished, whether somebody works on them or not."""
    place_of(root).follow_versions(root, kind, name, "plan.json", "manifest.json")
    directories = []
    for plan in sorted(root.glob(f"{kind}/{name}/*/plan.json")):
        if plan.parts[-4] in layout.KINDS and not layout.manifest_file(plan.parent).is_file():
            directories.append(plan.parent)
    return directories


def has_finished_work(directory: Path) -> bool:
    """Whether an unfinished build holds anything that a resumed run would use: parts or
    checkpoints.
    """
    return any(layout.is_finished_work(name) for name in place_of(directory).listing(directory))


def has_finished_work_here(directory: Path) -> bool:
    """The same of what lies on this disk."""
    return any(layout.is_finished_work(name) for name in THIS_DISK.listing(directory))


def follow_records(directory: Path) -> None:
    """Make the records of finished parts on this disk what they are where the truth is."""
    build, place = layout.build_directory(directory), place_of(directory)
    records = {build / name for name in place.listing(build) if layout.is_part_record(name)}
    # Those on this disk too: one that is gone from the bucket must go here.
    for name in layout.parts_on_record(directory):
        records.add(layout.part_record_file(directory, name))
    place.follow(*records)


def make_way(root: Path, plan: Plan) -> None:
    """Dead unfinished builds under the name: without finished work they go; with other parameters
    we refuse.

    In an object store nobody knows which are dead: there they stay for `rdm gc`, and only the
    mirror is cleared. Raises BuildRefused.
    """
    for directory in unfinished(root, plan.kind, plan.name):
        if directory.name != plan.id:
            # One that is being built right now stays: different builds never block each other.
            with suppress(BlockingIOError), exclusive(layout.lock_file(directory)):
                _drop_or_refuse(directory, plan)


def drop_superseded(root: Path, plan: Plan) -> None:
    """Unfinished builds of the same parameters and older inputs: nobody can ask for them again. Not
    in an object store.
    """
    for directory in unfinished(root, plan.kind, plan.name):
        with suppress(BlockingIOError), exclusive(layout.lock_file(directory)):
            earlier = read_plan(directory)
            if earlier is None or _but_for_revision(earlier) == _but_for_revision(plan):
                shutil.rmtree(directory)


def _drop_or_refuse(directory: Path, plan: Plan) -> None:
    earlier = read_plan(directory)
    if earlier is None or not has_finished_work(directory):
        shutil.rmtree(directory)
        return
    if _is_of_another_revision(directory, plan, earlier):
        # Its parts are taken over where they are still right, and it goes when this one is
        # published.
        return
    # Without a difference the inputs have changed alone: this build takes over its parts.
    differing = _differences(plan.parameters, earlier.parameters)
    if differing:
        raise BuildRefused(
            f"{plan.kind}/{plan.name}",
            f"an unfinished build under this name was asked for with {', '.join(differing)}",
            "Finish it with those values, take another --name, or drop it: "
            f"rdm gc --unfinished {plan.kind}/{plan.name}",
        )


def _is_of_another_revision(directory: Path, plan: Plan, earlier: Plan) -> bool:
    """Whether an unfinished build differs from the plan in the revision of its stage alone. The
    code that began it is gone, so that nobody can finish it.

    Not so for one with checkpoints: days of training are only dropped by a person.
    """
    differs = plan.parameters.get(REVISION, 1) != earlier.parameters.get(REVISION, 1)
    trained = any(layout.checkpoints_directory(directory).glob("*/manifest.json"))
    return differs and not trained and _but_for_revision(plan) == _but_for_revision(earlier)


def _but_for_revision(plan: Plan) -> dict[str, Any]:
    """What a plan asks for, whichever revision of its stage does it."""
    return {key: value for key, value in plan.parameters.items() if key != REVISION}


def _differences(parameters: Mapping[str, Any], earlier: Mapping[str, Any]) -> list[str]:
    """Each parameter that differs, with both values."""
    now, before = flat(parameters), flat(earlier)
    differences = []
    for key in sorted(now.keys() | before.keys()):
        value, earlier_value = json.dumps(now.get(key)), json.dumps(before.get(key))
        if value != earlier_value:
            differences.append(f"{key}={earlier_value} (now {value})")
    return differences
