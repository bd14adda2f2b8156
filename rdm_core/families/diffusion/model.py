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
from rdm_core.data import NO_ROW, TrainingData
from rdm_core.errors import RequestError, WeightsError
from rdm_core.families.diffusion import draw
from rdm_core.families.diffusion.config import Config, Draw, EditingConfig
from rdm_core.families.diffusion.denoiser import (
    NETWORKS,
    Denoiser,
    build_denoiser,
    channels_of,
    load_denoiser,
)
from rdm_core.families.diffusion.exchange import Exchange, draw_exchange, picked, pictures
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
    picture: torch.Tensor | None = None
    """Of a network that edits: what it is given to change, float32 [B, C + 1, h, w]."""


class Diffusion(Model):
    """p(image | vectors of its neighbors) by denoising (RDM, arXiv 2204.11824, section 3)."""

    family = "diffusion"

    def __init__(
        self,
        denoiser: Denoiser,
        process: Process,
        shape: Shape,
        space: LatentSpace | None,
        editing: EditingConfig = EditingConfig(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.process = process
        self.shape = shape
        self.space = space
        self.editing = editing
        self.reads = Reads(query=denoiser.config.query_token, neighbor_images=editing.picture)

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
        picture = None
        if self.editing.picture:
            exchange = draw_exchange(len(rows), self.editing, generator).rows(mine)
            picture = self._picture(data, rows[mine], raw, exchange)
        return DiffusionInputs(context, clean, noise, times, picture)

    def _picture(
        self, data: TrainingData, rows: np.ndarray, raw: torch.Tensor, exchange: Exchange
    ) -> torch.Tensor:
        """What the network is given to change of samples int64 [b], whose images are `raw` uint8
        [b, 3, H, W]: float32 [b, C + 1, h, w].
        """
        if data.neighbor_images is None or raw.dtype != torch.uint8:
            what = "the images and their neighbors' images are needed, not moments alone"
            raise RequestError("editing", what, "Encode both with stored=pixels.")
        near = picked(
            data.neighbor_rows[rows], exchange.ranks.numpy(), self.editing.from_top, NO_ROW
        )
        neighbors, has = data.neighbor_images.of(near), torch.from_numpy(near != NO_ROW)
        changed = pictures(raw, neighbors, has, exchange, self.editing)
        return channels_of(self.works_in.final(changed), ~exchange.without)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """The weighted squared error of each sample, float32 [B].

        This is |epsilon - epsilon_theta(z_t, t, {phi(y)})|^2, the loss of RDM (arXiv 2204.11824,
        section 3), or the same with another target: `rdm_core.families.diffusion.noise`.
        """
        assert isinstance(inputs, DiffusionInputs), "what `inputs` gave"
        noisy, target = self.process.corrupt(inputs.clean, inputs.noise, inputs.times)
        network_time = self.process.network_time(inputs.times)
        output = self.denoiser(noisy, network_time, inputs.context, inputs.picture).float()
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
        there = torch.ones(count, device=device)
        picture = channels_of(clean, there) if self.editing.picture else None
        return DiffusionInputs(context, clean, noise, times, picture)

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

    def taken_over(self, name: str, weights: torch.Tensor | None) -> torch.Tensor | None:
        """As in `Model`: where the other network has no input channels for a picture, those are
        zero here, and change nothing at first.
        """
        entry = self.denoiser.entry.weight
        if weights is None or self.get_parameter(name) is not entry or not self.editing.picture:
            return weights
        if weights.shape[1] != self.shape.channels:
            return weights
        return torch.cat([weights, torch.zeros_like(entry[:, self.shape.channels :])], dim=1)

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
    layout = (config.denoiser, shape.channels, shape.side, shape.dimension)
    denoiser = build_denoiser(*layout, seed, config.editing.picture)
    return Diffusion(denoiser, process_of(config.noise), shape, space, config.editing)


def load(directory: Path, config: Config, facts: RunFacts, space: LatentSpace) -> Diffusion:
    """The model in a weights folder, in evaluation mode.

    Raises WeightsError when the folder is not one that `save` wrote.
    """
    shape = facts.shape
    picture = config.editing.picture
    denoiser = load_denoiser(directory, config.denoiser, shape.dimension, picture)
    found, wanted = denoiser.network.config.in_channels, shape.channels * (1 + picture) + picture
    if found != wanted:
        what = f"its network has {found} input channels, and its facts say {wanted}"
        raise WeightsError(directory, what, "Train it again, or restore its weights folder.")
    return Diffusion(denoiser, process_of(config.noise), shape, space, config.editing).eval()
