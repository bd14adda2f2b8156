"""The configuration of a discrete diffusion model, and the settings for drawing from it. Importing
this costs nothing.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from rdm_core.autoencoders.config import MOST_CODES
from rdm_core.config import Config as Checked
from rdm_core.config import DrawConfig, require, require_between
from rdm_core.families.facts import ImageVectorsOnly, ModelConfig, Reads
from rdm_core.families.vectors import VectorsConfig

MOST_TIMES = 10_000
"""The most steps of a forward process."""


@dataclass(frozen=True)
class TransformerConfig(VectorsConfig):
    """The transformer over all codes of an image, and how it sees its neighbors. The defaults are
    those of VQ-Diffusion.
    """

    width: int = 1024
    """Channels of a token."""
    depth: int = 19
    """Blocks."""
    head_channels: int = 64
    """Channels of one attention head."""

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
class TransitionsConfig(Checked):
    """How codes are lost: at each step some are masked, and some replaced by any code. What is
    neither kept nor masked is replaced. The defaults are those of VQ-Diffusion.
    """

    times: int = 100
    """Steps from an image to masks alone."""
    kept: tuple[float, float] = (0.99999, 0.000009)
    """Share of the codes that are still there after the first and after the last step; in between
    it falls linearly.
    """
    masked: tuple[float, float] = (0.000009, 0.99999)
    """Share of the codes that are masked after the first and after the last step; in between it
    rises linearly.
    """

    def check(self) -> None:
        """As in `Config`."""
        require_between(self, ("times",), 2, MOST_TIMES)
        for name, falls in (("kept", True), ("masked", False)):
            first, last = getattr(self, name)
            if not (0 < first < 1 and 0 < last < 1 and (first > last) == falls):
                way = "fall" if falls else "rise"
                raise ValueError(f"{name}: is {first}, {last}, must {way} between 0 and 1")
        for kept, masked in zip(self.kept, self.masked, strict=True):
            if kept + masked >= 1:
                raise ValueError(
                    f"kept, masked: {kept} and {masked} leave nothing to be replaced; "
                    "their sum must be below 1"
                )
        # A code that was replaced does not come back but by chance.
        (kept, kept_last), (masked, masked_last) = self.kept, self.masked
        if kept_last / (1 - masked_last) > kept / (1 - masked):
            raise ValueError(
                "kept, masked: of the codes that are not masked, more would be kept after the last "
                "step than after the first"
            )


@dataclass(frozen=True)
class Config(ModelConfig):
    """Codes of a VQModel are masked and replaced, and found again; the vectors of neighbors are
    attended to (kNN-Diffusion, arXiv 2204.02849, with the head of VQ-Diffusion, arXiv 2111.14822).
    """

    family: Literal["discrete"] = "discrete"
    """Selects this family."""
    codes: int = 8192
    """Entries of the VQModel's codebook."""
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    """The network."""
    transitions: TransitionsConfig = field(default_factory=TransitionsConfig)
    """The forward process."""
    likelihood: bool = True
    """What a code that is still there says of itself is added to the logits, as Bayes' rule has it;
    False, as in VQ-Diffusion: the network learns that codes mostly stay.
    """
    auxiliary_weight: float = 5e-4
    """How much the cross-entropy of the image's codes is added to the bound at each step."""
    adaptive_auxiliary: bool = True
    """That weight grows to the double where most codes are still there."""

    def check(self) -> None:
        """As in `Config`."""
        require_between(self, ("codes",), 2, MOST_CODES)
        require_between(self, ("auxiliary_weight",), 0, 1000)

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
        own = {"transitions": self.transitions, "likelihood": self.likelihood}
        return self.transformer.beside_weights("transformer") | own

    @property
    def image_vectors_only(self) -> tuple[ImageVectorsOnly, ...]:
        """As in `ModelConfig`."""
        return self.transformer.image_vectors_only("transformer")


@dataclass(frozen=True)
class Draw(DrawConfig):
    """How codes are drawn."""

    takes: ClassVar[frozenset[str]] = frozenset({"negative"})

    steps: int | None = None
    """Evaluations of the network, at most as many as the training had times; fewer skip times.
    Unless set: 50, or all times where these are fewer.
    """
    temperature: float = 1.0
    """Logits are divided by it: below 1 likely codes become likelier."""
    top_p: float = 1.0
    """Only the likeliest codes that together have this probability are drawn from, as the
    truncation of VQ-Diffusion; 1: all.
    """

    def check(self) -> None:
        """As in `Config`."""
        super().check()
        if self.steps is not None:
            require_between(self, ("steps",), 1, MOST_TIMES)
        require(self, ("temperature",), lambda value: 0 < value <= 1000, "above 0, at most 1000")
        require(self, ("top_p",), lambda value: 0 < value <= 1, "above 0, at most 1")
