"""An artifact is a directory that is whole or absent: Plan -> parts -> Manifest.

`begin` opens a build, `Build.write_part` adds a part (a killed build keeps the parts it finished), `commit` publishes.
Two identities: the *plan's id* says whether a build answers a request; the *fingerprint*, a hash over the parts'
hashes, is what downstream artifacts record as their input.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from storage import layout
from storage.atomic import canonical_json, publish, sha256_file, sha256_of, write_bytes, write_json
from storage.errors import ArtifactDamaged, ArtifactMissing, FormatError

FORMAT_VERSION = 1
_RECORDED_PACKAGES = ("rdm", "numpy", "pyarrow", "torch", "open_clip_torch", "diffusers", "faiss-cpu", "pillow")


@dataclass(frozen=True)
class Plan:
    """Everything that changes the bytes of an artifact, and nothing else (no device, no worker count)."""

    kind: str
    name: str
    parameters: Mapping[str, Any]
    """JSON values."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Role ("shards", "database", ...) -> fingerprint of the artifact in that role."""

    @cached_property
    def id(self) -> str:
        """12 hex digits: equal for equal requests."""
        identity = {"format": FORMAT_VERSION, "kind": self.kind, "parameters": self.parameters, "inputs": self.inputs}
        return sha256_of(canonical_json(identity))[:12]


@dataclass(frozen=True)
class PartFile:
    """One file of a part; `path` is relative to the artifact's directory, with forward slashes."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Part:
    """A finished piece of an artifact and the unit of resume."""

    name: str
    rows: int
    files: tuple[PartFile, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    """What was counted while writing, for example rejects by reason."""

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Part":
        """The part a manifest or part record describes."""
        return Part(value["name"], value["rows"], tuple(PartFile(**f) for f in value["files"]), value["counts"])


@dataclass(frozen=True)
class Artifact:
    """A published artifact. Its files never change."""

    directory: Path
    kind: str
    name: str
    id: str
    fingerprint: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, str]
    parts: tuple[Part, ...]
    measured: Mapping[str, Any]
    """Facts about the build that do not enter its identity: seconds, recall, counts."""

    @property
    def rows(self) -> int:
        """Rows over all parts."""
        return sum(part.rows for part in self.parts)

    @property
    def counts(self) -> dict[str, int]:
        """The parts' counts, added up."""
        total: dict[str, int] = {}
        for part in self.parts:
            for key, value in part.counts.items():
                total[key] = total.get(key, 0) + value
        return dict(sorted(total.items()))

    def file(self, relative: str) -> Path:
        """The path of one of the artifact's files."""
        return self.directory / relative

    def files(self, suffix: str) -> list[Path]:
        """The files that end with `suffix`, in part order."""
        return [self.directory / f.path for part in self.parts for f in part.files if f.path.endswith(suffix)]


@dataclass(frozen=True)
class Build:
    """An open build; `finished` is set when the plan had already been carried out."""

    root: Path
    plan: Plan
    directory: Path
    finished: Artifact | None

    def file(self, relative: str) -> Path:
        """The path of one of the parts' files."""
        return self.directory / relative

    def existing_part(self, part_name: str) -> Part | None:
        """The part as an earlier run finished it, or None when it must be written (again)."""
        record = layout.part_record_file(self.directory, part_name)
        if not record.is_file():
            return None
        part = Part.from_json(json.loads(record.read_text()))
        return None if _damage(self.directory, part.files, hashes=False) else part

    def write_part(self, part_name: str, write: Callable[[Path], tuple[int, Mapping[str, int]]]) -> Part:
        """Run `write(scratch)`, publish every file it left in the scratch directory, and record the part.

        `write` returns (rows, counts). Nothing is published when it raises.
        """
        parent = layout.build_directory(self.directory)
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"{part_name}-", dir=parent))
        try:
            rows, counts = write(scratch)
            files = [_publish_file(path, scratch, self.directory) for path in sorted(scratch.rglob("*")) if path.is_file()]
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        part = Part(part_name, rows, tuple(files), dict(counts))
        write_json(layout.part_record_file(self.directory, part_name), asdict(part))
        return part

    def commit(self, parts: Sequence[Part], measured: Mapping[str, Any]) -> Artifact:
        """Publish: check every file, write the manifest by rename, make this version the current one.

        Raises ArtifactDamaged when a part's file went missing or changed size since it was written.
        """
        damage = [d for part in parts for d in _damage(self.directory, part.files, hashes=False)]
        if damage:
            raise ArtifactDamaged(self.directory, "; ".join(damage), "Run the same command again: it rebuilds what is missing.")
        manifest = {
            "format": FORMAT_VERSION,
            "kind": self.plan.kind,
            "name": self.plan.name,
            "id": self.plan.id,
            "fingerprint": fingerprint_of(parts),
            "parameters": self.plan.parameters,
            "inputs": self.plan.inputs,
            "parts": [asdict(part) for part in parts],
            "measured": measured,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "created_by": _versions(),
        }
        write_json(layout.manifest_file(self.directory), manifest)
        return _make_current(self.root, _read(self.directory))


def fingerprint_of(parts: Sequence[Part]) -> str:
    """16 hex digits over every file's path and hash: equal bytes, equal fingerprint."""
    return sha256_of(canonical_json([[f.path, f.sha256] for part in parts for f in part.files]))[:16]


