"""What the tests with entities train, and on what: things with a name and a fixed look, some of
which are only in the database.
"""

from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from benchmarks.study_runs import side_by_side
from flows.config.database import BuildDatabase, EncodeLatents, FindNeighbors
from flows.config.images import ImportImages
from flows.config.judge import BuiltInWorld
from flows.config.parameters import Count
from flows.config.presets import PRESETS
from flows.config.train import TrainRDM
from flows.data.build_database import ensured_database
from flows.data.encode_latents import encode_latents
from flows.data.find_neighbors import find_neighbors
from flows.data.import_images import import_images
from flows.model.train_rdm import train_rdm

TRAIN, HELD_OUT, FREQUENT, DATABASE = "train", "heldout", "frequent", "database"
SOURCES: dict[str, dict[str, Any]] = {
    TRAIN: {"count": 8000, "split": "train", "entities": "known"},
    HELD_OUT: {"count": 500, "split": "heldout", "entities": "held out"},
    FREQUENT: {"count": 500, "split": "heldout", "entities": "frequent"},
    DATABASE: {"count": 6000, "split": "database", "entities": "all"},
}
"""Sets of images. The entities that are held out are in HELD_OUT and in the database alone."""
STORED_NEIGHBORS = 8


class EntityStudy(BuiltInWorld):
    """Tests of what is taken from neighbors that are more than a vector, over training seeds."""

    tests: tuple[str, ...] = ("T11", "T12", "T13")
    """Which tests."""
    steps: Count = 4000
    """Training steps of each network."""
    seeds: int = Field(3, ge=1, le=10_000)
    """Training seeds, one after the other."""
    images: int = Field(300, ge=10, le=100_000)
    """Images drawn for each figure."""


@dataclass(frozen=True)
class Variant:
    """One of the networks that a test compares."""

    name: str
    model: dict[str, Any] = field(default_factory=dict)
    """Changes to the preset's model."""
    context: dict[str, Any] = field(default_factory=dict)
    """Changes to its context."""


@dataclass(frozen=True)
class Trained:
    """What a test trains: variants of one preset."""

    preset: str
    size: int
    """Side of its images: as small as its autoencoder can tell entities apart."""
    autoencoder: str
    stored: str
    variants: tuple[Variant, ...]

    def images(self, of: str) -> str:
        """The name of one of SOURCES in this size."""
        return f"entities-{self.size}-{of}"

    def run(self, variant: str, seed: int) -> str:
        """The name of a network of a seed."""
        return f"{self.preset}-{variant}-{seed}"


REFERENCES, VECTORS, DOCUMENTS = "references", "vectors", "documents"
WITHOUT = "without"
OF_REFERENCES = Trained(
    "reimagen-shapes",
    48,
    "rdm-shapes-kl",
    "moments",
    (
        Variant(REFERENCES),
        Variant(VECTORS, {"neighbors": "vectors"}),
        Variant(WITHOUT, {"neighbors": "vectors"}, {"neighbor_dropout": 1.0}),
    ),
)
OF_DOCUMENTS = Trained(
    "cm3-shapes",
    40,
    "rdm-shapes-vq",
    "codes",
    (Variant(DOCUMENTS), Variant(WITHOUT, {}, {"neighbor_dropout": 1.0})),
)
TRAINED = {"T11": OF_REFERENCES, "T12": OF_REFERENCES, "T13": OF_DOCUMENTS}
"""Test -> what is trained for each seed."""


def prepare(config: EntityStudy, trained: Trained) -> None:
    """Images, databases, neighbors by words, and what training and measuring read."""
    for of, source in SOURCES.items():
        name, count = trained.images(of), max(64, round(source["count"] * config.scale))
        images: dict[str, Any] = source | {"count": count, "size": trained.size}
        import_images.ensured(
            ImportImages(
                root=config.root,
                name=name,
                source="entities",
                encoding="png",
                seed=config.seed,
                **images,
            )  # fmt: skip
        )
        made_by = {"encoder": "rdm-shapes", "weights": "built-in"}
        ensured_database(BuildDatabase(root=config.root, name=name, shards=name, **made_by))
        encode_latents.ensured(
            EncodeLatents(
                root=config.root,
                name=name,
                shards=name,
                autoencoder=trained.autoencoder,
                stored=trained.stored,
            )  # fmt: skip
        )
    for of in (TRAIN, HELD_OUT, FREQUENT):
        name = trained.images(of)
        find_neighbors.ensured(
            FindNeighbors(
                root=config.root,
                name=name,
                queries=name,
                database=trained.images(DATABASE),
                k=STORED_NEIGHBORS,
                search="words",
            )  # fmt: skip
        )


def train_seed(config: EntityStudy, trained: Trained, seed: int) -> None:
    """Every network of a seed, as many side by side as there are cores."""
    trainings = [training_of(config, trained, variant, seed) for variant in trained.variants]
    side_by_side(train_rdm.ensured, *trainings)


def training_of(config: EntityStudy, trained: Trained, variant: Variant, seed: int) -> TrainRDM:
    """One network, on one core: several train side by side."""
    preset = PRESETS[trained.preset]
    settings = preset | {
        "model": preset["model"] | variant.model,
        "context": preset["context"] | variant.context,
        "training": preset["training"] | {"steps": config.steps, "seed": seed},
    }
    return TrainRDM(
        root=config.root,
        name=trained.run(variant.name, seed),
        latents=trained.images(TRAIN),
        neighbors=trained.images(TRAIN),
        database=trained.images(DATABASE),
        threads=1,
        **settings,
    )
