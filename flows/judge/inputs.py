"""What an evaluation reads, found and checked before any weights are loaded: runs, held-out images,
their neighbors, databases, and who judges.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.config.judge import EvaluateRDM
from flows.model.opening import OpenRun, facts_of, same_space
from flows.model.training_data import latents_of_database
from rdm_core.clip import ACCESSORIES, BUILT_IN
from rdm_core.errors import RequestError
from rdm_core.families import config_of
from rdm_core.families.facts import RunFacts
from rdm_core.features import CURE, ORACLE, check_features
from rdm_core.judge.distances import FEWEST
from rdm_core.shapes.encoder import MODEL_NAME
from storage.artifact import Artifact, open_artifact
from storage.checks import same_shards, shards_of
from storage.errors import ArtifactMismatch, ArtifactMissing
from storage.latents import open_latents, refuse_other_latents, side_of


@dataclass(frozen=True)
class Inputs:
    """What an evaluation reads."""

    run: Artifact
    facts: RunFacts
    baseline: Artifact | None
    database: str
    """name@id; it may have been deleted since a run was trained with it."""
    fingerprint: str
    """Of the database."""
    latents: Artifact
    neighbors: Artifact
    judge: str
    extractor: str
    swaps: Mapping[str, Artifact] = field(default_factory=dict)
    """Style -> database; none where the judge tells no styles."""
    neighbor_images: Artifact | None = None
    """The latents of the database's images, where the model reads them."""
    unchecked: tuple[str, ...] = ()
    """Runs whose training images are not known, and why: held-out images may be among them."""


def found_inputs(config: EvaluateRDM) -> Inputs:
    """Find and check them.

    Raises ArtifactMissing where one is not there, ArtifactMismatch where they do not belong
    together or a run has seen the held-out images, and RequestError where nobody can judge.
    """
    root = config.root
    run = open_artifact(root, "runs", config.run)
    baseline = open_artifact(root, "runs", config.baseline) if config.baseline else None
    latents = open_artifact(root, "latents", config.heldout_latents)
    neighbors = open_artifact(root, "neighbors", config.heldout_neighbors)
    facts = facts_of(run)
    database, fingerprint = database_asked_for(config, run, facts)
    images = shards_of(root, latents)
    source = images.parameters.get("source") if images else None
    judge, extractor = who_judges(config, facts, source)
    searched_in(neighbors, database, fingerprint)
    same_shards(root, latents, neighbors)
    fit_for(latents, run, facts)
    unchecked: list[str] = []
    for trained in (run, baseline) if baseline else (run,):
        unchecked += refuse_if_trained_on(config, trained, latents)
    swaps: dict[str, Artifact] = {}
    if judge == "shapes":
        for style, name in config.swaps.items():
            swaps[style] = open_artifact(root, "embeddings", name)
    encoded = None
    if config_of(facts.family).of(facts.model).reads.latents_of_database:
        encoded = latents_of_database(root, neighbors, latents)
    return Inputs(
        run, facts, baseline, database, fingerprint, latents, neighbors, judge, extractor, swaps,
        encoded, tuple(dict.fromkeys(unchecked)),
    )  # fmt: skip


def database_asked_for(config: EvaluateRDM, run: Artifact, facts: RunFacts) -> tuple[str, str]:
    """name@id and fingerprint of the database: the one that is named, or the run's own.

    Raises RequestError where a converted run, which knows none, is given none.
    """
    if config.database is not None:
        database = open_artifact(config.root, "embeddings", config.database)
        return version_of(database), database.fingerprint
    own = facts.trained_on.get("database")
    if own is None:
        what = "it was converted and does not say which database it was trained with"
        raise RequestError(f"runs/{run.name}", what, "Name one of its encoder: --database NAME.")
    return own.reference, own.fingerprint


def version_of(artifact: Artifact) -> str:
    """name@id, by which a version is opened, whatever is built meanwhile."""
    return f"{artifact.name}@{artifact.id}"


