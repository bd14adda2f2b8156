"""What a preset would take from images to a run: disk, memory and hours of every stage, at the
rates of this machine. Nothing is built, and no weights are fetched: rates are those of networks of
the same form with random weights.
"""

import os
from dataclasses import dataclass
from typing import Any

from flows.config.images import DataSet
from flows.config.plan import PlanPreset, changed
from flows.config.presets import HUB_AUTOENCODER, PRESETS
from flows.config.published import BYTES_OF_IMAGE
from flows.config.train import TrainRDM
from flows.data.autoencoder import space_of
from flows.data.space_needed import bytes_of_image, bytes_of_row, free_bytes, in_gb
from flows.model.preflight import bytes_of_run, hours_text, training_needs
from flows.run.progress import say
from flows.run.terminal import Answer
from rdm_core import rates
from rdm_core.clip import Encoder
from rdm_core.device import best_device
from rdm_core.errors import RequestError
from rdm_core.families.facts import Shape
from rdm_core.latents import LatentSpace


@dataclass(frozen=True)
class StageNeeds:
    """What one stage takes."""

    name: str
    disk_bytes: int
    hours: float | None
    """None where it cannot be done here."""
    rate: str
    """In words: so many a second, and where."""
    memory_bytes: int | None = None
    """At the peak, where it is estimated."""


def outlook(config: PlanPreset) -> Answer:
    """The stages of a preset as a table, and as data.

    Raises RequestError for a preset that does not say which images it is for.
    """
    if config.preset not in PRESETS:
        known = ", ".join(name for name, preset in PRESETS.items() if "upstream" in preset)
        raise RequestError("preset", f"there is no {config.preset!r}", f"Take one of {known}.")
    preset = changed(PRESETS[config.preset], config.steps)
    if "upstream" not in preset:
        what = f"{config.preset!r} does not say which images it is for"
        raise RequestError("preset", what, "See `rdm train --dry-run` for it.")
    names = dict.fromkeys(("name", "latents", "neighbors", "database"), config.preset)
    training = TrainRDM(root=config.root, **names, **preset)  # type: ignore[arg-type]
    stages = stages_of(training, config.images, config.seconds)
    fetching = _fetching(training, config.images, config.megabits_per_second)
    if fetching is not None:
        stages.insert(0, fetching)
    total = sum(stage.disk_bytes for stage in stages)
    hours = sum(stage.hours or 0 for stage in stages)
    free = free_bytes(config.root)
    value = {
        "preset": config.preset,
        "images": config.images,
        "stages": [vars(stage) for stage in stages],
        "disk_bytes": total,
        "free_bytes": free,
        "hours": hours,
    }
    lines = [f"{'stage':<10} {'disk':>10} {'memory':>10} {'time':>16}  rate"]
    for stage in stages:
        memory = "" if stage.memory_bytes is None else in_gb(stage.memory_bytes)
        taken = "" if stage.hours is None else hours_text(stage.hours)
        disk = in_gb(stage.disk_bytes)
        lines.append(f"{stage.name:<10} {disk:>10} {memory:>10} {taken:>16}  {stage.rate}")
    enough = "" if total < free else ": too little"
    lines.append(f"{'all':<10} {in_gb(total):>10} {'':>10} {hours_text(hours):>16}")
    lines.append(f"{in_gb(free)} are free at {config.root}{enough}")
    return "\n".join(lines), value


def stages_of(config: TrainRDM, count: int, seconds: float) -> list[StageNeeds]:
    """What each stage takes for so many images; each rate is measured for some seconds."""
    upstream, images = config.upstream, config.upstream.images
    assert isinstance(images, DataSet), "the preset says which"
    device = best_device()
    crops = count * images.crops_per_image
    say("plan", config.name, "measures importing, encoder, autoencoder and training")
    encoder = rates.encoder_like(upstream.encoder, upstream.weights, device)
    space = _space_like(config.root, upstream.autoencoder).to(device)
    return [
        _importing(images, count, seconds),
        _embedding(config, encoder, crops, seconds),
        StageNeeds(
            "neighbors", 0, rates.search_seconds(crops, encoder.dimension, upstream.k) / 3600,
            f"every image with {crops:,} others",
        ),
        _encoding(config, space, crops, seconds),
        _training(config, Shape(space.channels, images.size // space.factor, encoder.dimension)),
    ]  # fmt: skip


def where() -> str:
    """What computes here, in words."""
    device = best_device()
    if device.type == "cuda":
        import torch

        return str(torch.cuda.get_device_name(device))
    return f"{len(os.sched_getaffinity(0))} cores"


def _fetching(config: TrainRDM, count: int, megabits_per_second: float) -> StageNeeds | None:
    """What `rdm acquire` takes for images that are not here yet; None for those it has not."""
    images = config.upstream.images
    assert isinstance(images, DataSet), "asked before"
    if images.source not in BYTES_OF_IMAGE:
        return None
    fetched_bytes = count * BYTES_OF_IMAGE[images.source]
    hours = fetched_bytes * 8 / (megabits_per_second * 1e6) / 3600
    told = f"rdm acquire {images.source}, at {megabits_per_second:g} Mbit/s: not measured"
    # wikiart's archive is unpacked beside itself
    disk = fetched_bytes * (2 if images.source == "wikiart" else 1)
    return StageNeeds("fetch", disk, hours, told)


def _importing(images: DataSet, count: int, seconds: float) -> StageNeeds:
    cut = rates.windows_of(images.size, images.crop, images.crops_per_image, images.frame)
    cores = len(os.sched_getaffinity(0))
    rate = cores * rates.import_rate(cut, images.encoding, images.quality, seconds)
    told = f"{rate:.0f} images/s, {cores} cores"
    return StageNeeds("import", count * bytes_of_image(images), count / rate / 3600, told)


def _embedding(config: TrainRDM, encoder: Encoder, crops: int, seconds: float) -> StageNeeds:
    images = config.upstream.images
    assert images is not None, "asked before"
    rate = rates.embedding_rate(encoder, images.size, seconds)
    disk = crops * bytes_of_row(encoder.dimension, config.upstream.k)
    return StageNeeds("embed", disk, crops / rate / 3600, f"{rate:.1f} images/s, {where()}")


def _encoding(config: TrainRDM, space: LatentSpace, crops: int, seconds: float) -> StageNeeds:
    images = config.upstream.images
    assert images is not None, "asked before"
    side = images.size // space.factor
    disk = crops * space.bytes_per_place(config.upstream.stored) * side * side
    if space.autoencoder is None:
        return StageNeeds("encode", disk, 0.0, "pixels as they are")
    rate = rates.encoding_rate(space, images.size, seconds)
    return StageNeeds("encode", disk, crops / rate / 3600, f"{rate:.2g} images/s, {where()}")


def _training(config: TrainRDM, shape: Shape) -> StageNeeds:
    needs = training_needs(config, shape)
    told = f"does not fit: {needs.device} has {in_gb(needs.device_bytes)}"
    if needs.hours is not None:
        steps, batch = config.training.steps, config.training.batch
        rate = steps * batch / needs.hours / 3600
        told = f"{steps:,} steps of {batch}, {rate:.2g} images/s, {where()}"
    peak = needs.memory.peak_bytes
    return StageNeeds("train", bytes_of_run(needs.memory), needs.hours, told, peak)


def _space_like(root: Any, autoencoder: str) -> LatentSpace:
    """The latent space; for the hub's autoencoder one of its form, with random weights."""
    if autoencoder == HUB_AUTOENCODER:
        return rates.usual_space(autoencoder)
    return space_of(root, autoencoder)
