"""Open Images: nine million Flickr photographs, of which users keep some.

<root>/{train,validation,test}/<16 hex digits>.jpg
<root>/image_ids_and_rotation.csv           author, licence, rotation; or a list a split (METADATA)
<root>/*-annotations-bbox.csv               optional: boxes, for the labels
<root>/class-descriptions-boxable.csv       names of the labels, needed where there are boxes
<root>/*-annotations-human-imagelabels.csv  optional: what people found in the whole image
<root>/oidv7-class-descriptions.csv         names of all labels, needed where there are those
<root>/<split>-images-boxable.csv           optional: image_name, image_url
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from storage.errors import SourceError
from storage.sources.disk import (
    check_damage,
    check_root,
    first_file,
    is_file,
    is_folder,
    read_lines,
    wrong_layout,
)
from storage.sources.source import Listing, SourceImage, listing_of, readable
from storage.sources.tables import CsvTable, records
from storage.sources.walk import Entry, pictures, walk
from storage.text import is_whole

LAYOUT = (
    "train/ or validation/ with <ImageID>.jpg, image_ids_and_rotation.csv, "
    "class-descriptions-boxable.csv"
)
SITE = "https://storage.googleapis.com/openimages"
SPLITS = ("train", "validation", "test")
ALL_METADATA = "image_ids_and_rotation.csv"
METADATA = {
    "train": (
        "train-images-boxable-with-rotation.csv",
        "oidv6-train-images-with-labels-with-rotation.csv",
    ),
    "validation": ("validation-images-with-rotation.csv",),
    "test": ("test-images-with-rotation.csv",),
}
BOXES = {
    "train": ("oidv6-train-annotations-bbox.csv", "train-annotations-bbox.csv"),
    "validation": ("validation-annotations-bbox.csv",),
    "test": ("test-annotations-bbox.csv",),
}
CLASSES = ("class-descriptions-boxable.csv", "oidv7-class-descriptions-boxable.csv")
IMAGE_LABELS = {
    "train": (
        "oidv7-train-annotations-human-imagelabels.csv",
        "train-annotations-human-imagelabels.csv",
        "train-annotations-human-imagelabels-boxable.csv",
    ),
    "validation": (
        "oidv7-val-annotations-human-imagelabels.csv",
        "validation-annotations-human-imagelabels.csv",
        "validation-annotations-human-imagelabels-boxable.csv",
    ),
    "test": (
        "oidv7-test-annotations-human-imagelabels.csv",
        "test-annotations-human-imagelabels.csv",
        "test-annotations-human-imagelabels-boxable.csv",
    ),
}
ALL_CLASSES = ("oidv7-class-descriptions.csv", "class-descriptions.csv")

METADATA_CURE = (
    f"Download {SITE}/2018_04/{ALL_METADATA} into the root folder: licence and author must travel."
)
BOXES_CURE = (
    "Download the list again from https://storage.googleapis.com/openimages/web/download_v7.html."
)
CLASSES_CURE = f"Download {SITE}/v5/{CLASSES[0]} into the root folder."
ALL_CLASSES_CURE = f"Download {SITE}/v7/{ALL_CLASSES[0]} into the root folder."

_ONE = re.compile(r"1(\.0*)?")
_TURN = re.compile(r"[+-]?[0-9]{1,4}(\.0*)?")  # whole degrees: 90, -90, 270.0


@dataclass(slots=True)
class _Image:
    """An image on the disk, and what the lists say of it."""

    split: str
    entry: Entry
    licence: str | None = None
    author: str | None = None
    source_url: str | None = None
    rotation_degrees: int = 0
    listed: bool = False
    labels: set[str] = field(default_factory=set)
    reason: str | None = None


def read_openimages(root: Path, split: str = "all", ours: Path | None = None) -> Listing:
    """List Open Images under root; split: "train", "validation", "test", or "all" that are there.

    Only files on the disk become rows, as the lists name nine million; how many more they name is
    counted. An image in no list keeps licence and author None and is counted. Where two rows of an
    image contradict each other, neither is believed. labels: names of the classes that have a box
    or that people confirmed for the whole image (confidence 1; 0 says that it is absent).
    Titles ("DSC_8925") are not captions and are left out; source_url leads to them. A field that is
    no text is left out and counted. ours: the root of this project's files, which is not entered.
    Raises SourceError for a wrong folder, a missing metadata list, a list of which more than one
    row in 100 is damaged.
    """
    if split not in (*SPLITS, "all"):
        raise ValueError(f"split is {split!r}, must be one of {SPLITS} or 'all'")
    check_root(root, "openimages", LAYOUT)
    splits = [name for name in SPLITS if split in (name, "all") and is_folder(root / name)]
    if not splits:
        raise wrong_layout(
            root, "openimages", LAYOUT if split == "all" else f"{split}/ with <ImageID>.jpg"
        )
    metadata = _metadata_paths(root, splits)

    notes: Counter[str] = Counter()
    images, rows = _on_disk(root, splits, ours, notes)
    if not images:
        raise wrong_layout(root, "openimages", LAYOUT)
    for path in metadata:
        _read_metadata(path, splits, images, notes)
    for image in images.values():
        notes["without_metadata"] += not image.listed
        notes["without_author"] += image.listed and image.author is None
        notes["without_licence"] += image.listed and image.licence is None
    _read_urls(root, splits, images, notes)
    _read_labels(root, splits, images, notes)
    for source_id, image in images.items():
        rows.append(_row(source_id, image))
    return listing_of(root, rows, notes)


def _row(source_id: str, image: _Image) -> SourceImage:
    """One image with all that the lists say of it; labels in alphabetical order."""
    reason = image.reason or image.entry.reason
    return SourceImage(
        dataset="openimages", source_id=source_id, path=None if reason else image.entry.path,
        reason=reason, stamp=image.entry.stamp, split=image.split,
        labels=tuple(sorted(image.labels)), author=image.author, licence=image.licence,
        source_url=image.source_url, rotation_degrees=image.rotation_degrees,
    )  # fmt: skip


def _metadata_paths(root: Path, splits: list[str]) -> list[Path]:
    """The list of all images, else that of each split; SourceError where a split has neither."""
    if is_file(root / ALL_METADATA):
        return [root / ALL_METADATA]
    paths = []
    for split in splits:
        path = first_file(root, METADATA[split])
        if path is None:
            what = f"this file is missing, and so is {' or '.join(METADATA[split])}"
            raise SourceError(root / ALL_METADATA, what, METADATA_CURE)
        paths.append(path)
    return paths


def _on_disk(
    root: Path, splits: list[str], ours: Path | None, notes: Counter[str]
) -> tuple[dict[str, _Image], list[SourceImage]]:
    """ImageID -> its file; and rows of files whose id another has, and of unreadable folders."""
    on_disk = []
    for split in splits:
        for entry in pictures(walk(root / split, notes, ours), notes):
            on_disk.append(_Image(split, entry))
    # Files that can be read come first: of two with one id the readable one keeps it.
    on_disk.sort(key=lambda image: image.entry.reason is not None)
    images: dict[str, _Image] = {}
    rows: list[SourceImage] = []
    for image in on_disk:
        entry = image.entry
        if entry.is_folder:
            # It has no id of an image, so that no list can say anything of it.
            rows.append(_row(readable(entry.name), image))
            continue
        source_id = readable(PurePosixPath(entry.name).stem)
        first = images.setdefault(source_id, image)
        if first is not image:
            taken = f"{first.split}/{first.entry.name}"
            image.reason = readable(f"{image.split}/{entry.name} is the same image as {taken}")
            notes["images_there_twice"] += 1
            rows.append(_row(source_id, image))
    return images, rows


def _read_metadata(
    path: Path, splits: list[str], images: dict[str, _Image], notes: Counter[str]
) -> None:
    """Author, licence, page and rotation from one list into the images that are on the disk."""
    columns = ("ImageID", "Subset", "License", "Author", "OriginalLandingURL", "Rotation")
    table = CsvTable(path, columns, METADATA_CURE, count_by="Subset")
    matched: Counter[str] = Counter()
    # Nine million rows pass by; only those of files on the disk come out.
    for source_id, subset, licence, author, url, rotation in table.matching(images):
        image = images[source_id]
        matched[subset] += 1
        notes["listed_twice"] += image.listed
        fields = {
            "licence": _text_in(licence, "licences", notes),
            "author": _text_in(author, "authors", notes),
            "source_url": _text_in(url, "addresses", notes),
            "rotation_degrees": _quarter_turns(rotation, notes),
        }
        for name, value in fields.items():
            if image.listed and value != getattr(image, name):  # two rows contradict each other
                notes["listed_twice_and_otherwise"] += 1
                value = 0 if name == "rotation_degrees" else None
            setattr(image, name, value)
        image.listed = True
    notes["metadata_rows"] += table.rows.total()
    for split in splits:
        notes["listed_but_absent"] += table.rows[split] - matched[split]
    _count_damage(table, notes)


def _text_in(value: str, what: str, notes: Counter[str]) -> str | None:
    """A field's text; None where it is empty, and, counted, where its bytes are no UTF-8."""
    if not is_whole(value):
        notes[f"{what}_not_utf8"] += 1
        return None
    return value.strip() or None


