"""An artifact is a directory that is whole or absent: Plan -> parts -> Manifest.

How one is built stands in storage.build. Two identities: the *plan's id* says whether a build
answers a request; the *fingerprint*, a hash over the parts' hashes, is what downstream artifacts
record as their input.
"""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from storage import layout, remote
from storage.atomic import canonical_json, sha256_file, sha256_of
from storage.errors import ArtifactDamaged, ArtifactMissing, FormatError, StorageError

FORMAT_VERSION = 2
REVISION = "revision"
"""The parameter that says which revision of its stage made an artifact; 1 where it is absent."""
THREADS_THAT_HASH = 8


@dataclass(frozen=True)
class Plan:
    """Everything that changes the bytes of an artifact, and nothing else (no device, no worker
    count).
    """

    kind: str
    name: str
    parameters: Mapping[str, Any]
    """JSON values."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Role ("shards", "database", ...) -> fingerprint of the artifact in that role."""

    @cached_property
    def id(self) -> str:
        """12 hex digits: equal for equal requests."""
        identity = {
            "format": FORMAT_VERSION,
            "kind": self.kind,
            "parameters": self.parameters,
            "inputs": self.inputs,
        }
        return sha256_of(canonical_json(identity))[:12]


def made_from(*facts: Any) -> str:
    """16 hex digits over JSON values."""
    return sha256_of(canonical_json(facts))[:16]


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested parameters as one level; dots go inside."""
    found: dict[str, Any] = {}
    for key, item in values.items():
        found |= (
            flat(item, f"{before}{key}.") if isinstance(item, Mapping) else {f"{before}{key}": item}
        )
    return found


@dataclass(frozen=True)
class PartFile:
    """One file of a part; `path` is relative to the artifact's directory and the part's prefix,
    with forward slashes.
    """

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
    made_from: str = ""
    """`made_from` of everything that determines its bytes: a new version takes over the parts where
    it is equal.
    """
    prefix: str = ""
    """Folder that its files lie in: of the attempt that wrote it in an object store, none on a
    disk.
    """

    @property
    def content(self) -> str:
        """The hashes of its files, whatever they are called: what a part that is made from this one
        is made from.
        """
        return made_from(*(f.sha256 for f in self.files))

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Part":
        """The part a manifest or part record describes. Raises ValueError, KeyError or TypeError
        for anything else.
        """
        files = tuple(PartFile(**f) for f in value["files"])
        part = Part(
            value["name"],
            value["rows"],
            files,
            value["counts"],
            value["made_from"],
            value.get("prefix", ""),
        )
        layout.checked_part(part.name, part.prefix, (f.path for f in files))
        return part


@dataclass(frozen=True)
class Artifact:
    """A published artifact. Its files never change."""

    directory: Path
    kind: str
    name: str
    id: str
    version: int
    """1 for the first build under its name, and so on; the clock has no say in it."""
    fingerprint: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, str]
    parts: tuple[Part, ...]
    measured: Mapping[str, Any]
    """Facts about the build that do not enter its identity: seconds, recall, counts."""
    created_at: str
    """ISO 8601, UTC, by the builder's clock."""

    @property
    def rows(self) -> int:
        """Rows over all parts."""
        return sum(part.rows for part in self.parts)

    @property
    def bytes(self) -> int:
        """Bytes over all files of all parts."""
        return sum(f.bytes for part in self.parts for f in part.files)

    @property
    def reference(self) -> str:
        """kind/name@id: this version, whatever is current."""
        return f"{self.kind}/{self.name}@{self.id}"

    @property
    def counts(self) -> dict[str, int]:
        """The parts' counts, added up."""
        total: dict[str, int] = {}
        for part in self.parts:
            for key, value in part.counts.items():
                total[key] = total.get(key, 0) + value
        return dict(sorted(total.items()))

    def file(self, relative: str) -> Path:
        """The path of one of the artifact's files or folders; from an object store it is fetched
        when it is asked for.
        """
        return (
            remote.local_path(self.directory, self._listed, relative)
            if self._prefixed
            else self.directory / relative
        )

    def files(self, suffix: str) -> list[Path]:
        """The files that end with `suffix`, in part order."""
        wanted = [
            (part.prefix, f) for part in self.parts for f in part.files if f.path.endswith(suffix)
        ]
        return remote.local_paths(self.directory, wanted)

    @cached_property
    def _prefixed(self) -> bool:
        return any(part.prefix for part in self.parts)

    @cached_property
    def _listed(self) -> dict[str, tuple[str, PartFile]]:
        return remote.listed(self.parts)


