"""embeddings x database -> neighbor table."""

import numpy as np
from prefect import flow

from flows.config import FindNeighbors
from flows.progress import Clock
from flows.stage import groups, in_order, kept, published, stage_task, write_parts
from rdm_core.search import search_neighbors
from storage.artifact import Artifact, Build, Part, Plan, begin, open_artifact
from storage.checks import same_encoder
from storage.embeddings import read_columns, read_vectors
from storage.index import open_index_of, open_vectors
from storage.neighbors import NO_ROW, write_neighbors


@flow(name="find-neighbors")
def find_neighbors(config: FindNeighbors) -> Artifact:
    """For every query its k nearest database rows, exactly, none of them cut from the query's own image.

    queries [Q, D] x database [N, D] --> rows, keys, scores [Q, K]
    """
    clock = Clock()
    queries = open_artifact(config.root, "embeddings", config.queries)
    database = open_artifact(config.root, "embeddings", config.database)
    index = open_index_of(config.root, database)
    same_encoder(queries, database)
    inputs = {"queries": queries.fingerprint, "database": database.fingerprint}
    parameters = {"k": config.k, "queries_per_part": config.queries_per_part, "exclusion": "source_key", "search": "exact"}
    build = begin(config.root, Plan("neighbors", config.name, parameters, inputs))
    if build.finished:
        return kept(build)
    starts = range(0, queries.rows, config.queries_per_part)
    names = groups([f"{i:05d}" for i in range(len(starts))])
    parts = in_order(build, names, lambda group: search_group(build, queries, database, index, group))
    return published(build, parts, clock)


@stage_task(name="search-parts")
def search_group(build: Build, queries: Artifact, database: Artifact, index: Artifact, names: list[str]) -> list[Part]:
    """The parts of one task run."""
    columns = read_columns(database, ["key", "source_key"])
    keys, sources = (np.asarray(columns[name].to_pylist(), dtype=object) for name in ("key", "source_key"))
    query_vectors, _ = read_vectors(queries)
    query_columns = read_columns(queries, ["key", "source_key"])
    query_keys = query_columns["key"].to_pylist()
    query_sources = np.asarray(query_columns["source_key"].to_pylist(), dtype=object)
    per_part, k = build.plan.parameters["queries_per_part"], build.plan.parameters["k"]
    vectors = open_vectors(index)

    def work(name: str) -> Part:
        piece = slice(int(name) * per_part, (int(name) + 1) * per_part)
        rows, scores = search_neighbors(query_vectors[piece], query_sources[piece], vectors, sources, k)
        counts = {"lists shorter than k": int((rows[:, -1] == NO_ROW).sum())}
        return build.write_part(
            name, lambda scratch: (write_neighbors(scratch, name, query_keys[piece], keys, rows, scores), counts)
        )

    return write_parts(build, names, work)
