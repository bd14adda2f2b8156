"""Databases, neighbor tables and latents: how they are made of shards.

The same class is the flow's parameter, the command line's `--set key=value`, and the manifest's
record. Importing this file loads neither Prefect nor torch.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from flows.config.acquire import AnyAcquire
from flows.config.images import AnyImages
from flows.config.parameters import (
    Conditioned,
    Count,
    FlowConfig,
    Neighbors,
    Parameters,
    UnderRoot,
)
from rdm_core.families.facts import Stored

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Embedded = Literal["image", "text", "document"]
Search = Literal["vectors", "words"]


class Encoding(Parameters):
    """What images and captions are embedded with: declared here for all that embed."""

    encoder: str = "ViT-B-32"
    """open_clip model name, or hf-hub:org/repo."""
    weights: str = "openai"
    """open_clip tag, a local file (TAG@FILE where the model's tags differ in use) or directory (as
    the hub gives it), 'built-in' (rdm-shapes and rdm-emoji), 'built-in-accessories' (rdm-shapes),
    or 'random' (for tests).
    """
    precision: Precision = "auto"
    """Of the image tower while it embeds; auto: as the last version, else what this machine is
    measured to be fastest with.
    """
    of: Embedded = "image"
    """What a row's vector is of. image: the picture. text: its caption, the mean of several.
    document: the mean of both, unit again (RA-CM3, arXiv 2211.12561).
    """

    def encoding(self) -> dict[str, Any]:
        """These parameters, to hand on."""
        return {name: getattr(self, name) for name in Encoding.model_fields}

    @model_validator(mode="after")
    def _says_nothing_idle(self) -> "Encoding":
        if self.of == "text" and self.precision not in ("auto", "float32"):
            why = "is of the image tower, and of=text embeds captions, in float32"
            raise ValueError(f"precision: {why} (given: {self.precision})")
        return self


class Autoencoding(Parameters):
    """What latents are made with: declared here for all that encode."""

    autoencoder: str = "pixels"
    """'pixels'; rdm-shapes-kl or rdm-shapes-vq for the built-in world at 64 pixels; rdm-emoji-kl;
    autoencoders/NAME (or NAME@ID) for one that `rdm autoencoder` trained; a local diffusers folder
    of an AutoencoderKL or VQModel; or a hub id.
    """
    stored: Stored | None = None
    """pixels: the images themselves, which a named autoencoder encodes each time they are read, so
    that a training may change them first. moments: what the encoder says before anything is drawn
    or rounded. codes: places in a VQModel's codebook, for a family that reads codes. Unless given:
    pixels in pixel space, else moments.
    """

    def autoencoding(self) -> dict[str, Any]:
        """These parameters, to hand on."""
        return {name: getattr(self, name) for name in Autoencoding.model_fields}


class Searching(Conditioned):
    """Which rows are neighbors: declared here for all that make a table of them."""

    search: Search = "vectors"
    """vectors: the rows whose vectors are nearest to the query's. words: those whose captions have
    the words of the query's first caption, rare ones before all (BM25): names that no encoder has
    learned are found. The first alone, as a prompt is one text too.
    """
    within: Literal["author", "style", "source_url"] | None = None
    """Only rows with the query's own value in this column are neighbors of it, as if there were a
    database for each value. style: a model learns from them what its images have in common.
    """
    in_turns: bool = False
    """within: take neighbors from everywhere and from within in turns, from everywhere first. So a
    model sees what an image shows in other styles, and its style in other images.
    """

    def searching(self) -> dict[str, Any]:
        """These parameters, to hand on."""
        return {name: getattr(self, name) for name in Searching.model_fields}

    @model_validator(mode="after")
    def _takes_turns_with_something(self) -> "Searching":
        if self.in_turns and self.within is None:
            raise ValueError("in_turns: takes turns with within, which is not set")
        return self


class BuildDatabase(Encoding, FlowConfig):
    """shards -> embeddings -> index: a database that answers which images are nearest."""

    shards: str
    """Shards to embed: a name, or name@id for one version."""
    recipe: Literal["auto", "exact", "autofaiss"] = "auto"
    """exact up to 100,000 rows, autofaiss above; or one of the two."""
    index_memory: str = "4G"
    """autofaiss: memory the index may take."""
    recall_target: float = Field(0.95, gt=0, le=1)
    """autofaiss: share of the exact neighbors that the index is set to find, with the least effort
    that does.
    """
    latency_target_milliseconds: float = Field(20.0, gt=0, le=1_000_000)
    """autofaiss: within which 95 % of the queries should be answered; it is said where they are
    not.
    """
    recall_queries: Count = 256
    """Database rows used as queries to measure recall against exact search."""
    recall_k: Neighbors = 20
    """Neighbors of each of them."""


class FindNeighbors(Searching, FlowConfig):
    """embeddings x database -> neighbor table, exact, the query's own image left out."""

    queries: str
    """Embeddings whose rows are the queries."""
    database: str
    """Database (embeddings and index of one name) that is searched."""
    k: Neighbors = 20
    """Neighbors stored for each query."""
    query_word_dropout: float = Field(0.0, ge=0, lt=1)
    """search=words: share of a query's words that are left out, always the same ones of a query
    (RA-CM3, arXiv 2211.12561: 0.2).
    """
    most_alike: float = Field(1.0, gt=0, le=1)
    """Cosine with the query, or with a neighbor that is taken already, above which a row is passed
    over, from the nearest on (RA-CM3: 0.9); 1 passes over none.
    """
    group: Literal["author", "style", "source_url"] | None = None
    """Rows with the query's own value in this column are no neighbors of it; other crops of its
    image never are.
    """
    score_cap: Annotated[float, Field(gt=0, le=1)] | Literal["calibrated"] = 1.0
    """Cosine above which a row is a near-duplicate and passed over; 1 passes over none. calibrated:
    what altered copies of the database's images have under its encoder (as `rdm duplicates`), to
    two digits; the plan holds the number.
    """

    @model_validator(mode="after")
    def _drops_words_that_are_looked_up(self) -> "FindNeighbors":
        if self.query_word_dropout and self.search != "words":
            why = f"is for search=words (given: {self.query_word_dropout})"
            raise ValueError(f"query_word_dropout: {why}")
        if self.within is not None and self.within == self.group:
            raise ValueError(f"within, group: both are {self.group}, which leaves no neighbor")
        return self


class EncodeLatents(Autoencoding, FlowConfig):
    """shards -> latents: what a model is trained on, encoded once."""

    shards: str
    """Shards to encode."""


class Rebuild(Conditioned, Autoencoding, Encoding, FlowConfig):
    """images -> shards, database, neighbor table and latents under one name: what a schedule
    runs.
    """

    images: AnyImages
    """The images."""
    acquire: AnyAcquire | None = None
    """Where they are fetched from first, into images.path; what is there unchanged stays."""
    k: Neighbors = 20
    """Neighbors stored for each image."""

    @model_validator(mode="after")
    def _fetched_where_they_are_read(self) -> "Rebuild":
        if self.acquire is not None and self.acquire.path != self.images.path:
            raise ValueError(
                f"acquire.path: is {self.acquire.path}, and images.path is {self.images.path}: "
                "fetch them where they are read"
            )
        return self


class RemoveKeys(UnderRoot):
    """database -> the same database without some images, for good."""

    database: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    """Database (embeddings, and index if there is one) the images are taken out of."""
    keys_file: Path
    """Text file with one key a line; a key without its crop number stands for every crop of the
    image.
    """
    missing_ok: bool = False
    """Keys that the database does not hold go on its removal list too, instead of being refused."""
