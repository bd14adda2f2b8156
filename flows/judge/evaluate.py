"""Does a model use its neighbors, and what do its pictures look like beside others?

Losses and pictures come from the model, whatever its family; what a picture shows is said by a
judge (`rdm_core.judge.judges`) that shares nothing with the CLIP the model was conditioned on.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from flows.config.judge import EvaluateRDM
from flows.judge.findings import summary
from flows.judge.trial import (
    Trial,
    agreements,
    another_clip,
    database_images,
    draws,
    draws_of,
    estimates,
    features_of,
    held_out_features,
    heldout_data,
    judge_of,
    known_features,
    nearest_present,
    trained_on,
)
from flows.model.opening import OpenRun, drawn_how, facts_of, open_database, open_run
from flows.model.request import text_queries
from flows.model.sample import database_of, draw
from flows.run.progress import Clock
from flows.run.revisions import plan_of
from flows.run.stage import building, kept, published, single_part, stage_flow, stage_task
from rdm_core.judge.copies import copy_rate
from rdm_core.judge.distances import MEASURES, quality
from rdm_core.judge.estimates import estimate_over_seeds
from rdm_core.judge.judges import ShapesJudge
from rdm_core.judge.losses import held_out_losses
from rdm_core.retrieve import STRATEGIES, query_and_neighbors
from rdm_core.shapes import world
from storage.artifact import Artifact, open_artifact, with_fingerprint
from storage.atomic import write_json
from storage.build import Build
from storage.checks import made_with, same_shards
from storage.errors import ArtifactMismatch, ArtifactMissing
from storage.latents import open_latents
from storage.manifest import Plan

EVALUATION_FILE = "evaluation.json"
CARD_FILE = "model-card.md"
DEMO_MAKES = (
    "`rdm demo` makes everything that an evaluation reads: two runs, shapes and "
    "shapes-without-neighbors, the held-out images shapes-heldout, and databases of one style."
)
RIGHT, SHUFFLED, NULL = "right neighbors", "shuffled neighbors", "learned null"
WITHOUT = "trained without neighbors"
HELD_OUT, GUIDED = "held-out neighbors", "held-out neighbors, guided"
RETURNED, RANDOM, CHANCE = "return the neighbour", "random database images", "chance"
"""The last three: rows that no model drew."""


@stage_flow("evaluate-rdm")
def evaluate_rdm(config: EvaluateRDM) -> Artifact:
    """Held-out loss with right, shuffled and no neighbors; prompt agreement; database swap; copy
    rate.

    Beside each: the same network trained without neighbors, and the neighbour itself returned as
    the sample.

    - In `evaluations`: the figures with their intervals, and the run's model card with them.
    - Made by `rdm evaluate` and the demo.
    - Read by the report and SQL.
    - Rebuilt when a run, the held-out images, a database or what is measured is another one.
    - Resumes not at all: it is measured in one piece.
    """
    clock = Clock()
    with building(config.root, evaluation_plan(config)) as build:
        if build.finished:
            return kept(build)
        trial = opened_trial(config)
        drawn = draw_prompts(trial)
        measured = {
            "loss": measure_loss(trial),
            "prompts": measure_agreement(trial, drawn),
            "swaps": measure_swaps(trial),
            "clip scores": measure_clip_scores(trial, drawn),
            "quality": measure_quality(trial),
            "retrieval": {
                "recall_at_k": trial.database.index.measured.get("recall_at_k"),
                "k": trial.database.index.measured.get("k"),
            },
            "copies": measure_copies(trial, drawn),
        }
        parts = [
            *write_evaluation(build, measured),
            *write_card(build, trial.run, measured),
        ]
        return published(build, parts, clock)


def opened_trial(config: EvaluateRDM) -> Trial:
    """The runs with their weights, the database, and the judge.

    Raises ArtifactMismatch where they cannot be compared, and what loading a judge raises.
    """
    run, baseline = open_run(config.root, config.run), open_run(config.root, config.baseline)
    same_but_for_neighbors(run, baseline)
    database = open_database(config.root, database_of(run), run)
    judge = judge_of(config, run)
    return Trial(config, run, baseline, database, judge, judge.wishes(config.prompts))


@evaluate_rdm.plan
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
    run = open_artifact(config.root, "runs", config.run)
    baseline = open_artifact(config.root, "runs", config.baseline)
    latents = open_artifact(config.root, "latents", config.heldout_latents)
    neighbors = open_artifact(config.root, "neighbors", config.heldout_neighbors)
    facts = facts_of(run)
    # The database may have been deleted since: then nothing says where the neighbors come from.
    searched = trained_on(run, facts, "database").fingerprint
    database = with_fingerprint(config.root, "embeddings", searched)
    if database is not None:
        made_with(neighbors, "database", database)
    same_shards(config.root, latents, neighbors)
    for trained in (run, baseline):
        refuse_if_trained_on(config, trained, latents)
    inputs = {"run": run.fingerprint, "baseline": baseline.fingerprint}
    inputs |= {"heldout_latents": latents.fingerprint, "heldout_neighbors": neighbors.fingerprint}
    for style, name in config.swaps.items():
        inputs[f"swap {style}"] = open_artifact(config.root, "embeddings", name).fingerprint
    left_out = ("run", "baseline", "heldout_latents", "heldout_neighbors", "swaps", "draw")
    how = {"draw": asdict(drawn_how(facts, config.draw))}
    return plan_of("evaluations", config.name, config.parameters(*left_out) | how, inputs)


def refuse_if_trained_on(config: EvaluateRDM, run: Artifact, heldout: Artifact) -> None:
    """Raise ArtifactMismatch when held-out images are among those that a run was trained on, or the
    run that it started from.
    """
    facts = facts_of(run)
    if "start_from" in facts.trained_on:
        with suppress(ArtifactMissing):  # it was deleted, and its list of images with it
            begun = open_artifact(config.root, "runs", facts.trained_on["start_from"].reference)
            refuse_if_trained_on(config, begun, heldout)
    trained = trained_on(run, facts, "latents")
    try:
        seen = set(open_latents(open_artifact(config.root, "latents", trained.reference))[0])
    except ArtifactMissing:  # they were deleted, and their keys with them
        return
    keys = open_latents(heldout)[0]
    both = [key for key in keys if key in seen]
    if both:
        raise ArtifactMismatch(
            f"latents/{heldout.name}",
            f"{len(both):,} of its {len(keys):,} images are among those that runs/{run.name} was "
            f"trained on, the first is {both[0]!r}",
            "Name latents of images that no run has seen: --set heldout_latents=...",
        )


def same_but_for_neighbors(run: OpenRun, baseline: OpenRun) -> None:
    """Raise ArtifactMismatch unless the baseline is the same network and training, but never saw a
    neighbor.
    """

    def compared(opened: OpenRun) -> dict[str, Any]:
        parameters = opened.artifact.parameters
        # What may differ is set to None: the dropout, and what is kept beside the weights.
        may_differ = {"posthoc_ema": None, "snapshot_steps": None}
        return {
            "model": parameters.get("model"),
            "space": parameters.get("space"),
            "context": dict(parameters.get("context", {})) | {"neighbor_dropout": None},
            "training": dict(parameters.get("training", {})) | may_differ,
        }

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
def measure_loss(trial: Trial) -> dict[str, Any]:
    """The model's own loss on held-out images; differences are paired by sample."""
    data = heldout_data(trial.config, trial.run)
    k = min(trial.config.k, trial.run.facts.k)
    losses = {
        RIGHT: held_out_losses(trial.run.model, data, k),
        SHUFFLED: held_out_losses(trial.run.model, data, k, shuffled=True),
        NULL: held_out_losses(trial.run.model, data, k, null=True),
        WITHOUT: held_out_losses(trial.baseline.model, data, k, null=True),
    }
    right, reference = losses[RIGHT], losses[WITHOUT]
    changes = {}
    for name, values in losses.items():
        if name != WITHOUT:
            changes[name] = (values - reference) / reference.mean()
    # 0: any neighbors help as much as the right ones; 1: wrong ones help no more than none.
    lost = (losses[SHUFFLED] - right).mean() / (reference - right).mean()
    return {
        "means": estimates(losses),
        f"relative to {WITHOUT}": estimates(changes),
        "share of the gain lost when shuffled": float(lost),
    }


