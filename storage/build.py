"""Building an artifact: Plan -> parts -> Manifest, one builder at a time, resumable after any end.

`begin` opens a build, `Build.existing_part` and `Build.write_part` give its parts (a killed build
keeps those it finished, a new version takes over those whose input did not change), `Build.commit`
publishes.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from storage import layout, remote
from storage.artifact import (
    FORMAT_VERSION,
    Artifact,
    Part,
    PartFile,
    Plan,
    artifacts,
    current_id,
    damage,
    fingerprint_of,
    is_current,
    read_manifest,
)
from storage.atomic import fsync_path, place, sha256_file, write_bytes, write_json
from storage.errors import ArtifactDamaged, BuildRefused, told_by_cause
from storage.locks import exclusive
from storage.plans import but_for_revision, differences, is_an_earlier_revision

_RECORDED_PACKAGES = (
    "rdm",
    "numpy",
    "pyarrow",
    "torch",
    "open_clip_torch",
    "diffusers",
    "faiss-cpu",
    "pillow",
)
Waiting = Callable[[str], None]
"""Takes who holds the lock."""


@dataclass(frozen=True)
class Build:
    """An open build; `finished` is set when the plan had already been carried out."""

    root: Path
    plan: Plan
    directory: Path
    finished: Artifact | None
    donors: tuple[Path, ...] = ()
    """Directories of other versions whose parts are taken over where they were made from the
    same.
    """
    prefix: str = ""
    """Folder for the files that this attempt writes; none on a disk."""

    def file(self, relative: str) -> Path:
        """The path of one of the parts' files."""
        if not self.prefix:
            return self.directory / relative
        return remote.local_path(
            self.directory, remote.listed(_parts_on_record(self.directory)), relative
        )

    def existing_part(self, part_name: str, made_from: str) -> Part | None:
        """The part as an earlier run finished it or another version holds it, or None when it must
        be written.

        A part of this build is believed by its sizes (`commit` reads the bytes); one of another
        version is read first, in an object store as far as it lies in the mirror.
        """
        remote.follow(layout.part_record_file(self.directory, part_name))
        own = _part_record(self.directory, part_name)
        if own and own.made_from == made_from and self._is_there(own):
            return own
        for donor in self.donors:
            part = _parts_by_origin(donor).get(made_from)
            if part and not damage(
                donor, [part], hashes=True, stored=remote.sizes_as_of(donor, self.prefix)
            ):
                return self._take_over(donor, part, part_name)
        return None

    def write_part(
        self, part_name: str, made_from: str, write: Callable[[Path], tuple[int, Mapping[str, int]]]
    ) -> Part:
        """Run `write(scratch)`, publish every file it left in the scratch directory, and record the
        part.

        `write` returns (rows, counts). Nothing is published when it raises. Raises CannotWrite when
        the disk refuses.
        """
        parent = layout.build_directory(self.directory)
        with told_by_cause(self.directory):
            if self.prefix:
                # the build was begun on another machine of the cluster
                parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=f"{part_name}-", dir=parent))
            try:
                rows, counts = write(scratch)
                paths = [path for path in sorted(scratch.rglob("*")) if path.is_file()]
                files = [self._place(path, path.relative_to(scratch).as_posix()) for path in paths]
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            remote.store(*(layout.part_file(self.directory, self.prefix, f.path) for f in files))
            return self._recorded(
                Part(part_name, rows, tuple(files), dict(counts), made_from, self.prefix)
            )

    def commit(self, parts: Sequence[Part], measured: Mapping[str, Any]) -> Artifact:
        """Publish: read every file once more, write the manifest by rename, make this version the
        current one.

        Raises ArtifactDamaged when a part's file is not what was written; the next run writes that
        part again.
        """
        with told_by_cause(self.directory):
            damaged = damage(self.directory, parts, hashes=True)
            for name in damaged:
                remote.drop(layout.part_record_file(self.directory, name))
            if damaged:
                reasons = "; ".join(reason for found in damaged.values() for reason in found)
                raise ArtifactDamaged(
                    remote.shown(self.directory),
                    reasons,
                    "Run the same command again: it rebuilds what is missing.",
                )
            for folder in {
                layout.part_file(self.directory, p.prefix, f.path).parent
                for p in parts
                for f in p.files
            }:
                if folder.is_dir():  # not where another machine wrote the part into the bucket
                    fsync_path(folder)
            fsync_path(self.directory)
            with exclusive(
                layout.publishing_lock_file(self.root, self.plan.kind, self.plan.name), _patiently
            ):
                remote.write_manifest(
                    layout.manifest_file(self.directory), self._manifest(parts, measured)
                )
                artifact = _make_current(self.root, read_manifest(self.directory))
            _drop_superseded(self.root, self.plan)
            return artifact

    def _manifest(self, parts: Sequence[Part], measured: Mapping[str, Any]) -> dict[str, Any]:
        earlier = [
            artifact.version for artifact in artifacts(self.root, self.plan.kind, self.plan.name)
        ]
        return {
            "format": FORMAT_VERSION,
            "kind": self.plan.kind,
            "name": self.plan.name,
            "id": self.plan.id,
            "version": max(earlier, default=0) + 1,
            "fingerprint": fingerprint_of(parts),
            "parameters": self.plan.parameters,
            "inputs": self.plan.inputs,
            "parts": [asdict(part) for part in parts],
            "measured": measured,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "created_by": _versions(),
        }

    def _recorded(self, part: Part) -> Part:
        # Not durable: after a power cut a lost record costs the part again, and a record without
        # its files is not believed.
        record = layout.part_record_file(self.directory, part.name)
        write_json(record, asdict(part), durable=False)
        # the plan goes up with the first part: an attempt that made none leaves nothing in the
        # bucket
        if self.prefix:
            plan = layout.plan_file(self.directory)
            if not plan.is_file():
                write_json(plan, asdict(self.plan), durable=False)
            remote.store_once(plan, self.prefix)
            remote.store(record)
        return part

    def _is_there(self, own: Part) -> bool:
        if own.prefix and own.prefix == self.prefix:
            return True
        return not damage(
            self.directory,
            [own],
            hashes=False,
            stored=remote.sizes_as_of(self.directory, self.prefix),
        )

    def _place(self, path: Path, relative: str) -> PartFile:
        record = PartFile(relative, path.stat().st_size, sha256_file(path))
        place(path, layout.part_file(self.directory, self.prefix, relative))
        return record

    def _take_over(self, donor: Path, part: Part, part_name: str) -> Part:
        """The part under this build's name for it, its files shared with the version they come
        from.
        """
        files = []
        with told_by_cause(self.directory):
            for record in part.files:
                path = record.path.replace(part.name, part_name, 1)
                source = layout.part_file(donor, part.prefix, record.path)
                remote.share(
                    source, layout.part_file(self.directory, self.prefix, path), record.bytes
                )
                files.append(PartFile(path, record.bytes, record.sha256))
            return self._recorded(
                Part(part_name, part.rows, tuple(files), part.counts, part.made_from, self.prefix)
            )


