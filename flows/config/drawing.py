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
        draw = dict(values.get("draw") or {})
        for name, value in short.items():
            if name in draw:
                raise ValueError(f"{name}: is given twice, as {name} and as draw.{name}")
            if isinstance(value, str) and known[name] in (int, float, tuple[float, float]):
                wanted = "numbers" if known[name] not in (int, float) else "a number"
                raise ValueError(f"{name}: must be {wanted} (given: {value!r})")
            draw[name] = value
        rest = {name: value for name, value in values.items() if name not in short}
        return rest | {"draw": draw}


@lru_cache
def settings_of_any_family() -> dict[str, Any]:
    """Name -> type of every setting for drawing that some family has."""
    return {one.name: one.type for family in FAMILIES for one in fields(draw_settings(family))}
