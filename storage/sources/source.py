"""What every data set reader returns: images by stable id, with all that is known of them before a
pixel is read.
"""

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from storage.errors import SourceError
from storage.text import UNDECODED_BYTE

_ABSENT = "is absent"
_DRIVE = re.compile("[A-Za-z]:")  # C:, as absolute names of Windows begin
_INFO_ZIP = re.compile(r"#U([0-9a-f]{4})|#L([0-9a-f]{6})")  # a letter as unzip escapes it


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image of a data set, as its lists describe it; nothing is decoded.

    dataset: "coco", "openimages", ... source_id: its id there, the same on every machine, always
    valid Unicode. path: the file, or None where `reason` says why there is none to read; never
    both, never neither. captions, labels: texts; style, author, licence, source_url, split: as the
    data set states them, else None. rotation_degrees: counter-clockwise turn that sets the stored
    pixels upright: 0, 90, 180 or 270. stamp: (bytes, modification time in ns) of the file when it
    was listed. member: the file's name inside `path`, which is then a zip; its stamp is (bytes,
    CRC) of what it unpacks to.
    """

    dataset: str
    source_id: str
    path: Path | None
    captions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    style: str | None = None
    author: str | None = None
    licence: str | None = None
    source_url: str | None = None
    rotation_degrees: int = 0
    split: str | None = None
    reason: str | None = None
    stamp: tuple[int, int] | None = None
    member: str | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.reason is None):
            raise ValueError(
                f"{self.source_id}: needs a path or a reason, has {self.path} and {self.reason!r}"
            )
        if self.member is not None and self.path is None:
            raise ValueError(f"{self.source_id}: {self.member!r} is in no zip")

    @property
    def is_absent(self) -> bool:
        """Whether a list names it and no such file exists; otherwise it has a path, or is there and
        not to be read.
        """
        return bool(self.reason and self.reason.endswith(_ABSENT))


PLACE = ("path", "member")
"""The fields that say where a file lies: what is made of an image does not depend on them."""


def absent(listed_in: str, name: str) -> str:
    """The reason of an image that a list names and that does not exist."""
    return f"listed in {listed_in}, but {readable(name)} {_ABSENT}"


@dataclass(frozen=True, slots=True)
class Listing:
    """A data set as it lay on the disk. images: sorted by source_id, ids unique.

    snapshot: sha256 over all of every image but its place, so that it changes when a file does,
    when a list says something else of an image, and when a reader makes something else of the same
    files; it does not follow the data set to another machine. notes: counts of what was odd.
    """

    images: tuple[SourceImage, ...]
    snapshot: str
    notes: dict[str, int] = field(default_factory=dict)


Reader = Callable[..., Listing]


def source_id_of(relative: str) -> str:
    """A stable id from a posix path relative to the data set's root.

    NFC, as macOS may store the same name decomposed; bytes that are no UTF-8 (they reach Python as
    surrogates) become \\xNN text, so that every id can be stored and printed.
    """
    return readable(unicodedata.normalize("NFC", relative))


def names_inside(name: str, folder: str) -> list[str]:
    """What a name in a list or a zip can mean under a folder: itself, and what follows the folder's
    own name.

    Backslashes are slashes, as Windows writes them. Nothing for an absolute name or one with "..".
    """
    written = name.replace("\\", "/")
    steps = [step for step in written.split("/") if step not in ("", ".")]
    leads_out = written.startswith("/") or _DRIVE.match(written) or ".." in steps
    if leads_out or "\0" in written or not steps:
        return []
    names = ["/".join(steps)]
    if folder in steps[:-1]:
        names.append("/".join(steps[steps.index(folder) + 1 :]))
    return names


def unzipped(name: str) -> str:
    """A file's name in NFC, with the letters that unzip wrote as #U00e9 where a locale lacked them.

    Info-ZIP, process.c: #Uxxxx, and #Lxxxxxx beyond the first plane. What is no letter stays.
    """
    return unicodedata.normalize("NFC", _INFO_ZIP.sub(_letter, name))


def _letter(escape: re.Match[str]) -> str:
    number = int(escape[1] or escape[2], 16)
    # unzip escapes neither ASCII nor surrogates; chr() takes nothing from 0x110000 on.
    is_letter = 0x7F < number < 0x110000 and not 0xD800 <= number <= 0xDFFF
    return chr(number) if is_letter else escape[0]


def readable(text: str) -> str:
    """text as valid Unicode: a surrogate that stands for an undecodable byte becomes its \\xNN."""
    with_bytes = UNDECODED_BYTE.sub(_byte_escape, text)
    # Other surrogates are halves of a letter: they become \uxxxx.
    return with_bytes.encode("utf-8", "backslashreplace").decode("utf-8")


def _byte_escape(surrogate: re.Match[str]) -> str:
    return f"\\x{ord(surrogate[0]) - 0xDC00:02x}"


def listing_of(root: Path, images: Iterable[SourceImage], notes: Mapping[str, int]) -> Listing:
    """The images sorted by id, each with one of its own, their snapshot, and counts above zero.

    Files that claim the same id (names that differ only in Unicode normalisation) are all kept: the
    first stays as it is, the id of another gets 8 hex digits of its own name, and they are counted
    as `ids_claimed_twice`.
    """
    by_id: dict[str, SourceImage] = {}
    claimed_twice = 0
    for image in sorted(images, key=lambda image: _precedence(image, root)):
        if image.source_id in by_id:
            claimed_twice += 1
            digest = hashlib.sha256(_raw_name(image, root)).hexdigest()
            image = replace(image, source_id=f"{image.source_id}~{digest[:8]}")
            if image.source_id in by_id:
                raise SourceError(
                    root, f"two images have the id {image.source_id!r}", "Rename one."
                )
        by_id[image.source_id] = image
    # Sorted again: an id with a digest at its end may belong elsewhere.
    rows = tuple(by_id[source_id] for source_id in sorted(by_id))
    counts = {**notes, "ids_claimed_twice": claimed_twice}
    above_zero = {name: count for name, count in sorted(counts.items()) if count}
    return Listing(rows, snapshot_of(rows), above_zero)


def _precedence(image: SourceImage, root: Path) -> tuple[str, bool, bool, bytes]:
    """Among those that claim an id: files before others, the name that is the id itself first."""
    name = _raw_name(image, root)
    decomposed = not unicodedata.is_normalized("NFC", os.fsdecode(name))
    return image.source_id, image.path is None, decomposed, name


def _raw_name(image: SourceImage, root: Path) -> bytes:
    """What tells an image from another of the same id, on every machine: its place in the data set,
    or its reason.
    """
    if image.path is None:
        return str(image.reason).encode()
    place = image.path.relative_to(root)
    if image.member is not None:  # as if the zip were the folder that it is called by
        place = place.with_suffix("")
        place /= names_inside(image.member, place.name)[-1]
    return os.fsencode(place)


def snapshot_of(images: Iterable[SourceImage]) -> str:
    """sha256 over all that is known of the images, but for where their files lie."""
    known = [field.name for field in fields(SourceImage) if field.name not in PLACE]
    digest = hashlib.sha256()
    for image in images:
        digest.update(json.dumps([getattr(image, name) for name in known]).encode() + b"\n")
    return digest.hexdigest()
