"""A model of documents: a causal transformer over retrieved documents and a main one, each a
caption and the codes of an image.

B samples, b of them on this process, K documents, L words of a caption, T = side * side codes of an
image in reading order, N = L + T.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rdm_core.config import DrawConfig
from rdm_core.context import NEIGHBOR, Context, nothing
from rdm_core.data import TrainingData
from rdm_core.errors import RequestError
from rdm_core.families.facts import RunFacts, Shape
from rdm_core.families.family import Beside, Inputs
from rdm_core.families.multimodal.config import Config, Draw
from rdm_core.families.multimodal.layout import Layout
from rdm_core.families.multimodal.masking import NUMBERS, moved_places
from rdm_core.families.over_codes import OverCodes
from rdm_core.importing import large_import
from rdm_core.latents import LatentSpace

if TYPE_CHECKING:  # it imports diffusers, which takes two seconds
    from rdm_core.families.multimodal.network import DocumentTransformer


class OnHost:
    """Whole numbers of B samples that stay on the host, where one asks for them."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers
        """int64 [B]."""

    def __getitem__(self, chosen: slice | torch.Tensor) -> "OnHost":
        """Those of some samples: a slice, or int64 [M] on the host."""
        return OnHost(self.numbers[chosen if isinstance(chosen, slice) else chosen.numpy()])

    def to(self, device: torch.device) -> "OnHost":
        """The same [B], wherever the rest of the inputs goes."""
        return self


@dataclass(frozen=True)
class MultimodalInputs(Inputs):
    """Everything that the loss depends on beside the weights."""

    main: torch.Tensor
    """Main documents, int64 [B, N]."""
    moved: torch.Tensor
    """The places of theirs that are moved to the end, bool [B, N]."""
    retrieved: torch.Tensor
    """Retrieved documents, those that are there first, int64 [B, K, N]."""
    there: OnHost
    """How many of them are there."""


