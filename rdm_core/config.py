"""The configurations of training and drawing that all families share. Plain frozen dataclasses:
importing them costs nothing.

They are nested in the flows' parameters. So one class serves the command line's `--set`, the flow's
parameter, the manifest's record and the manual.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, ClassVar, Literal, Self

LARGEST_SEED = 2**40
"""Numbers that are computed from a seed stay within 64 bits."""
MOST = 10**9
"""The limit for steps, images and other things that are counted."""
_LARGEST = 2**63 - 1
"""The largest signed integer of 64 bits."""


def refuse_odd_numbers(name: str, value: Any) -> None:
    """Raise ValueError, naming the parameter, if a value is or holds a number that is NaN,
    infinite, or longer than 64 bits. Each parameter has limits of its own beside.
    """
    for number in _numbers_in(value):
        if not (-_LARGEST <= number <= _LARGEST and isfinite(number)):
            raise ValueError(f"{name}: is {number}, must be a finite number of at most 64 bits")


def _numbers_in(value: Any) -> Iterator[int | float]:
    """All numbers in a value, however deep in lists and mappings."""
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
    """The base of all configurations. Each one is checked when it is made."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    """For pydantic, with which Prefect makes them: unknown names are refused."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            refuse_odd_numbers(field.name, value)
            # 4.0 from JSON or a command line would fail only later, as a size.
            if field.type is int and not isinstance(value, int):
                raise ValueError(f"{field.name}: is {value!r}, must be a whole number")
        self.check()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Make it of JSON values, as `asdict` gives them. Raises ValueError for an unknown name."""
        kinds = {field.name: field.type for field in fields(cls)}
        if unknown := sorted(values.keys() - kinds):
            raise ValueError(f"{', '.join(unknown)}: unknown")
        arguments: dict[str, Any] = {}
        for name, value in values.items():
            kind = kinds[name]
            if isinstance(kind, type) and issubclass(kind, Config):
                arguments[name] = kind.of(value)
            else:  # JSON has no tuples
                arguments[name] = tuple(value) if isinstance(value, list) else value
        return cls(**arguments)

    def check(self) -> None:
        """Raise ValueError, naming the parameter, for values out of range or in contradiction."""


@dataclass(frozen=True)
class TrainingConfig(Config):
    """How weights are learned, whatever the family. Devices and process counts are not here: they
    do not change what is learned.
    """

    steps: int = 100_000
    """Optimiser steps."""
    batch: int = 64
    """Samples a step, over all processes."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """adamw, as in 2022; muon: Muon for the matrices inside the network's blocks, AdamW for the
    rest: fewer steps to the same loss, each a little slower. For transformers.
    """
    learning_rate: float = 1e-4
    """Of the optimiser, constant after the warm-up."""
    warmup_steps: int = 100
    """Linear warm-up."""
    cooldown: float = 0.0
    """Last share of the steps over which the rate falls linearly to zero; 0 keeps it constant, as
    in 2022.
    """
    weight_decay: float = 0.01
    """Of the optimiser."""
    clip_norm: float = 1.0
    """Gradient norm above which gradients are scaled down."""
    ema_decay: float = 0.9999
    """Of the weights' running mean, warmed up as min(decay, (1 + n) / (10 + n))."""
    posthoc_ema: bool = False
    """Also keep two means of growing length, and snapshots of both: `rdm average` mixes others of
    them.
    """
    snapshot_steps: int = 1000
    """posthoc_ema: a snapshot every so many steps."""
    seed: int = 0
    """Of the initial weights, the order of samples, noise, times and dropout."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast; the weights stay fp32."""

    def check(self) -> None:
        """As in `Config`."""
        require_between(self, ("steps", "batch", "snapshot_steps"), 1, MOST)
        require_between(self, ("warmup_steps",), 0, MOST)
        require_between(self, ("seed",), 0, LARGEST_SEED)
        require(self, ("learning_rate",), lambda value: 0 < value <= 1, "above 0, and 1 at most")
        require(
            self, ("clip_norm",), lambda value: 0 < value <= MOST, f"above 0, and {MOST} at most"
        )
        require_between(self, ("cooldown", "ema_decay"), 0, 1)
        require_between(self, ("weight_decay",), 0, 1000)


