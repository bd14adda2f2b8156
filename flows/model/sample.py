"""weights + any database + a request -> images, each with its neighbors, scores, licences and
seed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flows.config.acquire import EMOJI_RUN
from flows.config.sample import SampleRDM
from flows.data.database import OpenDatabase, index_in_plan
from flows.data.query_image import checked_image
from flows.model.editing import differences, given_back, how_much, sheet_of_edits
from flows.model.licences import look_at_licences
from flows.model.opening import OpenRun, drawn_how, facts_of, open_database, open_run
from flows.model.request import Opened, Request, request_of, searched_by, vectors_in
from flows.model.writing import written
from flows.run.artifacts import show_image
from flows.run.progress import Clock, bar
from flows.run.revisions import plan_of
from flows.run.stage import building, kept, published, single_part, stage_flow, stage_task
from rdm_core.config import DrawConfig
from rdm_core.context import Context
from rdm_core.decode import decode
from rdm_core.errors import RequestError
from rdm_core.families import config_of
from rdm_core.families.facts import RunFacts
from rdm_core.families.family import Beside
from rdm_core.images import CELL_PIXELS, encode, fitted, grid
from rdm_core.provenance import encode_png
from rdm_core.retrieve import Retrieved
from storage.artifact import Artifact, open_artifact, with_fingerprint
from storage.atomic import sha256_file
from storage.build import Build
from storage.conditions import satisfying
from storage.errors import ArtifactMissing
from storage.manifest import Part, Plan
from storage.neighbors import NO_ROW
from storage.samples import GRID_FILE, write_samples

REFERENCES = ("run", "database", "weaker_run", "style_database")
"""Parameters that name an artifact: their fingerprints are the plan's inputs."""
FILES = ("images", "inpaint", "mask", "edit", "caption")
"""Parameters that name files: their bytes are the plan's parameters."""


@stage_flow("sample-rdm")
def sample_rdm(config: SampleRDM) -> Artifact:
    """Draw images from retrieved neighbors.

    text | image | class | nothing --query--> database --neighbors--> context
    context --model--> images + who stood behind each

    - In `samples`: PNGs, a contact sheet, and a table: query, seed, neighbors, scores, licences,
      authors, and the text where one was written of an image. Every PNG holds its own row. Of an
      image that was edited, a sheet of what changed.
    - Made by `rdm sample`, `rdm edit`, `rdm infill` and `rdm caption`, by trainings with a preview,
      and by the demo.
    - Read by the report, `rdm show`, and SQL.
    - Rebuilt when the request, the drawing settings, the weights or a database (its embeddings
      or its index) change.
    - Resumes not at all: it is drawn in one piece.
    """
    clock = Clock()
    with building(config.root, sample_plan(config)) as build:
        if build.finished:
            return kept(build)
        opened = open_all(config)
        parts, measured = draw_images(build, config, opened)
        drawn_from = opened.database.embeddings.name if opened.database else None
        samples = published(
            build, parts, clock, weights=opened.run.artifact.name, database=drawn_from, **measured
        )
    show_image(
        f"samples/{config.name}",
        samples.file(GRID_FILE),
        f"{samples.rows} samples of {config.run}, each beside its neighbors",
    )
    return samples


