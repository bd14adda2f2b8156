"""The folders that are written to: room, rights, and what the storage of artifacts does there,
done once.
"""

import errno
import mmap
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from flows.doctor.findings import Finding, Findings, Machine, fails, fine, note
from storage.atomic import publish, write_bytes
from storage.locks import exclusive
from storage.mirror import SETTING as MIRROR
from storage.mirror import mirrors, url_of

GB = 10**9
MOUNTS = Path("/proc/self/mountinfo")
PASSING = {
    "tmpfs": "in memory, and gone when the machine stops",
    "ramfs": "in memory, and gone when the machine stops",
    "overlay": "in the container itself, and gone with it",
}
"""File systems that nobody wants their artifacts on."""
SCRATCH = ".rdm-doctor-"


@dataclass(frozen=True)
class Wanted:
    """The room a folder should have: below the first figure something fails, below the second it is
    worth knowing.
    """

    least_bytes: float
    little_bytes: float
    least_files: int = 1_000
    little_files: int = 50_000


ROOT = Wanted(0.2 * GB, 5 * GB)
"""The demo takes 0.2 GB; of photographs a rebuild or training says what it needs."""
TEMPORARY = Wanted(0.05 * GB, 1 * GB)
CACHE = Wanted(0, 3 * GB)
"""Weights of one encoder take 0.3 to 2 GB."""


@dataclass(frozen=True)
class Mount:
    """The file system that a path is on."""

    point: Path
    kind: str
    read_only: bool


class _Unable(Exception):
    """A file system that does something else than it says."""


def root(machine: Machine) -> Findings:
    """--root, or where it would be made."""
    cure = "Choose a folder on a disk of this machine, by --root"
    url = url_of(machine.root.absolute())
    if url:
        what = f"{url}, which is not asked here; files of it are kept in {machine.root}"
        yield fine("root", what)
    folder = existing(machine.root)
    mount = mount_of(folder)
    where = str(machine.root.absolute())
    where += "" if folder == machine.root.absolute() else f", which would be made in {folder}"
    if url is None and mount and mount.kind in PASSING:
        yield note("root", f"{where}, is {PASSING[mount.kind]} ({mount.kind})", cure)
    troubles = list(tried("root", folder, cure, mount))
    yield from troubles
    yield from room("root", folder, where, ROOT, bool(troubles), "Free some, or rdm gc")


def temporary(machine: Machine) -> Findings:
    """Where temporary files go."""
    stated = machine.environment.get("TMPDIR")
    try:
        folder = Path(tempfile.gettempdir())
    except OSError as error:
        yield fails("temporary", f"no folder for temporary files: {error}", "export TMPDIR=FOLDER")
        return
    if stated and Path(stated).absolute() != folder:
        what = f"TMPDIR={stated} cannot be written; {folder} is used"
        yield note("temporary", what, f"mkdir -p {quote(stated)}, or unset TMPDIR")
    yield from room("temporary", folder, str(folder), TEMPORARY, False, "Free some, or set TMPDIR")


def caches(machine: Machine) -> Findings:
    """Where fetched weights stay, and copies of a bucket's files."""
    from huggingface_hub.constants import HF_HUB_CACHE

    places = {"weights": (Path(HF_HUB_CACHE), "HF_HOME")}
    mirror = mirrors()
    if mirror is not None and url_of(machine.root.absolute()):
        places["files of the bucket"] = (mirror, MIRROR)
    for what, (place, setting) in places.items():
        folder = existing(place)
        cure = f"Free some, or export {setting}=FOLDER on another disk"
        troubled = not os.access(folder, os.W_OK | os.X_OK)
        if troubled:
            told = f"{what}: {place} cannot be written, so nothing that is fetched stays"
            yield note("cache", told, f"chown it, or export {setting}=FOLDER")
        yield from room("cache", folder, f"{what}: {place}", CACHE, troubled, cure)


def room(
    topic: str, folder: Path, where: str, wanted: Wanted, troubled: bool, cure: str
) -> Findings:
    """Free bytes and files; a fine line only where nothing else is wrong with the folder."""
    seen = os.statvfs(folder)
    free, files = seen.f_bavail * seen.f_frsize, seen.f_favail
    mount = mount_of(folder)
    told = f"{where}: {free / GB:.1f} GB free"
    if seen.f_files:  # some file systems count none
        told += f", and room for {files:,} files"
    told += f" ({mount.kind})" if mount else ""
    few = bool(seen.f_files) and files < wanted.little_files
    if free < wanted.least_bytes or (few and files < wanted.least_files):
        yield fails(topic, told, cure)
    elif free < wanted.little_bytes or few:
        yield note(topic, told, cure)
    elif not troubled:
        yield fine(topic, told)


