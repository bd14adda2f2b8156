"""Old versions go by a schedule: `rdm gc` as a flow, for the deployment of that name."""

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
    for one in done.removed:
        say("gc", one.reference, f"removed, {one.freed:,} bytes freed")
    for reference, why in done.untouched.items():
        say("gc", reference, f"not touched: {why}")
    freed = sum(one.freed for one in done.removed)
    say(
        "gc",
        str(config.root),
        f"{len(done.removed)} removed, {freed:,} bytes freed, {len(done.kept)} versions stay",
    )
    if done.removed:
        table = [
            {"artifact": one.reference, "what": one.what, "freed": one.freed}
            for one in done.removed
        ]
        show_table("gc", table, f"{freed:,} bytes freed")
    return freed
