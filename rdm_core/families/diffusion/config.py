"""The configuration of a diffusion model, and the settings for drawing from it. Importing this
costs nothing.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from rdm_core import config
from rdm_core.config import MOST, DrawConfig, require, require_between
from rdm_core.families.facts import ImageVectorsOnly, ModelConfig, Reads
from rdm_core.families.vectors import VectorsConfig

TRAIN_CHANNELS = (
    "Train on from it: rdm train --set start_from=RUN with its model and --set "
    "model.editing.picture=true, on latents of stored=pixels; for the built-in world: "
    "--preset edit-shapes."
)
"""How a run learns to edit."""


@dataclass(frozen=True)
class DenoiserConfig(VectorsConfig):
    """The network that predicts noise, and how it sees its neighbors."""

    network: Literal["transformer", "unet"] = "unet"
    """transformer: diffusers' PixArt layout; unet: diffusers' UNet2DConditionModel, the family of
    the 2022 model.
    """
    channels: tuple[int, ...] = (192, 384, 576, 960)
    """unet: channels a level. transformer: one number, the width."""
    depth: int = 2
    """unet: residual blocks a level. transformer: blocks."""
    head_channels: int = 32
    """Channels of one attention head."""
    attention_levels: tuple[int, ...] = (1, 2, 3)
    """unet: levels (0 = full resolution) with cross-attention to the neighbors."""
    patch: int = 2
    """transformer: side of a token in latent pixels."""
    detail_channels: int = 0
    """transformer: channels in which two 3x3 convolutions redraw what the patches give, beside the
    noisy input, so that no patch shows; 0: none.
    """

    def check(self) -> None:
        """As in `Config`."""
        super().check()
        require_between(self, ("depth", "patch"), 1, 1000)
        require_between(self, ("head_channels",), 1, 65_536)
        require_between(self, ("detail_channels",), 0, 4096)
        if self.detail_channels and self.network != "transformer":
            raise ValueError(
                f"detail_channels: {self.detail_channels} are for the patches of a transformer, "
                f"and network is {self.network}; use 0"
            )
        if not self.channels or min(self.channels) < 1 or max(self.channels) > 65_536:
            raise ValueError(
                f"channels: is {self.channels}, must be one or more widths from 1 to 65536"
            )
        for level in self.attention_levels:
            if not 0 <= level < 1000:
                raise ValueError(
                    f"attention_levels: is {self.attention_levels}, must be levels from 0 on"
                )
        if self.network == "transformer" and self.channels[0] % self.head_channels:
            raise ValueError(
                f"channels: {self.channels[0]} cannot be divided into heads of {self.head_channels}"
            )


@dataclass(frozen=True)
class NoiseConfig(config.Config):
    """The forward process and what the network predicts."""

    process: Literal["flow", "epsilon", "velocity"] = "epsilon"
    """flow: straight paths, logit-normal times. On 1000 steps of scaled-linear betas, epsilon: the
    noise is predicted, as in 2022; velocity: noise and image together.
    """
    predicts: Literal["target", "image"] = "target"
    """What the network answers with. target: what the process compares, the velocity or the noise.
    image: the clean image, while velocities are still what is compared (arXiv 2511.13720); flow
    alone. Best in pixels, where a token holds more noise than the network can copy.
    """
    time_mean: float = 0.0
    """flow: mean of the logit of a time; above 0 more noise, below 0 less."""
    beta_start: float = 0.0015
    """epsilon, velocity: first beta."""
    beta_end: float = 0.0195
    """epsilon, velocity: last beta."""
    min_snr_gamma: float = 0.0
    """epsilon, velocity: signal-to-noise ratio above which a time counts no more; 5 is usual, 0
    weighs all times equally.
    """
    zero_terminal_snr: bool = False
    """velocity: the last step is pure noise, so that very dark and very bright images can be
    drawn.
    """

    def check(self) -> None:
        """As in `Config`."""
        if self.zero_terminal_snr and self.process != "velocity":
            raise ValueError(
                f"zero_terminal_snr: needs process=velocity, is {self.process}: "
                "pure noise says nothing of itself"
            )
        if self.min_snr_gamma and self.process == "flow":
            raise ValueError("min_snr_gamma: flow weighs by how times are drawn; use time_mean")
        if self.predicts == "image" and self.process != "flow":
            raise ValueError(f"predicts: image needs process=flow, is {self.process}; use target")
        require_between(self, ("min_snr_gamma",), 0, 1_000_000)
        require_between(self, ("time_mean",), -20, 20)
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"beta_start, beta_end: are {self.beta_start} and {self.beta_end}, "
                "must rise between 0 and 1"
            )


@dataclass(frozen=True)
class EditingConfig(config.Config):
    """Editing without masks (kNN-Diffusion, arXiv 2204.02849): the network is also given a picture,
    of which it keeps what fits the context.

    It is trained on the images themselves, with part of each exchanged for a neighbor's.
    """

    picture: bool = False
    """Whether the network has input channels for a picture."""
    identity_share: float = 0.15
    """Share of samples whose picture is the image itself: nothing is to be changed."""
    picture_dropout: float = 0.1
    """Share of samples that are trained without a picture, for guidance."""
    from_top: int = 0
    """A neighbor is drawn from the nearest so many; 0: from all that the table holds."""
    radius_least: float = 0.1
    """Of the exchanged circle, at least; a share of the image's side."""
    radius_most: float = 0.35
    """The same, at most."""
    soft_edge: float = 0.5
    """Largest share of the radius over which the circle fades; each sample draws its own, so that
    no edge tells what was exchanged.
    """
    blend_share: float = 0.2
    """Share of samples whose circle shows a neighbor mixed with another one, or with the image."""
    align: Literal["none", "shift", "ecc"] = "shift"
    """How a neighbor is moved into the image's place. shift: by whole pixels, to the largest
    correlation of brightness. ecc: an affine transform (needs the extra [edit]). none: not at all.
    """
    reach: float = 0.125
    """shift: the largest, a share of the image's side."""
    least_correlation: float = 0.2
    """A neighbor that correlates less with the image, once it is in place, is not used: the picture
    is the image itself.
    """

    def check(self) -> None:
        """As in `Config`."""
        shares = ("identity_share", "picture_dropout", "soft_edge", "blend_share")
        require_between(self, (*shares, "radius_least", "radius_most"), 0, 1)
        require_between(self, ("from_top",), 0, 10_000)
        require_between(self, ("reach",), 0, 0.5)
        require(self, ("least_correlation",), lambda value: -1 <= value <= 1, "a correlation")
        if self.radius_least > self.radius_most:
            raise ValueError(
                f"radius_least: is {self.radius_least}, above radius_most={self.radius_most}"
            )


