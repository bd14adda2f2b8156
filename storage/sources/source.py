"""What every data set reader returns: images by stable id, with all that is known of them before a pixel is read."""

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from storage.errors import SourceError

_SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SAFE_DATASET = re.compile(r"[a-z0-9_]{1,32}")  # no hyphen: it parts data set, id and crop in a key


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One image of a data set, as its lists describe it; nothing is decoded.

    dataset: "coco", "openimages", ... source_id: its id there, the same on every machine, always valid Unicode.
    path: the file, or None where `reason` says why there is none to read; never both, never neither.
    captions, labels: texts; style, author, licence, source_url, split: as the data set states them, else None.
    rotation_degrees: counter-clockwise turn that sets the stored pixels upright: 0, 90, 180 or 270.
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

    def __post_init__(self) -> None:
        if (self.path is None) == (self.reason is None):
            raise ValueError(f"{self.source_id}: needs a path or a reason, has {self.path} and {self.reason!r}")


@dataclass(frozen=True, slots=True)
class Listing:
    """A data set as it lay on the disk. images: sorted by source_id, ids unique.

    snapshot: sha256 over every file's (id, bytes, modification time in ns) and the contents of the metadata files; it
    changes when anything does, and does not follow the data set to another machine. notes: counts of what was odd.
    stamps: source_id -> (bytes, modification time in ns) of the files that exist.
    """

    images: tuple[SourceImage, ...]
    snapshot: str
    notes: dict[str, int] = field(default_factory=dict)
    stamps: Mapping[str, tuple[int, int]] = field(default_factory=dict)


Reader = Callable[..., Listing]


def key_of(dataset: str, source_id: str, crop: int) -> str:
    """The key of one sample: `<dataset>-<id>-<crop>`, only [A-Za-z0-9_-], so a WebDataset tar can hold it.

    An id made of up to 64 such characters stays as it is; any other becomes a slug of up to 64 characters and the
    first 12 hex digits of its sha256. So a key depends on its image alone, never on its place in a list, and is the
    same on every machine. Raises ValueError for a data set name other than [a-z0-9_] or a negative crop.
    """
    if not _SAFE_DATASET.fullmatch(dataset) or not source_id or crop < 0:
        raise ValueError(f"no key for dataset {dataset!r}, id {source_id!r}, crop {crop}")
    safe_id = source_id
    if not _SAFE_ID.fullmatch(source_id):
        digest = hashlib.sha256(source_id.encode("utf-8", "surrogatepass")).hexdigest()
        safe_id = f"{_slug(source_id)}-{digest[:12]}"
    return f"{dataset}-{safe_id}-{crop:02d}"


def _slug(text: str) -> str:
    """Up to 64 characters of [A-Za-z0-9_-] that remind a reader of text; "id" where nothing is left."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[^A-Za-z0-9_]+", "-", plain).strip("-")[:64].strip("-") or "id"


def source_id_of(relative: str) -> str:
    """A stable id from a posix path relative to the data set's root.

    NFC, as macOS may store the same name decomposed; bytes that are no UTF-8 (they reach Python as surrogates) become
    \\xNN text, so that every id can be stored and printed.
    """
    return readable(unicodedata.normalize("NFC", relative))


def readable(text: str) -> str:
    """text as valid Unicode: a surrogate that stands for an undecodable byte becomes its \\xNN."""
    raw = "".join(f"\\x{ord(c) - 0xDC00:02x}" if "\udc80" <= c <= "\udcff" else c for c in text)
    return raw.encode("utf-8", "backslashreplace").decode("utf-8")


def listing_of(
    root: Path,
    images: Iterable[SourceImage],
    snapshot: str,
    notes: dict[str, int],
    stamps: Mapping[str, tuple[int, int]] = MappingProxyType({}),
) -> Listing:
    """The images, sorted by id; SourceError if two share an id, because two samples would then share a key."""
    ordered = sorted(images, key=lambda image: image.source_id)
    for before, after in itertools.pairwise(ordered):
        if before.source_id == after.source_id:
            raise SourceError(
                root,
                f"two images have the id {after.source_id!r}: {_place(before)} and {_place(after)}",
                "Remove or rename one of them (names that differ only in Unicode normalisation count as equal).",
            )
    return Listing(tuple(ordered), snapshot, {name: count for name, count in sorted(notes.items()) if count}, stamps)


def _place(image: SourceImage) -> str:
    """Where an image is, or why it is nowhere."""
    return readable(str(image.path)) if image.path else str(image.reason)
