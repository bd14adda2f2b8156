"""What a training will need: memory for its network and batch, and hours.

Memory is followed, not modelled. Two steps run on tensors that have shapes and no bytes (torch's
FakeTensorMode), and the bytes that would be alive are added up. That takes seconds for networks of
any size; torch.distributed's MemTracker finds the same peaks in ten times as long.
"""

import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import psutil
import torch
from diffusers.training_utils import EMAModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from rdm_core.averages import LENGTHS, PowerMeans
from rdm_core.config import ExecutionConfig, TrainingConfig
from rdm_core.families import family_of
from rdm_core.families.facts import Shape
from rdm_core.families.family import Model
from rdm_core.latents import ENCODED_TOGETHER, LatentSpace
from rdm_core.memory import within_container
from rdm_core.optimizers import moments_of, optimizers_of
from rdm_core.train import piece_size

DOES_NOT_BUILD = (ValueError, RuntimeError, ArithmeticError, AssertionError)
"""What libraries raise for a network that does not fit its latents or vectors."""
PASSES = 5
"""A rate is the median of at most this many passes."""


@dataclass(frozen=True)
class MemoryNeeded:
    """The memory that one process of a training needs."""

    parameters: int
    """Trainable numbers of the network."""
    state_bytes: int
    """On its device after every step: weights, gradients, Adam's moments and the running mean; two
    more means with posthoc_ema; with several processes the copy of the gradients that they
    exchange; the autoencoder where it encodes the images of every step.
    """
    checkpoint_bytes: int
    """In the host's memory while a checkpoint is written: copies of weights, moments and means."""
    peak_bytes: int
    """The most on its device during a step; on a CPU, during a step or a checkpoint."""


def memory_needed(
    config: Any,
    training: TrainingConfig,
    execution: ExecutionConfig,
    k: int,
    shape: Shape,
    device: torch.device,
    processes: int = 1,
    encodes: LatentSpace | None = None,
) -> MemoryNeeded:
    """Follow two steps of one of `processes` processes on such a device, which need not exist here.

    `config` is a family's, k the most neighbors of a sample. `encodes` is the space whose
    autoencoder encodes the images of every step; None where nothing is encoded: in pixel space, and
    where moments or codes are stored. `execution.compile` and `channels_last` are ignored. Only
    tensors are counted: not libraries, their work space, CUDA's context, or freed blocks that an
    allocator keeps. On a CPU glibc takes 1 to 2.5 times as much, unless
    MALLOC_MMAP_THRESHOLD_=65536 sends every freed block back.

    Raises ValueError when the batch cannot be divided over processes and pieces.
    """
    needed = _followed(config, training, execution, k, shape, device, processes)
    if encodes is None:
        return needed
    images = training.batch // processes
    weights_bytes, encoding_bytes = _encoding(encodes, images, shape, config.reads.neighbor_images)
    # The next step's images are encoded while this step computes: both peaks may come at once.
    return replace(
        needed,
        state_bytes=needed.state_bytes + weights_bytes,
        peak_bytes=needed.peak_bytes + encoding_bytes,
    )


def _followed(
    config: Any, training: TrainingConfig, execution: ExecutionConfig, k: int, shape: Shape,
    device: torch.device, processes: int,
) -> MemoryNeeded:  # fmt: skip
    """What two steps take, where nothing is encoded: as `memory_needed`."""
    piece, on_cuda = piece_size(training, execution, processes), device.type == "cuda"
    # A deep copy of tensors without bytes warns.
    quiet = warnings.catch_warnings(action="ignore", category=UserWarning)
    with quiet, _NoBytes(), _LiveBytes() as live:
        model = family_of(config.family).build(config, shape).train()
        optimizers = optimizers_of(model, training, foreach=on_cuda)  # torch's own choice
        ema = EMAModel(model.parameters(), foreach=True)
        means = PowerMeans(model.named_parameters()) if training.posthoc_ema else None
        # DistributedDataParallel keeps a copy of the gradients, to exchange them.
        exchanged = list(model.parameters()) if processes > 1 else []
        buckets = [torch.empty_like(weights) for weights in exchanged]
        model.execute(replace(execution, compile=False, channels_last=False))
        if on_cuda and training.precision == "bf16":
            _norms_in_float32(model)
        # A CPU also holds the whole batch of this step and the next: latents, two kinds of noise.
        latents = (training.batch, shape.channels, shape.side, shape.side)
        samples = torch.empty(0 if on_cuda else 2, 3, *latents)
        for done in (1, 2):  # Adam's moments are there from the second step on
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            for _ in range(min(execution.accumulate, 2)):  # gradients are from the second piece on
                _loss_of(model, training, piece, k).backward()
            nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
            for optimizer in optimizers:
                optimizer.step()
            ema.step(model.parameters())
            if means:
                means.update(done)
        # Copies of the weights, the running mean, the means of posthoc_ema, and of all moments.
        copies = 2 + (len(LENGTHS) if means else 0)
        checkpoint_bytes = copies * sum(weights.nbytes for weights in model.parameters())
        for moment in moments_of(model, optimizers).values():
            checkpoint_bytes += moment.nbytes
        peak_bytes = live.peak if on_cuda else max(live.peak, live.bytes + checkpoint_bytes)
        state_bytes = live.bytes - samples.nbytes
        del buckets
    return MemoryNeeded(model.parameter_count, state_bytes, checkpoint_bytes, peak_bytes)