@stage_task(name="measure-quality")
def measure_quality(trial: Trial) -> dict[str, Any]:
    """How near the images drawn for held-out neighbors come to the held-out images, once a seed,
    beside images that no model drew.
    """
    config, run, baseline, database = trial.config, trial.run, trial.baseline, trial.database
    features = features_of(config, run)
    real, known = held_out_features(config, features), known_features(trial, features)
    data = heldout_data(config, run)
    rows = np.arange(min(config.quality_images, len(data)))
    near = data.neighbors(rows, min(config.k, run.facts.k))
    nearest = nearest_present(data.neighbor_rows[rows])
    how = drawn_how(run.facts, config.draw)
    unguided = replace(how, guidance_scale=1.0)
    null, without = run.model.null(len(rows)), baseline.model.null(len(rows))
    total = database.retrieval.rows
    # Equal seeds for every row of the table: they differ in nothing but the context.
    table: dict[str, list[dict[str, float]]] = {}
    for seed in range(config.seeds):
        seeds = range(10_000 * (seed + 1), 10_000 * (seed + 1) + len(rows))
        picks = np.random.default_rng(seed).choice(total, len(rows), replace=total < len(rows))
        drawn = {
            HELD_OUT: draw(run, near, seeds, unguided),
            GUIDED: draw(run, near, seeds, how),
            NULL: draw(run, null, seeds, unguided),
            WITHOUT: draw(baseline, without, seeds, unguided),
            RETURNED: database_images(database, nearest),
            RANDOM: database_images(database, picks),
        }
        for name, images in drawn.items():
            table.setdefault(name, []).append(quality(features(images), real, known, seed))
    return {name: over_seeds(measures) for name, measures in table.items()}