def who_judges(config: EvaluateRDM, facts: RunFacts, source: str | None = None) -> tuple[str, str]:
    """The judge, and the features that sets of images are compared in; `source`: of the held-out
    images.

    Raises RequestError where nobody can judge as asked, EncoderError for unknown features.
    """
    judge = config.judge
    if judge is None:
        own = (facts.encoder.get("model"), facts.encoder_weights)
        judge = "captions" if config.judge_clip else "features"
        if own in ((MODEL_NAME, BUILT_IN), (MODEL_NAME, ACCESSORIES)):
            judge = "entities" if source == "entities" else "shapes"
    if judge == "entities" and source != "entities":
        what = f"the held-out images are of the source {source}, and the judge knows entities"
        raise RequestError("judge", what, "Leave it out, or hold out entities: rdm import entities")
    if judge == "captions" and config.judge_clip is None:
        what = "nobody compares pictures with captions: the judge captions needs a CLIP"
        cure = "--set judge_clip=MODEL:WEIGHTS, another than the run's encoder; or judge=features."
        raise RequestError("judge_clip", what, cure)
    if judge == "features" and config.judge_clip is not None:
        what = "the judge features has no prompts, whose pictures a CLIP could score"
        raise RequestError("judge_clip", what, "Leave it out, or --set judge=captions.")
    of_built_in = judge in ("shapes", "entities")
    extractor = ORACLE if of_built_in and config.extractor is None else config.extractor
    if extractor is None:
        what = f"no features are named, in which the judge {judge} compares sets of images"
        cure = f"{CURE} Not the run's encoder, which would judge itself: --set extractor=..."
        raise RequestError("extractor", what, cure)
    check_features(extractor)
    return judge, extractor


def searched_in(neighbors: Artifact, database: str, fingerprint: str) -> None:
    """Raise ArtifactMismatch unless the table's neighbors are rows of the database."""
    if neighbors.inputs.get("database") == fingerprint:
        return
    name = database.partition("@")[0]
    raise ArtifactMismatch(
        f"neighbors/{neighbors.name}",
        f"its neighbors come from a database {neighbors.inputs.get('database')}, "
        f"those of the evaluation from {database}, which is {fingerprint}",
        f"rdm neighbors --name {neighbors.name} --queries ... --database {name}, or name the "
        "database that was searched: --database NAME@<id>.",
    )


def fit_for(latents: Artifact, run: Artifact, facts: RunFacts) -> None:
    """Raise ArtifactMismatch unless the run can be given these latents, and there are enough."""
    space, family = latents.parameters["space"], facts.family
    if not same_space(space, facts.space):
        raise ArtifactMismatch(
            f"latents/{latents.name}",
            f"they are of the latent space {_of_space(space)}, runs/{run.name} works in "
            f"{_of_space(facts.space)}",
            "Encode the held-out images with the run's autoencoder: rdm encode --set "
            "autoencoder=... (of a converted run: the folder weights/autoencoder inside it).",
        )
    refuse_other_latents(latents, config_of(family).of(facts.model).reads.stored, family)
    if latents.rows < FEWEST:
        raise ArtifactMismatch(
            f"latents/{latents.name}",
            f"there are {latents.rows:,} held-out images; sets of fewer than {FEWEST} cannot be "
            "compared",
            "Import and encode more of them.",
        )
    side = side_of(latents)
    if side != facts.latent_side:
        raise ArtifactMismatch(
            f"latents/{latents.name}",
            f"they are of side {side}, runs/{run.name} draws side {facts.latent_side}",
            "Import the held-out images in the size that the run was trained on: --set size=...",
        )


def _of_space(space: Mapping[str, Any]) -> str:
    return f"{space.get('autoencoder')} (weights {space.get('weights_sha256')})"


def refuse_if_trained_on(config: EvaluateRDM, run: Artifact, heldout: Artifact) -> Iterator[str]:
    """Why some training images of a run, or of the run that it started from, are not known.

    Raises ArtifactMismatch when held-out images are among those that are.
    """
    facts = facts_of(run)
    begun_with = facts.trained_on.get("start_from")
    if begun_with is not None:
        begun = unless_deleted(config.root, "runs", begun_with.reference)
        if begun is None:
            yield f"runs/{begun_with.reference}, whose weights {run.name} began with, was deleted"
        else:
            yield from refuse_if_trained_on(config, begun, heldout)
    trained = facts.trained_on.get("latents")
    if trained is None:
        yield f"runs/{run.name} was converted and does not say what it was trained on"
        return
    latents = unless_deleted(config.root, "latents", trained.reference)
    if latents is None:
        yield f"latents/{trained.reference}, which runs/{run.name} was trained on, were deleted"
        return
    seen = set(open_latents(latents)[0])
    keys = open_latents(heldout)[0]
    both = [key for key in keys if key in seen]
    if both:
        raise ArtifactMismatch(
            f"latents/{heldout.name}",
            f"{len(both):,} of its {len(keys):,} images are among those that runs/{run.name} was "
            f"trained on, the first is {both[0]!r}",
            "Name latents of images that no run has seen: --set heldout_latents=...",
        )


def unless_deleted(root: Path, kind: str, reference: str) -> Artifact | None:
    """The artifact; None where there is none of that name."""
    with suppress(ArtifactMissing):
        return open_artifact(root, kind, reference)
    return None


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
