"""What the study of emoji trains, and on what: four networks on three styles and nine tenths of the
concepts.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from benchmarks.study_runs import side_by_side
from flows.config.acquire import EMOJI_RUN
from flows.config.database import BuildDatabase, EncodeLatents, FindNeighbors
from flows.config.images import ImportImages
from flows.config.judge import BuiltInWorld
from flows.config.parameters import Count
from flows.config.presets import PRESETS
from flows.config.train import TrainRDM
from flows.data.build_database import ensured_database
from flows.data.emoji_databases import SIDE_PIXELS, VECTORS, build_databases, install_run
from flows.data.encode_latents import encode_latents
from flows.data.find_neighbors import find_neighbors
from flows.data.import_images import import_images
from flows.model.train_rdm import train_rdm

TRAIN = "emoji-train"
IMAGES = "images"
"""Of the name of a database whose vectors are of pictures alone, which a query takes the place of:
emoji-train-images, noto-images. Those of documents serve networks that read neighbors whole.
"""
STYLES = ("noto", "twemoji", "fluent")
"""Those that are trained on."""
UNSEEN = "openmoji"
"""The style that no training has seen."""
AUTOENCODER = "rdm-emoji-kl"
STORED_NEIGHBORS = 12
SEARCHING = {name: PRESETS["emoji"]["upstream"][name] for name in ("search", "within", "in_turns")}
"""How the neighbors of a training are found."""
REFERENCES, QUERY, NEIGHBORS, WITHOUT = "references", "query+neighbors", "neighbors", "without"
RUNS = {
    REFERENCES: "emoji-references", QUERY: "emoji-knn", NEIGHBORS: "emoji-rdm",
    WITHOUT: "emoji-without",
}  # fmt: skip
"""What a network is given -> its run."""


class EmojiStudy(BuiltInWorld):
    """Networks that draw emoji, judged in features that none of them has seen."""

    path: Path = Path("datasets/emoji")
    """Folder of `rdm acquire emoji`."""
    steps: dict[str, Count] = Field({REFERENCES: 3000, QUERY: 2000, NEIGHBORS: 2000, WITHOUT: 2000})
    """Network -> its training steps; one that is not named is neither trained nor judged."""
    shipped: bool = False
    """Judge the run of this package in place of a network of references that is trained here."""
    images: int = Field(150, ge=10, le=100_000)
    """Pictures drawn of known concepts, and as many of held-out ones where there are."""
    databases: tuple[str, ...] = (*STYLES, UNSEEN)
    """Databases that are drawn from."""
    processes: int = Field(1, ge=1, le=64)
    """Processes of each training."""


def prepare(config: EmojiStudy) -> None:
    """A database of each style, and all that a training reads."""
    build_databases(config.root, config.path, (*STYLES, UNSEEN))
    if config.shipped:
        install_run(config.root)
    here: dict[str, Any] = {"root": config.root, "name": TRAIN}
    import_images.ensured(
        ImportImages(
            **here, source="emoji", path=config.path, style=",".join(STYLES), concepts="known",
            size=SIDE_PIXELS, encoding="png",
        )
    )  # fmt: skip
    ensured_database(BuildDatabase(**here, shards=TRAIN, **VECTORS))
    of_images = VECTORS | {"of": "image"}
    for name in (TRAIN, *STYLES, UNSEEN):
        shards = {"shards": name, "name": f"{name}-{IMAGES}"}
        ensured_database(BuildDatabase(root=config.root, **shards, **of_images))
    encode_latents.ensured(EncodeLatents(**here, shards=TRAIN, autoencoder=AUTOENCODER))
    # By words, as a name is asked for later. What an image shows is learned from other styles, its
    # style from other images.
    for kind in (REFERENCES, NEIGHBORS):
        name = database_of(kind, TRAIN)
        find_neighbors.ensured(
            FindNeighbors(
                root=config.root, name=name, queries=name, database=name, k=STORED_NEIGHBORS,
                **SEARCHING,
            )
        )  # fmt: skip


def database_of(kind: str, images: str) -> str:
    """The database of some images that a kind of network draws from."""
    return images if kind == REFERENCES else f"{images}-{IMAGES}"


def run_of(config: EmojiStudy, kind: str) -> str:
    """The run of a kind of network."""
    return EMOJI_RUN if kind == REFERENCES and config.shipped else RUNS[kind]


def train(config: EmojiStudy) -> None:
    """Every network, as many side by side as there are cores."""
    trainings = []
    for kind, steps in config.steps.items():
        if run_of(config, kind) == RUNS[kind]:
            trainings.append(training_of(config, kind, steps))
    side_by_side(train_rdm.ensured, *trainings)


def training_of(config: EmojiStudy, kind: str, steps: int) -> TrainRDM:
    """One network: the preset's, or what is left of it without neighbors or query."""
    preset = PRESETS["emoji" if kind == REFERENCES else "knn-emoji"]
    model, context = preset["model"], preset["context"]
    if kind in (NEIGHBORS, WITHOUT):
        denoiser = {**model["denoiser"], "query_token": False}
        model = model | {"denoiser": denoiser}
        context = {name: value for name, value in context.items() if name != "query_dropout"}
    if kind == WITHOUT:
        context = context | {"neighbor_dropout": 1.0}
    return TrainRDM(
        root=config.root, name=RUNS[kind], latents=TRAIN, neighbors=database_of(kind, TRAIN),
        database=database_of(kind, TRAIN),
        model=model, context=context, reporting=preset["reporting"], threads=1,
        processes=config.processes,
        training=preset["training"] | {"steps": steps, "seed": config.seed},
    )  # fmt: skip
