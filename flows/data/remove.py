"""Taking samples out of a database for good, and telling which runs were trained on them."""

from collections.abc import Mapping, Set
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows.config.database import BuildDatabase, FindNeighbors, RemoveKeys
from flows.data.build_database import origin_of
from flows.data.database import searched_by
from flows.data.find_neighbors import find_neighbors
from flows.data.index_embeddings import index_embeddings
from flows.data.rehearse import (
    checked_keys,
    described_holders,
    filtered_plan,
    holder_line,
    runs_section,
    tables_with,
)
from flows.run.progress import Clock
from flows.run.stage import (
    Wanted,
    building,
    gathered,
    group_of_parts,
    groups,
    kept,
    only,
    published,
    stage_flow,
    stage_task,
)
from storage.artifact import Artifact, artifacts, check, is_current, open_artifact
from storage.build import Build
from storage.checks import shards_of
from storage.conditions import ConditionError
from storage.embeddings import of_what, read_columns, write_embeddings_without
from storage.holders import Holder, TrainedRun, holders, trained_on
from storage.manifest import REVISION, Part, made_from
from storage.removals import add_removals, on_list, read_removals, removals_file


@dataclass(frozen=True)
class Removal:
    """What was published without the keys, and what still holds them."""

    config: RemoveKeys
    rows: int
    """Rows that the database had and has no more."""
    published: tuple[Artifact, ...]
    """The current versions without them: embeddings, index, neighbor tables."""
    stale: tuple[str, ...]
    """Neighbor tables that could not be made again: their queries or their database are not under
    this root.
    """
    runs: tuple[TrainedRun, ...]
    holders: tuple[Holder, ...]

    def answer(self) -> tuple[str, dict[str, Any]]:
        """What `rdm remove` prints, and the same for a machine."""
        root, database = self.config.root, self.config.database
        published = []
        for artifact in self.published:
            published.append({"artifact": artifact.reference, "rows": artifact.rows})
        value = {
            "database": database,
            "removal_list": str(removals_file(root, database)),
            "rows_removed": self.rows,
            "published": published,
            "stale": list(self.stale),
            "runs": [asdict(run) for run in self.runs],
            "holders": described_holders(self.config, self.holders),
        }
        return "\n".join(_lines(self, value)), value


@stage_flow("remove-keys")
def remove_keys(config: RemoveKeys) -> Removal:
    """Take images out of a database so that no later build brings them back, and tell which runs
    were trained on them.

    keys --check--> removal list --filter--> embeddings --> index --search--> neighbor tables
      └---------look at every version---------> runs trained on them, what still holds them
    """
    before = open_artifact(config.root, "embeddings", config.database)
    removed = checked_keys(config, before)
    # The list comes first: whatever ends this run, no later build brings the keys back.
    add_removals(config.root, config.database, removed)
    # Then everything that is made from the rows, in the order in which it depends on them.
    embeddings = filter_embeddings(config)
    index = index_again(config, embeddings)
    tables, stale = search_again(config)
    # Last, who still holds them: old versions, shards, and runs that were trained on them.
    holding = holders(config.root, removed)
    runs = trained_on(config.root, holding)
    return Removal(
        config,
        before.rows - embeddings.rows,
        (embeddings, *index, *tables),
        stale,
        tuple(runs),
        tuple(holding),
    )


@stage_flow("filter-embeddings", threads=None)
def filter_embeddings(config: RemoveKeys) -> Artifact:
    """embeddings --without the keys on the list--> embeddings. A part that holds none of them stays
    the same file.
    """
    clock = Clock()
    before = open_artifact(config.root, "embeddings", config.database)
    removed = read_removals(config.root, config.database)
    with building(config.root, filtered_plan(config, before, removed)) as build:
        if build.finished:
            return kept(build)
        shards = shards_of(config.root, before)
        wanted = {}
        for part in before.parts:
            wanted[part.name] = filtered_origin(before, part, shards, removed)
        futures = []
        for group in groups(wanted):
            futures.append(filter_group.submit(build, only(before, group), group, removed))
        parts = gathered(build, futures)
        return published(build, parts, clock, **those_of(before.measured, "weights", "device"))


