"""shards -> autoencoder: checkpoints, metrics, a diffusers folder, reconstructions."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from flows.config.autoencoder import TrainAutoencoder
from flows.model.resume import (
    at_step,
    begun,
    drop,
    say_shards_begun_with,
    shards_begun_with,
    unfinished_alike,
)
from flows.model.shard_images import Divided, ShardImages, divided
from flows.run.artifacts import TrainingProgress, show_image
from flows.run.messages import TrainingFailed
from flows.run.progress import Clock, bar, detail, say
from flows.run.revisions import plan_of, revision_of
from flows.run.signals import heard_later
from flows.run.stage import (
    NETWORK_RETRIES,
    building,
    download,
    kept,
    published,
    single_part,
    stage_flow,
    stage_task,
)
from rdm_core.autoencoders.codebook import CollapsedCodes
from rdm_core.autoencoders.loop import Hooks, train_to_the_end
from rdm_core.autoencoders.measures import (
    deviation_of_latents,
    likeness,
    reconstruct,
    use_of_codes,
)
from rdm_core.autoencoders.train import AutoencoderTraining, State
from rdm_core.device import best_device
from rdm_core.errors import TrainingStopped
from rdm_core.features import ORACLE, Features, load_features
from rdm_core.images import encode, side_by_side
from rdm_core.latents import load_latent_space
from storage.artifact import Artifact, open_artifact
from storage.build import Build, finished_artifact
from storage.errors import BuildRefused, StorageError, explaining_disk_errors
from storage.manifest import Part, Plan, made_from
from storage.runs import (
    METRICS_FILE,
    append_metrics,
    latest_checkpoint,
    read_metrics,
    rewind_metrics,
    write_checkpoint,
)
from storage.unfinished import unfinished

PICTURE = "reconstructions.png"
PICTURED = 16
"""Held-out images in the picture."""
SCALING_IMAGES = 256
"""Of which the latents say how all are scaled."""
LEARNED = ("weights", "metrics")
"""Parts that follow from what is learned alone."""
SECONDS_BETWEEN_LINES = 30.0
NOT_LEARNED = ("shards", "reporting", "device", "measured_images", "features")
"""Parameters that do not change what is learned."""


@stage_flow("train-autoencoder")
def train_autoencoder(config: TrainAutoencoder) -> Artifact:
    """Train an autoencoder on the images of some shards, and measure it on those held out.

    shards --losses--> checkpoints, metrics --running mean--> weights (diffusers folder)
    held-out images --weights--> reconstructions --> error, PSNR, FD, grain, use of codes

    - In `autoencoders`: the diffusers folder, the metrics of every step that was told of, and a
      picture of reconstructions below their originals; what was measured stands in the manifest.
    - Made by `rdm autoencoder` and the deployment train-autoencoder.
    - Read by `rdm encode`, by trainings upstream, and by whatever decodes their latents.
    - Rebuilt when the shards, the network, the training or what is measured is another one; not for
      `reporting` and `device`. Weights stay where only what is measured changes.
    - Resumes from the newest whole checkpoint, on a CPU to the same bits, on the shards it began
      with.
    """
    clock = Clock()
    shards = shards_to_train_on(config)
    with (
        telling_when_to_measure(config),
        building(config.root, autoencoder_plan(config, shards)) as build,
    ):
        if build.finished:
            return kept(build)
        # First what may refuse, then what may take a night.
        images = divided(config, shards)
        try_features(build, config)
        parts = learned_parts(build, config, shards, images)
        picture, measured = measure(build, config, images)
        return published(build, [*parts, *picture], clock, **measured)


def shards_to_train_on(config: TrainAutoencoder) -> Artifact:
    """The version that an unfinished training of these parameters began with, else the current one.

    Raises BuildRefused when the former is gone, ArtifactMissing when there is neither.
    """
    alike = unfinished_alike(config.root, "autoencoders", config.name, all_parameters(config))
    if not alike:
        return open_artifact(config.root, "shards", config.shards)
    with suppress(StorageError):  # what is current may be half rebuilt
        current = open_artifact(config.root, "shards", config.shards)
        asked = autoencoder_plan(config, current)
        begun_on_it = any(training.plan.id == asked.id for training in alike)
        if begun_on_it or finished_artifact(config.root, asked):
            return current
    for training in alike:
        version = shards_begun_with(config.root, training, config.shards)
        # Other features are another plan, though inputs have a say in them too.
        if autoencoder_plan(config, version).id == training.plan.id:
            say_shards_begun_with(config.root, training, version, config.shards)
            return version
    return open_artifact(config.root, "shards", config.shards)


@train_autoencoder.plan
def autoencoder_plan(config: TrainAutoencoder, shards: Artifact | None = None) -> Plan:
    """What is learned, and what is measured; not where it runs, nor what it tells on its way."""
    shards = shards or shards_to_train_on(config)
    parameters = all_parameters(config) | {"features": features_named(config, shards)}
    inputs = {"shards": shards.fingerprint}
    return plan_of("autoencoders", config.name, parameters, inputs)


def all_parameters(config: TrainAutoencoder) -> dict[str, Any]:
    """The parameters of the plan, as far as they do not depend on the shards."""
    parameters = config.parameters("shards", "reporting", "device")
    return parameters | revision_of("autoencoders")


@contextmanager
def telling_when_to_measure(config: TrainAutoencoder) -> Iterator[None]:
    """Where an unfinished training stands in the way that differs in what is measured alone, say
    that this can be changed when it is done.
    """
    try:
        yield
    except BuildRefused as error:
        asked = all_parameters(config)
        for directory in unfinished(config.root, "autoencoders", config.name):
            training = begun(directory)
            if training is not None and _learned(training.plan.parameters) == _learned(asked):
                text = "Finish it with those values first: measuring anew then keeps the weights. "
                text += f"Or take another --name, or drop it: {drop(training)}"
                raise BuildRefused(error.where, error.what, text) from None
        raise


def _learned(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the plan that change what is learned."""
    return {name: value for name, value in parameters.items() if name not in NOT_LEARNED}


