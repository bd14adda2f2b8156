"""Which versions can go, and how they go: `collect` is `rdm gc`.

What stays: of every kind and name the current version and the newest few, what those are made from,
and what an unfinished build is made from. What somebody is building is never touched. A removal
that is killed leaves a directory without plan and manifest, which is nothing to everybody and goes
with the next collection.

In an object store nobody knows what other machines are building: there, only what is named as
unfinished is taken for it.
"""

import fcntl
import shutil
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Literal

from storage import layout
from storage.artifact import Artifact, artifacts, current_id, is_current
from storage.atomic import fsync_path
from storage.errors import ArtifactMissing, StorageError, explaining_disk_errors
from storage.locks import exclusive, holder
from storage.manifest import read_plan
from storage.mirror import path_or_url
from storage.place import place_of
from storage.unfinished import unfinished
from storage.versions import by_fingerprint

ALL = "all"
"""Unfinished builds of every kind and name."""
TRAINED = ("autoencoders", "runs")
"""Kinds that hold training states until they are collected."""
What = Literal["version", "unfinished", "leftover", "states"]


@dataclass(frozen=True)
class Removed:
    """A directory that went, or in a dry run would go."""

    reference: str
    """kind/name@id"""
    what: What
    """A published version, an unfinished build, what a removal that was killed left behind, or the
    training states of a published run that stays: what it would resume from, and never will."""
    directory: Path
    version: int | None = None
    freed: int = 0
    """Bytes; files shared with what stays free none."""


@dataclass(frozen=True)
class Collected:
    """What a collection removed and what it left."""

    removed: tuple[Removed, ...]
    kept: Mapping[str, str]
    """Reference of each version that stays -> why."""
    untouched: Mapping[str, str]
    """Reference of what could have gone -> why it did not."""


def collect(
    root: Path, keep: int | None = 2, unfinished_of: str = "", dry_run: bool = False
) -> Collected:
    """Remove the versions that nothing needs, and what a killed removal left behind.

    Of every kind and name the current version and the newest `keep` stay (None: all of them), and
    with them everything they and the unfinished builds are made from. Unless `keep` is None, the
    training states of published runs go too. `unfinished_of` ("kind/name" or "all") names
    unfinished builds that go too. What somebody is building is never touched. Raises StorageError
    for a wrong `keep` or name, CannotWrite.
    """
    # Were the newest version to go, the next one would get its number again.
    if keep is not None and keep < 1:
        raise StorageError("keep", f"{keep} versions cannot be kept", "Keep 1 or more.")
    selected = _selected(root, unfinished_of)
    dropped: list[Path] = []
    untouched: dict[str, str] = {}
    for directory in unfinished(root, *selected) if selected else ():
        builder = builder_of(directory)
        if builder:
            untouched[_reference(directory)] = f"{builder} is working on it"
        else:
            dropped.append(directory)
    everything = artifacts(root)
    kept = _needed(root, everything, keep, dropped)
    doomed = [Removed(_reference(directory), "unfinished", directory) for directory in dropped]
    for directory in _leftovers(root, selected):
        doomed.append(Removed(_reference(directory), "leftover", directory))
    # What is made from others goes first: a collection that is killed leaves nothing whose inputs
    # are gone.
    versions = sorted(everything, key=lambda a: (-layout.KINDS.index(a.kind), a.name, a.version))
    for artifact in versions:
        if artifact.reference not in kept:
            doomed.append(
                Removed(artifact.reference, "version", artifact.directory, artifact.version)
            )
    doomed += _states(versions, kept) if keep else []
    removed: list[Removed] = []
    for candidate in _with_freed_bytes(doomed):
        # It may be kept by now, as an input of something that could not be removed.
        if candidate.reference in kept and candidate.what != "states":
            continue
        remove = _remove_states if candidate.what == "states" else _remove
        refusal = "" if dry_run else remove(root, candidate)
        if refusal:  # it stays after all, and so does what it is made from
            untouched[candidate.reference] = refusal
            kept = _needed(root, everything, keep, [gone.directory for gone in removed])
        else:
            removed.append(candidate)
    return Collected(tuple(removed), kept, untouched)


def _states(versions: Sequence[Artifact], kept: Mapping[str, str]) -> list[Removed]:
    """The training states of published runs that stay."""
    states = []
    for run in versions:
        directory = layout.checkpoints_directory(run.directory)
        published = run.kind in TRAINED and run.reference in kept
        if published and (directory.is_dir() or place_of(directory).listing(directory)):
            states.append(Removed(run.reference, "states", directory, run.version))
    return states


