"""The training loop: denoising with neighbors as context, one flat function.

Every random choice of a step is a function of (seed, step), so the state that resumes is weights,
their running means, the optimiser's moments and the step, nothing else.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rdm_core.averages import PowerMeans
from rdm_core.config import ExecutionConfig, TrainingConfig
from rdm_core.context import Context, nothing
from rdm_core.data import TrainingData, rows_of_step, training_context
from rdm_core.denoiser import Denoiser
from rdm_core.latents import LatentSpace
from rdm_core.noise import Process

State = dict[str, np.ndarray]


@dataclass(frozen=True)
class Hooks:
    """Where the loop reports to; it knows nothing of files."""

    log: Callable[[Mapping[str, Any], Mapping[str, float]], None]
    """Takes one record of metrics, equal in every run of equal parameters, and the speed, which is
    not.
    """
    save: Callable[[int, State], None]
    """Takes (steps done, everything needed to resume)."""
    stopping: Callable[[], bool] = lambda: False
    """Asked after every step; when it says yes, the state is saved and TrainingStopped raised. One
    process only.
    """
    snapshot: Callable[[int, State], None] = lambda step, means: None
    """Takes (steps done, the means of posthoc_ema) at every checkpoint."""
    show: Callable[[int, Denoiser], None] | None = None
    """Takes (steps done, the denoiser with its running-mean weights) at every checkpoint, to draw
    something with.
    """


class TrainingStopped(Exception):
    """The run was asked to stop and saved its state first."""


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Rate of step 0..steps-1: linear warm-up, constant, and a linear cool-down over the last share
    if one is asked for.
    """
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    left = (config.steps - step) / max(1.0, config.cooldown * config.steps)
    return config.learning_rate * min(warm, left if config.cooldown else 1.0)


@dataclass(frozen=True)
class StepInputs:
    """One process's share of a step: everything but the weights. B samples."""

    raw: torch.Tensor
    """Raw latents [B, C, h, w]."""
    posterior_noise: torch.Tensor
    """What a sample of the autoencoder's posterior is made with, like the final latents."""
    noise: torch.Tensor
    """What the latents are corrupted with, like the final latents."""
    times: torch.Tensor
    """float [B] in 0..1."""
    context: Context


def step_inputs(
    data: TrainingData,
    process: Process,
    channels: int,
    config: TrainingConfig,
    query_token: bool,
    step: int,
    mine: slice,
) -> StepInputs:
    """Draw everything random of a step for the whole batch, and read this process's share `mine` of
    it.
    """
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    rows = rows_of_step(len(data), config.batch, step, config.seed)
    times = process.draw_times(config.batch, generator)[mine]
    raw = data.raw(rows[mine])
    shape = (config.batch, channels, *raw.shape[2:])
    noise, posterior_noise = (torch.randn(shape, generator=generator)[mine] for _ in range(2))
    return StepInputs(
        raw,
        posterior_noise,
        noise,
        times,
        training_context(data, config, query_token, rows, step, mine),
    )


