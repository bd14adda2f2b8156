"""Files on a user's disk: is this the folder, is this list whole, read this as it was listed."""

import json
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from storage.errors import SourceError
from storage.sources import zips
from storage.sources.source import SourceImage, readable
from storage.sources.zips import ZippedFile
from storage.text import NotText, text_of

MOST_DAMAGE = 100
"""Of so many rows of a list one may be damaged; it is left out and counted. A list with more damage
is refused.
"""
MOST_JSON_BYTES = 2**31
"""Of a list inside a zip; COCO's largest has 0.45 GB. What claims more is not unpacked."""
_LFS_HEAD = b"version https://git-lfs.github.com/spec/"

_PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\3\4": "ZIP",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"(\xb5/\xfd": "zstd",
}

# A folder with any of these names inside is the root folder of that data set.
_MARKS = {
    "coco": (
        "train2017", "val2017", "annotations",
        "train2017.zip", "val2017.zip", "annotations_trainval2017.zip",
    ),
    "openimages": ("image_ids_and_rotation.csv", "class-descriptions-boxable.csv"),
    "wikiart": ("Style", "Genre", "Impressionism"),
    "emoji": ("emoji.json",),
}  # fmt: skip


_GONE = "it was there when the data set was listed and is gone; import again"


class NotAsListed(Exception):
    """An image's file is gone, was replaced or cannot be read; the message says which."""


def check_root(root: Path, dataset: str, layout: str) -> None:
    """Raise SourceError unless root is a folder that can be listed; `layout` says what should be in
    it.
    """
    if not is_folder(root):
        what = "is a file, not a folder" if os.path.lexists(root) else "does not exist"
        raise SourceError(root, what, f"Pass the folder that holds {layout}, as {dataset} unpacks.")
    names_in(root)


def wrong_layout(root: Path, dataset: str, layout: str) -> SourceError:
    """The error for a folder that is not laid out as `dataset`; it says what is there, and what
    that looks like.
    """
    names = names_in(root)
    content = ", ".join(readable(name) for name in names[:6]) or "nothing"
    if len(names) > 6:
        content += ", ..."
    cure = f"Pass the folder that holds {layout}."
    for other, marks in _MARKS.items():
        if other != dataset and not set(marks).isdisjoint(names):
            cure += f' This looks like {other}: read it as "{other}".'
    return SourceError(root, f"is not laid out as {dataset}; it holds {content}", cure)


def names_in(folder: Path) -> list[str]:
    """Names in a folder, sorted; SourceError where the folder cannot be listed."""
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208  names as the disk has them
    except OSError as error:
        raise SourceError(
            folder, f"cannot be listed: {error.strerror}", "Check its permissions."
        ) from error


def is_file(path: Path) -> bool:
    """Whether it is a file, or a link to one; False for what may not be looked at."""
    # Path.is_file raises where a folder above may not be entered
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: Path) -> bool:
    """The same for a folder."""
    return os.path.isdir(path)  # noqa: PTH112


def first_file(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of the names that is a file in a folder, or None."""
    for name in names:
        if is_file(folder / name):
            return folder / name
    return None


def check_metadata(path: Path, cure: str) -> None:
    """Raise SourceError unless path is a readable file with data; cure: where to get it."""
    head = _checked_head(path, cure)
    for first_bytes, packer in _PACKED.items():
        if head.startswith(first_bytes):
            cure = "Unpack it, under the name without the packer's suffix."
            raise SourceError(path, f"is packed with {packer}", cure)


def _checked_head(path: Path, cure: str) -> bytes:
    """The first bytes of a readable file with data, packed or not; SourceError for all else."""
    if not is_file(path):
        there = os.path.lexists(path)
        raise SourceError(
            path, "is no file that can be read" if there else "this file is missing", cure
        )
    head = _bytes(path, len(_LFS_HEAD))
    if not head:
        raise SourceError(path, "this file is empty", cure)
    if head == _LFS_HEAD:
        raise SourceError(
            path, "is a git-lfs pointer, not the data", f"Run `git lfs pull` there. {cure}"
        )
    return head


def open_zip(path: Path, cure: str) -> zips.OpenZip:
    """The zip that lies there, kept open by this process; SourceError where it cannot be opened."""
    try:
        return zips.opened(path)
    except (OSError, zips.NoZip) as error:
        _checked_head(path, cure)
        if isinstance(error, OSError):
            what = f"cannot be read: {error.strerror}"
        else:
            what = f"cannot be opened as a ZIP: {error}"
        raise SourceError(path, what, f"It may be damaged or cut short. {cure}") from error


def _bytes(path: Path, most: int = -1) -> bytes:
    """The file's bytes, or its first; SourceError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise SourceError(
            path, f"cannot be read: {error.strerror}", "Check its permissions and its disk."
        ) from error


