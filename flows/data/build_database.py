"""shards -> embeddings -> index: a database that answers which images are nearest to this one."""

from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import islice
from pathlib import Path
from typing import Any

from flows.config.database import BuildDatabase
from flows.data.embeddable import refuse_if_removed_meanwhile, refuse_without_captions
from flows.data.encoders import encoder_for, encoder_of
from flows.data.index_embeddings import index_embeddings
from flows.run.progress import Clock
from flows.run.revisions import plan_of, revision_of
from flows.run.stage import (
    NETWORK_RETRIES,
    Wanted,
    building,
    gathered,
    group_in_one_go,
    groups,
    kept,
    only,
    published,
    stage_flow,
    stage_task,
)
from flows.run.workers import a_device_each
from rdm_core.clip import Encoder, batches_of, even_batches, joined
from rdm_core.documents import Vectors, caption_vectors, document_vectors
from rdm_core.preparation import decode_stored
from storage.artifact import Artifact, open_artifact
from storage.build import Build
from storage.embeddings import without_keys, write_embeddings
from storage.manifest import Part, Plan, made_from
from storage.removals import read_removals, removal_parameters, removed_from_shard
from storage.shards import accepted, read_images, read_sidecar

SHARDS_A_STREAM = 4
"""Shards that are embedded by one task run, at least: between two of them no device waits."""


@stage_flow("build-database")
def build_database(config: BuildDatabase) -> tuple[Artifact, Artifact]:
    """shards --embed--> embeddings --index--> index --check--> recall@k."""
    return ensured_database(config)


def ensured_database(config: BuildDatabase) -> tuple[Artifact, Artifact]:
    """The embeddings and the index, from inside another flow."""
    embeddings = embed_images.ensured(config)
    return embeddings, index_embeddings.ensured(config, embeddings)


@stage_flow("embed-images")
def embed_images(config: BuildDatabase) -> Artifact:
    """Embed what shards hold: images, their captions, or both together.

    shards --encoder--> unit vectors and norms, row order = index id

    - In `embeddings`: Parquet, a unit vector and its norm a row, with the columns of the sidecar
      that an analyst filters on.
    - Made by `rdm build` and `rdm embed`, by a rebuild, by a training that does not find them;
      again by `rdm remove`; and by `rdm convert` of embedding archives.
    - Read by the index, neighbor tables, trainings, sampling for credits, evaluations, the
      report, and by `rdm search`, `map`, `compare`, `duplicates`.
    - Rebuilt when one of these changes: the shards (or the converted archives), the encoder, its
      precision, what is embedded of an image (`of`), the removal list.
    - Resumes by the part: one for each shard, or archive.
    """
    clock = Clock()
    shards = open_artifact(config.root, "shards", config.shards)
    # Read once: the list decides which rows are embedded, and at the end it must still be the same.
    removed = read_removals(config.root, config.name)
    if config.of != "image":
        refuse_without_captions(config, shards, removed)
    encoder = load_weights(config)
    with building(config.root, embedding_plan(config, shards)) as build:
        if build.finished:
            return kept(build)
        # Each part's origin is a hash; a part with the origin of an earlier build is taken over.
        how = embedded_how(config)
        wanted = {part.name: origin_of(how, shards, part, removed) for part in shards.parts}
        # On a cluster each task run takes a GPU of its own.
        with a_device_each():
            futures = []
            for group in groups(wanted, at_least=SHARDS_A_STREAM):
                shards_of_group = only(shards, group)
                futures.append(embed_group.submit(build, shards_of_group, group, config, removed))
        parts = gathered(build, futures)
        refuse_if_removed_meanwhile(config, removed)
        return published(build, parts, clock, weights=config.weights, device=str(encoder.device))


@embed_images.plan
def embedding_plan(config: BuildDatabase, shards: Artifact | None = None) -> Plan:
    """The encoder and its precision, what is embedded, the shards, and the keys that were taken
    out for good.
    """
    shards = shards or open_artifact(config.root, "shards", config.shards)
    removed = removal_parameters(read_removals(config.root, config.name))
    return plan_of(
        "embeddings", config.name, embedded_how(config) | removed, {"shards": shards.fingerprint}
    )


