"""latents + neighbors + database -> run: checkpoints, metrics, weights."""

import ctypes
import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from flows.config.sample import SampleRDM
from flows.config.train import TrainRDM
from flows.data.autoencoder import forget_space
from flows.data.database import searched_by
from flows.data.encoders import forget_encoders
from flows.data.upstream import make_missing
from flows.model.facts import run_facts, shape_of
from flows.model.launch import TrainingFailed, launch_command, launch_training, on_gpu
from flows.model.preflight import (
    check_training,
    refuse_database_without_images,
    refuse_what_it_cannot_read,
)
from flows.model.preview import newest_preview, write_preview_neighbors
from flows.model.readable import check_captions
from flows.model.resume import at_step, begun_alike, inputs_begun_with
from flows.model.sample import sample_rdm
from flows.model.start import check_start, run_to_start_from
from flows.model.training_data import latents_of_database
from flows.run.artifacts import TrainingProgress
from flows.run.progress import Clock, say
from flows.run.revisions import plan_of, revision_of
from flows.run.stage import (
    NETWORK_RETRIES,
    Retries,
    building,
    kept,
    published,
    single_part,
    stage_flow,
    stage_task,
)
from rdm_core.families import family_of
from rdm_core.train import set_running_mean
from rdm_core.weights import model_card
from storage.artifact import Artifact, artifacts, is_current, open_artifact, with_fingerprint
from storage.atomic import write_json
from storage.build import Build, finished_artifact
from storage.checks import made_with, same_shards, shards_behind
from storage.embeddings import licence_counts
from storage.errors import StorageError
from storage.index import open_index_of
from storage.manifest import Part, Plan
from storage.runs import (
    METRICS_FILE,
    latest_checkpoint,
    latest_step,
    read_metrics,
    whole_snapshots,
)

NOT_LEARNED = (
    "device", "execution", "machines", "main_process_ip", "main_process_port", "preview",
    "processes", "reporting", "threads", "timeout_seconds", "upstream",
)  # fmt: skip
"""Parameters that do not change what is learned. They say where, how fast and how long the training
runs, how missing inputs are made, and what is shown meanwhile.
"""


@stage_flow("train-rdm")
def train_rdm(config: TrainRDM) -> Artifact:
    """Train p(image | vectors of its k neighbors) and publish the weights; make first what is
    missing upstream.

    latents + neighbors + database --training processes--> checkpoints, metrics
    checkpoints --running mean--> weights (diffusers folder)

    - In `runs`: the weights with `model.json` and a model card, lines of metrics
      (`reporting.log_steps`), and snapshots of means if they are kept. A converted run has the
      weights alone. Checkpoints are there until it is published.
    - Made by `rdm train` and the deployment train-rdm; by `rdm convert` and `rdm average`.
    - Read by sampling, evaluation, averaging, the report, and by trainings that start from it.
    - Rebuilt when the model, the context, the training or an input changes; not for what
      NOT_LEARNED names. An averaged run: its length or the run it is of; a converted one: its file.
    - Resumes from the newest whole checkpoint, to the same bits, on the inputs it began with; it is
      refused when those are gone. Averaged and converted runs are written in one piece.
    """
    clock = Clock()
    # First what may refuse, within seconds; then what may take a night.
    tight = look_ahead(config)
    make_missing(config)
    inputs = inputs_of_run(config)
    with building(config.root, training_plan(config, inputs)) as build:
        if build.finished:
            return kept(build)
        steps, batch = config.training.steps, config.training.batch
        say(
            "train",
            config.name,
            f"{steps:,} steps of {batch} on {inputs['latents'].rows:,} samples",
        )
        if latest_step(build.directory) is None:
            check_captions(config)  # of what has been made since
        run_training(build, config, inputs, tight)
        parts = publish_run(build, config, inputs)
        last = read_metrics(build.file(METRICS_FILE))[-1]
        run = published(build, parts, clock, final_loss=last["loss"])
    if config.preview:
        # A model that reads neighbors whole may have no room for more than it was trained with.
        k = {"k": config.context.k} if config.model.reads.references else {}
        sample_rdm(
            SampleRDM(
                root=config.root,
                name=f"{config.name}-preview",
                run=config.name,
                count=config.preview,
                **k,
            )
        )
    return run


@stage_task(name="preflight", retries=NETWORK_RETRIES)
def look_ahead(config: TrainRDM) -> bool:
    """Refuse what cannot be done here before anything is started, and say what it will need;
    nothing if it is done.

    Returns whether memory is tight.
    """
    with suppress(StorageError):
        if finished_artifact(config.root, training_plan(config)):
            return False
    begins = not begun_alike(config, learned(config))
    if config.start_from is not None and begins:
        check_start(config)  # before a night of imports
    needs = check_training(config)
    if needs is None:
        return False
    if begins:
        refuse_database_without_images(config)
        check_captions(config)
    say("train", config.name, needs.text)
    return needs.tight


