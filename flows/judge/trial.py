"""Who is compared with whom in an evaluation, on what, and who judges: runs, images, features."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from flows.config.judge import EvaluateRDM
from flows.data.database import OpenDatabase
from flows.judge.inputs import Inputs, same_but_for_neighbors, unless_deleted, version_of
from flows.model.captions import captions_by_key
from flows.model.given import given
from flows.model.opening import OpenRun, drawn_how, open_database, open_run
from flows.model.readable import refuse_captions
from flows.model.sample import draw
from flows.model.training_data import open_training_data
from rdm_core.clip import Encoder, load_encoder
from rdm_core.context import Context
from rdm_core.data import NO_ROW, TrainingData
from rdm_core.decode import decode
from rdm_core.device import best_device
from rdm_core.features import ORACLE, Features, load_features
from rdm_core.images import centre_square
from rdm_core.judge.copies import Known, known_beside
from rdm_core.judge.distances import FEWEST
from rdm_core.judge.estimates import estimate
from rdm_core.judge.judges import (
    CaptionsJudge,
    EntitiesJudge,
    FeaturesJudge,
    Judge,
    ShapesJudge,
    Wish,
)
from rdm_core.retrieve import Retrieved
from rdm_core.shapes import entities
from storage.artifact import Artifact, open_artifact, with_fingerprint
from storage.checks import images_missing, shards_of
from storage.errors import ArtifactMismatch, ArtifactMissing
from storage.shards import accepted, read_images, read_sidecar, read_some_images

SEEDS_APART = 10_000
"""At least, between the first image seeds of two sampling seeds."""


@dataclass(frozen=True)
class Trial:
    """Who is compared with whom, on what, and who judges."""

    config: EvaluateRDM
    run: OpenRun
    baseline: OpenRun | None
    database: OpenDatabase
    judge: Judge
    wishes: list[Wish]
    features: Features
    """What sets of images are compared in."""
    clip: Encoder | None = None
    """Scores prompted samples."""
    swaps: Mapping[str, OpenDatabase] = field(default_factory=dict)
    """Style -> database that holds only that style."""
    database_shards: str | None = None
    """Fingerprint of the database's images; None where they are not under this root."""
    training_shards: str | None = None
    """Fingerprint of the training images; None where they are not known, or gone."""
    neighbor_images: str | None = None
    """name@id of the latents of the database's images, where the model reads them."""

    @property
    def prompts(self) -> list[str]:
        """The texts of the wishes."""
        return [wish.prompt for wish in self.wishes]

    @cached_property
    def compared_with(self) -> tuple[np.ndarray, Known | None]:
        """The held-out images and every known image, in the features of sets, computed once."""
        return compared_in(self, self.features)

    @cached_property
    def held_out(self) -> TrainingData:
        """The held-out images with their neighbors in the database."""
        return heldout_data(self.config, self.run, self.database, self.neighbor_images)

    @property
    def images(self) -> int:
        """How many held-out images have samples drawn for their neighbors; some may be removed."""
        return min(self.config.quality_images, len(self.held_out))

    @property
    def k(self) -> int:
        """Vectors in the context of a prompt; no more neighbors than the run was trained with where
        it reads them whole.
        """
        if self.run.model.reads.references:
            return min(self.config.k, self.run.facts.k)
        return self.config.k

    @property
    def has_images(self) -> bool:
        """Whether the database's images are under this root; of some, vectors alone were
        published.
        """
        return self.database_shards is not None


def opened_trial(config: EvaluateRDM, inputs: Inputs) -> Trial:
    """The runs with their weights, the databases, the held-out images and the judge: everything in
    the version that the plan names, whatever is built meanwhile.

    Raises ArtifactMismatch where they cannot be compared, or have no captions that the run reads,
    ArtifactMissing where images are gone, and what loading a judge raises: before anything is
    drawn.
    """
    config = in_these_versions(config, inputs)
    run = open_run(config.root, version_of(inputs.run))
    baseline = None
    if inputs.baseline is not None:
        baseline = open_run(config.root, version_of(inputs.baseline))
        same_but_for_neighbors(run, baseline)
    database = open_database(config.root, inputs.database, run)
    features = features_of(inputs.extractor, run)
    clip = another_clip(config.judge_clip, run) if config.judge_clip is not None else None
    judge = judge_of(config, inputs.judge, features)
    if isinstance(judge, ShapesJudge | EntitiesJudge) and inputs.extractor == ORACLE:
        features = judge.features  # the same, so that nothing is computed twice
    wishes = judge.wishes(config.prompts)
    swaps = {}
    for style, artifact in inputs.swaps.items():
        swaps[style] = open_database(config.root, version_of(artifact), run)
    shards, trained = shards_of(config.root, database.embeddings), trained_on(config.root, run)
    trial = Trial(
        config, run, baseline, database, judge, wishes, features, clip, swaps,
        shards.fingerprint if shards else None,
        trained.fingerprint if trained else None,
        version_of(inputs.neighbor_images) if inputs.neighbor_images else None,
    )  # fmt: skip
    held_out = shards_with(config.root, inputs.latents.inputs["shards"])
    if run.model.reads.captions:
        refuse_captions(held_out, captions_by_key(held_out), run.encoder)
    nearest_present(trial.held_out.neighbor_rows[: trial.images])
    return trial


