"""The configuration of a model that attends to its neighbors' latents, and the settings for drawing
from it. Importing this costs nothing.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from rdm_core.config import MOST, DrawConfig, require_between
from rdm_core.families.diffusion.config import DenoiserConfig, NoiseConfig
from rdm_core.families.facts import ImageVectorsOnly, ModelConfig, Reads


@dataclass(frozen=True)
class Config(ModelConfig):
    """Latents are denoised; a text and the latents of neighbors, each with its own caption, are
    attended to (Re-Imagen, arXiv 2209.14491).
    """

    family: Literal["references"] = "references"
    """Selects this family."""
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    """The network: that of the family diffusion, whose runs it can start from."""
    noise: NoiseConfig = field(default_factory=lambda: NoiseConfig(process="flow"))
    """The forward process."""
    text_width: int = 512
    """Width of the text tower's states: 512 of ViT-B/32, 768 of ViT-L/14, 96 of the built-in
    encoder.
    """
    neighbors: Literal["latents", "vectors"] = "latents"
    """What is attended to of a neighbor. latents: what the network's own first half sees of its
    image; vectors: its one vector, as in RDM, beside the text, to compare with.
    """

    def check(self) -> None:
        """As in `Config`."""
        require_between(self, ("text_width",), 1, 65_536)
        if self.denoiser.query_token:
            raise ValueError("denoiser.query_token: here the text is what is asked for; use false")
        if self.neighbors == "latents":
            seen = self.denoiser
            if seen.set_layers or seen.remove_means or seen.context_norm != "unit":
                raise ValueError(
                    "denoiser.set_layers, remove_means, context_norm: are for vectors, and "
                    "neighbors are seen by their latents; leave them out, or use neighbors=vectors"
                )

    @property
    def reads(self) -> Reads:
        """As in `ModelConfig`."""
        by_latents = self.neighbors == "latents"
        return Reads(means=self.denoiser.remove_means, captions=True, references=by_latents)

    @property
    def starts_from(self) -> frozenset[str]:
        """As in `ModelConfig`: what is added begins anew."""
        return frozenset({"diffusion"})

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

    takes: ClassVar[frozenset[str]] = frozenset({"negative", "image", "mask"})

    steps: int = 50
    """Sampler steps."""
    sampler: Literal["ddim", "euler", "heun", "dpm++", "unipc"] | None = None
    """Unless set: euler for runs trained with flow matching, ddim for the others."""
    eta: float = 0.0
    """ddim: fresh noise at each step."""
    guidance_interval: tuple[float, float] | None = None
    """Times (1 = pure noise) between which guidance acts (arXiv 2404.07724). Unless set: from 0.3
    to 1 for runs in pixels trained with flow matching, whose last steps it would make grainy;
    always for the others.
    """
    neighbor_scale: float | None = None
    """How strongly the neighbors count, while guidance_scale is the text's; unless set, both have
    guidance_scale.
    """
    interleave: float | None = None
    """Share of the steps that are guided by the text, the others by the neighbors (Re-Imagen, arXiv
    2209.14491); unless set, every step is guided by both.
    """

    def check(self) -> None:
        """As in `Config`."""
        super().check()
        require_between(self, ("steps",), 1, 1000)
        require_between(self, ("eta",), 0, 1)
        if self.neighbor_scale is not None:
            require_between(self, ("neighbor_scale",), 0, MOST)
        if self.interleave is not None:
            require_between(self, ("interleave",), 0, 1)
        low, high = self.guidance_interval or (0, 1)
        if not 0 <= low < high <= 1:
            raise ValueError(
                f"guidance_interval: {self.guidance_interval} does not rise between 0 and 1"
            )

    @classmethod
    def preview(cls) -> Self:
        """Few steps."""
        return cls(guidance_scale=1.0, steps=20)