@contextmanager
def begin(root: Path, plan: Plan, waiting: Waiting | None = None) -> Iterator[Build]:
    """Open the build of a plan: finished already, unfinished from an earlier run, or new. Held
    until the block ends.

    A finished build whose files are damaged is opened as unfinished: what is damaged is rebuilt,
    never served. While another process builds the same plan, `waiting` is told once who, and its
    result is then used. Raises BuildRefused when an unfinished build under this name has other
    parameters and finished work, CannotWrite, or FormatError.
    """
    directory = layout.artifact_directory(root, plan.kind, plan.name, plan.id)
    finished = _look_up(root, directory)
    if finished:
        yield Build(root, plan, directory, finished)
        return
    with ExitStack() as held:
        with told_by_cause(directory):
            held.enter_context(exclusive(layout.lock_file(directory), waiting or _patiently))
        finished = _look_up(root, directory)  # the run we waited for may have built it
        if not finished:
            held.callback(_drop_if_nothing_came_of_it, directory)
            with told_by_cause(directory):
                _refuse_or_drop_leftovers(root, plan)
                _prepare(directory, plan)
        yield Build(
            root,
            plan,
            directory,
            finished,
            () if finished else _donors(root, plan),
            remote.new_prefix(root),
        )


def finished_artifact(root: Path, plan: Plan) -> Artifact | None:
    """What answers the plan already, if every file has its size; it becomes the current version of
    its name.
    """
    return _look_up(root, layout.artifact_directory(root, plan.kind, plan.name, plan.id))


