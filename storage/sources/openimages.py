"""Open Images: nine million Flickr photographs, of which users keep some.

<root>/{train,validation,test}/<16 hex digits>.jpg
<root>/image_ids_and_rotation.csv           author, licence, rotation; or a list a split (METADATA)
<root>/*-annotations-bbox.csv               optional: boxes, for the labels
<root>/class-descriptions-boxable.csv       names of the labels, needed where there are boxes
<root>/<split>-images-boxable.csv           optional: image_name, image_url
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from storage.errors import SourceError
from storage.sources.disk import (
    check_damage,
    check_root,
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

METADATA_CURE = (
    f"Download {SITE}/2018_04/{ALL_METADATA} into the root folder: licence and author must travel."
)
BOXES_CURE = (
    "Download the list again from https://storage.googleapis.com/openimages/web/download_v7.html."
)
CLASSES_CURE = f"Download {SITE}/v5/{CLASSES[0]} into the root folder."

_TURN = re.compile(r"[+-]?[0-9]{1,4}(\.0*)?")


@dataclass(slots=True)
class _Found:
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
    counted. An image in no list keeps licence and author None and is counted. What two rows of an
    image say differently is taken from neither. labels: names of the classes that have a box.
    Titles ("DSC_8925") are not captions and are left out; source_url leads to them. What of a row
    is no text is left out and counted. ours: the root of this project's files, which is not
    entered. Raises SourceError for a wrong folder, a missing metadata list, a list of which more
    than one row in 100 is damaged.
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
    found, rows = _on_disk(root, splits, ours, notes)
    if not found:
        raise wrong_layout(root, "openimages", LAYOUT)
    for path in metadata:
        _read_metadata(path, splits, found, notes)
    listed = [image for image in found.values() if image.listed]
    notes["without_metadata"] = len(found) - len(listed)
    notes["without_author"] = sum(image.author is None for image in listed)
    notes["without_licence"] = sum(image.licence is None for image in listed)
    _read_urls(root, splits, found, notes)
    _read_boxes(root, splits, found, notes)
    rows += [_row(source_id, image) for source_id, image in found.items()]
    return listing_of(root, rows, notes)


def _row(source_id: str, image: _Found) -> SourceImage:
    """One image with all that was found of it; labels in alphabetical order."""
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
    paths = [_first(root, METADATA[split]) for split in splits]
    for split, path in zip(splits, paths, strict=True):
        if path is None:
            what = f"this file is missing, and so is {' or '.join(METADATA[split])}"
            raise SourceError(root / ALL_METADATA, what, METADATA_CURE)
    return [path for path in paths if path is not None]


def _first(root: Path, names: tuple[str, ...]) -> Path | None:
    """The first of the names that is a file under root."""
    return next((root / name for name in names if is_file(root / name)), None)


def _on_disk(
    root: Path, splits: list[str], ours: Path | None, notes: Counter[str]
) -> tuple[dict[str, _Found], list[SourceImage]]:
    """ImageID -> its file; and rows of files whose id another has, and of unreadable folders."""
    found: dict[str, _Found] = {}
    rows: list[SourceImage] = []
    places = [
        (split, entry)
        for split in splits
        for entry in pictures(walk(root / split, notes, ours), notes)
    ]
    for split, entry in sorted(places, key=lambda place: place[1].reason is not None):
        image = _Found(split, entry)
        if entry.is_folder:
            rows.append(_row(readable(entry.name), image))
            continue
        source_id = readable(PurePosixPath(entry.name).stem)
        first = found.setdefault(source_id, image)
        if first is not image:
            taken = f"{first.split}/{first.entry.name}"
            image.reason = readable(f"{split}/{entry.name} is the same image as {taken}")
            notes["images_there_twice"] += 1
            rows.append(_row(source_id, image))
    return found, rows


def _read_metadata(
    path: Path, splits: list[str], found: dict[str, _Found], notes: Counter[str]
) -> None:
    """Author, licence, page and rotation from one list into the images that are on the disk."""
    columns = ("ImageID", "Subset", "License", "Author", "OriginalLandingURL", "Rotation")
    table = CsvTable(path, columns, METADATA_CURE, count_by="Subset")
    matched: Counter[str] = Counter()
    for source_id, subset, licence, author, url, rotation in table.matching(found):
        image = found[source_id]
        matched[subset] += 1
        notes["listed_twice"] += image.listed
        said = {
            "licence": _said(licence, "licences", notes),
            "author": _said(author, "authors", notes),
            "source_url": _said(url, "addresses", notes),
            "rotation_degrees": _quarter_turns(rotation, notes),
        }
        for name, value in said.items():
            if image.listed and value != getattr(image, name):
                notes["listed_twice_and_otherwise"] += 1
                value = 0 if name == "rotation_degrees" else None
            setattr(image, name, value)
        image.listed = True
    notes["metadata_rows"] += table.rows.total()
    notes["listed_but_absent"] += sum(table.rows[split] - matched[split] for split in splits)
    _tell_damage(table, notes)


def _said(value: str, what: str, notes: Counter[str]) -> str | None:
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


def _tell_damage(table: CsvTable, notes: Counter[str]) -> None:
    """What a list held that was left out, by reason."""
    for reason, count in table.damaged.items():
        notes[f"rows_with_{reason.replace(' ', '_')}"] += count
    notes["blank_lines"] += table.blank_lines


def _read_urls(
    root: Path, splits: list[str], found: dict[str, _Found], notes: Counter[str]
) -> None:
    """Download addresses for images without a page of their own, from the lists that are there."""
    for path in (_first(root, (f"{split}-images-boxable.csv",)) for split in splits):
        if path is None:
            continue
        table = CsvTable(path, ("image_name", "image_url"), BOXES_CURE)
        for name, url in table.matching(f"{source_id}.jpg" for source_id in found):
            image = found[name.removesuffix(".jpg")]
            notes["source_url_is_a_download"] += image.source_url is None
            image.source_url = image.source_url or _said(url, "addresses", notes)
        _tell_damage(table, notes)


def _read_boxes(
    root: Path, splits: list[str], found: dict[str, _Found], notes: Counter[str]
) -> None:
    """Class names of the boxes into the images, from the lists that are there."""
    boxes = {split: _first(root, BOXES[split]) for split in splits}
    notes.update({f"no_box_list_for_{split}": 1 for split, path in boxes.items() if path is None})
    paths = [path for path in boxes.values() if path is not None]
    if not paths:
        return
    names = _class_names(_first(root, CLASSES) or root / CLASSES[0], notes)
    for path in paths:
        table = CsvTable(path, ("ImageID", "LabelName"), BOXES_CURE)
        for source_id, label in table.matching(found):
            name = names.get(label) or _said(label, "classes", notes)
            notes["boxes"] += 1
            notes["boxes_of_unnamed_class"] += label not in names
            found[source_id].labels |= {name} if name else set()
        _tell_damage(table, notes)
    notes["without_labels"] = sum(
        boxes[image.split] is not None and not image.labels for image in found.values()
    )


def _class_names(path: Path, notes: Counter[str]) -> dict[str, str]:
    """Class id ("/m/011k07") -> name ("Tortoise"), from a list with or without a header.

    An id that has two names has none, and is counted.
    """
    names: dict[str, str] = {}
    contradicted: set[str] = set()
    damage: list[str] = []
    for number, row in records(read_lines(path, CLASSES_CURE), width=2):
        if not row or row[0] == "LabelName":
            continue
        if isinstance(row, str) or not row[0].startswith("/") or not row[1].strip():
            found = row if isinstance(row, str) else ",".join(row)[:80]
            damage.append(f"line {number}: not LabelName,DisplayName but {readable(found)!r}")
        elif (name := _said(row[1], "class_names", notes)) is None:
            continue
        elif names.setdefault(row[0], name) != name:
            contradicted.add(row[0])
    notes["class_names_damaged"] += len(damage)
    cure = f"Was it saved by a spreadsheet program? {CLASSES_CURE}"
    check_damage(path, len(damage), len(damage) + len(names), "".join(damage[:1]), cure)
    notes["class_names_that_contradict"] += len(contradicted)
    return {one: name for one, name in names.items() if one not in contradicted}
