"""embeddings x database -> neighbor table."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from flows.config import FindNeighbors
from flows.progress import Clock
from flows.stage import (
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
    whole,
)
from rdm_core.search import search_neighbors
from storage.artifact import Artifact, Part, Plan, made_from, open_artifact
from storage.build import Build
from storage.checks import same_encoder
from storage.embeddings import read_columns_of, read_vectors
from storage.index import open_index_of, open_vectors
from storage.neighbors import NO_ROW, write_neighbors


@stage_flow("find-neighbors")
def find_neighbors(config: FindNeighbors) -> Artifact:
    """For every query its k nearest database rows, exactly, none of them cut from the query's own image.

    queries [Q, D] x database [N, D] --> rows, keys, scores [Q, K]
    """
    clock = Clock()
    queries = open_artifact(config.root, "embeddings", config.queries)
    database = open_artifact(config.root, "embeddings", config.database)
    index = open_index_of(config.root, database)
    same_encoder(queries, database)
    with building(config.root, neighbors_plan(config, {"queries": queries, "database": database})) as build:
        if build.finished:
            return kept(build)
        wanted = {part.name: made_from(build.plan.parameters, database.fingerprint, part.content) for part in queries.parts}
        futures = [
            search_group.submit(whole(build), whole(only(queries, group)), whole(database), whole(index), group)
            for group in groups(wanted)
        ]
        return published(build, gathered(build, futures), clock)


def neighbors_plan(config: FindNeighbors, opened: Mapping[str, Artifact] | None = None) -> Plan:
    """k, and the embeddings on both sides."""
    references = {"queries": config.queries, "database": config.database}
    opened = opened or {role: open_artifact(config.root, "embeddings", name) for role, name in references.items()}
    inputs = {role: artifact.fingerprint for role, artifact in opened.items()}
    return Plan("neighbors", config.name, {"k": config.k, "exclusion": "source_key", "search": "exact"}, inputs)


@stage_task(name="search-parts", **NETWORK_RETRIES)
def search_group(build: Build, queries: Artifact, database: Artifact, index: Artifact, wanted: Wanted) -> list[Part]:
    """The parts of one task run."""
    return group_of_parts(build, wanted, lambda name: search_part(build, queries, database, index, name, wanted[name]))


def search_part(build: Build, queries: Artifact, database: Artifact, index: Artifact, name: str, origin: str) -> Part:
    """The nearest database rows of one part of the queries."""
    asked = only(queries, [name])
    database_keys, database_sources = keys_of(database)
    keys, sources = keys_of(asked)
    vectors, _ = read_vectors(asked)
    rows, scores = search_neighbors(vectors, sources, open_vectors(index), database_sources, build.plan.parameters["k"])
    counts = {"lists shorter than k": int((rows[:, -1] == NO_ROW).sum())}
    return build.write_part(
        name, origin, lambda scratch: (write_neighbors(scratch, name, keys.tolist(), database_keys, rows, scores), counts)
    )


def keys_of(embeddings: Artifact) -> tuple[np.ndarray, np.ndarray]:
    """Keys and source keys of every row, read once a process while they are used."""
    paths = tuple(embeddings.files(".parquet"))
    return _keys_in(paths)


@lru_cache(maxsize=2)
def _keys_in(paths: tuple[Path, ...]) -> tuple[np.ndarray, np.ndarray]:
    columns = read_columns_of(paths, ["key", "source_key"])
    key, source_key = (np.asarray(columns[name].to_pylist(), dtype=object) for name in ("key", "source_key"))
    return key, source_key
