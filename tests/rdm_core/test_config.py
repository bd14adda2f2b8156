"""Configurations: cheap to import, frozen, explained, and the presets fit them."""

import ast
import dataclasses
import inspect
import json
import subprocess
import sys

import pytest
import torch

from flows.config.presets import PRESETS
from rdm_core.config import (
    ContextConfig,
    DrawConfig,
    ExecutionConfig,
    ReportingConfig,
    TrainingConfig,
)
from rdm_core.families import FAMILIES, config_of, draw_settings, family_of
from rdm_core.families.diffusion.config import Config, DenoiserConfig, Draw, NoiseConfig
from rdm_core.families.facts import ModelConfig, Reads, Shape
from rdm_core.families.family import Beside
from rdm_core.families.vectors import VectorsConfig

OF_A_TRAINING = [TrainingConfig, ContextConfig, ReportingConfig, ExecutionConfig]
CLASSES = [
    *OF_A_TRAINING,
    DrawConfig,
    ModelConfig,
    Config,
    VectorsConfig,
    DenoiserConfig,
    NoiseConfig,
    Draw,
]


@pytest.mark.parametrize(
    "module",
    ["rdm_core.config", "rdm_core.families.facts", *(f"{m}.config" for m in FAMILIES.values())],
)
def test_importing_configurations_loads_no_heavy_package(module):
    heavy = "{'torch', 'diffusers', 'faiss', 'numpy'}"
    code = f"import sys, {module}; print(*{heavy} & set(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert loaded.stdout.split() == []


def field_names(cls):
    """The names of a configuration's fields, in their order."""
    return [field.name for field in dataclasses.fields(cls)]


@pytest.mark.parametrize("cls", CLASSES)
def test_a_configuration_cannot_be_changed(cls):
    names = field_names(cls)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(cls(), names[0] if names else "anything", None)


OF_THE_CLASS = ("takes", "later", "writes")
"""What DrawConfig explains once, for all settings of drawing."""


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_is_explained_below_it(cls):
    body = ast.parse(inspect.getsource(cls)).body[0].body
    fields = [i for i, node in enumerate(body) if isinstance(node, ast.AnnAssign)]
    # The statement behind a field is its docstring, and ends with a full stop.
    explained = []
    for i in fields:
        if body[i].target.id not in OF_THE_CLASS:
            text = body[i + 1]
            explained.append(isinstance(text, ast.Expr) and text.value.value.rstrip()[-1] == ".")
    own = [name for name in inspect.get_annotations(cls) if name not in OF_THE_CLASS]
    assert len(explained) == len(own)
    assert all(explained)
    bases = [base for base in cls.__mro__[1:] if base in CLASSES]
    inherited = set()
    for base in bases:
        inherited.update(field_names(base))
    assert set(field_names(cls)) == inherited | set(own)


def test_no_two_configurations_of_a_training_have_a_field_of_the_same_name():
    names = []
    for cls in OF_A_TRAINING:
        names += field_names(cls)
    assert len(names) == len(set(names))


def test_the_defaults_are_the_2022_model():
    assert Config() == Config("diffusion", DenoiserConfig(), NoiseConfig())
    assert DenoiserConfig() == DenoiserConfig("unet", (192, 384, 576, 960), 2, 32, (1, 2, 3))
    assert NoiseConfig() == NoiseConfig("epsilon", beta_start=0.0015, beta_end=0.0195)
    training, context = TrainingConfig(), ContextConfig()
    assert (training.learning_rate, training.weight_decay, training.ema_decay, context.k) == (
        1e-4,
        0.01,
        0.9999,
        4,
    )
    assert (training.warmup_steps, training.cooldown, context.random_k) == (100, 0, False)
    denoiser, noise = DenoiserConfig(), NoiseConfig()
    assert (denoiser.query_token, denoiser.set_layers, denoiser.remove_means) == (False, 0, False)
    assert (noise.min_snr_gamma, noise.zero_terminal_snr) == (0, False)
    assert (context.from_top, context.score_cap, context.each_neighbor_dropout) == (0, 1, 0)
    assert (context.query_dropout, context.embedding_noise) == (0, 0)


