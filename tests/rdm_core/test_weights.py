"""Weights that are used: the running mean, loadable by itself, with a card that says what it is."""

from dataclasses import replace

import pytest
import torch
from rdm_core.denoiser import load_denoiser, parameter_count
from rdm_core.noise import FlowMatching

from rdm_core.config import TrainingConfig
from rdm_core.latents import PIXELS, load_latent_space
from rdm_core.train import Hooks, train
from rdm_core.weights import model_card, publish_weights

EXTRAS = {"query_token": True, "set_layers": 1, "remove_means": True}
FACTS = {
    "encoder": {"model": "rdm-shapes", "weights_sha256": "0123456789abcdef", "dimension": 8},
    "space": {"autoencoder": "pixels", "channels": 3},
    "latent_side": 8,
    "noise": {"process": "flow"},
    "k": 2,
    "neighbor_dropout": 0.1,
    "steps": 3,
    "trained_on": {"database": {"name": "paintings", "id": "abc", "fingerprint": "fff000"}},
}


@pytest.fixture
def trained(tiny_config, tiny_denoiser, tiny_data):
    """Three steps of training: the configuration, the denoiser with its running mean, and the last
    state.
    """
    kept = []
    tiny_config = replace(tiny_config, **EXTRAS)
    training = TrainingConfig(steps=3, batch=4, learning_rate=1e-2, warmup_steps=1, k=2)
    hooks = Hooks(log=lambda record, speed: None, save=lambda step, state: kept.append(state))
    space = load_latent_space(PIXELS)
    denoiser = train(
        tiny_denoiser(tiny_config), FlowMatching(), space, tiny_data(), training, hooks
    )
    return tiny_config, denoiser, kept[-1]


def test_the_running_mean_is_what_is_published(trained, tmp_path):
    config, denoiser, state = trained
    publish_weights(tmp_path, config, state, FACTS)
    loaded, facts = load_denoiser(tmp_path)
    published, expected = dict(loaded.named_parameters()), dict(denoiser.named_parameters())
    assert published.keys() == expected.keys()
    for name, parameter in expected.items():
        assert torch.equal(published[name], parameter), name
    different = [
        not torch.equal(p, torch.from_numpy(state[f"weights/{n}"])) for n, p in published.items()
    ]
    assert any(different), "the mean differs from the last step's weights"
    assert torch.equal(loaded.means, denoiser.means)
    assert denoiser.means.any()
    told = {
        "dimension": 8,
        "context_norm": config.context_norm,
        "parameters": parameter_count(denoiser),
    }
    assert facts == FACTS | EXTRAS | told


def test_a_state_without_a_tensor_cannot_be_published(trained, tmp_path):
    config, _, state = trained
    with pytest.raises(KeyError, match="ema/null"):
        publish_weights(
            tmp_path, config, {name: a for name, a in state.items() if name != "ema/null"}, FACTS
        )
    assert not (tmp_path / "context.json").exists()


def test_the_card_names_encoder_space_data_and_licences():
    card = model_card("demo", FACTS, {"CC BY 4.0": 12345, "unknown": 1})
    for told in (
        "# demo", "rdm-shapes", "0123456789abcdef", "8-d", "pixels", "flow", "3 steps",
        "dropout 0.1", "| database | paintings | abc | fff000 |", "| CC BY 4.0 | 12,345 |",
        "| unknown | 1 |", "rdm sample --run demo",
    ):  # fmt: skip
        assert told in card
    header = card.split("---\n")[1]
    assert "library_name: diffusers" in header
