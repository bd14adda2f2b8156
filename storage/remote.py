"""A root in an object store, used through a local mirror of it; on a root on a disk every function
here does nothing.

`mirror_of("s3://bucket/some/prefix")` is a path, `remote_of` of that path, or of any below it,
knows the url again: there is no state to lose, and code goes on to use paths. The bucket alone is
the truth. The mirror holds copies: small files (manifests, part records, pointers) are asked for
again each time, files of parts are fetched when they are used and believed once their hash was
right, because their paths hold the prefix of the attempt that wrote them and so never mean other
bytes. The mirror may be deleted while nothing runs.
"""

import errno
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from storage import layout
from storage.atomic import fsync_path, place, write_bytes, write_json
from storage.errors import ArtifactDamaged, CannotWrite, StorageError, as_text
from storage.locks import exclusive
from storage.objects import Remote

if TYPE_CHECKING:
    from storage.artifact import Part, PartFile

SETTING = "RDM_MIRROR"
TRANSFERS_AT_ONCE = 8
ATTEMPTS_AT_OTHER_BYTES = 3
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}(:[0-9]{1,5})?")
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=-]{0,254}")
T = TypeVar("T")
R = TypeVar("R")

# Where a root is


def root_of(text: str) -> Path:
    """A root as a person writes it: the path itself, or the mirror of a url.

    `~` is the home, as a shell has it that was not asked: --root=~/data. Raises StorageError as
    `mirror_of` does, for a path that is no UTF-8 (DuckDB opens no file below), and for one that is
    no folder and cannot become one.
    """
    if as_text(text) != text:
        raise StorageError(
            "root", f"'{text}' is not UTF-8", "Rename the folder, or choose another one."
        )
    if "://" in text:
        return mirror_of(text)
    path = Path(os.path.expanduser(text))  # noqa: PTH111 - Path's fails where there is no such user
    # a folder's own name; Arrow would take it for a home
    if path.parts[:1] and path.parts[0].startswith("~"):
        path = path.absolute()
    there = next((place for place in (path, *path.parents) if os.path.lexists(place)), path)
    if os.path.lexists(there) and not os.path.isdir(there):  # noqa: PTH112 - no error of its own
        what = "a link that leads to no folder" if there.is_symlink() else "no folder"
        raise StorageError("root", f"'{there}' is {what}", "Give a folder, or a name that is free.")
    return path


def mirror_of(url: str) -> Path:
    """The local path that stands for a root in an object store: `<mirrors>/<scheme>/<rest of the
    url>`.

    Raises StorageError for a url that is no plain folder: with credentials, a query, '..' or odd
    characters in it.
    """
    scheme, separator, rest = url.partition("://")
    folders = (rest.removeprefix("/") if scheme == "file" else rest).removesuffix("/").split("/")
    plain = _HOST.fullmatch(folders[0]) and all(_FOLDER.fullmatch(folder) for folder in folders[1:])
    if not separator or not _SCHEME.fullmatch(scheme) or not plain:
        told = "a url" if "@" in url or "?" in url else repr(url)  # it may hold a secret
        what = (
            f"{told} is not a root: a root is scheme://bucket/folder "
            "of letters, digits and . _ - + ="
        )
        raise StorageError(
            "root",
            what,
            "Credentials and endpoint come from the environment: AWS_PROFILE, AWS_ENDPOINT_URL.",
        )
    mirrors = _mirrors()
    if mirrors is None:
        raise StorageError(
            "root",
            f"{url!r} needs a local mirror, and there is no home directory",
            f"Set {SETTING}.",
        )
    return mirrors.joinpath(scheme, *folders)


def remote_of(path: Path) -> Remote | None:
    """What a path in a mirror stands for, or None for a path on a disk."""
    mirrors = _mirrors() if path.is_absolute() else None
    if mirrors is None or not path.is_relative_to(mirrors):
        return None
    scheme, *folders = path.relative_to(mirrors).parts or ("",)
    if not folders or ".." in folders:
        return None
    return Remote(f"{scheme}://{'/' if scheme == 'file' else ''}{'/'.join(folders)}")


def shown(path: Path) -> str:
    """A path as a message names it: the url that it stands for, if it stands for one."""
    remote = remote_of(path)
    return remote.url if remote else str(path)


def _mirrors() -> Path | None:
    return _resolved(os.environ.get(SETTING) or "~/.cache/rdm/mirror")


@lru_cache(maxsize=8)
def _resolved(setting: str) -> Path | None:
    try:
        return Path(setting).expanduser().resolve()
    except RuntimeError:
        # no home directory: then there is no mirror, and roots on a disk need none
        return None


