"""embeddings x database -> neighbor table."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from flows.config.database import FindNeighbors
from flows.data.calibration import calibrated_cap_of, doubt_of
from flows.data.database import captions_of, keys_of, searchable, searched_by, word_index
from flows.run.progress import Clock, say
from flows.run.revisions import plan_of
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
from rdm_core.neighbors import LookUp, search_neighbors, taken_in_turns
from rdm_core.search import held
from rdm_core.words import query_of
from storage.arrays import open_array
from storage.artifact import Artifact, open_artifact
from storage.build import Build
from storage.checks import same_encoder
from storage.conditions import satisfying
from storage.embeddings import read_vectors
from storage.errors import StorageError
from storage.index import VECTORS_FILE, open_index_of
from storage.manifest import Part, Plan, made_from
from storage.neighbors import NO_ROW, write_neighbors


@stage_flow("find-neighbors")
def find_neighbors(config: FindNeighbors) -> Artifact:
    """For every query its k nearest database rows, exactly, none of them cut from the query's own
    image.

    queries [Q, D] x database [N, D] --> rows, keys, scores [Q, K]

    - In `neighbors`: Parquet, a row a query: rows, keys and falling scores of its neighbors.
    - Made by `rdm neighbors`, by a rebuild, by a training that does not find them; again by
      `rdm remove`.
    - Read by trainings, evaluations, and by sampling without a prompt.
    - Rebuilt when the queries, the database, k, or which rows are neighbors changes.
    - Resumes by the part of the queries.
    """
    clock = Clock()
    queries = open_artifact(config.root, "embeddings", config.queries)
    database = open_artifact(config.root, "embeddings", config.database)
    index = open_index_of(config.root, database)
    # Cosines between vectors of two encoders mean nothing.
    same_encoder(queries, database)
    if config.search == "words":
        for side in (queries, database):
            refuse_without_captions(side)
    with building(
        config.root, neighbors_plan(config, {"queries": queries, "database": database})
    ) as build:
        if build.finished:
            return kept(build)
        # A part whose images were all rejected or removed asks for nothing.
        parts = [part for part in queries.parts if part.rows]
        if not parts:
            cure = "Import images that can be read, then embed again."
            raise StorageError(queries.directory, "holds no embedding", cure)
        wanted = {}
        for part in parts:
            wanted[part.name] = made_from(build.plan.parameters, database.fingerprint, part.content)
        futures = []
        for group in groups(wanted):
            queries_of_group = only(queries, group)
            futures.append(search_group.submit(build, queries_of_group, database, index, group))
        return published(build, gathered(build, futures), clock)


@find_neighbors.plan
def neighbors_plan(config: FindNeighbors, opened: Mapping[str, Artifact] | None = None) -> Plan:
    """k, and the embeddings on both sides."""
    opened = opened or {
        "queries": open_artifact(config.root, "embeddings", config.queries),
        "database": open_artifact(config.root, "embeddings", config.database),
    }
    inputs = {role: artifact.fingerprint for role, artifact in opened.items()}
    how = "words" if config.search == "words" else "exact"
    parameters: dict[str, object] = {"k": config.k, "exclusion": "source_key", "search": how}
    # A parameter at its default is left out, so that the plans of old tables stay as they are.
    if config.group:
        parameters["group"] = config.group
    if config.within:
        parameters["within"] = config.within
    if config.in_turns:
        parameters["in_turns"] = True
    if config.where is not None:
        allowed = satisfying(opened["database"], config.where)
        parameters |= {"where": config.where, "where_rows": int(allowed.sum())}
    if config.query_word_dropout:
        parameters["query_word_dropout"] = config.query_word_dropout
    if config.most_alike < 1:
        parameters["most_alike"] = config.most_alike
    if config.score_cap == "calibrated":
        cap = _calibrated(config.root, opened["database"].reference)
    else:
        cap = config.score_cap
    if cap < 1:
        parameters["score_cap"] = cap
    return plan_of("neighbors", config.name, parameters, inputs)


def refuse_without_captions(embeddings: Artifact) -> None:
    """Raise StorageError where no row has a caption, and words are to be looked up."""
    if not any(captions_of(embeddings)):
        what = "none of its images has a caption, and search=words looks up the words of captions"
        cure = "Import images with captions, or use --set search=vectors."
        raise StorageError(f"embeddings/{embeddings.name}", what, cure)


@lru_cache(maxsize=1)
def _calibrated(root: Path, reference: str) -> float:
    """The calibrated cap to two digits: other last bits on another machine must not lead to another
    table. It is rounded down: a cap of 1 would leave nothing out.
    """
    database = open_artifact(root, *reference.split("/"))
    cap, images = calibrated_cap_of(searchable(root, database))
    rounded = math.floor(100 * cap.cosine) / 100
    message = f"near-duplicates above {rounded:.2f}, calibrated with {images} images"
    say("neighbors", database.name, message)
    doubt = doubt_of(cap, images)
    if doubt:
        say("neighbors", database.name, f"doubt this cap: {doubt}")
    return rounded


@stage_task(name="search-parts", retries=NETWORK_RETRIES)
def search_group(
    build: Build, queries: Artifact, database: Artifact, index: Artifact, wanted: Wanted
) -> list[Part]:
    """The parts of one task run."""
    return group_of_parts(
        build, wanted, lambda name: search_part(build, queries, database, index, name, wanted[name])
    )


def search_part(
    build: Build, queries: Artifact, database: Artifact, index: Artifact, name: str, origin: str
) -> Part:
    """The nearest database rows of one part of the queries."""
    queries, parameters = only(queries, [name]), build.plan.parameters
    # Rows that share a value of one of these columns with the query are no neighbors of it.
    columns = ("source_key", parameters["group"]) if "group" in parameters else ("source_key",)
    database_keys, database_groups = keys_of(database, columns)
    keys, groups = keys_of(queries, columns)
    vectors, _ = read_vectors(queries)
    within = None
    if "within" in parameters:
        column = (parameters["within"],)
        within = (keys_of(queries, column)[1][:, 0], keys_of(database, column)[1][:, 0])
    candidates = allowed = None
    if "where" in parameters:
        allowed = satisfying(database, parameters["where"])
        candidates = np.flatnonzero(allowed)
    cap = parameters.get("score_cap", 1.0)
    search, looked_up, counts = searched_by(build.plan), None, {}
    if search == "words":
        captions = captions_of(queries)
        looked_up = by_words(database, captions, keys.tolist(), parameters, allowed)
        counts["queries without a caption"] = sum(not of_query for of_query in captions)
    matrix = _matrix(index.file(VECTORS_FILE))

    def nearest(within: tuple[np.ndarray, np.ndarray] | None) -> tuple[np.ndarray, np.ndarray]:
        return search_neighbors(
            vectors, groups, matrix, database_groups, parameters["k"], cap,
            parameters.get("most_alike", 1.0), looked_up, within,
            candidates,
        )  # fmt: skip

    rows, scores = nearest(within)
    if parameters.get("in_turns"):
        rows, scores = taken_in_turns(nearest(None), (rows, scores))
    counts["lists shorter than k"] = int((rows[:, -1] == NO_ROW).sum())

    def write(scratch: Path) -> tuple[int, dict[str, int]]:
        found = (database_keys, rows, scores, search)
        return write_neighbors(scratch, name, keys.tolist(), *found), counts

    return build.write_part(name, origin, write)


def by_words(
    database: Artifact,
    captions: Sequence[Sequence[str]],
    keys: Sequence[str],
    parameters: Mapping[str, Any],
    allowed: np.ndarray | None = None,
) -> LookUp:
    """Looks up some of the queries by the words of their first captions, among rows of the database
    that are allowed, bool [N], or all.
    """
    index = word_index(database)
    dropout = parameters.get("query_word_dropout", 0.0)
    queries = []
    for of_query, key in zip(captions, keys, strict=True):
        queries.append(query_of(of_query[0] if of_query else "", dropout, key))

    def look_up(places: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        return index.search([queries[place] for place in places.tolist()], count, allowed)

    return look_up


@lru_cache(maxsize=1)
def _matrix(path: Path) -> np.ndarray:
    return held(open_array(path))
