"""Does a model use its neighbors? Measured on the shapes world, where what an image shows can be
read off it.

The judge is the oracle, a classifier that shares nothing with the CLIP the model was conditioned
on.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from flows.config import EvaluateRDM
from flows.database import OpenDatabase
from flows.findings import summary
from flows.opening import OpenRun, drawn_how, open_database, open_run
from flows.progress import Clock
from flows.request import text_queries
from flows.revisions import plan_of
from flows.sample import database_of, draw
from flows.stage import building, kept, published, single_part, stage_flow, stage_task, whole
from flows.training_data import open_training_data
from rdm_core.clip import Encoder, load_encoder
from rdm_core.data import TrainingData
from rdm_core.decode import decode
from rdm_core.device import best_device
from rdm_core.features import load_features
from rdm_core.metrics import agreement, copy_rate, estimate, estimate_over_seeds, held_out_losses
from rdm_core.quality import MEASURES, quality
from rdm_core.retrieve import STRATEGIES, Retrieved, query_and_neighbors
from rdm_core.shapes import world
from rdm_core.shapes.oracle import load_oracle
from storage.artifact import Artifact, open_artifact, with_fingerprint
from storage.atomic import write_json
from storage.build import Build
from storage.checks import made_with, same_shards
from storage.errors import ArtifactMismatch, ArtifactMissing
from storage.manifest import Plan
from storage.shards import read_images

EVALUATION_FILE = "evaluation.json"
CARD_FILE = "model-card.md"
DEMO_MAKES = (
    "`rdm demo` makes everything that an evaluation reads: two runs, shapes and shapes-without-neighbors, the held-out "
    "images shapes-heldout, and databases of one style."
)
ASKED = ("colour", "shape")
"""Factors that the prompts name."""
RETURNED, CHANCE = "return the neighbour", "chance"
"""Rows that no denoiser drew."""
QUALITY_ROWS = (
    "held-out neighbors", "held-out neighbors, guided", "learned null", "trained without neighbors",
    RETURNED, "random database images",
)  # fmt: skip


@stage_flow("evaluate-rdm")
def evaluate_rdm(config: EvaluateRDM) -> Artifact:
    """Held-out loss with right, shuffled and no neighbors; prompt agreement; database swap; copy
    rate.

    Beside each: the same network trained without neighbors, and the neighbour itself returned as
    the sample.
    """
    clock = Clock()
    with building(config.root, evaluation_plan(config)) as build:
        if build.finished:
            return kept(build)
        run, baseline = open_run(config.root, config.run), open_run(config.root, config.baseline)
        same_but_for_neighbors(run, baseline)
        database = open_database(config.root, database_of(run), run)
        swaps: dict[str, OpenDatabase] = {
            s: open_database(config.root, name, run) for s, name in config.swaps.items()
        }
        drawn = draw_prompts(config, whole(run), whole(baseline), whole(database))
        measured = {
            "loss": measure_loss(config, whole(run), whole(baseline), whole(database)),
            "prompts": {name: judge(images, prompts_of(config)) for name, images in drawn.items()}
            | {CHANCE: chance()},
            "swaps": measure_swaps(config, whole(run), whole(swaps)),
            "clip scores": measure_clip_scores(config, whole(run), whole(drawn)),
            "quality": measure_quality(config, whole(run), whole(baseline), whole(database)),
            "retrieval": {key: database.index.measured.get(key) for key in ("recall_at_k", "k")},
            "copies": measure_copies(config, whole(run), whole(database), whole(drawn)),
        }
        parts = [
            *write_evaluation(whole(build), measured),
            *write_card(whole(build), whole(run), measured),
        ]
        return published(build, parts, clock)


def evaluation_plan(config: EvaluateRDM) -> Plan:
    """What is measured, on what.

    Raises ArtifactMissing where an input is not there, ArtifactMismatch for held-out images that
    were searched in another database.
    """
    try:
        return _plan_of(config)
    except ArtifactMissing as error:
        raise ArtifactMissing(error.where, error.what, f"{error.cure} {DEMO_MAKES}") from error


def _plan_of(config: EvaluateRDM) -> Plan:
    run, baseline = (
        open_artifact(config.root, "runs", name) for name in (config.run, config.baseline)
    )
    latents = open_artifact(config.root, "latents", config.heldout_latents)
    neighbors = open_artifact(config.root, "neighbors", config.heldout_neighbors)
    database = with_fingerprint(config.root, "embeddings", run.inputs["database"])
    if database is not None:
        made_with(neighbors, "database", database)
    same_shards(config.root, latents, neighbors)
    inputs = {"run": run.fingerprint, "baseline": baseline.fingerprint}
    inputs |= {"heldout_latents": latents.fingerprint, "heldout_neighbors": neighbors.fingerprint}
    swapped = {
        style: open_artifact(config.root, "embeddings", name)
        for style, name in config.swaps.items()
    }
    inputs |= {f"swap {style}": embeddings.fingerprint for style, embeddings in swapped.items()}
    left_out = ("run", "baseline", "heldout_latents", "heldout_neighbors", "swaps")
    return plan_of("evaluations", config.name, config.parameters(*left_out), inputs)


def same_but_for_neighbors(run: OpenRun, baseline: OpenRun) -> None:
    """Raise ArtifactMismatch unless the baseline is the same network and training, but never saw a
    neighbor.
    """

    def compared(of: OpenRun) -> dict[str, Any]:
        chosen = {
            part: of.artifact.parameters[part] for part in ("model", "space", "context", "training")
        }
        return chosen | {"context": chosen["context"] | {"neighbor_dropout": None}}

    if compared(run) != compared(baseline) or baseline.facts.neighbor_dropout != 1:
        raise ArtifactMismatch(
            f"runs/{run.artifact.name} and runs/{baseline.artifact.name}",
            "the second is not the first's network trained without neighbors",
            "Train it with equal parameters and --set context.neighbor_dropout=1.",
        )


@stage_task(name="write-evaluation")
def write_evaluation(build: Build, measured: dict[str, Any]) -> list[Any]:
    """The figures: evaluation.json."""

    def write(scratch: Path) -> tuple[int, dict[str, int]]:
        write_json(scratch / EVALUATION_FILE, measured)
        return 1, {}

    return single_part(build, "evaluation", write)


@stage_task(name="write-card")
def write_card(build: Build, run: OpenRun, measured: dict[str, Any]) -> list[Any]:
    """The run's model card with what was measured: the README to publish its weights with."""

    def write(scratch: Path) -> tuple[int, dict[str, int]]:
        card = (run.artifact.file("weights") / "README.md").read_text(encoding="utf-8")
        measurements = f"## Measured\n\n```text\n{summary(measured)}\n```\n"
        (scratch / CARD_FILE).write_text(f"{card}\n{measurements}", encoding="utf-8")
        return 1, {}

    return single_part(build, "card", write)