def existing(path: Path) -> Path:
    """The path, or the nearest folder around it that is there and may be looked at."""
    folder = path.absolute()
    # Path's own raises for a folder that is inside one of somebody else's
    while not os.path.isdir(folder) and folder != folder.parent:  # noqa: PTH112
        folder = folder.parent
    return folder


def mount_of(folder: Path, mounts: Path = MOUNTS) -> Mount | None:
    """The file system of a folder; None where the kernel does not say."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    found: Mount | None = None
    real = folder.resolve()
    for line in lines:
        # proc(5): id, parent, device, root, point, options, ... - kind, source, super options
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), (after.split() + ["", "", ""])[:3]
        point = Path(fields[4].encode("latin-1", "replace").decode("unicode_escape"))
        if real.is_relative_to(point) and (found is None or point.is_relative_to(found.point)):
            read_only = "ro" in (*fields[5].split(","), *options.split(","))
            found = Mount(point, kind, read_only)
    return found


def tried(topic: str, folder: Path, cure: str, mount: Mount | None) -> Findings:
    """What of storage's ways with files does not work in a folder. Nothing of it stays there."""
    kind = f" ({mount.kind} at {mount.point})" if mount else ""
    try:
        scratch = tempfile.TemporaryDirectory(
            prefix=SCRATCH, dir=folder, ignore_cleanup_errors=True
        )
    except OSError as error:
        yield _refused(topic, f"{folder}{kind}", error, cure)
        return
    with scratch as name:
        for doing, work, harmless in WAYS:
            try:
                work(Path(name))
            except (OSError, ValueError, _Unable) as error:
                why = error.strerror if isinstance(error, OSError) else str(error)
                what = f"{folder}{kind}: {doing} does not work: {why}"
                if harmless:
                    yield note(topic, f"{what}; {harmless}", cure)
                else:
                    yield fails(topic, what, cure)


def _refused(topic: str, where: str, error: OSError, cure: str) -> Finding:
    """Not even a folder can be made."""
    own = {
        errno.EROFS: "Make it writable, or choose another folder by --root",
        errno.ENOSPC: "Free some space or files there",
        errno.EDQUOT: "Free some space, or have the quota raised",
    }
    if error.errno in (errno.EACCES, errno.EPERM):
        cure = f"chown or chmod it for uid {os.getuid()}, or choose another folder by --root"
    what = f"{where} cannot be written: {error.strerror or error}"
    return fails(topic, what, own.get(error.errno or 0, cure))


def _written_twice(folder: Path) -> None:
    target = folder / "file"
    write_bytes(target, b"one")
    write_bytes(target, b"another")
    if target.read_bytes() != b"another":
        raise _Unable("what was written is not what is read")


def _folder_moved(folder: Path) -> None:
    (folder / "made").mkdir()
    (folder / "made" / "inside").write_bytes(b"")
    publish(folder / "made", folder / "published")
    if not (folder / "published" / "inside").is_file():
        raise _Unable("what was in it is gone")


def _locked(folder: Path) -> None:
    with exclusive(folder / "lock"):
        try:
            with exclusive(folder / "lock"):
                raise _Unable("two hold it at once")
        except BlockingIOError:
            pass


def _linked(folder: Path) -> None:
    (folder / "first").write_bytes(b"")
    os.link(folder / "first", folder / "second")


def _mapped(folder: Path) -> None:
    (folder / "mapped").write_bytes(b"bytes")
    with (
        (folder / "mapped").open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as seen,
    ):
        if seen[:] != b"bytes":
            raise _Unable("other bytes are seen")


WAYS: tuple[tuple[str, Callable[[Path], None], str], ...] = (
    ("replacing a file at once", _written_twice, ""),
    ("moving a folder into place", _folder_moved, ""),
    ("a lock (flock)", _locked, ""),
    ("a second name (link)", _linked, "what a new version shares with an old one is copied"),
    ("reading by mmap", _mapped, "large indices and arrays may not be read"),
)
"""What is done, how, and what follows where it does not work; "": what is built there fails."""
