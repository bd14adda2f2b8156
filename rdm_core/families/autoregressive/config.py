"""The configuration of an autoregressive model, and the settings for drawing from it. Importing
this costs nothing.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from rdm_core.autoencoders.config import MOST_CODES
from rdm_core.config import DrawConfig, require, require_between
from rdm_core.families.facts import ImageVectorsOnly, ModelConfig, Reads
from rdm_core.families.vectors import VectorsConfig


@dataclass(frozen=True)
class TransformerConfig(VectorsConfig):
    """The causal transformer, and how it sees its neighbors. The defaults are those of 2022."""

    width: int = 768
    """Channels of a token."""
    depth: int = 18
    """Blocks."""
    head_channels: int = 64
    """Channels of one attention head."""
    final_norm: bool = True
    """A LayerNorm before the logits; 2022 had none."""

    def check(self) -> None:
        """As in `Config`."""
        super().check()
        require_between(self, ("width", "head_channels"), 1, 65_536)
        require_between(self, ("depth",), 1, 1000)
        if self.width % self.head_channels:
            raise ValueError(
                f"width: {self.width} cannot be divided into heads of {self.head_channels}"
            )


@dataclass(frozen=True)
class Config(ModelConfig):
    """Codes of a VQModel are predicted one after the other; the vectors of neighbors are attended
    to (RARM, arXiv 2204.11824).
    """

    family: Literal["autoregressive"] = "autoregressive"
    """Selects this family."""
    codes: int = 16_384
    """Entries of the VQModel's codebook."""
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    """The network."""

    def check(self) -> None:
        """As in `Config`."""
        require_between(self, ("codes",), 2, MOST_CODES)

    @property
    def reads(self) -> Reads:
        """As in `ModelConfig`."""
        seen = self.transformer
        return Reads(stored=("codes",), query=seen.query_token, means=seen.remove_means)

    @property
    def codebook(self) -> int:
        """As in `ModelConfig`."""
        return self.codes

    @property
    def beside_weights(self) -> dict[str, Any]:
        """As in `ModelConfig`."""
        return self.transformer.beside_weights("transformer")

    @property
    def image_vectors_only(self) -> tuple[ImageVectorsOnly, ...]:
        """As in `ModelConfig`."""
        return self.transformer.image_vectors_only("transformer")


@dataclass(frozen=True)
class OneByOne(DrawConfig):
    """How one thing after another is drawn, each from its probabilities."""

    temperature: float = 1.0
    """Logits are divided by it: below 1 likely codes become likelier."""
    top_k: int = 0
    """Only so many of the likeliest codes are drawn from; 0: all."""
    top_p: float = 1.0
    """Only the likeliest codes that together have this probability are drawn from; 1: all."""

    def check(self) -> None:
        """As in `Config`."""
        super().check()
        require(self, ("temperature",), lambda value: 0 < value <= 1000, "above 0, at most 1000")
        require_between(self, ("top_k",), 0, MOST_CODES)
        require(self, ("top_p",), lambda value: 0 < value <= 1, "above 0, at most 1")


@dataclass(frozen=True)
class Draw(OneByOne):
    """How codes are drawn."""

    takes: ClassVar[frozenset[str]] = frozenset({"negative"})

    null: Literal["learned", "zero"] = "learned"
    """What to guide away from: the null of the training, or the zero vector of the 2022 release."""

    @classmethod
    def as_released(cls) -> dict[str, Any]:
        """The sampler of 2022."""
        return {"top_k": 256, "null": "zero"}