def features_named(config: TrainAutoencoder, shards: Artifact) -> str | None:
    """Those asked for; else the oracle for images of the built-in world, and none for others."""
    if config.features is None and shards.parameters.get("source") == "shapes":
        return ORACLE
    return config.features


@stage_task(name="load-features", retries=NETWORK_RETRIES)
def try_features(build: Build, config: TrainAutoencoder) -> None:
    """Load the features that are measured in, from the hub the first time, and let go of them: the
    training wants the memory. Raises EncoderError when there are none.
    """
    features_of(build, config)


def features_of(build: Build, config: TrainAutoencoder) -> Features | None:
    """The features that the plan names, None where it names none."""
    named = build.plan.parameters["features"]
    if named is None:
        return None
    with download():
        return load_features(named, device_of(config))


@stage_task(name="train-autoencoder")
def learned_parts(
    build: Build, config: TrainAutoencoder, shards: Artifact, images: Divided
) -> list[Part]:
    """The weights and the metrics: those of an earlier version that learned the same, or new ones.

    Raises TrainingFailed where a loss is no number, or hardly a code is used.
    """
    how = config.parameters(*NOT_LEARNED) | revision_of("autoencoders")
    of_weights, of_metrics = (made_from(part, how, shards.fingerprint) for part in LEARNED)
    weights = build.existing_part("weights", of_weights)
    metrics = build.existing_part("metrics", of_metrics)
    if weights and metrics:
        return [weights, metrics]
    training = run_training(build, config, images)

    def write_weights(scratch: Path) -> tuple[int, dict[str, int]]:
        model = training.averaged().to(training.device)
        deviation = deviation_of_latents(model, some_of(images.training))
        # Four digits: the last ones are the device's.
        model.register_to_config(scaling_factor=float(f"{1 / max(deviation, 1e-8):.4g}"))
        model.save_pretrained(scratch / "weights")
        return 1, {}

    def write_metrics(scratch: Path) -> tuple[int, dict[str, int]]:
        shutil.copyfile(build.file(METRICS_FILE), scratch / METRICS_FILE)
        return len(read_metrics(scratch / METRICS_FILE)), {}

    return [
        *single_part(build, "weights", write_weights, of_weights),
        *single_part(build, "metrics", write_metrics, of_metrics),
    ]


def some_of(images: ShardImages) -> np.ndarray:
    """SCALING_IMAGES of them, uint8 [N, H, W, 3], evenly from the first to the last."""
    rows = np.linspace(0, len(images) - 1, min(SCALING_IMAGES, len(images)))
    return images[rows.astype(int)]


