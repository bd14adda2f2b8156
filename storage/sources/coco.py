"""The layout of COCO 2017, photographs with five captions each; many others are written in it.

<root>/{train,val}2017/<12 digits>.jpg      or any name, in folders or not
<root>/annotations/{captions,instances}_{train,val}2017.json

or, read where they are and never unpacked:

<root>/{train,val}2017.zip                  the same folder, or what is in it
<root>/annotations*.zip                     the same lists
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from storage.sources.annotations import CURE, Annotations, Picture, read_captions, read_instances
from storage.sources.disk import (
    check_root,
    is_file,
    is_folder,
    names_in,
    open_zip,
    wrong_layout,
)
from storage.sources.source import (
    Listing,
    SourceImage,
    absent,
    listing_of,
    names_inside,
    readable,
    source_id_of,
    unzipped,
)
from storage.sources.walk import Entry, is_image_name, pictures, walk
from storage.sources.walk_zip import walk_zip
from storage.sources.zips import ZippedFile

LAYOUT = (
    "train2017/ or val2017/ and annotations/captions_*2017.json, annotations/instances_*2017.json"
    " (or train2017.zip, val2017.zip, annotations_trainval2017.zip)"
)
IMAGES_URL = "http://images.cocodataset.org/zips"
ANNOTATIONS_ZIP = "annotations_trainval2017.zip"
SPLITS = ("train", "val")


@dataclass(slots=True)
class _Facts:
    """What the annotation files say of one image."""

    listed_in: str
    reason: str | None = None
    licence: str | None = None
    url: str | None = None
    captions: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)


def read_coco(root: Path, split: str = "all", ours: Path | None = None) -> Listing:
    """List COCO 2017 under root; split: "train", "val", or "all" that have a folder of images,
    or a zip of it. The folder wins, and the zip is counted as left out.

    An annotated image without a file is a row with a reason; a file without annotation is a row
    without captions. source_id: the file's name without .jpg; the whole name where it ends
    otherwise or lies in a folder of the split. labels: names of the object classes in it. licence:
    "name (url)". COCO names no authors. ours: the root of this project's files, which is not
    entered. Raises SourceError for a wrong folder, for annotation files that are missing, git-lfs
    pointers or broken, and for a zip that cannot be opened.
    """
    if split not in (*SPLITS, "all"):
        raise ValueError(f"split is {split!r}, must be one of {SPLITS} or 'all'")
    check_root(root, "coco", LAYOUT)
    splits = []
    for name in SPLITS:
        is_there = is_folder(root / f"{name}2017") or is_file(root / f"{name}2017.zip")
        if split in (name, "all") and is_there:
            splits.append(name)
    if not splits:
        raise wrong_layout(
            root,
            "coco",
            LAYOUT if split == "all" else f"{split}2017/ and annotations/ (or their zips)",
        )
    notes: Counter[str] = Counter()
    images: list[SourceImage] = []
    for name in splits:
        images += _read_split(root, name, ours, notes)
    return listing_of(root, images, notes)


def _read_split(
    root: Path, split: str, ours: Path | None, notes: Counter[str]
) -> Iterator[SourceImage]:
    """The images of one split: those that are listed, then files that no list names."""
    captions_name, instances_name = f"captions_{split}2017.json", f"instances_{split}2017.json"
    captions = read_captions(_annotation_file(root, captions_name), notes)
    instances = read_instances(_annotation_file(root, instances_name), notes)
    entries = _entries(root, split, ours, notes)
    files = _Files(entries, f"{split}2017", [*captions.pictures, *instances.pictures], notes)
    facts_of: dict[str, _Facts] = {}  # by the name of the file
    _add_facts(captions, captions_name, files, facts_of, notes)
    _add_facts(instances, instances_name, files, facts_of, notes)

    for name, facts in facts_of.items():
        entry = files.by_name.get(name)
        if entry is None and facts.reason is None:
            notes["listed_but_absent"] += 1
            facts.reason = absent(facts.listed_in, f"{split}2017/{name}")
        yield _row(name, entry, facts, split)
        notes["without_captions"] += not facts.captions
        notes["without_licence"] += facts.licence is None
    unlisted = [entry for entry in entries if entry.name not in facts_of]
    # Last, the files that no list names: they have no captions, but are images of the split.
    for entry in pictures(unlisted, notes):
        yield _row(entry.name, entry, _Facts(""), split)
        notes["files_without_annotation"] += not entry.is_folder
        notes["without_licence"] += 1


def zip_of_images(root: Path, split: str) -> Path | None:
    """The zip that the images of a split are read from; None where there is none, or the folder
    holds an image. Raises SourceError for a folder that cannot be listed.
    """
    path, folder = root / f"{split}2017.zip", root / f"{split}2017"
    if not is_file(path):
        return None
    return None if is_folder(folder) and _holds_an_image(folder) else path


def _holds_an_image(folder: Path) -> bool:
    """Whether an image lies in the folder, however deep; SourceError where it cannot be listed."""
    names_in(folder)
    for _, _, names in os.walk(folder):
        for name in names:
            if is_image_name(name) and not name.startswith("."):
                return True
    return False


def members_in_zips(root: Path, split: str = "all") -> int:
    """How many files the zips hold that the images of a split, or of all, are read from.

    Raises SourceError where one cannot be opened.
    """
    count = 0
    for name in SPLITS:
        path = zip_of_images(root, name) if split in (name, "all") else None
        if path:
            count += len(open_zip(path, _cure(path)).members)
    return count


def _cure(path: Path) -> str:
    return f"Download {IMAGES_URL}/{path.name} again, or unpack what you have of it."


def _entries(root: Path, split: str, ours: Path | None, notes: Counter[str]) -> list[Entry]:
    """What lies in the folder of a split, or would if its zip were unpacked."""
    folder, packed = root / f"{split}2017", zip_of_images(root, split)
    if packed:
        return walk_zip(packed, folder.name, notes, _cure(packed))
    notes["zips_left_out_for_a_folder"] += is_file(root / f"{split}2017.zip")
    return walk(folder, notes, ours)


def _annotation_file(root: Path, name: str) -> Path | ZippedFile:
    """Where an annotation file lies: in its folder, or in a zip beside it; else where it should."""
    path = root / "annotations" / name
    # A file that is there and no good is told, and nothing is read in its place.
    if os.path.lexists(path):
        return path
    zips = []
    for found in names_in(root):
        if found.startswith("annotations") and found.endswith(".zip") and is_file(root / found):
            zips.append(found)
    # The one that COCO publishes before those that are only called alike.
    for found in sorted(zips, key=lambda found: (found != ANNOTATIONS_ZIP, found)):
        members = []
        for member in open_zip(root / found, CURE).members:
            if names_inside(member, "annotations")[-1:] == [name]:
                members.append(member)
        if members:
            return ZippedFile(root / found, min(members, key=lambda member: (len(member), member)))
    return path


def _row(name: str, entry: Entry | None, facts: _Facts, split: str) -> SourceImage:
    """One image from its file, if there is one, and what is known of it."""
    flat = "/" not in name and name.endswith(".jpg")
    return SourceImage(
        dataset="coco", source_id=source_id_of(name.removesuffix(".jpg") if flat else name),
        path=entry.file if entry else None, stamp=entry.stamp if entry else None,
        member=entry.member if entry and entry.file else None,
        reason=entry.reason if entry else facts.reason, split=split, licence=facts.licence,
        captions=tuple(facts.captions), labels=tuple(facts.labels), source_url=facts.url,
    )  # fmt: skip


def _add_facts(
    annotations: Annotations,
    listed_in: str,
    files: "_Files",
    facts_of: dict[str, _Facts],
    notes: Counter[str],
) -> None:
    """Put what one annotation file says, by its own numbers, to the files it means."""
    times_listed: Counter[str] = Counter()
    for picture in annotations.pictures:
        name, reason = files.place_of(picture)
        facts = facts_of.setdefault(name, _Facts(listed_in, reason))
        times_listed[name] += 1
        # What was known before stays: each file adds what is still missing.
        facts.url = facts.url or picture.url
        licence = annotations.licences.get(picture.licence) if picture.licence else None
        facts.licence = facts.licence or licence
        notes["licences_unknown"] += bool(picture.licence and not licence)
        facts.captions += annotations.captions.get(picture.number, ())
        for label in annotations.labels.get(picture.number, ()):
            if label not in facts.labels:
                facts.labels.append(label)
    for count in times_listed.values():
        notes["images_listed_twice"] += count > 1
    numbers = {picture.number for picture in annotations.pictures}
    for what, texts_of in (("captions", annotations.captions), ("labels", annotations.labels)):
        for number, texts in texts_of.items():
            if number not in numbers:
                notes[f"{what}_of_unlisted_images"] += len(texts)


class _Files:
    """The files of a split by the names that lists give them."""

    def __init__(
        self, entries: list[Entry], folder: str, listed: Iterable[Picture], notes: Counter[str]
    ) -> None:
        self.folder, self.notes = folder, notes
        self.by_name = {entry.name: entry for entry in entries if not entry.is_folder}
        self._unzipped = _one_each(self.by_name, unzipped)
        unlisted = set(self.by_name)
        for picture in listed:
            for name in (picture.name, *names_inside(picture.name, folder)):
                unlisted.discard(self._unzipped.get(unzipped(name), ""))
        # Only among files that no list names: one that has a record of its own is another image.
        self._any_case = _one_each(unlisted, _any_case)

    def place_of(self, picture: Picture) -> tuple[str, str | None]:
        """The name of the picture's file under the folder, and why there can be none, or None.

        The file called so; else the one whose accents are composed otherwise or escaped by unzip;
        else the one that no list names and that differs in case alone, which is counted. If none,
        the name it would have.
        """
        # As it is written, byte for byte, wins over everything that is only alike.
        if picture.name in self.by_name:
            return picture.name, None
        candidates = names_inside(picture.name, self.folder)
        if not candidates:
            self.notes["file_names_that_lead_out"] += 1
            why = f"its file name leads out of {self.folder}/: {readable(picture.name)!r}"
            return picture.name, why
        for candidate in candidates:
            file = self._unzipped.get(unzipped(candidate))
            if file:
                return file, None
        for candidate in candidates:
            file = self._any_case.get(_any_case(candidate))
            if file:
                self.notes["found_in_another_case"] += 1
                return file, None
        return candidates[-1], None


def _one_each(names: Iterable[str], common: Callable[[str], str]) -> dict[str, str]:
    """`common(name)` -> the name, where only one of the names has it."""
    by_common: dict[str, str] = {}
    shared: set[str] = set()
    for name in names:
        if by_common.setdefault(common(name), name) != name:
            shared.add(common(name))
    for key in shared:
        del by_common[key]
    return by_common


def _any_case(name: str) -> str:
    """What names have in common that differ in case alone."""
    return unzipped(name).casefold()
