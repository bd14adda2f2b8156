"""images -> shards. Every image ends as a row: stored crops, or one rejection with its reason."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from flows.config.images import AnyImport, DataSet, Drawn, ImportEntities, ImportShapes
from flows.run.progress import Clock, say
from flows.run.revisions import plan_of, revision_of
from flows.run.stage import (
    NETWORK_RETRIES,
    Wanted,
    building,
    gathered,
    group_of_parts,
    groups,
    kept,
    published,
    stage_flow,
    stage_task,
)
from rdm_core.decode import COLOUR_PROFILE, DecodeLimits, ImageRejected, decoded
from rdm_core.images import Box, crop_rng, crop_windows, encode
from rdm_core.shapes import entities, world
from storage.artifact import Artifact, artifacts, is_current
from storage.atomic import sha256_of
from storage.build import Build
from storage.errors import SourceError
from storage.keys import key_of, source_key_of
from storage.manifest import Part, Plan, read_plan
from storage.shards import EncodedSample, SampleRecord, write_shard
from storage.sources import (
    SOURCES,
    Listing,
    NotAsListed,
    SourceImage,
    cut_into_parts,
    origin_of,
    read_as_listed,
)
from storage.sources.disk import is_folder
from storage.unfinished import has_finished_work, unfinished
from storage.web.record import read_record


@stage_flow("import-images", threads=None)
def import_images(config: AnyImport) -> Artifact:
    """Turn a dataset as it lies on the disk into shards.

    images --read, decode, crop--> 00000.tar + 00000.parquet, 00001.tar + ...

    - In `shards`: crops as tars of WebDataset, and a row for every crop with its captions, licence
      and author; a rejected image is a row with its reason.
    - Made by `rdm import`, by a rebuild, and by a training that does not find them.
    - Read by embedding, encoding, evaluation, calibrated caps, trainings on captions, and whatever
      shows pictures.
    - Rebuilt when the images change, or any parameter but their path; a part is taken over where
      neither its images changed nor how they are stored.
    - Resumes by the part, of `images_per_part` images.
    """
    clock = Clock()
    # The listing comes first: its snapshot is in the plan, so that a changed data set is noticed.
    listing = list_images(config)
    with building(config.root, import_plan(config, listing)) as build:
        if build.finished:
            return kept(build)
        say(
            "import",
            config.name,
            f"{len(listing.images):,} images of {config.source} {notes_text(listing)}",
        )
        parts = cut_into_parts(listing, build.plan.parameters["images_per_part"])
        # A part's origin is a hash of its images and of how they are drawn. Parts with the origin
        # of an earlier version are taken over.
        drawn_with = drawing(config)
        wanted = {name: origin_of(images, drawn_with) for name, images in parts.items()}
        futures = []
        for group in groups(wanted):
            images_of_group = {name: parts[name] for name in group}
            futures.append(import_group.submit(build, images_of_group, group, config))
        record = read_record(config.path)  # where the data set came from, if we fetched it
        known = {"acquired": record} if record else {}
        return published(build, gathered(build, futures), clock, notes=listing.notes, **known)


@stage_task(name="import-parts", retries=NETWORK_RETRIES)
def import_group(
    build: Build, images: dict[str, tuple[SourceImage, ...]], wanted: Wanted, config: AnyImport
) -> list[Part]:
    """The parts of one task run: name -> the images of that part."""

    def samples(name: str) -> Iterator[EncodedSample]:
        # One by one, so that no more than one image is in memory.
        for image in images[name]:
            yield from samples_of(image, config)

    def work(name: str) -> Part:
        return build.write_part(
            name, wanted[name], lambda scratch: write_shard(scratch, name, samples(name))
        )

    return group_of_parts(build, wanted, work)


def list_images(config: AnyImport) -> Listing:
    """What the source holds, before any pixel is read."""
    if isinstance(config, Drawn):
        drawn = []
        for index in range(config.count):
            name = drawn_id(config.split, index)
            drawn.append(SourceImage(config.source, name, None, reason="drawn, not read"))
        return Listing(tuple(drawn), "built-in", {})
    if config.source == "folder":
        stated = {"licence": config.licence, "author": config.author}
        listing = SOURCES["folder"](config.path, **stated, ours=config.root)
        images = [replace(image, dataset=config.dataset) for image in listing.images]
        return replace(listing, images=tuple(images))
    if config.source == "emoji":
        wanted = {"style": config.style, "concepts": config.concepts}
        return SOURCES["emoji"](config.path, **wanted, ours=config.root)
    if config.source == "coco" or config.source == "openimages":
        return SOURCES[config.source](config.path, split=config.split, ours=config.root)
    return SOURCES[config.source](config.path, ours=config.root)


@import_images.plan
def import_plan(config: AnyImport, listing: Listing | None = None) -> Plan:
    """What was asked for: the parameters, and what lies on the disk, wherever that disk is."""
    listing = listing or list_images(config)
    # Where a data set lies is left out: it is another path on each machine.
    parameters = config.parameters("path") | {
        "images_per_part": images_per_part(config),
        "colour_profile": COLOUR_PROFILE,
    }
    if parameters.get("pairs") == "all":  # it came later: plans of before stay what they were
        del parameters["pairs"]
    return plan_of("shards", config.name, parameters, {"source": listing.snapshot})


OF_AN_OWNER = "forbidden by its owner"
"""Why an address was not fetched, where its owner said no."""


def images_per_part(config: AnyImport) -> int | str:
    """The number asked for; auto: as the current version or an unfinished import was cut.

    Another cut would make every part anew, of the shards and of all that is made from them.
    """
    if config.images_per_part != "auto":
        return config.images_per_part
    for version in artifacts(config.root, "shards", config.name):
        if is_current(config.root, version):
            return version.parameters["images_per_part"]
    for directory in unfinished(config.root, "shards", config.name):
        plan = read_plan(directory) if has_finished_work(directory) else None
        if plan:
            return plan.parameters["images_per_part"]
    return "auto"


def drawing(config: AnyImport) -> dict[str, object]:
    """The parameters that change a stored sample, whichever others are imported with it."""
    # These choose which images are imported and how they are grouped, not how one is stored.
    parameters = config.parameters("path")
    for name in ("split", "style", "concepts", "count", "images_per_part"):
        parameters.pop(name, None)
    return parameters | revision_of("shards")


def notes_text(listing: Listing) -> str:
    """The reader's counts in brackets, or nothing."""
    counts = [f"{count:,} {note}" for note, count in listing.notes.items()]
    return f"({', '.join(counts)})" if counts else ""


