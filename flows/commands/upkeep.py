"""What the subcommands of `rdm` do that look after what was built, and start what is deployed."""

import argparse
import json

from flows.commands.running import stage
from flows.config.arguments import UsageError, assigned, configured
from flows.run.terminal import Answer


def run_run(options: argparse.Namespace) -> Answer:
    """rdm run."""
    from flows.run.deployments import run_deployed

    changes = assigned({}, options.set)
    if options.dry_run:
        return json.dumps(changes, indent=2), changes
    started = run_deployed(options.deployment, changes)
    text = f"{started['deployment']}: started {started['name']} ({started['id']})"
    return f"{text}\n{started['url']}".rstrip(), started


def run_gc(options: argparse.Namespace) -> Answer:
    """rdm gc."""
    from flows.look.show import collected

    if options.keep is not None and options.keep < 1:
        raise UsageError(f"--keep {options.keep}: keep 1 or more versions")
    # --unfinished alone removes no versions.
    keep = 2 if options.keep is None and not options.unfinished else options.keep
    return collected(options.root, keep, options.unfinished, options.dry_run)


def run_remove(options: argparse.Namespace) -> Answer:
    """rdm remove."""
    from flows.config.database import RemoveKeys

    flags = {
        "database": options.database,
        "keys_file": options.keys,
        "missing_ok": options.missing_ok or None,
    }
    config = configured(options, RemoveKeys, **flags)
    if options.dry_run:
        from flows.data.rehearse import rehearse

        return rehearse(config)
    return stage(options, config, "flows.data.remove", "remove_keys", lambda done: done.answer())
