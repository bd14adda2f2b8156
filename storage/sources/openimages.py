"""Open Images: nine million Flickr photographs, of which users keep some.

<root>/{train,validation,test}/<16 hex digits>.jpg
<root>/image_ids_and_rotation.csv           author, licence, rotation; or the list of each split (METADATA)
<root>/*-annotations-bbox.csv               optional: boxes, for the labels
<root>/class-descriptions-boxable.csv       names of the labels, needed where there are boxes
<root>/<split>-images-boxable.csv           optional: image_name, image_url
"""

import csv
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from storage.errors import SourceError
from storage.sources.disk import check_root, files_in, read_lines, snapshot_of, wrong_layout
from storage.sources.source import Listing, SourceImage, listing_of, readable
from storage.sources.tables import CsvTable

LAYOUT = "train/ or validation/ with <ImageID>.jpg, image_ids_and_rotation.csv, class-descriptions-boxable.csv"
SITE = "https://storage.googleapis.com/openimages"
SPLITS = ("train", "validation", "test")
ALL_METADATA = "image_ids_and_rotation.csv"
METADATA = {
    "train": ("train-images-boxable-with-rotation.csv", "oidv6-train-images-with-labels-with-rotation.csv"),
    "validation": ("validation-images-with-rotation.csv",),
    "test": ("test-images-with-rotation.csv",),
}
BOXES = {
    "train": ("oidv6-train-annotations-bbox.csv", "train-annotations-bbox.csv"),
    "validation": ("validation-annotations-bbox.csv",),
    "test": ("test-annotations-bbox.csv",),
}
CLASSES = ("class-descriptions-boxable.csv", "oidv7-class-descriptions-boxable.csv")

METADATA_CURE = f"Download {SITE}/2018_04/{ALL_METADATA} into the root folder: licence and author must travel."
BOXES_CURE = "Download the list again from https://storage.googleapis.com/openimages/web/download_v7.html."
CLASSES_CURE = f"Download {SITE}/v5/{CLASSES[0]} into the root folder."

_ROTATIONS = {"0": 0, "0.0": 0, "90": 90, "90.0": 90, "180": 180, "180.0": 180, "270": 270, "270.0": 270}


@dataclass(slots=True)
class _Found:
    """An image on the disk, and what the lists say of it."""

    split: str
    path: Path
    licence: str | None = None
    author: str | None = None
    source_url: str | None = None
    rotation_degrees: int = 0
    listed: bool = False
    labels: set[str] = field(default_factory=set)


def read_openimages(root: Path, split: str = "all") -> Listing:
    """List the Open Images files under root; split: "train", "validation", "test", or "all" that are there.

    Only files on the disk become rows, as the lists name nine million; how many more they name is counted. An image
    in no list keeps licence and author None and is counted. labels: names of the classes that have a box. Titles
    ("DSC_8925") are not captions and are left out; source_url leads to them.
    Raises SourceError for a wrong folder, a missing metadata list, a list of which more than one row in 100 is damaged.
    """
    if split not in (*SPLITS, "all"):
        raise ValueError(f"split is {split!r}, must be one of {SPLITS} or 'all'")
    check_root(root, "openimages", LAYOUT)
    splits = [name for name in SPLITS if split in (name, "all") and (root / name).is_dir()]
    if not splits:
        raise wrong_layout(root, "openimages", LAYOUT if split == "all" else f"{split}/ with <ImageID>.jpg")
    metadata = _metadata_paths(root, splits)

    notes: Counter[str] = Counter()
    files: dict[str, tuple[int, int]] = {}
    found = _on_disk(root, splits, files, notes)
    if not found:
        raise wrong_layout(root, "openimages", LAYOUT)
    for path in metadata:
        _read_metadata(path, splits, found, notes)
    notes["without_metadata"] = sum(not image.listed for image in found.values())
    used = [*metadata, *_read_urls(root, splits, found, notes), *_read_boxes(root, splits, found, notes)]
    rows = [_row(source_id, image) for source_id, image in found.items()]
    return listing_of(root, rows, snapshot_of(files, used), dict(notes), files)


def _row(source_id: str, image: _Found) -> SourceImage:
    """One image with all that was found of it; labels in alphabetical order."""
    return SourceImage(
        dataset="openimages", source_id=source_id, path=image.path, labels=tuple(sorted(image.labels)),
        author=image.author, licence=image.licence, source_url=image.source_url,
        rotation_degrees=image.rotation_degrees, split=image.split,
    )  # fmt: skip


