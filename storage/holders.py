"""What under a root still holds some samples, and which runs were trained on them.

Who takes samples out of a database must hear both.
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
_THROUGH = {
    "index": ("vectors", "embeddings"),
    "reports": ("images drawn from them", "samples"),
    "autoencoders": ("weights, pictures of some", "shards"),
}
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
    """Which of them; none when its tables cannot be read, so that nobody knows."""
    fingerprint: str | None
    """None for an unfinished build."""


@dataclass(frozen=True)
class TrainedRun:
    """A run that was trained on a version that held some of the samples, or on one that is gone, so
    that nobody knows.
    """

    reference: str
    finished: bool
    held: Mapping[str, str]
    """Role -> reference of the input that held them."""
    unknown: tuple[str, ...]
    """Roles whose artifact is not under this root."""


@dataclass(frozen=True)
class _Candidate:
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
    candidates, read = list(_candidates(root)), Read()
    holding: list[Holder] = []
    keys_by_source: dict[tuple[str, str | None], tuple[str, ...]] = {}
    for candidate in candidates:
        if candidate.kind in _HOLDS:
            holder = _holder(candidate, removed, read)
            if holder:
                holding.append(holder)
                keys_by_source[candidate.kind, candidate.fingerprint] = holder.keys
    # Kinds that name no sample themselves: they hold what their input holds.
    for candidate in candidates:
        what, kind = _THROUGH.get(candidate.kind, ("", ""))
        keys: set[str] = set()
        for fingerprint in candidate.inputs.values():
            keys.update(keys_by_source.get((kind, fingerprint), ()))
        if keys:
            holding.append(
                Holder(candidate.reference, what, tuple(sorted(keys)), candidate.fingerprint)
            )
    return holding + [Holder(error.where, MAY_HOLD, (), None) for error in unreadable(root)]


def trained_on(root: Path, holding: Iterable[Holder]) -> list[TrainedRun]:
    """The runs and autoencoders, finished or not, among whose inputs is one of the holders,
    something made by what was trained on them, or something that is not under this root.
    """
    held = {holder.fingerprint: holder.reference for holder in holding if holder.fingerprint}
    present = {artifact.fingerprint for artifact in artifacts(root)}
    kinds = ("autoencoders", "latents", "runs")
    autoencoders, latents, runs = (list(_candidates(root, kind)) for kind in kinds)
    # A run that began with the weights of a run that saw them holds them too, and so do the latents
    # of an autoencoder that did: repeated until no more come to it.
    known = 0
    while known < len(held):
        known = len(held)
        for made in [*autoencoders, *latents, *runs]:
            # Which images latents are of, their own tables say.
            roles = ("autoencoder",) if made.kind == "latents" else tuple(made.inputs)
            if made.fingerprint and any(made.inputs.get(role) in held for role in roles):
                held.setdefault(made.fingerprint, made.reference)
    trained = []
    for run in [*autoencoders, *runs]:
        held_inputs, unknown = {}, []
        for role, fingerprint in run.inputs.items():
            if fingerprint in held:
                held_inputs[role] = held[fingerprint]
            if fingerprint not in present:
                unknown.append(role)
        if held_inputs or unknown:
            finished = run.fingerprint is not None
            trained.append(TrainedRun(run.reference, finished, held_inputs, tuple(unknown)))
    return trained


def _candidates(root: Path, kind: str = "*") -> Iterator[_Candidate]:
    """Every published version, then every unfinished build."""
    for artifact in artifacts(root, kind):
        yield _Candidate(
            artifact.kind,
            artifact.reference,
            artifact.inputs,
            artifact.fingerprint,
            partial(artifact.files, ".parquet"),
        )
    for directory in unfinished(root, kind):
        plan, (its_kind, name, identity) = read_plan(directory), directory.parts[-3:]
        yield _Candidate(
            its_kind,
            f"{its_kind}/{name}@{identity}",
            plan.inputs if plan else {},
            None,
            partial(_finished_tables, directory),
        )


def _finished_tables(directory: Path) -> list[Path]:
    """The tables among the parts that an unfinished build has finished."""
    follow_records(directory)
    return local_files(directory, read_parts(directory), ".parquet")


def _holder(candidate: _Candidate, removed: Set[str], read: Read) -> Holder | None:
    """The candidate as a holder; None when its tables name none of the samples."""
    keys: set[str] = set()
    try:
        for path in candidate.tables():
            keys.update(_on_list_in(path, candidate.kind, removed, read))
    except (FormatError, ArtifactDamaged):
        return Holder(candidate.reference, MAY_HOLD, (), candidate.fingerprint)
    if not keys:
        return None
    what = _HOLDS[candidate.kind]
    return Holder(candidate.reference, what, tuple(sorted(keys)), candidate.fingerprint)


def _on_list_in(path: Path, kind: str, removed: Set[str], read: Read) -> list[str]:
    """The samples on the list that a table names; each table is read once."""
    try:
        status = path.stat()
    except OSError as error:
        raise FormatError(path, f"cannot be read ({error})", "Run `rdm check`.") from error
    # Versions share the files of parts that did not change: each is read once.
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
