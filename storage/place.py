"""Where artifacts lie, behind one set of verbs: a folder on this disk, or a bucket.

    place_of(path)      what knows how to read, keep and remove what lies at that path
      Place             a folder on this disk: it is the truth, so many verbs have nothing to do
      Bucket            a bucket, used through its mirror, which is a folder on this disk too

Builders work on paths, and say by these verbs what others shall see. The bucket alone is the truth;
the mirror holds copies. Small files (manifests, part records, pointers) are asked for again each
time. Files of parts are fetched when they are used and believed once their hash was right: their
paths hold the prefix of the attempt that wrote them, and so never mean other bytes. The mirror may
be deleted while nothing runs.
"""

import os
import secrets
import shutil
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

from storage import layout
from storage.atomic import fsync_path, sha256_file, write_bytes, write_json
from storage.errors import ArtifactDamaged, StorageError
from storage.locks import exclusive
from storage.manifest import Part, PartFile, files_in, reasons_by_part
from storage.mirror import url_of
from storage.objects import Remote
from storage.transfers import digest, fetch_object, on_this_disk, side_by_side

VISIBLE_FIRST = ("plan.json", "manifest.json")
"""What makes a directory a build or a version: it goes before the rest."""


class Stored(NamedTuple):
    """A file as it is stored."""

    identity: Hashable
    """Equal for two names of the same bytes."""
    names: int
    """How many names these bytes have."""
    bytes: int


class Place:
    """A folder on this disk."""

    far = False
    """Whether it lies behind a network: a file of a part may have to be fetched, and no lock tells
    what other machines are building there.
    """

    # Small files

    def read(self, path: Path) -> bytes | None:
        """The bytes of a small file where the truth is; None when there is none."""
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def follow(self, *paths: Path) -> None:
        """Make small files on this disk what they are where the truth is; what is gone there goes
        here.
        """

    def follow_versions(self, root: Path, kind: str, name: str, *files: str) -> None:
        """`follow` these files of every version of a kind and name, or of all of them ("*")."""

    def store(self, *paths: Path) -> None:
        """Let others see files that were written on this disk."""

    def store_as(self, source: Path, target: Path) -> None:
        """Let others see a file of this disk as it is now, under another name."""

    def commit(self, path: Path, value: Mapping[str, Any]) -> None:
        """Write a manifest, which is the commit: by rename."""
        write_json(path, value)

    def drop(self, path: Path) -> None:
        """Delete a file, first where others see it."""
        path.unlink(missing_ok=True)

    # The files of parts

    def new_prefix(self) -> str:
        """A fresh folder for the files that a build attempt writes; "" where a lock keeps attempts
        apart.
        """
        return ""

    def fetch(self, files: Iterable[tuple[Path, PartFile]]) -> None:
        """Have files of parts on this disk. Raises ArtifactDamaged, CannotWrite or Unreachable."""

    def share(self, source: Path, target: Path, size: int) -> None:
        """The same bytes under a second name; copied on a file system that knows no links."""
        target.parent.mkdir(parents=True, exist_ok=True)
        # A killed attempt may have left it; os.link refuses a name that is taken.
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
            fsync_path(target)

    def sizes(self, directory: Path, paths: Sequence[Path], attempt: str = "") -> list[int | None]:
        """Bytes of each of these files of a version, None for one that is absent.

        `attempt`: as this build attempt may have found them earlier, where it costs to look.
        """
        return [_size(path) for path in paths]

    def has_other_bytes(self, path: Path, sha256: str) -> bool:
        """Whether the file on this disk has another hash. Raises FileNotFoundError."""
        return sha256_file(path) != sha256

    def altered(self, directory: Path, parts: Iterable[Part]) -> dict[str, list[str]]:
        """Part name -> which of its files have other bytes where others see them and we have only
        copies: every one is read.
        """
        return {}

    # Directories

    def listing(self, directory: Path) -> dict[str, Stored]:
        """Every file below a directory, by its path from there."""
        files = {}
        for folder, _, names in os.walk(directory):
            for name in names:
                path = Path(folder, name)
                with suppress(FileNotFoundError):  # removed since its folder was listed
                    status = path.lstat()
                    size = status.st_size if S_ISREG(status.st_mode) else 0
                    identity = (status.st_dev, status.st_ino)
                    stored = Stored(identity, status.st_nlink, size)
                    files[path.relative_to(directory).as_posix()] = stored
        return files

    def names(self, root: Path, kind: str) -> list[str]:
        """Names that something of this kind was published under."""
        return sorted(path.parent.name for path in (root / kind).glob("*/current"))

    def withdraw(self, directory: Path) -> None:
        """Let others see nothing below a directory; in an order that leaves nothing half when it is
        killed. What lies on this disk is for the caller to remove.
        """

    def clear_temporary(self, directory: Path) -> None:
        """Remove what a build that was killed was writing right below the directory of its
        version.
        """
        for temporary in directory.glob(".*-*"):
            temporary.unlink(missing_ok=True)


