"""Building an artifact: Plan -> parts -> Manifest, one builder at a time, resumable after any end.

`begin` opens a build, `Build.existing_part` and `Build.write_part` give its parts (a killed build
keeps those it finished, a new version takes over those whose input did not change), `Build.commit`
publishes.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

from storage import layout
from storage.artifact import (
    Artifact,
    artifacts,
    current_id,
    damage,
    is_current,
    listed,
    local_path,
    read_artifact,
)
from storage.atomic import fsync_path, move_whole, sha256_file, write_bytes, write_json
from storage.errors import ArtifactDamaged, explaining_disk_errors
from storage.locks import exclusive
from storage.manifest import (
    Manifest,
    Part,
    PartFile,
    Plan,
    files_in,
    fingerprint_of,
    manifest_json,
    read_manifest,
    read_part,
    read_parts,
)
from storage.mirror import path_or_url
from storage.place import place_of
from storage.unfinished import (
    drop_superseded,
    follow_records,
    has_finished_work_here,
    make_way,
    unfinished,
)

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
        return local_path(self.directory, listed(read_parts(self.directory)), relative)

    def existing_part(self, part_name: str, made_from: str) -> Part | None:
        """The part as an earlier run finished it or another version holds it, or None when it must
        be written.

        A part of this build is believed by its sizes (`commit` reads the bytes); one of another
        version is read first, in an object store as far as it lies in the mirror.
        """
        place_of(self.directory).follow(layout.part_record_file(self.directory, part_name))
        own = read_part(self.directory, part_name)
        if own and own.made_from == made_from and self._is_there(own):
            return own
        for donor in self.donors:
            part = _parts_by_origin(donor).get(made_from)
            if part and not damage(donor, [part], hashes=True, attempt=self.prefix):
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
        with explaining_disk_errors(self.directory):
            # not there yet where the build was begun on another machine of the cluster
            parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=f"{part_name}-", dir=parent))
            try:
                rows, counts = write(scratch)
                # Sorted: the order of a part's files enters the artifact's fingerprint.
                files = []
                for path in sorted(scratch.rglob("*")):
                    if path.is_file():
                        files.append(self._keep(path, path.relative_to(scratch).as_posix()))
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            part = Part(part_name, rows, tuple(files), dict(counts), made_from, self.prefix)
            stored = [path for path, _ in part.located(self.directory)]
            place_of(self.directory).store(*stored)
            return self._recorded(part)

    def commit(self, parts: Sequence[Part], measured: Mapping[str, Any]) -> Artifact:
        """Publish: read every file once more, write the manifest by rename, make this version the
        current one.

        Raises ArtifactDamaged when a part's file is not what was written; the next run writes that
        part again.
        """
        kind, name = self.plan.kind, self.plan.name
        with explaining_disk_errors(self.directory):
            self._refuse_damage(parts)
            # The names of the files must be on the disk before the manifest that lists them.
            folders = {path.parent for _, path, _ in files_in(self.directory, parts)}
            for folder in folders:
                if folder.is_dir():  # not where another machine wrote the part into the bucket
                    fsync_path(folder)
            fsync_path(self.directory)
            with exclusive(layout.publishing_lock_file(self.root, kind, name), _patiently):
                manifest = manifest_json(self._manifest(parts, measured), _versions())
                place = place_of(self.directory)
                place.commit(layout.manifest_file(self.directory), manifest)
                artifact = _make_current(self.root, read_artifact(self.directory))
            drop_superseded(self.root, self.plan)
            return artifact

    def _refuse_damage(self, parts: Sequence[Part]) -> None:
        damaged = damage(self.directory, parts, hashes=True)
        for name in damaged:
            place_of(self.directory).drop(layout.part_record_file(self.directory, name))
        if damaged:
            reasons = "; ".join(chain.from_iterable(damaged.values()))
            cure = "Run the same command again: it rebuilds what is missing."
            raise ArtifactDamaged(path_or_url(self.directory), reasons, cure)

    def _manifest(self, parts: Sequence[Part], measured: Mapping[str, Any]) -> Manifest:
        plan = self.plan
        earlier = [artifact.version for artifact in artifacts(self.root, plan.kind, plan.name)]
        return Manifest(
            plan.kind,
            plan.name,
            plan.id,
            max(earlier, default=0) + 1,
            fingerprint_of(parts),
            plan.parameters,
            plan.inputs,
            tuple(parts),
            measured,
            datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _recorded(self, part: Part) -> Part:
        # Not durable: after a power cut a lost record costs the part again, and a record without
        # its files is not believed.
        record = layout.part_record_file(self.directory, part.name)
        write_json(record, asdict(part), durable=False)
        # the plan goes up with the first part: an attempt that made none leaves nothing in the
        # bucket
        plan = layout.plan_file(self.directory)
        if not plan.is_file():
            write_json(plan, asdict(self.plan), durable=False)
        _store_once(plan, self.prefix)
        place_of(self.directory).store(record)
        return part

    def _is_there(self, own: Part) -> bool:
        if own.prefix and own.prefix == self.prefix:
            return True
        return not damage(self.directory, [own], hashes=False, attempt=self.prefix)

    def _keep(self, path: Path, relative: str) -> PartFile:
        record = PartFile(relative, path.stat().st_size, sha256_file(path))
        move_whole(path, layout.part_file(self.directory, self.prefix, relative))
        return record

    def _take_over(self, donor: Path, part: Part, part_name: str) -> Part:
        """The part under this build's name for it, its files shared with the version they come
        from.
        """
        files = []
        with explaining_disk_errors(self.directory):
            for source, file in part.located(donor):
                renamed = file.path.replace(part.name, part_name, 1)
                target = layout.part_file(self.directory, self.prefix, renamed)
                place_of(self.directory).share(source, target, file.bytes)
                files.append(PartFile(renamed, file.bytes, file.sha256))
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
    with ExitStack() as at_end:
        with explaining_disk_errors(directory):
            at_end.enter_context(exclusive(layout.lock_file(directory), waiting or _patiently))
        finished = _look_up(root, directory)  # the run we waited for may have built it
        if not finished:
            # Called before the lock is freed: the stack unwinds from its end.
            at_end.callback(_drop_without_finished_work, directory)
            with explaining_disk_errors(directory):
                make_way(root, plan)
                _prepare(directory, plan)
        donors = () if finished else _donors(root, plan)
        yield Build(root, plan, directory, finished, donors, place_of(root).new_prefix())


def finished_artifact(root: Path, plan: Plan) -> Artifact | None:
    """What answers the plan already, if every file has its size; it becomes the current version of
    its name.
    """
    return _look_up(root, layout.artifact_directory(root, plan.kind, plan.name, plan.id))


def _look_up(root: Path, directory: Path) -> Artifact | None:
    """The finished artifact, if every file has its size."""
    place_of(directory).follow(layout.manifest_file(directory))
    if not layout.manifest_file(directory).is_file():
        return None
    try:
        artifact = read_artifact(directory)
    except ArtifactDamaged:
        return None
    if damage(directory, artifact.parts, hashes=False):
        return None
    lock = layout.publishing_lock_file(root, artifact.kind, artifact.name)
    # Each of these is left by a build that was killed between its manifest and its end, or is still
    # there while another process ends one.
    if (
        not is_current(root, artifact)
        or layout.build_directory(directory).is_dir()
        or lock.exists()
    ):
        with explaining_disk_errors(directory), exclusive(lock, _patiently):
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
    place_of(directory).clear_temporary(directory)
    for temporary in layout.build_directory(directory).glob(".*-*"):
        temporary.unlink(missing_ok=True)
    if layout.manifest_file(directory).is_file():
        _make_unfinished(directory)
    write_json(layout.plan_file(directory), asdict(plan))


def _make_unfinished(directory: Path) -> None:
    """Of a damaged artifact the manifest goes, and each part that is whole has its record again."""
    place = place_of(directory)
    try:
        parts = read_manifest(directory).parts
        damaged = damage(directory, parts, hashes=True)
        records = []
        for part in parts:
            if part.name not in damaged:
                records.append(layout.part_record_file(directory, part.name))
                write_json(records[-1], asdict(part), durable=False)
        place.store(*records)
    except ArtifactDamaged:
        pass  # nothing it says can be believed: every part is made again
    place.drop(layout.manifest_file(directory))
    fsync_path(directory)


def _drop_without_finished_work(directory: Path) -> None:
    """Remove the directory of an attempt that ended before its first part was finished."""
    if not layout.manifest_file(directory).is_file() and not has_finished_work_here(directory):
        shutil.rmtree(directory, ignore_errors=True)


def _donors(root: Path, plan: Plan) -> tuple[Path, ...]:
    """The current version, and unfinished builds of the same parameters from before the input
    changed.
    """
    current = current_id(root, plan.kind, plan.name)
    family = layout.family_directory(root, plan.kind, plan.name)
    donors = []
    if current and current != plan.id:
        donors.append(family / current)
        place_of(family).follow(layout.manifest_file(family / current))
    for directory in unfinished(root, plan.kind, plan.name):
        if directory.name != plan.id:
            follow_records(directory)
            donors.append(directory)
    return tuple(donors)


def _parts_by_origin(directory: Path) -> Mapping[str, Part]:
    """made_from -> part, of a finished or an unfinished version.

    The time of the manifest, or of the folder with the records, tells one state from the next.
    """
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
        parts = read_parts(directory)
    return {part.made_from: part for part in parts}


@lru_cache(maxsize=64)
def _store_once(path: Path, attempt: str) -> None:
    """Once a process and attempt."""
    place_of(path).store(path)


def _make_current(root: Path, artifact: Artifact) -> Artifact:
    """Let the name's pointer lead to this version and clear what the build left; the publishing
    lock is held.
    """
    pointer = layout.pointer_file(root, artifact.kind, artifact.name)
    build, place = layout.build_directory(artifact.directory), place_of(pointer)
    for temporary in pointer.parent.glob(".current-*"):
        temporary.unlink(missing_ok=True)
    if not is_current(root, artifact):
        write_bytes(pointer, artifact.id.encode() + b"\n")
        place.store(pointer)
    place.withdraw(build)
    shutil.rmtree(build, ignore_errors=True)
    return artifact


def _patiently(_: str) -> None:
    """Wait, and say nothing of who holds the lock."""


def _versions() -> dict[str, str]:
    """The packages whose version may change what a build writes."""
    versions = {}
    for package in _RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return versions
