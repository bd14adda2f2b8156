"""shards -> embeddings -> index: a database that answers which images are nearest to this one."""

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from flows.config.database import BuildDatabase
from flows.data.embeddable import refuse_if_removed_meanwhile, refuse_without_captions
from flows.data.encoders import encoder_of
from flows.run.progress import Clock, say
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
    single_part,
    stage_flow,
    stage_task,
)
from flows.run.workers import a_device_each
from rdm_core.clip import Encoder, batches_of, even_batches, joined
from rdm_core.device import best_device, fastest_precision
from rdm_core.documents import Vectors, caption_vectors, document_vectors
from rdm_core.preparation import decode_stored
from rdm_core.search import (
    NO_ROW,
    Searcher,
    build_index,
    measured_setting,
    recall_at_k,
    search_exact,
    tune_index,
)
from storage.arrays import open_array
from storage.artifact import Artifact, open_artifact
from storage.atomic import write_json
from storage.build import Build
from storage.embeddings import read_columns, vector_parts, without_keys, write_embeddings
from storage.errors import StorageError
from storage.index import (
    FAISS_FILE,
    VECTORS_FILE,
    faiss_file,
    open_means,
    open_vectors,
    write_vectors,
)
from storage.manifest import Part, Plan, made_from, read_plan
from storage.removals import read_removals, removal_parameters, removed_from_shard
from storage.shards import accepted, read_images, read_sidecar
from storage.unfinished import unfinished

EXACT_UP_TO_ROWS = 100_000
SHARDS_A_STREAM = 4
"""Shards that are embedded by one task run, at least: between two of them no device waits."""
CAPTIONS_FOR_A_MEAN = 2_000
"""More captions would hardly change their mean, and each must be embedded."""
TUNED_ON, JUDGED_ON = 1, 0
"""Seeds of the rows that an index is set with, and of those that it is judged on."""
CURVE_FILE = ".build/curve.json"
"""What tuning measured, until it is in the manifest."""


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
    - Read by the index, neighbor tables, trainings, sampling for credits, the report, and by
      `rdm search`, `map`, `compare`, `duplicates`.
    - Rebuilt when the shards, the encoder, its precision, what is embedded of an image (`of`) or
      the removal list is another one.
    - Resumes by the part: one a shard.
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


def encoder_for(config: BuildDatabase) -> Encoder:
    """The encoder in the precision that a database is embedded in."""
    return encoder_of(config.encoder, config.weights, precision_for(config))


def precision_for(config: BuildDatabase) -> str:
    """The precision asked for; auto: that of the database's last version or unfinished build, so
    that no other machine embeds it anew, and for a new name what this machine is fastest with.
    Captions alone are embedded in float32, as every text is.
    """
    if config.of == "text":
        return "float32"
    if config.precision != "auto":
        return config.precision
    earlier = []
    with suppress(StorageError):
        earlier.append(open_artifact(config.root, "embeddings", config.name).parameters)
    for directory in unfinished(config.root, "embeddings", config.name):
        plan = read_plan(directory)
        if plan:
            earlier.append(plan.parameters)
    for parameters in earlier:
        # Of captions alone the precision is float32, which says nothing about images.
        if parameters.get("of") != "text" and parameters.get("precision"):
            return str(parameters["precision"])
    return fastest_precision(str(best_device()))


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


@stage_flow("index-embeddings")
def index_embeddings(
    config: BuildDatabase, embeddings: Artifact, replaced: Artifact | None = None
) -> Artifact:
    """Make embeddings searchable, and measure how well.

    embeddings --> one memory-mapped matrix, an autofaiss index if large --check--> recall@k

    - In `index`: the vectors as one array, their norms, the means of images and captions, and
      `index.faiss` where search is approximate.
    - Made after the embeddings by whoever makes those; again by `rdm remove`.
    - Read by `rdm search`, `map` and `duplicates`, neighbor tables, sampling, trainings,
      evaluations and the report.
    - Rebuilt when the embeddings or the recipe is another one, and where autofaiss builds it, the
      recall or the memory asked for.
    - Resumes not at all: it is written in one piece.

    The mean of the captions is that of the index it replaces, if one is given: then no encoder is
    needed.
    """
    clock = Clock()
    with building(config.root, index_plan(config, embeddings)) as build:
        if build.finished:
            return kept(build)
        parts = write_index(build, embeddings, config, replaced)
        return published(build, parts, clock, **measured_of(build, config))


@index_embeddings.plan
def index_plan(
    config: BuildDatabase, embeddings: Artifact, replaced: Artifact | None = None
) -> Plan:
    """The recipe, and the embeddings it is applied to."""
    exact = config.recipe == "exact" or (
        config.recipe == "auto" and embeddings.rows <= EXACT_UP_TO_ROWS
    )
    approximate = {
        "recipe": "autofaiss",
        "memory": config.index_memory,
        "recall_target": config.recall_target,
    }
    recipe: dict[str, Any] = {"recipe": "exact"} if exact else approximate
    encoder = {"encoder": embeddings.parameters["encoder"]}
    return plan_of("index", config.name, encoder | recipe, {"embeddings": embeddings.fingerprint})