# Small files


def read(path: Path) -> bytes | None:
    """The bytes of a small file where the truth is, in the bucket or on the disk; None when there
    is none.
    """
    remote = remote_of(path)
    if remote:
        return remote.read()
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def follow(*paths: Path) -> None:
    """Make small files in the mirror what they are in the bucket; what is gone there goes here."""

    def followed(path: Path) -> None:
        data = read(path)
        if data is None:
            path.unlink(missing_ok=True)
        elif not path.is_file() or path.read_bytes() != data:
            try:
                write_bytes(path, data, durable=False)
            except FileNotFoundError:  # its directory was being cleared by a build
                write_bytes(path, data, durable=False)

    _side_by_side(followed, [path for path in paths if remote_of(path)])


def follow_all(root: Path, kind: str, name: str, *files: str) -> None:
    """`follow` these files of every version of a kind and name, or of all of them ("*")."""
    remote = remote_of(root)
    if remote is None:
        return
    kinds = [k for k in remote.folders() if k in layout.KINDS] if kind == "*" else [kind]
    names = [(k, n) for k in kinds for n in ((remote / k).folders() if name == "*" else [name])]
    found = _side_by_side(
        lambda pair: [(*pair, i) for i in (remote / pair[0] / pair[1]).folders()], names
    )
    there = {
        d for versions in found for version in versions if (d := _version_directory(root, version))
    }
    gone = [m for m in root.glob(f"{kind}/{name}/*/manifest.json") if m.parent not in there]
    follow(*(directory / file for directory in sorted(there) for file in files), *gone)


def follow_records(directory: Path) -> None:
    """`follow` the part records of an unfinished build."""
    remote, build = remote_of(directory), layout.build_directory(directory)
    if remote:
        names = [
            n for n in (remote / build.name).sizes() if n.endswith(".part.json") and "/" not in n
        ]
        follow(*{build / name for name in names}, *build.glob("*.part.json"))


def store(*paths: Path) -> None:
    """Put files of the mirror into the bucket, several at once."""
    remotes = [(path, remote) for path in paths if (remote := remote_of(path))]
    _side_by_side(lambda pair: pair[1].upload(pair[0]), remotes)


@lru_cache(maxsize=64)
def store_once(path: Path, attempt: str) -> None:
    """`store`, once a process and attempt."""
    store(path)


def drop(path: Path) -> None:
    """Delete a file, in the bucket first."""
    remote = remote_of(path)
    if remote:
        remote.delete()
    path.unlink(missing_ok=True)


def remove_stored(directory: Path) -> None:
    """Delete every object below a directory of the mirror: plan and manifest first, so that a kill
    leaves nothing half.

    The directory in the mirror stays: it is for the caller to remove.
    """
    remote = remote_of(directory)
    if remote:
        names = remote.sizes()
        for first in ("plan.json", "manifest.json"):
            if first in names:
                (remote / first).delete()
        _side_by_side(
            lambda name: (remote / name).delete(),
            sorted(set(names) - {"plan.json", "manifest.json"}),
        )


# The files of parts


def new_prefix(root: Path) -> str:
    """A fresh prefix for a build attempt in an object store, where no lock keeps two machines
    apart; "" on a disk.
    """
    return secrets.token_hex(4) if remote_of(root) else ""


def listed(parts: Iterable["Part"]) -> dict[str, tuple[str, "PartFile"]]:
    """path -> (prefix, file) over all files of some parts."""
    return {file.path: (part.prefix, file) for part in parts for file in part.files}


def local_path(directory: Path, files: Mapping[str, tuple[str, "PartFile"]], relative: str) -> Path:
    """The path of a file or folder of an artifact; from an object store, what of it this mirror
    lacks is fetched first.
    """
    names = (
        [relative]
        if relative in files
        else [name for name in files if name.startswith(f"{relative}/")]
    )
    if not names:
        return directory / relative
    local_paths(directory, [files[name] for name in names])
    return layout.part_file(directory, files[names[0]][0], relative)


def local_paths(directory: Path, files: Sequence[tuple[str, "PartFile"]]) -> list[Path]:
    """The paths of some files of an artifact, in order, fetched if they need to be."""
    paths = [layout.part_file(directory, prefix, file.path) for prefix, file in files]
    if remote_of(directory):
        lacking = [
            (p, file) for p, (_, file) in zip(paths, files, strict=True) if _size(p) != file.bytes
        ]
        _side_by_side(lambda pair: _fetch(pair[0], pair[1].bytes, pair[1].sha256), lacking)
    return paths


