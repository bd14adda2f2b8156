"""A diffusion model: a denoiser, the process that it undoes, and the latent space they work in.

B samples, b of them on this process, K slots, D dimensions; latents [C, h, w].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rdm_core.config import DrawConfig, ExecutionConfig
from rdm_core.context import Context, nothing
from rdm_core.data import TrainingData
from rdm_core.errors import RequestError
from rdm_core.families.diffusion import draw
from rdm_core.families.diffusion.config import Config, Draw
from rdm_core.families.diffusion.denoiser import NETWORKS, Denoiser, build_denoiser, load_denoiser
from rdm_core.families.diffusion.noise import Process, process_of
from rdm_core.families.facts import Reads, RunFacts, Shape
from rdm_core.families.family import Beside, Inputs, Model
from rdm_core.importing import large_import
from rdm_core.latents import LatentSpace


@dataclass(frozen=True)
class DiffusionInputs(Inputs):
    """Everything that the loss of a denoiser depends on beside its weights."""

    clean: torch.Tensor
    """Final latents float32 [B, C, h, w]."""
    noise: torch.Tensor
    """The noise ~ N(0, I) that corrupts them, float32 [B, C, h, w]."""
    times: torch.Tensor
    """float32 [B] in 0..1, 1 = most noise."""


class Diffusion(Model):
    """p(image | vectors of its neighbors) by denoising (RDM, arXiv 2204.11824, section 3)."""

    family = "diffusion"

    def __init__(
        self, denoiser: Denoiser, process: Process, shape: Shape, space: LatentSpace | None
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.process = process
        self.shape = shape
        self.space = space
        self.reads = Reads(query=denoiser.config.query_token)

    def inputs(
        self,
        data: TrainingData,
        rows: np.ndarray,
        mine: slice,
        context: Context,
        generator: torch.Generator,
    ) -> DiffusionInputs:
        """The inputs of the b samples `rows[mine]` of `rows` int64 [B], as in `Model`: times [b],
        noise and a sample of the autoencoder's posterior, both [b, C, h, w].
        """
        # The order of the draws is part of what a seed means.
        times = self.process.draw_times(len(rows), generator)[mine]
        raw = data.raw(rows[mine])
        if data.factor > 1:  # they are images, encoded where the network computes
            self.works_in.to(self.device)
        shape = (len(rows), self.shape.channels, *(s // data.factor for s in raw.shape[2:]))
        noise = torch.randn(shape, generator=generator)[mine]
        posterior_noise = torch.randn(shape, generator=generator)[mine]
        clean = self.works_in.final(raw, posterior_noise)
        return DiffusionInputs(context, clean, noise, times)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """The weighted squared error of each sample, float32 [B].

        This is |epsilon - epsilon_theta(z_t, t, {phi(y)})|^2, the loss of RDM (arXiv 2204.11824,
        section 3), or the same with another target: `rdm_core.families.diffusion.noise`.
        """
        assert isinstance(inputs, DiffusionInputs), "what `inputs` gave"
        noisy, target = self.process.corrupt(inputs.clean, inputs.noise, inputs.times)
        network_time = self.process.network_time(inputs.times)
        output = self.denoiser(noisy, network_time, inputs.context).float()
        prediction = self.process.prediction(output, noisy, inputs.times)
        squares = (prediction - target).square().mean(dim=(1, 2, 3))
        return self.process.loss_weights(inputs.times) * squares

    def example(self, count: int, k: int, device: torch.device) -> DiffusionInputs:
        """Random inputs of `count` samples with contexts [count, k, D], as in `Model`."""
        shape = (count, self.shape.channels, self.shape.side, self.shape.side)
        clean = torch.randn(shape, device=device)
        noise = torch.randn(shape, device=device)
        ones = torch.ones(count, k + self.denoiser.config.query_token, device=device)
        vectors = torch.randn(*ones.shape, self.shape.dimension, device=device)
        times = torch.rand(count, device=device)
        context = Context(vectors, ones, ones, ones.to(torch.int8))
        return DiffusionInputs(context, clean, noise, times)

    def null(self, count: int) -> Context:
        """Contexts [count, 1, D] without any vector: the denoiser uses its learned null."""
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
        assert isinstance(how, Draw), "this family's settings"
        weaker = self._weaker(beside.weaker)
        return draw.generate(
            self.denoiser,
            self.process,
            self.works_in,
            context,
            seeds,
            how,
            beside,
            weaker,
            progress,
        )

    def _weaker(self, other: Model | None) -> Denoiser | None:
        """The denoiser of a weaker model. Raises RequestError when it does not fit this model."""
        if other is None:
            return None
        is_alike = isinstance(other, Diffusion) and other.process == self.process
        if not isinstance(other, Diffusion) or not is_alike or other.shape != self.shape:
            what = "works in another latent space or noise process"
            cure = "Give an earlier or smaller run trained like the first."
            raise RequestError("weaker_run", what, cure)
        return other.denoiser

    def execute(self, execution: ExecutionConfig) -> None:
        """As in `Model`."""
        network = self.denoiser.network
        if execution.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        if execution.channels_last:
            network.to(memory_format=torch.channels_last)
        if execution.compile:
            network.compile()

    def set_means(self, means: np.ndarray) -> None:
        """Take means float32 [2, D], as in `Model`."""
        if self.denoiser.config.remove_means:
            self.denoiser.set_means(means)

    def save_weights(self, directory: Path) -> None:
        """`network/`, a diffusers folder, and `context.safetensors`."""
        self.denoiser.save(directory)


def import_networks() -> None:
    """Import now what `build` will import. It takes two seconds."""
    with large_import():
        import diffusers

        # diffusers imports a class only when it is used.
        for network in NETWORKS:
            getattr(diffusers, network)


def build(
    config: Config, shape: Shape, space: LatentSpace | None = None, seed: int | None = None
) -> Diffusion:
    """Make a new model; its weights follow `seed`, or torch's generator without one."""
    denoiser = build_denoiser(config.denoiser, shape.channels, shape.side, shape.dimension, seed)
    return Diffusion(denoiser, process_of(config.noise), shape, space)


def load(directory: Path, config: Config, facts: RunFacts, space: LatentSpace) -> Diffusion:
    """The model in a weights folder, in evaluation mode.

    Raises WeightsError when the folder is not one that `save` wrote.
    """
    shape = facts.shape
    denoiser = load_denoiser(directory, config.denoiser, shape.dimension)
    return Diffusion(denoiser, process_of(config.noise), shape, space).eval()
