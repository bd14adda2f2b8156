"""What the claim about editing trains for a seed, and on what: a network that draws, and two that
begin with its weights and learn to edit, one of them from neighbors that are not moved into place.
"""

from typing import Any

from pydantic import Field

from flows.config.database import EncodeLatents, FindNeighbors
from flows.config.judge import BuiltInWorld
from flows.config.presets import DEMO_AUTOENCODER, PRESETS
from flows.config.train import TrainRDM
from flows.data.encode_latents import encode_latents
from flows.data.find_neighbors import find_neighbors
from flows.judge.demo import prepare_images
from flows.model.train_rdm import train_rdm

TRAIN, DATABASE = "edit-train", "edit-database"
SOURCES: dict[str, dict[str, Any]] = {
    TRAIN: {"count": 5000, "split": "train", "accessories": []},
    DATABASE: {"count": 5000, "split": "database", "accessories": []},
}
"""The demo's images, but half of them with an accessory: what is edited. Disjoint draws."""
FAR = "edit-train-far"
"""A table of so many neighbors of each image that some differ from it in what it wears."""
STORED = {TRAIN: 20, FAR: 60}
"""Table -> neighbors of each image."""


class EditStudy(BuiltInWorld):
    """Editing without masks on the built-in world, over several training seeds."""

    steps: int = Field(800, ge=1)
    """Training steps of the network that draws."""
    edit_steps: int = Field(600, ge=1)
    """Training steps of each network that edits, from the weights of the one that draws."""
    seeds: int = Field(1, ge=1, le=10_000)
    """Training seeds, one after the other."""
    images: int = Field(64, ge=8, le=10_000)
    """Images that are edited for each kind of edit."""
    sampler_steps: int = Field(25, ge=1, le=1000)
    """Sampler steps of each image."""
    strength: float = Field(2.0, ge=0, le=1000)
    """Guidance scale of an edit."""
    neighbor_scale: float | None = Field(None, ge=0, le=1000)
    """Of the neighbors, if another one."""
    k: int = Field(10, ge=1, le=10_000)
    """Neighbors of each text."""
    ablation: bool = False
    """Also train and measure a network whose neighbors were not moved into place."""


def prepare_worlds(config: EditStudy) -> None:
    """Images, databases, a table of neighbors, the images as they are, and moments."""
    for name, source in SOURCES.items():
        prepare_images(config, name, source, "built-in-accessories")
    for name, k in STORED.items():
        find_neighbors.ensured(
            FindNeighbors(root=config.root, name=name, queries=TRAIN, database=DATABASE, k=k)
        )
    for name, stored in ((TRAIN, None), (TRAIN, "pixels"), (DATABASE, "pixels")):
        latents = f"{name}-{stored}" if stored else name
        encoded = EncodeLatents(
            root=config.root, name=latents, shards=name, autoencoder=DEMO_AUTOENCODER,
            stored=stored,
        )  # fmt: skip
        encode_latents.ensured(encoded)


def drawing_of(config: EditStudy, seed: int) -> TrainRDM:
    """The network of a seed that draws: that of the preset, which does not edit."""
    preset = PRESETS["edit-shapes"]
    model = {name: value for name, value in preset["model"].items() if name != "editing"}
    context = {name: value for name, value in preset["context"].items() if name != "query_alone"}
    training = {"steps": config.steps, "seed": seed}
    changes = {"model": model, "context": context, "training": preset["training"] | training}
    return training_of(config, f"edit-{seed}-draws", (TRAIN, TRAIN), changes)


def editing_of(config: EditStudy, seed: int, align: str = "shift") -> TrainRDM:
    """A network of a seed that edits, trained with neighbors that are moved into place, or not."""
    name = f"edit-{seed}" if align == "shift" else f"edit-{seed}-{align}"
    preset = PRESETS["edit-shapes"]["model"]
    training = PRESETS["edit-shapes"]["training"] | {"steps": config.edit_steps, "seed": seed}
    changes = {
        "model": preset | {"editing": preset["editing"] | {"align": align}},
        "training": training,
        "start_from": f"edit-{seed}-draws",
    }
    return training_of(config, name, (f"{TRAIN}-pixels", FAR), changes)


def training_of(
    config: EditStudy, name: str, read: tuple[str, str], changes: dict[str, Any]
) -> TrainRDM:
    """One of the trainings of a seed, by the preset, on one core; `read` names its latents and its
    neighbors.
    """
    inputs = {"latents": read[0], "neighbors": read[1], "database": DATABASE}
    settings = PRESETS["edit-shapes"] | changes
    return TrainRDM(root=config.root, name=name, threads=1, **inputs, **settings)


def train_seed(config: EditStudy, seed: int) -> None:
    """Every network of a seed, one after the other."""
    train_rdm.ensured(drawing_of(config, seed))
    for align in ("shift", "none") if config.ablation else ("shift",):
        train_rdm.ensured(editing_of(config, seed, align))