def _remove_states(root: Path, doomed: Removed) -> str:
    """Remove the training states of a published run that nobody works on.

    Returns "" when they are gone, else why they stay.
    """
    version = doomed.directory.parent
    builder = builder_of(version)
    if builder:
        return f"{builder} is working on it"
    try:
        with explaining_disk_errors(version), exclusive(layout.lock_file(version)):
            if not layout.manifest_file(version).is_file():
                return "it has just changed"
            place_of(doomed.directory).withdraw(doomed.directory)
            if doomed.directory.is_dir():
                shutil.rmtree(doomed.directory)
    except BlockingIOError:
        return f"{holder(layout.lock_file(version))} is working on it"
    finally:
        layout.lock_file(version).unlink(missing_ok=True)
        with suppress(OSError):  # somebody has begun to work there anew
            layout.build_directory(version).rmdir()
    return ""


def builder_of(directory: Path) -> str | None:
    """Who builds or trains there right now, in words; None when nobody does. Looking changes
    nothing.
    """
    return _first_holder(_lock_files(directory))


def _needed(
    root: Path, everything: Sequence[Artifact], keep: int | None, dropped: Sequence[Path]
) -> dict[str, str]:
    """Reference of every version that must stay -> why."""
    known = by_fingerprint(everything)
    why: dict[str, str] = {}
    waiting: deque[tuple[Artifact, str]] = deque()
    for _, members in groupby(everything, key=lambda a: (a.kind, a.name)):
        waiting += _needed_of_family(root, list(members), keep)
    for directory in _planned_only(root, everything):
        plan = read_plan(directory)
        if plan and directory not in dropped:
            reason = f"input of {_reference(directory)} (unfinished)"
            waiting += _with_reason(_made_of(plan.inputs, known), reason)
    # Breadth first, and the first reason stands: the one with the fewest steps in between.
    while waiting:
        artifact, reason = waiting.popleft()
        if artifact.reference not in why:
            why[artifact.reference] = reason
            inputs = _made_of(artifact.inputs, known)
            waiting += _with_reason(inputs, f"input of {artifact.reference} ({reason})")
    return why


def _needed_of_family(
    root: Path, family: Sequence[Artifact], keep: int | None
) -> list[tuple[Artifact, str]]:
    """The versions of one kind and name that must stay for their own sake, each with a reason.

    A version may come more than once, with its most telling reason first.
    """
    needed = _with_reason([a for a in family if is_current(root, a)], "current")
    if keep:
        needed += _with_reason(family[-keep:], f"one of the newest {keep}")
    else:
        needed += _with_reason(family, "not asked for")
    for artifact in family:
        builder = builder_of(artifact.directory)
        if builder:
            needed.append((artifact, f"in use by {builder}"))
    return needed


def _with_reason(needed: Iterable[Artifact], reason: str) -> list[tuple[Artifact, str]]:
    return [(artifact, reason) for artifact in needed]


def _made_of(
    inputs: Mapping[str, str], known: Mapping[str, Sequence[Artifact]]
) -> Iterator[Artifact]:
    """Every artifact under the root whose bytes are one of these inputs."""
    for fingerprint in inputs.values():
        yield from known.get(fingerprint, ())


def _planned_only(root: Path, everything: Sequence[Artifact]) -> list[Path]:
    """Directories with a plan and no manifest that can be read: unfinished builds, and damaged or
    foreign versions.
    """
    readable = {artifact.directory for artifact in everything}
    planned = []
    for directory in _directories(root):
        if layout.plan_file(directory).is_file() and directory not in readable:
            planned.append(directory)
    return planned


def _selected(root: Path, unfinished_of: str) -> tuple[str, str] | None:
    """Kind and name of the unfinished builds that go, "*" for all. Raises StorageError for a name
    that nothing has.
    """
    if unfinished_of in ("", ALL):
        return ("*", "*") if unfinished_of else None
    kind, slash, name = unfinished_of.partition("/")
    family = layout.family_directory(root, kind, name) if slash else None
    if family is None or not (unfinished(root, kind, name) or family.is_dir()):
        what = f"nothing was begun under this name in {path_or_url(root)}"
        raise ArtifactMissing(unfinished_of, what, "Write kind/name, or all.")
    return kind, name


def _leftovers(root: Path, selected: tuple[str, str] | None) -> list[Path]:
    """Directories that are nothing: without plan and manifest, and nobody works on them.

    In an object store a build looks so until its first part is there: only what is selected is
    taken for nothing.
    """
    leftovers = []
    for directory in _stored(root, selected) if place_of(root).far else _directories(root):
        if layout.plan_file(directory).exists() or layout.manifest_file(directory).exists():
            continue
        if _is_version(root, directory) and not builder_of(directory):
            leftovers.append(directory)
    return leftovers


