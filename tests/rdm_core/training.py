"""What the tests of the training loop share: a short run, and what it reports."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch

from rdm_core.config import (
    Config,
    ContextConfig,
    ExecutionConfig,
    ReportingConfig,
    TrainingConfig,
)
from rdm_core.data import TrainingData
from rdm_core.families.family import Model
from rdm_core.train import Hooks, TrainingState, train

USUAL: dict[str, Config] = {
    "config": TrainingConfig(
        steps=6, batch=5, learning_rate=1e-2, warmup_steps=2, cooldown=0.5, ema_decay=0.9
    ),
    "context": ContextConfig(k=2, random_k=True, neighbor_dropout=0.3),
    "execution": ExecutionConfig(),
    "reporting": ReportingConfig(log_steps=1, checkpoint_steps=3),
}
DRAWN = {
    "from_top": 4,
    "score_cap": 0.8,
    "each_neighbor_dropout": 0.2,
    "query_dropout": 0.3,
    "embedding_noise": 0.3,
}
"""Everything that a context can be drawn with."""


def asked(**changed: Any) -> dict[str, Any]:
    """The four configurations that `train` takes, with some of their fields changed."""
    configs = {}
    for name, usual in USUAL.items():
        changes = {}
        for field in fields(usual):
            if field.name in changed:
                changes[field.name] = changed.pop(field.name)
        configs[name] = replace(usual, **changes)
    assert not changed, "every field is one of theirs"
    return configs


class Stopped(Exception):
    """Stands for a machine that goes away."""


class Recorder:
    """Keeps what the loop reports; may stop it as soon as a step has been saved."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.records, self.speeds, self.states, self.stop_after = [], [], {}, stop_after
        self.hooks = Hooks(self.log, self.save)

    def log(self, record: dict, speed: dict) -> None:
        self.records.append(record)
        self.speeds.append(speed)

    def save(self, step: int, state: TrainingState) -> None:
        self.states[step] = state
        if step == self.stop_after:
            raise Stopped

    def column(self, name: str) -> list[float]:
        return [record[name] for record in self.records]


def run(
    model: Model,
    data: TrainingData,
    resume: tuple[int, TrainingState] | None = None,
    stop_after: int | None = None,
    **changed: Any,
) -> Recorder:
    """Train and return what was reported."""
    recorder = Recorder(stop_after)
    try:
        train(model, data, hooks=recorder.hooks, resume=resume, **asked(**changed))
    except Stopped:
        assert stop_after is not None
    return recorder


def flat(model: Model) -> torch.Tensor:
    """All parameters of a model in one row, float32 [P]."""
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def given(model: Model, data: TrainingData, **changed: Any) -> list[tuple]:
    """Noisy latents, times and contexts of every step, as a diffusion model's denoiser has them."""
    seen = []
    hook = model.denoiser.register_forward_pre_hook(lambda module, args: seen.append(args[:3]))
    run(model, data, **changed)
    hook.remove()
    return seen[1:]  # the first pass only counts operations


def slots(model: Model, data: TrainingData, **changed: Any) -> torch.Tensor:
    """The kinds of the slots of all steps, int8 [S * B, K]."""
    return torch.cat([context.slots for _, _, context in given(model, data, **changed)])


def weights(model: Model) -> dict[str, torch.Tensor]:
    """Every parameter by name."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_equal(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Equal to the bit."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(np.asarray(found[name]), np.asarray(value)), name