def in_these_versions(config: EvaluateRDM, inputs: Inputs) -> EvaluateRDM:
    """The request with the held-out images and databases that were found, as name@id."""
    found = {style: version_of(artifact) for style, artifact in inputs.swaps.items()}
    versions: dict[str, Any] = {
        "heldout_latents": version_of(inputs.latents),
        "heldout_neighbors": version_of(inputs.neighbors),
        "swaps": config.swaps | found,
    }
    return config.model_copy(update=versions)


def trained_on(root: Path, run: OpenRun) -> Artifact | None:
    """The images that a run was trained on; None where it does not say, or they were deleted."""
    trained = run.facts.trained_on.get("latents")
    latents = unless_deleted(root, "latents", trained.reference) if trained else None
    return shards_of(root, latents) if latents else None


def judge_of(config: EvaluateRDM, name: str, features: Features) -> Judge:
    """The judge of that name. Raises ArtifactMismatch where there are too few captions."""
    if name == "shapes":
        return ShapesJudge()
    if name == "entities":
        return entities_judge(config)
    if name == "captions":
        return CaptionsJudge(held_out_captions(config), features)
    return FeaturesJudge(features)


def features_of(extractor: str, run: OpenRun) -> Features:
    """What sets of images are compared in. Raises ArtifactMismatch for the run's own CLIP."""
    if extractor.startswith("clip:"):
        another_clip(extractor.removeprefix("clip:"), run)
    return load_features(extractor)


def held_out_captions(config: EvaluateRDM) -> list[str]:
    """The first caption of every held-out image that has one. Raises what `_captioned` raises."""
    return [row["captions"][0] for row in _captioned(config, "captions")]


def entities_judge(config: EvaluateRDM) -> EntitiesJudge:
    """A judge of entities, whose wishes are the held-out images'. Raises what `_captioned`
    raises.
    """
    latents = open_artifact(config.root, "latents", config.heldout_latents)
    shards = shards_with(config.root, latents.inputs["shards"])
    wishes = []
    for row in _captioned(config, "entities"):
        shows = dict(label.split("=", 1) for label in row["labels"])
        wishes.append(Wish(row["captions"][0], shows))
    return EntitiesJudge(wishes, entities.group(shards.parameters["entities"]))


def _captioned(config: EvaluateRDM, judge: str) -> list[dict[str, Any]]:
    """Captions and labels of every held-out image that has a caption.

    Raises ArtifactMismatch when there are fewer than prompts are asked for.
    """
    latents = open_artifact(config.root, "latents", config.heldout_latents)
    shards = shards_with(config.root, latents.inputs["shards"])
    captioned = []
    for part in shards.parts:
        columns = ["key", "status", "captions", "labels"]
        sidecar = accepted(read_sidecar(shards, part.name, columns))
        captioned += [row for row in sidecar.to_pylist() if row["captions"]]
    if not captioned:
        what = f"none of its images has a caption, and the judge {judge} takes them for prompts"
        cure = "Use judge=features without judge_clip, or held-out images with captions."
        raise ArtifactMismatch(f"shards/{shards.name}", what, cure)
    if len(captioned) < config.prompts:
        what = f"{len(captioned):,} of its images have captions, {config.prompts} are asked for"
        cure = f"Use --set prompts={len(captioned)}, or judge=features without judge_clip."
        raise ArtifactMismatch(f"shards/{shards.name}", what, cure)
    return captioned


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


def draws(
    trial: Trial, retrieved: Retrieved, database: OpenDatabase | None = None
) -> list[np.ndarray]:
    """The run's images uint8 [wishes, H, W, 3] for what was retrieved, guided, once a seed."""
    return draws_of(trial.config, trial.run, prompted(trial, retrieved, database))


