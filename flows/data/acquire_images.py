"""Which images are fetched one by one: those of a list of addresses, or a choice of Open Images."""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from heapq import nsmallest
from pathlib import Path

from flows.config.acquire import AcquireOpenImages, AcquireUrls
from flows.run.progress import bar, say
from storage.errors import SourceError
from storage.sources.openimages import (
    ALL_CLASSES,
    BOXES,
    CLASSES,
    IMAGE_LABELS,
    METADATA,
    is_present,
)
from storage.sources.tables import CsvTable
from storage.web.client import Web
from storage.web.collection import (
    Collection,
    ListedImage,
    Outcome,
    explaining_database_errors,
)
from storage.web.gather import asked_before, gather
from storage.web.listed import read_list

IMAGE_ID = re.compile("[0-9A-Za-z_-]{1,64}")
MOST_SHOWN = 8
"""Reasons that are told one by one."""


def url_list(config: AcquireUrls) -> Iterator[ListedImage]:
    """The rows of a list of addresses; what of it cannot be read is told at its end."""
    notes: Counter[str] = Counter()
    yield from read_list(config.urls, config.columns, notes)
    for what, count in notes.items():
        say("acquire", "urls", f"{count:,} {what.replace('_', ' ')} in {config.urls}")


def open_images_list(config: AcquireOpenImages) -> Iterator[ListedImage]:
    """The images of Open Images that are asked for, from its lists. Raises SourceError where there
    are none.
    """
    wanted = _ids_of_classes(config) if config.classes else None
    chosen = _chosen(config, wanted)
    if config.count is not None:
        # By a hash of their ids: a larger count holds the same images and more.
        chosen = iter(nsmallest(config.count, chosen, key=lambda image: _place(image[1])))
    any_found = False
    for split, image_id in chosen:
        any_found = True
        yield ListedImage(
            f"{config.bucket.rstrip('/')}/{split}/{image_id}.jpg", place=f"{split}/{image_id}"
        )
    if not any_found:
        asked = f"classes {list(config.classes)}, licences {list(config.licences)}"
        what = f"its lists hold no image of {', '.join(config.splits)} with {asked}"
        raise SourceError(config.path, what, "Ask for others.")


def _place(image_id: str) -> bytes:
    return hashlib.sha256(image_id.encode()).digest()


def _chosen(config: AcquireOpenImages, wanted: set[str] | None) -> Iterator[tuple[str, str]]:
    """(split, ImageID) of the images with one of the licences, and one of the classes."""
    for split in config.splits:
        path = config.path / METADATA[split][0]
        for image_id, licence in _rows(path, ("ImageID", "License")):
            is_of_class = wanted is None or image_id in wanted
            is_free = not config.licences or any(text in licence for text in config.licences)
            # Its file is named by it.
            if is_of_class and is_free and IMAGE_ID.fullmatch(image_id):
                yield split, image_id


def _ids_of_classes(config: AcquireOpenImages) -> set[str]:
    """The images with one of the classes: a box of it, or, where `image_labels` are asked for, the
    word of people that it is there. Raises SourceError for a class it lacks.
    """
    path = config.path / (ALL_CLASSES[0] if config.image_labels else CLASSES[0])
    labels_of: dict[str, set[str]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.reader(file):
            if len(row) == 2:
                # two classes may have one name: "Crane", the bird and the machine
                labels_of.setdefault(row[1].strip().casefold(), set()).add(row[0])
    unknown = [name for name in config.classes if name.strip().casefold() not in labels_of]
    if unknown:
        cure = "See the file for those it has" + (
            "." if config.image_labels else ", or ask for all: --set image_labels=true."
        )
        raise SourceError(path, f"has no class {', '.join(unknown)}", cure)
    labels: set[str] = set()
    for name in config.classes:
        labels |= labels_of[name.strip().casefold()]
    found: set[str] = set()
    for split in config.splits:
        for _, image_id in _table(config, BOXES[split][0], "LabelName", "ImageID").matching(labels):
            found.add(image_id)
        if not config.image_labels:
            continue
        table = _table(config, IMAGE_LABELS[split][0], "LabelName", "ImageID", "Confidence")
        for _, image_id, confidence in table.matching(labels):
            if is_present(confidence):
                found.add(image_id)
    return found


def _table(config: AcquireOpenImages, name: str, *columns: str) -> CsvTable:
    return CsvTable(config.path / name, columns, "Fetch it again.")


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Every row of a list of images: some of its columns."""
    yield from CsvTable(path, columns, "Fetch it again.").matching(None)


def gather_images(
    config: AcquireUrls | AcquireOpenImages,
    web: Web,
    listed: Iterable[ListedImage],
    check_days: float | None = None,
) -> dict[str, int]:
    """Ask for the images of a list that are not there; counts of what became of all."""
    manners = web.manners
    under = (sorted(manners.allow_hosts), manners.honour, config.max_bytes)
    with explaining_database_errors(config.path), Collection(config.path) as collection:
        loaded = collection.load(listed, config.remove_unlisted)
        collection.ask_under(repr(under))
        collection.forget_missing()
        before = asked_before(check_days)
        due = collection.count_due(before)
        what = f"{loaded['addresses']:,} addresses ({loaded['new']:,} new"
        say(
            "acquire",
            config.source,
            f"{what}, {loaded['unlisted']:,} no longer listed), {due:,} are asked",
        )
        with bar(due, "acquire", "image") as shown:

            def seen(outcome: Outcome) -> None:
                shown.update(1)

            try:
                gather(collection, web, config.max_bytes, config.connections, before, seen)
            finally:  # what is there can be imported
                collection.publish()
        counts = collection.counts()
    for reason, count in list(counts.items())[:MOST_SHOWN]:
        say("acquire", config.source, f"{count:,} {reason}")
    return counts
