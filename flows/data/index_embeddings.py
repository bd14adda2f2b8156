"""embeddings -> index: vectors that can be searched, with their recall measured."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from flows.config.database import BuildDatabase
from flows.data.encoders import encoder_for
from flows.run.progress import Clock, say
from flows.run.revisions import plan_of
from flows.run.stage import (
    building,
    kept,
    published,
    single_part,
    stage_flow,
    stage_task,
)
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
from storage.artifact import Artifact
from storage.atomic import write_json
from storage.build import Build
from storage.embeddings import read_columns, vector_parts
from storage.index import (
    FAISS_FILE,
    VECTORS_FILE,
    faiss_file,
    open_means,
    open_vectors,
    write_vectors,
)
from storage.manifest import Part, Plan

EXACT_UP_TO_ROWS = 100_000
CAPTIONS_FOR_A_MEAN = 2_000
"""More captions would hardly change their mean, and each must be embedded."""
TUNED_ON, JUDGED_ON = 1, 0
"""Seeds of the rows that an index is set with, and of those that it is judged on."""
CURVE_FILE = ".build/curve.json"
"""What tuning measured, until it is in the manifest."""


@stage_flow("index-embeddings")
def index_embeddings(
    config: BuildDatabase, embeddings: Artifact, replaced: Artifact | None = None
) -> Artifact:
    """Make embeddings searchable, and measure how well.

    embeddings --> one memory-mapped matrix, an autofaiss index if large --check--> recall@k

    - In `index`: the vectors as one array, their norms, the means of images and captions, and
      `index.faiss` where search is approximate.
    - Made by `rdm build`, by a rebuild, by a training whose database has none, by `rdm convert` of
      archives; again by `rdm remove`. `rdm embed` makes none.
    - Read by `rdm search`, `map` and `duplicates`, neighbor tables, sampling, trainings,
      evaluations and the report.
    - Rebuilt when the embeddings or the recipe change; one of autofaiss also when another recall or
      memory is asked for.
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
