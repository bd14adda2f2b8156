"""Configurations: cheap to import, frozen, explained, and the presets fit them."""

import ast
import dataclasses
import inspect
import subprocess
import sys

import pytest
import torch
from rdm_core.denoiser import build_denoiser
from rdm_core.noise import process_of

from flows.presets import PRESETS
from rdm_core.config import DenoiserConfig, ExecutionConfig, NoiseConfig, TrainingConfig

CLASSES = [DenoiserConfig, NoiseConfig, TrainingConfig, ExecutionConfig]


def test_importing_configurations_loads_no_heavy_package():
    code = (
        "import sys, rdm_core.config; "
        "print(*{'torch', 'diffusers', 'faiss', 'numpy'} & set(sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert loaded.stdout.split() == []


@pytest.mark.parametrize("cls", CLASSES)
def test_a_configuration_cannot_be_changed(cls):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(cls(), dataclasses.fields(cls)[0].name, None)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_is_explained_below_it(cls):
    body = ast.parse(inspect.getsource(cls)).body[0].body
    fields = [i for i, node in enumerate(body) if isinstance(node, ast.AnnAssign)]
    explained = [
        isinstance(body[i + 1], ast.Expr) and body[i + 1].value.value[-1] == "." for i in fields
    ]
    assert len(fields) == len(dataclasses.fields(cls))
    assert all(explained)


def test_the_defaults_are_the_2022_model():
    assert DenoiserConfig() == DenoiserConfig("unet", (192, 384, 576, 960), 2, 32, (1, 2, 3))
    assert NoiseConfig() == NoiseConfig("epsilon", beta_start=0.0015, beta_end=0.0195)
    training = TrainingConfig()
    assert (training.learning_rate, training.weight_decay, training.ema_decay, training.k) == (
        1e-4,
        0.01,
        0.9999,
        4,
    )
    assert (training.warmup_steps, training.cooldown, training.random_k) == (100, 0, False)
    denoiser, noise = DenoiserConfig(), NoiseConfig()
    assert (denoiser.query_token, denoiser.set_layers, denoiser.remove_means) == (False, 0, False)
    assert (noise.min_snr_gamma, noise.zero_terminal_snr) == (0, False)
    assert (training.from_top, training.score_cap, training.each_neighbor_dropout) == (0, 1, 0)
    assert (training.query_dropout, training.embedding_noise) == (0, 0)


def test_by_default_training_runs_plainly():
    assert ExecutionConfig() == ExecutionConfig(1, False, False, False, False)


@pytest.mark.parametrize(
    ("cls", "asked", "message"),
    [
        (DenoiserConfig, {"depth": 0}, "depth: is 0, must be between 1 and 1000"),
        (DenoiserConfig, {"set_layers": -1}, "set_layers: is -1, must be between 0 and 1000"),
        (
            DenoiserConfig,
            {"channels": ()},
            r"channels: is \(\), must be one or more widths from 1 to 65536",
        ),
        (
            DenoiserConfig,
            {"network": "transformer", "channels": (33,)},
            "channels: 33 cannot be divided into heads of 32",
        ),
        (
            TrainingConfig,
            {"k": 4, "from_top": 3},
            "from_top: 3 nearest cannot give k=4 neighbors; 0 takes the k nearest",
        ),
        (TrainingConfig, {"score_cap": 1.5}, "score_cap: is 1.5, must be a cosine"),
        (
            TrainingConfig,
            {"each_neighbor_dropout": 1.1},
            "each_neighbor_dropout: is 1.1, must be between 0 and 1",
        ),
        (
            TrainingConfig,
            {"query_dropout": -0.1},
            "query_dropout: is -0.1, must be between 0 and 1",
        ),
        (
            TrainingConfig,
            {"embedding_noise": -1.0},
            "embedding_noise: is -1.0, must be between 0 and 1000",
        ),
        (TrainingConfig, {"learning_rate": 0.0}, "learning_rate: is 0.0, must be above 0"),
        (ExecutionConfig, {"accumulate": 0}, "accumulate: is 0, must be between 1 and 1000000"),
    ],
)
def test_an_impossible_value_is_refused_by_name(cls, asked, message):
    with pytest.raises(ValueError, match=message):
        cls(**asked)


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_builds(name):
    preset = PRESETS[name]
    assert set(preset) <= {"denoiser", "noise", "training"}
    side = 32 if name == "transformer-256" else 64
    with torch.device("meta"):
        build_denoiser(DenoiserConfig(**preset["denoiser"]), 4, side, 512)
    process_of(NoiseConfig(**preset["noise"]))
    training = TrainingConfig(**preset["training"])
    assert training.warmup_steps < training.steps