@dataclass(frozen=True)
class ContextConfig(Config):
    """Which retrieved vectors a sample is trained with."""

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
    """Where the image's own vector is in the context too: share of samples for which it is replaced
    by a learned null of its own.
    """
    query_alone: float = 0.0
    """Where the image's own vector is in the context too: share of samples whose context is that
    vector alone, without neighbors.
    """
    text_dropout: float = 0.0
    """Where the model reads captions: share of samples whose own is left out, whatever becomes of
    their neighbors.
    """
    embedding_noise: float = 0.0
    """Length of the Gaussian noise added to each unit vector of a context, before it is made unit
    again.
    """

    def check(self) -> None:
        """As in `Config`."""
        require_between(self, ("k",), 1, 10_000)
        require_between(self, ("from_top",), 0, 10_000)
        dropouts = ("neighbor_dropout", "each_neighbor_dropout", "query_dropout", "query_alone")
        require_between(self, (*dropouts, "text_dropout"), 0, 1)
        require_between(self, ("embedding_noise",), 0, 1000)
        require(self, ("score_cap",), lambda value: -1 <= value <= 1, "a cosine")
        if self.from_top and self.from_top < self.k:
            raise ValueError(
                f"from_top: {self.from_top} nearest cannot give k={self.k} neighbors; "
                "0 takes the k nearest"
            )


@dataclass(frozen=True)
class ReportingConfig(Config):
    """What a training tells and keeps on its way. None of it is part of a run's plan: it can be
    changed in the middle of a run.
    """

    log_steps: int = 25
    """A line of metrics every so many steps."""
    checkpoint_steps: int = 1000
    """A resumable checkpoint every so many steps."""
    tensorboard: bool = False
    """Also write TensorBoard events to the run's directory; needs the extra [tensorboard]."""

    def check(self) -> None:
        """As in `Config`."""
        require_between(self, ("log_steps", "checkpoint_steps"), 1, MOST)


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

    def check(self) -> None:
        """As in `Config`."""
        require_between(self, ("accumulate",), 1, 1_000_000)


@dataclass(frozen=True)
class DrawConfig(Config):
    """How samples are drawn. A family adds its own settings."""

    takes: ClassVar[frozenset[str]] = frozenset()
    """What a request may give beside the contexts: fields of `rdm_core.families.family.Beside`."""
    later: ClassVar[frozenset[str]] = frozenset()
    """Settings that came after samples had been drawn: plans say nothing of one that has its
    default, and stay what they were.
    """

    writes: ClassVar[bool] = False
    """Whether the family's models also write texts: `rdm_core.families.family.Model.write`."""

    guidance_scale: float = 2.0
    """0: without neighbors; 1: no guidance; above: stronger."""

    def check(self) -> None:
        """As in `Config`."""
        require_between(self, ("guidance_scale",), 0, 1000)

    def planned(self) -> dict[str, Any]:
        """The settings as a plan holds them."""
        settings = asdict(self)
        for field in fields(self):
            if field.name in self.later and settings[field.name] == field.default:
                del settings[field.name]
        return settings

    @classmethod
    def as_released(cls) -> dict[str, Any]:
        """What is set for models converted from a release unless something else is asked for."""
        return {}

    @classmethod
    def preview(cls) -> Self:
        """What is shown while a model is trained: its samples as they are, drawn quickly."""
        return cls(guidance_scale=1.0)


def require_between(config: object, names: tuple[str, ...], least: float, most: float) -> None:
    """Raise ValueError naming the first of some numbers of a configuration that is out of range."""
    require(config, names, lambda value: least <= value <= most, f"between {least} and {most}")


def require(
    config: object, names: tuple[str, ...], holds: Callable[[float], bool], wanted: str
) -> None:
    """Raise ValueError naming the first of some numbers that are not what is wanted."""
    for name in names:
        value = getattr(config, name)
        if not holds(value):
            raise ValueError(f"{name}: is {value}, must be {wanted}")
