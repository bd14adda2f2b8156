"""`prefect deployment run train-rdm`: Prefect wants `flow/deployment`, and our deployments' names are unique.

So does every other `prefect deployment` command: inspect, delete, schedule ls, schedule resume, ...

A Prefect plugin, called once when Prefect is imported and before its command line is read. It completes the name of one of
our deployments and touches nothing else; where plugins are switched off, Prefect's own message and the long form remain.
"""

import sys
from typing import Any

from prefect.plugins import register_hook

from flows.deployments import FLOW_OF


@register_hook
def setup_environment(*, ctx: Any) -> None:
    """Complete the name in `prefect deployment ... NAME`. `ctx`, what Prefect tells a plugin of itself, is not needed."""
    complete(sys.argv)


def complete(arguments: list[str]) -> None:
    """Replace NAME in place by `flow/NAME`, if it is one of our deployments."""
    if arguments[1:2] == ["deployment"]:
        for place, argument in enumerate(arguments[2:], 2):
            if argument in FLOW_OF and not arguments[place - 1].startswith("-"):
                arguments[place] = f"{FLOW_OF[argument]}/{argument}"
                return
