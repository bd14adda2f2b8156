"""Who under a root still holds some samples, and which runs were trained on them: what a removal
has to tell.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow.compute as pc

from storage.artifact import artifacts, local_files, unreadable
from storage.errors import ArtifactDamaged, FormatError
from storage.manifest import read_parts, read_plan
from storage.parquet import read_table
from storage.removals import on_list
from storage.shards import accepted
from storage.unfinished import follow_records, unfinished

MAY_HOLD = "cannot be read: it may hold them"
_HOLDS = {
    "shards": "images",
    "embeddings": "vectors",
    "latents": "latents",
    "neighbors": "their names",
    "samples": "images drawn from them",
}
_THROUGH = {"index": ("vectors", "embeddings"), "reports": ("images drawn from them", "samples")}
"""Kind whose files name no sample -> what it holds, and the kind of its input that it has it
from.
"""


@dataclass(frozen=True)
class Holder:
    """A published version or an unfinished build that holds some of the samples."""

    reference: str
    """kind/name@id, or the path of a manifest that cannot be read."""
    what: str
    """What it holds of them, in a few words."""
    keys: tuple[str, ...]
    """Which of them; none when its tables cannot be read, so that nobody can tell."""
    fingerprint: str | None
    """None for an unfinished build."""


@dataclass(frozen=True)
class TrainedRun:
    """A run that was trained on a version that held some of the samples, or on one that cannot be
    asked any more.
    """

    reference: str
    finished: bool
    held: Mapping[str, str]
    """Role -> reference of the input that held them."""
    unknown: tuple[str, ...]
    """Roles whose artifact is not under this root."""


@dataclass(frozen=True)
class _Thing:
    """A published version or an unfinished build, as far as it matters here."""

    kind: str
    reference: str
    inputs: Mapping[str, str]
    fingerprint: str | None
    tables: Callable[[], list[Path]]
    """Fetches them from an object store."""


Read = dict[tuple[int, int], list[str]]
"""(device, inode) of a table -> the samples on the list that it names: versions share files."""


def holders(root: Path, removed: Set[str]) -> list[Holder]:
    """Every version of every name, and every unfinished build, that holds one of the samples on the
    list.
    """
    things, read = list(_things(root)), Read()
    found = [
        holder
        for thing in things
        if thing.kind in _HOLDS and (holder := _holder(thing, removed, read))
    ]
    sources = {
        (holder.reference.partition("/")[0], holder.fingerprint): holder.keys for holder in found
    }
    for thing in things:
        what, kind = _THROUGH.get(thing.kind, ("", ""))
        keys = {
            key
            for fingerprint in thing.inputs.values()
            for key in sources.get((kind, fingerprint), ())
        }
        if keys:
            found.append(Holder(thing.reference, what, tuple(sorted(keys)), thing.fingerprint))
    return found + [Holder(error.where, MAY_HOLD, (), None) for error in unreadable(root)]


def trained_on(root: Path, found: Iterable[Holder]) -> list[TrainedRun]:
    """The runs, finished or not, among whose inputs is one of the holders, a run with weights of
    theirs, or something that is not under this root.
    """
    held = {holder.fingerprint: holder.reference for holder in found if holder.fingerprint}
    present = {artifact.fingerprint for artifact in artifacts(root)}
    runs, things = [], list(_things(root, "runs"))
    known = 0
    while known < len(held):  # a run that began with the weights of one that saw them has them too
        known = len(held)
        for run in things:
            if run.fingerprint and not held.keys().isdisjoint(run.inputs.values()):
                held.setdefault(run.fingerprint, run.reference)
    for run in things:
        named = {
            role: held[fingerprint]
            for role, fingerprint in run.inputs.items()
            if fingerprint in held
        }
        unknown = tuple(
            role for role, fingerprint in run.inputs.items() if fingerprint not in present
        )
        if named or unknown:
            runs.append(TrainedRun(run.reference, run.fingerprint is not None, named, unknown))
    return runs


def _things(root: Path, kind: str = "*") -> Iterator[_Thing]:
    for a in artifacts(root, kind):
        yield _Thing(a.kind, a.reference, a.inputs, a.fingerprint, partial(a.files, ".parquet"))
    for directory in unfinished(root, kind):
        plan, (its_kind, name, identity) = read_plan(directory), directory.parts[-3:]
        tables = partial(_finished_tables, directory)
        yield _Thing(
            its_kind, f"{its_kind}/{name}@{identity}", plan.inputs if plan else {}, None, tables
        )


def _finished_tables(directory: Path) -> list[Path]:
    """The tables among the parts that an unfinished build has finished."""
    follow_records(directory)
    return local_files(directory, read_parts(directory), ".parquet")


def _holder(thing: _Thing, removed: Set[str], read: Read) -> Holder | None:
    try:
        keys = sorted(
            {key for path in thing.tables() for key in _on_list_in(path, thing.kind, removed, read)}
        )
    except (FormatError, ArtifactDamaged):
        return Holder(thing.reference, MAY_HOLD, (), thing.fingerprint)
    return (
        Holder(thing.reference, _HOLDS[thing.kind], tuple(keys), thing.fingerprint)
        if keys
        else None
    )


def _on_list_in(path: Path, kind: str, removed: Set[str], read: Read) -> list[str]:
    try:
        status = path.stat()
    except OSError as error:
        raise FormatError(path, f"cannot be read ({error})", "Run `rdm check`.") from error
    identity = (status.st_dev, status.st_ino)
    if identity not in read:
        read[identity] = on_list(_named_in(path, kind), removed)
    return read[identity]


def _named_in(path: Path, kind: str) -> list[str]:
    """Every sample that a table names. A rejected image is a row of its shard, but the shard does
    not hold it.
    """
    if kind == "shards":
        return accepted(read_table(path, ["key", "status"]))["key"].to_pylist()
    if kind == "samples":
        return pc.unique(
            pc.list_flatten(read_table(path, ["neighbor_keys"])["neighbor_keys"])
        ).to_pylist()
    if kind == "neighbors":
        table = read_table(path, ["key", "keys"])
        return table["key"].to_pylist() + pc.unique(pc.list_flatten(table["keys"])).to_pylist()
    return read_table(path, ["key"])["key"].to_pylist()
