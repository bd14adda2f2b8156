"""What lies under a folder: files that may be read, and everything else with the reason why it is
not.

One bad entry never ends a walk. What this project made itself is left out and counted: the root
that is imported into, wherever it lies, and every artifact of another root.
"""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from storage import layout
from storage.errors import SourceError
from storage.sources.disk import is_file, is_folder, names_in
from storage.sources.source import readable

IMAGE_SUFFIXES = frozenset({
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jxl",
    ".mpo", ".png", ".tif", ".tiff", ".webp",
})  # fmt: skip
_ARTIFACT_NAME = re.compile("[0-9a-f]{12}")  # a version's folder is called by its id
_BESIDE_ARTIFACTS = ("current", "removed.txt")


@dataclass(frozen=True, slots=True)
class Entry:
    """Something under a folder that was walked.

    name: its posix path there, byte for byte as the disk has it. stamp: (bytes, modification time
    in ns) of a regular file that may be read. reason: why it must not or cannot be read; one of the
    two is None. member: its name inside `path`, which is then a zip; its stamp is (bytes, CRC).
    """

    name: str
    path: Path
    stamp: tuple[int, int] | None = None
    reason: str | None = None
    is_folder: bool = False
    member: str | None = None

    @property
    def file(self) -> Path | None:
        """The path, if it is to be read."""
        return self.path if self.reason is None else None


def is_image_name(name: str) -> bool:
    """Whether a file's name ends as an image's does, in any case."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def check_not_ours(folder: Path, ours: Path | None) -> None:
    """Raise SourceError where the folder is the root itself or lies among its artifacts."""
    if ours is None or not is_folder(ours):
        return
    base, root = folder.resolve(), ours.resolve()
    # Not ==: one of the two may be reached by a link or another mount.
    if base.samefile(root):
        what = "is the root, where this project keeps what it makes"
        raise SourceError(folder, what, "Give the folder of the pictures, or another --root.")
    if base.is_relative_to(root) and base.relative_to(root).parts[0] in layout.KINDS:
        what = f"lies among the artifacts of the root {readable(str(ours))}"
        raise SourceError(folder, what, "Give the folder of the pictures themselves.")


def is_root(folder: Path, ours: Path | None) -> bool:
    """Whether a folder is the root that is imported into, by whatever name."""
    try:
        return ours is not None and folder.samefile(ours)
    except OSError:
        return False


def walk(
    folder: Path, notes: Counter[str], ours: Path | None, deep: bool = True, links_out: bool = True
) -> list[Entry]:
    """Everything under a folder but real folders, in the order of names.

    ours: the root that is imported into, which is not entered. deep: enter folders; else they are
    counted, as hidden entries are. links_out: files that links outside the folder lead to are read
    like others; links to folders never are. Raises SourceError where the folder itself cannot be
    listed.
    """
    names_in(folder)
    # Resolved once, as every link is compared with it.
    own = _Own.of(folder, ours)
    walked: list[Entry] = []
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        try:
            with os.scandir(folder / inside) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            why = f"a folder that cannot be listed: {error.strerror}"
            walked.append(Entry(inside, folder / inside, reason=why, is_folder=True))
            continue
        if _is_artifact(folder / inside, entries):
            notes["artifacts_left_out"] += 1
            continue
        for entry in _wanted(entries, notes):
            name = f"{inside}/{entry.name}" if inside else entry.name
            if not entry.is_dir(follow_symlinks=False):
                file = _looked_at(name, entry, own, links_out)
                if file is None:
                    notes["links_into_the_root_left_out"] += 1
                else:
                    walked.append(file)
            elif is_root(Path(entry.path), own.root):
                notes["root_left_out"] += 1
            elif deep:
                waiting.append(name)
            else:
                notes["folders_not_entered"] += 1
    return sorted(walked, key=lambda entry: entry.name)


def pictures(entries: list[Entry], notes: Counter[str]) -> Iterator[Entry]:
    """Entries called as images are, and folders that could not be read; others are counted."""
    for entry in entries:
        if entry.is_folder or is_image_name(entry.name):
            yield entry
        else:
            notes["other_files"] += 1


@dataclass(frozen=True, slots=True)
class _Own:
    """Where the walk is, and the root that it must not enter."""

    base: Path
    root: Path | None

    @staticmethod
    def of(folder: Path, ours: Path | None) -> "_Own":
        """Of a walk in `folder`; a root around it keeps nobody out."""
        base = folder.resolve()
        root = ours.resolve() if ours is not None and is_folder(ours) else None
        return _Own(base, None if root is None or base.is_relative_to(root) else root)


def _is_artifact(folder: Path, entries: list[os.DirEntry[str]]) -> bool:
    """Whether a folder is a version of an artifact: called by an id, with a plan inside."""
    if not _ARTIFACT_NAME.fullmatch(folder.name):
        return False
    return "plan.json" in [entry.name for entry in entries]


def _wanted(entries: list[os.DirEntry[str]], notes: Counter[str]) -> list[os.DirEntry[str]]:
    """The entries but for hidden ones and what this project keeps beside artifacts; both are
    counted.
    """
    ours_beside = _beside_artifacts(entries)
    notes["artifacts_left_out"] += len(ours_beside)
    wanted = []
    for entry in entries:
        if entry.name.startswith("."):
            notes["hidden"] += 1
        elif entry.name not in ours_beside:
            wanted.append(entry)
    return wanted


def _beside_artifacts(entries: list[os.DirEntry[str]]) -> set[str]:
    """The names of the files that this project keeps beside the versions of an artifact."""
    for entry in entries:
        if _ARTIFACT_NAME.fullmatch(entry.name) and is_file(Path(entry.path) / "plan.json"):
            return {entry.name for entry in entries}.intersection(_BESIDE_ARTIFACTS)
    return set()


def _looked_at(name: str, entry: os.DirEntry[str], own: _Own, links_out: bool) -> Entry | None:
    """The entry of what is no real folder; None for a link to something in the root."""
    path, is_link = Path(entry.path), entry.is_symlink()
    try:
        target = path.resolve(strict=True) if is_link else path
        status = target.stat()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        what = getattr(error, "strerror", None) or "it leads in a circle"
        return Entry(
            name,
            path,
            reason=f"a broken link: {what}" if is_link else f"cannot be looked at: {what}",
        )
    if is_link and own.root is not None and target.is_relative_to(own.root):
        return None
    reason = _why_not(target, status.st_mode)
    if is_link and not links_out and not target.is_relative_to(own.base):
        reason = "links outside the folder"
    return Entry(name, path, None if reason else (status.st_size, status.st_mtime_ns), reason)


def _why_not(target: Path, mode: int) -> str | None:
    """Why what lies there is not read, or None for a regular file that may be."""
    if stat.S_ISDIR(mode):
        return "a link to a folder, not followed"
    # Opening a pipe waits for somebody who writes into it, perhaps for ever.
    if not stat.S_ISREG(mode):
        return "a pipe, socket or device, not a file"
    return None if os.access(target, os.R_OK) else "may not be read: Permission denied"
