"""Settings for drawing may stand beside other parameters; the family says later what they are."""

import pytest
from pydantic import ValidationError

from flows.config.judge import EvaluateRDM
from flows.config.sample import SampleRDM
from flows.sample import SampleRDM as imported_by_programs
from flows.sample_config import SampleRDM as imported_so_far


def test_a_setting_means_the_same_with_its_word_and_without():
    short = SampleRDM(name="a", run="r", steps=3, guidance_interval=(0.2, 0.7), null="zero")
    long = {"steps": 3, "guidance_interval": (0.2, 0.7), "null": "zero"}
    assert short == SampleRDM(name="a", run="r", draw=long)
    both = SampleRDM(name="a", run="r", steps=3, draw={"eta": 0.5})
    assert both.draw == {"steps": 3, "eta": 0.5}
    names = {"run": "r", "baseline": "b", "heldout_latents": "l", "heldout_neighbors": "n"}
    assert EvaluateRDM(name="e", **names, swaps={}, steps=9).draw == {"steps": 9}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"steps": 3, "draw": {"steps": 3}}, "steps: is given twice"),
        ({"guidance_scale": "Infinity"}, "guidance_scale: is Infinity, must be a number"),
        ({"guidance_interval": "0.1,0.9"}, "guidance_interval: is 0.1,0.9, must be numbers"),
        ({"steps": 3, "draw": 5}, "draw: is 5, must be names and values"),
        ({"guidance_interval": [0, True]}, "guidance_interval: .*must be numbers"),
        ({"eta": float("nan")}, "must be a finite number"),
        ({"temperatur": 1}, "temperatur"),
    ],
)
def test_what_is_no_setting_or_no_number_is_refused_by_name(given, told):
    with pytest.raises(ValidationError, match=told):
        SampleRDM(name="a", run="r", **given)


def test_programs_import_it_from_where_the_readme_says_and_from_where_it_was():
    assert imported_by_programs is imported_so_far is SampleRDM