class Bucket(Place):
    """A bucket behind its mirror on this disk."""

    far = True

    def read(self, path: Path) -> bytes | None:
        """Ask the bucket."""
        return _object(path).read()

    def follow(self, *paths: Path) -> None:
        """Several at once."""

        def followed(path: Path) -> None:
            data = self.read(path)
            if data is None:
                path.unlink(missing_ok=True)
            elif not path.is_file() or path.read_bytes() != data:
                try:
                    write_bytes(path, data, durable=False)
                except FileNotFoundError:  # its directory was being cleared by a build
                    write_bytes(path, data, durable=False)

        side_by_side(followed, paths)

    def follow_versions(self, root: Path, kind: str, name: str, *files: str) -> None:
        """Of the versions that the bucket has, and the manifests of those it has no more."""
        there = _versions(root, kind, name)
        paths = []
        for directory in sorted(there):
            for file in files:
                paths.append(directory / file)
        for manifest in root.glob(f"{kind}/{name}/*/manifest.json"):
            if manifest.parent not in there:
                paths.append(manifest)
        self.follow(*paths)

    def store(self, *paths: Path) -> None:
        """Put them into the bucket, several at once."""
        side_by_side(lambda path: _object(path).upload(path), paths)

    def store_as(self, source: Path, target: Path) -> None:
        """Put it into the bucket."""
        _object(target).upload(source)

    def commit(self, path: Path, value: Mapping[str, Any]) -> None:
        """By a PUT that fails if there is one. When another machine has published the same plan
        meanwhile, its manifest stands and the mirror gets it.
        """
        # Not yet under its own name: the mirror must not say that it is published.
        draft = layout.build_directory(path.parent) / path.name
        write_json(draft, value, durable=False)
        _object(path).create(draft.read_bytes())
        self.follow(path)

    def drop(self, path: Path) -> None:
        """In the bucket first."""
        _object(path).delete()
        super().drop(path)

    def new_prefix(self) -> str:
        """No lock keeps two machines apart."""
        return secrets.token_hex(4)

    def fetch(self, files: Iterable[tuple[Path, PartFile]]) -> None:
        """What this mirror lacks, several at once."""
        # The size is enough: a file gets its name only after its hash was right.
        lacking = [(path, file) for path, file in files if _size(path) != file.bytes]
        side_by_side(lambda pair: _fetch(*pair), lacking)

    def share(self, source: Path, target: Path, size: int) -> None:
        """Copied inside the bucket, and here as far as the mirror has it. Raises ArtifactDamaged
        for a source that is gone.
        """
        try:
            _object(source).copy_to(_object(target), size)
        except FileNotFoundError as error:
            what, cure = "it was deleted a moment ago", "Run the same command again."
            raise ArtifactDamaged(_object(source).url, what, cure) from error
        if source.is_file():
            super().share(source, target, size)

    def sizes(self, directory: Path, paths: Sequence[Path], attempt: str = "") -> list[int | None]:
        """By one listing, which is asked for once a process and attempt."""
        sizes = _sizes_as_of(directory, attempt) if attempt else _object(directory).sizes()
        return [sizes.get(path.relative_to(directory).as_posix()) for path in paths]

    def has_other_bytes(self, path: Path, sha256: str) -> bool:
        """Of a copy in the mirror, if there is one; a wrong one goes, and is fetched again when it
        is used.
        """
        if not path.is_file() or not super().has_other_bytes(path, sha256):
            return False
        path.unlink()
        return True

    def altered(self, directory: Path, parts: Iterable[Part]) -> dict[str, list[str]]:
        """Read every object of them."""

        def wrong(located: tuple[Part, Path, PartFile]) -> str:
            _, path, file = located
            name = path.relative_to(directory).as_posix()
            try:
                if digest(_object(path).pieces(file.bytes)) == file.sha256:
                    return ""
            except FileNotFoundError:
                return f"{name} is absent"
            return f"{name} has other bytes than when it was written; delete that object first"

        files = files_in(directory, parts)
        return reasons_by_part([part for part, _, _ in files], side_by_side(wrong, files))

    def listing(self, directory: Path) -> dict[str, Stored]:
        """Every object: one listing, not a request an object."""
        remote = _object(directory)
        files = {}
        for name, size in remote.sizes().items():
            files[name] = Stored((remote / name).url, 1, size)
        return files

    def names(self, root: Path, kind: str) -> list[str]:
        """By one listing, which does not tell what was published from what was only begun."""
        return _object(root / kind).folders()

    def withdraw(self, directory: Path) -> None:
        """Delete every object: plan and manifest first."""
        remote = _object(directory)
        names = set(remote.sizes())
        for first in VISIBLE_FIRST:
            # Without plan and manifest the rest is nothing to everybody, should this be killed.
            if first in names:
                (remote / first).delete()
        rest = sorted(names - set(VISIBLE_FIRST))
        side_by_side(lambda name: (remote / name).delete(), rest)

    def clear_temporary(self, directory: Path) -> None:
        """Nothing: who reads through this mirror writes there too."""