def samples_of(image: SourceImage, config: AnyImport) -> Iterator[EncodedSample]:
    """The stored samples of one image: its crops, or one rejected row."""
    if isinstance(config, ImportShapes):
        yield shapes_sample(index_of(image.source_id), config)
        return
    if isinstance(config, ImportEntities):
        yield entities_sample(index_of(image.source_id), config)
        return
    # Every image ends as a row: an image that cannot be used is one too, with the reason.
    try:
        windows, (height, width) = windows_of(image, config)
    except ImageRejected as rejection:
        yield EncodedSample(
            record_of(image, 0, status="rejected", reason=rejection.reason, detail=rejection.detail)
        )
        return
    for number, (window, box) in enumerate(windows):
        data = encode(window, config.encoding, config.quality)
        facts = {
            "original_height": height,
            "original_width": width,
            "crop": box,
            "sha256": sha256_of(data),
        }
        record = record_of(image, number, width=config.size, height=config.size, **facts)
        yield EncodedSample(record, data, config.encoding)


def windows_of(
    image: SourceImage, config: DataSet
) -> tuple[list[tuple[np.ndarray, Box]], tuple[int, int]]:
    """What is cut out of an image, each with its box, and the image's height and width. Raises
    ImageRejected.
    """
    # The draw follows the key alone: images that are added or gone change no other image's crops.
    rng = crop_rng(config.seed, key_of(image.dataset, image.source_id, 0))
    limits = DecodeLimits(
        max_bytes=config.max_bytes, max_pixels=config.max_pixels, min_side=config.min_side
    )
    with decoded(read_image(image, config), limits, image.rotation_degrees) as pixels:
        windows = crop_windows(
            pixels, config.size, config.crop, config.crops_per_image, config.frame, rng
        )
        return windows, (pixels.shape[0], pixels.shape[1])