def over_seeds(by_seed: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Each measure's mean over the seeds, with its interval."""
    means = {}
    for measure in MEASURES:
        values = [measures[measure] for measures in by_seed]
        means[measure] = asdict(estimate_over_seeds(values))
    return means


@stage_task(name="draw-prompts")
def draw_prompts(trial: Trial) -> dict[str, list[np.ndarray]]:
    """The wishes' images by what the model was given: once a seed, equal seeds for every row.

    Nothing where the judge can tell of no wish.
    """
    wishes, run, database, k = trial.wishes, trial.run, trial.database, trial.config.k
    if not wishes:
        return {}
    queries = text_queries(run, trial.prompts)
    table = {}
    for name, strategy in STRATEGIES.items():
        table[f"text, context {name}"] = draws(trial, strategy(queries, database.retrieval, k))
    # Half the list away: neighboring prompts may name the same colour or shape.
    others = np.roll(np.arange(len(wishes)), len(wishes) // 2)
    wrong = query_and_neighbors(queries.take(others), database.retrieval, k)
    table["another prompt's context"] = draws(trial, wrong)
    table[NULL] = draws_of(trial.config, run, run.model.null(len(wishes)), 1.0)
    baseline = trial.baseline
    table[WITHOUT] = draws_of(trial.config, baseline, baseline.model.null(len(wishes)), 1.0)
    nearest = STRATEGIES["neighbors"](queries, database.retrieval, k)
    table[RETURNED] = [database_images(database, nearest.rows[:, 0])]
    return table


@stage_task(name="measure-agreement")
def measure_agreement(trial: Trial, drawn: dict[str, list[np.ndarray]]) -> dict[str, Any]:
    """How often an image shows what its wish names, by what the model was given; and by chance."""
    table = {name: agreements(trial, images) for name, images in drawn.items()}
    chance = {}
    for factor, share in trial.judge.chance().items():
        chance[factor] = np.full(2, share)  # two equal values: an interval without width
    if chance:
        table[CHANCE] = estimates(chance)
    return table


@stage_task(name="measure-clip-scores")
def measure_clip_scores(trial: Trial, drawn: dict[str, list[np.ndarray]]) -> dict[str, Any]:
    """Mean cosine of prompts and their images under a CLIP that the run was not conditioned on
    (arXiv 2104.08718, unscaled).

    Nothing when no such CLIP is named. Raises ArtifactMismatch when it is the run's own.
    """
    if trial.config.judge_clip is None or not drawn:
        return {}
    clip = another_clip(trial.config.judge_clip, trial.run)
    texts, _ = clip.encode_texts(trial.prompts)
    scores = {}
    for name, seeds in drawn.items():
        by_seed = []
        for images in seeds:
            vectors, _ = clip.encode_images(list(images))
            by_seed.append((vectors * texts).sum(axis=1))
        # Over the seeds first, so that prompts are the unit of the interval.
        scores[name] = np.mean(by_seed, axis=0)
    return estimates(scores)


@stage_task(name="measure-swaps")
def measure_swaps(trial: Trial) -> dict[str, Any]:
    """One set of prompts that name no style, one set of weights, a database of one style each: what
    style is drawn?

    Nothing where the judge knows no styles.
    """
    judge = trial.judge
    if not isinstance(judge, ShapesJudge):
        return {}
    queries = text_queries(trial.run, trial.prompts)
    table: dict[str, Any] = {}
    for style, name in trial.config.swaps.items():
        database = open_database(trial.config.root, name, trial.run)
        drawn = draws(trial, STRATEGIES["neighbors"](queries, database.retrieval, trial.config.k))
        shown = np.concatenate([judge.styles(images) for images in drawn])
        shares = estimates({shown_style: shown == shown_style for shown_style in world.STYLES})
        table[style] = {"styles": shares} | agreements(trial, drawn)
    return table


@stage_task(name="measure-copies")
def measure_copies(trial: Trial, drawn: dict[str, list[np.ndarray]]) -> dict[str, float]:
    """Share of prompted samples nearer to a training or database image than 1 % of held-out images
    are.
    """
    if not drawn:
        return {}
    features = trial.judge.features
    real, known = held_out_features(trial.config, features), known_features(trial, features)
    rows = {"samples": drawn["text, context query+neighbors"], RETURNED: drawn[RETURNED]}
    rates = {}
    for name, seeds in rows.items():
        drawn_features = np.concatenate([features(images) for images in seeds])
        rates[name] = copy_rate(drawn_features, real, known)
    # The distance that counts as a copy is the one below which 1 % of held-out images lie.
    return rates | {"held-out images, by definition": 0.01}
