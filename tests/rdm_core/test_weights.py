"""Weights that are used: the running mean, loadable by itself, with a card that says what it is."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from tiny import EVERYTHING
from training import Recorder, asked

from rdm_core.families import load_model, read_facts
from rdm_core.families.diffusion.config import Config, NoiseConfig
from rdm_core.families.diffusion.model import build
from rdm_core.families.facts import RunFacts, Version
from rdm_core.train import set_running_mean, train
from rdm_core.weights import model_card

FACTS = RunFacts(
    family="diffusion",
    model={},
    encoder={"model": "rdm-shapes", "weights_sha256": "0123456789abcdef", "dimension": 8},
    vectors_of="image",
    encoder_weights="built-in",
    space={"autoencoder": "pixels", "weights_sha256": "", "channels": 3, "factor": 1},
    space_path="pixels",
    latent_side=8,
    k=2,
    random_k=False,
    neighbor_dropout=0.1,
    steps=3,
    parameters=1_234_567,
    trained_on={"database": Version("paintings", "abc", "fff000")},
)


@pytest.fixture
def trained(tiny_config, tiny_model, tiny_data, peak):
    """Three steps of training: the configuration, the model with its running mean, and the last
    state.
    """
    denoiser, recorder = replace(tiny_config, **EVERYTHING), Recorder()
    how = asked(steps=3, batch=4, warmup_steps=1)
    model = train(tiny_model(denoiser), tiny_data(), hooks=recorder.hooks, **how)
    config = Config(denoiser=denoiser, noise=NoiseConfig(process="flow"))
    return config, model, recorder.states[3]


def test_the_running_mean_is_what_is_published(trained, tmp_path):
    config, model, state = trained
    made = build(config, model.shape, model.space)
    set_running_mean(made, state)
    facts = replace(FACTS, model=asdict(config), parameters=made.parameter_count)
    made.save(tmp_path, facts)
    found = read_facts(tmp_path)
    loaded = load_model(tmp_path, found, model.space)
    published, expected = dict(loaded.named_parameters()), dict(model.named_parameters())
    assert published.keys() == expected.keys()
    for name, parameter in expected.items():
        assert torch.equal(published[name], parameter), name
    different = []
    for name, parameter in published.items():
        different.append(not np.array_equal(parameter.detach(), state[f"weights/{name}"]))
    assert any(different), "the mean differs from the last step's weights"
    assert torch.equal(loaded.denoiser.means, model.denoiser.means)
    assert model.denoiser.means.any()
    assert loaded.denoiser.config == config.denoiser
    assert loaded.process == model.process
    assert found.parameters == model.parameter_count
    assert replace(found, model=asdict(config)) == facts


@pytest.mark.parametrize("absent", ["ema/denoiser.null", "buffers/denoiser.means"])
def test_a_state_without_a_tensor_cannot_be_published(absent, trained):
    config, model, state = trained
    made = build(config, model.shape, model.space)
    with pytest.raises(KeyError, match=absent):
        set_running_mean(made, {name: a for name, a in state.items() if name != absent})


def test_the_card_names_family_encoder_space_data_and_licences():
    card = model_card("demo", FACTS, {"CC BY 4.0": 12345, "unknown": 1})
    for told in (
        "# demo",
        "family: diffusion; 1,234,567 parameters",
        "up to 2 images",
        "rdm-shapes",
        "0123456789abcdef",
        "8-d",
        "pixels, side 8",
        "3 steps",
        "dropout 0.1",
        "| database | paintings | abc | fff000 |",
        "| CC BY 4.0 | 12,345 |",
        "| unknown | 1 |",
        "rdm sample --run demo",
    ):
        assert told in card
    header = card.split("---\n")[1]
    assert "library_name: diffusers" in header
    assert "tags: [retrieval-augmented, diffusion]" in header