def sizes_stored(directory: Path) -> dict[str, int] | None:
    """path -> bytes of every object below a version's directory, by one listing; None on a disk."""
    remote = remote_of(directory)
    return remote.sizes() if remote else None


@lru_cache(maxsize=8)
def sizes_as_of(directory: Path, attempt: str) -> dict[str, int] | None:
    """`sizes_stored`, asked once a process and build attempt."""
    return sizes_stored(directory)


def altered(directory: Path, parts: Iterable["Part"]) -> dict[str, list[str]]:
    """Part name -> which objects in the bucket have other bytes than were written: every one is
    read. {} on a disk.
    """
    remote, found = remote_of(directory), dict[str, list[str]]()
    if remote is None:
        return found

    def reason(item: tuple[str, str, "PartFile"]) -> str:
        name = layout.part_file(Path(), item[1], item[2].path).as_posix()
        try:
            right = _digest((remote / name).pieces(item[2].bytes)) == item[2].sha256
        except FileNotFoundError:
            return f"{name} is absent"
        return (
            ""
            if right
            else f"{name} has other bytes than when it was written; delete that object first"
        )

    items = [(part.name, part.prefix, file) for part in parts for file in part.files]
    for (part_name, _, _), told in zip(items, _side_by_side(reason, items), strict=True):
        if told:
            found.setdefault(part_name, []).append(told)
    return found


def share(source: Path, target: Path, size: int) -> None:
    """The same bytes under a second name, in the bucket too; copied on a file system that knows no
    links.
    """
    one, other = remote_of(source), remote_of(target)
    if one and other:
        try:
            one.copy_to(other, size)
        except FileNotFoundError as error:
            raise ArtifactDamaged(
                one.url, "it was deleted a moment ago", "Run the same command again."
            ) from error
        if not source.is_file():
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        fsync_path(target)


def write_manifest(path: Path, value: Mapping[str, Any]) -> None:
    """Write a manifest, which is the commit: by rename on a disk, in an object store by a PUT that
    fails if there is one.

    When another machine has published the same plan meanwhile, its manifest stands and the mirror
    gets it.
    """
    remote = remote_of(path)
    if remote is None:
        write_json(path, value)
        return
    draft = layout.build_directory(path.parent) / path.name
    write_json(draft, value, durable=False)
    remote.create(draft.read_bytes())
    follow(path)


# One transfer


def _fetch(path: Path, size: int, sha256: str) -> None:
    """Fetch the object of a path into the mirror, unless another process has just done so."""
    remote = remote_of(path)
    assert remote is not None, "only paths of a mirror are fetched"
    with on_this_disk(path), exclusive(path.with_name(f".{path.name}.lock"), lambda _: None):
        if _size(path) != size:
            for left in path.parent.glob(f".{path.name}-*"):  # by a fetch that was killed
                left.unlink(missing_ok=True)
            fetch_object(remote, path, size, sha256)


def fetch_object(remote: Remote, path: Path, size: int, sha256: str) -> None:
    """Write an object beside, compare bytes and hash, rename. Raises ArtifactDamaged when they
    differ every time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            for _ in range(ATTEMPTS_AT_OTHER_BYTES):
                stream.seek(0)
                stream.truncate()
                if _digest(remote.pieces(size), stream.write) == sha256:
                    stream.flush()
                    place(Path(beside), path)
                    return
        cure = "Delete that object, then run the command that builds it again."
        raise ArtifactDamaged(remote.url, "it has other bytes than its manifest says", cure)
    except FileNotFoundError as error:
        raise ArtifactDamaged(
            remote.url, "it is absent", "Run the command that builds it again."
        ) from error
    finally:
        Path(beside).unlink(missing_ok=True)


def _digest(pieces: Iterator[bytes], write: Callable[[bytes], Any] = len) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        write(piece)
    return digest.hexdigest()


def _side_by_side(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """The results in order; the first failure ends it."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(TRANSFERS_AT_ONCE, len(items))) as pool:
        return list(pool.map(work, items))


@contextmanager
def on_this_disk(path: Path) -> Iterator[None]:
    """Turn what the mirror's disk refuses into CannotWrite with the cure."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        cure = f"Free some space, or let {SETTING} name a directory on a larger disk that is yours."
        raise CannotWrite(path, f"cannot be fetched: {os.strerror(error.errno)}", cure) from error


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def _version_directory(root: Path, version: tuple[str, str, str]) -> Path | None:
    try:
        return layout.artifact_directory(root, *version)
    except StorageError:  # a folder that is not ours
        return None
