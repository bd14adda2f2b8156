"""What a run will need, checked before its first stage: weights, disk, memory, hours.

A training that asks for 600 GB, or for weights that nobody can reach, is refused in a minute and
not after a night of imports. One message says everything that is wrong; where nothing is, one line
says what is needed.
"""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from flows.config.database import EncodeLatents
from flows.config.train import TrainRDM
from flows.data.autoencoder import space_of
from flows.data.encode_latents import encoded_how
from flows.data.encoders import encoder_for
from flows.data.space_needed import (
    PreflightFailed,
    bytes_of_image,
    bytes_of_row,
    check_images,
    disk_problem,
    free_bytes,
    image_count,
    in_gb,
)
from flows.data.upstream import embedding, found
from flows.model.launch import on_gpu
from flows.model.training_data import latents_encoded_so
from rdm_core.families.facts import Shape
from rdm_core.latents import PIXELS, LatentSpace
from rdm_core.needs import (
    DOES_NOT_BUILD,
    MemoryNeeded,
    device_memory_bytes,
    measured_rate,
    memory_needed,
    training_hours,
)
from storage.artifact import Artifact, with_fingerprint
from storage.checks import shards_behind, vectors_of_images
from storage.errors import ArtifactMismatch
from storage.latents import refuse_other_latents, side_of
from storage.runs import CHECKPOINTS_KEPT

KEPT_BY_GLIBC = 2.5
"""A process on a CPU was measured to grow to up to so many times the bytes that it uses at once, as
glibc keeps freed memory: benchmarks/memory_estimate.py.
"""


@dataclass(frozen=True)
class TrainingNeeds:
    """What one training needs, and what there is."""

    memory: MemoryNeeded
    device: str
    device_bytes: int
    disk_bytes: int
    free_bytes: int
    hours: float | None
    """At the rate that was measured; None where the network does not fit."""

    @property
    def tight(self) -> bool:
        """On a CPU: whether it only fits if freed memory goes back at once, which glibc does not do
        by itself.
        """
        return self.device == "cpu" and self.memory.peak_bytes * KEPT_BY_GLIBC > self.device_bytes

    @property
    def text(self) -> str:
        """In one line."""
        device = f"{in_gb(self.device_bytes)} of {self.device}"
        memory = f"{in_gb(self.memory.peak_bytes)} of the {device}"
        disk = f"{in_gb(self.disk_bytes)} of the {in_gb(self.free_bytes)} free on the disk"
        text = f"needs {memory} ({self.memory.parameters / 1e6:.1f} M parameters), {disk}"
        if self.hours is not None:
            text += f", {hours_text(self.hours)} at the rate measured now"
        return text


def check_training(config: TrainRDM) -> TrainingNeeds | None:
    """Look at everything a training needs. None where its images are not even described: its first
    stage refuses that.

    Loads the encoder and the autoencoder if something has to be made with them. Raises
    PreflightFailed, RequestError for a library that is not installed, or what loading raises.
    """
    config.model.check_installed()
    shape = shape_of(config)
    if shape is None:
        return None
    needs = training_needs(config, shape)
    # Both problems are collected, so that nobody cures one and then meets the other.
    problems = []
    if needs.memory.peak_bytes > needs.device_bytes:
        what = f"memory: {in_gb(needs.memory.peak_bytes)} at the peak, "
        what += f"{needs.device} has {in_gb(needs.device_bytes)}"
        problems.append(f"{what}; {cure_of_memory(config, shape, needs.device_bytes)}")
    if needs.disk_bytes > needs.free_bytes:
        problems.append(disk_problem(config.root, needs.disk_bytes, needs.free_bytes))
    if problems:
        raise PreflightFailed(
            f"train {config.name}", "; ".join(problems), "Nothing has been started."
        )
    return needs


