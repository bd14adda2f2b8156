"""Zips that were fetched -> folders: what is in them, and nothing anywhere else."""

import json
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from storage.atomic import write_json
from storage.errors import SourceError, explaining_disk_errors
from storage.web.collection import STATE
from storage.web.files import check_space
from storage.web.record import RECORD_FILE

MOST_BYTES = 200 * 2**30
"""Of everything in one zip."""
MOST_RATIO = 200
"""Of a member's bytes to those that it takes in the zip: pictures and tables are below."""
COPY_BYTES = 2**20


def unpack(path: Path, into: Path, folder: str | None = None) -> dict[str, int]:
    """Write the members of a zip into a folder; those that are there already stay, and what an
    earlier version of it held and this one does not is removed. Returns counts.

    folder: only what lies in this folder of the zip. Where all members lie in one folder that bears
    the zip's own name, that is left out. Raises SourceError for a damaged zip, one whose names
    lead out, and one that would unpack to too much; and CannotWrite.
    """
    counts = {"written": 0, "unchanged": 0, "removed": 0}
    try:
        with zipfile.ZipFile(path) as archive, explaining_disk_errors(into):
            members = dict(_members(path, archive, folder))
            total = sum(member.file_size for member in members.values())
            if total > MOST_BYTES:
                what = f"unpacks to {total:,} bytes, more than {MOST_BYTES:,}"
                raise SourceError(path, what, "It is not what it should be.")
            missing = {}
            for name, member in members.items():
                if not _is_there(into, name, member):
                    missing[name] = member
            check_space(into, sum(member.file_size for member in missing.values()))
            for name, member in missing.items():
                _write(archive, member, into / name)
                counts["written"] += 1
            counts["unchanged"] = len(members) - len(missing)
            counts["removed"] = _remove_others(path, into, set(members))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        cure = "Remove it and fetch it again."
        raise SourceError(path, f"cannot be unpacked: {error}", cure) from error
    return counts


def _members(
    path: Path, archive: zipfile.ZipFile, folder: str | None
) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """Name under the folder -> member, for every file."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    top = {PurePosixPath(info.filename).parts[:1] for info in infos}
    own = path.name.removesuffix(".zip")
    strip = f"{own}/" if folder is None and top == {(own,)} else ""
    for info in infos:
        name = info.filename
        parts = PurePosixPath(name).parts
        leads_out = name.startswith("/") or "\\" in name or ".." in parts or "\0" in name
        if leads_out or not parts or parts[0] in (STATE, RECORD_FILE, path.name):
            raise SourceError(path, f"a name in it leads out: {name[:80]!r}", "Do not use it.")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise SourceError(path, f"holds a link: {name[:80]!r}", "Do not use it.")
        if info.file_size > MOST_RATIO * max(info.compress_size, 1024):
            what = f"{name[:80]!r} claims {info.file_size:,} bytes in {info.compress_size:,}"
            raise SourceError(path, what, "It is not what it should be.")
        is_hidden = parts[0] == "__MACOSX" or parts[-1].startswith("._")
        if not is_hidden and (folder is None or parts[0] == folder):
            yield name.removeprefix(strip), info


def _is_there(into: Path, name: str, member: zipfile.ZipInfo) -> bool:
    """Whether a member was unpacked before: a file as long, and with the same check sum."""
    path = into / name
    try:
        if path.stat().st_size != member.file_size:
            return False
        check = 0
        with path.open("rb") as file:
            while data := file.read(COPY_BYTES):
                check = zlib.crc32(data, check)
    except OSError:
        return False
    return check == member.CRC


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """One member, whole or not at all, and no longer than it claims."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.new")
    try:
        written = 0
        with archive.open(member) as source, scratch.open("wb") as sink:
            while data := source.read(COPY_BYTES):
                written += len(data)
                if written > member.file_size:
                    raise zipfile.BadZipFile(f"{member.filename!r} is longer than it claims")
                sink.write(data)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


def _remove_others(path: Path, into: Path, names: set[str]) -> int:
    """Remove what the version of a zip that was unpacked before held and this one does not."""
    record = into / STATE / f"{path.name}.names.json"
    try:
        before = set(json.loads(record.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        before = set()
    removed = 0
    for name in before - names:
        if ".." not in PurePosixPath(name).parts and not name.startswith("/"):
            (into / name).unlink(missing_ok=True)
            removed += 1
    record.parent.mkdir(parents=True, exist_ok=True)
    write_json(record, sorted(names), durable=False)
    return removed
