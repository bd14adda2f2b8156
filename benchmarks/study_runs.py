"""What the study trains for a seed, and on what: a network, its twin without neighbors, a U-Net as
large, and the same network in a world where some things are rare.
"""

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import copy_context
from os import sched_getaffinity
from typing import Any

from pydantic import Field

from flows.config.judge import BuiltInWorld, EvaluateRDM
from flows.config.train import TrainRDM
from flows.judge.demo import prepare_data, prepare_images, prepare_world, training
from flows.model.launch import stop_all
from flows.model.train_rdm import train_rdm
from storage.artifact import Artifact

UNEVEN_SOURCES: dict[str, dict[str, Any]] = {
    "shapes-uneven": {"count": 5000, "split": "train", "frequencies": "uneven"},
    "shapes-uneven-heldout": {"count": 500, "split": "heldout", "frequencies": "uneven"},
}
"""The demo's images to learn and to be judged by, but with values in shares of 1, 1/2, 1/3, ...
The database stays as it is, all values alike: its rows are retrieved unevenly.
"""


class Study(BuiltInWorld):
    """Six tests of the method on the built-in world, over several training seeds."""

    seeds: int = Field(3, ge=1, le=10_000)
    """Training seeds, one after the other."""
    images: int = Field(400, ge=11, le=10_000_000)
    """Images drawn for each figure."""
    sampler_steps: int = Field(12, ge=1, le=1000)
    """Sampler steps of each image."""
    guidance_scale: float = Field(2.0, ge=0, le=1000)
    """Of the images drawn for texts and for restricted databases."""


def prepare_worlds(config: Study) -> None:
    """The demo's images, databases and tables, and the images in which some things are rare."""
    prepare_world(config)
    for name, source in UNEVEN_SOURCES.items():
        prepare_images(config, name, source)
        prepare_data(config, name)


def train_seed(config: Study, seed: int) -> None:
    """Every network of a seed, as many side by side as there are cores."""
    run = training_of(config, run_of(seed), seed)
    rival = training_of(config, rival_of(seed), seed, "shapes-unet")
    uneven = training_of(config, uneven_of(seed), seed, images="shapes-uneven")
    side_by_side(train_rdm.ensured, rival, run, twin_of(run), uneven)


def training_of(config: Study, name: str, seed: int, *preset: str, **images: str) -> TrainRDM:
    """One of the networks of a seed, on one core: several train side by side."""
    run = training(config, name, *preset, **images, seed=seed)
    return run.model_copy(update={"threads": 1})


def twin_of(run: TrainRDM) -> TrainRDM:
    """The same network, trained without neighbors."""
    context = dataclasses.replace(run.context, neighbor_dropout=1.0)
    return run.model_copy(update={"name": f"{run.name}-without-neighbors", "context": context})


def side_by_side(stage: Callable[[Any], Artifact], *configs: Any) -> None:
    """Run one stage with several parameters, one a core: small networks use single cores better
    than one of them uses all.
    """
    with ThreadPoolExecutor(len(sched_getaffinity(0))) as pool:
        # Each thread in a copy of this context: in it a stage knows the flow that it belongs to.
        futures = [pool.submit(copy_context().run, stage, config) for config in configs]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            # One has failed, or we are interrupted: those not begun never begin, and the pool
            # would wait for the others to end.
            pool.shutdown(wait=False, cancel_futures=True)
            stop_all()
            raise


def run_of(seed: int) -> str:
    """The name of a seed's network."""
    return f"study-{seed}"


def twin_of_seed(seed: int) -> str:
    """The name of a seed's network without neighbors."""
    return f"study-{seed}-without-neighbors"


def rival_of(seed: int) -> str:
    """The name of a seed's U-Net."""
    return f"study-{seed}-unet"


def uneven_of(seed: int) -> str:
    """The name of a seed's network in the world where some things are rare."""
    return f"study-{seed}-uneven"


def evaluation_of(config: Study, seed: int) -> EvaluateRDM:
    """The pair of runs of a seed and the images they are compared on."""
    held_out = {"heldout_latents": "shapes-heldout", "heldout_neighbors": "shapes-heldout"}
    pair = {"run": run_of(seed), "baseline": twin_of_seed(seed)}
    return EvaluateRDM(root=config.root, name=f"study-{seed}", **pair, **held_out)


def uneven_evaluation_of(config: Study, seed: int) -> EvaluateRDM:
    """The run of a seed in the uneven world, and the images it is judged by."""
    held_out = {
        "heldout_latents": "shapes-uneven-heldout",
        "heldout_neighbors": "shapes-uneven-heldout",
    }
    return EvaluateRDM(root=config.root, name=uneven_of(seed), run=uneven_of(seed), **held_out)