@sample_rdm.plan
def sample_plan(config: SampleRDM) -> Plan:
    """The request, the weights and the databases; the images of the request by their bytes, not by
    their paths.
    """
    root = config.root
    run = asked_run(config)
    inputs = {"run": run.fingerprint}
    if needs_database(config) and config.database:
        database = open_artifact(root, "embeddings", config.database)
        inputs["database"] = database.fingerprint
        inputs |= index_in_plan(root, "database_index", database)
    elif needs_database(config):
        inputs["database"] = known_database(run, run.inputs.get("database"))
        trained_with = with_fingerprint(root, "embeddings", inputs["database"])
        inputs |= index_in_plan(root, "database_index", trained_with)
    if config.weaker_run:
        inputs["weaker_run"] = open_artifact(root, "runs", config.weaker_run).fingerprint
    if config.style_database:
        style_database = open_artifact(root, "embeddings", config.style_database)
        inputs["style_database"] = style_database.fingerprint
        inputs |= index_in_plan(root, "style_database_index", style_database)
    files: dict[str, Any] = {"images": [sha256_file(checked_image(path)) for path in config.images]}
    for name in FILES[1:]:
        path = getattr(config, name)
        if path:
            files[name] = sha256_file(checked_image(path))
    facts = facts_of(run)
    how = checked_draw(config, facts).planned()
    parameters = config.parameters(*REFERENCES, *FILES, "draw") | files | {"draw": how}
    parameters["k"] = vectors_in(config, facts)
    # Plans of before there was a choice stay what they were.
    for name in ("template", "most_alike", "where", "refuse_licences"):
        if getattr(config, name) == SampleRDM.model_fields[name].default:
            del parameters[name]
    parameters |= condition_of(config, inputs)
    if searched_by(config, facts) == "vectors":
        del parameters["search"]
    else:
        parameters["search"] = "words"
        parameters["articles"] = "not looked up"  # they were once
    return plan_of("samples", config.name, parameters, inputs)


def asked_run(config: SampleRDM) -> Artifact:
    """The run of a request. Raises ArtifactMissing; of the run that is part of this package with
    the command that puts it under the root.
    """
    try:
        return open_artifact(config.root, "runs", config.run)
    except ArtifactMissing as error:
        if config.run != EMOJI_RUN:
            raise
        cure = "`rdm acquire emoji` puts it there, with databases to draw from."
        raise ArtifactMissing(error.where, error.what, cure) from error


def condition_of(config: SampleRDM, inputs: Mapping[str, str]) -> dict[str, Any]:
    """The condition on neighbors, and how many rows of each database satisfy it, as parameters of a
    plan; nothing where there is none.
    """
    if config.where is None:
        return {}
    parameters: dict[str, Any] = {"where": config.where}
    for role in ("database", "style_database"):
        embeddings = with_fingerprint(config.root, "embeddings", inputs.get(role, ""))
        if embeddings is not None:
            count = int(satisfying(embeddings, config.where).sum())
            parameters["where_rows" if role == "database" else f"{role}_where_rows"] = count
    return parameters


GIVEN = {
    "negative": "negative",
    "weaker_run": "weaker",
    "style_text": "style",
    "inpaint": "image",
    "mask": "mask",
    "edit": "picture",
}
"""Parameters of a request -> what a family is given of it: `rdm_core.families.family.Beside`."""


def checked_draw(config: SampleRDM, facts: RunFacts) -> DrawConfig:
    """The settings that a request's images are drawn with.

    Raises RequestError, before any weights are loaded, for a setting or a parameter that the run,
    or its whole family, has no use for.
    """
    how = drawn_how(facts, config.draw)
    if config.caption is not None and not how.writes:
        what = f"the family {facts.family} writes no texts"
        raise RequestError("caption", what, "Ask a run of a family that does.")
    for parameter, beside in GIVEN.items():
        if getattr(config, parameter) is None:
            continue
        if beside not in how.takes:
            what = f"the family {facts.family} has no use for it"
            raise RequestError(parameter, what, "Leave it out.")
        if refused := config_of(facts.family).of(facts.model).refuses(beside):
            raise RequestError(f"{parameter}, run {config.run!r}", *refused)
    return how


def open_all(config: SampleRDM) -> Opened:
    """The weights, and the databases that the request looks something up in."""
    run = open_run(config.root, config.run)
    database = style_database = None
    if needs_database(config):
        database = open_database(config.root, config.database or database_of(run), run)
        database = database.only_where(config.where)
    if config.style_database:
        style_database = open_database(config.root, config.style_database, run)
        style_database = style_database.only_where(config.where)
    return Opened(run, database, style_database)