def embedded_how(config: BuildDatabase) -> dict[str, Any]:
    """The encoder, the precision asked for or found to be this machine's fastest, what is embedded,
    and the stage's revision.

    The precision is no part of the encoder's identity: databases of one encoder are searched
    together, whatever embedded them.
    """
    encoder = encoder_for(config)
    how = {"encoder": encoder.identity, "precision": encoder.precision, "of": config.of}
    return how | revision_of("embeddings")


@stage_task(name="load-encoder", retries=NETWORK_RETRIES)
def load_weights(config: BuildDatabase) -> Encoder:
    """The encoder, from the hub the first time."""
    return encoder_for(config)


def origin_of(how: Mapping[str, Any], shards: Artifact, shard: Part, removed: Set[str]) -> str:
    """What the embeddings of a shard are made from: `embedded_how`, the shard's bytes, and its
    samples on the removal list.
    """
    # A shard that holds no removed key keeps the origin it had before there was a list.
    gone = removed_from_shard(shards, shard.name, removed)
    of_all = made_from(how, shard.content)
    return made_from(of_all, gone) if gone else of_all


@stage_task(name="embed-parts", retries=NETWORK_RETRIES)
def embed_group(
    build: Build, shards: Artifact, wanted: Wanted, config: BuildDatabase, removed: Set[str]
) -> list[Part]:
    """The parts of one task run."""
    return group_in_one_go(
        build, wanted, lambda names: embed_parts(build, shards, names, wanted, config, removed)
    )


def embed_parts(
    build: Build,
    shards: Artifact,
    names: Sequence[str],
    wanted: Wanted,
    config: BuildDatabase,
    removed: Set[str],
) -> Iterator[Part]:
    """Embed the accepted samples of some shards that are not on the removal list, in one stream.

    The next shard is read while this one is embedded, and each part is written when its last vector
    has come. Batches end with their shard, evenly: so a part's vectors are the same to the last
    bit, whatever is embedded before and after it.
    """
    encoder = encoder_of(config.encoder, config.weights, build.plan.parameters["precision"])
    of = build.plan.parameters["of"]
    gone = {name: set(removed_from_shard(shards, name, removed)) for name in names}

    def sidecar_of(name: str) -> Any:
        return without_keys(accepted(read_sidecar(shards, name)), gone[name])

    def images_of(name: str) -> Iterator[bytes]:
        for key, data in read_images(shards, name):
            if key not in gone[name]:
                yield data

    def batches() -> Iterator[list[bytes]]:
        for name in names:
            yield from even_batches(images_of(name), len(sidecar_of(name)))

    embedded = encoder.encode_stream(batches(), decode_stored)  # nothing is read before the first
    for name in names:
        # Takes from the stream as many batches as this shard has.
        sidecar = sidecar_of(name)
        part = (name, sidecar, *vectors_of(of, encoder, sidecar, embedded), of)

        def write(scratch: Path, part: tuple[Any, ...] = part) -> tuple[int, dict[str, int]]:
            return write_embeddings(scratch, *part), {}

        yield build.write_part(name, wanted[name], write)


def vectors_of(of: str, encoder: Encoder, sidecar: Any, embedded: Iterator[Vectors]) -> Vectors:
    """Vectors [N, D] and norms [N] of N sidecar rows: of the images, whose batches are the next
    that are `embedded`, of the captions, or of both.
    """
    # Captions alone: no picture is decoded, and the stream of images is never started.
    if of == "text":
        return caption_vectors(encoder, sidecar["captions"].to_pylist())
    images = joined(islice(embedded, batches_of(len(sidecar))), encoder.dimension)
    if of == "image":
        return images
    return document_vectors(images, caption_vectors(encoder, sidecar["captions"].to_pylist()))
