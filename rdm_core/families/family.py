"""What the training loop, the sampler and the evaluation know of a model, whatever its family.

B samples, K slots, D dimensions of an encoder.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from rdm_core.config import DrawConfig, ExecutionConfig
from rdm_core.context import Context
from rdm_core.data import TrainingData
from rdm_core.errors import RequestError
from rdm_core.families import FACTS_FILE
from rdm_core.families.facts import Reads, RunFacts, Shape
from rdm_core.latents import LatentSpace


@dataclass(frozen=True)
class Inputs:
    """Some samples of a training step, and everything random of it. A family adds its tensors, and
    None for those that it may do without.
    """

    context: Context
    """B sets."""

    def __len__(self) -> int:
        return len(self.context.vectors)

    def rows(self, chosen: slice | torch.Tensor) -> Self:
        """Those of some samples."""
        return self._each(lambda v: v.rows(chosen) if isinstance(v, Context) else v[chosen])

    def to(self, device: torch.device) -> Self:
        """Themselves on a device."""
        return self._each(lambda v: v.to(device))

    def _each(self, change: Callable[[Any], Any]) -> Self:
        parts = {one.name: getattr(self, one.name) for one in fields(self)}
        changed: dict[str, Any] = {
            name: None if value is None else change(value) for name, value in parts.items()
        }
        return type(self)(**changed)


@dataclass(frozen=True)
class Beside:
    """What a drawing may be given beside its contexts. `DrawConfig.takes` names what a family
    uses.
    """

    negative: Context | None = None
    """One or B sets to guide away from, in place of the null."""
    weaker: "Model | None" = None
    """A smaller or shorter trained model of the family to guide away from."""
    style: Context | None = None
    """B sets that take over late."""
    image: np.ndarray | None = None
    """uint8 [H, W, 3], kept but where the mask is white."""
    mask: np.ndarray | None = None
    """uint8 [H, W, 3], white where something new is drawn."""


class Model(nn.Module):
    """A trained or trainable model of some family. Its parameters are those that are learned."""

    family: str
    """One of `rdm_core.families.FAMILIES`."""
    reads: Reads
    """What it wants of the training data."""
    shape: Shape
    """What it is built for."""
    space: LatentSpace | None
    """Where it works; None where nothing is trained or drawn, as to estimate memory."""

    def inputs(
        self,
        data: TrainingData,
        rows: np.ndarray,
        mine: slice,
        context: Context,
        generator: torch.Generator,
    ) -> Inputs:
        """Samples `rows[mine]` of a batch `rows` [B], with contexts of their own.

        What is random is drawn from the generator for the whole batch, on the CPU, so that it is
        the same however a batch is divided.
        """
        raise NotImplementedError

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """The loss of each sample [B]. The forward, as that is what DistributedDataParallel
        wraps.
        """
        raise NotImplementedError

    def example(self, count: int, k: int, device: torch.device) -> Inputs:
        """Made-up inputs of `count` samples with k neighbors each, to measure with."""
        raise NotImplementedError

    def null(self, count: int) -> Context:
        """The contexts of `count` samples without neighbors: what guidance goes away from."""
        raise NotImplementedError

    def draw(
        self,
        context: Context,
        seeds: Sequence[int],
        how: DrawConfig,
        beside: Beside = Beside(),  # noqa: B008 - frozen
        progress: Callable[[int], None] = lambda done: None,
    ) -> np.ndarray:
        """One image a seed: uint8 [B, H, W, 3], for the B sets of `context`.

        An image depends on its own seed and set alone, not on what else is drawn. Raises
        RequestError for settings that do not fit the model.
        """
        raise NotImplementedError

    def execute(self, execution: ExecutionConfig) -> None:
        """Switch on what changes speed and memory and not what is learned."""
        raise NotImplementedError

    def save_weights(self, directory: Path) -> None:
        """Write what was learned: diffusers folders and safetensors, no pickle."""
        raise NotImplementedError

    def set_means(self, means: np.ndarray) -> None:
        """Take the mean unit vectors of a database's images and captions [2, D], if it uses
        them.
        """

    def save(self, directory: Path, facts: RunFacts) -> None:
        """Write a weights folder: what was learned, and `model.json`."""
        self.save_weights(directory)
        told = json.dumps(asdict(facts), indent=2, sort_keys=True) + "\n"
        (directory / FACTS_FILE).write_text(told, encoding="utf-8")

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.parameters()).device

    @property
    def parameter_count(self) -> int:
        """Trainable numbers."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    @property
    def works_in(self) -> LatentSpace:
        """Its latent space. Raises RequestError where it was built without one."""
        if self.space is None:
            raise RequestError("model", "was built without a latent space", "Build it with one.")
        return self.space

    @torch.no_grad()
    def begin_with(self, other: "Model") -> None:
        """Take the weights of a trained model of the same network, to train on from there.

        Raises RequestError naming the first tensor that is absent or of another shape.
        """
        theirs = dict(other.named_parameters())
        for name, parameter in self.named_parameters():
            given = theirs.pop(name, None)
            if given is None or given.shape != parameter.shape:
                shape = None if given is None else list(given.shape)
                what = f"{name} is {shape} there and {list(parameter.shape)} here"
                raise RequestError("start_from", what, "Train the same network as that run's.")
            parameter.copy_(given)
        if theirs:
            what = f"{next(iter(theirs))} has no place in this network"
            raise RequestError("start_from", what, "Train the same network as that run's.")


def set_parameters(model: nn.Module, values: Any) -> None:
    """Give every parameter its value [*] by name, in place.

    Raises KeyError naming the first that is absent.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(values[name]))
