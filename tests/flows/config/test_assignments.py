"""`--set KEY=VALUE`: JSON, or a text, as the parameter that it names wants it."""

import pytest

from flows.config.arguments import UsageError, assigned
from flows.config.sample import SampleRDM
from flows.config.train import TrainRDM


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("run=1984", "1984"),
        ("run=2.0", "2.0"),
        ("run=true", "true"),
        ('run="1984"', "1984"),
        ("run=a=b", "a=b"),
        ("run=", ""),
        ("database=1984", "1984"),
        ("database=null", None),
        ("run=null", "null"),
        ("inpaint=7", "7"),
        ("count=3", 3),
        ("top_m=0.5", 0.5),
        ("weighted=true", True),
        ('texts=["a", "b"]', ["a", "b"]),
        ("count=many", "many"),
        ("top_m=NaN", "NaN"),
        ("top_m=1e999", "1e999"),
    ],
)
def test_a_text_is_taken_as_it_is_written_and_everything_else_as_json(assignment, value):
    key = assignment.partition("=")[0]
    given = assigned({}, [assignment], SampleRDM)[key]
    assert given == value and type(given) is type(value)


def test_dots_lead_inside_and_what_is_there_stays():
    values = {"training": {"steps": 5, "batch": 4}}
    changes = ["training.steps=7", "upstream.encoder=32", "upstream.k=3", "name=1"]
    assert assigned(values, changes, TrainRDM) == {
        "training": {"steps": 7, "batch": 4},
        "upstream": {"encoder": "32", "k": 3},
        "name": "1",
    }


def test_without_a_kind_of_parameters_what_is_json_is_json():
    assert assigned({}, ["run=1984", "b.c=x"]) == {"run": 1984, "b": {"c": "x"}}


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("steps", "--set steps: write KEY=VALUE"),
        ("name.x=3", "--set name.x=3: 'name' has no parameters inside"),
    ],
)
def test_what_is_no_assignment_is_refused_as_it_was_written(assignment, said):
    with pytest.raises(UsageError) as refused:
        assigned({"name": "a"}, [assignment])
    assert str(refused.value) == said
