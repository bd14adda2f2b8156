"""How images are drawn: settings of the family of a run, refused by name before weights are
loaded.
"""

import json
import sys
from dataclasses import asdict, dataclass, replace
from types import ModuleType

import pytest
from PIL import Image

from flows.cli import main
from flows.config.sample import SampleRDM
from flows.model.opening import drawn_how, facts_of
from flows.model.sample import GIVEN, sample_plan, sample_rdm
from rdm_core.config import DrawConfig
from rdm_core.errors import RequestError
from rdm_core.families import FACTS_FILE, FAMILIES
from rdm_core.families.facts import ModelConfig
from rdm_core.families.family import Beside
from storage.build import begin
from storage.manifest import Plan


@dataclass(frozen=True)
class MadeUpDraw(DrawConfig):
    """A family that draws at once, and knows no second context."""

    temperature: float = 1.0


class MadeUpConfig(ModelConfig):
    """Any model of it, by what is known of a small run of another family."""

    @classmethod
    def of(cls, facts):
        return cls()


@pytest.fixture
def made_up(small_world, monkeypatch):
    """The name of a run of a family that has other settings, of which no weights are there."""
    module = ModuleType("made_up.config")
    module.Draw, module.Config = MadeUpDraw, MadeUpConfig
    monkeypatch.setitem(sys.modules, "made_up", ModuleType("made_up"))
    monkeypatch.setitem(sys.modules, "made_up.config", module)
    monkeypatch.setitem(FAMILIES, "made-up", "made_up")
    facts = asdict(replace(facts_of(small_world.run), family="made-up"))

    def write(scratch):
        (scratch / "weights").mkdir()
        (scratch / "weights" / FACTS_FILE).write_text(json.dumps(facts))
        return 1, {}

    inputs = dict(small_world.run.inputs)
    with begin(small_world.root, Plan("runs", "made-up", {}, inputs)) as build:
        if not build.finished:
            build.commit([build.write_part("weights", "", write)], {})
    return "made-up"


@pytest.fixture
def ask(small_world, monkeypatch):
    """Asks a run for images; no weights may be loaded."""
    monkeypatch.setattr(
        "flows.model.sample.open_run", lambda *_: pytest.fail("weights were loaded")
    )

    def asked(run="small", **more):
        return SampleRDM(root=small_world.root, name="refused", run=run, texts=("a ring",), **more)

    return asked


def refusal(config):
    with pytest.raises(RequestError) as refused:
        sample_rdm(config)
    return refused.value


def test_a_setting_of_another_family_is_refused_by_name_with_those_that_there_are(ask, made_up):
    told = refusal(ask(made_up, draw={"sampler": "heun"}))
    assert (told.where, told.what) == ("draw", "sampler is no setting of the family made-up")
    assert told.cure == "Settings of made-up: guidance_scale, temperature."
    told = refusal(ask(draw={"temperature": 2.0, "steps": 3}))
    assert told.what == "temperature is no setting of the family diffusion"
    assert told.cure.startswith("Settings of diffusion: guidance_scale, steps, sampler, eta, ")


@pytest.mark.parametrize(
    ("draw", "what"),
    [
        ({"steps": 0}, "steps: is 0, must be between 1 and 1000"),
        ({"steps": 1001}, "steps: is 1001, must be between 1 and 1000"),
        ({"steps": "many"}, "steps: is many, must be a number"),
        ({"steps": 2.5}, "steps: Input should be a valid integer"),
        ({"steps": True}, "steps: is true, must be a number"),
        ({"steps": None}, "steps: Input should be a valid integer"),
        ({"sampler": "caf"}, "sampler: Input should be 'ddim', "),
        ({"null": None}, "null: Input should be 'learned' or 'zero'"),
        ({"eta": 1.5}, "eta: is 1.5, must be between 0 and 1"),
        ({"eta": "NaN"}, "eta: is NaN, must be a number"),
        ({"guidance_scale": "Infinity"}, "guidance_scale: is Infinity, must be a number"),
        ({"guidance_scale": -1}, "guidance_scale: is -1.0, must be between 0 and 1000"),
        ({"guidance_interval": [0.5]}, "guidance_interval: Field required"),
        ({"guidance_interval": [0.5, 0.2]}, "guidance_interval: (0.5, 0.2) does not rise"),
        ({"guidance_interval": [0, "NaN"]}, "guidance_interval: is [0, 'NaN'], must be numbers"),
        ({"style_from_snr": 0}, "style_from_snr: is 0.0, must be above 0"),
        ({"takes": []}, "takes is no setting of the family diffusion"),
        ({"steps": "many", "eta": "much"}, "steps: is many, must be a number"),
    ],
)
def test_nonsense_is_refused_by_name(ask, draw, what):
    told = refusal(ask(draw=draw))
    assert told.where == "draw" and told.what.startswith(what)
    assert all(name in told.what for name in draw)
    assert "Settings of diffusion: guidance_scale, " in str(told) and "\n" not in str(told)


@pytest.mark.parametrize("parameter", GIVEN)
def test_a_parameter_that_the_family_has_no_use_for_is_refused_by_name(
    ask, made_up, parameter, tmp_path
):
    picture = tmp_path / "picture.png"
    Image.new("RGB", (32, 32)).save(picture)
    given = {
        "negative": {"negative": "a star"},
        "weaker_run": {"weaker_run": "small"},
        "style_text": {"style_text": "a sketch"},
        "inpaint": {"inpaint": picture, "mask": picture},
        "edit": {"edit": picture},
    }
    told = refusal(ask(made_up, **given["inpaint" if parameter == "mask" else parameter]))
    where = "inpaint" if parameter == "mask" else parameter
    assert (told.where, told.what) == (where, "the family made-up has no use for it")
    assert told.cure == "Leave it out."


def test_whatever_a_model_may_be_given_has_a_parameter():
    assert sorted(GIVEN.values()) == sorted(Beside.__dataclass_fields__)


def test_what_is_not_asked_for_is_in_the_plan_as_it_will_be(ask, small_world, made_up):
    plan = sample_plan(ask(draw={"steps": 7}))
    assert plan.parameters["draw"] == drawn_how(facts_of(small_world.run), {"steps": 7}).planned()
    assert plan.parameters["draw"]["steps"] == 7 and "eta" in plan.parameters["draw"]
    assert sample_plan(ask(draw={"steps": 7, "guidance_scale": 2.0})).id == plan.id
    assert sample_plan(ask(draw={"steps": 8})).id != plan.id
    told = sample_plan(ask(made_up)).parameters["draw"]
    assert told == {"guidance_scale": 2.0, "temperature": 1.0}


def test_the_command_line_refuses_them_as_python_does(small_world, capsys, monkeypatch):
    monkeypatch.setattr(
        "flows.model.sample.open_run", lambda *_: pytest.fail("weights were loaded")
    )
    asked = ["sample", "--root", str(small_world.root), "--run", "small", "--text", "a ring"]
    for wrong, told in (
        ("draw.steps=0", "steps: is 0, must be between 1 and 1000"),
        ("draw.steps=1e400", "steps: "),
        ("draw.cfg=3", "cfg is no setting of the family diffusion"),
        ("draw.sampler=2", "sampler: Input should be 'ddim'"),
    ):
        assert main([*asked, "--set", wrong]) == 1
        said = capsys.readouterr().err
        assert f"draw: {told}" in said and "Settings of diffusion: " in said
        assert "Traceback" not in said and "pydantic" not in said