def needs_database(config: SampleRDM) -> bool:
    """Whether neighbors may be looked up. With context=query, and only then, no database is
    opened.
    """
    return config.context != "query"


def database_of(run: OpenRun) -> str:
    """The database a run was trained with, in the version it was trained with."""
    trained = known_database(run.artifact, run.facts.trained_on.get("database"))
    return str(trained.reference)


def known_database(run: Artifact, database: Any) -> Any:
    """What a run says of its database. Raises RequestError when it says nothing: it was converted,
    or is part of this package.
    """
    if database is None:
        cure = "Name one: --database NAME; or ask with --set context=query, which needs none."
        raise RequestError(f"run {run.name!r}", "comes without a database of its own", cure)
    return database


@stage_task(name="draw-images")
def draw_images(
    build: Build, config: SampleRDM, opened: Opened
) -> tuple[list[Part], dict[str, float]]:
    """Retrieve, draw, and write images, table and contact sheet; of an edited image also the sheet
    of edits, and how much was changed. Where texts are written of an image, it stands for the
    images.
    """
    request = request_of(config, opened)
    records = records_of(config, opened, request)
    look_at_licences(config, records)
    if config.caption is not None:
        how = checked_draw(config, opened.run.facts)
        images, texts = written(config, opened.run, request, how)
        for record, text in zip(records, texts, strict=True):
            record["text"] = text
    else:
        images = draw_request(config, opened.run, request, request.context)
    if config.attribution:
        attributions = attribution(config, opened.run, request, images)
        for record, changes in zip(records, attributions, strict=True):
            record["attributions"] = changes
    sheet = contact_sheet(images, records, opened)
    pngs = [encode_png(image, record) for image, record in zip(images, records, strict=True)]
    sheets, measured = [encode(sheet, "png")], {}
    if request.beside.picture is not None:
        original = given_back(opened.run, request.beside.picture)
        changed = differences(original, images)
        sheets.append(encode(sheet_of_edits(original, images, changed), "png"))
        measured = how_much(changed)
    parts = single_part(
        build, "samples", lambda scratch: (write_samples(scratch, pngs, records, *sheets), {})
    )
    return parts, measured


def draw_request(config: SampleRDM, run: OpenRun, request: Request, context: Context) -> np.ndarray:
    """The request's images uint8 [B, H, W, 3], drawn with some contexts."""
    how = checked_draw(config, run.facts)
    return draw(run, context, request.seeds, how, request.beside)


def draw(
    run: OpenRun,
    context: Context,
    seeds: Sequence[int],
    how: DrawConfig,
    beside: Beside = Beside(),  # noqa: B008 - frozen
) -> np.ndarray:
    """Images uint8 [B, H, W, 3], one a seed, with a bar of how many are drawn."""
    with bar(len(seeds), "sample", "image") as shown:
        return run.model.draw(
            context, seeds, how, beside, lambda done: shown.update(done - shown.n)
        )


def attribution(
    config: SampleRDM, run: OpenRun, request: Request, images: np.ndarray
) -> list[list[float]]:
    """How much each image changes without each of its neighbors, nearest first: root mean square
    over pixels in 0..1.

    Everything else stays: seed, guidance, the other vectors (leave one out).
    """
    changes: list[list[float]] = [[] for _ in images]
    for slot in range(request.retrieved.rows.shape[1]):
        # Contexts may hold fewer neighbors than there are slots.
        held = np.flatnonzero(request.retrieved.rows[:, slot] != NO_ROW)
        if not len(held):
            continue
        without = draw_request(config, run, request, request.context.without(slot))
        distance = np.sqrt(
            np.square((without.astype(np.float64) - images) / 255).mean(axis=(1, 2, 3))
        )
        for image in held:
            changes[image].append(round(float(distance[image]), 5))
    return changes


