"""A discrete diffusion model: a transformer that finds the codes of a VQModel again, of which some
were masked or replaced.

B samples, b of them on this process, K slots, D dimensions, N = side * side codes of an image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rdm_core.config import DrawConfig
from rdm_core.context import NEIGHBOR, Context, nothing
from rdm_core.data import TrainingData
from rdm_core.families.discrete.config import Config, Draw
from rdm_core.families.discrete.transitions import Transitions
from rdm_core.families.facts import RunFacts, Shape
from rdm_core.families.family import Beside, Inputs
from rdm_core.families.over_codes import OverCodes
from rdm_core.importing import large_import
from rdm_core.latents import LatentSpace

if TYPE_CHECKING:  # it imports diffusers, which takes two seconds
    from rdm_core.families.discrete.network import CodesTransformer


@dataclass(frozen=True)
class DiscreteInputs(Inputs):
    """Everything that the loss depends on beside the weights."""

    codes: torch.Tensor
    """int64 [B, N]."""
    times: torch.Tensor
    """int64 [B], from 1 to T."""
    uniform: torch.Tensor
    """float64 [B, N] in 0..1: what becomes of each code."""
    others: torch.Tensor
    """int64 [B, N]: what it is replaced with, if it is."""


class Discrete(OverCodes):
    """p(image | vectors of its neighbors) by discrete diffusion of its codes (kNN-Diffusion, arXiv
    2204.02849; VQ-Diffusion, arXiv 2111.14822).
    """

    family = "discrete"

    def __init__(
        self,
        transformer: "CodesTransformer",
        config: Config,
        shape: Shape,
        space: LatentSpace | None,
    ) -> None:
        """Raises RequestError where the space has another number of codes than the configuration,
        or none.
        """
        super().__init__(transformer, config, shape, space)
        self.transitions = Transitions(config.codes, config.transitions)
        self.config = config
        self.last_divergence = self.transitions.last_divergence()

    def inputs(
        self,
        data: TrainingData,
        rows: np.ndarray,
        mine: slice,
        context: Context,
        generator: torch.Generator,
    ) -> DiscreteInputs:
        """The inputs of the b samples `rows[mine]` of `rows` int64 [B], as in `Model`: codes [b, N]
        as they are stored, and what they are noised with.

        Times are spread evenly: each of B equal parts of 1..T gives one of them, in random order.
        """
        count, positions, times = len(rows), self.shape.side**2, self.transitions.times
        parts = torch.randperm(count, generator=generator)
        places = (parts + torch.rand(count, generator=generator, dtype=torch.float64)) / count
        uniform = torch.rand(count, positions, generator=generator, dtype=torch.float64)
        others = torch.randint(self.config.codes, (count, positions), generator=generator)
        codes = data.raw(rows[mine]).flatten(1)
        drawn = (places * times).long().clamp(max=times - 1) + 1
        return DiscreteInputs(context, codes, drawn[mine], uniform[mine], others[mine])

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """The loss of each sample, in nats a code, float32 [B]; in evaluation mode the bound alone.

        The variational bound -log p(x_0) <= sum_t KL_t + KL(q(x_T | x_0) || p(x_T)) is estimated at
        one time a sample, T times its divergence. While training, the cross-entropy of the image's
        codes is added (arXiv 2111.14822, eq. 12).
        """
        assert isinstance(inputs, DiscreteInputs), "what `inputs` gave"
        log_image, divergence = self._guess(inputs)
        of_times = self.transitions.times
        bound = of_times * divergence + self.last_divergence
        if not self.training:
            return bound
        entropy = -log_image.gather(2, inputs.codes[..., None])[..., 0].mean(dim=1)
        weight = self.config.auxiliary_weight * of_times
        if self.config.adaptive_auxiliary:
            entropy = entropy * (2 - (inputs.times - 1) / of_times)
        return bound + weight * entropy

    @torch.no_grad()
    def bound(
        self, context: Context, codes: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """The whole bound on -log p(codes | context) in nats a code, float32 [B], of codes int64
        [B, N]: all T times, at each of which the generator noises the codes anew.
        """
        total = torch.full((len(codes),), self.last_divergence)
        for time in range(1, self.transitions.times + 1):
            uniform = torch.rand(codes.shape, generator=generator, dtype=torch.float64)
            others = torch.randint(self.config.codes, codes.shape, generator=generator)
            times = torch.full((len(codes),), time)
            inputs = DiscreteInputs(context, codes, times, uniform, others)
            total += self._guess(inputs.to(self.device))[1].cpu()
        return total

    def _guess(self, inputs: DiscreteInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """log p(x_0 | x_t) float32 [B, N, K], and its mean divergence a code, float32 [B]."""
        codes, times = inputs.codes, inputs.times
        noisy = self.transitions.corrupted(codes, times, inputs.uniform, inputs.others)
        tokens, mask = self.transformer.seen(inputs.context)
        logits = self.transformer(noisy, times, tokens, mask).float()
        if self.config.likelihood:
            logits = self.transitions.with_likelihood(logits, noisy, times)
        log_image = logits.log_softmax(dim=2)
        divergence = self.transitions.divergence(log_image, codes, noisy, times - 1, times)
        return log_image, divergence.mean(dim=1)

    def example(self, count: int, k: int, device: torch.device) -> DiscreteInputs:
        """Random inputs of `count` samples with contexts [count, k, D], as in `Model`."""
        network, positions = self.transformer, self.shape.side**2
        ones = torch.ones(count, k + network.config.query_token, device=device)
        vectors = torch.randn(*ones.shape, self.shape.dimension, device=device)
        slots = torch.full_like(ones, NEIGHBOR, dtype=torch.int8)
        codes = torch.randint(network.codes, (count, positions), device=device)
        times = torch.randint(1, self.transitions.times + 1, (count,), device=device)
        uniform = torch.rand(count, positions, device=device, dtype=torch.float64)
        return DiscreteInputs(Context(vectors, ones, ones, slots), codes, times, uniform, codes)

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
        from rdm_core.families.discrete.draw import generate

        assert isinstance(how, Draw), "this family's settings"
        codes = generate(
            self.transformer, self.transitions, self.config.likelihood, context, seeds, how,
            beside, progress,
        )  # fmt: skip
        return self.decoded(codes)

    def set_means(self, means: np.ndarray) -> None:
        """Take means float32 [2, D], as in `Model`."""
        if self.transformer.config.remove_means:
            self.transformer.set_means(means)


def import_networks() -> None:
    """Import now what `build` will import. It takes two seconds."""
    with large_import():
        import rdm_core.families.discrete.network  # noqa: F401


def build(
    config: Config, shape: Shape, space: LatentSpace | None = None, seed: int | None = None
) -> Discrete:
    """Make a new model; its weights follow `seed`, or torch's generator without one.

    Raises RequestError where the space has another number of codes than the configuration, or none.
    """
    from rdm_core.families.discrete.network import CodesTransformer

    if seed is not None:
        torch.manual_seed(seed)
    transformer = CodesTransformer(
        config.codes, shape.side, config.transitions.times, shape.dimension, config.transformer
    )
    return Discrete(transformer, config, shape, space)


def load(directory: Path, config: Config, facts: RunFacts, space: LatentSpace) -> Discrete:
    """The model in a weights folder, in evaluation mode.

    Raises WeightsError when the folder is not one that `save` wrote.
    """
    return build(config, facts.shape, space).with_weights(directory)