def run_training(build: Build, config: TrainAutoencoder, images: Divided) -> AutoencoderTraining:
    """The training at its last step, from the newest checkpoint if there is one."""
    run, steps = build.directory, config.autoencoder.steps
    training = AutoencoderTraining(
        config.autoencoder, images.training, config.precision == "bf16", device_of(config)
    )
    checkpoint = latest_checkpoint(run)
    if checkpoint is not None:
        training.restore(checkpoint[1])
        text = f"continues from {at_step(training.done, steps)}"
    else:
        text = f"{steps:,} steps of {config.autoencoder.batch} on {len(images.training):,} images"
    say("autoencoder", config.name, text)
    with explaining_disk_errors(run):
        # The steps since the checkpoint are computed again, and recorded once.
        rewind_metrics(run, training.done)
    try:
        with bar(steps, "autoencoder", "step") as shown:
            shown.update(training.done)
            with heard_later() as stopping:
                hooks = hooks_of(run, config, shown, stopping)
                with saying_where_it_stopped(config):
                    train_to_the_end(training, hooks, config.reporting)
    except (FloatingPointError, CollapsedCodes) as error:
        drop = f"rdm gc --unfinished autoencoders/{config.name}"
        cure = f"What is changed makes another training: take another --name, or drop this: {drop}"
        what = f"autoencoders/{config.name}: {error}".rstrip(".")
        raise TrainingFailed(f"{what}. {cure}") from error
    return training


@contextmanager
def saying_where_it_stopped(config: TrainAutoencoder) -> Iterator[None]:
    """Say it of a training that was asked to stop."""
    try:
        yield
    except TrainingStopped as stopped:
        say("autoencoder", config.name, str(stopped))
        raise


def hooks_of(
    run: Path, config: TrainAutoencoder, shown: Any, stopping: Callable[[], bool]
) -> Hooks:
    """Metrics to the run's file, the bar and Prefect; checkpoints to the run's directory."""
    steps = config.autoencoder.steps
    progress = TrainingProgress(f"autoencoders/{config.name}", steps)
    told_at = time.monotonic()

    def log(record: Mapping[str, float]) -> None:
        nonlocal told_at
        with explaining_disk_errors(run):
            append_metrics(run, record)
        shown.set_postfix_str(f"loss {record['loss']:.4f}", refresh=False)
        progress.watch(dict(record))
        if time.monotonic() - told_at >= SECONDS_BETWEEN_LINES or record["step"] == steps:
            told_at = time.monotonic()
            detail(f"{at_step(int(record['step']), steps)}: loss {record['loss']:.4f}")

    def save(step: int, state: State) -> None:
        with explaining_disk_errors(run):
            write_checkpoint(run, step, state)

    return Hooks(log, save, lambda step: shown.update(step - shown.n), stopping)


@stage_task(name="measure-autoencoder", retries=NETWORK_RETRIES)
def measure(
    build: Build, config: TrainAutoencoder, images: Divided
) -> tuple[list[Part], dict[str, Any]]:
    """The picture of reconstructions, and what was measured on all of them."""
    originals = images.held_out[np.arange(len(images.held_out))]
    model = load_latent_space(str(build.file("weights"))).to(device_of(config)).autoencoder
    made, codes = reconstruct(model, originals)
    measured: dict[str, Any] = {"images": len(originals), **likeness(originals, made)}
    features = features_of(build, config)
    if features is not None:
        from rdm_core.judge.distances import frechet_distance  # seconds, which a kept one need not

        measured["fd"] = frechet_distance(features(made), features(originals))
    if codes is not None:
        measured |= use_of_codes(codes, config.autoencoder.codes)
    deviation = deviation_of_latents(model, originals) * model.config.scaling_factor
    measured["latents_deviation"] = deviation

    def write_picture(scratch: Path) -> tuple[int, dict[str, int]]:
        (scratch / PICTURE).write_bytes(encode(side_by_side(originals, made, most=PICTURED), "png"))
        return min(PICTURED, len(originals)), {}

    parts = single_part(build, "reconstructions", write_picture)
    text = f"Held-out images, and below each what {config.name} makes of it"
    show_image(f"autoencoders/{config.name}", build.file(PICTURE), text)
    return parts, measured


def device_of(config: TrainAutoencoder) -> Any:
    """Where it is trained and measured."""
    import torch

    return best_device() if config.device == "auto" else torch.device("cpu")
