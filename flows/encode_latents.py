"""shards -> latents: what the denoiser is trained on, encoded once."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from prefect import flow

from flows.config import EncodeLatents
from flows.progress import Clock
from flows.stage import groups, in_order, kept, published, stage_task, write_parts
from rdm_core.device import best_device
from rdm_core.images import decode
from rdm_core.latents import PIXELS, LatentSpace, load_latent_space
from storage.artifact import Artifact, Build, Part, Plan, begin, open_artifact
from storage.errors import StorageError
from storage.latents import write_latents
from storage.shards import read_images

BATCH = 64


@flow(name="encode-latents")
def encode_latents(config: EncodeLatents) -> Artifact:
    """shards --autoencoder--> raw latents: pixels as they are, or the moments of the posterior."""
    clock = Clock()
    shards = open_artifact(config.root, "shards", config.shards)
    space = space_of(config.autoencoder)
    build = begin(config.root, Plan("latents", config.name, {"space": space.identity}, {"shards": shards.fingerprint}))
    if build.finished:
        return kept(build)
    # A shard whose images were all rejected has nothing to train on.
    names = groups([part.name for part in shards.parts if part.counts.get("ok")])
    if not names:
        raise StorageError(shards.directory, "holds no accepted image", "Look at its rejects: rdm show shards/" + shards.name)
    parts = in_order(build, names, lambda group: encode_group(build, shards, group, config.autoencoder))
    return published(build, parts, clock, autoencoder_path=absolute(config.autoencoder))


@stage_task(name="encode-parts")
def encode_group(build: Build, shards: Artifact, names: list[str], autoencoder: str) -> list[Part]:
    """The parts of one task run."""
    space = space_of(autoencoder)
    return write_parts(build, names, lambda name: encode_part(build, shards, name, space))


def encode_part(build: Build, shards: Artifact, name: str, space: LatentSpace) -> Part:
    """Encode the accepted samples of one shard."""
    samples = [(key, decode(data)) for key, data in read_images(shards, name)]
    keys, images = [key for key, _ in samples], [image for _, image in samples]
    raw = np.concatenate([space.encode(images[start : start + BATCH]) for start in range(0, len(images), BATCH)])
    return build.write_part(name, lambda scratch: (write_latents(scratch, name, keys, raw), {}))


def absolute(autoencoder: str) -> str:
    """A local folder by its absolute path, so that it is found from any directory; anything else as it is."""
    return str(Path(autoencoder).resolve()) if autoencoder != PIXELS and Path(autoencoder).exists() else autoencoder


@lru_cache(maxsize=1)
def space_of(autoencoder: str) -> LatentSpace:
    """The latent space, loaded once a process."""
    return load_latent_space(autoencoder).to(best_device())
