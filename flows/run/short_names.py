"""`prefect deployment run train-rdm`: Prefect wants `flow/deployment`, and our deployments' names
are unique.

So does every other `prefect deployment` command: inspect, delete, schedule ls, schedule resume, ...

A Prefect plugin, called once when Prefect is imported and before its command line is read. It
completes the name of one of our deployments, keeps proxies away from this machine's own server, and
touches nothing else; where plugins are switched off, Prefect's own message and the long form
remain.
"""

import sys
from typing import Any

from prefect.plugins import register_hook

from flows.run.deployments import FLOW_OF
from flows.run.environment import reach_loopback


@register_hook
def setup_environment(*, ctx: Any) -> None:
    """Complete the name in `prefect deployment ... NAME`, and ask no proxy for a server on this
    machine.

    `ctx`, what Prefect tells a plugin of itself, is not needed.
    """
    reach_loopback()
    complete(sys.argv)


def complete(arguments: list[str]) -> None:
    """Replace NAME in place by `flow/NAME`, if it is one of our deployments."""
    if arguments[1:2] == ["deployment"]:
        for place, argument in enumerate(arguments[2:], 2):
            if argument in FLOW_OF and not arguments[place - 1].startswith("-"):
                arguments[place] = f"{FLOW_OF[argument]}/{argument}"
                return
