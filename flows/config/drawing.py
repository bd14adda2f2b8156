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
        type_of_setting = settings_of_any_family()
        settings: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for name, value in values.items():
            (settings if name in type_of_setting else others)[name] = value
        if not settings:
            return values
        draw = values.get("draw", {})
        if not isinstance(draw, dict):
            raise ValueError(f"draw: is {draw!r}, must be names and values")
        for name, value in settings.items():
            if name in draw:
                raise ValueError(f"{name}: is given twice, as {name} and as draw.{name}")
            if wrong := no_number(type_of_setting[name], value):
                raise ValueError(f"{name}: {wrong}")
        return others | {"draw": {**draw, **settings}}


def no_number(kind: Any, value: Any) -> str:
    """What is wrong with a value where a number, or two, are wanted; "" where nothing is."""
    # As JSON writes them: true, not True.
    text = str(value).lower() if isinstance(value, bool) else str(value)
    numbers = (int, float, int | None, float | None)
    if kind in numbers and isinstance(value, bool | str):
        return f"is {text}, must be a number"
    if kind in (tuple[float, float], tuple[float, float] | None) and value is not None:
        pair = value if isinstance(value, list | tuple) else [text]
        if any(isinstance(number, bool | str) for number in pair):
            return f"is {text}, must be numbers"
    return ""


@lru_cache
def settings_of_any_family() -> dict[str, Any]:
    """Name -> type of every setting for drawing that some family has."""
    settings: dict[str, Any] = {}
    for family in FAMILIES:
        for setting in fields(draw_settings(family)):
            settings[setting.name] = setting.type
    return settings
