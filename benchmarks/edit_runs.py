"""What the claim about editing trains for a seed, and on what: a network that draws, and two that
begin with its weights and learn to edit, one of them from neighbors that are not moved into place.
"""

from typing import Any

from pydantic import Field

from flows.config.database import EncodeLatents, FindNeighbors
from flows.config.judge import BuiltInWorld
from flows.config.presets import DEMO_AUTOENCODER
from flows.config.train import TrainRDM
from flows.data.encode_latents import encode_latents
from flows.data.find_neighbors import find_neighbors
from flows.judge.demo import prepare_images
from flows.model.train_rdm import train_rdm

TRAIN, DATABASE, PIXELS = "edit-train", "edit-database", "edit-train-pixels"
SOURCES: dict[str, dict[str, Any]] = {
    TRAIN: {"count": 5000, "split": "train", "accessories": []},
    DATABASE: {"count": 5000, "split": "database", "accessories": []},
}
"""The demo's images, but half of them with an accessory: what is edited. Disjoint draws."""
DRAWING: dict[str, Any] = {
    "model": {
        "denoiser": {
            "network": "transformer", "channels": [128], "depth": 4, "head_channels": 32,
            "patch": 1, "query_token": True, "remove_means": True,
        },
        "noise": {"process": "flow"},
    },
    "context": {"k": 10, "random_k": True, "embedding_noise": 0.6, "query_dropout": 0.1},
    "training": {
        "batch": 32, "optimizer": "muon", "learning_rate": 4e-3, "warmup_steps": 50,
        "cooldown": 0.3, "ema_decay": 0.995,
    },
}  # fmt: skip
"""The network that draws, as the preset knn-shapes has it."""


class EditStudy(BuiltInWorld):
    """Editing without masks on the built-in world, over several training seeds."""

    steps: int = Field(800, ge=1)
    """Training steps of the network that draws."""
    seeds: int = Field(1, ge=1, le=10_000)
    """Training seeds, one after the other."""


def prepare_worlds(config: EditStudy) -> None:
    """Images, databases, a table of neighbors, and latents."""
    for name, source in SOURCES.items():
        prepare_images(config, name, source)
    find_neighbors.ensured(
        FindNeighbors(root=config.root, name=TRAIN, queries=TRAIN, database=DATABASE),
    )
    encode_latents.ensured(
        EncodeLatents(root=config.root, name=TRAIN, shards=TRAIN, autoencoder=DEMO_AUTOENCODER)
    )


def drawing_of(config: EditStudy, seed: int) -> TrainRDM:
    """The network of a seed that draws."""
    inputs = {"latents": TRAIN, "neighbors": TRAIN, "database": DATABASE}
    training = DRAWING["training"] | {"steps": config.steps, "seed": seed}
    chosen = DRAWING | {"training": training}
    return TrainRDM(root=config.root, name=f"edit-{seed}-draws", threads=1, **inputs, **chosen)


def train_seed(config: EditStudy, seed: int) -> None:
    """Every network of a seed, one after the other."""
    train_rdm.ensured(drawing_of(config, seed))
