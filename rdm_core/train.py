"""The training loop, one flat function. It knows a model's losses, and nothing else of its family.

Every random choice of a step is a function of (seed, step). So the state from which a run resumes
is only the weights, their running means, the optimiser's moments and the step.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rdm_core.averages import PowerMeans
from rdm_core.config import ContextConfig, ExecutionConfig, ReportingConfig, TrainingConfig
from rdm_core.data import TrainingData, rows_of_step, training_context
from rdm_core.errors import TrainingStopped
from rdm_core.families.family import Inputs, Model
from rdm_core.optimizers import moments_of, optimizers_of, restore_moments

TrainingState = dict[str, np.ndarray]
"""Everything that a run resumes from, by name: arrays of any shapes."""


@dataclass(frozen=True)
class Hooks:
    """Where the loop reports to; it knows nothing of files."""

    log: Callable[[Mapping[str, Any], Mapping[str, float]], None]
    """Takes one record of metrics, which equal parameters give again, and the speed, which they do
    not.
    """
    save: Callable[[int, TrainingState], None]
    """Takes (steps done, everything needed to resume)."""
    stopping: Callable[[], bool] = lambda: False
    """Called after every step. When it returns True, the state is saved and TrainingStopped raised.
    For runs of one process.
    """
    snapshot: Callable[[int, TrainingState], None] = lambda step, means: None
    """Takes (steps done, the means of posthoc_ema) every `snapshot_steps`."""
    show: Callable[[int, Model], None] | None = None
    """Takes (steps done, the model with its running-mean weights) at every checkpoint, to draw
    something with.
    """


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The learning rate of a step in 0..steps-1.

    It rises linearly (warm-up), stays constant, and with a `cooldown` falls linearly at the end.
    """
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    left = (config.steps - step) / max(1.0, config.cooldown * config.steps)
    return config.learning_rate * min(warm, left if config.cooldown else 1.0)


def step_inputs(
    model: Model,
    data: TrainingData,
    config: TrainingConfig,
    context: ContextConfig,
    step: int,
    mine: slice,
) -> Inputs:
    """The inputs of a step for this process's share `mine` of the batch: b samples, [b, ...].

    Everything random is drawn for the whole batch: how it is divided changes nothing.
    """
    # Runs with different seeds share no generator in their first million steps.
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    rows = rows_of_step(len(data), config.batch, step, config.seed)
    retrieved = training_context(data, context, model.reads.query, rows, config.seed, step, mine)
    return model.inputs(data, rows, mine, retrieved, generator)


def train(  # noqa: C901 - the one long function
    model: Model,
    data: TrainingData,
    config: TrainingConfig,
    hooks: Hooks,
    resume: tuple[int, TrainingState] | None = None,
    context: ContextConfig = ContextConfig(),  # noqa: B008 - frozen
    execution: ExecutionConfig = ExecutionConfig(),  # noqa: B008 - frozen
    reporting: ReportingConfig = ReportingConfig(),  # noqa: B008 - frozen
) -> Model:
    """Train until `config.steps` and return the model with its running-mean weights.

    `resume` is what `hooks.save` was last given: the step and arrays [*]. The batch is divided over
    Accelerate's processes.
    """
    # -- set up: network, optimiser, running mean, devices
    accelerator = Accelerator(mixed_precision="bf16" if config.precision == "bf16" else "no")
    piece = piece_size(config, execution, accelerator.num_processes)
    model.train().to(accelerator.device)
    optimizers = optimizers_of(model, config)
    ema = EMAModel(model.parameters(), decay=config.ema_decay, foreach=True)
    power_means = PowerMeans(model.named_parameters()) if config.posthoc_ema else None
    first = 0
    losses: list[torch.Tensor] = []
    if resume is not None:
        first, state = resume
        losses = restore_state(state, model, ema, optimizers)
        if power_means:
            power_means.restore(state)
    flops_per_image = 3 * forward_flops(model)  # backward costs two forwards
    peak = matmul_flops_per_second(accelerator.device, config.precision) * accelerator.num_processes
    model.execute(execution)
    trained, *optimizers = accelerator.prepare(model, *optimizers)
    share = piece * execution.accumulate
    mine = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    reader = ThreadPoolExecutor(1)  # reads the next step's samples while this one computes

    def read(step: int) -> Inputs:
        return step_inputs(model, data, config, context, step, mine)

    following = reader.submit(read, first)
    started, started_step = time.monotonic(), first

    for step in range(first, config.steps):
        # -- this process's share, and in the background the next step's
        inputs = following.result()
        if step + 1 < config.steps:
            following = reader.submit(read, step + 1)

        # -- predict and compare, in as many pieces as the memory wants
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        step_loss = torch.zeros((), device=accelerator.device)
        for number, rows in enumerate(torch.arange(share).split(piece)):
            last = number + 1 == execution.accumulate
            # Processes exchange gradients once a step: with the last piece.
            with nullcontext() if last else accelerator.no_sync(trained):
                each = trained(inputs.rows(rows).to(accelerator.device))
                loss = each.mean() / execution.accumulate
                accelerator.backward(loss)
            step_loss += loss.detach()

        # -- update weights and their running mean
        gradient_norm = accelerator.clip_grad_norm_(trained.parameters(), config.clip_norm)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step)
            optimizer.step()
        ema.step(model.parameters())
        if power_means:
            power_means.update(step + 1)
        losses.append(step_loss)

        # -- report
        done = step + 1
        keep = done % reporting.checkpoint_steps == 0 or done == config.steps
        # No state is kept before its losses were found to be finite.
        if done % reporting.log_steps == 0 or keep:
            mean_loss = accelerator.reduce(torch.stack(losses).mean(), reduction="mean").item()
            if not np.isfinite([mean_loss, float(gradient_norm)]).all():
                what = f"the loss is {mean_loss}, its gradient's norm {float(gradient_norm)}"
                cure = "lower the learning rate or use precision fp32"
                raise FloatingPointError(f"step {done}: {what}; {cure}")
            if accelerator.is_main_process:
                rate = (done - started_step) * config.batch / (time.monotonic() - started)
                record = {"step": done, "loss": mean_loss, "gradient_norm": float(gradient_norm)}
                speed = {
                    "images_per_second": rate,
                    "flop_utilisation": rate * flops_per_image / peak,
                    "processes": accelerator.num_processes,
                }
                hooks.log(record | {"learning_rate": learning_rate(config, step)}, speed)
            losses.clear()

        # -- keep snapshots, of which means of other lengths are mixed after the training
        snapshot = done % config.snapshot_steps == 0 or done == config.steps
        if power_means and snapshot and accelerator.is_main_process:
            hooks.snapshot(done, arrays_of(power_means.state()))

        # -- keep a state that resumes, and show what it draws
        stopping = hooks.stopping() and done < config.steps
        if accelerator.is_main_process and (keep or stopping):
            means = arrays_of(power_means.state()) if power_means else {}
            hooks.save(done, capture_state(model, ema, optimizers, losses) | means)
        if accelerator.is_main_process and keep and hooks.show is not None:
            # The model shows itself with the running mean; then its own weights come back.
            ema.store(model.parameters())
            ema.copy_to(model.parameters())
            hooks.show(done, model.eval())
            ema.restore(model.train().parameters())
        if stopping:
            reader.shutdown(cancel_futures=True)
            raise TrainingStopped(f"stopped after step {done}, whose state is kept")

    reader.shutdown()
    ema.copy_to(model.parameters())
    return model.eval()


