"""How images are drawn, in the parameters of whatever draws: settings of the run's family."""

from dataclasses import fields
from functools import lru_cache
from typing import Any

from pydantic import model_validator

from flows.config.parameters import DrawSettings, Parameters
from rdm_core.families import FAMILIES, draw_settings


class Drawing(Parameters):
    """Parameters with settings for drawing. The run's family, which says what there is to be set,
    is known when the run is; until then a setting of any family is taken.
    """

    draw: DrawSettings = {}
    """How images are drawn: settings of the run's family, listed by `rdm sample --help`. The word
    `draw` before them may be left out.
    """

    @model_validator(mode="before")
    @classmethod
    def _settings_without_their_word(cls, values: Any) -> Any:
        """Put settings that stand beside the other parameters where they belong.

        Raises ValueError for one that is given twice, or is no number where numbers are wanted.
        """
        if not isinstance(values, dict):
            return values
        known = settings_of_any_family()
        short = {name: values[name] for name in values if name in known}
        if not short:
            return values
        draw = values.get("draw", {})
        if not isinstance(draw, dict):
            raise ValueError(f"draw: is {draw!r}, must be names and values")
        for name, value in short.items():
            if name in draw:
                raise ValueError(f"{name}: is given twice, as {name} and as draw.{name}")
            if wrong := no_number(known[name], value):
                raise ValueError(f"{name}: {wrong}")
        draw = {**draw, **short}
        rest = {name: value for name, value in values.items() if name not in short}
        return rest | {"draw": draw}


def no_number(kind: Any, value: Any) -> str:
    """What is wrong with a value where a number, or two, are wanted; "" where nothing is."""
    told = str(value).lower() if isinstance(value, bool) else str(value)
    if kind in (int, float) and isinstance(value, bool | str):
        return f"is {told}, must be a number"
    if kind == tuple[float, float]:
        inside = value if isinstance(value, list | tuple) else [told]
        if any(isinstance(one, bool | str) for one in inside):
            return f"is {told}, must be numbers"
    return ""


@lru_cache
def settings_of_any_family() -> dict[str, Any]:
    """Name -> type of every setting for drawing that some family has."""
    return {one.name: one.type for family in FAMILIES for one in fields(draw_settings(family))}
