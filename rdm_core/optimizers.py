"""Which optimiser learns which weights of a model."""

from collections.abc import Sequence

import torch
from torch import nn

from rdm_core.config import TrainingConfig


def optimizers_of(
    model: nn.Module, config: TrainingConfig, foreach: bool | None = None
) -> list[torch.optim.Optimizer]:
    """The optimisers of a training, each with some of the parameters, together with all of them.

    adamw: one for all. muon: Muon for the matrices inside the model's blocks, whose updates it
    makes orthogonal (arXiv 2502.16982, equations 1 and 4: scaled so that AdamW's learning rate and
    weight decay fit), and AdamW for everything else: embeddings, convolutions, norms, the first
    and the last layer. `foreach` is AdamW's; None leaves it to torch.

    Raises ValueError for muon where the model has no such matrix.
    """
    matrices = block_matrices(model) if config.optimizer == "muon" else []
    chosen = {id(matrix) for matrix in matrices}
    others = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    rate, decay = config.learning_rate, config.weight_decay
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, rate, weight_decay=decay, foreach=foreach)
    ]
    if config.optimizer == "muon":
        if not matrices:
            what = "is 'muon', and this network has no matrices inside blocks"
            raise ValueError(f"optimizer: {what}; use adamw")
        optimizers.append(
            torch.optim.Muon(matrices, rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        )
    return optimizers


def block_matrices(model: nn.Module) -> list[torch.Tensor]:
    """Weights [out, in] of the linear layers that lie in a list of blocks, in order."""
    matrices: dict[int, torch.Tensor] = {}
    for blocks in model.modules():
        if isinstance(blocks, nn.ModuleList):
            for layer in blocks.modules():
                if isinstance(layer, nn.Linear) and layer.weight.requires_grad:
                    matrices[id(layer.weight)] = layer.weight
    return list(matrices.values())


def moments_of(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, torch.Tensor]:
    """What the optimisers remember, tensors [*] by OPTIMISER/MOMENT/PARAMETER: "adam", "muon"."""
    names = _names(model)
    moments: dict[str, torch.Tensor] = {}
    for optimizer in optimizers:
        own = [names[id(parameter)] for parameter in _parameters(optimizer)]
        for number, remembered in optimizer.state_dict()["state"].items():
            for key, value in remembered.items():
                moments[f"{_kind(optimizer)}/{key}/{own[number]}"] = value
    return moments


def restore_moments(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    moments: dict[str, torch.Tensor],
) -> None:
    """Undo `moments_of`; other names than its own are passed over."""
    names = _names(model)
    for optimizer in optimizers:
        # torch counts parameters in place of naming them
        own = {names[id(parameter)]: i for i, parameter in enumerate(_parameters(optimizer))}
        remembered: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in moments.items():
            if name.startswith(f"{_kind(optimizer)}/"):
                _, key, parameter_name = name.split("/", 2)
                remembered.setdefault(own[parameter_name], {})[key] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": remembered, "param_groups": groups})


def _names(model: nn.Module) -> dict[int, str]:
    return {id(parameter): name for name, parameter in model.named_parameters()}


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _kind(optimizer: torch.optim.Optimizer) -> str:
    """How an optimiser is called in a state; Accelerate's wrapper is looked into."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return "muon" if isinstance(inner, torch.optim.Muon) else "adam"