def _quarter_turns(written: str, notes: Counter[str]) -> int:
    """Degrees counter-clockwise, 0 to 270; 0 and counted where it is none.

    NaN: the photograph had left Flickr when rotations were collected.
    """
    if _TURN.fullmatch(written.strip()) and float(written) % 90 == 0:
        return int(float(written)) % 360
    unknown = written.strip().lower() in ("nan", "")
    notes["rotation_unknown" if unknown else "rotation_unusable"] += 1
    return 0


def _count_damage(table: CsvTable, notes: Counter[str]) -> None:
    """Count what a list held that was left out, by reason."""
    for reason, count in table.damaged.items():
        notes[f"rows_with_{reason.replace(' ', '_')}"] += count
    notes["blank_lines"] += table.blank_lines


def _read_urls(
    root: Path, splits: list[str], images: dict[str, _Image], notes: Counter[str]
) -> None:
    """Download addresses for images without a page of their own, from the lists that are there."""
    for split in splits:
        path = root / f"{split}-images-boxable.csv"
        if not is_file(path):
            continue
        table = CsvTable(path, ("image_name", "image_url"), BOXES_CURE)
        for name, url in table.matching(f"{source_id}.jpg" for source_id in images):
            image = images[name.removesuffix(".jpg")]
            notes["source_url_is_a_download"] += image.source_url is None
            image.source_url = image.source_url or _text_in(url, "addresses", notes)
        _count_damage(table, notes)