def _encoding(
    space: LatentSpace, images: int, shape: Shape, with_pictures: bool
) -> tuple[int, int]:
    """Bytes of a space's autoencoder, and the most on its device while it encodes the images of a
    step; with pictures to edit as many again.

    As many images as are encoded at a time are followed, on an autoencoder without bytes.
    """
    original, side = space.autoencoder, space.factor * shape.side
    quiet = warnings.catch_warnings(action="ignore", category=UserWarning)
    with quiet, _NoBytes(), _LiveBytes() as live:
        autoencoder = type(original).from_config(original.config).requires_grad_(False)
        tensors = [*autoencoder.parameters(), *autoencoder.buffers()]
        weights_bytes = sum(tensor.nbytes for tensor in tensors)
        # This step's latents and the next's; a picture has one channel more than they have.
        channels = shape.channels + (shape.channels + 1 if with_pictures else 0)
        latents = torch.empty(2, images, channels, shape.side, shape.side)
        pixels = (min(images, ENCODED_TOGETHER), 3, side, side)
        replace(space, autoencoder=autoencoder).final(torch.empty(pixels, dtype=torch.uint8))
        peak_bytes = live.peak
        del latents
    return weights_bytes, peak_bytes


def operations_of_step(config: Any, training: TrainingConfig, k: int, shape: Shape) -> int:
    """Floating-point operations of a training step over its whole batch, way back included; a
    product and its sum count as two. Followed on tensors without bytes, as memory is.
    """
    quiet = warnings.catch_warnings(action="ignore", category=UserWarning)
    with quiet, _NoBytes():
        model = family_of(config.family).build(config, shape)
        with FlopCounterMode(display=False) as counter:
            model(model.example(1, k, model.device))
    return 3 * training.batch * counter.get_total_flops()  # the way back costs two forward passes


def check_fits(config: Any, other: Any, shape: Shape) -> None:
    """Check that a model of `config` can begin with the weights of a model of `other`.

    No weights are loaded. Raises what `Model.begin_with` raises.
    """
    with warnings.catch_warnings(action="ignore", category=UserWarning), _NoBytes():
        model = family_of(config.family).build(config, shape)
        model.begin_with(family_of(other.family).build(other, shape))


def device_memory_bytes(device: torch.device) -> int:
    """All memory of a CUDA device; for the CPU what is free, within its container's limit."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return within_container(psutil.virtual_memory().available)


def measured_rate(
    config: Any,
    training: TrainingConfig,
    execution: ExecutionConfig,
    k: int,
    shape: Shape,
    device: torch.device,
    processes: int = 1,
    seconds: float = 5.0,
) -> float:
    """Images a second of one process on a device: the median of passes forward and backward.

    The first pass has one sample. The number doubles up to the training's own piece while passes
    are short; only passes of the largest number count. They end after PASSES of the whole piece,
    after `seconds`, or after a tenth of the time of the training; building the network takes more.
    The rate leaves out updates of the weights, encoding images and the exchange between processes,
    and nothing is compiled. Network and piece must fit into the memory.

    Raises ValueError when the batch cannot be divided over processes and pieces.
    """
    piece, count = piece_size(training, execution, processes), 1
    passes_seconds: list[float] = []  # of `count` samples each
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        model = family_of(config.family).build(config, shape).train().to(device)
        model.execute(replace(execution, compile=False))
        first = time.monotonic()
        end = first + seconds
        while len(passes_seconds) < PASSES and (not passes_seconds or time.monotonic() < end):
            began = time.monotonic()
            _loss_of(model, training, count, k).backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            passes_seconds.append(time.monotonic() - began)
            # A short training is not measured for longer than a tenth of itself.
            whole_seconds = training.steps * training.batch / count * passes_seconds[-1]
            if time.monotonic() - first > whole_seconds / 10:
                break
            if count < piece and passes_seconds[-1] < seconds / 10:
                count, passes_seconds = min(2 * count, piece), []
    return count / median(passes_seconds)


def training_hours(training: TrainingConfig, images_per_second: float, processes: int = 1) -> float:
    """Hours of a training on `processes` processes, each with this rate."""
    return training.steps * training.batch / (images_per_second * processes) / 3600


def _loss_of(model: Model, training: TrainingConfig, count: int, k: int) -> torch.Tensor:
    """The mean loss, float32 [], of `count` random samples with k neighbors each."""
    device = model.device
    with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bf16"):
        return model(model.example(count, k, device)).mean()


def _norms_in_float32(model: Model) -> None:
    """Give norms float32 inputs [*], as CUDA's autocast does.

    The CPU's autocast, with which everything is followed, does not do it.
    """
    for module in model.modules():
        if isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            module.register_forward_pre_hook(lambda module, inputs: (inputs[0].float(),))


class _NoBytes(FakeTensorMode):
    """Tensors in this mode have shapes and no bytes. A deep copy of a module stays in the mode."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_NoBytes":
        return self


class _LiveBytes(TorchDispatchMode):
    """Adds up the bytes of the storages that operations make, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0  # alive now
        self.peak = 0  # the most that was alive
        self._followed: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, operation: Callable[..., Any], types: Any, args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._follow(tensor.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        """Count a storage, unless it is counted already, until it is freed."""
        if storage in self._followed:
            return
        self._followed.add(storage)
        weakref.finalize(storage, self._freed, storage.nbytes())
        self.bytes += storage.nbytes()
        self.peak = max(self.peak, self.bytes)

    def _freed(self, size_bytes: int) -> None:
        self.bytes -= size_bytes
