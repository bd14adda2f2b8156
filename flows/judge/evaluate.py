"""Does a model use its neighbors, and what do its pictures look like beside others? The stage: its
plan, what it leaves out and why, and the files it writes.
"""

from pathlib import Path
from typing import Any

import numpy as np

from flows.config.judge import EvaluateRDM
from flows.data.database import index_in_plan
from flows.judge.inputs import Inputs, found_inputs, version_of
from flows.judge.measures import (
    draw_prompts,
    measure_agreement,
    measure_clip_scores,
    measure_copies,
    measure_loss,
    measure_sets,
    measure_swaps,
)
from flows.judge.rows import (
    COPIES_OF_TRAINING,
    JUDGED,
    LEFT_OUT,
    RANDOM,
    RETURNED,
    UNCHECKED,
    WITHOUT,
)
from flows.judge.summary import EVALUATION_FILE, SHEET_FILE, full_table
from flows.judge.trial import Trial, opened_trial
from flows.model.opening import OpenRun, drawn_how
from flows.run.progress import Clock, say
from flows.run.revisions import plan_of
from flows.run.stage import building, kept, published, single_part, stage_flow, stage_task
from rdm_core.images import encode
from storage.artifact import Artifact, with_fingerprint
from storage.atomic import write_json
from storage.build import Build
from storage.checks import images_missing
from storage.errors import ArtifactMissing
from storage.manifest import Plan

CARD_FILE = "model-card.md"
DEMO_MAKES = (
    "`rdm demo` makes everything that an evaluation reads: the run shapes, the held-out images "
    "shapes-heldout, and databases of one style."
)


@stage_flow("evaluate-rdm")
def evaluate_rdm(config: EvaluateRDM) -> Artifact:
    """Held-out loss with right, shuffled and no neighbors; prompt agreement; database swap;
    distances, grain and edges of sets of images; copy rate.

    Beside each: the same network trained without neighbors, the neighbour itself returned as the
    sample, and random images of the database. What cannot be measured is left out, with its reason.

    - In `evaluations`: the figures with their intervals, some held-out images beside what was drawn
      for their neighbors, and the run's model card with the figures.
    - Made by `rdm evaluate` and the demo.
    - Read by the report, `rdm show --full` and SQL.
    - Rebuilt when a run, the held-out images, a database or what is measured is another one.
    - Resumes not at all: it is measured in one piece.
    """
    clock = Clock()
    inputs = inputs_of(config)
    with building(config.root, evaluation_plan(config, inputs)) as build:
        if build.finished:
            return kept(build)
        trial = opened_trial(config, inputs)
        left_out = said(config, what_is_left_out(trial, inputs), inputs.unchecked)
        drawn = draw_prompts(trial)
        tables, sheet = measure_sets(trial)
        index = trial.database.index.measured
        measured = {
            JUDGED: who_judged(config, inputs, trial.images),
            LEFT_OUT: left_out,
            UNCHECKED: list(inputs.unchecked),
            "loss": measure_loss(trial),
            "prompts": measure_agreement(trial, drawn),
            "swaps": measure_swaps(trial),
            "clip scores": measure_clip_scores(trial, drawn),
            **tables,
            "retrieval": {"recall_at_k": index.get("recall_at_k"), "k": index.get("k")},
            "copies": measure_copies(trial, drawn, tables["quality"]),
        }
        parts = [
            *write_evaluation(build, measured, sheet),
            *write_card(build, trial.run, measured),
        ]
        return published(build, parts, clock)


def inputs_of(config: EvaluateRDM) -> Inputs:
    """What an evaluation reads. Raises what `found_inputs` raises; where something is not there it
    says, too, what makes an example of everything.
    """
    try:
        return found_inputs(config)
    except ArtifactMissing as error:
        raise ArtifactMissing(error.where, error.what, f"{error.cure} {DEMO_MAKES}") from error


@evaluate_rdm.plan
def evaluation_plan(config: EvaluateRDM, inputs: Inputs | None = None) -> Plan:
    """What is measured, on what, and by whom. Raises what `inputs_of` raises."""
    found = inputs or inputs_of(config)
    fingerprints = {
        "run": found.run.fingerprint,
        "database": found.fingerprint,
        "heldout_latents": found.latents.fingerprint,
        "heldout_neighbors": found.neighbors.fingerprint,
    }
    if found.baseline is not None:
        fingerprints["baseline"] = found.baseline.fingerprint
    if found.neighbor_images is not None:
        fingerprints["neighbor_images"] = found.neighbor_images.fingerprint
    searched = with_fingerprint(config.root, "embeddings", found.fingerprint)
    fingerprints |= index_in_plan(config.root, "database_index", searched)
    for style, database in found.swaps.items():
        fingerprints[f"swap {style}"] = database.fingerprint
        fingerprints |= index_in_plan(config.root, f"swap {style} index", database)
    left_out = ("run", "baseline", "database", "heldout_latents", "heldout_neighbors", "swaps")
    # As they are used, so that asking for a default by name is the same plan.
    how = drawn_how(found.facts, config.draw).planned()
    used = {"draw": how, "judge": found.judge, "extractor": found.extractor}
    parameters = config.parameters(*left_out, "draw") | used
    return plan_of("evaluations", config.name, parameters, fingerprints)