@stage_task(name="measure-loss")
def measure_loss(
    config: EvaluateRDM, run: OpenRun, baseline: OpenRun, database: OpenDatabase
) -> dict[str, Any]:
    """Held-out denoising loss at equal times and noise; differences are paired by sample."""
    data = heldout_data(config, run)

    def losses(of: OpenRun, **how: bool) -> np.ndarray:
        return held_out_losses(of.model, data, min(config.k, run.facts.k), **how)

    found = {
        "right neighbors": losses(run),
        "shuffled neighbors": losses(run, shuffled=True),
        "learned null": losses(run, null=True),
        "trained without neighbors": losses(baseline, null=True),
    }
    right, reference = found["right neighbors"], found["trained without neighbors"]
    return {
        "means": {name: asdict(estimate(values)) for name, values in found.items()},
        "relative to trained without neighbors": {
            name: asdict(estimate((values - reference) / reference.mean()))
            for name, values in found.items()
            if values is not reference
        },
        "share of the gain lost when shuffled": float(
            (found["shuffled neighbors"] - right).mean() / (reference - right).mean()
        ),
    }


def heldout_data(config: EvaluateRDM, run: OpenRun) -> TrainingData:
    """The held-out images with their neighbors in the run's database."""
    references = {"latents": config.heldout_latents, "neighbors": config.heldout_neighbors}
    trained = run.facts.trained_on["index"]
    references |= {"index": trained.reference}
    return open_training_data(config.root, references, run.model.reads)


