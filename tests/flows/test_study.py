"""The study: a quick part of it on a network of a minute, and the whole of it on networks that learned nothing."""

import json

import pytest

from flows import demo
from flows import study as module
from flows.config import Study
from flows.evaluate import EVALUATION_FILE
from flows.opening import open_run
from flows.study import CLAIMS, claim_loss, claim_purity, claim_text, open_subject, study, table_of
from flows.train_rdm import train_rdm

SMALL = {"network": "transformer", "channels": [64], "depth": 2, "head_channels": 32, "patch": 4, "remove_means": True}


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The figures of T1, T3 and T4 for one small network after 180 steps; its twin is not trained."""
    config = Study(root=tmp_path_factory.mktemp("quick"), scale=0.1, steps=180, images=32, sampler_steps=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "PRESETS", demo.PRESETS | {"shapes": demo.PRESETS["shapes"] | {"denoiser": SMALL}})
        demo.prepare_world(config)
        train_rdm(demo.training(config, "study-0"))
        patch.setattr(module, "open_run", lambda root, name: open_run(root, "study-0"))
        patch.setattr(module, "same_but_for_neighbors", lambda run, twin: None)
        subject = open_subject(config, 0)
        return {
            name: value for claim in (claim_loss, claim_purity, claim_text) for name, value in claim.fn(config, subject).items()
        }


@pytest.mark.parametrize("name", ["T1 shuffled", "T4 colour, text alone", "T4 colour, text and neighbors"])
def test_a_small_network_passes_after_a_minute(quick, name):
    (claim,) = [claim for claim in CLAIMS if claim.name == name]
    assert quick[name] >= claim.threshold


def test_a_small_network_is_on_its_way_after_a_minute(quick):
    assert quick["T1 gain"] >= 0.02, "the whole study asks for 0.05"
    assert quick["T3 colour"] >= 0.5, "chance is 0.125; the whole study asks for 0.9"


@pytest.fixture(scope="module")
def measured(small_demo):
    return study(Study(root=small_demo.config.root, scale=0.02, steps=12, seeds=1, images=11, sampler_steps=2))


@pytest.mark.long
def test_every_claim_is_measured(measured):
    figures = json.loads(measured[0].file(EVALUATION_FILE).read_text())
    assert set(figures) == {claim.name for claim in CLAIMS}
    assert all(isinstance(value, float) for value in figures.values())


@pytest.mark.long
def test_the_table_has_a_line_a_claim_with_threshold_figure_and_verdict(measured):
    lines = table_of(measured).splitlines()[2:]
    assert len(lines) == len(CLAIMS)
    assert all(line.rsplit("|", 2)[1].strip() in ("yes", "**no**") for line in lines)
    assert lines[0].startswith("| T1 gain | held-out loss: right neighbors below the learned null by | ≥ 5.0 % |")