THIS_DISK = Place()
"""Whatever a path on it stands for."""
BUCKET = Bucket()


def place_of(path: Path) -> Place:
    """Where the truth of a path is: in the bucket whose mirror it lies in, else on this disk."""
    return BUCKET if url_of(path) else THIS_DISK


def _object(path: Path) -> Remote:
    """The object, or the folder of objects, that a path in a mirror stands for."""
    url = url_of(path)
    assert url is not None, f"{path} is in no mirror"
    return Remote(url)


def _versions(root: Path, kind: str, name: str) -> set[Path]:
    """The directory of each version in a bucket that has objects there."""
    remote = _object(root)
    kinds = [k for k in remote.folders() if k in layout.KINDS] if kind == "*" else [kind]
    families: list[tuple[str, str]] = []
    for a_kind in kinds:
        for a_name in (remote / a_kind).folders() if name == "*" else [name]:
            families.append((a_kind, a_name))
    ids = side_by_side(lambda family: (remote / family[0] / family[1]).folders(), families)
    directories = set()
    for family, identities in zip(families, ids, strict=True):
        for identity in identities:
            with suppress(StorageError):  # a folder that is not ours
                directories.add(layout.artifact_directory(root, *family, identity))
    return directories


@lru_cache(maxsize=8)
def _sizes_as_of(directory: Path, attempt: str) -> dict[str, int]:
    """The sizes when a build attempt first asked; another attempt asks again."""
    return _object(directory).sizes()


def _fetch(path: Path, file: PartFile) -> None:
    """Fetch the object of a path into the mirror, unless another process has just done so."""
    with on_this_disk(path), exclusive(path.with_name(f".{path.name}.lock"), lambda _: None):
        if _size(path) != file.bytes:
            for leftover in path.parent.glob(f".{path.name}-*"):  # of a fetch that was killed
                leftover.unlink(missing_ok=True)
            fetch_object(_object(path), path, file.bytes, file.sha256)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
