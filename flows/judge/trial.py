"""Who is compared with whom in an evaluation, on what, and who judges: runs, images, features."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flows.config.judge import EvaluateRDM
from flows.data.database import OpenDatabase
from flows.model.opening import OpenRun, drawn_how
from flows.model.sample import draw
from flows.model.training_data import open_training_data
from rdm_core.clip import Encoder, load_encoder
from rdm_core.context import Context
from rdm_core.data import NO_ROW, TrainingData
from rdm_core.decode import decode
from rdm_core.device import best_device
from rdm_core.families.facts import RunFacts
from rdm_core.features import Features, load_features
from rdm_core.judge.estimates import estimate
from rdm_core.judge.judges import CaptionsJudge, FeaturesJudge, Judge, ShapesJudge, Wish
from rdm_core.retrieve import Retrieved
from storage.artifact import Artifact, open_artifact, with_fingerprint
from storage.errors import ArtifactMismatch, ArtifactMissing
from storage.shards import accepted, read_images, read_sidecar


@dataclass(frozen=True)
class Trial:
    """Who is compared with whom, on what, and who judges."""

    config: EvaluateRDM
    run: OpenRun
    baseline: OpenRun
    database: OpenDatabase
    judge: Judge
    wishes: list[Wish]

    @property
    def prompts(self) -> list[str]:
        """The texts of the wishes."""
        return [wish.prompt for wish in self.wishes]


def judge_of(config: EvaluateRDM, run: OpenRun) -> Judge:
    """Who judges. Raises ArtifactMismatch for the run's own CLIP, and what loading it raises."""
    if config.judge == "shapes":
        return ShapesJudge()
    features = features_of(config, run)
    if config.judge == "captions":
        return CaptionsJudge(held_out_captions(config), features)
    return FeaturesJudge(features)


def features_of(config: EvaluateRDM, run: OpenRun) -> Features:
    """What sets of images are compared in. Raises ArtifactMismatch for the run's own CLIP."""
    if config.extractor.startswith("clip:"):
        another_clip(config.extractor.removeprefix("clip:"), run)
    return load_features(config.extractor)


def held_out_captions(config: EvaluateRDM) -> list[str]:
    """The first caption of every held-out image that has one.

    Raises ArtifactMismatch when there are fewer than prompts are asked for.
    """
    latents = open_artifact(config.root, "latents", config.heldout_latents)
    shards = shards_with(config.root, latents.inputs["shards"])
    captions = []
    for part in shards.parts:
        sidecar = accepted(read_sidecar(shards, part.name, ["key", "status", "captions"]))
        for texts in sidecar["captions"].to_pylist():
            if texts:
                captions.append(texts[0])
    if len(captions) < config.prompts:
        what = f"{len(captions):,} of its images have captions, {config.prompts} are asked for"
        cure = f"Use --set prompts={max(1, len(captions))}, or --set judge=features."
        raise ArtifactMismatch(f"shards/{shards.name}", what, cure)
    return captions


def trained_on(run: Artifact, facts: RunFacts, role: str) -> Any:
    """The version that a run was trained on. Raises ArtifactMismatch when the run does not say."""
    if role not in facts.trained_on:
        what = f"it does not say which {role} it was trained on, as it was converted"
        cure = "Evaluate a run that was trained here; a converted one can be sampled."
        raise ArtifactMismatch(f"runs/{run.name}", what, cure)
    return facts.trained_on[role]


def another_clip(name: str, run: OpenRun) -> Encoder:
    """The CLIP MODEL:WEIGHTS. Raises ArtifactMismatch when the run was conditioned on it: it would
    judge itself.
    """
    model, _, weights = name.partition(":")
    clip = load_encoder(model, weights, best_device())
    if clip.identity == run.facts.encoder:
        what = "it is the encoder the run was conditioned on"
        raise ArtifactMismatch(f"CLIP {name!r}", what, "Name another one.")
    return clip


def draws(trial: Trial, retrieved: Retrieved) -> list[np.ndarray]:
    """The run's images uint8 [wishes, H, W, 3] for what was retrieved, guided, once a seed."""
    return draws_of(trial.config, trial.run, retrieved.context)


