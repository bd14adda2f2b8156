"""What a help page says of parameters is what their classes say."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from flows.config.manual import documented, manual_of, parameters_of
from flows.config.of_commands import OF_COMMAND
from flows.config.parameters import DrawSettings, Parameters
from rdm_core.config import Config
from rdm_core.families import FAMILIES, draw_settings


@dataclass(frozen=True)
class Inner(Config):
    """Inside."""

    steps: int = 3
    """How many."""
    kind: Literal["a", "b"] = "a"
    """Which."""


class Outer(Parameters):
    """Outside."""

    name: str
    """What it
    is called.
    """
    file: Path | None = None
    """Where."""
    inner: Inner = Inner()
    """All of it."""
    flags: tuple[bool, ...] = ()
    """Several."""
    ratio: float = Field(0.5, gt=0)
    """How much."""
    draw: DrawSettings = {}
    """How."""


# Only classes of the packages themselves are read: these are made to look like some.
Inner.__module__ = Outer.__module__ = "flows.made_for_a_test"


def test_every_parameter_is_told_by_its_dotted_name_kind_default_and_meaning(monkeypatch):
    import inspect

    source = Path(__file__).read_text(encoding="utf-8")

    def of_class(kind):
        if kind not in (Inner, Outer):
            return original(kind)
        start = source.index(f"class {kind.__name__}(")
        return source[start : source.index("\n\n\n", start)]

    original = inspect.getsource
    monkeypatch.setattr(inspect, "getsource", of_class)
    documented.cache_clear()
    told = list(parameters_of(Outer))
    assert told[:6] == [
        ("name", "text", "", "What it is called."),
        ("file", "path", "", "Where."),
        ("inner.steps", "whole number", "; 3", "How many."),
        ("inner.kind", "a | b", "; a", "Which."),
        ("flags", "list of true or falses", "; []", "Several."),
        ("ratio", "number", "; 0.5", "How much."),
    ]
    of_draw = {name for family in FAMILIES for name in vars(draw_settings(family)())}
    assert {name for name, *_ in told[6:]} == {f"draw.{name}" for name in of_draw}
    page = manual_of(Outer).splitlines()
    assert page[:2] == ["  name  (text)", "      What it is called."]
    documented.cache_clear()


def test_no_parameter_of_any_command_lacks_a_meaning():
    without = [
        f"{command}: {name}"
        for command, kind in OF_COMMAND.items()
        for name, _, _, meaning in parameters_of(kind)
        if len(meaning) < 4
    ]
    assert without == []
