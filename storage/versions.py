"""The versions of an artifact, one after the other: when, from what, and what changed.

storage.collect removes them.
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
    layout.family_directory(root, kind, name)  # raises for an impossible kind or name
    everything = artifacts(root)
    known = by_fingerprint(everything)
    versions = []
    before: Artifact | None = None
    for artifact in everything:
        if (artifact.kind, artifact.name) == (kind, name):
            change = change_between(before, artifact) if before else None
            inputs = _inputs(artifact, known)
            versions.append(Version(artifact, is_current(root, artifact), inputs, change))
            before = artifact
    return versions


def change_between(before: Artifact, after: Artifact) -> Change:
    """What differs between two versions."""
    made, gone = _without(after.parts, before.parts), _without(before.parts, after.parts)
    names = [part.name for part in made]
    rows_added, rows_removed = _rows_changed(before, gone, after, made)
    return Change(
        against=before.version,
        parameters=_differing(flat(before.parameters), flat(after.parameters)),
        inputs=_differing(before.inputs, after.inputs),
        taken_over=_names_but(after.parts, names),
        made=tuple(names),
        dropped=_names_but(gone, names),
        rows_added=rows_added,
        rows_removed=rows_removed,
    )


def _names_but(parts: Sequence[Part], without: Sequence[str]) -> tuple[str, ...]:
    """The parts' names, but for some."""
    left_out = set(without)
    return tuple(part.name for part in parts if part.name not in left_out)


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
    inputs = {}
    # Kinds are listed in the order they are made: an input is of an earlier kind than its user.
    earlier_kinds = layout.KINDS[: layout.KINDS.index(artifact.kind)]
    for role, fingerprint in artifact.inputs.items():
        candidates = [a for a in known.get(fingerprint, ()) if a.kind in earlier_kinds]
        candidates.sort(key=lambda a: (a.name == artifact.name, a.version))
        inputs[role] = (fingerprint, candidates[-1].reference if candidates else None)
    return inputs


def _without(parts: Sequence[Part], others: Sequence[Part]) -> list[Part]:
    """The parts that `others` has no part of the same origin for."""
    # Counted, as several parts may be of one origin: each is matched by one of the others.
    left = Counter(part.made_from for part in others)
    unmatched = []
    for part in parts:
        if left[part.made_from]:
            left[part.made_from] -= 1
        else:
            unmatched.append(part)
    return unmatched


def _differing(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> tuple[tuple[str, Any, Any], ...]:
    """(key, value before, value after) of every key whose values are not the same JSON."""
    differing = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True):
            differing.append((key, old, new))
    return tuple(differing)


def _rows_changed(
    before: Artifact, gone: Sequence[Part], after: Artifact, made: Sequence[Part]
) -> tuple[int, int]:
    """Rows added and removed. Only the parts that changed are read."""
    try:
        old, new = _keys(before, gone), _keys(after, made)
    except FormatError:
        # Without keys only the difference of the numbers is known.
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
        names = [file.path for file in part.files if file.path.endswith(".parquet")]
        if not names:
            raise FormatError(
                artifact.directory, f"part {part.name} has no keys", "Count its rows."
            )
        for name in names:
            tables.append(read_table(artifact.file(name), ["key"]))
    keys = pa.concat_tables(tables)["key"] if tables else pa.chunked_array([], pa.string())
    return keys.combine_chunks()


def _count_absent(keys: pa.Array, others: pa.Array) -> int:
    # The sum of no values is null.
    return len(keys) - (pc.sum(pc.is_in(keys, value_set=others)).as_py() or 0)
