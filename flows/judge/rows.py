"""The names of what an evaluation measures: rows of evaluation.json, of its tables, and of what was
left out; and how they are looked up.
"""

from collections.abc import Mapping
from typing import Any

RIGHT, SHUFFLED, NULL = "right neighbors", "shuffled neighbors", "learned null"
WITHOUT = "trained without neighbors"
TEXT, OTHERS = "text, context query+neighbors", "another prompt's context"
HELD_OUT, GUIDED = "held-out neighbors", "held-out neighbors, guided"
RETURNED, RANDOM, CHANCE = "return the neighbour", "random database images", "chance"
"""Rows that no model drew."""
SAMPLES, BY_DEFINITION = "samples", "held-out images, by definition"
HELD_OUT_IMAGES = "held-out images"
OF_HELD_OUT, OF_DATABASE = " / held-out", " / database"
"""After the name of a measure: as a share of the held-out images' or of the database's own."""
SHARP = "clean and sharp"
"""The table of grain and edges."""
COPIES_OF_TRAINING = "copies of training images"
"""What is left out where these images are not known: copies are counted all the same."""
LEFT_OUT, UNCHECKED, JUDGED = "left out", "not checked", "judged"
"""What was not measured and why; which training images nobody could compare the held-out ones with;
who judged what.
"""
ORDER = {
    "loss": (RIGHT, SHUFFLED, NULL, WITHOUT),
    "prompts": (
        "text, context query", TEXT, "text, context neighbors", OTHERS, NULL, WITHOUT, RETURNED,
        CHANCE,
    ),
    "clip scores": (
        "text, context query", TEXT, "text, context neighbors", OTHERS, NULL, WITHOUT, RETURNED,
    ),
    "quality": (HELD_OUT, GUIDED, NULL, WITHOUT, RETURNED, RANDOM),
    SHARP: (HELD_OUT_IMAGES, HELD_OUT, GUIDED, NULL, WITHOUT, RETURNED, RANDOM),
    "copies": (SAMPLES, HELD_OUT, GUIDED, NULL, WITHOUT, RETURNED, RANDOM, BY_DEFINITION),
}  # fmt: skip
"""The order of rows: evaluation.json is sorted by name. What is not listed comes last."""
SHOWN = (HELD_OUT_IMAGES, HELD_OUT, GUIDED, NULL, RETURNED)
"""Columns of an evaluation's contact sheet, from left to right."""


def relative_to(reference: str) -> str:
    """The name of changes of the loss against a row's loss."""
    return f"relative to {reference}"


def value_at(measured: Mapping[str, Any], *path: str) -> Any:
    """The value at a path of keys, or None when a key is absent."""
    value: Any = measured
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def ordered(measured: Mapping[str, Any], table_name: str, *path: str) -> dict[str, Any]:
    """The rows of one measurement, in reading order; empty when it was not made."""
    rows = value_at(measured, table_name, *path) or {}
    in_order = {}
    for name in [*ORDER[table_name], *rows]:
        if name in rows:
            in_order[name] = rows[name]
    return in_order


def factors_of(measured: Mapping[str, Any]) -> list[str]:
    """The factors that prompts name; none where no judge knew any."""
    factors: set[str] = set()
    for row in (value_at(measured, "prompts") or {}).values():
        factors.update(row)
    return sorted(factors)


def reference_of(measured: Mapping[str, Any]) -> str:
    """The row that changes of the loss are relative to: the network without neighbors, or where
    there is none the learned null.
    """
    return NULL if value_at(measured, "loss", relative_to(NULL)) else WITHOUT


def changes_of(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Row -> change of the held-out loss against `reference_of`."""
    return value_at(measured, "loss", relative_to(reference_of(measured))) or {}


def why_not(measured: Mapping[str, Any], name: str) -> str:
    """Why something was not measured, to stand after a text: ": the judge has no prompts"."""
    why = value_at(measured, LEFT_OUT, name)
    return f": {why}" if why else ""
