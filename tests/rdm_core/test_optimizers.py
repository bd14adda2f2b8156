"""Which optimiser learns what: every parameter has one, and Muon has the matrices of the blocks."""

import pytest
import torch
from tiny import TINY
from torch import nn

from rdm_core.config import TrainingConfig
from rdm_core.optimizers import block_matrices, moments_of, optimizers_of, restore_moments

MUON = TrainingConfig(optimizer="muon", learning_rate=1e-3, weight_decay=0.5)


def learned_by(optimizer) -> list[int]:
    return [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_every_parameter_is_learned_by_one_optimiser(name, tiny_model):
    model = tiny_model(TINY["transformer"])
    optimizers = optimizers_of(model, TrainingConfig(optimizer=name))
    assert len(optimizers) == (2 if name == "muon" else 1)
    learned = [number for optimizer in optimizers for number in learned_by(optimizer)]
    assert sorted(learned) == sorted(id(parameter) for parameter in model.parameters())


def test_muon_learns_the_matrices_of_the_blocks_and_nothing_else(tiny_model):
    model = tiny_model(TINY["transformer"])
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    taken = [names[id(matrix)] for matrix in block_matrices(model)]
    assert taken and len(set(taken)) == len(taken), "each once"
    assert all("transformer_blocks" in name and name.endswith("weight") for name in taken)
    blocks = [name for name in names.values() if "transformer_blocks" in name]
    of_blocks = {name for name in blocks if name.endswith("weight") and "norm" not in name}
    assert set(taken) == of_blocks


def test_the_size_of_an_update_is_that_of_adamw():
    """So that one learning rate fits both: 0.2 of it, root mean square (arXiv 2502.16982)."""
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(64, 32)])
    before = model[0].weight.detach().clone()
    optimizers = optimizers_of(model, TrainingConfig(optimizer="muon", weight_decay=0))[1:]
    model[0].weight.grad = torch.randn(32, 64)
    optimizers[0].step()
    moved = model[0].weight.detach() - before
    assert moved.square().mean().sqrt() == pytest.approx(0.2 * 1e-4, rel=0.25)


def test_a_network_without_blocks_cannot_have_muon():
    with pytest.raises(ValueError, match="optimizer: is 'muon'.*no matrices inside blocks.*adamw"):
        optimizers_of(nn.Conv2d(3, 3, 3), MUON)


def test_moments_are_told_apart_and_come_back():
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(4, 4), nn.ModuleList([nn.Linear(4, 4)])) for _ in range(2)]
    for model in models[:1]:
        optimizers = optimizers_of(model, MUON)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        for optimizer in optimizers:
            optimizer.step()
        moments = moments_of(model, optimizers)
    assert "muon/momentum_buffer/1.0.weight" in moments
    assert {"adam/exp_avg/0.weight", "adam/exp_avg/1.0.bias"} <= moments.keys()
    assert "adam/exp_avg/1.0.weight" not in moments
    others = optimizers_of(models[1], MUON)
    restore_moments(models[1], others, {**moments, "weights/0.weight": torch.zeros(1)})
    again = moments_of(models[1], others)
    assert again.keys() == moments.keys()
    for name, moment in moments.items():
        assert torch.equal(again[name], moment), name