def fingerprint_of(parts: Sequence[Part]) -> str:
    """16 hex digits over every file's path and hash: equal bytes, equal fingerprint."""
    return sha256_of(canonical_json([[f.path, f.sha256] for part in parts for f in part.files]))[
        :16
    ]


def open_artifact(root: Path, kind: str, reference: str) -> Artifact:
    """Open `name` (the current version) or `name@id`, after checking that its files have their
    sizes.

    Raises ArtifactMissing, ArtifactDamaged or FormatError.
    """
    name, _, identity = reference.partition("@")
    if not identity:
        current = current_id(root, kind, name)
        if current is None:
            raise ArtifactMissing(
                f"{remote.shown(root)}/{kind}",
                f"there is no artifact {kind}/{name}",
                _present(root, kind),
            )
        identity = current
    directory = layout.artifact_directory(root, kind, name, identity)
    remote.follow(layout.manifest_file(directory))
    if not layout.manifest_file(directory).is_file():
        raise ArtifactMissing(
            remote.shown(directory),
            "it has no manifest, so it was never finished",
            "Run the command that builds it again.",
        )
    artifact = read_manifest(directory)
    check(artifact, hashes=False)
    return artifact


def check(artifact: Artifact, hashes: bool = True) -> None:
    """Compare every file with the manifest: sizes always, sha256 when `hashes`; then every object
    of a bucket is read.

    Raises ArtifactDamaged naming each file.
    """
    found = damage(artifact.directory, artifact.parts, hashes)
    if hashes and not found:
        found = remote.altered(artifact.directory, artifact.parts)
    if found:
        text = "; ".join(reason for reasons in found.values() for reason in reasons)
        raise ArtifactDamaged(
            remote.shown(artifact.directory), text, "Run the command that builds it again."
        )


def artifacts(root: Path, kind: str = "*", name: str = "*") -> list[Artifact]:
    """Every published artifact under the root, or those of one kind or name, by kind, name and
    version.

    Manifests that cannot be read are left out here and listed by `unreadable`.
    """
    found = (_read_or_error(path.parent) for path in _manifests(root, kind, name))
    return sorted(
        (a for a in found if isinstance(a, Artifact)),
        key=lambda a: (a.kind, a.name, a.version, a.id),
    )


def unreadable(root: Path, kind: str = "*", name: str = "*") -> list[ArtifactDamaged | FormatError]:
    """What is wrong with each manifest that cannot be read."""
    found = (_read_or_error(path.parent) for path in _manifests(root, kind, name))
    return [error for error in found if not isinstance(error, Artifact)]


def with_fingerprint(root: Path, kind: str, fingerprint: str) -> Artifact | None:
    """An artifact of that kind whose bytes have this fingerprint, or None where none is.

    Good for its bytes alone: others may have them too, under another name or made from something
    else.
    """
    return next(reversed(all_with_fingerprint(root, kind, fingerprint)), None)


def all_with_fingerprint(
    root: Path, kind: str, fingerprint: str, name: str = "*"
) -> list[Artifact]:
    """Every artifact of that kind, or of that kind and name, whose bytes have this fingerprint.

    By name and version. One that is asked for its name or its inputs must be looked for among all:
    versions of different inputs may be equal byte for byte, and so may artifacts of two names.
    """
    return [a for a in artifacts(root, kind, name) if a.fingerprint == fingerprint]


def current_id(root: Path, kind: str, name: str) -> str | None:
    """The id of the version in use, or None when nothing was published under that name."""
    pointer = remote.read(layout.pointer_file(root, kind, name))
    return None if pointer is None else pointer.decode(errors="replace").strip()


def is_current(root: Path, artifact: Artifact) -> bool:
    """Whether the name's pointer leads to this version."""
    return current_id(root, artifact.kind, artifact.name) == artifact.id


