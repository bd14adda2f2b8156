"""What lies on the disk: list a folder, read a metadata file whole, remember both in one hash."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from storage.errors import SourceError
from storage.sources.source import readable

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".mpo"})
_LFS_HEAD = b"version https://git-lfs.github.com/spec/"

# What tells a data set's root folder from another: any of these names inside it.
_MARKS = {
    "coco": ("train2017", "val2017", "annotations"),
    "openimages": ("image_ids_and_rotation.csv", "class-descriptions-boxable.csv"),
    "wikiart": ("Style", "Genre", "Impressionism"),
}


def check_root(root: Path, dataset: str, layout: str) -> None:
    """Raise SourceError unless root is a folder that can be listed; `layout` says what should be in it."""
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise SourceError(root, what, f"Pass the folder that holds {layout}, as {dataset} unpacks.")
    names_in(root)


def wrong_layout(root: Path, dataset: str, layout: str) -> SourceError:
    """The error for a folder that is not laid out as `dataset`; it says what is there, and what that looks like."""
    names = names_in(root)
    found = ", ".join(readable(name) for name in names[:6]) + (", ..." if len(names) > 6 else "")
    cure = f"Pass the folder that holds {layout}."
    for other, marks in _MARKS.items():
        if other != dataset and not set(marks).isdisjoint(names):
            cure += f' This looks like {other}: read it as "{other}".'
    return SourceError(root, f"is not laid out as {dataset}; it holds {found or 'nothing'}", cure)


def names_in(folder: Path) -> list[str]:
    """Names in a folder, sorted; SourceError where the folder cannot be listed."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise SourceError(folder, f"cannot be listed: {error.strerror}", "Check its permissions.") from error


def files_in(folder: Path, wanted: Callable[[str], bool]) -> tuple[dict[str, tuple[Path, int, int]], int]:
    """Regular files directly in a folder whose name is wanted: name -> (path, bytes, mtime in ns).

    Also how many other entries there are (folders not counted). Links to files count as files: a data set of links
    is common. SourceError where the folder cannot be listed.
    """
    found, others = {}, 0
    names_in(folder)
    with os.scandir(folder) as entries:
        for entry in entries:
            if wanted(entry.name) and entry.is_file():
                status = entry.stat()
                found[entry.name] = (Path(entry.path), status.st_size, status.st_mtime_ns)
            elif not entry.is_dir():
                others += 1
    return found, others


def is_image_name(name: str) -> bool:
    """Whether a file's name ends as an image's does (any case); hidden files are not images."""
    return not name.startswith(".") and PurePath(name).suffix.lower() in IMAGE_SUFFIXES


def check_metadata(path: Path, cure: str) -> None:
    """Raise SourceError unless path is a readable file with data in it; `cure` says where to get it."""
    if not path.is_file():
        raise SourceError(path, "this file is missing", cure)
    try:
        with path.open("rb") as file:
            head = file.read(len(_LFS_HEAD))
    except OSError as error:
        raise SourceError(path, f"cannot be read: {error.strerror}", "Check its permissions.") from error
    if not head:
        raise SourceError(path, "this file is empty", cure)
    if head == _LFS_HEAD:
        raise SourceError(path, "is a git-lfs pointer, not the data", f"Run `git lfs pull` there. {cure}")


def read_json(path: Path, cure: str, object_hook: Callable[[dict], Any] | None = None) -> Any:
    """The content of a JSON file; SourceError where it is missing, a git-lfs pointer or broken."""
    check_metadata(path, cure)
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file, object_hook=object_hook)
    except (ValueError, RecursionError) as error:  # ValueError covers broken JSON and broken UTF-8
        raise SourceError(path, f"is not JSON: {error}", f"The download may be cut short. {cure}") from error


def read_lines(path: Path, cure: str) -> list[str]:
    """Lines of a text list without their ends (LF, CRLF), undecodable bytes kept as surrogates."""
    check_metadata(path, cure)
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def snapshot_of(files: Mapping[str, tuple[int, int]], metadata: Iterable[Path]) -> str:
    """sha256 over id -> (bytes, mtime in ns), sorted, and over the names and contents of the metadata files."""
    digest = hashlib.sha256()
    for source_id in sorted(files):
        digest.update(json.dumps([source_id, *files[source_id]]).encode() + b"\n")
    for path in sorted(metadata):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(json.dumps([readable(path.name), content]).encode() + b"\n")
    return digest.hexdigest()