@stage_task(name="measure-quality")
def measure_quality(
    config: EvaluateRDM, run: OpenRun, baseline: OpenRun, database: OpenDatabase
) -> dict[str, Any]:
    """How near the images drawn for held-out neighbors come to the held-out images, once a seed,
    beside who draws nothing.
    """
    if config.extractor.startswith("clip:"):
        another_clip(config.extractor.removeprefix("clip:"), run)
    features = load_features(config.extractor)
    real, known = (
        features(images) for images in (heldout_images(config), known_images(config, run, database))
    )
    data = heldout_data(config, run)
    rows = np.arange(min(config.quality_images, len(data)))
    near = data.neighbors(rows, min(config.k, run.facts.k))
    null, without = (of.model.null(len(rows)) for of in (run, baseline))
    how = drawn_how(run.facts, config.draw)
    unguided = replace(how, guidance_scale=1.0)
    total = database.database.rows
    table: dict[str, list[dict[str, float]]] = {name: [] for name in QUALITY_ROWS}
    returned = database_images(database, data.neighbor_rows[rows, 0])
    for seed in range(config.seeds):
        seeds = range(10_000 * (seed + 1), 10_000 * (seed + 1) + len(rows))
        random_rows = np.random.default_rng(seed).choice(
            total, len(rows), replace=total < len(rows)
        )
        drawn = {
            "held-out neighbors": draw(run, near, seeds, unguided),
            "held-out neighbors, guided": draw(run, near, seeds, how),
            "learned null": draw(run, null, seeds, unguided),
            "trained without neighbors": draw(baseline, without, seeds, unguided),
            RETURNED: returned,
            "random database images": database_images(database, random_rows),
        }
        for name, images in drawn.items():
            table[name].append(quality(features(images), real, known, seed))
    return {
        name: {m: asdict(estimate_over_seeds([row[m] for row in found])) for m in MEASURES}
        for name, found in table.items()
    }