@dataclass(frozen=True)
class Config(ModelConfig):
    """Latents are denoised; the vectors of neighbors are attended to (RDM, arXiv 2204.11824)."""

    family: Literal["diffusion"] = "diffusion"
    """Selects this family."""
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    """The network."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    """The forward process."""
    editing: EditingConfig = field(default_factory=EditingConfig)
    """Whether it can change a given picture, and how it is trained for that."""

    @property
    def reads(self) -> Reads:
        """As in `ModelConfig`."""
        query, means = self.denoiser.query_token, self.denoiser.remove_means
        if not self.editing.picture:
            return Reads(query=query, means=means)
        return Reads(stored=("pixels",), query=query, means=means, neighbor_images=True)

    def check_installed(self) -> None:
        """As in `ModelConfig`."""
        from rdm_core.families.diffusion.exchange import check_opencv  # imports torch

        if self.editing.picture:
            check_opencv(self.editing)

    def refuses(self, beside: str) -> tuple[str, str] | None:
        """As in `ModelConfig`."""
        if beside != "picture" or self.editing.picture:
            return None
        return "was trained without the channels for a picture", TRAIN_CHANNELS

    @property
    def beside_weights(self) -> dict[str, Any]:
        """As in `ModelConfig`."""
        return self.denoiser.beside_weights("denoiser") | {"noise": self.noise}

    @property
    def image_vectors_only(self) -> tuple[ImageVectorsOnly, ...]:
        """As in `ModelConfig`."""
        return self.denoiser.image_vectors_only("denoiser")


@dataclass(frozen=True)
class Draw(DrawConfig):
    """How samples are denoised."""

    takes: ClassVar[frozenset[str]] = frozenset(
        {"negative", "weaker", "style", "image", "mask", "picture"}
    )
    later: ClassVar[frozenset[str]] = frozenset({"neighbor_scale", "picture_scale"})

    steps: int = 50
    """Sampler steps."""
    sampler: Literal["ddim", "ddim-2022", "euler", "heun", "dpm++", "unipc"] | None = None
    """Unless set: euler for runs trained with flow matching, ddim-2022 for converted ones, ddim for
    the others. ddim takes as many steps as asked for, from pure noise on; ddim-2022 those of the
    release: 31 for 30, from 991 of 1000 on.
    """
    eta: float = 0.0
    """ddim, ddim-2022: fresh noise at each step; 1 is the 2022 paper's setting."""
    guidance_interval: tuple[float, float] | None = None
    """Times (1 = pure noise) between which guidance acts (arXiv 2404.07724). Unless set: from 0.3
    to 1 for runs in pixels trained with flow matching, whose last steps it would make grainy;
    always for the others.
    """
    null: Literal["learned", "zero"] = "learned"
    """What to guide away from: the null of the training, or the zero vector of the 2022 release."""
    style_from_snr: float = 1.0
    """style_text: signal-to-noise ratio (of powers) at which it takes over."""
    neighbor_scale: float | None = None
    """How strongly the neighbors count beside the query, which then has guidance_scale for itself;
    unless set, both have guidance_scale.
    """
    picture_scale: float = 1.0
    """edit: how strongly the given picture counts; 0: not at all, above 1: more of it is kept."""

    def check(self) -> None:
        """As in `Config`."""
        super().check()
        require_between(self, ("steps",), 1, 1000)
        require_between(self, ("eta",), 0, 1)
        require_between(self, ("picture_scale",), 0, 1000)
        if self.neighbor_scale is not None:
            require_between(self, ("neighbor_scale",), 0, 1000)
        require(self, ("style_from_snr",), lambda value: 0 < value <= MOST, "above 0")
        low, high = self.guidance_interval or (0, 1)
        if not 0 <= low < high <= 1:
            raise ValueError(
                f"guidance_interval: {self.guidance_interval} does not rise between 0 and 1"
            )

    @classmethod
    def as_released(cls) -> dict[str, Any]:
        """The sampler of 2022."""
        return {"sampler": "ddim-2022"}

    @classmethod
    def preview(cls) -> Self:
        """Few steps."""
        return cls(guidance_scale=1.0, steps=20)
