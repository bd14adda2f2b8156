"""What a seed of the study is measured on: its runs, opened, and the images they are judged by."""

from dataclasses import dataclass

import numpy as np

from benchmarks.study_runs import (
    Study,
    evaluation_of,
    rival_of,
    twin_of_seed,
    uneven_evaluation_of,
)
from flows.config.judge import EvaluateRDM
from flows.data.database import OpenDatabase
from flows.judge.inputs import same_but_for_neighbors
from flows.judge.trial import Trial, compared_in, images_by_part, trained_on
from flows.model.opening import OpenRun, open_database, open_run
from flows.model.sample import database_of
from rdm_core.judge.copies import Known
from rdm_core.judge.judges import ShapesJudge
from rdm_core.shapes import world
from storage.artifact import open_artifact
from storage.checks import shards_of


@dataclass(frozen=True)
class Learned:
    """A run, opened, and what its images are judged by."""

    evaluation: EvaluateRDM
    run: OpenRun
    database: OpenDatabase
    real: np.ndarray
    """Oracle features of the held-out images [N, F]."""
    known: Known
    """Every training and database image."""


@dataclass(frozen=True)
class Subject(Learned):
    """The runs of a seed, opened, and the images they are judged by."""

    twin: OpenRun
    rival: OpenRun
    uneven: Learned
    """The run in the world where some things are rare."""
    heldout: list[np.ndarray]
    """The held-out images."""
    factors: list[dict[str, str]]
    """What each database image shows."""


def open_subject(config: Study, seed: int) -> Subject:
    """Open the runs of a seed. Raises ArtifactMismatch when twins differ in more than their
    neighbors.
    """
    learned = learned_by(evaluation_of(config, seed))
    twin = open_run(config.root, twin_of_seed(seed))
    same_but_for_neighbors(learned.run, twin)
    database = learned.database
    credits = database.credits(list(range(database.retrieval.rows)))
    held_out = open_artifact(config.root, "latents", learned.evaluation.heldout_latents)
    images = np.concatenate(list(images_by_part(config.root, held_out.inputs["shards"])))
    return Subject(
        **vars(learned),
        twin=twin,
        rival=open_run(config.root, rival_of(seed)),
        uneven=learned_by(uneven_evaluation_of(config, seed)),
        heldout=list(images),
        factors=[world.parse_caption(credit["captions"][0]) for credit in credits],
    )


def learned_by(evaluation: EvaluateRDM) -> Learned:
    """Open a run, its database, and the features of what it is compared with."""
    root = evaluation.root
    run = open_run(root, evaluation.run)
    database = open_database(root, database_of(run), run)
    judge = ShapesJudge()
    of_database = shards_of(root, database.embeddings)
    of_training = trained_on(root, run)
    assert of_database and of_training, "the study has imported both"
    trial = Trial(
        evaluation, run, None, database, judge, [], judge.features,
        database_shards=of_database.fingerprint, training_shards=of_training.fingerprint,
    )  # fmt: skip
    real, known = compared_in(trial, judge.features)
    assert known is not None, "runs of a study say what they were trained on"
    return Learned(evaluation, run, database, real, known)
