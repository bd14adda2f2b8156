"""Configurations: cheap to import, frozen, explained, and the presets fit them."""

import ast
import dataclasses
import inspect
import subprocess
import sys

import pytest
import torch

from flows.presets import PRESETS
from rdm_core.config import DenoiserConfig, NoiseConfig, TrainingConfig
from rdm_core.denoiser import build_denoiser
from rdm_core.noise import process_of

CLASSES = [DenoiserConfig, NoiseConfig, TrainingConfig]


def test_importing_configurations_loads_no_heavy_package():
    code = "import sys, rdm_core.config; print(*{'torch', 'diffusers', 'faiss', 'numpy'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert loaded.stdout.split() == []


@pytest.mark.parametrize("cls", CLASSES)
def test_a_configuration_cannot_be_changed(cls):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(cls(), dataclasses.fields(cls)[0].name, None)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_is_explained_below_it(cls):
    body = ast.parse(inspect.getsource(cls)).body[0].body
    fields = [i for i, node in enumerate(body) if isinstance(node, ast.AnnAssign)]
    explained = [isinstance(body[i + 1], ast.Expr) and body[i + 1].value.value[-1] == "." for i in fields]
    assert len(fields) == len(dataclasses.fields(cls))
    assert all(explained)


def test_the_defaults_are_the_2022_model():
    assert DenoiserConfig() == DenoiserConfig("unet", (192, 384, 576, 960), 2, 32, (1, 2, 3))
    assert NoiseConfig() == NoiseConfig("epsilon", beta_start=0.0015, beta_end=0.0195)
    training = TrainingConfig()
    assert (training.learning_rate, training.weight_decay, training.ema_decay, training.k) == (1e-4, 0.01, 0.9999, 4)
    assert (training.warmup_steps, training.cooldown, training.random_k) == (100, 0, False)


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