@stage_task(name="draw-prompts")
def draw_prompts(
    config: EvaluateRDM, run: OpenRun, baseline: OpenRun, database: OpenDatabase
) -> dict[str, list[np.ndarray]]:
    """The prompts' images by what the denoiser was given: once a seed, equal seeds for every
    row.
    """
    queries = text_queries(run, [wish["prompt"] for wish in prompts_of(config)])
    contexts = {
        name: strategy(queries, database.database, config.k)
        for name, strategy in STRATEGIES.items()
    }
    other = np.roll(np.arange(config.prompts), config.prompts // 2)
    wrong = query_and_neighbors(queries.take(other), database.database, config.k)
    table = {
        f"text, context {name}": draws(config, run, context) for name, context in contexts.items()
    }
    table["another prompt's context"] = draws(config, run, wrong)
    table["learned null"] = draws(config, run, None)
    table["trained without neighbors"] = draws(config, baseline, None)
    table[RETURNED] = [nearest_images(contexts["neighbors"], database)]
    return table


@stage_task(name="measure-clip-scores")
def measure_clip_scores(
    config: EvaluateRDM, run: OpenRun, drawn: dict[str, list[np.ndarray]]
) -> dict[str, Any]:
    """Mean cosine of prompts and their images under a CLIP that the run was not conditioned on
    (arXiv 2104.08718, unscaled).

    Nothing when no such CLIP is named. Raises ArtifactMismatch when it is the run's own.
    """
    if config.judge_clip is None:
        return {}
    judge = another_clip(config.judge_clip, run)
    texts, _ = judge.encode_texts([wish["prompt"] for wish in prompts_of(config)])

    def scores(images: np.ndarray) -> np.ndarray:
        return (judge.encode_images(list(images))[0] * texts).sum(axis=1)

    return {
        name: asdict(estimate(np.mean([scores(images) for images in seeds], axis=0)))
        for name, seeds in drawn.items()
    }


def another_clip(name: str, run: OpenRun) -> Encoder:
    """The CLIP MODEL:WEIGHTS. Raises ArtifactMismatch when the run was conditioned on it: it would
    judge itself.
    """
    model, _, weights = name.partition(":")
    judge = load_encoder(model, weights, best_device())
    if judge.identity == run.facts.encoder:
        raise ArtifactMismatch(
            f"CLIP {name!r}", "it is the encoder the run was conditioned on", "Name another one."
        )
    return judge


@stage_task(name="measure-swaps")
def measure_swaps(
    config: EvaluateRDM, run: OpenRun, swaps: dict[str, OpenDatabase]
) -> dict[str, Any]:
    """One set of prompts that name no style, one set of weights, a database of one style each: what
    style is drawn?
    """
    wanted = prompts_of(config)
    queries = text_queries(run, [wish["prompt"] for wish in wanted])
    table = {}
    for style, opened in swaps.items():
        context = STRATEGIES["neighbors"](queries, opened.database, config.k)
        seen = [load_oracle().predict(images) for images in draws(config, run, context)]
        shown = np.concatenate([seeds["style"] for seeds in seen])
        shares = {other: asdict(estimate(shown == other)) for other in world.STYLES}
        table[style] = {"styles": shares} | judged(seen, wanted)
    return table


@stage_task(name="measure-copies")
def measure_copies(
    config: EvaluateRDM, run: OpenRun, database: OpenDatabase, drawn: dict[str, list[np.ndarray]]
) -> dict[str, float]:
    """Share of prompted samples nearer to a training or database image than 1 % of held-out images
    are.
    """
    features = load_oracle().features
    real, known = features(heldout_images(config)), features(known_images(config, run, database))
    rows = {"samples": drawn["text, context query+neighbors"], RETURNED: drawn[RETURNED]}
    rates = {
        name: copy_rate(load_oracle().features(np.concatenate(images)), real, known)
        for name, images in rows.items()
    }
    return rates | {"held-out images, by definition": 0.01}


def prompts_of(config: EvaluateRDM) -> list[dict[str, str]]:
    """Prompts that name a colour and a shape, every pair once before any comes twice."""
    pairs = [(colour, shape) for shape in world.SHAPES for colour in world.COLOURS]
    order = np.random.default_rng(0).permutation(len(pairs))
    chosen = [pairs[order[i % len(pairs)]] for i in range(config.prompts)]
    return [
        {"colour": colour, "shape": shape, "prompt": f"a {colour} {shape}"}
        for colour, shape in chosen
    ]


def draws(config: EvaluateRDM, run: OpenRun, retrieved: Retrieved | None) -> list[np.ndarray]:
    """The prompts' images uint8 [prompts, H, W, 3], once a seed; equal seeds for every context, the
    null for None.
    """
    how = drawn_how(run.facts, config.draw)
    context = retrieved.context if retrieved else run.model.null(config.prompts)
    if retrieved is None:
        how = replace(how, guidance_scale=1.0)
    firsts = [10_000 * (seed + 1) for seed in range(config.seeds)]
    return [draw(run, context, range(first, first + config.prompts), how) for first in firsts]


def chance() -> dict[str, Any]:
    """Agreement of a guess."""
    return {factor: asdict(estimate(np.full(2, 1 / len(world.VALUES[factor])))) for factor in ASKED}


def judge(drawn: Sequence[np.ndarray], wanted: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Agreement with the prompts of images drawn once a seed."""
    return judged([load_oracle().predict(images) for images in drawn], wanted)


def judged(
    seen: Sequence[dict[str, np.ndarray]], wanted: Sequence[dict[str, str]]
) -> dict[str, Any]:
    """Share of images that show the factor asked for, averaged over seeds first, so that prompts
    are the unit.
    """
    return {
        factor: asdict(
            estimate(
                np.mean(
                    [agreement(of[factor], [wish[factor] for wish in wanted]) for of in seen],
                    axis=0,
                )
            )
        )
        for factor in ASKED
    }


def nearest_images(retrieved: Retrieved, database: OpenDatabase) -> np.ndarray:
    """The nearest database image of each context of neighbors: uint8 [B, H, W, 3]."""
    return database_images(database, retrieved.rows[:, 0])


def database_images(database: OpenDatabase, rows: np.ndarray) -> np.ndarray:
    """The images of some database rows: uint8 [B, H, W, 3]."""
    keys = [credit["key"] for credit in database.credits(rows.tolist())]
    found = database.images(keys)
    return np.stack([decode(found[key]) for key in keys])


def heldout_images(config: EvaluateRDM) -> np.ndarray:
    """The images nobody was trained on: uint8 [N, H, W, 3]."""
    return images_of(
        config.root, open_artifact(config.root, "latents", config.heldout_latents).inputs["shards"]
    )


def known_images(config: EvaluateRDM, run: OpenRun, database: OpenDatabase) -> np.ndarray:
    """Every training and database image: uint8 [N, H, W, 3]."""
    latents = run.facts.trained_on["latents"]
    trained = open_artifact(config.root, "latents", latents.reference)
    shards = dict.fromkeys([database.embeddings.inputs["shards"], trained.inputs["shards"]])
    return np.concatenate([images_of(config.root, fingerprint) for fingerprint in shards])


def images_of(root: Path, shards_fingerprint: str) -> np.ndarray:
    """Every image of some shards: uint8 [N, H, W, 3]."""
    shards = with_fingerprint(root, "shards", shards_fingerprint)
    if shards is None:
        raise ArtifactMissing(
            f"{root}/shards",
            f"no shards have the fingerprint {shards_fingerprint}",
            "Import them again.",
        )
    return np.stack(
        [decode(data) for part in shards.parts for _, data in read_images(shards, part.name)]
    )