def _read_labels(
    root: Path, splits: list[str], images: dict[str, _Image], notes: Counter[str]
) -> None:
    """Class names of boxes and of whole images into the images, from the lists that are there."""
    boxes = _lists_of(root, splits, BOXES)
    whole = _lists_of(root, splits, IMAGE_LABELS)
    names: dict[str, str] = {}
    if boxes:
        path = first_file(root, CLASSES) or first_file(root, ALL_CLASSES) or root / CLASSES[0]
        names |= _class_names(path, CLASSES_CURE, notes)
    if whole:
        path = first_file(root, ALL_CLASSES) or root / ALL_CLASSES[0]
        names |= _class_names(path, ALL_CLASSES_CURE, notes)

    for path in boxes.values():
        table = CsvTable(path, ("ImageID", "LabelName"), BOXES_CURE)
        for source_id, label in table.matching(images):
            _add_label(images[source_id], label, names, "boxes", notes)
        _count_damage(table, notes)
    for path in whole.values():
        table = CsvTable(path, ("ImageID", "LabelName", "Confidence"), BOXES_CURE)
        for source_id, label, confidence in table.matching(images):
            if is_present(confidence):
                _add_label(images[source_id], label, names, "image_labels", notes)
            else:
                notes["image_labels_not_present"] += 1
        _count_damage(table, notes)
    notes.update(f"no_box_list_for_{split}" for split in splits if split not in boxes)
    labelled = boxes.keys() | whole.keys()
    for image in images.values():
        notes["without_labels"] += image.split in labelled and not image.labels


def _add_label(
    image: _Image, label: str, names: dict[str, str], what: str, notes: Counter[str]
) -> None:
    """The class's name, its id where it has none, to an image; counted as what it came from."""
    name = names.get(label) or _text_in(label, "classes", notes)
    notes[what] += 1
    notes[f"{what}_of_unnamed_class"] += label not in names
    if name:
        image.labels.add(name)


def is_present(confidence: str) -> bool:
    """Whether people said of a class that it is in the image: its confidence is 1 (0: it is not;
    between them: a machine's guess, which is no label here).
    """
    return _ONE.fullmatch(confidence.strip()) is not None


def _lists_of(
    root: Path, splits: list[str], known: Mapping[str, tuple[str, ...]]
) -> dict[str, Path]:
    """Split -> its list of a kind, of the splits that have one."""
    paths = {}
    for split in splits:
        path = first_file(root, known[split])
        if path is not None:
            paths[split] = path
    return paths


def _class_names(path: Path, cure: str, notes: Counter[str]) -> dict[str, str]:
    """Class id ("/m/011k07") -> name ("Tortoise"), from a list with or without a header.

    An id that has two names has none, and is counted.
    """
    names: dict[str, str] = {}
    contradicted: set[str] = set()
    damage: list[str] = []
    for number, row in records(read_lines(path, cure), width=2):
        # a blank line, or the header that some versions have
        if not row or row[0] == "LabelName":
            continue
        if isinstance(row, str) or not row[0].startswith("/") or not row[1].strip():
            content = row if isinstance(row, str) else ",".join(row)[:80]
            damage.append(f"line {number}: not LabelName,DisplayName but {readable(content)!r}")
            continue
        name = _text_in(row[1], "class_names", notes)
        if name is not None and names.setdefault(row[0], name) != name:
            contradicted.add(row[0])
    notes["class_names_damaged"] += len(damage)
    cure = f"Was it saved by a spreadsheet program? {cure}"
    check_damage(path, len(damage), len(damage) + len(names), "".join(damage[:1]), cure)
    notes["class_names_that_contradict"] += len(contradicted)
    for class_id in contradicted:
        del names[class_id]
    return names
