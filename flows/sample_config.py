"""What can be asked of a run: the parameters of `rdm sample`, each with its meaning."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from flows.parameters import FlowConfig, GuidanceScale, Neighbors, SamplerSteps, Seed, Share
from rdm_core.config import MOST


class SampleRDM(FlowConfig):
    """weights + any database + a request -> images, each with its neighbors, scores, licences and
    seed.
    """

    run: str
    """Training run whose weights are used."""
    database: str | None = None
    """Database neighbors are taken from: the run's own unless given; swap it to change domain or
    style.
    """
    texts: tuple[str, ...] = ()
    """Prompts."""
    images: tuple[Path, ...] = ()
    """Query images; with texts: images given beside each text, whose vectors join its context."""
    classes: tuple[str, ...] = ()
    """Class names; each asks for 'An image of a {class}.' and draws k of a pool of neighbors."""
    count: int = Field(4, ge=1, le=1_000_000)
    """Images for each prompt, query image or class; or altogether when there is none of them
    (pseudo-queries).
    """
    context: Literal["query", "query+neighbors", "neighbors"] | None = None
    """What the denoiser is given; unless set: query+neighbors for texts and images, neighbors for
    the rest.
    """
    k: Neighbors = 4
    """Vectors in the context, whatever the run was trained with."""
    between: int = Field(0, ge=0, le=10_000)
    """Steps from the first of two texts or images to the second, both ends included; 0: no
    interpolation.
    """
    pool: Neighbors = 20
    """classes: neighbors to draw k from."""
    top_m: float = Field(0.1, gt=0, le=1)
    """pseudo-queries: share of the retrieved rows, most often retrieved first."""
    weighted: bool = False
    """pseudo-queries: draw them by how often they were retrieved instead of uniformly."""
    seed: Seed = 0
    """Image i is drawn from seed + i."""
    steps: SamplerSteps = 50
    """Sampler steps."""
    sampler: Literal["ddim", "ddim-2022", "euler", "heun", "dpm++", "unipc"] | None = None
    """Unless set: euler for runs trained with flow matching, ddim-2022 for converted ones, ddim for
    the others. ddim takes as many steps as asked for, from pure noise on; ddim-2022 those of the
    release: 31 for 30, from 991 of 1000 on.
    """
    eta: float = Field(0.0, ge=0, le=1)
    """ddim, ddim-2022: fresh noise at each step; 1 is the 2022 paper's setting."""
    guidance_scale: GuidanceScale = 2.0
    """0: without neighbors; 1: no guidance; above: stronger."""
    guidance_interval: tuple[Share, Share] = (0.0, 1.0)
    """Times (1 = pure noise) between which guidance acts."""
    negative: str | None = None
    """A prompt to guide away from, in place of the null."""
    null: Literal["learned", "zero"] = "learned"
    """What to guide away from: the null of the training, or the zero vector of the 2022 release."""
    weaker_run: str | None = None
    """Guide away from what this run, a smaller or shorter one, makes of the same context."""
    style_text: str | None = None
    """A second context that takes over once the signal is stronger than style_from_snr: this text,
    or its neighbors.
    """
    style_database: str | None = None
    """style_text: database its neighbors are taken from; without one the text alone is the
    style.
    """
    style_from_snr: float = Field(1.0, gt=0, le=MOST)
    """style_text: signal-to-noise ratio (of powers) at which it takes over."""
    inpaint: Path | None = None
    """An image to be painted over where the mask is white; the rest of it stays."""
    mask: Path | None = None
    """inpaint: an image of its size, white where something new is drawn."""
    attribution: bool = False
    """Also draw every image without each of its neighbors in turn, and say how much each one
    changed it.
    """

    @model_validator(mode="after")
    def _one_kind_of_query(self) -> "SampleRDM":
        given = [field for field in ("texts", "images", "classes") if getattr(self, field)]
        if self.classes and len(given) > 1:
            raise ValueError(f"{' and '.join(given)}: classes stand alone")
        if self.context in ("query", "query+neighbors") and not (self.texts or self.images):
            raise ValueError(
                f"context: {self.context!r} needs texts or images; a class or nothing has neighbors only"
            )
        if self.between and (
            self.between < 2 or len(given) != 1 or len(self.texts or self.images) != 2
        ):
            raise ValueError(
                "between: needs 2 or more steps between exactly two texts or two images"
            )
        return self

    @model_validator(mode="after")
    def _one_way_to_guide(self) -> "SampleRDM":
        ways = {
            "negative": self.negative is not None,
            "null": self.null == "zero",
            "weaker_run": self.weaker_run is not None,
        }
        if sum(ways.values()) > 1:
            raise ValueError(
                f"{' and '.join(way for way, on in ways.items() if on)}: guide away from one thing"
            )
        if not 0 <= self.guidance_interval[0] < self.guidance_interval[1] <= 1:
            raise ValueError(
                f"guidance_interval: {self.guidance_interval} does not rise between 0 and 1"
            )
        if (self.inpaint is None) != (self.mask is None):
            raise ValueError("inpaint and mask: give both or none")
        if self.style_database is not None and self.style_text is None:
            raise ValueError("style_database: needs style_text")
        return self