def _metadata_paths(root: Path, splits: list[str]) -> list[Path]:
    """The list of all images if it is there, else the list of each split; SourceError where a split has neither."""
    if (root / ALL_METADATA).is_file():
        return [root / ALL_METADATA]
    paths = [_first(root, METADATA[split]) for split in splits]
    for split, path in zip(splits, paths, strict=True):
        if path is None:
            what = f"this file is missing, and so is {' or '.join(METADATA[split])}"
            raise SourceError(root / ALL_METADATA, what, METADATA_CURE)
    return [path for path in paths if path is not None]


def _first(root: Path, names: tuple[str, ...]) -> Path | None:
    """The first of the names that is a file under root."""
    return next((root / name for name in names if (root / name).is_file()), None)


def _on_disk(root: Path, splits: list[str], files: dict[str, tuple[int, int]], notes: Counter[str]) -> dict[str, _Found]:
    """ImageID -> its file; fills files with (bytes, mtime in ns). SourceError where two splits hold the same image."""
    found: dict[str, _Found] = {}
    for split in splits:
        present, others = files_in(root / split, lambda name: name.endswith(".jpg"))
        notes["other_files"] += others
        for name, (path, size, mtime) in present.items():
            source_id = readable(name.removesuffix(".jpg"))
            if source_id in found:
                raise SourceError(path, f"is also in {found[source_id].split}/", "Remove one of the two.")
            found[source_id] = _Found(split, path)
            files[source_id] = (size, mtime)
    return found


def _read_metadata(path: Path, splits: list[str], found: dict[str, _Found], notes: Counter[str]) -> None:
    """Author, licence, page and rotation from one list into the images that are on the disk."""
    columns = ("ImageID", "Subset", "License", "Author", "OriginalLandingURL", "Rotation")
    table = CsvTable(path, columns, METADATA_CURE, count_by="Subset")
    matched: Counter[str] = Counter()
    for source_id, subset, licence, author, url, rotation in table.matching(found):
        image = found[source_id]
        matched[subset] += 1
        notes["listed_twice"] += image.listed
        image.listed = True
        image.licence, image.author, image.source_url = licence or None, author or None, url or None
        image.rotation_degrees = _ROTATIONS.get(rotation, 0)
        if rotation not in _ROTATIONS:  # NaN: the photograph had left Flickr when rotations were collected
            notes["rotation_unknown" if rotation.lower() in ("nan", "") else "rotation_unusable"] += 1
        notes["without_author"] += image.author is None
        notes["without_licence"] += image.licence is None
    notes["metadata_rows"] += table.rows.total()
    notes["listed_but_absent"] += sum(table.rows[split] - matched[split] for split in splits)
    notes["damaged_rows"] += table.damaged


def _read_urls(root: Path, splits: list[str], found: dict[str, _Found], notes: Counter[str]) -> list[Path]:
    """Download addresses for images without a page of their own; returns the lists that were there."""
    paths = [path for split in splits if (path := _first(root, (f"{split}-images-boxable.csv",)))]
    for path in paths:
        table = CsvTable(path, ("image_name", "image_url"), BOXES_CURE)
        for name, url in table.matching(f"{source_id}.jpg" for source_id in found):
            image = found[name.removesuffix(".jpg")]
            notes["source_url_is_a_download"] += image.source_url is None
            image.source_url = image.source_url or url or None
        notes["damaged_rows"] += table.damaged
    return paths


def _read_boxes(root: Path, splits: list[str], found: dict[str, _Found], notes: Counter[str]) -> list[Path]:
    """Class names of the boxes into the images; returns the lists that were there."""
    boxes = {split: _first(root, BOXES[split]) for split in splits}
    notes.update({f"no_box_list_for_{split}": 1 for split, path in boxes.items() if path is None})
    paths = [path for path in boxes.values() if path is not None]
    if not paths:
        return []
    class_path = _first(root, CLASSES) or root / CLASSES[0]
    names = _class_names(class_path)
    for path in paths:
        table = CsvTable(path, ("ImageID", "LabelName"), BOXES_CURE)
        for source_id, label in table.matching(found):
            found[source_id].labels.add(names.get(label, label))
            notes["boxes"] += 1
            notes["boxes_of_unnamed_class"] += label not in names
        notes["damaged_rows"] += table.damaged
    return [*paths, class_path]


def _class_names(path: Path) -> dict[str, str]:
    """Class id ("/m/011k07") -> name ("Tortoise"), from a list with or without a header."""
    names = {}
    for number, row in enumerate(csv.reader(read_lines(path, CLASSES_CURE)), start=1):
        if not row or row[0] == "LabelName":
            continue
        if len(row) != 2 or not row[0].startswith("/"):
            what = f"line {number} is not LabelName,DisplayName but {readable(','.join(row)[:80])!r}"
            raise SourceError(path, what, f"Was it saved by a spreadsheet program? {CLASSES_CURE}")
        names[row[0]] = readable(row[1])
    return names
