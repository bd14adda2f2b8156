"""What is written of an artifact, as frozen records: Plan, Part and Manifest.

    plan.json                what was asked for: Plan
    .build/<part>.part.json  one part that is whole: Part
    manifest.json            the whole of it: Manifest

Here they are read and checked; their files are asked for in storage.artifact, and written by
storage.build. Two identities: the *plan's id* says whether a build answers a request; the
*fingerprint*, a hash over the parts' hashes, is what downstream artifacts record as their input.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from storage import layout
from storage.atomic import canonical_json, sha256_of
from storage.errors import ArtifactDamaged, FormatError

FORMAT_VERSION = 2
REVISION = "revision"
"""The parameter that says which revision of its stage made an artifact; 1 where it is absent."""


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
    parameters: dict[str, Any] = {}
    for key, item in values.items():
        # An empty mapping has no parameter inside and so leaves nothing.
        if isinstance(item, Mapping):
            parameters |= flat(item, f"{before}{key}.")
        else:
            parameters[f"{before}{key}"] = item
    return parameters


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

    def located(self, directory: Path) -> Iterator[tuple[Path, PartFile]]:
        """Each of its files, with the path of it in the artifact's directory."""
        for file in self.files:
            yield layout.part_file(directory, self.prefix, file.path), file

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
class Manifest:
    """What a published artifact is, wherever it lies."""

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
        total = 0
        for part in self.parts:
            for file in part.files:
                total += file.bytes
        return total

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


def files_in(directory: Path, parts: Iterable[Part]) -> list[tuple[Part, Path, PartFile]]:
    """Every file of some parts, in order: its part, its path in the artifact's directory, and its
    record.
    """
    files = []
    for part in parts:
        for path, file in part.located(directory):
            files.append((part, path, file))
    return files


def reasons_by_part(parts: Iterable[Part], reasons: Iterable[str]) -> dict[str, list[str]]:
    """Part name -> what is wrong with its files, from one reason a file, "" for a whole one.

    `parts`: the part of each file. A part whose files are all whole is not in the answer.
    """
    wrong: dict[str, list[str]] = {}
    for part, reason in zip(parts, reasons, strict=True):
        if reason:
            wrong.setdefault(part.name, []).append(reason)
    return wrong


def fingerprint_of(parts: Sequence[Part]) -> str:
    """16 hex digits over every file's path and hash: equal bytes, equal fingerprint."""
    hashes = []
    for part in parts:
        for file in part.files:
            # Without the prefix: it differs from attempt to attempt, the bytes do not.
            hashes.append([file.path, file.sha256])
    return sha256_of(canonical_json(hashes))[:16]


def manifest_json(manifest: Manifest, created_by: Mapping[str, str]) -> dict[str, Any]:
    """What manifest.json holds."""
    content = {field.name: getattr(manifest, field.name) for field in fields(Manifest)}
    content["parts"] = [asdict(part) for part in manifest.parts]
    return {"format": FORMAT_VERSION, **content, "created_by": created_by}


def read_manifest(directory: Path) -> Manifest:
    """The manifest in a directory; the files that it lists are not looked at.

    Raises FormatError for another version of the format, ArtifactDamaged for anything that is no
    manifest.
    """
    path = layout.manifest_file(directory)
    cure = "Run the command that builds it again."
    try:
        value = json.loads(path.read_bytes().decode())
        format_version = value["format"]
        # Compared before anything else is read: another version may lay the rest out otherwise.
        if format_version == FORMAT_VERSION:
            manifest = _manifest(value)
            _check_identity(path, manifest, cure)
            return manifest
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactDamaged(path, f"not a manifest ({error!r})", cure) from error
    what = f"format {format_version!r}, this version reads {FORMAT_VERSION}"
    raise FormatError(path, what, "Build it again.")


def read_plan(directory: Path) -> Plan | None:
    """What an unfinished build was asked for, or None when the file is not readable."""
    try:
        value = json.loads(layout.plan_file(directory).read_bytes())
        return Plan(value["kind"], value["name"], value["parameters"], value["inputs"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_part(directory: Path, part_name: str) -> Part | None:
    """The record of a finished part of an unfinished build; None when there is none, or a power cut
    left half of it.
    """
    try:
        record = layout.part_record_file(directory, part_name).read_bytes()
        return Part.from_json(json.loads(record))
    # ValueError covers broken JSON, KeyError and TypeError JSON that is something else.
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def read_parts(directory: Path) -> list[Part]:
    """Every part on record in an unfinished build, in no order."""
    parts = []
    for name in layout.parts_on_record(directory):
        part = read_part(directory, name)
        if part:
            parts.append(part)
    return parts


def _manifest(value: Mapping[str, Any]) -> Manifest:
    content: dict[str, Any] = {"parts": tuple(Part.from_json(part) for part in value["parts"])}
    for entry in fields(Manifest):
        if entry.name != "parts":
            content[entry.name] = value[entry.name]
    return Manifest(**content)


def _check_identity(path: Path, manifest: Manifest, cure: str) -> None:
    """A manifest vouches for itself: its id and fingerprint follow from what it lists."""
    planned = Plan(manifest.kind, manifest.name, manifest.parameters, manifest.inputs).id
    if (planned, fingerprint_of(manifest.parts)) != (manifest.id, manifest.fingerprint):
        what = "its id or fingerprint does not follow from what it lists: it was altered"
        raise ArtifactDamaged(path, what, cure)