def train(  # noqa: C901 - the one long function
    denoiser: Denoiser,
    process: Process,
    space: LatentSpace,
    data: TrainingData,
    config: TrainingConfig,
    hooks: Hooks,
    resume: tuple[int, State] | None = None,
    execution: ExecutionConfig = ExecutionConfig(),  # noqa: B008 - frozen
) -> Denoiser:
    """Train until `config.steps` and return the denoiser with its running-mean weights.

    `resume` is what `hooks.save` was last given. The batch is divided over Accelerate's processes.
    """
    # -- set up: network, optimiser, running mean, devices
    accelerator = Accelerator(mixed_precision="bf16" if config.precision == "bf16" else "no")
    piece = piece_size(config, execution, accelerator.num_processes)
    denoiser.train().to(accelerator.device)
    optimizer = torch.optim.AdamW(
        denoiser.parameters(), config.learning_rate, weight_decay=config.weight_decay
    )
    ema = EMAModel(denoiser.parameters(), decay=config.ema_decay, foreach=True)
    power_means = PowerMeans(denoiser.named_parameters()) if config.posthoc_ema else None
    first = 0
    losses: list[torch.Tensor] = []
    if resume is not None:
        first, state = resume
        losses = restore_state(state, denoiser, ema, optimizer)
        if power_means:
            power_means.restore(state)
    flops_per_image = 3 * forward_flops(
        denoiser, space.channels, data.latents[0].shape[-1]
    )  # backward costs two forwards
    peak = matmul_flops_per_second(accelerator.device, config.precision) * accelerator.num_processes
    apply_execution(denoiser, execution)
    model, optimizer = accelerator.prepare(denoiser, optimizer)
    share = piece * execution.accumulate
    mine = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    query_token = denoiser.settings["query_token"]
    reader = ThreadPoolExecutor(1)  # reads the next step's samples while this one computes

    def read(step: int) -> StepInputs:
        return step_inputs(data, process, space.channels, config, query_token, step, mine)

    following = reader.submit(read, first)
    started, started_step = time.monotonic(), first

    for step in range(first, config.steps):
        # -- this process's share, and in the background the next step's
        inputs = following.result()
        if step + 1 < config.steps:
            following = reader.submit(read, step + 1)

        # -- predict and compare, in as many pieces as the memory wants
        optimizer.zero_grad(set_to_none=True)
        step_loss = torch.zeros((), device=accelerator.device)
        for number, rows in enumerate(torch.arange(share).split(piece)):
            x0 = space.final(inputs.raw[rows], inputs.posterior_noise[rows]).to(accelerator.device)
            times, noise = inputs.times[rows].to(accelerator.device), inputs.noise[rows].to(x0)
            context = inputs.context.rows(rows).to(accelerator.device)
            last = number + 1 == execution.accumulate
            with nullcontext() if last else accelerator.no_sync(model):
                error = weighted_error(
                    model, process, x0, noise, times, context, accelerator.autocast()
                )
                loss = error / execution.accumulate
                accelerator.backward(loss)
            step_loss += loss.detach()

        # -- update weights and their running mean
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        gradient_norm = accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        ema.step(denoiser.parameters())
        if power_means:
            power_means.update(step + 1)
        losses.append(step_loss)

        # -- report
        done = step + 1
        keep = done % config.checkpoint_steps == 0 or done == config.steps
        if (
            done % config.log_steps == 0 or keep
        ):  # no state is kept whose losses nobody has looked at
            mean_loss = accelerator.reduce(torch.stack(losses).mean(), reduction="mean").item()
            if not np.isfinite([mean_loss, float(gradient_norm)]).all():
                what = f"the loss is {mean_loss}, its gradient's norm {float(gradient_norm)}"
                raise FloatingPointError(
                    f"step {done}: {what}; lower the learning rate or use precision fp32"
                )
            if accelerator.is_main_process:
                rate = (done - started_step) * config.batch / (time.monotonic() - started)
                record = {"step": done, "loss": mean_loss, "gradient_norm": float(gradient_norm)}
                speed = {
                    "images_per_second": rate,
                    "flop_utilisation": rate * flops_per_image / peak,
                }
                speed |= {"processes": accelerator.num_processes}
                hooks.log(record | {"learning_rate": learning_rate(config, step)}, speed)
            losses.clear()

        # -- keep a state that resumes, and show what it draws
        stopping = hooks.stopping() and done < config.steps
        if accelerator.is_main_process and (keep or stopping):
            means = arrays_of(power_means.state()) if power_means else {}
            if means and keep:
                hooks.snapshot(
                    done, means
                )  # before the checkpoint: a run that resumes from there has it
            hooks.save(done, capture_state(denoiser, ema, optimizer, losses) | means)
        if accelerator.is_main_process and keep and hooks.show is not None:
            ema.store(denoiser.parameters())
            ema.copy_to(denoiser.parameters())
            hooks.show(done, denoiser.eval())
            ema.restore(denoiser.train().parameters())
        if stopping:
            reader.shutdown(cancel_futures=True)
            raise TrainingStopped(f"stopped after step {done}, whose state is kept")

    reader.shutdown()
    ema.copy_to(denoiser.parameters())
    return denoiser.eval()


def piece_size(config: TrainingConfig, execution: ExecutionConfig, processes: int) -> int:
    """Samples that each process works through at a time. Raises ValueError when the batch cannot be
    divided so.
    """
    if config.batch % (processes * execution.accumulate):
        pieces = f"{processes} processes times {execution.accumulate} pieces"
        raise ValueError(f"batch {config.batch} cannot be divided over {pieces}")
    return config.batch // (processes * execution.accumulate)