def records_of(config: SampleRDM, opened: Opened, request: Request) -> list[dict[str, Any]]:
    """One row an image: the sample table's columns."""
    how = checked_draw(config, opened.run.facts)
    style_database = opened.style_database
    given_images = [*config.images, *filter(None, (config.inpaint, config.edit, config.caption))]
    satisfying_rows = None
    if opened.database is not None and config.where is not None:
        satisfying_rows = opened.database.retrieval.candidates
    common = {
        "guidance_scale": how.guidance_scale,
        "steps": getattr(how, "steps", None),  # not every family draws in steps
        "weights": opened.run.artifact.fingerprint,
        "database": opened.database.embeddings.fingerprint if opened.database else None,
        "style_database": style_database.embeddings.fingerprint if style_database else None,
        "condition": config.where,
        "condition_rows": satisfying_rows,
        "given_images": [sha256_file(path) for path in given_images],
        "attributions": None,
    }
    behind = neighbors_behind(request.retrieved, opened.database)
    if request.styled:
        styled = neighbors_behind(request.styled, style_database)
        behind = [own + of_style for own, of_style in zip(behind, styled, strict=True)]
    records = []
    for i, query in enumerate(request.queries):
        record = {"file": f"{i:05d}.png", "query": query, "seed": request.seeds[i]}
        records.append({**record, **common, **credited(behind[i])})
    return records


def neighbors_behind(
    retrieved: Retrieved, database: OpenDatabase | None
) -> list[list[tuple[dict[str, Any], float]]]:
    """For each context its neighbors' credits and scores, nearest first."""
    # The credits of all contexts are read in one go, each row once.
    present = np.unique(retrieved.rows[retrieved.rows != NO_ROW]).tolist()
    credits = {}
    if database and present:
        credits = dict(zip(present, database.credits(present), strict=True))
    behind = []
    for rows, scores in zip(retrieved.rows.tolist(), retrieved.scores.tolist(), strict=True):
        neighbors = []
        for row, score in zip(rows, scores, strict=True):
            if row != NO_ROW:
                neighbors.append((credits[row], score))
        behind.append(neighbors)
    return behind


def credited(neighbors: Sequence[tuple[dict[str, Any], float]]) -> dict[str, list[Any]]:
    """The columns that say who stood behind an image."""
    columns: dict[str, list[Any]] = {
        "neighbor_keys": [],
        "neighbor_scores": [],
        "licences": [],
        "authors": [],
        "source_urls": [],
    }
    for credit, score in neighbors:
        columns["neighbor_keys"].append(credit["key"])
        columns["neighbor_scores"].append(round(score, 5))
        columns["licences"].append(credit["licence"])
        columns["authors"].append(credit["author"])
        columns["source_urls"].append(credit["source_url"])
    return columns


def contact_sheet(
    images: np.ndarray, records: Sequence[dict[str, Any]], opened: Opened
) -> np.ndarray:
    """One line an image: the sample, a narrow gap, then its neighbors, nearest first."""
    wanted: set[str] = set()
    most = 0
    for record in records:
        wanted.update(record["neighbor_keys"])
        most = max(most, len(record["neighbor_keys"]))
    files: dict[str, bytes] = {}
    for database in (opened.database, opened.style_database):
        if database:
            # A key may be in both databases: its image is read once, from the first.
            files |= database.images(sorted(wanted - files.keys()))
    pictures = {key: fitted(decode(data)) for key, data in files.items()}
    white = np.full((CELL_PIXELS, CELL_PIXELS, 3), 255, dtype=np.uint8)
    samples = grid([fitted(image) for image in images], columns=1)
    if not most:
        return samples
    cells: list[np.ndarray] = []
    for record in records:
        neighbors = [pictures.get(key, white) for key in record["neighbor_keys"]]
        cells += neighbors + [white] * (most - len(neighbors))
    gap = np.full((len(samples), CELL_PIXELS // 8, 3), 255, dtype=np.uint8)
    return np.concatenate([samples, gap, grid(cells, columns=most)], axis=1)
