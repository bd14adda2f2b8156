"""weights + any database + a request -> images, each with its neighbors, scores, licences and seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flows.artifacts import show_image
from flows.config import SampleRDM
from flows.opening import OpenDatabase, OpenRun, open_database, open_run
from flows.progress import Clock, bar, say
from flows.stage import building, kept, published, single_part, stage_flow, stage_task, whole
from rdm_core.errors import RequestError
from rdm_core.generate import generate
from rdm_core.images import ImageRejected, decode, encode, grid, resize_shorter_side
from rdm_core.provenance import encode_png
from rdm_core.retrieve import STRATEGIES, Context, draw_pseudo_queries, neighbors_from_pool, neighbors_only, retrieval_counts
from storage.artifact import Artifact, Part, Plan, open_artifact
from storage.atomic import sha256_file
from storage.build import Build
from storage.neighbors import NO_ROW, read_neighbors
from storage.samples import GRID_FILE, write_samples

CELL_PIXELS = 96
"""Side of a picture in the contact sheet."""


@dataclass(frozen=True)
class Request:
    """What the denoiser is asked for: B contexts, and in words what each was looked up with."""

    queries: list[str]
    context: Context


@stage_flow("sample-rdm")
def sample_rdm(config: SampleRDM) -> Artifact:
    """Draw images from retrieved neighbors.

    text | image | class | nothing --> query --database--> context --denoiser--> images + who stood behind each
    """
    clock = Clock()
    with building(config.root, sample_plan(config)) as build:
        if build.finished:
            return kept(build)
        run = open_run(config.root, config.run)
        database = open_database(config.root, config.database or database_of(run), run) if needs_database(config) else None
        parts = draw_images(whole(build), config, whole(run), whole(database))
        drawn_from = database.embeddings.name if database else None
        samples = published(build, parts, clock, weights=run.artifact.name, database=drawn_from)
    show_image(config.name, samples.file(GRID_FILE), f"{samples.rows} samples of {config.run}, each beside its neighbors")
    return samples


def sample_plan(config: SampleRDM) -> Plan:
    """The request, the weights and the database; query images by their bytes, not by their path."""
    run = open_artifact(config.root, "runs", config.run)
    inputs = {"run": run.fingerprint}
    if needs_database(config):
        swapped = open_artifact(config.root, "embeddings", config.database).fingerprint if config.database else None
        inputs["database"] = swapped or run.inputs["database"]
    images = {"images": [sha256_file(checked_image(path)) for path in config.images]}
    return Plan("samples", config.name, config.parameters("run", "database", "images") | images, inputs)


@stage_task(name="draw-images")
def draw_images(build: Build, config: SampleRDM, run: OpenRun, database: OpenDatabase | None) -> list[Part]:
    """Retrieve, draw, and write images, table and contact sheet."""
    request = request_of(config, run, database)
    images = draw(run, request.context, config.seed, config.guidance_scale, config.steps)
    records = records_of(config, run, database, request)
    sheet = contact_sheet(images, records, database)
    pngs = [encode_png(image, record) for image, record in zip(images, records, strict=True)]
    return single_part(build, "samples", lambda scratch: (write_samples(scratch, pngs, records, encode(sheet, "png")), {}))


def needs_database(config: SampleRDM) -> bool:
    """Whether the request names a context that holds neighbors; a text alone never opens a database."""
    return config.context != "query"


def database_of(run: OpenRun) -> str:
    """The database a run was trained with, in the version it was trained with."""
    trained = run.facts["trained_on"]["database"]
    return f"{trained['name']}@{trained['id']}"


def request_of(config: SampleRDM, run: OpenRun, database: OpenDatabase | None) -> Request:
    """Look the queries up, `count` times each."""
    rng = np.random.default_rng(config.seed)
    opened = database.database if database else None
    if config.classes:
        assert opened is not None, "classes always have a database"
        texts = [name for name in config.classes for _ in range(config.count)]
        vectors, _ = run.encoder.encode_texts([f"An image of a {name}." for name in texts])
        return Request(texts, neighbors_from_pool(vectors, opened, config.k, config.pool, rng))
    if config.texts or config.images:
        names, vectors, norms = queries_of(config, run)
        repeated = np.repeat(np.arange(len(names)), config.count)
        strategy = STRATEGIES[config.context or "query+neighbors"]
        context = strategy(vectors[repeated], norms[repeated], opened, config.k)
        return Request([names[i] for i in repeated], context)
    assert database is not None, "pseudo-queries always have a database"
    return pseudo_request(config, run, database, rng)


def queries_of(config: SampleRDM, run: OpenRun) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, unit vectors [Q, D] and norms [Q] of the prompts or query images."""
    if config.texts:
        return list(config.texts), *run.encoder.encode_texts(config.texts)
    try:
        pixels = [decode(path.read_bytes()) for path in config.images]
    except ImageRejected as error:
        raise RequestError("images", f"a query image cannot be used ({error})", "Give another image.") from error
    return [path.name for path in config.images], *run.encoder.encode_images(pixels)