def damage(
    directory: Path, parts: Sequence[Part], hashes: bool, stored: Mapping[str, int] | None = None
) -> dict[str, list[str]]:
    """Part name -> what is wrong with its files; a part that is whole is not in the answer.

    In an object store the sizes are those of a listing, `stored` if given, and `hashes` means the
    copies in the mirror.
    """
    stored = remote.sizes_stored(directory) if stored is None else stored

    def wrong(item: tuple[Part, PartFile]) -> str | None:
        part, record = item
        path = layout.part_file(directory, part.prefix, record.path)
        try:
            size = (
                path.stat().st_size
                if stored is None
                else stored[path.relative_to(directory).as_posix()]
            )
            if size != record.bytes:
                return f"{record.path} has {size} bytes instead of {record.bytes}"
            if hashes and (stored is None or path.is_file()) and sha256_file(path) != record.sha256:
                if stored is not None:
                    path.unlink()  # only a copy: it is fetched again when it is used
                return f"{record.path} has other bytes than when it was written"
        except (FileNotFoundError, NotADirectoryError, KeyError):
            return f"{record.path} is absent"
        return None

    found: dict[str, list[str]] = {}
    items = [(part, record) for part in parts for record in part.files]
    with ThreadPoolExecutor(THREADS_THAT_HASH if hashes else 1) as pool:
        for (part, _), reason in zip(items, pool.map(wrong, items), strict=True):
            if reason:
                found.setdefault(part.name, []).append(reason)
    return found


def read_manifest(directory: Path) -> Artifact:
    """The artifact that a manifest describes; its files are not looked at.

    Raises FormatError for another version of the format, ArtifactDamaged for anything that is no
    manifest.
    """
    path = layout.manifest_file(directory)
    cure = "Run the command that builds it again."
    try:
        value = json.loads(path.read_bytes().decode())
        stated = value["format"]
        if stated == FORMAT_VERSION:
            parts = tuple(Part.from_json(part) for part in value["parts"])
            fields = {name: value[name] for name in _MANIFEST_FIELDS}
            artifact = Artifact(directory, parts=parts, **fields)
            _check_identity(path, artifact, cure)
            return artifact
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactDamaged(path, f"not a manifest ({error!r})", cure) from error
    raise FormatError(
        path, f"format {stated!r}, this version reads {FORMAT_VERSION}", "Build it again."
    )


_MANIFEST_FIELDS = (
    "kind",
    "name",
    "id",
    "version",
    "fingerprint",
    "parameters",
    "inputs",
    "measured",
    "created_at",
)


def _check_identity(path: Path, artifact: Artifact, cure: str) -> None:
    """A manifest vouches for itself: its id and fingerprint follow from what it lists."""
    planned = Plan(artifact.kind, artifact.name, artifact.parameters, artifact.inputs).id
    if (planned, fingerprint_of(artifact.parts)) != (artifact.id, artifact.fingerprint):
        raise ArtifactDamaged(
            path, "its id or fingerprint does not follow from what it lists: it was altered", cure
        )


def _manifests(root: Path, kind: str, name: str) -> list[Path]:
    remote.follow_all(root, kind, name, "manifest.json")
    for pattern in (kind, f"{kind}/{name}", f"{kind}/{name}/*"):
        _refuse_closed_folders([root, *root.glob(pattern)])
    return [
        path
        for path in sorted(root.glob(f"{kind}/{name}/*/manifest.json"))
        if path.parts[-4] in layout.KINDS
    ]


def _refuse_closed_folders(paths: Sequence[Path]) -> None:
    """Raise StorageError for a folder that may not be looked into: a search would pass over it
    without a word, and nothing be said of what lies there.
    """
    for path in paths:
        if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
            cure = "Give yourself the right to read it, or choose another root."
            raise StorageError(path, "this folder may not be looked into", cure)


def _read_or_error(directory: Path) -> Artifact | ArtifactDamaged | FormatError:
    try:
        return read_manifest(directory)
    except (ArtifactDamaged, FormatError) as error:
        return error
    except FileNotFoundError:  # removed since it was listed
        return ArtifactDamaged(directory, "its manifest has just been removed", "Look again.")


def _present(root: Path, kind: str) -> str:
    stored = remote.remote_of(root / kind)
    names = (
        stored.folders()
        if stored
        else sorted(path.parent.name for path in (root / kind).glob("*/current"))
    )
    return (
        f"Present: {', '.join(names)}."
        if names
        else f"Nothing of kind {kind} has been built under this root yet."
    )
