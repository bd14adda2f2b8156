"""How two plans of one name differ: in what is asked for, or in the revision of the stage alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage import layout
from storage.artifact import REVISION, Plan, flat


def is_an_earlier_revision(directory: Path, plan: Plan, other: Plan) -> bool:
    """Whether an unfinished build was begun by other code of the same stage, which nobody can
    finish it with.

    One with checkpoints is refused all the same: days of training are dropped by a person.
    """
    differs = plan.parameters.get(REVISION, 1) != other.parameters.get(REVISION, 1)
    trained = any(layout.checkpoints_directory(directory).glob("*/manifest.json"))
    return differs and not trained and but_for_revision(plan) == but_for_revision(other)


def but_for_revision(plan: Plan) -> dict[str, Any]:
    """What a plan asks for, whichever revision of its stage does it."""
    return {key: value for key, value in plan.parameters.items() if key != REVISION}


def differences(asked: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Each parameter that differs, with both values."""
    one, other = flat(asked), flat(before)
    return [
        f"{key}={json.dumps(other.get(key))} (now {json.dumps(one.get(key))})"
        for key in sorted(one.keys() | other.keys())
        if json.dumps(one.get(key)) != json.dumps(other.get(key))
    ]