def pseudo_request(config: SampleRDM, run: OpenRun, database: OpenDatabase, rng: np.random.Generator) -> Request:
    """Nothing asked: pseudo-queries by how often the run's training set retrieved a row of this database.

    A database the run was not trained with has no such counts; then every row is as likely as any other.
    """
    rows = database.database.rows
    trained_here = run.facts["trained_on"]["database"]["fingerprint"] == database.embeddings.fingerprint
    counts = np.ones(rows, dtype=np.int64)
    if not trained_here:
        say("sample", config.name, "the run never searched this database: pseudo-queries are uniform, top_m is not used")
    else:
        table = run.facts["trained_on"]["neighbors"]
        _, neighbor_rows, _ = read_neighbors(open_artifact(config.root, "neighbors", f"{table['name']}@{table['id']}"))
        counts = retrieval_counts(neighbor_rows[:, : run.facts["k"]], rows)
    drawn = draw_pseudo_queries(counts, config.top_m if trained_here else 1.0, config.count, rng, config.weighted)
    vectors = database.database.vectors(drawn)
    keys = [credit["key"] for credit in database.credits(drawn.tolist())]
    return Request(keys, neighbors_only(vectors, np.ones(len(drawn), np.float32), database.database, config.k))


def draw(run: OpenRun, context: Context | None, seed: int, guidance_scale: float, steps: int, count: int = 0) -> np.ndarray:
    """Images uint8 [B, H, W, 3], image i from seed + i; `count` of them when there is no context."""
    total = len(context.rows) if context is not None else count
    with bar(total, "sample", "image") as shown:
        return generate(
            run.denoiser, run.process, run.space, context, list(range(seed, seed + total)),
            side=run.facts["latent_side"], steps=steps, guidance_scale=guidance_scale,
            progress=lambda done: shown.update(done - shown.n),
        )  # fmt: skip


def records_of(config: SampleRDM, run: OpenRun, database: OpenDatabase | None, request: Request) -> list[dict[str, Any]]:
    """One row an image: the sample table's columns."""
    present = sorted({int(row) for row in request.context.rows.ravel() if row != NO_ROW})
    credits = dict(zip(present, database.credits(present), strict=True)) if database else {}
    common = {
        "guidance_scale": config.guidance_scale,
        "steps": config.steps,
        "weights": run.artifact.fingerprint,
        "database": database.embeddings.fingerprint if database else None,
    }
    records = []
    for i, query in enumerate(request.queries):
        scored = zip(request.context.rows[i].tolist(), request.context.scores[i].tolist(), strict=True)
        near = [(credits[row], score) for row, score in scored if row != NO_ROW]
        records.append(
            {"file": f"{i:05d}.png", "query": query, "seed": config.seed + i, **common}
            | {"neighbor_keys": [credit["key"] for credit, _ in near], "neighbor_scores": [round(s, 5) for _, s in near]}
            | {f"{field}s": [credit[field] for credit, _ in near] for field in ("licence", "author", "source_url")}
        )
    return records


def contact_sheet(images: Sequence[np.ndarray], records: Sequence[dict[str, Any]], database: OpenDatabase | None) -> np.ndarray:
    """One line an image: the sample, a gap, then the neighbors it was drawn from, nearest first."""
    wanted = {key for record in records for key in record["neighbor_keys"]}
    found = database.images(sorted(wanted)) if database else {}
    pictures = {key: cell(decode(data)) for key, data in found.items()}
    white = np.full((CELL_PIXELS, CELL_PIXELS, 3), 255, dtype=np.uint8)
    most = max(len(record["neighbor_keys"]) for record in records)
    lines = []
    for image, record in zip(images, records, strict=True):
        neighbors = [pictures.get(key, white) for key in record["neighbor_keys"]]
        lines += [cell(image), white[:, : CELL_PIXELS // 4], *neighbors, *[white] * (most - len(neighbors))]
    return grid(lines, columns=2 + most)


def cell(image: np.ndarray) -> np.ndarray:
    """The picture at the contact sheet's size; small ones are magnified without smoothing."""
    if image.shape[0] < CELL_PIXELS and CELL_PIXELS % image.shape[0] == 0:
        times = CELL_PIXELS // image.shape[0]
        return image.repeat(times, axis=0).repeat(times, axis=1)
    return resize_shorter_side(image, CELL_PIXELS)


def checked_image(path: Path) -> Path:
    """The path of a query image. Raises RequestError when there is no such file."""
    if not path.is_file():
        raise RequestError(path, "no such query image", "Give the path of an image file.")
    return path
