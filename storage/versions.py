"""The versions of an artifact, one after the other: when, from what, and what changed. How they go:
storage.collect.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage import layout
from storage.artifact import Artifact, artifacts, is_current
from storage.errors import FormatError
from storage.manifest import Part, flat
from storage.parquet import read_table
from storage.place import place_of


@dataclass(frozen=True)
class Change:
    """One version against the one before it. Parts are compared by what they were made from,
    whatever they are called.
    """

    against: int
    """Number of the version before."""
    parameters: tuple[tuple[str, Any, Any], ...]
    """(key, before, now) of each parameter that differs; dots go inside, None where it is
    absent.
    """
    inputs: tuple[tuple[str, str | None, str | None], ...]
    """(role, fingerprint before, fingerprint now) of each input that differs."""
    taken_over: tuple[str, ...]
    """Parts that the version before has too."""
    made: tuple[str, ...]
    """Parts it does not have."""
    dropped: tuple[str, ...]
    """Its parts that are gone and that no part of the same name replaces."""
    rows_added: int
    rows_removed: int
    """By key; by number where the rows have no key, cannot be read or would have to be fetched."""


@dataclass(frozen=True)
class Version:
    """One version in its history."""

    artifact: Artifact
    current: bool
    inputs: Mapping[str, tuple[str, str | None]]
    """Role -> (fingerprint, reference of the artifact that has it, or None when it is not under
    this root).
    """
    change: Change | None
    """None for the first one that is still here."""


def history(root: Path, kind: str, name: str) -> list[Version]:
    """Every readable version of one kind and name, oldest first. Raises StorageError for an
    impossible kind or name.
    """
    layout.family_directory(root, kind, name)
    everything = artifacts(root)
    known = by_fingerprint(everything)
    family = [artifact for artifact in everything if (artifact.kind, artifact.name) == (kind, name)]
    return [
        Version(
            after,
            is_current(root, after),
            _inputs(after, known),
            change_between(before, after) if before else None,
        )
        for before, after in zip([None, *family], family, strict=False)
    ]


def change_between(before: Artifact, after: Artifact) -> Change:
    """What differs between two versions."""
    made, gone = _without(after.parts, before.parts), _without(before.parts, after.parts)
    names = {part.name for part in made}
    return Change(
        before.version,
        _differing(flat(before.parameters), flat(after.parameters)),
        _differing(before.inputs, after.inputs),
        tuple(part.name for part in after.parts if part.name not in names),
        tuple(part.name for part in made),
        tuple(part.name for part in gone if part.name not in names),
        *_rows_changed(before, gone, after, made),
    )


def by_fingerprint(everything: Iterable[Artifact]) -> dict[str, list[Artifact]]:
    """Fingerprint -> the artifacts that have it, in the given order."""
    known: dict[str, list[Artifact]] = {}
    for artifact in everything:
        known.setdefault(artifact.fingerprint, []).append(artifact)
    return known


def _inputs(
    artifact: Artifact, known: Mapping[str, Sequence[Artifact]]
) -> dict[str, tuple[str, str | None]]:
    """Of several artifacts with the same bytes, the newest of the same name, else the newest."""
    named, place = {}, layout.KINDS.index
    for role, fingerprint in artifact.inputs.items():
        earlier = (a for a in known.get(fingerprint, ()) if place(a.kind) < place(artifact.kind))
        found = sorted(earlier, key=lambda a: (a.name == artifact.name, a.version))
        named[role] = (fingerprint, found[-1].reference if found else None)
    return named


def _without(parts: Sequence[Part], others: Sequence[Part]) -> list[Part]:
    """The parts that `others` has no part of the same origin for."""
    left = Counter(part.made_from for part in others)
    found = []
    for part in parts:
        if left[part.made_from]:
            left[part.made_from] -= 1
        else:
            found.append(part)
    return found


def _differing(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[tuple[str, Any, Any], ...]:
    pairs = [(key, before.get(key), after.get(key)) for key in sorted(before.keys() | after.keys())]
    return tuple(
        pair
        for pair in pairs
        if json.dumps(pair[1], sort_keys=True) != json.dumps(pair[2], sort_keys=True)
    )


def _rows_changed(
    before: Artifact, gone: Sequence[Part], after: Artifact, made: Sequence[Part]
) -> tuple[int, int]:
    """Rows added and removed. Only the parts that changed are read."""
    try:
        old, new = _keys(before, gone), _keys(after, made)
    except FormatError:
        more = after.rows - before.rows
        return max(more, 0), max(-more, 0)
    return _count_absent(new, old), _count_absent(old, new)


def _keys(artifact: Artifact, parts: Sequence[Part]) -> pa.Array:
    """Raises FormatError when the parts' rows have no key, or a file cannot be read without
    fetching it.
    """
    tables = []
    if place_of(artifact.directory).far:
        raise FormatError(artifact.directory, "lies in an object store", "Count its rows.")
    for part in parts:
        paths = [artifact.file(f.path) for f in part.files if f.path.endswith(".parquet")]
        if not paths:
            raise FormatError(
                artifact.directory, f"part {part.name} has no keys", "Count its rows."
            )
        tables += [read_table(path, ["key"]) for path in paths]
    keys = pa.concat_tables(tables)["key"] if tables else pa.chunked_array([], pa.string())
    return keys.combine_chunks()


def _count_absent(keys: pa.Array, others: pa.Array) -> int:
    return len(keys) - (pc.sum(pc.is_in(keys, value_set=others)).as_py() or 0)