def those_of(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The values of those names that are there."""
    return {name: values[name] for name in names if name in values}


def filtered_origin(
    before: Artifact, part: Part, shards: Artifact | None, removed: Set[str]
) -> str:
    """Its origin without the keys: as embedding the shard again would have it, so that a rebuild
    takes the part over.
    """
    # A part without such keys keeps its origin, and so its file.
    gone = keys_on_list(before, part, removed)
    if not gone:
        return part.made_from
    if shards is not None:
        how = those_of(before.parameters, "encoder", "precision", "of", REVISION)
        for shard in shards.parts:
            if shard.name == part.name:
                return origin_of(how, shards, shard, removed)
    # Without the shards the origin can only build on the one that the part had.
    return made_from(part.made_from, sorted(gone))


def keys_on_list(embeddings: Artifact, part: Part, removed: Set[str]) -> set[str]:
    """The keys of a part that are on the list."""
    keys = read_columns(only(embeddings, [part.name]), ["key"])["key"].to_pylist()
    return set(on_list(keys, removed))


@stage_task(name="filter-parts")
def filter_group(build: Build, before: Artifact, wanted: Wanted, removed: Set[str]) -> list[Part]:
    """The parts of one task run."""
    return group_of_parts(
        build, wanted, lambda name: filter_part(build, only(before, [name]), wanted[name], removed)
    )


def filter_part(build: Build, before: Artifact, origin: str, removed: Set[str]) -> Part:
    """The rows of one part that may stay. Raises ArtifactDamaged rather than copying a damaged file
    under a new hash.
    """
    check(before)
    # `before` holds this part alone, in one file.
    (part,) = before.parts
    gone, (source,) = keys_on_list(before, part, removed), before.files(".parquet")

    def write(scratch: Path) -> tuple[int, dict[str, int]]:
        rows = write_embeddings_without(source, scratch, part.name, gone, of_what(before))
        return rows, dict(part.counts)

    return build.write_part(part.name, origin, write)


def index_again(config: RemoveKeys, embeddings: Artifact) -> list[Artifact]:
    """The index over them, by the recipe of the current one; nothing where there was none."""
    index = current(config.root, "index", config.database)
    if index is None:
        return []
    settings = {
        "recipe": index.parameters["recipe"],
        "index_memory": index.parameters.get("memory"),
        "recall_target": index.parameters.get("recall_target"),
        "recall_queries": index.measured.get("recall_queries"),
        "recall_k": index.measured.get("k"),
    }
    # What the current index does not say keeps the default of the parameters.
    stated = {name: value for name, value in settings.items() if value}
    request = BuildDatabase(
        root=config.root,
        name=config.database,
        shards=config.database,  # not read, as the embeddings are there
        encoder=embeddings.parameters["encoder"]["model"],
        weights=embeddings.measured["weights"],
        **stated,
    )
    return [index_embeddings.ensured(request, embeddings, index)]


def search_again(config: RemoveKeys) -> tuple[list[Artifact], tuple[str, ...]]:
    """Every current neighbor table that a version of this database was searched for or searched
    with, each as it was searched for.

    The second answer names those that cannot be made again.
    """
    made, stale = [], []
    for table, sides in tables_with(config):
        # A side is None where its embeddings are not under this root.
        if all(sides.values()):
            names = ("k", "group", "where", "within", "in_turns", "score_cap", "most_alike")
            stated = those_of(table.parameters, *names, "query_word_dropout")
            searched = {"search": searched_by(table), **stated, **sides}
            request = FindNeighbors(root=config.root, name=table.name, **searched)
            with suppress(ConditionError):  # no row is left that satisfies its condition
                made.append(find_neighbors.ensured(request))
                continue
        stale.append(table.reference)
    return made, tuple(stale)


def current(root: Path, kind: str, name: str) -> Artifact | None:
    """The current version, whether its files are whole or not; None when there is none."""
    for artifact in artifacts(root, kind, name):
        if is_current(root, artifact):
            return artifact
    return None


def _lines(removal: Removal, value: dict[str, Any]) -> list[str]:
    database = removal.config.database
    lines = [
        f"{removal.rows:,} rows taken out of the database {database}; "
        f"no build brings them back: {value['removal_list']}"
    ]
    lines += ["", "published without them:"]
    for artifact in removal.published:
        lines.append(f"  {artifact.reference:<44} {artifact.rows:>11,} rows")
    for reference in removal.stale:
        why = "not made again: what it was made from, or every row of it, is gone"
        lines.append(f"  {reference:<44} {why}")
    lines += runs_section(removal.runs, "held", "held")
    if not removal.holders:
        return [*lines, "", "nothing under this root holds them any more"]
    lines += ["", "still there:"]
    for holder in value["holders"]:
        lines.append(holder_line(holder))
    older = (
        "Older versions go with: rdm gc --keep 1. "
        "What is an input of something else stays until that is built again."
    )
    sources = (
        "Shards, and the latents made from them, keep an image "
        "until it is taken out of the source and imported again."
    )
    runs = (
        "A run draws from the version it was trained with unless it is told another: "
        f"rdm sample --database {database}"
    )
    return [*lines, "", older, sources, runs]
