"""The training loop: denoising with neighbors as context, one flat function.

Every random choice of a step is a function of (seed, step), so the state that resumes is weights, their running mean,
the optimiser's moments and the step, nothing else.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch.nn import functional

from rdm_core.config import TrainingConfig
from rdm_core.data import TrainingData, rows_of_step
from rdm_core.denoiser import Denoiser
from rdm_core.latents import LatentSpace
from rdm_core.noise import Process

State = dict[str, np.ndarray]


@dataclass(frozen=True)
class Hooks:
    """Where the loop reports to; it knows nothing of files."""

    log: Callable[[Mapping[str, Any], float], None]
    """Takes one record of metrics, equal in every run of equal parameters, and the speed in images a second."""
    save: Callable[[int, State], None]
    """Takes (steps done, everything needed to resume)."""
    stopping: Callable[[], bool] = lambda: False
    """Asked after every step; when it says yes, the state is saved and TrainingStopped raised. One process only."""


class TrainingStopped(Exception):
    """The run was asked to stop and saved its state first."""


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Rate of step 0..steps-1: linear warm-up, constant, and a linear cool-down over the last share if one is asked for."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    left = (config.steps - step) / max(1.0, config.cooldown * config.steps)
    return config.learning_rate * min(warm, left if config.cooldown else 1.0)


def train(
    denoiser: Denoiser,
    process: Process,
    space: LatentSpace,
    data: TrainingData,
    config: TrainingConfig,
    hooks: Hooks,
    resume: tuple[int, State] | None = None,
) -> Denoiser:
    """Train until `config.steps` and return the denoiser with its running-mean weights.

    `resume` is what `hooks.save` was last given. The batch is divided over Accelerate's processes.
    """
    # -- set up: network, optimiser, running mean, devices
    accelerator = Accelerator(mixed_precision="bf16" if config.precision == "bf16" else "no")
    if config.batch % accelerator.num_processes:
        raise ValueError(f"batch {config.batch} cannot be divided over {accelerator.num_processes} processes")
    denoiser.train().to(accelerator.device)
    optimizer = torch.optim.AdamW(denoiser.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    ema = EMAModel(denoiser.parameters(), decay=config.ema_decay, foreach=True)
    first = 0
    losses: list[torch.Tensor] = []
    if resume is not None:
        first, state = resume
        losses = restore_state(state, denoiser, ema, optimizer)
    model, optimizer = accelerator.prepare(denoiser, optimizer)
    share = config.batch // accelerator.num_processes
    mine = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    started, started_step = time.monotonic(), first

    for step in range(first, config.steps):
        # -- draw everything random of this step for the whole batch, then take this process's share
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        rows = rows_of_step(len(data), config.batch, step, config.seed)
        times = process.draw_times(config.batch, generator)[mine]
        dropped = (torch.rand(config.batch, generator=generator) < config.neighbor_dropout)[mine]
        kept_k = torch.randint(1, config.k + 1, (config.batch,), generator=generator)[mine]
        batch = data.batch(rows[mine], config.k)
        shape = (config.batch, space.channels, *batch.raw.shape[2:])
        noise, posterior_noise = (torch.randn(shape, generator=generator)[mine] for _ in range(2))
        mask = batch.mask & (torch.arange(config.k) < kept_k[:, None]) if config.random_k else batch.mask

        # -- predict and compare
        x0 = space.final(batch.raw, posterior_noise).to(accelerator.device)
        noisy, target = process.corrupt(x0, noise.to(x0), times)
        context = denoiser.context(batch.vectors, batch.norms)
        inputs = (process.network_time(times), context, mask, dropped | ~mask.any(dim=1))
        with accelerator.autocast():
            prediction = model(noisy, *(tensor.to(accelerator.device) for tensor in inputs))
        loss = functional.mse_loss(prediction.float(), target)

        # -- update weights and their running mean
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        gradient_norm = accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        ema.step(denoiser.parameters())
        losses.append(loss.detach())

        # -- report
        done = step + 1
        keep = done % config.checkpoint_steps == 0 or done == config.steps
        if done % config.log_steps == 0 or keep:  # no state is kept whose losses nobody has looked at
            mean_loss = accelerator.reduce(torch.stack(losses).mean(), reduction="mean").item()
            if not np.isfinite([mean_loss, float(gradient_norm)]).all():
                what = f"the loss is {mean_loss}, its gradient's norm {float(gradient_norm)}"
                raise FloatingPointError(f"step {done}: {what}; lower the learning rate or use precision fp32")
            if accelerator.is_main_process:
                seconds = time.monotonic() - started
                rate = (done - started_step) * config.batch / seconds
                record = {"step": done, "loss": mean_loss, "gradient_norm": float(gradient_norm)}
                hooks.log(record | {"learning_rate": learning_rate(config, step)}, round(rate, 2))
            losses.clear()

        # -- keep a state that resumes
        stopping = hooks.stopping() and done < config.steps
        if accelerator.is_main_process and (keep or stopping):
            hooks.save(done, capture_state(denoiser, ema, optimizer, losses))
        if stopping:
            raise TrainingStopped(f"stopped after step {done}, whose state is kept")

    ema.copy_to(denoiser.parameters())
    return denoiser.eval()


def capture_state(
    denoiser: Denoiser, ema: EMAModel, optimizer: torch.optim.Optimizer, losses: Sequence[torch.Tensor] = ()
) -> State:
    """Weights, running mean, optimiser moments, and the losses that no line has told yet, as named arrays."""
    names = [name for name, _ in denoiser.named_parameters()]
    moments = optimizer.state_dict()["state"]
    state = {f"weights/{name}": parameter for name, parameter in denoiser.named_parameters()}
    state |= {f"ema/{name}": shadow for name, shadow in zip(names, ema.shadow_params, strict=True)}
    state |= {f"adam/{key}/{names[i]}": value for i, values in moments.items() for key, value in values.items()}
    state["ema_steps"] = torch.tensor(ema.optimization_step)
    state["untold_losses"] = torch.stack([*losses]) if losses else torch.zeros(0)
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in state.items()}


def restore_state(
    state: State, denoiser: Denoiser, ema: EMAModel, optimizer: torch.optim.Optimizer
) -> list[torch.Tensor]:
    """Undo `capture_state`; returns the untold losses. Raises KeyError naming the first tensor that the state lacks."""
    names = [name for name, _ in denoiser.named_parameters()]
    moments: dict[int, dict[str, torch.Tensor]] = {}
    with torch.no_grad():
        for i, (name, parameter) in enumerate(denoiser.named_parameters()):
            parameter.copy_(torch.from_numpy(state[f"weights/{name}"]))
            ema.shadow_params[i].copy_(torch.from_numpy(state[f"ema/{name}"]))
    for name, array in state.items():
        if name.startswith("adam/"):
            _, key, parameter_name = name.split("/", 2)
            moments.setdefault(names.index(parameter_name), {})[key] = torch.from_numpy(array.copy())
    ema.optimization_step = int(state["ema_steps"])
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return [loss.to(next(denoiser.parameters()).device) for loss in torch.from_numpy(state["untold_losses"].copy())]
