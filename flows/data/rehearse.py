"""What taking images out of a database would do, without doing it: `rdm remove --dry-run`. And the
checks that `rdm remove` makes before it changes anything.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict
from typing import Any

from flows.config.database import RemoveKeys
from storage.artifact import Artifact, all_with_fingerprint, artifacts, is_current, open_artifact
from storage.collect import builder_of, collect
from storage.embeddings import read_columns
from storage.errors import BuildRefused, StorageError
from storage.holders import Holder, TrainedRun, holders, trained_on
from storage.keys import source_key_of
from storage.manifest import Plan, read_plan
from storage.removals import on_list, read_keys, read_removals, removal_parameters
from storage.unfinished import has_finished_work, unfinished

MOST_KEYS_LISTED = 20
"""Keys that a message or an answer names, at most."""


def rehearse(config: RemoveKeys) -> tuple[str, dict[str, Any]]:
    """What a removal would take out and make again, and which runs were trained on it. Changes
    nothing.

    Raises StorageError where the removal would be refused.
    """
    before = open_artifact(config.root, "embeddings", config.database)
    removed = checked_keys(config, before)
    listed = read_removals(config.root, config.database)
    keys = read_columns(before, ["key"])["key"].to_pylist()
    rows = on_list(keys, listed | removed)
    searched_again: list[str] = []
    stale: list[str] = []
    for table, sides in tables_with(config):
        can_be_searched = all(sides.values())
        (searched_again if can_be_searched else stale).append(table.reference)
    holding = holders(config.root, removed)
    runs = trained_on(config.root, holding)
    value = {
        "dry_run": True, "database": config.database, "parameters": config.model_dump(mode="json"),
        "rows_removed": rows, "listed_already": sorted(removed & listed),
        "searched_again": searched_again, "stale": stale,
        "runs": [asdict(run) for run in runs],
        "holders": described_holders(config, holding),
    }  # fmt: skip
    return "\n".join(_rehearsed(value, runs)), value


def tables_with(config: RemoveKeys) -> Iterator[tuple[Artifact, dict[str, str | None]]]:
    """Every current neighbor table that a version of this database is on a side of, with what each
    side would be searched with again: role -> embeddings, or None where they are not under this
    root.
    """
    own = artifacts(config.root, "embeddings", config.database)
    versions = {embeddings.fingerprint for embeddings in own}
    for table in artifacts(config.root, "neighbors"):
        if not is_current(config.root, table):
            continue
        sides = {
            "queries": side_of(config, table, "queries", versions),
            "database": side_of(config, table, "database", versions),
        }
        # Tables of other databases with the same bytes are theirs.
        if config.database in sides.values():
            yield table, sides


def described_holders(config: RemoveKeys, holding: Iterable[Holder]) -> list[dict[str, Any]]:
    """What holds the samples, and whether the next collection removes it."""
    # A dry run of the collection knows what would go and why the rest stays.
    next_collection = collect(config.root, keep=1, dry_run=True)
    # Of an autoencoder that stays the training states may go alone.
    versions = [removed for removed in next_collection.removed if removed.what != "states"]
    goes = {removed.reference for removed in versions}
    described = []
    for holder in holding:
        reference = holder.reference
        stays = next_collection.kept.get(reference)
        described.append(
            asdict(holder) | {"goes_with_gc": reference in goes, "stays_because": stays}
        )
    return described


def checked_keys(config: RemoveKeys, before: Artifact) -> frozenset[str]:
    """The keys of the request. Raises StorageError, before anything has changed, when they cannot
    be removed as they are.
    """
    requested, listed = read_keys(config.keys_file), read_removals(config.root, config.database)
    keys = read_columns(before, ["key"])["key"].to_pylist()
    # A line of the file names one crop by its key, or all crops of an image by its source key.
    crops, images = set(keys), {source_key_of(key) for key in keys}
    unknown, both = [], []
    for key in requested:
        if key not in crops and key not in images and not on_list([key], listed):
            unknown.append(key)
        if key in crops and key in images:
            both.append(key)
    if not requested:
        raise StorageError(config.keys_file, "names no key", "Write one key a line.")
    # An unknown key is most likely a mistake in the file.
    if unknown and not config.missing_ok:
        cure = (
            "Nothing was changed. Correct them, or put them on the list all the same: --missing-ok."
        )
        raise StorageError(
            config.keys_file, f"the database {config.database} does not hold {few(unknown)}", cure
        )
    if both:
        cure = (
            "Name the image's crops one by one, or the whole image that the crop is of. "
            "Nothing was changed."
        )
        raise StorageError(
            config.keys_file,
            f"both one crop of an image and another image are called {few(both)}",
            cure,
        )
    removed = listed | set(requested)
    # An empty database could not be searched.
    if len(on_list(keys, removed)) == len(keys):
        cure = "Nothing was changed. Stop using it, and delete its directories."
        raise StorageError(
            config.keys_file, f"nothing would be left of the database {config.database}", cure
        )
    refuse_while_unfinished(config, filtered_plan(config, before, removed))
    return frozenset(requested)


def refuse_while_unfinished(config: RemoveKeys, plan: Plan) -> None:
    """Raise BuildRefused when an unfinished build would stand in the way of the one that removes
    the keys.
    """
    for directory in unfinished(config.root, "embeddings", config.database):
        begun = read_plan(directory)
        if begun is None or begun.parameters == plan.parameters:
            continue
        # Not in the way: a build without a finished part, or one that a process is at.
        if has_finished_work(directory) and not builder_of(directory):
            raise BuildRefused(
                f"embeddings/{config.database}",
                "an unfinished build with other parameters stands in the way",
                "Nothing was changed. Finish it, or drop it: "
                f"rdm gc --unfinished embeddings/{config.database}",
            )


def filtered_plan(config: RemoveKeys, before: Artifact, removed: Set[str]) -> Plan:
    """The plan that embedding the same shards with this removal list has. So the next scheduled
    build finds its work done.
    """
    return Plan(
        "embeddings",
        config.database,
        dict(before.parameters) | removal_parameters(removed),
        before.inputs,
    )


def side_of(config: RemoveKeys, table: Artifact, role: str, versions: Set[str]) -> str | None:
    """The embeddings on one side of a table: this database as it is now, or exactly what it had.

    Of several databases with the same bytes it is the one of the table's name, else this one. None
    where what it had is not under this root.
    """
    # Equal bytes have equal fingerprints, so several databases may be meant by one.
    same = all_with_fingerprint(config.root, "embeddings", table.inputs[role])
    namesakes = [other for other in same if other.name == table.name != config.database]
    if table.inputs[role] in versions and not namesakes:
        return config.database
    candidates = namesakes or same
    if not candidates:
        return None
    newest = candidates[-1]
    return f"{newest.name}@{newest.id}"


def few(keys: list[str]) -> str:
    """Keys by name, the first of them if they are many."""
    named = ", ".join(keys[:MOST_KEYS_LISTED])
    rest = len(keys) - MOST_KEYS_LISTED
    return f"{named} and {rest:,} more" if rest > 0 else named


def run_lines(run: TrainedRun) -> list[str]:
    """A run, and which of its inputs held the samples."""
    lines = [f"  {run.reference}{'' if run.finished else ' (unfinished)'}"]
    for role, reference in run.held.items():
        lines.append(f"    {role:<12} {reference}")
    for role in run.unknown:
        lines.append(f"    {role:<12} nobody can tell: it is not under this root")
    return lines


def runs_section(runs: Sequence[TrainedRun], hold: str, holds: str) -> list[str]:
    """The runs that were trained on versions with the samples. The verb is given for several
    versions and for one.
    """
    if not runs:
        return ["", f"no run was trained on a version that {holds} them"]
    lines = ["", f"trained on versions that {hold} them:"]
    for run in runs:
        lines += run_lines(run)
    return lines


def holder_line(holder: Mapping[str, Any]) -> str:
    """An artifact that holds the samples: what of them, and when it goes."""
    what = f"{holder['what']} ({len(holder['keys'])})" if holder["keys"] else holder["what"]
    stays = f"stays: {holder['stays_because']}" if holder["stays_because"] else "stays"
    then = "goes with rdm gc --keep 1" if holder["goes_with_gc"] else stays
    return f"  {holder['reference']:<44} {what:<28} {then}"


def _rehearsed(value: Mapping[str, Any], runs: list[TrainedRun]) -> list[str]:
    rows = value["rows_removed"]
    lines = [
        f"{len(rows):,} rows would be taken out of the database {value['database']}; "
        "nothing has changed"
    ]
    for key in rows[:MOST_KEYS_LISTED]:
        lines.append(f"  {key}")
    if len(rows) > MOST_KEYS_LISTED:
        lines.append(f"  and {len(rows) - MOST_KEYS_LISTED:,} more (all of them: --json)")
    if value["searched_again"] or value["stale"]:
        lines += ["", "neighbor tables that would be made again:"]
    for reference in value["searched_again"]:
        lines.append(f"  {reference}")
    for reference in value["stale"]:
        why = "cannot be: what it was made from is not under this root"
        lines.append(f"  {reference:<44} {why}")
    lines += runs_section(runs, "hold", "holds")
    drawn: list[str] = []
    others: list[str] = []
    for holder in value["holders"]:
        is_drawn = holder["reference"].startswith(("samples/", "reports/"))
        (drawn if is_drawn else others).append(holder_line(holder))
    lines += ["", "drawn from them:" if drawn else "no sample was drawn from them", *drawn]
    return [*lines, "", "hold them today:", *others]
