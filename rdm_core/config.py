"""What can be chosen about a denoiser and its training. Plain frozen dataclasses: importing them costs nothing.

They are nested in the flows' parameters, so the same class is the command line's `--set`, the flow's parameter, the
manifest's record and this manual.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DenoiserConfig:
    """The network that predicts noise, and how it sees its neighbors."""

    network: Literal["transformer", "unet"] = "unet"
    """transformer: diffusers' PixArt layout; unet: diffusers' UNet2DConditionModel, the family of the 2022 model."""
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
    """unit: vectors of length sqrt(D), so that each entry is of order 1; raw: the encoder's own length, as in 2022."""

    def __post_init__(self) -> None:
        _require(self, ("depth", "head_channels", "patch"), lambda value: value >= 1, "at least 1")
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels: is {self.channels}, must be one or more widths above 0")
        if self.network == "transformer" and self.channels[0] % self.head_channels:
            raise ValueError(f"channels: {self.channels[0]} cannot be divided into heads of {self.head_channels}")


@dataclass(frozen=True)
class NoiseConfig:
    """The forward process and what the network predicts."""

    process: Literal["flow", "epsilon"] = "epsilon"
    """flow: straight paths, logit-normal times; epsilon: noise prediction on 1000 steps of scaled-linear betas."""
    time_mean: float = 0.0
    """flow: mean of the logit of a time; above 0 more noise, below 0 less."""
    beta_start: float = 0.0015
    """epsilon: first beta."""
    beta_end: float = 0.0195
    """epsilon: last beta."""


@dataclass(frozen=True)
class TrainingConfig:
    """One training run. Devices and process counts are not here: they do not change what is learned."""

    steps: int = 100_000
    """Optimiser steps."""
    batch: int = 64
    """Samples a step, over all processes."""
    learning_rate: float = 1e-4
    """Of AdamW, constant after the warm-up."""
    warmup_steps: int = 100
    """Linear warm-up."""
    cooldown: float = 0.0
    """Last share of the steps over which the rate falls linearly to zero; 0 keeps it constant, as in 2022."""
    weight_decay: float = 0.01
    """Of AdamW."""
    clip_norm: float = 1.0
    """Gradient norm above which gradients are scaled down."""
    ema_decay: float = 0.9999
    """Of the weights' running mean, warmed up as min(decay, (1 + n) / (10 + n))."""
    k: int = 4
    """Most neighbors in a context."""
    random_k: bool = False
    """Draw k from 1..k for each sample, so that any k works when sampling; False is the 2022 model."""
    neighbor_dropout: float = 0.1
    """Share of samples whose whole context is replaced by the learned null; 1 trains the network without neighbors."""
    seed: int = 0
    """Of the initial weights, the order of samples, noise, times and dropout."""
    checkpoint_steps: int = 1000
    """A resumable checkpoint every so many steps."""
    log_steps: int = 25
    """A line of metrics every so many steps."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast; the weights stay fp32."""

    def __post_init__(self) -> None:
        counts = ("steps", "batch", "k", "checkpoint_steps", "log_steps")
        _require(self, counts, lambda value: value >= 1, "at least 1")
        _require(self, ("learning_rate", "clip_norm"), lambda value: 0 < value < float("inf"), "above 0")
        _require(self, ("cooldown", "neighbor_dropout", "ema_decay"), lambda value: 0 <= value <= 1, "between 0 and 1")
        _require(self, ("warmup_steps", "weight_decay", "seed"), lambda value: value >= 0, "0 or more")


def _require(config: object, names: tuple[str, ...], holds: Callable[[float], bool], wanted: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not holds(value):
            raise ValueError(f"{name}: is {value}, must be {wanted}")