@stage_task(name="write-index")
def write_index(
    build: Build, embeddings: Artifact, config: BuildDatabase, replaced: Artifact | None
) -> list[Part]:
    """The only part: the matrix, its norms and, when asked for, the faiss file."""

    def write(scratch: Path) -> tuple[int, dict[str, int]]:
        text_mean = open_means(replaced)[1] if replaced else mean_of_captions(embeddings, config)
        rows = write_vectors(scratch, vector_parts(embeddings), embeddings.rows, text_mean)
        if build.plan.parameters["recipe"] == "autofaiss":
            vectors = open_array(scratch / VECTORS_FILE)
            # The index is built first, then its effort is set to the least that has the recall.
            recipe = build_index(vectors, scratch / FAISS_FILE, config.index_memory)
            curve = tune_index(
                scratch / FAISS_FILE,
                *recall_queries(vectors, config, TUNED_ON),
                config.recall_target,
            )
            settings = [asdict(setting) for setting in curve]
            write_json(build.file(CURVE_FILE), {"index": recipe, "curve": settings})
        return rows, {}

    return single_part(build, "index", write)


def mean_of_captions(embeddings: Artifact, config: BuildDatabase) -> np.ndarray:
    """Mean unit vector [D] of at most CAPTIONS_FOR_A_MEAN captions, evenly spread over the rows;
    zeros without captions.
    """
    captions = []
    for texts in read_columns(embeddings, ["captions"])["captions"].to_pylist():
        if texts:
            captions.append(texts[0])
    if not captions:
        return np.zeros(embeddings.parameters["encoder"]["dimension"], np.float32)
    count = min(len(captions), CAPTIONS_FOR_A_MEAN)
    spread = np.linspace(0, len(captions) - 1, count).round().astype(int)
    vectors, _ = encoder_for(config).encode_texts([captions[place] for place in spread])
    return vectors.mean(axis=0)


def recall_queries(
    vectors: np.ndarray, config: BuildDatabase, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """A seeded draw of the database's own rows [Q, D], and the nearest rows of each [Q, K] by exact
    search but itself, which every index finds.
    """
    drawn = np.random.default_rng(seed).choice(
        len(vectors), min(config.recall_queries, len(vectors)), replace=False
    )
    picks = np.sort(drawn)
    queries = np.asarray(vectors[picks], dtype=np.float32)
    # One more than wanted, as each row finds itself first.
    rows, _ = search_exact(queries, vectors, min(config.recall_k + 1, len(vectors)))
    return queries, np.where(rows == picks[:, None], NO_ROW, rows)


def measured_of(build: Build, config: BuildDatabase) -> dict[str, object]:
    """Recall@k of the written index against exact search, on a seeded draw of its own rows, and the
    time it took.

    The queries are other rows than those that the effort was tuned with. (For a text fewer may be
    found: its neighbors lie further off than an image's.) An approximate index is also compared
    with its targets, and a missed one is said; the record holds the curve that tuning measured, if
    this run tuned it.
    """
    vectors = open_vectors(build)
    # Recall against exact search, and the time of a query.
    queries, exact = recall_queries(vectors, config, JUDGED_ON)
    searcher, clock = Searcher(vectors, faiss_file(build)), Clock()
    rows, _ = searcher.search(queries, exact.shape[1])
    milliseconds = 1000 * clock.seconds / len(queries)
    measured: dict[str, object] = {
        "recall_at_k": round(recall_at_k(rows, exact), 4), "k": min(config.recall_k, len(vectors)),
        "recall_queries": len(queries), "milliseconds_per_query": round(milliseconds, 3),
    }  # fmt: skip
    if searcher.index is None:
        return measured
    # An approximate index is also held against its targets.
    written = measured_setting(searcher.index, "as written", queries, exact)
    met = (
        written.recall >= config.recall_target
        and written.p95_milliseconds <= config.latency_target_milliseconds
    )
    if not met:
        targets = (
            f"recall {written.recall} (asked: {config.recall_target}), "
            f"95 % of queries within {written.p95_milliseconds} ms "
            f"(asked: {config.latency_target_milliseconds}): "
            "not both targets are met; try recipe=exact"
        )
        say("index", config.name, targets)
    file = build.file(CURVE_FILE)
    curve = json.loads(file.read_bytes()) if file.is_file() else {}
    bytes_per_row = round(build.file(FAISS_FILE).stat().st_size / len(vectors), 1)
    latency = {
        "p50_milliseconds": written.p50_milliseconds,
        "p95_milliseconds": written.p95_milliseconds,
    }
    return measured | curve | latency | {"bytes_per_row": bytes_per_row, "targets_met": met}