def test_by_default_training_runs_plainly_and_reports_to_files_alone():
    assert ExecutionConfig() == ExecutionConfig(1, False, False, False)
    assert ReportingConfig() == ReportingConfig(25, 1000, False)


IMPOSSIBLE = [
    (DenoiserConfig, {"depth": 0}, "depth: is 0, must be between 1 and 1000"),
    (DenoiserConfig, {"depth": "two"}, "depth: is 'two', must be a whole number"),
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
        ContextConfig,
        {"k": 4, "from_top": 3},
        "from_top: 3 nearest cannot give k=4 neighbors; 0 takes the k nearest",
    ),
    (ContextConfig, {"k": 0}, "k: is 0, must be between 1 and 10000"),
    (ContextConfig, {"score_cap": 1.5}, "score_cap: is 1.5, must be a cosine"),
    (
        ContextConfig,
        {"neighbor_dropout": 1.1},
        "neighbor_dropout: is 1.1, must be between 0 and 1",
    ),
    (
        ContextConfig,
        {"each_neighbor_dropout": 1.1},
        "each_neighbor_dropout: is 1.1, must be between 0 and 1",
    ),
    (ContextConfig, {"query_dropout": -0.1}, "query_dropout: is -0.1, must be between 0 and 1"),
    (
        ContextConfig,
        {"embedding_noise": -1.0},
        "embedding_noise: is -1.0, must be between 0 and 1000",
    ),
    (TrainingConfig, {"learning_rate": 0.0}, "learning_rate: is 0.0, must be above 0"),
    (TrainingConfig, {"weight_decay": -1.0}, "weight_decay: is -1.0, must be between 0 and 1000"),
    (TrainingConfig, {"ema_decay": 2.0}, "ema_decay: is 2.0, must be between 0 and 1"),
    (TrainingConfig, {"snapshot_steps": 0}, "snapshot_steps: is 0, must be between 1 and"),
    (ReportingConfig, {"log_steps": 0}, "log_steps: is 0, must be between 1 and"),
    (ReportingConfig, {"checkpoint_steps": 0}, "checkpoint_steps: is 0, must be between 1 and"),
    (ExecutionConfig, {"accumulate": 0}, "accumulate: is 0, must be between 1 and 1000000"),
    (DrawConfig, {"guidance_scale": -1.0}, "guidance_scale: is -1.0, must be between 0 and 1000"),
    (Draw, {"guidance_scale": -1.0}, "guidance_scale: is -1.0, must be between 0 and 1000"),
    (Draw, {"steps": 0}, "steps: is 0, must be between 1 and 1000"),
    (Draw, {"eta": 1.5}, "eta: is 1.5, must be between 0 and 1"),
    (Draw, {"style_from_snr": 0.0}, "style_from_snr: is 0.0, must be above 0"),
    (
        Draw,
        {"guidance_interval": (0.5, 0.5)},
        r"guidance_interval: \(0.5, 0.5\) does not rise between 0 and 1",
    ),
]


@pytest.mark.parametrize(("cls", "asked", "message"), IMPOSSIBLE)
def test_an_impossible_value_is_refused_by_name(cls, asked, message):
    with pytest.raises(ValueError, match=message):
        cls(**asked)


# -- from JSON


