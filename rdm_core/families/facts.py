"""What is known of a model beside its weights: its shapes, and the data that it was trained on.

Importing this file costs nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from rdm_core.config import Config

Stored = Literal["pixels", "moments", "codes"]
"""What an artifact of latents holds: images, an encoder's output, or positions in a codebook."""


@dataclass(frozen=True)
class Reads:
    """What a family needs of the training data beside the vectors of neighbors."""

    stored: tuple[Stored, ...] = ("pixels", "moments")
    """Latents that it can be trained on."""
    query: bool = False
    """The training images' own vectors."""
    means: bool = False
    """The mean vectors of the database's images and captions."""
    captions: bool = False
    """The training images' captions, as the encoder's tokenizer gives them; with references, the
    neighbors' captions too.
    """
    references: bool = False
    """The latents of the neighbors."""
    neighbor_images: bool = False
    """The images of single neighbors, which the model picks itself."""

    @property
    def latents_of_database(self) -> bool:
        """Whether the database's images must be encoded as the training images are."""
        return self.references or self.neighbor_images


@dataclass(frozen=True)
class ImageVectorsOnly:
    """A choice about a model that only works with vectors of images, not with those of captions."""

    setting: str
    """The switch that makes this choice, by its name under `model`."""
    of: Literal["database", "queries"]
    """Whose vectors must be of images."""
    why: str
    """What the model does with them, for a person who is refused."""


@dataclass(frozen=True)
class ModelConfig(Config):
    """What can be chosen about a model. A family adds its own choices, the field `family` first."""

    @property
    def reads(self) -> Reads:
        """What such a model needs of the training data."""
        return Reads()

    @property
    def codebook(self) -> int | None:
        """Entries of the codebook that such a model is built for; None where it reads no codes."""
        return None

    @property
    def starts_from(self) -> frozenset[str]:
        """Other families whose runs such a model can begin with the weights of."""
        return frozenset()

    @property
    def beside_weights(self) -> dict[str, Any]:
        """The choices that weights mean something else with, by name, though they fit with any: a
        training begins with the weights of no run that made others.
        """
        return {}

    @property
    def image_vectors_only(self) -> tuple[ImageVectorsOnly, ...]:
        """The choices made here that only work with vectors of images."""
        return ()

    @property
    def longest_caption(self) -> int | None:
        """Tokens of the longest caption that such a model reads; None where it reads all that the
        encoder's text tower does.
        """
        return None

    def check_encoder(self, encoder: Any) -> None:
        """Check that such a model can read captions as this `rdm_core.clip.Encoder` gives them.
        Raises RequestError with the cure.
        """

    def check_installed(self) -> None:
        """Check that the libraries which training such a model needs beside the usual ones are
        here. Raises RequestError with the cure.
        """

    def refuses(self, beside: str) -> tuple[str, str] | None:
        """Why such a model has no use for a field of `rdm_core.families.family.Beside` that its
        family takes, and the cure; None if it has.
        """
        return None


@dataclass(frozen=True)
class Shape:
    """The latents [C, side, side] and vectors [D] that a model is built for."""

    channels: int
    """Channels of a final latent, C."""
    side: int
    """Side of a latent."""
    dimension: int
    """Dimension of a context's vectors, D."""


@dataclass(frozen=True)
class Version:
    """An artifact that a run was trained on."""

    name: str
    id: str
    fingerprint: str

    @property
    def reference(self) -> str:
        """name@id."""
        return f"{self.name}@{self.id}"


@dataclass(frozen=True)
class RunFacts:
    """What one needs to know to use a model's weights. Saved beside them as `model.json`."""

    family: str
    """One of `rdm_core.families.FAMILIES`."""
    model: Mapping[str, Any]
    """The family's configuration."""
    encoder: Mapping[str, Any]
    """Identity of the encoder of its contexts: model, weights_sha256, dimension, ..."""
    vectors_of: str
    """What each vector of its database stands for: image, text or document."""
    encoder_weights: str
    """Where that encoder's weights come from: a tag, a file."""
    space: Mapping[str, Any]
    """Identity of its latent space: autoencoder, weights_sha256, channels, factor."""
    space_path: str
    """Where that autoencoder is: pixels, autoencoders/NAME@ID under the root, a folder, a hub id,
    or a folder beside the weights.
    """
    latent_side: int
    """Side of a latent."""
    k: int
    """Most neighbors in a context of its training."""
    random_k: bool
    """Whether it was trained with any number of them up to k."""
    neighbor_dropout: float
    """Share of samples it was trained on without neighbors; 1: it never saw a neighbor."""
    steps: int
    """Optimiser steps; 0 where they are unknown."""
    parameters: int
    """Trainable numbers."""
    trained_on: Mapping[str, Version] = field(default_factory=dict)
    """Role (latents, neighbors, database, index) -> artifact; empty where they are unknown."""
    ema_length: float | None = None
    """Length of the running mean, if one was chosen after the training."""
    converted_from: Mapping[str, Any] | None = None
    """The released file it was read from: file, layout, ema."""
    search: str = "vectors"
    """How the neighbors of its training were found: by vectors, or by words."""

    @property
    def shape(self) -> Shape:
        """The latents and vectors that the model is built for."""
        return Shape(self.space["channels"], self.latent_side, self.encoder["dimension"])

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "RunFacts":
        """Make it of the JSON of a `model.json`. Raises ValueError naming what is absent or
        unknown.
        """
        names = {field.name for field in fields(cls)}
        if unknown := sorted(record.keys() - names):
            raise ValueError(f"{', '.join(unknown)}: unknown")
        trained_on = {}
        for role, version in record.get("trained_on", {}).items():
            trained_on[role] = Version(**version)
        try:
            return cls(**{**record, "trained_on": trained_on})
        except TypeError as error:
            raise ValueError(str(error)) from error
