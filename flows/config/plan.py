"""What a preset would take: the parameters of `rdm plan`."""

from typing import Any

from pydantic import Field

from flows.config.parameters import Count, UnderRoot


class PlanPreset(UnderRoot):
    """A preset and a number of images -> disk, memory and hours of every stage, at the rates of
    this machine. Nothing is built or fetched.
    """

    preset: str
    """A row of flows/config/presets.py that says which images it is for: coco-256, ..."""
    images: Count
    """How many images."""
    steps: Count | None = None
    """Training steps; the preset's unless given."""
    megabits_per_second: float = Field(100.0, gt=0, le=1e6)
    """Of the network, for what has to be fetched first: a guess of yours, as nothing is fetched."""
    seconds: float = Field(3.0, gt=0, le=600)
    """For the measurement of each rate, about."""


def changed(preset: dict[str, dict[str, Any]], steps: int | None) -> dict[str, dict[str, Any]]:
    """A preset with another number of steps, if one is given."""
    if steps is None:
        return preset
    return {**preset, "training": {**preset.get("training", {}), "steps": steps}}
