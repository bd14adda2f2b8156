"""Removing old versions on a schedule: `rdm gc` as a flow, for the deployment of that name."""

from flows.config.parameters import Count, UnderRoot
from flows.run.artifacts import show_table
from flows.run.progress import say
from flows.run.stage import stage_flow
from storage.collect import collect


class CollectVersions(UnderRoot):
    """Remove old versions: what is current, an input of what stays, or being built or trained on is
    kept.
    """

    keep: Count = 2
    """Newest versions of every kind and name that stay, beside the current one."""


@stage_flow("gc")
def gc(config: CollectVersions) -> int:
    """Remove the versions that nothing needs; returns how many bytes they freed.

    What is current, one of the newest `keep`, an input of what stays or of an unfinished build, or
    in use is never touched.
    """
    done = collect(config.root, config.keep)
    freed, table = 0, []
    for removed in done.removed:
        say("gc", removed.reference, f"removed, {removed.freed:,} bytes freed")
        freed += removed.freed
        table.append({"artifact": removed.reference, "what": removed.what, "freed": removed.freed})
    for reference, why in done.untouched.items():
        say("gc", reference, f"not touched: {why}")
    say(
        "gc",
        str(config.root),
        f"{len(done.removed)} removed, {freed:,} bytes freed, {len(done.kept)} versions stay",
    )
    if table:
        show_table("gc", table, f"{freed:,} bytes freed")
    return freed