def read_json(
    file: Path | ZippedFile, cure: str, hook: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Any:
    """The content of a JSON file in UTF-8, 16 or 32; SourceError where it cannot be read.

    A byte that is no UTF-8 becomes a surrogate, as half a character written as \\ud83d does: who
    takes a text from it asks whether it is whole.
    """
    where = zips.as_named(file)
    try:
        return json.loads(_json_text(file, cure), object_pairs_hook=hook)
    except (ValueError, RecursionError) as error:  # ValueError covers broken JSON and broken UTF-16
        what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise SourceError(
            where, f"is not JSON: {what}", f"The download may be cut short. {cure}"
        ) from error
    except OSError as error:
        raise SourceError(
            where, f"cannot be read: {error.strerror}", "Check its permissions and its disk."
        ) from error
    except MemoryError as error:
        what = f"does not fit into memory ({_bytes_of(file, cure):,} bytes)"
        raise SourceError(
            where, what, "Cut it into smaller data sets, or use a larger machine."
        ) from error


def _json_text(file: Path | ZippedFile, cure: str) -> str:
    if isinstance(file, ZippedFile):
        data = _zipped_bytes(file, cure)
        return data.decode(*_json_encoding(data[:4]))
    check_metadata(file, cure)
    encoding, errors = _json_encoding(_bytes(file, 4))
    with file.open(encoding=encoding, errors=errors) as opened:
        return opened.read()


def _json_encoding(head: bytes) -> tuple[str, str]:
    """How JSON that begins so is decoded, and what is done with bytes that cannot be."""
    # RFC 4627: told by a mark, or by where the NUL bytes are
    encoding = json.detect_encoding(head)
    return encoding, "surrogateescape" if encoding.startswith("utf-8") else "strict"


def _bytes_of(file: Path | ZippedFile, cure: str) -> int:
    """How long it is, or what it unpacks to."""
    if isinstance(file, Path):
        return file.stat().st_size
    return open_zip(file.zip, cure).members[file.name].size_bytes


def _zipped_bytes(file: ZippedFile, cure: str) -> bytes:
    """What a list inside a zip unpacks to; SourceError where it cannot be, or is too large."""
    archive = open_zip(file.zip, cure)
    member = archive.members.get(file.name)
    if member is None:
        raise SourceError(str(file), "this file is missing", cure)
    if member.size_bytes > MOST_JSON_BYTES:
        what = f"claims {member.size_bytes:,} bytes, and {MOST_JSON_BYTES:,} are the most"
        raise SourceError(str(file), what, "Unpack the zip.")
    try:
        return archive.read(member)
    except zips.BadMember as error:
        raise SourceError(str(file), f"cannot be read: {error}", cure) from error


def read_lines(path: Path, cure: str) -> list[str]:
    """Lines of a text list without their ends; bytes that are no UTF-8 are kept as surrogates.

    SourceError where it is missing, empty, a git-lfs pointer or no text.
    """
    check_metadata(path, cure)
    try:
        text = text_of(_bytes(path), keep_bytes=True)
    except NotText as error:
        raise SourceError(path, f"is no text: {error}", f"Save it as UTF-8. {cure}") from error
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def check_damage(path: Path, damaged: int, rows: int, first: str, cure: str) -> None:
    """Raise SourceError where more than one in MOST_DAMAGE rows is damaged; first: the first."""
    if damaged * MOST_DAMAGE > rows:
        raise SourceError(path, f"{damaged:,} of {rows:,} rows are damaged, first {first}", cure)


def read_as_listed(image: SourceImage) -> bytes:
    """The bytes of an image's file, which must be the one that was listed: as long and as old, or
    in a zip as long and of the same checksum.

    Its row describes that file. Raises NotAsListed for another one, and where it cannot be read;
    SourceError where the zip it was in cannot be opened, for which no image is to blame.
    """
    assert image.path is not None, "images without a file are never read"
    try:
        if image.member is not None:
            return _member_as_listed(image, image.path, image.member)
        # A pipe put there since must not make us wait.
        descriptor = os.open(image.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            # Before and after: it may be written to while it is read.
            _check_stamp(image, descriptor)
            data = file.read()
            _check_stamp(image, descriptor)
            return data
    except FileNotFoundError as error:
        raise NotAsListed(_GONE) from error
    except OSError as error:
        raise NotAsListed(error.strerror or type(error).__name__) from error


def _member_as_listed(image: SourceImage, path: Path, name: str) -> bytes:
    """The same of a file inside a zip; it never unpacks to more bytes than were listed."""
    archive = open_zip(path, "Put it back and run the same command again: it continues from here.")
    member = archive.members.get(name)
    if member is None:
        raise NotAsListed(_GONE)
    if image.stamp and member.stamp != image.stamp:
        raise _changed(image.stamp[0], member.size_bytes)
    try:
        return archive.read(member)
    except zips.BadMember as error:
        raise NotAsListed(str(error)) from error


def _check_stamp(image: SourceImage, descriptor: int) -> None:
    status = os.fstat(descriptor)
    now = status.st_size, status.st_mtime_ns
    if not stat.S_ISREG(status.st_mode) or now != (image.stamp or now):
        raise _changed(image.stamp[0] if image.stamp else None, now[0])


def _changed(bytes_before: int | None, bytes_now: int) -> NotAsListed:
    before = f"it had {bytes_before:,} bytes and " if bytes_before is not None else ""
    change = f"{before}has {bytes_now:,}"
    return NotAsListed(f"it changed after the data set was listed ({change}); import again")
