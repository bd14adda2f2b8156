"""What can be asked of a run: the parameters of `rdm sample`, each with its meaning."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from flows.config.database import Search
from flows.config.drawing import Drawing
from flows.config.parameters import Conditioned, FlowConfig, Neighbors, Seed
from storage.licences import Term

GAP = "___"
"""What stands in a template for words that are written."""


class SampleRDM(Conditioned, Drawing, FlowConfig):
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
    """What the model is given; unless set: query+neighbors for texts and images, neighbors for
    the rest, and for a model that reads neighbors whole.
    """
    search: Search | None = None
    """How the neighbors of texts and classes are looked up. vectors: by CLIP. words: by the words
    of captions, which finds names that no CLIP has learned. Unless set: as those of the run's
    training were.
    """
    k: Neighbors | None = None
    """Vectors in the context, whatever the run was trained with; unless set: as many as that."""
    most_alike: float = Field(1.0, gt=0, le=1)
    """No neighbor is taken whose cosine with the query, or with a neighbor that is taken before it,
    is larger. 1 takes whatever is nearest.
    """
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
    negative: str | None = None
    """A prompt to guide away from, in place of the null."""
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
    inpaint: Path | None = None
    """An image to be painted over where the mask is white; the rest of it stays."""
    mask: Path | None = None
    """inpaint: an image of its size, white where something new is drawn."""
    edit: Path | None = None
    """An image to be changed where it does not fit the request; no mask tells where. For runs that
    were trained with model.editing.picture.
    """
    caption: Path | None = None
    """An image that texts are written of, in place of images drawn. For runs of families that
    write.
    """
    template: str | None = None
    """caption: a text of which only ___ is written, in place of all of it: 'a ___ at the top'."""
    attribution: bool = False
    """Also draw every image without each of its neighbors in turn, and say how much each one
    changed it.
    """

    refuse_licences: tuple[Term, ...] = ()
    """Draw nothing where the licence of a neighbor is one of these: NC (non-commercial), ND (no
    derivatives), SA (share-alike), unknown (none is stated, or none that is known). What there is
    of them is told in any case.
    """

    @model_validator(mode="after")
    def _one_kind_of_query(self) -> "SampleRDM":
        queries = [field for field in ("texts", "images", "classes") if getattr(self, field)]
        if self.where is not None and self.context == "query":
            raise ValueError("where: context='query' looks no rows up; leave one out")
        if self.classes and len(queries) > 1:
            raise ValueError(f"{' and '.join(queries)}: classes stand alone")
        if self.context in ("query", "query+neighbors") and not (self.texts or self.images):
            raise ValueError(
                f"context: {self.context!r} needs texts or images; "
                "a class or nothing has neighbors only"
            )
        if self.between:
            # One kind of query, and two of it: the ends.
            has_two_ends = len(queries) == 1 and len(self.texts or self.images) == 2
            if self.between < 2 or not has_two_ends:
                raise ValueError(
                    "between: needs 2 or more steps between exactly two texts or two images"
                )
        return self

    @model_validator(mode="after")
    def _one_way_to_guide(self) -> "SampleRDM":
        if self.negative is not None and self.weaker_run is not None:
            raise ValueError("negative and weaker_run: guide away from one thing")
        if (self.inpaint is None) != (self.mask is None):
            raise ValueError("inpaint and mask: give both or none")
        if self.edit is not None and self.weaker_run is not None:
            raise ValueError("edit and weaker_run: guide by one of them")
        if self.edit is not None and self.inpaint is not None:
            raise ValueError("edit and inpaint: change an image in one way")
        if self.edit is not None and not (self.texts or self.images or self.classes):
            raise ValueError("edit: needs a text, an image or a class: what it shall show")
        if self.style_database is not None and self.style_text is None:
            raise ValueError("style_database: needs style_text")
        return self

    @model_validator(mode="after")
    def _writes_or_draws(self) -> "SampleRDM":
        if self.template is not None:
            if self.caption is None:
                raise ValueError("template: is of texts that are written: needs caption")
            if len(self.template.split(GAP)) != 2:
                raise ValueError(
                    f"template: {self.template!r} needs {GAP} once, for what is written"
                )
        if self.caption is None:
            return self
        for other in ("edit", "inpaint", "negative", "weaker_run", "style_text"):
            if getattr(self, other) is not None:
                raise ValueError(f"caption and {other}: write or draw")
        if self.attribution or self.between:
            raise ValueError("caption: attribution and between are of images that are drawn")
        return self
