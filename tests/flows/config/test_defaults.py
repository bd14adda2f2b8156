"""What nobody asks for: the value of every parameter that is left out.

A default is in the plan of all that was ever built with it. A change of one builds everything anew
on every schedule, so it is made here too, on purpose; new parameters may be missing here.
"""

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from flows.config import autoencoder, database, images, judge, look, sample, train
from rdm_core.families import FAMILIES, draw_settings

DEFAULTS = json.loads(Path(__file__).with_name("defaults.json").read_text(encoding="utf-8"))


DRAWS = {f"{family} draw": draw_settings(family) for family in FAMILIES}
"""What a request's `draw` is, of each family."""


def class_of(name):
    if name in DRAWS:
        return DRAWS[name]
    (found,) = {
        vars(module)[name]
        for module in (autoencoder, database, images, judge, look, sample, train)
        if name in vars(module)
    }
    return found


def differing(kept, now, where=""):
    """Each value of `kept` that is another one now."""
    found = []
    for key, value in kept.items():
        if isinstance(value, dict) and isinstance(now.get(key), dict):
            found += differing(value, now[key], f"{where}{key}.")
        elif key not in now or now[key] != value:
            found.append(f"{where}{key} is {now.get(key, 'gone')!r}, was {value!r}")
    return found


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_is_left_out_has_the_value_it_always_had(name):
    made = class_of(name)(**DEFAULTS[name]["given"])
    now = TypeAdapter(type(made)).dump_python(made, mode="json")
    assert differing(DEFAULTS[name]["defaults"], now) == []


def test_the_settings_for_drawing_of_every_family_are_among_them():
    assert set(DRAWS) <= set(DEFAULTS)