def inputs_of_run(config: TrainRDM) -> dict[str, Artifact]:
    """What an unfinished run of this name and these parameters began with, else what is current.

    Raises BuildRefused when it cannot go on from its checkpoint, and what `training_inputs` raises.
    """
    alike = begun_alike(config, learned(config))
    if not alike:
        return say_if_older(config, training_inputs(config))
    with suppress(StorageError):  # what is current may be half rebuilt
        current = training_inputs(config)
        asked = training_plan(config, current)
        begun_on_them = any(run.plan.id == asked.id for run in alike)
        if begun_on_them or finished_artifact(config.root, asked):
            return say_if_older(config, current)
    return inputs_begun_with(config, alike[0])


def training_inputs(config: TrainRDM) -> dict[str, Artifact]:
    """The artifacts of a run, opened and checked to belong together.

    A rebuild makes the table of neighbors last. While one is under way the rest is newer than the
    table: then a name means the version that the table was made from, if that one was made in the
    same way.
    """
    neighbors = open_artifact(config.root, "neighbors", config.neighbors)
    searched_for = shards_behind(config.root, "embeddings", neighbors.inputs["queries"])
    latents = fitting(
        config.root,
        "latents",
        config.latents,
        lambda version: version.inputs["shards"] in searched_for,
    )
    made_from = neighbors.inputs["database"]
    database = fitting(
        config.root,
        "embeddings",
        config.database,
        lambda version: version.fingerprint == made_from,
    )
    index = open_index_of(config.root, database)
    queries = with_fingerprint(config.root, "embeddings", neighbors.inputs["queries"])
    refuse_what_it_cannot_read(config, latents, database, queries)
    made_with(neighbors, "database", database)
    same_shards(config.root, latents, neighbors)
    if config.context.k > neighbors.parameters["k"]:
        raise StorageError(
            f"neighbors/{config.neighbors}",
            f"it stores {neighbors.parameters['k']} neighbors, "
            f"context.k asks for {config.context.k}",
            "Use a smaller k, or find more neighbors: rdm neighbors --set k=...",
        )
    if config.context.score_cap < 1 and searched_by(neighbors) == "words":
        raise StorageError(
            f"neighbors/{config.neighbors}",
            "its scores are of words, and context.score_cap is a cosine",
            "Leave near-duplicates out of the table: rdm neighbors --set score_cap="
            f"{config.context.score_cap}; and train with --set context.score_cap=1.",
        )
    inputs = {"latents": latents, "neighbors": neighbors, "database": database, "index": index}
    if config.model.reads.latents_of_database:
        inputs["neighbor_images"] = latents_of_database(config.root, neighbors, latents)
    if config.start_from is not None:
        inputs["start_from"] = run_to_start_from(config, latents, database)
    return inputs


def fitting(root: Path, kind: str, reference: str, fits: Callable[[Artifact], bool]) -> Artifact:
    """The current version, or the newest one of equal parameters that fits; the current one where
    none does.

    Equal parameters: the same encoder or autoencoder, and nothing that was removed for good comes
    back.
    """
    current = open_artifact(root, kind, reference)
    if "@" in reference or fits(current):
        return current
    newest = None
    for version in artifacts(root, kind, reference):
        if version.parameters == current.parameters and fits(version):
            newest = version
    return open_artifact(root, kind, f"{reference}@{newest.id}") if newest else current


