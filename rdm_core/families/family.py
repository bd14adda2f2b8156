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
    """Some samples of a training step with all of their random numbers.

    A family adds its own tensors [B, ...]; those that it does not need are None.
    """

    context: Context
    """B sets [B, K, D]."""

    def __len__(self) -> int:
        return len(self.context.vectors)

    def rows(self, chosen: slice | torch.Tensor) -> Self:
        """The inputs of some samples: a slice, or int64 [M]."""
        return self._each(lambda v: v.rows(chosen) if isinstance(v, Context) else v[chosen])

    def to(self, device: torch.device) -> Self:
        """The same inputs on a device."""
        return self._each(lambda v: v.to(device))

    def _each(self, change: Callable[[Any], Any]) -> Self:
        """Inputs whose context and tensors [B, ...] are changed, each in the same way."""
        changed: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            changed[field.name] = None if value is None else change(value)
        return type(self)(**changed)


@dataclass(frozen=True)
class Beside:
    """What a request to draw may give beside the contexts. `DrawConfig.takes` names what a family
    uses of it.
    """

    negative: Context | None = None
    """One or B sets to guide away from, in place of the null."""
    weaker: "Model | None" = None
    """A model of the family that is smaller or was trained for less time, to guide away from."""
    style: Context | None = None
    """B sets that replace the context late in the drawing."""
    image: np.ndarray | None = None
    """uint8 [H, W, 3]: kept except where the mask is white."""
    mask: np.ndarray | None = None
    """uint8 [H, W, 3], white where something new is drawn."""
    picture: np.ndarray | None = None
    """uint8 [H, W, 3], or one for each seed [B, H, W, 3]: kept where it fits the context."""


class Model(nn.Module):
    """A trained or trainable model of some family. Its parameters are those that are learned."""

    family: str
    """One of `rdm_core.families.FAMILIES`."""
    reads: Reads
    """What it needs of the training data."""
    random_loss: bool = True
    """Whether its loss depends on random numbers, such as noise: then it is measured several
    times.
    """
    shape: Shape
    """The latents and vectors that it is built for."""
    space: LatentSpace | None
    """Its latent space; None where nothing is trained or drawn, for example to estimate memory."""

    def inputs(
        self,
        data: TrainingData,
        rows: np.ndarray,
        mine: slice,
        context: Context,
        generator: torch.Generator,
    ) -> Inputs:
        """The inputs of the b samples `rows[mine]` of a batch `rows` int64 [B], with `context`
        [b, K, D].

        Random numbers are drawn from the generator for the whole batch, on the CPU: they do not
        depend on how the batch is divided.
        """
        raise NotImplementedError

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """The loss of each sample, float32 [B].

        It is called forward because DistributedDataParallel wraps a module's forward.
        """
        raise NotImplementedError

    def example(self, count: int, k: int, device: torch.device) -> Inputs:
        """Random inputs of `count` samples with contexts [count, k, D], to measure with."""
        raise NotImplementedError

    def null(self, count: int) -> Context:
        """Contexts [count, K, D] of samples without neighbors, which guidance goes away from."""
        raise NotImplementedError

    def draw(
        self,
        context: Context,
        seeds: Sequence[int],
        how: DrawConfig,
        beside: Beside = Beside(),  # noqa: B008 - frozen
        progress: Callable[[int], None] = lambda done: None,
    ) -> np.ndarray:
        """One image for each seed: uint8 [B, H, W, 3], from the B sets of `context` [B, K, D].

        An image depends on its own seed and set alone, not on what else is drawn. Raises
        RequestError for settings that do not fit the model.
        """
        raise NotImplementedError

    def write(
        self,
        context: Context,
        images: np.ndarray,
        seeds: Sequence[int],
        how: DrawConfig,
        progress: Callable[[int], None] = lambda done: None,
        known: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """A text for each of B images uint8 [B, H, W, 3], as the encoder's tokenizer gives texts:
        int64 [B, L]; from the B sets of `context` [B, K, D]. It depends on its own seed, image and
        set alone. Words of the context's texts that are `known`, bool [B, L], stay.

        Raises RequestError where the family writes no texts.
        """
        what = f"the family {self.family} writes no texts"
        raise RequestError("model", what, "Ask a run of a family that does.")

    def score(self, context: Context, images: np.ndarray, texts: torch.Tensor) -> torch.Tensor:
        """How likely C texts int64 [B, C, L] are for each of B images, as for `write`: the
        logarithm of the probability of all of their words and their end, float64 [B, C].

        Raises RequestError where the family writes no texts.
        """
        what = f"the family {self.family} writes no texts"
        raise RequestError("model", what, "Ask a run of a family that does.")

    def execute(self, execution: ExecutionConfig) -> None:
        """Switch on what changes speed and memory, and not what is learned."""
        raise NotImplementedError

    def save_weights(self, directory: Path) -> None:
        """Write what was learned: diffusers folders and safetensors, no pickle."""
        raise NotImplementedError

    def set_means(self, means: np.ndarray) -> None:
        """Take the mean unit vectors float32 [2, D] of a database's images and captions, if the
        model uses them.
        """

    def set_encoder(self, encoder: Any) -> None:
        """Take the `rdm_core.clip.Encoder` of the run's vectors, if the model reads texts. Its
        weights are no part of the model's.

        Raises RequestError for an encoder that the model is not built for.
        """

    def save(self, directory: Path, facts: RunFacts) -> None:
        """Write a weights folder: what was learned, and `model.json`."""
        self.save_weights(directory)
        text = json.dumps(asdict(facts), indent=2, sort_keys=True) + "\n"
        (directory / FACTS_FILE).write_text(text, encoding="utf-8")

    @property
    def device(self) -> torch.device:
        """The device of its parameters."""
        return next(self.parameters()).device

    @property
    def parameter_count(self) -> int:
        """Trainable numbers."""
        count = 0
        for parameter in self.parameters():
            if parameter.requires_grad:
                count += parameter.numel()
        return count

    @property
    def works_in(self) -> LatentSpace:
        """Its latent space. Raises RequestError where it was built without one."""
        if self.space is None:
            raise RequestError("model", "was built without a latent space", "Build it with one.")
        return self.space

    @torch.no_grad()
    def begin_with(self, other: "Model") -> None:
        """Take the weights [*] of a trained model of the same network, to train on from there.

        Raises RequestError naming the first tensor that is absent or of another shape.
        """
        # What is left over of `theirs` at the end has no place in this model.
        theirs = dict(other.named_parameters())
        for name, parameter in self.named_parameters():
            weights = self.taken_over(name, theirs.pop(name, None))
            if weights is None or weights.shape != parameter.shape:
                shape = None if weights is None else list(weights.shape)
                what = f"{name} is {shape} there and {list(parameter.shape)} here"
                raise RequestError("start_from", what, "Train the same network as that run's.")
            parameter.copy_(weights)
        if theirs:
            what = f"{next(iter(theirs))} has no place in this network"
            raise RequestError("start_from", what, "Train the same network as that run's.")

    def taken_over(self, name: str, weights: torch.Tensor | None) -> torch.Tensor | None:
        """The weights [*] of another run as this model begins with them, by the parameter's name:
        as they are, unless a family makes them fit.
        """
        return weights


def set_parameters(model: nn.Module, values: Any) -> None:
    """Give every parameter its value, an array [*] of its own shape, by name and in place.

    Raises KeyError naming the first that is absent.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(values[name]))
