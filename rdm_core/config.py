"""What can be chosen about a denoiser and its training. Plain frozen dataclasses: importing them
costs nothing.

They are nested in the flows' parameters, so the same class is the command line's `--set`, the
flow's parameter, the manifest's record and this manual.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any, Literal

LARGEST_SEED = 2**40
"""What is counted up from a seed, or multiplied with one, stays within 64 bits."""
MOST = 10**9
"""Steps, images and other things that are counted: more than anybody waits for."""
_LARGEST = 2**63 - 1


def refuse_odd_numbers(name: str, value: Any) -> None:
    """Raise ValueError, naming the parameter, where a value is or holds a number that nothing can
    be computed with: NaN, infinity, more than 64 bits. What a parameter allows beyond that stands
    with the parameter.
    """
    for number in _numbers_in(value):
        if not (-_LARGEST <= number <= _LARGEST and isfinite(number)):
            raise ValueError(f"{name}: is {number}, must be a finite number of at most 64 bits")


def _numbers_in(value: Any) -> Iterator[int | float]:
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _numbers_in(part)
    elif isinstance(value, tuple | list | set | frozenset):
        for part in value:
            yield from _numbers_in(part)


@dataclass(frozen=True)
class Config:
    """Every number is checked when one is made, wherever it comes from."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            refuse_odd_numbers(field.name, value)
            if field.type is int and not isinstance(value, int):
                raise ValueError(f"{field.name}: is {value!r}, must be a whole number")
        self.check()

    def check(self) -> None:
        """Raise ValueError, naming the parameter, for what is out of range or contradicts
        itself.
        """


@dataclass(frozen=True)
class DenoiserConfig(Config):
    """The network that predicts noise, and how it sees its neighbors."""

    network: Literal["transformer", "unet"] = "unet"
    """transformer: diffusers' PixArt layout; unet: diffusers' UNet2DConditionModel, the family of
    the 2022 model.
    """
    channels: tuple[int, ...] = (192, 384, 576, 960)
    """unet: channels a level. transformer: one number, the width."""
    depth: int = 2
    """unet: residual blocks a level. transformer: blocks."""
    head_channels: int = 32
    """Channels of one attention head."""
    attention_levels: tuple[int, ...] = (1, 2, 3)
    """unet: levels (0 = full resolution) with cross-attention to the neighbors."""
    patch: int = 2
    """transformer: side of a token in latent pixels."""
    context_norm: Literal["unit", "raw"] = "unit"
    """unit: vectors of length sqrt(D), so that each entry is of order 1; raw: the encoder's own
    length, as in 2022.
    """
    query_token: bool = False
    """The training image's own vector is in the context too, with a learned mark; False, as in
    2022: neighbors alone.
    """
    set_layers: int = 0
    """Layers of a transformer that lets the vectors see each other and their scores first; 0, as in
    2022: none.
    """
    remove_means: bool = False
    """Subtract the database's mean image vector, or mean text vector, which closes most of the gap
    between the two.
    """

    def check(self) -> None:
        """As in `Config`."""
        _require_between(self, ("depth", "patch"), 1, 1000)
        _require_between(self, ("head_channels",), 1, 65_536)
        _require_between(self, ("set_layers",), 0, 1000)
        if self.remove_means and self.context_norm == "raw":
            raise ValueError("remove_means: means are those of unit vectors; use context_norm=unit")
        if not self.channels or min(self.channels) < 1 or max(self.channels) > 65_536:
            raise ValueError(
                f"channels: is {self.channels}, must be one or more widths from 1 to 65536"
            )
        if any(not 0 <= level < 1000 for level in self.attention_levels):
            raise ValueError(
                f"attention_levels: is {self.attention_levels}, must be levels from 0 on"
            )
        if self.network == "transformer" and self.channels[0] % self.head_channels:
            raise ValueError(
                f"channels: {self.channels[0]} cannot be divided into heads of {self.head_channels}"
            )


@dataclass(frozen=True)
class NoiseConfig(Config):
    """The forward process and what the network predicts."""

    process: Literal["flow", "epsilon", "velocity"] = "epsilon"
    """flow: straight paths, logit-normal times. On 1000 steps of scaled-linear betas, epsilon: the
    noise is predicted, as in 2022; velocity: noise and image together.
    """
    time_mean: float = 0.0
    """flow: mean of the logit of a time; above 0 more noise, below 0 less."""
    beta_start: float = 0.0015
    """epsilon, velocity: first beta."""
    beta_end: float = 0.0195
    """epsilon, velocity: last beta."""
    min_snr_gamma: float = 0.0
    """epsilon, velocity: signal-to-noise ratio above which a time counts no more; 5 is usual, 0
    weighs all times equally.
    """
    zero_terminal_snr: bool = False
    """velocity: the last step is pure noise, so that very dark and very bright images can be
    drawn.
    """

    def check(self) -> None:
        """As in `Config`."""
        if self.zero_terminal_snr and self.process != "velocity":
            raise ValueError(
                f"zero_terminal_snr: needs process=velocity, is {self.process}: pure noise says nothing of itself"
            )
        if self.min_snr_gamma and self.process == "flow":
            raise ValueError("min_snr_gamma: flow weighs by how times are drawn; use time_mean")
        _require_between(self, ("min_snr_gamma",), 0, 1_000_000)
        _require_between(self, ("time_mean",), -20, 20)
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"beta_start, beta_end: are {self.beta_start} and {self.beta_end}, must rise between 0 and 1"
            )