def say_if_older(config: TrainRDM, inputs: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """The inputs as they are; says so where one of them is not the current version of its name."""
    older = []
    for role, reference in {"latents": config.latents, "database": config.database}.items():
        version = inputs[role]
        if "@" not in reference and not is_current(config.root, version):
            older.append(f"{role} {version.name}@{version.id}")
    if older:
        text = f"trains on what its table of neighbors was made from: {', '.join(older)}; "
        text += "newer ones are there, whose neighbors are not found yet "
        say("train", config.name, text + "(a rebuild, or rdm neighbors, does that)")
    return dict(inputs)


@train_rdm.plan
def training_plan(config: TrainRDM, inputs: Mapping[str, Artifact] | None = None) -> Plan:
    """What is learned: model, context, training, and the fingerprints it is learned from; not where
    it runs.
    """
    inputs = inputs or training_inputs(config)
    fingerprints = {role: artifact.fingerprint for role, artifact in inputs.items()}
    # They follow from the inputs, and stand here for those who have the run without its inputs.
    encoder, space = inputs["database"].parameters["encoder"], inputs["latents"].parameters["space"]
    parameters = learned(config) | {"encoder": encoder, "space": space}
    return plan_of("runs", config.name, parameters, fingerprints)


def learned(config: TrainRDM) -> dict[str, Any]:
    """The parameters of a run's plan that its inputs do not bring along."""
    parameters = config.parameters("latents", "neighbors", "database", "start_from", *NOT_LEARNED)
    if not config.training.posthoc_ema:  # what is not kept changes nothing
        del parameters["training"]["posthoc_ema"], parameters["training"]["snapshot_steps"]
    if config.training.optimizer == "adamw":  # once the only one: plans of then stay as they are
        del parameters["training"]["optimizer"]
    # Neither is what came later and is left out.
    for name in ("query_alone", "text_dropout"):
        if not parameters["context"][name]:
            del parameters["context"][name]
    editing = parameters["model"].get("editing")
    if editing is not None and not editing["picture"]:
        del parameters["model"]["editing"]
    return parameters | revision_of("runs")


def ended_from_outside(error: BaseException) -> bool:
    """Whether the training was killed: then a retry resumes it. An error of its own would only come
    again.
    """
    return isinstance(error, TrainingFailed) and error.resumable


@stage_task(
    name="accelerate-launch",
    retries=Retries(ended_from_outside, (5.0, 5.0)),
)
def run_training(
    build: Build, config: TrainRDM, inputs: Mapping[str, Artifact], tight: bool = False
) -> None:
    """Write config.json, the worker's whole instruction, and run the worker until its last step."""
    references = {role: f"{version.name}@{version.id}" for role, version in inputs.items()}
    settings = config.model_dump(mode="json") | {
        "root": str(config.root.resolve()),
        "inputs": references,
        "autoencoder": inputs["latents"].measured["autoencoder_path"],
        "on_gpu": on_gpu(config),
    }
    if config.preview:
        database, count = inputs["database"], config.preview
        write_preview_neighbors(
            config.root, build.directory, references, database, count, config.context.k
        )
    write_json(build.file("config.json"), settings)
    step = latest_step(build.directory)
    if step is not None:
        say("train", config.name, f"continues from {at_step(step, config.training.steps)}")
    # Nobody can start them from here: a person does, with these words.
    for rank in range(1, config.machines):
        command = shlex.join(launch_command(build.directory, config, rank))
        say("train", config.name, f"run on machine {rank}: {command}")
    give_memory_back()
    newest = partial(newest_preview, build.directory)
    progress = TrainingProgress(f"runs/{config.name}", config.training.steps, newest)
    launch_training(build.directory, config, progress.watch, tight)


def give_memory_back() -> None:
    """Let go of what upstream stages have loaded onto the device, and of what they freed without
    the system getting it back: the training is another process, and needs both.
    """
    import torch

    forget_encoders()
    forget_space()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone; 0.7 GB in the demo
    if trim is not None:
        trim(0)


@stage_task(name="publish-weights")
def publish_run(build: Build, config: TrainRDM, inputs: Mapping[str, Artifact]) -> list[Part]:
    """The parts of a run: the weights of the last checkpoint's running mean, the metrics, the
    snapshots if it kept any.
    """
    checkpoint = latest_checkpoint(build.directory)
    assert checkpoint is not None, "the worker saves its last step"
    shape = shape_of(inputs)
    model = family_of(config.model.family).build(config.model, shape)
    set_running_mean(model, checkpoint[1])
    facts = run_facts(config, inputs, shape, model.parameter_count)

    def write_weights(scratch: Path) -> tuple[int, dict[str, int]]:
        (scratch / "weights").mkdir()
        model.save(scratch / "weights", facts)
        card = model_card(config.name, facts, licence_counts(inputs["database"]))
        (scratch / "weights" / "README.md").write_text(card, encoding="utf-8")
        return 1, {}

    def write_metrics(scratch: Path) -> tuple[int, dict[str, int]]:
        shutil.copyfile(build.file(METRICS_FILE), scratch / METRICS_FILE)
        return len(read_metrics(scratch / METRICS_FILE)), {}

    def write_snapshots(scratch: Path) -> tuple[int, dict[str, int]]:
        every, last = config.training.snapshot_steps, config.training.steps
        files = whole_snapshots(build.directory, sorted({*range(every, last, every), last}))
        (scratch / files[0].parent.name).mkdir()
        for path in files:
            os.link(path, scratch / path.parent.name / path.name)  # they may be many and large
        return len(files), {}

    parts = [
        *single_part(build, "weights", write_weights),
        *single_part(build, "metrics", write_metrics),
    ]
    if config.training.posthoc_ema:
        parts += single_part(build, "snapshots", write_snapshots)
    return parts