def shape_of(config: TrainRDM) -> Shape | None:
    """From the artifacts that are there, else from what they would be made with; None where nothing
    says.
    """
    latents = found(config, "latents", config.latents)
    database = found(config, "embeddings", config.database)
    refuse_what_it_cannot_read(config, latents, database)
    size = side_of_images(config) if latents is None else None
    if latents is None and size is None:
        return None
    if database is None:
        dimension = encoder_for(embedding(config, config.database, config.latents)).dimension
    else:
        dimension = database.parameters["encoder"]["dimension"]
    if latents is not None:
        return Shape(latents.parameters["space"]["channels"], side_of(latents), dimension)
    assert size is not None, "returned above"
    space = space_of(config.root, config.upstream.autoencoder)
    # raises for what the autoencoder cannot be stored as
    stored, wanted = space.storing(config.upstream.stored), config.model.reads.stored
    if stored not in wanted:
        what = f"{stored} would be stored, and {config.model.family} is trained on {wanted[0]}"
        cure = f"Use --set upstream.stored={wanted[0]}. Nothing has been started."
        raise PreflightFailed(f"train {config.name}", what, cure)
    return Shape(space.channels, size // space.factor, dimension)


def side_of_images(config: TrainRDM) -> int | None:
    """The side in pixels of the images that latents would be made of; None where nothing says.

    Raises PreflightFailed for images that would be imported and are not there.
    """
    shards = found(config, "shards", config.latents)
    if shards is not None:
        return int(shards.parameters["size"])
    images = config.upstream.images
    if images is None:
        return None
    check_images(images, f"train {config.name}")
    return images.size


def refuse_what_it_cannot_read(
    config: TrainRDM,
    latents: Artifact | None,
    database: Artifact | None,
    queries: Artifact | None = None,
) -> None:
    """Refuse latents that the model's family is not trained on, and vectors of captions where the
    model takes them for vectors of images.

    An artifact is None where it will be made first, as `config.upstream` says. Raises
    PreflightFailed or ArtifactMismatch.
    """
    upstream, reads, family = config.upstream, config.model.reads, config.model.family
    where, cure = f"train {config.name}", "Leave it out. Nothing has been started."
    if latents is not None:
        refuse_other_latents(latents, reads.stored, family)
        refuse_another_codebook(config, latents)
    elif upstream.stored is not None and upstream.stored not in reads.stored:
        wanted = " or ".join(reads.stored)
        what = f"upstream.stored={upstream.stored}, and {family} is trained on {wanted}"
        raise PreflightFailed(where, what, cure)
    choices = config.model.image_vectors_only
    if choices and database is None and upstream.of != "image":
        settings = ", ".join(f"model.{choice.setting}" for choice in choices)
        what = f"upstream.of={upstream.of}, and the model wants vectors of images ({settings})"
        raise PreflightFailed(where, what, cure)
    embeddings = {"database": database, "queries": queries}
    for choice in choices:
        made_already = embeddings[choice.of]
        if made_already is not None:
            instead = f"train with model.{choice.setting}=false"
            vectors_of_images(made_already, choice.why, instead)


def refuse_database_without_images(config: TrainRDM) -> None:
    """Refuse a database that is there and whose images are not encoded, where the model reads them;
    nothing encodes them on the way, unless they are the training images.

    Raises ArtifactMissing.
    """
    database = found(config, "embeddings", config.database)
    if not config.model.reads.latents_of_database or database is None:
        return
    table = found(config, "neighbors", config.neighbors)
    searched = table.inputs["database"] if table is not None else database.fingerprint
    if table is not None and with_fingerprint(config.root, "embeddings", searched) is None:
        return  # the table is of another database: the training says so
    latents = found(config, "latents", config.latents)
    if latents is not None:
        autoencoder = latents.measured["autoencoder_path"]
        latents_encoded_so(config.root, searched, latents.parameters, autoencoder)
        return
    own = found(config, "shards", config.latents)
    behind = shards_behind(config.root, "embeddings", searched)
    if own is not None and own.fingerprint in behind:
        return
    are_here = any(with_fingerprint(config.root, "shards", shards) for shards in behind)
    if own is None and behind and not are_here:
        return  # what is imported now may be just these
    latents_encoded_so(config.root, searched, _latents_to_make(config), config.upstream.autoencoder)


def _latents_to_make(config: TrainRDM) -> dict[str, Any]:
    """The parameters of the latents that `config.upstream` describes."""
    made = config.upstream.autoencoding()
    names = {"name": config.latents, "shards": config.latents}
    return encoded_how(EncodeLatents(root=config.root, **names, **made))


def refuse_another_codebook(config: TrainRDM, latents: Artifact) -> None:
    """Refuse codes of a codebook that has another number of entries than the model is built for.

    Raises ArtifactMismatch.
    """
    if config.model.codebook is None:
        return
    space = space_of(config.root, latents.measured["autoencoder_path"])
    entries = len(space.codebook)
    if entries != config.model.codebook:
        what = f"the codebook of {space.name!r} has {entries:,} entries"
        what += f", and model.codes is {config.model.codebook:,}"
        raise ArtifactMismatch(f"latents/{latents.name}", what, f"Use --set model.codes={entries}")


def training_needs(config: TrainRDM, shape: Shape) -> TrainingNeeds:
    """Memory by estimate, hours by measuring, disk by counting.

    Raises PreflightFailed for a network that its latents do not fit, and for a device that
    something else fills.
    """
    where = f"train {config.name}"
    try:
        memory = _memory(config, shape)
    except DOES_NOT_BUILD as error:
        # what torch says of a network that its latents do not fit
        latents = f"latents of {shape.channels} x {shape.side} x {shape.side}"
        what = f"the network cannot be built for {latents}: {error}"
        raise PreflightFailed(
            where, what, "Change model or training. Nothing has been started."
        ) from error
    device = _device(config)
    # The processes of one machine share the memory of a CPU, and each has a GPU of its own.
    sharing = config.processes if device.type == "cpu" else 1
    available = device_memory_bytes(device) // sharing
    hours = None
    if memory.peak_bytes <= available:
        try:
            rate = rate_on(device, _training_described(config, shape))
        except RuntimeError as error:
            what = f"memory: {in_gb(memory.peak_bytes)} would fit into {device}, "
            what += f"but it cannot be had: {error}"
            cure = "See who uses the device (nvidia-smi). Nothing has been started."
            raise PreflightFailed(where, what, cure) from error
        hours = training_hours(config.training, rate, config.processes * config.machines // sharing)
    return TrainingNeeds(
        memory, str(device), available, disk_bytes(config, memory), free_bytes(config.root), hours
    )


def rate_on(device: Any, described: tuple[Any, ...]) -> float:
    """Images a second. On a GPU it is measured in a process of its own, which gives the memory of
    the GPU back when it ends.
    """
    if device.type == "cpu":
        return measured_rate(*described)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
        return apart.submit(measured_rate, *described).result()


def cure_of_memory(config: TrainRDM, shape: Shape, available: int) -> str:
    """The first change of how the loop runs that fits, or what else could be changed."""
    share = config.training.batch // (config.processes * config.machines)
    for accumulate, checkpointing in _executions(share):
        execution = replace(
            config.execution, accumulate=accumulate, gradient_checkpointing=checkpointing
        )
        changed = config.model_copy(update={"execution": execution})
        if _memory(changed, shape).peak_bytes <= available:
            cure = f"it fits with --set execution.accumulate={accumulate}"
            return f"{cure} --set execution.gradient_checkpointing=true" if checkpointing else cure
    others = "take a smaller network, latents of an autoencoder, or precision bf16"
    return f"it does not fit one image at a time: {others}"


def disk_bytes(config: TrainRDM, memory: MemoryNeeded) -> int:
    """What the run writes: checkpoints, one of them while it replaces another, weights, and what is
    made upstream.
    """
    run = bytes_of_run(memory)
    images = config.upstream.images
    if images is None or found(config, "latents", config.latents):
        return run
    if found(config, "shards", config.latents):
        return run
    # Each crop once in a shard and once as a latent, and its row of embeddings and neighbors.
    # 1024 is the widest encoder that is usual; the images lie in shards and again as latents.
    rows = images.crops_per_image * bytes_of_row(1024, config.upstream.k)
    return run + image_count(images) * (2 * bytes_of_image(images) + rows)


def bytes_of_run(memory: MemoryNeeded) -> int:
    """What a run itself writes: checkpoints, one of them while it replaces another, and weights."""
    # Weights are float32: 4 bytes a parameter.
    return (CHECKPOINTS_KEPT + 1) * memory.checkpoint_bytes + 4 * memory.parameters


def hours_text(hours: float) -> str:
    """In the unit that suits."""
    minutes = round(60 * hours)
    if minutes < 2:
        return "a minute or less"
    if hours > 1000:
        return f"{hours / 24 / 365.25:.1f} years"
    return f"{minutes} minutes" if minutes < 60 else f"{hours:.1f} hours"


def encodes_while_training(config: TrainRDM) -> LatentSpace | None:
    """The space whose autoencoder encodes the images of every step, as the images themselves are
    stored behind it; None where nothing is encoded.
    """
    latents = found(config, "latents", config.latents)
    if latents is None:
        autoencoder, stored = config.upstream.autoencoder, config.upstream.stored
    else:
        autoencoder, stored = latents.measured["autoencoder_path"], latents.parameters.get("stored")
    if stored != PIXELS or autoencoder == PIXELS:
        return None
    return space_of(config.root, autoencoder)


def _memory(config: TrainRDM, shape: Shape) -> MemoryNeeded:
    asked = (*_training_described(config, shape), encodes_while_training(config))
    return memory_needed(*asked)


def _training_described(config: TrainRDM, shape: Shape) -> tuple[Any, ...]:
    """The arguments that the functions of rdm_core.needs take."""
    return (
        config.model,
        config.training,
        config.execution,
        config.context.k,
        shape,
        _device(config),
        config.processes * config.machines,
    )


def _device(config: TrainRDM) -> Any:
    import torch

    return torch.device("cuda" if on_gpu(config) else "cpu")


def _executions(share: int) -> Iterator[tuple[int, bool]]:
    """Ways to run the loop, the fastest first: (pieces of a batch, gradient checkpointing). Only
    numbers of pieces that divide a process's share of the batch.
    """
    for checkpointing in (False, True):
        pieces = 1  # then 2, 4, 8, ...
        while pieces <= share:
            if share % pieces == 0:
                yield pieces, checkpointing
            pieces *= 2
