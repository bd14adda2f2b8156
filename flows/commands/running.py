"""How a subcommand runs its flow."""

import argparse
import json
from collections.abc import Callable
from typing import Any

from flows.run.terminal import Answer
from rdm_core.importing import large_import


def resolved(config: Any) -> Answer:
    """The parameters as they would be used: what --dry-run prints."""
    value = config.model_dump(mode="json")
    return json.dumps(value, indent=2), value


def stage(
    options: argparse.Namespace, config: Any, module: str, flow: str, show: Callable[[Any], Answer]
) -> Answer:
    """Import and run a flow, and say what came out; with --dry-run, its parameters alone."""
    if options.dry_run:
        return resolved(config)
    from importlib import import_module

    with large_import():
        run = getattr(import_module(module), flow)
    return show(run(config))


def looked(options: argparse.Namespace, config: Any, look: Callable[[Any], Answer]) -> Answer:
    """What a command that builds nothing says, or its parameters."""
    return resolved(config) if options.dry_run else look(config)
