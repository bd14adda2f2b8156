"""What the subcommands of `rdm` do that show what was built, and change nothing."""

import argparse
from pathlib import Path

from flows.commands.running import looked
from flows.config.arguments import UsageError, configured
from flows.run.terminal import Answer
from rdm_core.importing import large_import

MOST_SECONDS = 3600
"""That a doctor waits for."""


def run_search(options: argparse.Namespace) -> Answer:
    """rdm search."""
    from flows.config.look import SearchDatabase

    with large_import():
        from flows.look.search import search

    flags = {
        "database": options.database,
        "texts": options.text,
        "images": options.image,
        "keys": options.key,
    }
    flags |= {"vectors": options.vectors, "k": options.k, "out": options.out}
    flags |= {"where": options.where}
    return looked(options, configured(options, SearchDatabase, **flags), search)


def run_plan(options: argparse.Namespace) -> Answer:
    """rdm plan."""
    from flows.config.plan import PlanPreset

    config = configured(options, PlanPreset, preset=options.preset, images=options.images)
    if options.dry_run:
        return looked(options, config, lambda asked: ("", {}))
    with large_import():
        from flows.model.outlook import outlook
    return looked(options, config, outlook)


def run_map(options: argparse.Namespace) -> Answer:
    """rdm map."""
    from flows.config.look import MapDatabase
    from flows.look.map_database import map_database

    flags = {name: getattr(options, name) for name in ("database", "rows", "where", "out")}
    return looked(options, configured(options, MapDatabase, **flags), map_database)


def run_compare(options: argparse.Namespace) -> Answer:
    """rdm compare."""
    from flows.config.look import CompareDatabases
    from flows.look.compare import compare

    return looked(
        options,
        configured(options, CompareDatabases, one=options.one, other=options.other),
        compare,
    )


def run_duplicates(options: argparse.Namespace) -> Answer:
    """rdm duplicates."""
    from flows.config.look import FindDuplicates
    from flows.look.duplicates import duplicates

    flags = {
        name: getattr(options, name)
        for name in ("database", "other", "where", "cap", "keys", "out")
    }
    flags |= {"force": options.force or None}
    return looked(options, configured(options, FindDuplicates, **flags), duplicates)


def run_query(options: argparse.Namespace) -> Answer:
    """rdm query."""
    from storage.query import query

    result = query(options.root, options.sql)
    if options.out:
        result.save(options.out)
    return result.text, {"rows": result.rows()}


def run_show(options: argparse.Namespace) -> Answer:
    """rdm show."""
    from flows.look.show import image_record, one_artifact, table_of_artifacts

    if options.full:
        from flows.judge.summary import in_full

        return in_full(options.root, options.what or "")
    if options.what is None:
        return table_of_artifacts(options.root)
    if options.what.lower().endswith(".png"):
        return image_record(Path(options.what))
    return one_artifact(options.root, options.what)


def run_who(options: argparse.Namespace) -> Answer:
    """rdm who."""
    from flows.look.who import who

    return who(options.root, options.what)


def run_check(options: argparse.Namespace) -> Answer:
    """rdm check."""
    from flows.look.show import checked_artifacts

    return checked_artifacts(options.root, options.what)


def run_log(options: argparse.Namespace) -> Answer:
    """rdm log."""
    from flows.look.show import log_of

    return log_of(options.root, options.what)


def run_doctor(options: argparse.Namespace) -> Answer:
    """rdm doctor."""
    from flows.doctor.examine import SECONDS, doctor

    if options.seconds is not None and not 0 < options.seconds <= MOST_SECONDS:
        raise UsageError(f"--seconds {options.seconds}: give more than 0, at most {MOST_SECONDS}")
    seconds = SECONDS if options.seconds is None else options.seconds
    return doctor(options.as_found, options.root, options.offline, seconds)