def unfinished(root: Path, kind: str = "*", name: str = "*") -> list[Path]:
    """Directories of builds that nobody has finished, whether somebody is at it or not."""
    remote.follow_all(root, kind, name, "plan.json", "manifest.json")
    plans = sorted(root.glob(f"{kind}/{name}/*/plan.json"))
    return [
        p.parent
        for p in plans
        if p.parts[-4] in layout.KINDS and not layout.manifest_file(p.parent).is_file()
    ]


def has_finished_work(directory: Path) -> bool:
    """Whether an unfinished build holds anything that a resumed run would use: parts or
    checkpoints.
    """
    stored = remote.sizes_stored(directory)
    if stored is None:
        return _has_finished_work_here(directory)
    return any(
        name.endswith(".part.json") or re.fullmatch("checkpoints/[^/]+/manifest.json", name)
        for name in stored
    )


def read_plan(directory: Path) -> Plan | None:
    """What an unfinished build was asked for, or None when the file is not readable."""
    try:
        value = json.loads(layout.plan_file(directory).read_bytes())
        return Plan(value["kind"], value["name"], value["parameters"], value["inputs"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _look_up(root: Path, directory: Path) -> Artifact | None:
    """The finished artifact, if every file has its size."""
    remote.follow(layout.manifest_file(directory))
    if not layout.manifest_file(directory).is_file():
        return None
    try:
        artifact = read_manifest(directory)
    except ArtifactDamaged:
        return None
    if damage(directory, artifact.parts, hashes=False):
        return None
    lock = layout.publishing_lock_file(root, artifact.kind, artifact.name)
    if (
        not is_current(root, artifact)
        or layout.build_directory(directory).is_dir()
        or lock.exists()
    ):
        with told_by_cause(directory), exclusive(lock, _patiently):
            if not layout.manifest_file(directory).is_file():  # collected while we waited
                return None
            return _make_current(root, artifact)
    return artifact


def _prepare(directory: Path, plan: Plan) -> None:
    """Make the directory ready: no scratch of a killed run, and of a damaged artifact only the
    parts that are whole.
    """
    for scratch in layout.build_directory(directory).iterdir():
        if scratch.is_dir():
            shutil.rmtree(scratch, ignore_errors=True)
    # in a mirror, readers write there too
    beside = () if remote.remote_of(directory) else directory.glob(".*-*")
    for temporary in [*beside, *layout.build_directory(directory).glob(".*-*")]:
        temporary.unlink(missing_ok=True)
    manifest = layout.manifest_file(directory)
    if manifest.is_file():
        try:
            artifact = read_manifest(directory)
            damaged = damage(directory, artifact.parts, hashes=True)
            whole = [part for part in artifact.parts if part.name not in damaged]
            for part in whole:
                write_json(
                    layout.part_record_file(directory, part.name), asdict(part), durable=False
                )
            remote.store(*(layout.part_record_file(directory, part.name) for part in whole))
        except ArtifactDamaged:
            pass  # nothing it says can be believed: every part is made again
        remote.drop(manifest)
        fsync_path(directory)
    write_json(layout.plan_file(directory), asdict(plan))


def _drop_if_nothing_came_of_it(directory: Path) -> None:
    """An attempt that failed before its first part leaves nothing."""
    if not layout.manifest_file(directory).is_file() and not _has_finished_work_here(directory):
        shutil.rmtree(directory, ignore_errors=True)


def _has_finished_work_here(directory: Path) -> bool:
    parts = layout.build_directory(directory).glob("*.part.json")
    return any(parts) or any(layout.checkpoints_directory(directory).glob("*/manifest.json"))


def _refuse_or_drop_leftovers(root: Path, plan: Plan) -> None:
    """Dead unfinished builds under the name: without finished work they go; with other parameters
    we refuse.

    In an object store nobody knows which are dead: there they stay for `rdm gc`, and only the
    mirror is cleared.
    """
    for directory in unfinished(root, plan.kind, plan.name):
        if directory.name == plan.id:
            continue
        try:
            with exclusive(layout.lock_file(directory)):
                other = read_plan(directory)
                if other is None or not has_finished_work(directory):
                    shutil.rmtree(directory)
                    continue
                if is_an_earlier_revision(directory, plan, other):
                    # its parts are taken over where they are still right, and it goes when this one
                    # is published
                    continue
                differing = differences(plan.parameters, other.parameters)
                if differing:
                    raise BuildRefused(
                        f"{plan.kind}/{plan.name}",
                        "an unfinished build under this name was asked "
                        f"for with {', '.join(differing)}",
                        "Finish it with those values, take another --name, or drop it: "
                        f"rdm gc --unfinished {plan.kind}/{plan.name}",
                    )
        except BlockingIOError:
            continue  # it is being built right now: different builds never block each other


def _donors(root: Path, plan: Plan) -> tuple[Path, ...]:
    """The current version, and unfinished builds of the same parameters from before the input
    changed.
    """
    current = current_id(root, plan.kind, plan.name)
    family = layout.family_directory(root, plan.kind, plan.name)
    published = [family / current] if current and current != plan.id else []
    others = [d for d in unfinished(root, plan.kind, plan.name) if d.name != plan.id]
    remote.follow(*map(layout.manifest_file, published))
    for directory in others:
        remote.follow_records(directory)
    return (*published, *others)


def _drop_superseded(root: Path, plan: Plan) -> None:
    """Unfinished builds of the same parameters and older inputs: nobody can ask for them again. Not
    in an object store.
    """
    for directory in unfinished(root, plan.kind, plan.name):
        try:
            with exclusive(layout.lock_file(directory)):
                other = read_plan(directory)
                if other is None or but_for_revision(other) == but_for_revision(plan):
                    shutil.rmtree(directory)
        except BlockingIOError:
            continue


def _part_record(directory: Path, part_name: str) -> Part | None:
    """The record of a finished part; None when there is none, or a power cut left half of it."""
    try:
        return Part.from_json(
            json.loads(layout.part_record_file(directory, part_name).read_bytes())
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _parts_by_origin(directory: Path) -> Mapping[str, Part]:
    """made_from -> part, of a finished or an unfinished version."""
    for record in (layout.manifest_file(directory), layout.build_directory(directory)):
        if record.exists():
            return _parts_as_of(directory, record.stat().st_mtime_ns)
    return {}


@lru_cache(maxsize=8)
def _parts_as_of(directory: Path, changed_ns: int) -> Mapping[str, Part]:
    """Read once a process and state, not once a part."""
    try:
        parts: Sequence[Part] = read_manifest(directory).parts
    except (ArtifactDamaged, FileNotFoundError):
        parts = _parts_on_record(directory)
    return {part.made_from: part for part in parts}


def _parts_on_record(directory: Path) -> list[Part]:
    names = [
        path.name.removesuffix(".part.json")
        for path in layout.build_directory(directory).glob("*.part.json")
    ]
    return [part for name in names if (part := _part_record(directory, name))]


def _make_current(root: Path, artifact: Artifact) -> Artifact:
    """Let the name's pointer lead to this version and clear what the build left; the publishing
    lock is held.
    """
    pointer = layout.pointer_file(root, artifact.kind, artifact.name)
    for temporary in pointer.parent.glob(".current-*"):
        temporary.unlink(missing_ok=True)
    if not is_current(root, artifact):
        write_bytes(pointer, artifact.id.encode() + b"\n")
        remote.store(pointer)
    remote.remove_stored(layout.build_directory(artifact.directory))
    shutil.rmtree(layout.build_directory(artifact.directory), ignore_errors=True)
    return artifact


def _patiently(_: str) -> None:
    """Wait without a word."""


def _versions() -> dict[str, str]:
    versions = {}
    for package in _RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return versions