@dataclass(frozen=True)
class TrainingConfig(Config):
    """One training run. Devices and process counts are not here: they do not change what is
    learned.
    """

    steps: int = 100_000
    """Optimiser steps."""
    batch: int = 64
    """Samples a step, over all processes."""
    learning_rate: float = 1e-4
    """Of AdamW, constant after the warm-up."""
    warmup_steps: int = 100
    """Linear warm-up."""
    cooldown: float = 0.0
    """Last share of the steps over which the rate falls linearly to zero; 0 keeps it constant, as
    in 2022.
    """
    weight_decay: float = 0.01
    """Of AdamW."""
    clip_norm: float = 1.0
    """Gradient norm above which gradients are scaled down."""
    ema_decay: float = 0.9999
    """Of the weights' running mean, warmed up as min(decay, (1 + n) / (10 + n))."""
    posthoc_ema: bool = False
    """Also keep two means of growing length, and a snapshot of both at every checkpoint: `rdm
    average` mixes others of them.
    """
    k: int = 4
    """Most neighbors in a context."""
    random_k: bool = False
    """Draw k from 1..k for each sample, so that any k works when sampling; False is the 2022
    model.
    """
    from_top: int = 0
    """Draw the k neighbors of each sample at random from its nearest so many; 0, as in 2022: its k
    nearest.
    """
    score_cap: float = 1.0
    """Neighbors whose cosine with the sample is above it are passed over as near-duplicates; 1, as
    in 2022: none.
    """
    neighbor_dropout: float = 0.1
    """Share of samples whose whole context is replaced by the learned null; 1 trains the network
    without neighbors.
    """
    each_neighbor_dropout: float = 0.0
    """Share of single neighbors that are left out."""
    query_dropout: float = 0.0
    """denoiser.query_token: share of samples whose own vector is replaced by a learned null of its
    own.
    """
    embedding_noise: float = 0.0
    """Length of the Gaussian noise added to each unit vector of a context, before it is made unit
    again.
    """
    seed: int = 0
    """Of the initial weights, the order of samples, noise, times and dropout."""
    checkpoint_steps: int = 1000
    """A resumable checkpoint every so many steps."""
    log_steps: int = 25
    """A line of metrics every so many steps."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast; the weights stay fp32."""

    def check(self) -> None:
        """As in `Config`."""
        _require_between(self, ("steps", "batch", "checkpoint_steps", "log_steps"), 1, MOST)
        _require_between(self, ("warmup_steps",), 0, MOST)
        _require_between(self, ("k",), 1, 10_000)
        _require_between(self, ("from_top",), 0, 10_000)
        _require_between(self, ("seed",), 0, LARGEST_SEED)
        _require(self, ("learning_rate",), lambda value: 0 < value <= 1, "above 0, and 1 at most")
        _require(
            self, ("clip_norm",), lambda value: 0 < value <= MOST, f"above 0, and {MOST} at most"
        )
        shares = (
            "cooldown",
            "neighbor_dropout",
            "each_neighbor_dropout",
            "query_dropout",
            "ema_decay",
        )
        _require_between(self, shares, 0, 1)
        _require_between(self, ("weight_decay", "embedding_noise"), 0, 1000)
        _require(self, ("score_cap",), lambda value: -1 <= value <= 1, "a cosine")
        if self.from_top and self.from_top < self.k:
            raise ValueError(
                f"from_top: {self.from_top} nearest cannot give k={self.k} neighbors; 0 takes the k nearest"
            )


@dataclass(frozen=True)
class ExecutionConfig(Config):
    """How the training loop runs. None of it changes what is learned but for rounding, so none is
    part of a run's plan.
    """

    accumulate: int = 1
    """Pieces that each process's share of a batch is worked through in: less memory, the same
    gradient.
    """
    gradient_checkpointing: bool = False
    """Compute activations again on the way back instead of keeping them: less memory, about a third
    more time.
    """
    compile: bool = False
    """torch.compile the network: minutes at the start, faster steps."""
    channels_last: bool = False
    """Memory layout that convolutions on tensor cores prefer."""
    tensorboard: bool = False
    """Also write TensorBoard events to the run's directory; needs the extra [tensorboard]."""

    def check(self) -> None:
        """As in `Config`."""
        _require_between(self, ("accumulate",), 1, 1_000_000)


def _require_between(config: object, names: tuple[str, ...], least: float, most: float) -> None:
    _require(config, names, lambda value: least <= value <= most, f"between {least} and {most}")


def _require(
    config: object, names: tuple[str, ...], holds: Callable[[float], bool], wanted: str
) -> None:
    for name in names:
        value = getattr(config, name)
        if not holds(value):
            raise ValueError(f"{name}: is {value}, must be {wanted}")