def read_image(image: SourceImage, config: DataSet) -> bytes:
    """The file's bytes.

    Raises ImageRejected where there is no file to read, it is too large, or not the one that was
    listed; SourceError where the whole data set has gone, for which no image is to be rejected.
    """
    if image.path is None:
        raise ImageRejected(why_absent(image), image.reason or "")
    # The size was listed, so that a huge file is never read.
    if image.stamp and image.stamp[0] > config.max_bytes:
        raise ImageRejected("too many bytes", f"{image.stamp[0]:,}")
    try:
        return read_as_listed(image)
    except NotAsListed as error:
        # A disk that went away must not turn all its images into rejected rows.
        if not is_folder(config.path):
            cure = "Put it back and run the same command again: it continues where it stopped."
            raise SourceError(config.path, "went away while it was imported", cure) from error
        raise ImageRejected("unreadable file", str(error)) from error


def why_absent(image: SourceImage) -> str:
    """The word for why an image has no file."""
    if image.is_absent:
        return "missing file"
    if image.dataset != "urls":
        return "unreadable file"
    return OF_AN_OWNER if OF_AN_OWNER in (image.reason or "") else "not fetched"


def record_of(image: SourceImage, number: int, **facts: object) -> SampleRecord:
    """The sidecar row of an image's crop of that number: what the dataset says of the image, and
    the facts of this crop.
    """
    key = key_of(image.dataset, image.source_id, number)
    return SampleRecord(
        key=key,
        source_key=source_key_of(key),
        captions=image.captions,
        labels=image.labels,
        style=image.style,
        author=image.author,
        licence=image.licence,
        source_url=image.source_url,
        split=image.split,
        **facts,  # type: ignore[arg-type]
    )


def drawn_id(split: str, index: int) -> str:
    """What a split of the built-in world calls its image of that number."""
    return f"{split}-{index:06d}"


def index_of(drawn_id: str) -> int:
    """The number of an image of the built-in world."""
    return int(drawn_id.rpartition("-")[2])


def shapes_sample(index: int, config: ImportShapes) -> EncodedSample:
    """One drawn image of shapes; its exact factors are its labels."""
    drawn = world.sample(
        config.split,
        index,
        config.size,
        config.seed,
        config.frequencies,
        config.pairs,
        **_restrictions(config, world.RESTRICTIONS.values()),
    )
    labels = [f"{factor}={getattr(drawn.factors, factor)}" for factor in world.FACTORS]
    name = drawn_id(config.split, index)
    said = {"captions": (drawn.caption,), "labels": tuple(labels), "style": drawn.factors.style}
    return _drawn_sample(drawn.pixels, "shapes", name, said, config)


def entities_sample(index: int, config: ImportEntities) -> EncodedSample:
    """One drawn image of an entity; its name, background and position are its labels."""
    drawn = entities.sample(
        config.split,
        index,
        config.size,
        config.seed,
        config.entities,
        **_restrictions(config, ("backgrounds", "positions")),
    )
    labels = (
        f"entity={drawn.entity.name}",
        f"background={drawn.background}",
        f"position={drawn.position}",
    )
    name = drawn_id(config.split, index)
    if config.entities != "known":  # another group shows other pictures under the same number
        name += f"-{config.entities.replace(' ', '_')}"
    said = {"captions": (drawn.caption,), "labels": labels, "style": entities.STYLE}
    return _drawn_sample(drawn.pixels, "entities", name, said, config)


def _restrictions(config: Drawn, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The values that may be drawn, where not all may: an empty list allows every value."""
    return {name: getattr(config, name) for name in names if getattr(config, name)}


def _drawn_sample(
    pixels: np.ndarray, dataset: str, name: str, said: dict[str, Any], config: Drawn
) -> EncodedSample:
    """The stored sample of drawn pixels uint8 [H, W, 3], and what is `said` of them."""
    data = encode(pixels, config.encoding, config.quality)
    # Keys of seed 0 say nothing of it, as they did before there was a seed.
    key = key_of(dataset, name if config.seed == 0 else f"{name}-s{config.seed}", 0)
    record = SampleRecord(
        key=key,
        source_key=source_key_of(key),
        width=config.size,
        height=config.size,
        original_width=config.size,
        original_height=config.size,
        crop=(0, 0, config.size, config.size),
        sha256=sha256_of(data),
        author=f"the {dataset} world of this project",
        licence="CC0-1.0",
        split=config.split,
        **said,
    )
    return EncodedSample(record, data, config.encoding)
