"""What taking images out of a database would do, found without doing it: `rdm remove --dry-run`,
and the checks that `rdm remove` makes before it changes anything.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
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

MOST_KEYS_TOLD = 20


def rehearse(config: RemoveKeys) -> tuple[str, dict[str, Any]]:
    """What a removal would take out and make again, and who has seen it; nothing is changed.

    Raises StorageError where the removal would be refused.
    """
    before = open_artifact(config.root, "embeddings", config.database)
    asked = checked_keys(config, before)
    listed = read_removals(config.root, config.database)
    keys = read_columns(before, ["key"])["key"].to_pylist()
    rows = on_list(keys, listed | asked)
    tables = [(table.reference, all(sides.values())) for table, sides in tables_with(config)]
    found = holders(config.root, asked)
    runs = trained_on(config.root, found)
    value = {
        "dry_run": True, "database": config.database, "parameters": config.model_dump(mode="json"),
        "rows_removed": rows, "listed_already": sorted(asked & listed),
        "searched_again": [reference for reference, whole in tables if whole],
        "stale": [reference for reference, whole in tables if not whole],
        "runs": [asdict(run) for run in runs],
        "holders": holders_told(config, found),
    }  # fmt: skip
    return "\n".join(_rehearsed(value, runs)), value


def tables_with(config: RemoveKeys) -> Iterator[tuple[Artifact, dict[str, str | None]]]:
    """Every current neighbor table that a version of this database is on a side of, with what each
    side would be searched with again: role -> embeddings, or None where they are not under this
    root.
    """
    versions = {a.fingerprint for a in artifacts(config.root, "embeddings", config.database)}
    for table in artifacts(config.root, "neighbors"):
        if not is_current(config.root, table):
            continue
        sides = {role: side_of(config, table, role, versions) for role in ("queries", "database")}
        if config.database in sides.values():
            yield table, sides


def holders_told(config: RemoveKeys, found: Iterable[Holder]) -> list[dict[str, Any]]:
    """Who holds the samples, and whether the next collection takes it."""
    next_collection = collect(config.root, keep=1, dry_run=True)
    goes = {one.reference for one in next_collection.removed}
    told = []
    for one in found:
        stays = next_collection.kept.get(one.reference)
        told.append(asdict(one) | {"goes_with_gc": one.reference in goes, "stays_because": stays})
    return told


def checked_keys(config: RemoveKeys, before: Artifact) -> frozenset[str]:
    """The keys that are asked to go. Raises StorageError, before anything has changed, when they
    cannot simply go.
    """
    asked, listed = read_keys(config.keys_file), read_removals(config.root, config.database)
    keys = read_columns(before, ["key"])["key"].to_pylist()
    single, sources = set(keys), {source_key_of(key) for key in keys}
    unknown = [key for key in asked if key not in single | sources and not on_list([key], listed)]
    if not asked:
        raise StorageError(config.keys_file, "names no key", "Write one key a line.")
    if unknown and not config.missing_ok:
        cure = (
            "Nothing was changed. Correct them, or put them on the list all the same: --missing-ok."
        )
        raise StorageError(
            config.keys_file, f"the database {config.database} does not hold {few(unknown)}", cure
        )
    both = [key for key in asked if key in single & sources]
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
    removed = listed | set(asked)
    if len(on_list(keys, removed)) == len(keys):
        cure = "Nothing was changed. Stop using it, and delete its directories."
        raise StorageError(
            config.keys_file, f"nothing would be left of the database {config.database}", cure
        )
    refuse_while_unfinished(config, filtered_plan(config, before, removed))
    return frozenset(asked)


def refuse_while_unfinished(config: RemoveKeys, plan: Plan) -> None:
    """Raise BuildRefused when an unfinished build would stand in the way of the one that removes
    the keys.
    """
    for directory in unfinished(config.root, "embeddings", config.database):
        other = read_plan(directory)
        stands = other and other.parameters != plan.parameters and has_finished_work(directory)
        if stands and not builder_of(directory):
            raise BuildRefused(
                f"embeddings/{config.database}",
                "an unfinished build with other parameters stands in the way",
                "Nothing was changed. Finish it, or drop it: "
                f"rdm gc --unfinished embeddings/{config.database}",
            )


def filtered_plan(config: RemoveKeys, before: Artifact, removed: Set[str]) -> Plan:
    """What embedding the same shards again with this removal list would be asked for: to a schedule
    it is done.
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
    same = all_with_fingerprint(config.root, "embeddings", table.inputs[role])
    namesakes = [other for other in same if other.name == table.name != config.database]
    if table.inputs[role] in versions and not namesakes:
        return config.database
    other = next(reversed(namesakes or same), None)
    return f"{other.name}@{other.id}" if other else None


def few(keys: list[str]) -> str:
    """Keys by name, the first of them if they are many."""
    more = f" and {len(keys) - MOST_KEYS_TOLD:,} more" if len(keys) > MOST_KEYS_TOLD else ""
    return ", ".join(keys[:MOST_KEYS_TOLD]) + more


def run_lines(run: TrainedRun) -> list[str]:
    """A run, and which of its inputs held the samples."""
    lines = [f"  {run.reference}{'' if run.finished else ' (unfinished)'}"]
    lines += [f"    {role:<12} {reference}" for role, reference in run.held.items()]
    return lines + [
        f"    {role:<12} nobody can tell: it is not under this root" for role in run.unknown
    ]


def holder_line(holder: Mapping[str, Any]) -> str:
    """One that holds the samples: what of them, and how it goes."""
    what = f"{holder['what']} ({len(holder['keys'])})" if holder["keys"] else holder["what"]
    stays = f"stays: {holder['stays_because']}" if holder["stays_because"] else "stays"
    then = "goes with rdm gc --keep 1" if holder["goes_with_gc"] else stays
    return f"  {holder['reference']:<44} {what:<28} {then}"


def _rehearsed(value: Mapping[str, Any], runs: list[TrainedRun]) -> list[str]:
    rows = value["rows_removed"]
    lines = [
        (
            f"{len(rows):,} rows would be taken out of the database {value['database']}; "
            "nothing has changed"
        )
    ]
    lines += [f"  {key}" for key in rows[:MOST_KEYS_TOLD]]
    lines += [f"  and {len(rows) - MOST_KEYS_TOLD:,} more (all of them: --json)"] * (
        len(rows) > MOST_KEYS_TOLD
    )
    if again := value["searched_again"] + value["stale"]:
        lines += ["", "neighbor tables that would be made again:"]
        cannot = "cannot be: what it was made from is not under this root"
        lines += [
            f"  {reference:<44} {cannot if reference in value['stale'] else ''}".rstrip()
            for reference in again
        ]
    lines += [
        "",
        "trained on versions that hold them:"
        if runs
        else "no run was trained on a version that holds them",
    ]
    lines += [line for run in runs for line in run_lines(run)]
    drawn = [
        one for one in value["holders"] if one["reference"].startswith(("samples/", "reports/"))
    ]
    others = [one for one in value["holders"] if one not in drawn]
    lines += ["", "drawn from them:" if drawn else "no sample was drawn from them"]
    lines += [holder_line(one) for one in drawn]
    return [*lines, "", "hold them today:", *[holder_line(one) for one in others]]