def through_json(config: object) -> dict:
    """What a file says of a configuration."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


CHANGED = [
    TrainingConfig(steps=7, precision="bf16"),
    ContextConfig(k=9, random_k=True),
    ReportingConfig(log_steps=3),
    ExecutionConfig(compile=True),
    Draw(sampler="unipc", guidance_interval=(0.2, 0.9)),
    Config(
        denoiser=DenoiserConfig(channels=(32, 64), attention_levels=(1,), query_token=True),
        noise=NoiseConfig("velocity", zero_terminal_snr=True),
    ),
]


@pytest.mark.parametrize("config", CHANGED, ids=lambda config: type(config).__name__)
def test_a_configuration_comes_back_from_json(config):
    assert config != type(config)()
    assert type(config).of(through_json(config)) == config


@pytest.mark.parametrize("cls", CLASSES)
def test_what_is_not_told_has_its_default(cls):
    assert cls.of({}) == cls()


def test_a_part_of_a_nested_configuration_may_be_told():
    assert Config.of({"denoiser": {"depth": 3}}) == Config(denoiser=DenoiserConfig(depth=3))


@pytest.mark.parametrize(
    ("cls", "told", "names"),
    [
        (TrainingConfig, {"steps": 5, "k": 4}, "k: unknown"),
        (ContextConfig, {"z": 1, "a": 2}, "a, z: unknown"),
        (ExecutionConfig, {"tensorboard": True}, "tensorboard: unknown"),
        (Config, {"denoiser": {"depht": 2}}, "depht: unknown"),
        (Draw, {"takes": ["image"]}, "takes: unknown"),
    ],
)
def test_an_unknown_field_is_refused_by_name(cls, told, names):
    with pytest.raises(ValueError, match=f"^{names}$"):
        cls.of(told)


@pytest.mark.parametrize(("cls", "asked", "message"), IMPOSSIBLE)
def test_an_impossible_value_of_a_file_is_refused_as_any_other(cls, asked, message):
    with pytest.raises(ValueError, match=message):
        cls.of(json.loads(json.dumps(asked)))


# -- families


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_family_is_found_by_its_name(family):
    config = config_of(family)()
    assert config.family == family
    assert isinstance(config, ModelConfig)
    assert isinstance(config.reads, Reads)
    assert dataclasses.fields(config)[0].name == "family"
    assert issubclass(draw_settings(family), DrawConfig)
    assert isinstance(draw_settings(family).preview(), draw_settings(family))
    draw_settings(family)(**draw_settings(family).as_released())
    assert family_of(family).build and family_of(family).load


def test_a_diffusion_model_reads_the_samples_own_vectors_only_for_a_query_token():
    assert Config().reads == Reads(("pixels", "moments"), False, False, False)
    assert Config(denoiser=DenoiserConfig(query_token=True)).reads == Reads(query=True)


@pytest.mark.parametrize("cls", [DrawConfig, *(draw_settings(family) for family in FAMILIES)])
def test_what_a_drawing_takes_is_what_can_stand_beside_its_contexts(cls):
    assert cls.takes <= set(field_names(Beside))
    assert "takes" not in field_names(cls), "nobody can set it"


def test_a_family_takes_nothing_unless_it_says_so_and_diffusion_takes_everything():
    assert DrawConfig.takes == frozenset()
    assert Draw.takes == set(field_names(Beside))


def test_a_preview_is_drawn_quickly_and_without_guidance():
    assert DrawConfig.preview() == DrawConfig(guidance_scale=1.0)
    assert Draw.preview() == Draw(guidance_scale=1.0, steps=20)
    assert DrawConfig.as_released() == {}
    assert Draw.as_released() == {"sampler": "ddim-2022"}


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_builds(name):
    preset = PRESETS[name]
    asked = {"model", "context", "training", "reporting", "execution", "upstream"}
    assert set(preset) <= asked
    side = 32 if "-256" in name or name.endswith("-smoke") else 64
    family = preset["model"]["family"]
    config = config_of(family).of(preset["model"])
    with torch.device("meta"):
        model = family_of(family).build(config, Shape(4, side, 512))
    assert model.family == family
    training = TrainingConfig.of(preset["training"])
    assert training.warmup_steps < training.steps
    ContextConfig.of(preset.get("context", {}))
    ReportingConfig.of(preset.get("reporting", {}))
