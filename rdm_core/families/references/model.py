"""A model of p(image | text, images with captions): a denoiser that attends to references.

B samples, b of them on this process, K slots, D dimensions; latents [C, h, w], texts [L].
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rdm_core.clip import Encoder
from rdm_core.config import DrawConfig
from rdm_core.context import NO_TOKEN, Context, nothing
from rdm_core.data import TrainingData
from rdm_core.families.diffusion.denoiser import build_denoiser, load_denoiser
from rdm_core.families.diffusion.model import Diffusion, DiffusionInputs
from rdm_core.families.diffusion.model import import_networks as import_networks_of_diffusion
from rdm_core.families.diffusion.noise import Process, process_of
from rdm_core.families.facts import RunFacts, Shape
from rdm_core.families.family import Beside
from rdm_core.families.references.config import Config, Draw
from rdm_core.latents import LatentSpace

if TYPE_CHECKING:  # it imports diffusers, which takes two seconds
    from rdm_core.families.references.denoiser import ReferenceDenoiser

TEXT_TOKENS = 77
"""Tokens of a text in `example`: what most of open_clip's towers read."""


class References(Diffusion):
    """p(image | text, neighbors with their captions) by denoising (Re-Imagen, arXiv 2209.14491).

    Its loss and its inputs are those of the family diffusion; what differs is what the network
    sees.
    """

    family = "references"
    denoiser: "ReferenceDenoiser"

    def __init__(
        self,
        denoiser: "ReferenceDenoiser",
        process: Process,
        shape: Shape,
        space: LatentSpace | None,
        config: Config,
    ) -> None:
        super().__init__(denoiser, process, shape, space)
        self.reads = config.reads

    def set_encoder(self, encoder: Encoder) -> None:
        """As in `Model`: its text tower reads the texts."""
        self.denoiser.read_texts_with(encoder)

    def inputs(
        self,
        data: TrainingData,
        rows: np.ndarray,
        mine: slice,
        context: Context,
        generator: torch.Generator,
    ) -> DiffusionInputs:
        """The inputs of the b samples `rows[mine]` of `rows` int64 [B], as in `Model`; references
        become final latents, the means of their posteriors, [b, K, C, h, w].
        """
        inputs = super().inputs(data, rows, mine, context, generator)
        return replace(inputs, context=self._final(context))

    def _final(self, context: Context) -> Context:
        """A context [B, K, D] whose references are final latents in place of raw ones."""
        if context.references is None:
            return context
        final = self.works_in.final(context.references.flatten(0, 1))
        slots = context.references.shape[:2]
        return replace(context, references=final.unflatten(0, slots))

    def example(self, count: int, k: int, device: torch.device) -> DiffusionInputs:
        """Random inputs of `count` samples with contexts [count, k, D], as in `Model`; of texts the
        states, so that no encoder is needed.
        """
        inputs = super().example(count, k, device)
        shape = (count, k, self.shape.channels, self.shape.side, self.shape.side)
        states = (TEXT_TOKENS, self.denoiser.text_width)
        context = replace(
            inputs.context,
            references=torch.randn(shape, device=device) if self.reads.references else None,
            text=torch.randn(count, *states, device=device),
            neighbor_texts=torch.randn(count, k, *states, device=device),
        )
        return replace(inputs, context=context)

    def null(self, count: int) -> Context:
        """Contexts [count, 1, D] with neither text nor neighbors."""
        shape = (count, 1, self.shape.channels, self.shape.side, self.shape.side)
        return replace(
            nothing(count, self.shape.dimension),
            references=torch.zeros(shape) if self.reads.references else None,
            text=torch.full((count, 1), NO_TOKEN),
            neighbor_texts=torch.full((count, 1, 1), NO_TOKEN),
        )

    def draw(
        self,
        context: Context,
        seeds: Sequence[int],
        how: DrawConfig,
        beside: Beside = Beside(),  # noqa: B008 - frozen
        progress: Callable[[int], None] = lambda done: None,
    ) -> np.ndarray:
        """Images uint8 [B, H, W, 3] from B sets [B, K, D], as in `Model`."""
        from rdm_core.families.references.draw import generate

        assert isinstance(how, Draw), "this family's settings"
        final = self._final(context)
        return generate(
            self.denoiser, self.process, self.works_in, final, seeds, how, beside, progress
        )

    def taken_over(self, name: str, weights: torch.Tensor | None) -> torch.Tensor | None:
        """As in `Model`: a run of the family diffusion knows no texts and no references, so their
        layers begin as those of a new model.
        """
        own = name.startswith(("denoiser.text.", "denoiser.references."))
        if own and weights is None:
            return self.get_parameter(name).detach().clone()
        return super().taken_over(name, weights)


def import_networks() -> None:
    """Import now what `build` will import. It takes two seconds."""
    import_networks_of_diffusion()
    import rdm_core.families.references.denoiser  # noqa: F401


def build(
    config: Config, shape: Shape, space: LatentSpace | None = None, seed: int | None = None
) -> References:
    """Make a new model; its weights follow `seed`, or torch's generator without one."""
    from rdm_core.families.references.denoiser import ReferenceDenoiser

    layout = (config.denoiser, shape.channels, shape.side, shape.dimension, seed)
    made = partial(ReferenceDenoiser, dimension=shape.dimension, config=config)
    denoiser = build_denoiser(*layout, made=made)
    assert isinstance(denoiser, ReferenceDenoiser), "what was made"
    return References(denoiser, process_of(config.noise), shape, space, config)


def load(directory: Path, config: Config, facts: RunFacts, space: LatentSpace) -> References:
    """The model in a weights folder, in evaluation mode.

    Raises WeightsError when the folder is not one that `save` wrote.
    """
    from rdm_core.families.references.denoiser import ReferenceDenoiser

    dimension = facts.shape.dimension
    made = partial(ReferenceDenoiser, dimension=dimension, config=config)
    denoiser = load_denoiser(directory, config.denoiser, dimension, made=made)
    assert isinstance(denoiser, ReferenceDenoiser), "what was made"
    return References(denoiser, process_of(config.noise), facts.shape, space, config).eval()