class Multimodal(OverCodes):
    """p(caption, image | retrieved documents) as the product over words and codes, in the orders of
    CM3 (arXiv 2201.07520) with the retrieved documents of RA-CM3 (arXiv 2211.12561).
    """

    family = "multimodal"
    random_loss = False

    def __init__(
        self,
        transformer: "DocumentTransformer",
        config: Config,
        shape: Shape,
        space: LatentSpace | None,
    ) -> None:
        """Raises RequestError where the space has another number of codes than the configuration,
        or none.
        """
        super().__init__(transformer, config, shape, space)
        self.config = config
        self.layout = transformer.layout
        self._checked: TrainingData | None = None

    def set_encoder(self, encoder: Any) -> None:
        """Check that the captions are those of this tokenizer, as in `Model`."""
        self.config.check_encoder(encoder)

    def inputs(
        self,
        data: TrainingData,
        rows: np.ndarray,
        mine: slice,
        context: Context,
        generator: torch.Generator,
    ) -> MultimodalInputs:
        """The inputs of the b samples `rows[mine]` of `rows` int64 [B], as in `Model`: codes [b, T]
        as they are stored, captions of the context, what is moved drawn for the whole batch.

        Raises RequestError for captions that are too long, and for too many documents.
        """
        if data is not self._checked:  # all captions at once, not where one is met days later
            self.layout.refuse_longer(data.texts, data.neighbor_texts)
            self._checked = data
        numbers = torch.rand(len(rows), NUMBERS, generator=generator, dtype=torch.float64)
        main = self.documents(context, data.raw(rows[mine]))
        moved = moved_places(self.layout, self.config.masking, numbers[mine])
        retrieved, there = self.retrieved(context)
        without = replace(context, references=None, text=None, neighbor_texts=None)
        return MultimodalInputs(without, main, moved, retrieved, OnHost(there.numpy()))

    def documents(self, context: Context, codes: torch.Tensor) -> torch.Tensor:
        """Main documents int64 [B, N] of contexts' texts and codes int64 [B, h, w].

        Raises RequestError for a text that is too long.
        """
        if context.text is None:
            captions = self.layout.without_caption(len(codes)).to(codes.device)
        else:
            captions = self.layout.captions(context.text)
        return torch.cat([captions, codes.long().flatten(1)], dim=1)

    def retrieved(self, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
        """The documents of contexts, int64 [B, K, N], and how many are there, int64 [B]; as
        `Layout.retrieved`. Raises RequestError for more than most_documents, too.
        """
        retrieved, there = self.layout.retrieved(context)
        self._refuse_more(retrieved.shape[1])
        return retrieved, there

    def _refuse_more(self, count: int) -> None:
        most = self.config.transformer.most_documents
        if count > most:
            what = f"asks for {count} documents, and this model takes at most {most}"
            cure = "Ask for fewer, or train with a larger model.transformer.most_documents."
            raise RequestError("k", what, cure)

    def forward(self, inputs: Inputs) -> torch.Tensor:
        """The loss of each sample, float32 [B]. In training: nats a word or code of the main
        document, of which those of the retrieved ones have `retrieved_weight` (arXiv 2211.12561,
        section 3.4): (sum_main -log p + alpha sum_retrieved -log p) / counted tokens of the main
        one. Else `code_losses`, which depends on nothing random.
        """
        assert isinstance(inputs, MultimodalInputs), "what `inputs` gave"
        if not self.training:
            return self.code_losses(inputs)
        return self._by_documents(inputs, self._training_losses)

    def code_losses(self, inputs: MultimodalInputs, documents: int | None = None) -> torch.Tensor:
        """-log p of each image in nats a code, float32 [B], given its caption and its retrieved
        documents, or as many of them as are asked for.
        """
        limited = inputs
        if documents is not None:
            there = OnHost(np.minimum(inputs.there.numbers, documents))
            limited = replace(inputs, there=there)
        still = replace(limited, moved=torch.zeros_like(inputs.moved))
        return self._by_documents(still, self._image_losses)

    def _by_documents(
        self,
        inputs: MultimodalInputs,
        losses_of: Callable[[MultimodalInputs], torch.Tensor],
    ) -> torch.Tensor:
        """Losses [B] of samples, those together that have equally many documents: nothing is
        computed for documents that are not there.
        """
        counts = inputs.there.numbers
        numbers = np.unique(counts)
        if len(numbers) == 1:
            return losses_of(replace(inputs, retrieved=inputs.retrieved[:, : numbers[0]]))
        losses, places = [], []
        for number in numbers:
            rows = torch.from_numpy(np.flatnonzero(counts == number))
            some = inputs.rows(rows)
            losses.append(losses_of(replace(some, retrieved=some.retrieved[:, :number])))
            places.append(rows)
        order = torch.cat(places).argsort().to(inputs.main.device)
        return torch.cat(losses)[order]

    def _training_losses(self, inputs: MultimodalInputs) -> torch.Tensor:
        """The loss in training, float32 [B], of samples with K documents each."""
        sequence = self.layout.sequence(inputs.retrieved, inputs.main, inputs.moved)
        losses = self.transformer(sequence) * sequence.counted[:, 1:]
        own = inputs.retrieved.shape[1] * (self.layout.document + 1)  # where the main one begins
        retrieved, main = losses[:, :own].sum(dim=1), losses[:, own:].sum(dim=1)
        counted = sequence.counted[:, own + 1 :].sum(dim=1)
        return (main + self.config.retrieved_weight * retrieved) / counted

    def _image_losses(self, inputs: MultimodalInputs) -> torch.Tensor:
        """`code_losses` of samples with K documents each and nothing moved."""
        sequence = self.layout.sequence(inputs.retrieved, inputs.main, inputs.moved)
        losses = self.transformer(sequence)[:, : sequence.tokens.shape[1] - 3]
        return losses[:, -self.layout.positions :].mean(dim=1)

    def example(self, count: int, k: int, device: torch.device) -> MultimodalInputs:
        """Random inputs of `count` samples with k documents each, as in `Model`."""
        self._refuse_more(k)
        layout = self.layout
        ones = torch.ones(count, k, device=device)
        vectors = torch.randn(count, k, self.shape.dimension, device=device)
        slots = torch.full_like(ones, NEIGHBOR, dtype=torch.int8)
        captions = torch.randint(layout.words, (count, k + 1, layout.length), device=device)
        codes = torch.randint(layout.codes, (count, k + 1, layout.positions), device=device)
        documents = torch.cat([captions + layout.codes, codes], dim=2)
        moved = torch.zeros(count, layout.document, dtype=torch.bool, device=device)
        there = OnHost(np.full(count, k))
        context = Context(vectors, ones, ones, slots)
        return MultimodalInputs(context, documents[:, 0], moved, documents[:, 1:], there)

    def null(self, count: int) -> Context:
        """Contexts [count, 1, D] without documents and without a text."""
        return nothing(count, self.shape.dimension)

    def draw(
        self,
        context: Context,
        seeds: Sequence[int],
        how: DrawConfig,
        beside: Beside = Beside(),  # noqa: B008 - frozen
        progress: Callable[[int], None] = lambda done: None,
    ) -> np.ndarray:
        """Images uint8 [B, H, W, 3] from the texts and documents of B contexts, as in `Model`. Of
        an image with a mask, the codes under its white are drawn anew.
        """
        from rdm_core.families.multimodal.draw import images

        assert isinstance(how, Draw), "this family's settings"
        return images(self, context, seeds, how, beside, progress)

    def write(
        self,
        context: Context,
        images: np.ndarray,
        seeds: Sequence[int],
        how: DrawConfig,
        progress: Callable[[int], None] = lambda done: None,
        known: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Captions int64 [B, L] of B images uint8 [B, H, W, 3], each cut to its centred square, as
        in `Model`: from the documents of B contexts.
        """
        from rdm_core.families.multimodal.draw import captions, codes_of

        assert isinstance(how, Draw), "this family's settings"
        codes = codes_of(self.works_in, self.layout.side, images)
        if known is not None:
            known = known[:, : self.layout.length]  # longer texts are refused
        return captions(self, context, codes, seeds, how, known, progress)

    def score(self, context: Context, images: np.ndarray, texts: torch.Tensor) -> torch.Tensor:
        """As in `Model`, of images that are each cut to their centred square."""
        from rdm_core.families.multimodal.draw import codes_of
        from rdm_core.families.multimodal.score import caption_scores

        codes = codes_of(self.works_in, self.layout.side, images)
        return caption_scores(self, context, codes, texts)


def import_networks() -> None:
    """Import now what `build` will import. It takes two seconds."""
    with large_import():
        import rdm_core.families.multimodal.network  # noqa: F401


def build(
    config: Config, shape: Shape, space: LatentSpace | None = None, seed: int | None = None
) -> Multimodal:
    """Make a new model; its weights follow `seed`, or torch's generator without one.

    Raises RequestError where the space has another number of codes than the configuration, or none.
    """
    from rdm_core.families.multimodal.network import DocumentTransformer

    if seed is not None:
        torch.manual_seed(seed)
    layout = Layout(config.codes, config.tokens, config.filler, config.caption_tokens, shape.side)
    return Multimodal(DocumentTransformer(layout, config.transformer), config, shape, space)


def load(directory: Path, config: Config, facts: RunFacts, space: LatentSpace) -> Multimodal:
    """The model in a weights folder, in evaluation mode.

    Raises WeightsError when the folder is not one that `save` wrote.
    """
    return build(config, facts.shape, space).with_weights(directory)
