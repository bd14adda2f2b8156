"""Guiding away from what a weaker run makes of the same context: really drawn."""

from dataclasses import replace

import numpy as np
import pytest

from flows.config.sample import SampleRDM
from flows.config.train import TrainRDM
from flows.model import request
from flows.model.opening import open_run
from flows.model.request import Opened, beside_of
from flows.model.sample import sample_plan, sample_rdm
from flows.model.train_rdm import train_rdm
from rdm_core.decode import decode
from rdm_core.errors import RequestError
from storage.samples import read_samples

ASKED = {"texts": ("a red circle",), "count": 1}
DRAW = {"steps": 4}


@pytest.fixture(scope="module")
def world(small_world, small_training, in_one_process):
    """The small world with another run beside its own, of two steps."""
    config = TrainRDM(**small_training(small_world.root, "weaker", steps=2))
    in_one_process(train_rdm, config)
    return small_world


def drawn(world, name, guidance_scale, **asked):
    """The picture: uint8 as int [H, W, 3]."""
    how = {"draw": DRAW | {"guidance_scale": guidance_scale}}
    config = SampleRDM(root=world.root, name=name, run="small", **ASKED | how | asked)
    samples = sample_rdm(config)
    (record,) = read_samples(samples)
    return decode(samples.file(record["file"]).read_bytes()).astype(int)


def test_a_picture_is_another_one_when_it_is_guided_away_from_a_weaker_run(world):
    plain = drawn(world, "unguided", guidance_scale=1.0)
    from_null = drawn(world, "from-null", guidance_scale=4.0)
    from_weaker = drawn(world, "from-weaker", guidance_scale=4.0, weaker_run="weaker")
    pictures = {one.tobytes() for one in (plain, from_null, from_weaker)}
    assert len(pictures) == 3


def test_away_from_itself_a_run_draws_what_it_draws_without_guidance(world):
    plain = drawn(world, "plain", guidance_scale=1.0)
    itself = drawn(world, "itself", guidance_scale=4.0, weaker_run="small")
    assert np.abs(itself - plain).max() <= 1, "but for rounding"


def test_the_weaker_network_is_the_one_that_is_named_and_nothing_else_is_guided_away_from(world):
    run = open_run(world.root, "small")
    config = SampleRDM(root=world.root, name="x", run="small", weaker_run="weaker", **ASKED)
    beside = beside_of(config, Opened(run, None), None)
    assert beside.negative is None and beside.style is None and beside.image is None
    weaker = open_run(world.root, "weaker").model.state_dict()
    named = beside.weaker.state_dict()
    assert all((named[name] == weights).all() for name, weights in weaker.items())
    own = run.model.state_dict()
    assert not all((named[name] == weights).all() for name, weights in own.items())


def test_a_sample_is_planned_with_the_weaker_run_by_its_fingerprint(world):
    plain = SampleRDM(root=world.root, name="planned", run="small", **ASKED)
    guided = plain.model_copy(update={"weaker_run": "weaker"})
    weaker = open_run(world.root, "weaker").artifact.fingerprint
    inputs = sample_plan(plain).inputs
    assert sample_plan(guided).inputs == {**inputs, "weaker_run": weaker}
    assert sample_plan(guided).parameters == sample_plan(plain).parameters


@pytest.mark.parametrize(
    ("fact", "told"),
    [("space", "latent space"), ("family", "family"), ("encoder", "encoder")],
)
def test_a_run_of_another_latent_space_family_or_encoder_is_refused_as_a_weaker_one(
    world, fact, told, monkeypatch
):
    run = open_run(world.root, "small")
    other = replace(run.facts, **{fact: "another"})
    monkeypatch.setattr(request, "facts_of", lambda run: other)
    monkeypatch.setattr(request, "open_run", lambda *_: pytest.fail("weights were loaded"))
    config = SampleRDM(root=world.root, name="no", run="small", weaker_run="weaker", **ASKED)
    with pytest.raises(RequestError) as refused:
        beside_of(config, Opened(run, None), None)
    assert str(refused.value) == (
        f"weaker_run: 'weaker' is of another {told} than 'small'. "
        "Give an earlier or smaller run trained like the first."
    )
