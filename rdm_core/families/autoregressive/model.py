"""An autoregressive model: a causal transformer over the codes of a VQModel.

B samples, b of them on this process, K slots, D dimensions, T = side * side codes of an image in
reading order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from rdm_core.config import DrawConfig
from rdm_core.context import NEIGHBOR, Context, nothing
from rdm_core.data import TrainingData
from rdm_core.families.autoregressive.config import Config, Draw
from rdm_core.families.facts import RunFacts, Shape
from rdm_core.families.family import Beside, Inputs
from rdm_core.families.over_codes import OverCodes
from rdm_core.importing import large_import
from rdm_core.latents import LatentSpace

if TYPE_CHECKING:  # it imports diffusers, which takes two seconds
    from rdm_core.families.autoregressive.decoder import CausalTransformer


@dataclass(frozen=True)
class AutoregressiveInputs(Inputs):
    """Everything that the loss depends on beside the weights."""

    codes: torch.Tensor
    """int64 [B, T]."""


class Autoregressive(OverCodes):
    """p(image | vectors of its neighbors) as the product over its codes (RARM, arXiv 2204.11824,
    section 3.2).
    """

    family = "autoregressive"
    random_loss = False
    transformer: "CausalTransformer"

    def inputs(
        self,
        data: TrainingData,
        rows: np.ndarray,
        mine: slice,
        context: Context,
        generator: torch.Generator,
    ) -> AutoregressiveInputs:
        """The inputs of the b samples `rows[mine]` of `rows` int64 [B], as in `Model`: codes [b, T]
        as they are stored; nothing here is random.
        """
        return AutoregressiveInputs(context, data.raw(rows[mine]).flatten(1))

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """The cross-entropy of each sample, in nats a code, float32 [B]: -1/T sum_i log p(code_i |
        codes before it, {phi(y)}).
        """
        assert isinstance(inputs, AutoregressiveInputs), "what `inputs` gave"
        tokens, mask = self.transformer.seen(inputs.context)
        logits = self.transformer(inputs.codes, tokens, mask).float()
        losses = functional.cross_entropy(logits.transpose(1, 2), inputs.codes, reduction="none")
        return losses.mean(dim=1)

    def example(self, count: int, k: int, device: torch.device) -> AutoregressiveInputs:
        """Random inputs of `count` samples with contexts [count, k, D], as in `Model`."""
        network = self.transformer
        ones = torch.ones(count, k + network.config.query_token, device=device)
        vectors = torch.randn(*ones.shape, self.shape.dimension, device=device)
        slots = torch.full_like(ones, NEIGHBOR, dtype=torch.int8)
        codes = torch.randint(network.codes, (count, self.shape.side**2), device=device)
        return AutoregressiveInputs(Context(vectors, ones, ones, slots), codes)

    def null(self, count: int) -> Context:
        """Contexts [count, 1, D] without any vector: the network uses its learned null."""
        return nothing(count, self.shape.dimension)

    def draw(
        self,
        context: Context,
        seeds: Sequence[int],
        how: DrawConfig,
        beside: Beside = Beside(),  # noqa: B008 - frozen
        progress: Callable[[int], None] = lambda done: None,
    ) -> np.ndarray:
        """Images uint8 [B, H, W, 3] from B sets [B, K, D], as in `Model`."""
        from rdm_core.families.autoregressive.draw import generate

        assert isinstance(how, Draw), "this family's settings"
        codes = generate(self.transformer, context, seeds, how, beside, progress)
        return self.decoded(codes)

    def set_means(self, means: np.ndarray) -> None:
        """Take means float32 [2, D], as in `Model`."""
        if self.transformer.config.remove_means:
            self.transformer.set_means(means)


def import_networks() -> None:
    """Import now what `build` will import. It takes two seconds."""
    with large_import():
        import rdm_core.families.autoregressive.decoder  # noqa: F401


def build(
    config: Config, shape: Shape, space: LatentSpace | None = None, seed: int | None = None
) -> Autoregressive:
    """Make a new model; its weights follow `seed`, or torch's generator without one.

    Raises RequestError where the space has another number of codes than the configuration, or none.
    """
    from rdm_core.families.autoregressive.decoder import CausalTransformer

    if seed is not None:
        torch.manual_seed(seed)
    transformer = CausalTransformer(
        config.codes, shape.side**2, shape.dimension, config.transformer
    )
    return Autoregressive(transformer, config, shape, space)


def load(directory: Path, config: Config, facts: RunFacts, space: LatentSpace) -> Autoregressive:
    """The model in a weights folder, in evaluation mode.

    Raises WeightsError when the folder is not one that `save` wrote.
    """
    return build(config, facts.shape, space).with_weights(directory)