def begin(root: Path, plan: Plan) -> Build:
    """Open the build of a plan: finished already, unfinished from an earlier run, or new.

    A finished build whose files are damaged is opened as unfinished: it is rebuilt, never served.
    """
    directory = layout.artifact_directory(root, plan.kind, plan.name, plan.id)
    finished = _read(directory) if layout.manifest_file(directory).is_file() else None
    if finished and _damage(directory, [f for p in finished.parts for f in p.files], hashes=False):
        layout.manifest_file(directory).unlink()
        finished = None
    if finished:
        return Build(root, plan, directory, _make_current(root, finished))
    directory.mkdir(parents=True, exist_ok=True)
    for leftover in layout.build_directory(directory).glob("*-*"):
        if leftover.is_dir():  # the scratch of a killed run
            shutil.rmtree(leftover, ignore_errors=True)
    write_json(layout.plan_file(directory), asdict(plan))
    return Build(root, plan, directory, None)


def open_artifact(root: Path, kind: str, reference: str) -> Artifact:
    """Open `name` (the current version) or `name@id`, after checking that its files have their sizes.

    Raises ArtifactMissing, ArtifactDamaged or FormatError.
    """
    name, _, identity = reference.partition("@")
    pointer = layout.pointer_file(root, kind, name)
    if not identity:
        if not pointer.is_file():
            raise ArtifactMissing(f"{root}/{kind}", f"there is no artifact {kind}/{name}", _present(root, kind))
        identity = pointer.read_text().strip()
    directory = layout.artifact_directory(root, kind, name, identity)
    if not layout.manifest_file(directory).is_file():
        raise ArtifactMissing(
            directory, "it has no manifest, so it was never finished", "Run the command that builds it again."
        )
    artifact = _read(directory)
    check(artifact, hashes=False)
    return artifact


def check(artifact: Artifact, hashes: bool = True) -> None:
    """Compare every file with the manifest: sizes always, sha256 when `hashes`.

    Raises ArtifactDamaged naming each file.
    """
    damage = _damage(artifact.directory, [f for part in artifact.parts for f in part.files], hashes)
    if damage:
        raise ArtifactDamaged(artifact.directory, "; ".join(damage), "Run the command that builds it again.")


def artifacts(root: Path, kind: str = "*", name: str = "*") -> list[Artifact]:
    """Every published artifact under the root, or those of one kind or name, by kind, name and id."""
    found = sorted(root.glob(f"{kind}/{name}/*/manifest.json"))
    return [_read(path.parent) for path in found if path.parts[-4] in layout.KINDS]


def with_fingerprint(root: Path, kind: str, fingerprint: str) -> Artifact | None:
    """The artifact of that kind whose bytes have this fingerprint, or None when it is not under this root."""
    return next((a for a in artifacts(root, kind) if a.fingerprint == fingerprint), None)


def is_current(root: Path, artifact: Artifact) -> bool:
    """Whether the name's pointer leads to this version."""
    pointer = layout.pointer_file(root, artifact.kind, artifact.name)
    return pointer.is_file() and pointer.read_text().strip() == artifact.id


def _make_current(root: Path, artifact: Artifact) -> Artifact:
    if not is_current(root, artifact):
        write_bytes(layout.pointer_file(root, artifact.kind, artifact.name), artifact.id.encode() + b"\n")
    shutil.rmtree(layout.build_directory(artifact.directory), ignore_errors=True)
    return artifact


def _publish_file(path: Path, scratch: Path, directory: Path) -> PartFile:
    relative = path.relative_to(scratch)
    record = PartFile(relative.as_posix(), path.stat().st_size, sha256_file(path))
    publish(path, directory / relative)
    return record


def _damage(directory: Path, files: Sequence[PartFile], hashes: bool) -> list[str]:
    found = []
    for record in files:
        path = directory / record.path
        if not path.is_file():
            found.append(f"{record.path} is absent")
        elif path.stat().st_size != record.bytes:
            found.append(f"{record.path} has {path.stat().st_size} bytes instead of {record.bytes}")
        elif hashes and sha256_file(path) != record.sha256:
            found.append(f"{record.path} has other bytes than when it was written")
    return found


def _read(directory: Path) -> Artifact:
    path = layout.manifest_file(directory)
    try:
        value = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FormatError(path, f"not readable as JSON ({error})", "Delete that directory and build it again.") from error
    stated = value.get("format") if isinstance(value, dict) else None
    if stated != FORMAT_VERSION:
        raise FormatError(path, f"format {stated!r}, this version reads {FORMAT_VERSION}", "Build it again.")
    fields = ("kind", "name", "id", "fingerprint", "parameters", "inputs")
    try:
        parts = tuple(Part.from_json(part) for part in value["parts"])
        return Artifact(directory, **{name: value[name] for name in fields}, parts=parts, measured=value["measured"])
    except (KeyError, TypeError) as error:
        raise FormatError(path, f"not a manifest ({error!r})", "Delete that directory and build it again.") from error


def _present(root: Path, kind: str) -> str:
    names = sorted(path.parent.name for path in (root / kind).glob("*/current"))
    return f"Present: {', '.join(names)}." if names else f"Nothing of kind {kind} has been built under this root yet."


def _versions() -> dict[str, str]:
    versions = {}
    for package in _RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return versions
