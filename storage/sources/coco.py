"""The layout of COCO 2017, photographs with five captions each; many others are written in it.

<root>/{train,val}2017/<12 digits>.jpg      or any name, in folders or not
<root>/annotations/{captions,instances}_{train,val}2017.json
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from storage.sources.annotations import Annotations, Picture, read_captions, read_instances
from storage.sources.disk import check_root, is_folder, wrong_layout
from storage.sources.source import (
    Listing,
    SourceImage,
    absent,
    listing_of,
    readable,
    source_id_of,
    unzipped,
)
from storage.sources.walk import Entry, pictures, walk

LAYOUT = (
    "train2017/ or val2017/ and annotations/captions_*2017.json, annotations/instances_*2017.json"
)
SPLITS = ("train", "val")
ANNOTATIONS = ("captions", "instances")
_DRIVE = re.compile("[A-Za-z]:")


@dataclass(slots=True)
class _Said:
    """What the annotation files say of one image."""

    listed_in: str
    reason: str | None = None
    licence: str | None = None
    url: str | None = None
    captions: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)


def read_coco(root: Path, split: str = "all", ours: Path | None = None) -> Listing:
    """List COCO 2017 under root; split: "train", "val", or "all" that have a folder of images.

    An annotated image without a file is a row with a reason; a file without annotation is a row
    without captions. source_id: the file's name without .jpg; the whole name where it ends
    otherwise or lies in a folder of the split. labels: names of the object classes in it. licence:
    "name (url)". COCO names no authors. ours: the root of this project's files, which is not
    entered. Raises SourceError for a wrong folder, and for annotation files that are missing,
    git-lfs pointers or broken.
    """
    if split not in (*SPLITS, "all"):
        raise ValueError(f"split is {split!r}, must be one of {SPLITS} or 'all'")
    check_root(root, "coco", LAYOUT)
    splits = [name for name in SPLITS if split in (name, "all") and is_folder(root / f"{name}2017")]
    if not splits:
        raise wrong_layout(
            root, "coco", LAYOUT if split == "all" else f"{split}2017/ and annotations/"
        )
    notes: Counter[str] = Counter()
    images = [image for name in splits for image in _read_split(root, name, ours, notes)]
    return listing_of(root, images, notes)


def _read_split(
    root: Path, split: str, ours: Path | None, notes: Counter[str]
) -> Iterator[SourceImage]:
    """The images of one split: those that are listed, then files that no list names."""
    captions_path, instances_path = (
        root / "annotations" / f"{what}_{split}2017.json" for what in ANNOTATIONS
    )
    captions, instances = read_captions(captions_path, notes), read_instances(instances_path, notes)
    entries = walk(root / f"{split}2017", notes, ours)
    files = _Files(entries, f"{split}2017", [*captions.pictures, *instances.pictures], notes)
    said: dict[str, _Said] = {}
    _hear(captions, captions_path.name, files, said, notes)
    _hear(instances, instances_path.name, files, said, notes)

    for name, one in said.items():
        entry = files.by_name.get(name)
        if entry is None and one.reason is None:
            notes["listed_but_absent"] += 1
            one.reason = absent(one.listed_in, f"{split}2017/{name}")
        yield _row(name, entry, one, split)
        notes["without_captions"] += not one.captions
        notes["without_licence"] += one.licence is None
    for entry in pictures([entry for entry in entries if entry.name not in said], notes):
        yield _row(entry.name, entry, _Said(""), split)
        notes["files_without_annotation"] += not entry.is_folder
        notes["without_licence"] += 1


def _row(name: str, entry: Entry | None, said: _Said, split: str) -> SourceImage:
    """One image from its file, if there is one, and what is said of it."""
    flat = "/" not in name and name.endswith(".jpg")
    return SourceImage(
        dataset="coco", source_id=source_id_of(name.removesuffix(".jpg") if flat else name),
        path=entry.file if entry else None, stamp=entry.stamp if entry else None,
        reason=entry.reason if entry else said.reason, split=split, licence=said.licence,
        captions=tuple(said.captions), labels=tuple(said.labels), source_url=said.url,
    )  # fmt: skip


def _hear(
    annotations: Annotations,
    file: str,
    files: "_Files",
    said: dict[str, _Said],
    notes: Counter[str],
) -> None:
    """Put what one annotation file says, by its own numbers, to the images it means."""
    meant: defaultdict[str, int] = defaultdict(int)
    for picture in annotations.pictures:
        name, reason = files.place_of(picture)
        one = said.setdefault(name, _Said(file, reason))
        meant[name] += 1
        one.url = one.url or picture.url
        licence = annotations.licences.get(picture.licence) if picture.licence else None
        one.licence = one.licence or licence
        notes["licences_unknown"] += bool(picture.licence and not licence)
        one.captions += annotations.captions.get(picture.number, ())
        labels = annotations.labels.get(picture.number, ())
        one.labels += [label for label in labels if label not in one.labels]
    notes["images_listed_twice"] += sum(count > 1 for count in meant.values())
    numbers = {picture.number for picture in annotations.pictures}
    for what, texts in (("captions", annotations.captions), ("labels", annotations.labels)):
        notes[f"{what}_of_unlisted_images"] += sum(
            len(found) for one, found in texts.items() if one not in numbers
        )


class _Files:
    """The files of a split by the names that lists give them."""

    def __init__(
        self, entries: list[Entry], folder: str, listed: Iterable[Picture], notes: Counter[str]
    ) -> None:
        self.folder, self.notes = folder, notes
        self.by_name = {entry.name: entry for entry in entries if not entry.is_folder}
        self._unzipped = _one_each(self.by_name, unzipped)
        names = (name for one in listed for name in (one.name, *_names_inside(one.name, folder)))
        unnamed = self.by_name.keys() - {self._unzipped.get(unzipped(name)) for name in names}
        self._any_case = _one_each(unnamed, _any_case)

    def place_of(self, picture: Picture) -> tuple[str, str | None]:
        """The name of the picture's file under the folder, and why there can be none, or None.

        The file called so; else the one whose accents are composed otherwise or escaped by unzip;
        else the one that no list names and that differs in case alone, which is counted. If none,
        the name it would have.
        """
        if picture.name in self.by_name:
            return picture.name, None
        candidates = _names_inside(picture.name, self.folder)
        if not candidates:
            self.notes["file_names_that_lead_out"] += 1
            why = f"its file name leads out of {self.folder}/: {readable(picture.name)!r}"
            return picture.name, why
        for candidate in candidates:
            if found := self._unzipped.get(unzipped(candidate)):
                return found, None
        for candidate in candidates:
            if found := self._any_case.get(_any_case(candidate)):
                self.notes["found_in_another_case"] += 1
                return found, None
        return candidates[-1], None


def _one_each(names: Iterable[str], alike: Callable[[str], str]) -> dict[str, str]:
    """What names have in common -> the name, if only one has it."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        found[alike(name)].append(name)
    return {key: those[0] for key, those in found.items() if len(those) == 1}


def _names_inside(name: str, folder: str) -> list[str]:
    """What a listed name can mean under the folder: itself, and what follows the folder's own name.

    Backslashes are slashes, as Windows writes them. Nothing for an absolute name or one with "..".
    """
    written = name.replace("\\", "/")
    parts = [part for part in written.split("/") if part not in ("", ".")]
    leads_out = written.startswith("/") or _DRIVE.match(written) or ".." in parts
    if leads_out or "\0" in written or not parts:
        return []
    names = ["/".join(parts)]
    if folder in parts[:-1]:
        names.append("/".join(parts[parts.index(folder) + 1 :]))
    return names


def _any_case(name: str) -> str:
    return unzipped(name).casefold()
