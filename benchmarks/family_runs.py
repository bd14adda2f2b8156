"""What the families are tested on, and what is trained for it: networks that differ in what they
are given, on images that lack some pairs of shape and colour.
"""

from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from benchmarks.study_runs import side_by_side
from flows.config.database import BuildDatabase, EncodeLatents, FindNeighbors
from flows.config.judge import BuiltInWorld
from flows.config.parameters import Count
from flows.config.presets import PRESETS
from flows.config.train import TrainRDM
from flows.data.build_database import ensured_database
from flows.data.encode_latents import encode_latents
from flows.data.find_neighbors import find_neighbors
from flows.data.import_images import import_images
from flows.judge.demo import shapes_source
from flows.model.train_rdm import train_rdm


class FamilyStudy(BuiltInWorld):
    """Tests of the model families on the built-in world, over several training seeds."""

    tests: tuple[str, ...] = ("T7", "T8", "T9")
    """Which tests."""
    steps: Count = 700
    """Training steps of each network."""
    seeds: int = Field(3, ge=1, le=10_000)
    """Training seeds, one after the other."""
    images: int = Field(384, ge=24, le=10_000_000)
    """Images drawn for each figure."""
    guidance_scale: float = Field(2.0, ge=0, le=1000)
    """Of the images drawn for texts."""


@dataclass(frozen=True)
class World:
    """Sets of images of one size, and how they are encoded. Their names begin with `prefix`."""

    prefix: str
    size: int
    autoencoder: str
    stored: str

    def __getattr__(self, images: str) -> str:
        """The name of one of SOURCES here."""
        if images not in SOURCES:
            raise AttributeError(images)
        return f"{self.prefix}-{images}"


SOURCES: dict[str, dict[str, Any]] = {
    "train": {"count": 5000, "split": "train", "pairs": "known"},
    "heldout": {"count": 500, "split": "heldout", "pairs": "known"},
    "database": {"count": 5000, "split": "database"},
    # The same without the pairs that training lacks: then nothing retrieved shows them.
    "poorer": {"count": 5000, "split": "database", "pairs": "known"},
    "new": {"count": 500, "split": "heldout", "pairs": "new"},
}
"""Sets of images. What is learned lacks one colour of each shape, the database has all pairs, and
the images of `new` show what the prompts ask for.
"""
LATENTS = World("pairs", 64, "rdm-shapes-kl", "moments")
# At 40 pixels the built-in VQModel has 100 codes an image, not 256, and the oracle reads 99.8 % of
# the shapes off what it gives back.
CODES = World("pairs-40", 40, "rdm-shapes-vq", "codes")


@dataclass(frozen=True)
class Variant:
    """One of the networks that a test compares."""

    name: str
    context: dict[str, Any] = field(default_factory=dict)
    """Changes to the preset's context."""
    seen: dict[str, Any] = field(default_factory=dict)
    """Changes to how the preset's network sees its context."""


ALONE = {"each_neighbor_dropout": 1.0}
"""No neighbor is ever given: the query's own vector stands alone."""
NOISE = {"embedding_noise": 0.6}
"""LAFITE (arXiv 2111.13792): noise on the vectors, so that a text's may stand for an image's."""


@dataclass(frozen=True)
class Trained:
    """What a test trains: variants of one preset in one world."""

    preset: str
    network: str
    """Where the preset's model holds how its network sees a context."""
    world: World
    variants: tuple[Variant, ...]
    by_words: bool = False
    """Whether neighbors are found by the words of captions, and read whole."""

    def run(self, test: str, variant: str, seed: int) -> str:
        """The name of a network of a seed."""
        return f"{test.lower()}-{variant}-{seed}"


NEIGHBORS, WITHOUT = "neighbors", "without"
TRAINED = {
    "RDM": Trained("shapes", "denoiser", LATENTS, (Variant(NEIGHBORS),)),
    "T7": Trained(
        "rarm-shapes",
        "transformer",
        CODES,
        (Variant(NEIGHBORS), Variant(WITHOUT, {"neighbor_dropout": 1.0})),
    ),
    "T8": Trained(
        "knn-shapes",
        "denoiser",
        LATENTS,
        (
            Variant(NEIGHBORS),
            Variant(WITHOUT, ALONE),
            Variant("noise", ALONE | NOISE),
            # C3 (arXiv 2401.08567): each kind's mean is subtracted before the noise is added.
            Variant("centred", ALONE | NOISE, {"remove_means": True}),
            Variant("neighbors-centred", NOISE, {"remove_means": True}),
        ),
    ),
    "T9": Trained(
        "knn-discrete-shapes",
        "transformer",
        CODES,
        (Variant(NEIGHBORS), Variant(WITHOUT, ALONE)),
    ),
    "T11": Trained("reimagen-shapes", "denoiser", LATENTS, (Variant(NEIGHBORS),), by_words=True),
    "T13": Trained("cm3-shapes", "transformer", CODES, (Variant(NEIGHBORS),), by_words=True),
}
"""Test -> what is trained for each seed. RDM is no test of its own, which `make study` has: it is
drawn beside the others, as are those of T11 and T13, which have a world and a study of their own.
"""


def prepare(config: FamilyStudy, trained: Trained) -> None:
    """The sets of images of a world, their databases, and what training and measuring read."""
    world = trained.world
    for images, source in SOURCES.items():
        name = getattr(world, images)
        import_images.ensured(shapes_source(config, name, source | {"size": world.size}))
        if images != "new":  # only looked at
            made_by = {"encoder": "rdm-shapes", "weights": "built-in"}
            ensured_database(BuildDatabase(root=config.root, name=name, shards=name, **made_by))
    for name in (world.train, world.heldout):
        find_neighbors.ensured(
            FindNeighbors(
                root=config.root,
                name=neighbors_of(trained, name),
                queries=name,
                database=world.database,
                search="words" if trained.by_words else "vectors",
            )
        )
    read = (world.train, world.heldout, *([world.database] if trained.by_words else []))
    for name in read:
        encode_latents.ensured(
            EncodeLatents(
                root=config.root,
                name=name,
                shards=name,
                autoencoder=world.autoencoder,
                stored=world.stored,
            )
        )


def neighbors_of(trained: Trained, images: str) -> str:
    """The name of the neighbors of a set of images."""
    return f"{images}-words" if trained.by_words else images


def train_seed(config: FamilyStudy, test: str, seed: int) -> None:
    """Every network of a test's seed, as many side by side as there are cores."""
    variants = TRAINED[test].variants
    trainings = [training_of(config, test, variant, seed) for variant in variants]
    side_by_side(train_rdm.ensured, *trainings)


def training_of(config: FamilyStudy, test: str, variant: Variant, seed: int) -> TrainRDM:
    """One network, on one core: several train side by side."""
    trained = TRAINED[test]
    preset, world = PRESETS[trained.preset], trained.world
    network = preset["model"][trained.network] | variant.seen
    settings = preset | {
        "model": preset["model"] | {trained.network: network},
        "context": preset["context"] | variant.context,
        "training": preset["training"] | {"steps": config.steps, "seed": seed},
    }
    return TrainRDM(
        root=config.root,
        name=trained.run(test, variant.name, seed),
        latents=world.train,
        neighbors=neighbors_of(trained, world.train),
        database=world.database,
        threads=1,
        **settings,
    )
