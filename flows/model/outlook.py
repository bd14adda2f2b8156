"""What a preset would take from images to a run: disk, memory and hours of every stage, at the
rates of this machine. Nothing is built, and no weights are fetched: rates are those of networks of
the same form with random weights.
"""

import io
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from flows.config.images import Drawn
from flows.config.plan import PlanPreset, changed
from flows.config.presets import HUB_AUTOENCODER, PRESETS
from flows.config.train import TrainRDM
from flows.data.autoencoder import space_of
from flows.data.space_needed import bytes_of_image, bytes_of_row, free_bytes, in_gb
from flows.model.preflight import bytes_of_run, hours_text, training_needs
from flows.run.progress import say
from flows.run.terminal import Answer
from rdm_core.clip import BUILT_IN, Encoder, load_encoder
from rdm_core.decode import decode
from rdm_core.device import best_device
from rdm_core.errors import RequestError
from rdm_core.families.facts import Shape
from rdm_core.images import crop_windows, encode
from rdm_core.latents import LatentSpace
from rdm_core.search import search_exact

PHOTOGRAPH = (480, 640)
"""Height and width of the photograph that importing is measured with: COCO's."""
QUERIES, ROWS = 256, 20_000
"""Of the search that the search of all is reckoned from."""


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
    assert images is not None, "the preset says which"
    cores, device = len(os.sched_getaffinity(0)), best_device()
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{cores} cores"
    crops = count * images.crops_per_image
    stages = []
    if not isinstance(images, Drawn):
        say("plan", config.name, "measures importing")
        rate = cores * per_second(lambda: _imported(images), 1, seconds)
        stages.append(
            StageNeeds("import", count * bytes_of_image(images), count / rate / 3600,
                       f"{rate:.0f} images/s, {cores} cores")
        )  # fmt: skip
    say("plan", config.name, "measures the encoder")
    encoder = _encoder_like(upstream.encoder, upstream.weights, device)
    pictures = _pictures(images.size, 16)
    rate = per_second(lambda: encoder.encode_images(pictures), len(pictures), seconds)
    row = bytes_of_row(encoder.dimension, upstream.k)
    stages.append(
        StageNeeds("embed", crops * row, crops / rate / 3600, f"{rate:.1f} images/s, {on}")
    )
    seconds_of_search = _search_seconds(encoder.dimension, upstream.k) * (crops / QUERIES)
    hours = seconds_of_search * (crops / ROWS) / 3600
    stages.append(StageNeeds("neighbors", 0, hours, f"every image with {crops:,} others"))
    space = _space_like(config.root, upstream.autoencoder).to(device)
    side = images.size // space.factor
    stored = crops * space.bytes_per_place(upstream.stored) * side * side
    if space.autoencoder is None:
        stages.append(StageNeeds("encode", stored, 0.0, "pixels as they are"))
    else:
        say("plan", config.name, "measures the autoencoder")
        few = _pictures(images.size, 2)
        rate = per_second(lambda: space.encode(few), len(few), seconds)
        stages.append(
            StageNeeds("encode", stored, crops / rate / 3600, f"{rate:.1f} images/s, {on}")
        )
    say("plan", config.name, "measures the training")
    needs = training_needs(config, Shape(space.channels, side, encoder.dimension))
    device_has = f"{needs.device} has {in_gb(needs.device_bytes)}"
    told = f"does not fit: {device_has}"
    if needs.hours is not None:
        steps, batch = config.training.steps, config.training.batch
        rate = steps * batch / needs.hours / 3600
        told = f"{steps:,} steps of {batch}, {rate:.1f} images/s, {on}"
    disk = bytes_of_run(needs.memory)
    stages.append(StageNeeds("train", disk, needs.hours, told, needs.memory.peak_bytes))
    return stages


def per_second(work: Callable[[], Any], count: int, seconds: float) -> float:
    """How many of the `count` things of one call are done in a second: the first call, which warms
    up, is not counted unless it takes all of the time.
    """
    began = time.monotonic()
    work()
    first = time.monotonic() - began
    if first > seconds:
        return count / first
    began, calls = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        work()
        calls += 1
    return calls * count / (time.monotonic() - began)


_FILE: list[bytes] = []


def _imported(images: Any) -> None:
    """One photograph read, cut and stored."""
    if not _FILE:
        pixels = np.random.default_rng(0).integers(0, 255, (*PHOTOGRAPH, 3), dtype=np.uint8)
        sink = io.BytesIO()
        # as smooth as photographs: their files are a tenth of noise's
        Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2)).save(sink, "jpeg", quality=90)
        _FILE.append(sink.getvalue())
    rng = np.random.default_rng(0)
    pixels = decode(_FILE[0])
    windows = crop_windows(
        pixels, images.size, images.crop, images.crops_per_image, images.frame, rng
    )
    for window, _ in windows:
        encode(window, images.encoding, images.quality)


def _pictures(side: int, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 255, (count, side, side, 3), dtype=np.uint8))


def _encoder_like(name: str, weights: str, device: torch.device) -> Encoder:
    """The encoder, with its own weights if they are built in, else with random ones."""
    with quiet():  # that weights are random is what is wanted
        return load_encoder(name, weights if weights.startswith(BUILT_IN) else "random", device)


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings in anybody's log."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _space_like(root: Any, autoencoder: str) -> LatentSpace:
    """The latent space; for the hub's autoencoder one of its form, with random weights."""
    if autoencoder != HUB_AUTOENCODER:
        return space_of(root, autoencoder)
    from diffusers import AutoencoderKL

    # Stable Diffusion's: 84 M parameters, f8, four channels
    form = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
    )  # fmt: skip
    form.requires_grad_(False)  # type: ignore[attr-defined]
    return LatentSpace(autoencoder, 4, 8, form, "")


def _search_seconds(dimension: int, k: int) -> float:
    """Seconds in which QUERIES vectors are compared with ROWS others."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((ROWS, dimension), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    search_exact(vectors[:QUERIES], vectors, k)
    began = time.monotonic()
    search_exact(vectors[:QUERIES], vectors, k)
    return time.monotonic() - began
