"""The one place where somebody is told how a run ended: a Prefect notification block named by
RDM_NOTIFY.

RDM_NOTIFY=slack-webhook/team   tell of runs that failed, crashed or were cancelled
RDM_NOTIFY_SUCCESS=1            and of those that went well

Only top-level runs send a message: that of a flow speaks for the stages inside it.
"""

import os
from typing import Any

from prefect.blocks.core import Block
from prefect.client.schemas.objects import Flow, FlowRun, State
from prefect.logging import get_logger

SETTING, ON_SUCCESS = "RDM_NOTIFY", "RDM_NOTIFY_SUCCESS"
logger = get_logger("rdm.notify")


def tell(flow: Flow, flow_run: FlowRun, state: State) -> None:
    """Send one message about a run; Prefect names the arguments.

    What goes wrong with the messenger is logged and never changes how the run ended.
    """
    block = os.environ.get(SETTING)
    if not block or flow_run.parent_task_run_id is not None:
        return
    if state.is_completed() and os.environ.get(ON_SUCCESS, "") in ("", "0"):
        return
    try:
        messenger: Any = Block.load(block)
        messenger.notify(message_of(flow_run, state), subject=f"rdm: {flow.name} {state.name}")
    except Exception as error:
        logger.error("%s=%s could not be notified of %s: %s", SETTING, block, flow_run.name, error)


def message_of(run: FlowRun, state: State) -> str:
    """Which run, how it ended, and the first line of why."""
    why = (state.message or "").strip().split("\n")[0]
    return f"{run.name} ({run.id}): {state.name}" + (f". {why}" if why else "")
