"""shards -> latents: what a model is trained on, encoded once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flows.config.database import EncodeLatents
from flows.data.autoencoder import pinned, space_of, trained_autoencoder
from flows.run.progress import Clock
from flows.run.revisions import plan_of, revision_of
from flows.run.stage import (
    NETWORK_RETRIES,
    Wanted,
    building,
    gathered,
    group_of_parts,
    groups,
    kept,
    only,
    published,
    stage_flow,
    stage_task,
)
from flows.run.workers import a_device_each
from rdm_core.decode import decode
from rdm_core.latents import LatentSpace
from storage.artifact import Artifact, open_artifact
from storage.build import Build
from storage.errors import StorageError
from storage.latents import write_latents
from storage.manifest import Part, Plan, made_from
from storage.shards import read_images

BATCH = 64
"""Images that the autoencoder is given at once."""


@stage_flow("encode-latents")
def encode_latents(config: EncodeLatents) -> Artifact:
    """Encode what a model is trained on, once.

    shards --autoencoder--> raw latents: pixels as they are, an encoder's moments, or codes

    - In `latents`: an array a part, and the keys of its rows.
    - Made by `rdm encode`, by a rebuild, and by a training that does not find them.
    - Read by trainings and evaluations.
    - Rebuilt when the shards, the autoencoder's weights or what is stored changes.
    - Resumes by the part: one for each shard that holds an image.
    """
    clock = Clock()
    shards = open_artifact(config.root, "shards", config.shards)
    # Loaded before the plan, which names its weights by their hash. Whatever is published from here
    # on, it stays the same one.
    autoencoder = pinned(config.root, config.autoencoder)
    config = config.model_copy(update={"autoencoder": autoencoder})
    load_autoencoder(config.root, autoencoder)
    how = encoded_how(config)
    with building(config.root, latents_plan(config, shards)) as build:
        if build.finished:
            return kept(build)
        # A shard whose images were all rejected has nothing to train on.
        wanted = {part.name: origin_of(how, part) for part in shards.parts if part.counts.get("ok")}
        if not wanted:
            cure = f"Look at its rejects: rdm show shards/{shards.name}"
            raise StorageError(shards.directory, "holds no accepted image", cure)
        with a_device_each():
            futures = []
            for group in groups(wanted):
                shards_of_group = only(shards, group)
                futures.append(encode_group.submit(build, shards_of_group, group, autoencoder))
        return published(build, gathered(build, futures), clock, autoencoder_path=autoencoder)


def origin_of(how: Mapping[str, Any], shard: Part) -> str:
    """What the latents of a shard are made from: `encoded_how`, and the shard's bytes."""
    return made_from(how, shard.content)


@encode_latents.plan
def latents_plan(config: EncodeLatents, shards: Artifact | None = None) -> Plan:
    """The latent space, what is stored, the shards, and the autoencoder if we trained it."""
    shards = shards or open_artifact(config.root, "shards", config.shards)
    inputs = {"shards": shards.fingerprint}
    trained = trained_autoencoder(config.root, config.autoencoder)
    if trained is not None:  # whose weights must stay as long as something is made with them
        inputs["autoencoder"] = trained.fingerprint
    return plan_of("latents", config.name, encoded_how(config), inputs)


def encoded_how(config: EncodeLatents) -> dict[str, Any]:
    """The latent space, what of an image is stored in it, and the stage's revision. Raises
    RequestError where the request names something that the space does not have.
    """
    space = space_of(config.root, config.autoencoder)
    stored = {"space": space.identity, "stored": space.storing(config.stored)}
    return stored | revision_of("latents")


@stage_task(name="load-autoencoder", retries=NETWORK_RETRIES)
def load_autoencoder(root: Path, autoencoder: str) -> LatentSpace:
    """The latent space, from the hub the first time."""
    return space_of(root, autoencoder)


@stage_task(name="encode-parts", retries=NETWORK_RETRIES)
def encode_group(build: Build, shards: Artifact, wanted: Wanted, autoencoder: str) -> list[Part]:
    """The parts of one task run."""
    return group_of_parts(
        build, wanted, lambda name: encode_part(build, shards, name, wanted[name], autoencoder)
    )


def encode_part(build: Build, shards: Artifact, name: str, origin: str, autoencoder: str) -> Part:
    """Encode the accepted samples of one shard."""
    space, stored = space_of(build.root, autoencoder), build.plan.parameters["stored"]
    keys, images = [], []
    for key, data in read_images(shards, name):
        keys.append(key)
        images.append(decode(data))
    latents = []
    for start in range(0, len(images), BATCH):
        latents.append(space.encode(images[start : start + BATCH], stored))
    raw = np.concatenate(latents)
    return build.write_part(
        name, origin, lambda scratch: (write_latents(scratch, name, keys, raw), {})
    )