def weighted_error(
    model: nn.Module, process: Process, x0: torch.Tensor, noise: torch.Tensor, times: torch.Tensor, context: Context,
    autocast: AbstractContextManager[None],
) -> torch.Tensor:  # fmt: skip
    """The loss [] of some samples: clean latents and noise [B, C, h, w], times [B] in 0..1, their
    contexts; the network alone runs under `autocast`.
    """
    noisy, target = process.corrupt(x0, noise, times)
    with autocast:
        prediction = model(noisy, process.network_time(times), context)
    squares = (prediction.float() - target).square().mean(dim=(1, 2, 3))
    return (process.loss_weights(times) * squares).mean()


def apply_execution(denoiser: Denoiser, execution: ExecutionConfig) -> None:
    """Switch on what changes the speed and memory of the network and not what it learns."""
    if execution.gradient_checkpointing:
        denoiser.network.enable_gradient_checkpointing()
    if execution.channels_last:
        denoiser.network.to(memory_format=torch.channels_last)
    if execution.compile:
        denoiser.network.compile()


@torch.no_grad()
def forward_flops(denoiser: Denoiser, channels: int, side: int) -> int:
    """Floating-point operations of one image's forward pass, counted while it runs; a product and
    its sum count as two.
    """
    device = denoiser.null.device
    x, time_ = torch.zeros(1, channels, side, side, device=device), torch.zeros(1, device=device)
    with FlopCounterMode(display=False) as counter:
        denoiser(x, time_, nothing(1, denoiser.dimension).to(device))
    return counter.get_total_flops()


def matmul_flops_per_second(device: torch.device, precision: str, seconds: float = 0.1) -> float:
    """What this device reaches on one large matrix product in a precision: the limit that
    utilisation is a share of.
    """
    size = 1024 if device.type == "cpu" else 8192
    matrix = torch.ones(
        size, size, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32
    )
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    matrix @ matrix  # the first one loads the library
    wait()
    count, started = 0, time.monotonic()
    while time.monotonic() - started < seconds:
        matrix @ matrix
        wait()
        count += 1
    return count * 2 * size**3 / (time.monotonic() - started)


def capture_state(
    denoiser: Denoiser,
    ema: EMAModel,
    optimizer: torch.optim.Optimizer,
    losses: Sequence[torch.Tensor] = (),
) -> State:
    """Weights, running mean, optimiser moments, and the losses that no line has told yet, as named
    arrays.
    """
    names = [name for name, _ in denoiser.named_parameters()]
    moments = optimizer.state_dict()["state"]
    state: dict[str, torch.Tensor] = {
        f"weights/{name}": parameter for name, parameter in denoiser.named_parameters()
    }
    state |= {f"ema/{name}": shadow for name, shadow in zip(names, ema.shadow_params, strict=True)}
    state |= {
        f"adam/{key}/{names[i]}": value
        for i, values in moments.items()
        for key, value in values.items()
    }
    state |= {
        f"buffers/{name}": buffer
        for name, buffer in denoiser.named_buffers()
        if not name.startswith("network.")
    }
    state["ema_steps"] = torch.tensor(ema.optimization_step)
    state["untold_losses"] = torch.stack([*losses]) if losses else torch.zeros(0)
    return arrays_of(state)


def arrays_of(tensors: Mapping[str, torch.Tensor]) -> State:
    """Copies on the host."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}


def restore_state(
    state: State, denoiser: Denoiser, ema: EMAModel, optimizer: torch.optim.Optimizer
) -> list[torch.Tensor]:
    """Undo `capture_state`; returns the untold losses. Raises KeyError naming the first tensor that
    the state lacks.
    """
    names = [name for name, _ in denoiser.named_parameters()]
    moments: dict[int, dict[str, torch.Tensor]] = {}
    with torch.no_grad():
        for i, (name, parameter) in enumerate(denoiser.named_parameters()):
            parameter.copy_(torch.from_numpy(state[f"weights/{name}"]))
            ema.shadow_params[i].copy_(torch.from_numpy(state[f"ema/{name}"]))
        for name, buffer in denoiser.named_buffers():
            if not name.startswith("network."):
                buffer.copy_(torch.from_numpy(state[f"buffers/{name}"]))
    for name, array in state.items():
        if name.startswith("adam/"):
            _, key, parameter_name = name.split("/", 2)
            moments.setdefault(names.index(parameter_name), {})[key] = torch.from_numpy(
                array.copy()
            )
    ema.optimization_step = int(state["ema_steps"])
    optimizer.load_state_dict(
        {"state": moments, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    return [
        loss.to(next(denoiser.parameters()).device)
        for loss in torch.from_numpy(state["untold_losses"].copy())
    ]