def who_judged(config: EvaluateRDM, inputs: Inputs, images: int) -> dict[str, Any]:
    """Who was judged, by whom, on how many held-out images: so that a table says what its numbers
    are.
    """
    return {
        "run": version_of(inputs.run),
        "baseline": version_of(inputs.baseline) if inputs.baseline else None,
        "database": inputs.database,
        "held-out images": version_of(inputs.latents),
        "judge": inputs.judge,
        "extractor": inputs.extractor,
        "judge_clip": config.judge_clip,
        "seeds": config.seeds,
        "prompts": config.prompts if inputs.judge != "features" else 0,
        "images": images,
    }


def what_is_left_out(trial: Trial, inputs: Inputs) -> dict[str, str]:
    """What is not measured -> why."""
    config = trial.config
    missing: dict[str, str] = {}
    if trial.baseline is None:
        missing[WITHOUT] = "no baseline is named; changes of the loss are relative to the null"
    if not trial.wishes:
        missing["prompts"] = f"the judge {inputs.judge} has no prompts"
    if inputs.judge != "shapes":
        missing["swaps"] = f"the judge {inputs.judge} knows no styles"
        if config.swaps:
            missing["swaps"] += ": the databases named in swaps are not used"
    elif not config.swaps:
        missing["swaps"] = "no databases of one style are named in swaps"
    if trial.clip is None:
        missing["clip scores"] = "no judge_clip is named"
    if not trial.has_images:
        embeddings = trial.database.embeddings
        why = f"of embeddings/{embeddings.name}: {images_missing(embeddings)[0]}"
        missing |= dict.fromkeys((RETURNED, RANDOM), why)
        if trial.training_shards is None:
            missing["copies"] = f"{why}, and the training images of the run are not known"
    elif trial.training_shards is None:
        missing[COPIES_OF_TRAINING] = training_unknown(trial)
    return missing


def training_unknown(trial: Trial) -> str:
    """Why samples are not compared with training images, and what they are compared with."""
    run = trial.run
    trained = run.facts.trained_on.get("latents")
    why = f"runs/{run.artifact.name} was converted and does not say what it was trained on"
    if trained is not None:
        why = f"the images of latents/{trained.reference} are no longer under this root"
    return f"{why}; copies are counted among database images alone"


def said(config: EvaluateRDM, left_out: dict[str, str], unchecked: tuple[str, ...]) -> dict:
    """What is left out, as it is; said aloud where something that was named is not used, or where
    nobody knows whether the run has seen the held-out images.
    """
    for name, why in left_out.items():
        told = (RETURNED, RANDOM, "copies", COPIES_OF_TRAINING)
        if name in told or (name == "swaps" and config.swaps):
            say("evaluate", config.name, f"{name} left out: {why}")
    for why in unchecked:
        say("evaluate", config.name, f"it may have been trained on the held-out images: {why}")
    return left_out


@stage_task(name="write-evaluation")
def write_evaluation(
    build: Build, measured: dict[str, Any], sheet: np.ndarray | None = None
) -> list[Any]:
    """The figures, evaluation.json; and a contact sheet uint8 [H, W, 3], if there is one."""

    def write(scratch: Path) -> tuple[int, dict[str, int]]:
        write_json(scratch / EVALUATION_FILE, measured)
        if sheet is not None:
            (scratch / SHEET_FILE).write_bytes(encode(sheet, "png"))
        return 1, {}

    return single_part(build, "evaluation", write)


@stage_task(name="write-card")
def write_card(build: Build, run: OpenRun, measured: dict[str, Any]) -> list[Any]:
    """The run's model card with what was measured: the README to publish its weights with."""

    def write(scratch: Path) -> tuple[int, dict[str, int]]:
        card = (run.artifact.file("weights") / "README.md").read_text(encoding="utf-8")
        measurements = f"## Measured\n\n```text\n{full_table(measured)}\n```\n"
        (scratch / CARD_FILE).write_text(f"{card}\n{measurements}", encoding="utf-8")
        return 1, {}

    return single_part(build, "card", write)