def piece_size(config: TrainingConfig, execution: ExecutionConfig, processes: int) -> int:
    """How many samples each process works through at a time.

    Raises ValueError when the batch cannot be divided like that.
    """
    if config.batch % (processes * execution.accumulate):
        pieces = f"{processes} processes times {execution.accumulate} pieces"
        raise ValueError(f"batch {config.batch} cannot be divided over {pieces}")
    return config.batch // (processes * execution.accumulate)


@torch.no_grad()
def forward_flops(model: Model) -> int:
    """Floating-point operations of the forward pass of one image with one neighbor.

    They are counted in a pass; a product and its sum count as two.
    """
    training = model.training
    with FlopCounterMode(display=False) as counter, torch.random.fork_rng([]):
        model.eval()  # so that no layer takes this pass for a step of the training
        model(model.example(1, 1, model.device))
    model.train(training)
    return counter.get_total_flops()


def matmul_flops_per_second(device: torch.device, precision: str, seconds: float = 0.1) -> float:
    """Operations a second of a large matrix product [size, size] on a device in a precision.

    The utilisation of a training is its share of this.
    """
    size = 1024 if device.type == "cpu" else 8192
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    matrix = torch.ones(size, size, device=device, dtype=dtype)
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
    model: nn.Module,
    ema: EMAModel,
    optimizers: Sequence[torch.optim.Optimizer],
    losses: Sequence[torch.Tensor] = (),
) -> TrainingState:
    """Weights, running mean, optimiser moments and buffers, arrays [*] on the host, by name.

    Also the losses float32 [] of the steps that no line of metrics holds yet.
    """
    parameters = dict(model.named_parameters())
    names = list(parameters)
    state: dict[str, torch.Tensor] = {}
    for name, parameter in parameters.items():
        state[f"weights/{name}"] = parameter
    for name, shadow in zip(names, ema.shadow_params, strict=True):
        state[f"ema/{name}"] = shadow
    state |= moments_of(model, optimizers)
    for name, buffer in kept_buffers(model).items():
        state[f"buffers/{name}"] = buffer
    state["ema_steps"] = torch.tensor(ema.optimization_step)
    state["pending_losses"] = torch.stack([*losses]) if losses else torch.zeros(0)
    return arrays_of(state)


def kept_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """The buffers [*] that belong to a model's state, by name."""
    buffers = dict(model.state_dict())
    for name, _ in model.named_parameters():
        buffers.pop(name, None)
    return buffers


def set_running_mean(model: nn.Module, state: TrainingState) -> None:
    """Give a model the running mean of its parameters [*], and its buffers, from a state.

    Raises KeyError naming the first tensor that the state lacks.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(state[f"ema/{name}"]))
        for name, buffer in kept_buffers(model).items():
            buffer.copy_(torch.from_numpy(state[f"buffers/{name}"]))


def arrays_of(tensors: Mapping[str, torch.Tensor]) -> TrainingState:
    """Copies [*] on the host."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}


def restore_state(
    state: TrainingState,
    model: nn.Module,
    ema: EMAModel,
    optimizers: Sequence[torch.optim.Optimizer],
) -> list[torch.Tensor]:
    """Undo `capture_state`, and return the pending losses, float32 [] each.

    Raises KeyError naming the first tensor that the state lacks.
    """
    with torch.no_grad():
        for i, (name, parameter) in enumerate(model.named_parameters()):
            parameter.copy_(torch.from_numpy(state[f"weights/{name}"]))
            ema.shadow_params[i].copy_(torch.from_numpy(state[f"ema/{name}"]))
        for name, buffer in kept_buffers(model).items():
            buffer.copy_(torch.from_numpy(state[f"buffers/{name}"]))
    moments = {name: torch.from_numpy(array.copy()) for name, array in state.items()}
    restore_moments(model, optimizers, moments)
    ema.optimization_step = int(state["ema_steps"])
    device = next(model.parameters()).device
    return [loss.to(device) for loss in torch.from_numpy(state["pending_losses"].copy())]