def draws_of(
    config: EvaluateRDM, run: OpenRun, context: Context, guidance_scale: float | None = None
) -> list[np.ndarray]:
    """Images uint8 [B, H, W, 3] of some contexts, once a seed; equal seeds in every call."""
    how = drawn_how(run.facts, config.draw)
    if guidance_scale is not None:
        how = replace(how, guidance_scale=guidance_scale)
    drawn = []
    for seed in range(config.seeds):
        # Far apart, so that no two sampling seeds draw from one image seed.
        first = 10_000 * (seed + 1)
        drawn.append(draw(run, context, range(first, first + len(context.vectors)), how))
    return drawn


def estimates(values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Name -> mean of its values [N] with an interval, as evaluation.json holds it."""
    return {name: asdict(estimate(row)) for name, row in values.items()}


def agreements(trial: Trial, drawn: Sequence[np.ndarray]) -> dict[str, Any]:
    """Factor -> share of images that show what was asked for, averaged over seeds first, so that
    prompts are the unit.
    """
    by_seed = [trial.judge.fulfilled(images, trial.wishes) for images in drawn]
    means = {}
    for factor in by_seed[0]:
        means[factor] = np.mean([fulfilled[factor] for fulfilled in by_seed], axis=0)
    return estimates(means)


def database_images(database: OpenDatabase, rows: np.ndarray) -> np.ndarray:
    """The images of some database rows: uint8 [B, H, W, 3]."""
    keys = [credit["key"] for credit in database.credits(rows.tolist())]
    files = database.images(keys)
    return np.stack([decode(files[key]) for key in keys])


def held_out_features(config: EvaluateRDM, features: Features) -> np.ndarray:
    """Features [N, F] of the images nobody was trained on."""
    shards = open_artifact(config.root, "latents", config.heldout_latents).inputs["shards"]
    return features_in(config.root, [shards], features)


def known_features(trial: Trial, features: Features) -> np.ndarray:
    """Features [N, F] of every training and database image."""
    root, run = trial.config.root, trial.run
    latents = trained_on(run.artifact, run.facts, "latents")
    trained = open_artifact(root, "latents", latents.reference).inputs["shards"]
    return features_in(root, [trial.database.embeddings.inputs["shards"], trained], features)


def features_in(root: Path, shards: Sequence[str], features: Features) -> np.ndarray:
    """Features [N, F] of every image of some shards, named by fingerprint; those of equal shards
    once. One part's images are held at a time.
    """
    by_part = []
    for fingerprint in dict.fromkeys(shards):
        for images in images_by_part(root, fingerprint):
            by_part.append(features(images))
    return np.concatenate(by_part)


def images_by_part(root: Path, fingerprint: str) -> Iterator[np.ndarray]:
    """The images of some shards, a part at a time: uint8 [n, H, W, 3]."""
    shards = shards_with(root, fingerprint)
    for part in shards.parts:
        images = [decode(data) for _, data in read_images(shards, part.name)]
        if images:  # a part may hold rejected images alone
            yield np.stack(images)


def shards_with(root: Path, fingerprint: str) -> Artifact:
    """The shards that have a fingerprint. Raises ArtifactMissing."""
    shards = with_fingerprint(root, "shards", fingerprint)
    if shards is None:
        what = f"no shards have the fingerprint {fingerprint}"
        raise ArtifactMissing(f"{root}/shards", what, "Import them again.")
    return shards


def heldout_data(config: EvaluateRDM, run: OpenRun) -> TrainingData:
    """The held-out images with their neighbors in the run's database."""
    trained = trained_on(run.artifact, run.facts, "index")
    references = {
        "latents": config.heldout_latents,
        "neighbors": config.heldout_neighbors,
        "index": trained.reference,
    }
    return open_training_data(config.root, references, run.model.reads)


def nearest_present(rows: np.ndarray) -> np.ndarray:
    """The nearest row of each list of neighbors [N, K]: int64 [N].

    Raises ArtifactMismatch for a list without any.
    """
    empty = np.flatnonzero(rows[:, 0] == NO_ROW)
    if len(empty):
        what = f"{len(empty):,} held-out images have no neighbor, the first is number {empty[0]}"
        raise ArtifactMismatch("neighbors", what, "Find neighbors again, in a larger database.")
    return rows[:, 0]