def prompted(trial: Trial, retrieved: Retrieved, database: OpenDatabase | None = None) -> Context:
    """The contexts of the wishes: what was retrieved, from the trial's database unless from
    another, and each wish's own text, as the run's model reads them.
    """
    return given(trial.run, retrieved, database or trial.database, trial.prompts)


def draws_of(
    config: EvaluateRDM, run: OpenRun, context: Context, guidance_scale: float | None = None
) -> list[np.ndarray]:
    """Images uint8 [B, H, W, 3] of some contexts, once a seed; equal seeds in every call."""
    how = drawn_how(run.facts, config.draw)
    if guidance_scale is not None:
        how = replace(how, guidance_scale=guidance_scale)
    drawn = []
    for seed in range(config.seeds):
        drawn.append(draw(run, context, image_seeds(seed, len(context.vectors)), how))
    return drawn


def image_seeds(seed: int, count: int) -> range:
    """The seeds of `count` images; no two sampling seeds share one."""
    apart = max(SEEDS_APART, count)
    return range(apart * (seed + 1), apart * (seed + 1) + count)


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
    """The images of some database rows: uint8 [B, H, W, 3]. Raises ArtifactMissing where they are
    not under this root.
    """
    embeddings = database.embeddings
    if shards_of(database.root, embeddings) is None:
        raise ArtifactMissing(f"embeddings/{embeddings.name}", *images_missing(embeddings))
    keys = [credit["key"] for credit in database.credits(rows.tolist())]
    files = database.images(keys)
    return np.stack([decode(files[key]) for key in keys])


def held_out_images(config: EvaluateRDM, keys: Sequence[str]) -> np.ndarray:
    """The held-out images of some keys: uint8 [B, H, W, 3]."""
    latents = open_artifact(config.root, "latents", config.heldout_latents)
    files = read_some_images(shards_with(config.root, latents.inputs["shards"]), keys)
    return np.stack([decode(files[key]) for key in keys])


def at_side(images: np.ndarray, side: int) -> np.ndarray:
    """Images uint8 [B, H, W, 3] as squares of a side, uint8 [B, side, side, 3]: grain and edges are
    compared at one size.
    """
    if images.shape[1:3] == (side, side):
        return images
    return np.stack([centre_square(image, side) for image in images])


def compared_in(trial: Trial, features: Features) -> tuple[np.ndarray, Known | None]:
    """Features [M, F] of the held-out images, and every known image; None where none is."""
    real, known = held_out_features(trial.config, features), known_features(trial, features)
    return real, None if known is None else known_beside(known, real)


def held_out_features(config: EvaluateRDM, features: Features) -> np.ndarray:
    """Features [N, F] of the images nobody was trained on."""
    shards = open_artifact(config.root, "latents", config.heldout_latents).inputs["shards"]
    return features_in(config.root, [shards], features)


def known_features(trial: Trial, features: Features) -> np.ndarray | None:
    """Features [N, F] of every training and database image that is under this root; None where
    none is.
    """
    shards = [known for known in (trial.database_shards, trial.training_shards) if known]
    return features_in(trial.config.root, shards, features) if shards else None


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


def heldout_data(
    config: EvaluateRDM, run: OpenRun, database: OpenDatabase, neighbor_images: str | None = None
) -> TrainingData:
    """The held-out images with their neighbors in the database, and with the images of these where
    their latents are named.

    Raises ArtifactMismatch where too few are left to compare, as some were removed.
    """
    references = {
        "latents": config.heldout_latents,
        "neighbors": config.heldout_neighbors,
        "index": version_of(database.index),
    }
    if neighbor_images is not None:
        references["neighbor_images"] = neighbor_images
    reads = run.model.reads
    encoder = run.encoder if reads.captions else None
    data = open_training_data(config.root, references, reads, encoder)
    if len(data) < FEWEST:
        what = f"{len(data)} held-out images are left; fewer than {FEWEST} cannot be compared"
        cure = "Import, embed and encode more of them."
        raise ArtifactMismatch(f"latents/{config.heldout_latents}", what, cure)
    return data


def nearest_present(rows: np.ndarray) -> np.ndarray:
    """The nearest row of each list of neighbors [N, K]: int64 [N].

    Raises ArtifactMismatch for a list without any.
    """
    empty = np.flatnonzero(rows[:, 0] == NO_ROW)
    if len(empty):
        what = f"{len(empty):,} held-out images have no neighbor, the first is number {empty[0]}"
        raise ArtifactMismatch("neighbors", what, "Find neighbors again, in a larger database.")
    return rows[:, 0]