def _stored(root: Path, selected: tuple[str, str] | None) -> list[Path]:
    """The directory of everything selected that others see, in whatever state it is."""
    if selected is None:
        return []
    kind, name = selected
    directories = set()
    for path in place_of(root).listing(root):
        folders = path.split("/")[:-1]
        if len(folders) > 2 and kind in ("*", folders[0]) and name in ("*", folders[1]):
            directories.add(root.joinpath(*folders[:3]))
    return sorted(directories)


def _directories(root: Path) -> list[Path]:
    """The directory of every version on this disk, whatever state it is in."""
    paths = sorted(root.glob("*/*/*"))
    return [path for path in paths if path.is_dir() and _is_version(root, path)]


def _is_version(root: Path, path: Path) -> bool:
    try:
        return path == layout.artifact_directory(root, *path.parts[-3:])
    except StorageError:  # not ours
        return False


def _reference(directory: Path) -> str:
    kind, name, identity = directory.parts[-3:]
    return f"{kind}/{name}@{identity}"


def _with_freed_bytes(doomed: Sequence[Removed]) -> list[Removed]:
    """With what each frees when they go in this order: a file's bytes are freed with the last of
    its names.
    """
    gone: Counter[Hashable] = Counter()  # how many names of a file have gone so far
    counted = []
    for removed in doomed:
        freed = 0
        for stored in place_of(removed.directory).listing(removed.directory).values():
            gone[stored.identity] += 1
            if gone[stored.identity] == stored.names:
                freed += stored.bytes
        counted.append(replace(removed, freed=freed))
    return counted


def _remove(root: Path, doomed: Removed) -> str:
    """Remove a directory that nobody works on. Returns "" when it is gone, else why it stays.

    Plan and manifest go first, under the lock of publishing: from then on the directory is nothing,
    and no kill can make it look like a version or an unfinished build again. The build lock goes
    last: a build that waits for it begins in an empty directory.
    """
    directory = doomed.directory
    try:
        with explaining_disk_errors(directory), exclusive(layout.lock_file(directory)):
            with exclusive(
                layout.publishing_lock_file(root, *directory.parts[-3:-1]), lambda _: None
            ):
                refusal = _changed_since(root, doomed)
                if refusal:
                    return refusal
                place_of(directory).withdraw(directory)
                layout.plan_file(directory).unlink(missing_ok=True)
                layout.manifest_file(directory).unlink(missing_ok=True)
                fsync_path(directory)
            _empty(directory)
    except BlockingIOError:
        return f"{holder(layout.lock_file(directory))} is working on it"
    finally:
        for empty in (layout.build_directory(directory), directory):
            # OSError: not empty, as it stays or somebody has begun to build there anew
            with suppress(OSError):
                empty.rmdir()
    return ""


def _changed_since(root: Path, doomed: Removed) -> str:
    """Why it must not go after all, or ""; both locks are held."""
    directory = doomed.directory
    kind, name, identity = directory.parts[-3:]
    place = place_of(directory)
    place.follow(layout.plan_file(directory), layout.manifest_file(directory))
    published = layout.manifest_file(directory).is_file()
    planned = layout.plan_file(directory).is_file()
    trainer = _first_holder(_lock_files(directory)[1:])  # the first lock is the one held here
    if trainer:
        return f"{trainer} is working on it"
    if published != (doomed.what == "version") or planned and doomed.what == "leftover":
        return "it has just changed"
    if current_id(root, kind, name) == identity:
        if published:
            return "it has just become current"
        # it leads to a version that was damaged and now goes
        place.drop(layout.pointer_file(root, kind, name))
    return ""


def _empty(directory: Path) -> None:
    """Everything but the lock that is held."""
    build, lock = layout.build_directory(directory), layout.lock_file(directory)
    for path in [*directory.iterdir(), *build.iterdir()]:
        if path.is_dir() and not path.is_symlink() and path != build:
            shutil.rmtree(path)
        elif path not in (build, lock):
            path.unlink(missing_ok=True)


def _lock_files(directory: Path) -> list[Path]:
    """The build's own lock first, then those of the processes it starts."""
    own = layout.lock_file(directory)
    return [own, *sorted(path for path in own.parent.glob("*lock") if path != own)]


def _first_holder(locks: Iterable[Path]) -> str | None:
    """Who holds the first of the locks that is held, without taking one and without leaving a
    trace.
    """
    for path in locks:
        with suppress(FileNotFoundError), path.open("rb") as stream:
            try:
                # A shared lock is refused while another process holds the exclusive one.
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return holder(path)
    return None
