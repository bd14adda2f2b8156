"""The configuration of a model of documents, and the settings for drawing from it. Importing this
costs nothing.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from rdm_core.autoencoders.config import MOST_CODES
from rdm_core.config import Config as Checked
from rdm_core.config import require_between
from rdm_core.errors import RequestError
from rdm_core.families.autoregressive.config import OneByOne
from rdm_core.families.facts import ModelConfig, Reads

MOST_TOKENS = 2_000_000
"""The most words that a tokenizer can have; the largest in use have a million."""


@dataclass(frozen=True)
class TransformerConfig(Checked):
    """The causal transformer over documents. The defaults have about as many parameters as RA-CM3
    (2.7 billion); how these are divided there was not at hand.
    """

    width: int = 2560
    """Channels of a token."""
    depth: int = 24
    """Blocks."""
    head_channels: int = 80
    """Channels of one attention head."""
    most_documents: int = 8
    """Retrieved documents before a main one that are not refused, when it is trained or drawn
    from. The network is the same with any number.
    """

    def check(self) -> None:
        """As in `Config`."""
        require_between(self, ("width", "head_channels"), 1, 65_536)
        require_between(self, ("depth",), 1, 1000)
        require_between(self, ("most_documents",), 0, 1000)
        if self.width % self.head_channels:
            raise ValueError(
                f"width: {self.width} cannot be divided into heads of {self.head_channels}"
            )


@dataclass(frozen=True)
class MaskingConfig(Checked):
    """What of a main document is moved to its end, to be learned from all the rest (CM3). Of the
    remaining share of samples nothing is: there images are learned from captions.
    """

    caption: float = 0.25
    """Share of samples whose whole caption comes last: captioning."""
    words: float = 0.1
    """Share of samples of which some words in a row come last: infilling of captions."""
    box: float = 0.15
    """Share of samples of which a rectangle of the image comes last: infilling of images."""

    def check(self) -> None:
        """As in `Config`."""
        require_between(self, ("caption", "words", "box"), 0, 1)
        total = self.caption + self.words + self.box
        if total > 1:
            raise ValueError(f"caption, words, box: are {total:g} together, must be at most 1")


@dataclass(frozen=True)
class Config(ModelConfig):
    """Documents are predicted word by word and code by code, after retrieved documents (RA-CM3,
    arXiv 2211.12561): images from captions, captions from images, and parts of either.
    """

    family: Literal["multimodal"] = "multimodal"
    """Selects this family."""
    codes: int = 8192
    """Entries of the VQModel's codebook."""
    tokens: int = 49_408
    """Words of the encoder's tokenizer."""
    filler: int = 0
    """The word that the tokenizer fills captions up with behind their end."""
    caption_tokens: int = 77
    """Words of a caption, at most; longer ones are refused."""
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    """The network."""
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    """What else it learns than images from captions."""
    retrieved_weight: float = 0.1
    """How much a word or code of a retrieved document counts in the loss, beside one of the main
    document.
    """

    def check(self) -> None:
        """As in `Config`."""
        require_between(self, ("codes",), 2, MOST_CODES)
        require_between(self, ("tokens",), 2, MOST_TOKENS)
        require_between(self, ("filler",), 0, self.tokens - 1)
        require_between(self, ("caption_tokens",), 1, 4096)
        require_between(self, ("retrieved_weight",), 0, 1000)

    @property
    def reads(self) -> Reads:
        """As in `ModelConfig`."""
        return Reads(stored=("codes",), captions=True, references=True)

    @property
    def codebook(self) -> int:
        """As in `ModelConfig`."""
        return self.codes

    @property
    def longest_caption(self) -> int:
        """As in `ModelConfig`."""
        return self.caption_tokens

    def check_encoder(self, encoder: Any) -> None:
        """Check that the captions are those of this tokenizer, as in `ModelConfig`."""
        tokens = encoder.tokenizer([""])
        words = getattr(encoder.tokenizer, "vocab_size", None)
        if words is None:  # one of the transformers library, within open_clip's own
            words = len(encoder.tokenizer.tokenizer)
        has = f"the tokenizer of {encoder.name!r}"
        if words != self.tokens:
            what = f"is {self.tokens:,}, and {has} has {words:,} words"
            raise RequestError("model.tokens", what, f"Train with --set model.tokens={words}.")
        if tokens.shape[1] < self.caption_tokens:
            what = f"is {self.caption_tokens}, and {has} gives {tokens.shape[1]}"
            cure = f"Train with --set model.caption_tokens={tokens.shape[1]}, or with less."
            raise RequestError("model.caption_tokens", what, cure)
        if (filler := int(tokens[0, -1])) != self.filler:
            what = f"is {self.filler}, and {has} fills captions up with {filler}"
            raise RequestError("model.filler", what, f"Train with --set model.filler={filler}.")


@dataclass(frozen=True)
class Draw(OneByOne):
    """How codes and words are drawn."""

    takes: ClassVar[frozenset[str]] = frozenset({"image", "mask"})
    writes: ClassVar[bool] = True
