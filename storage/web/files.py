"""A large file of the web: in pieces side by side, gone on with where it stopped, and whole or
absent in the end.

<folder>/<name>                          the file
<folder>/.fetched/<name>.json            what it is: address, bytes, ETag, sha256, when
<folder>/.fetched/<name>.part, .part.json  an unfinished one, and how far each piece is
"""

import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import httpx

from storage.atomic import publish, sha256_file, write_json
from storage.errors import CannotWrite, SourceError, explaining_disk_errors
from storage.web.answers import in_words
from storage.web.client import Web
from storage.web.collection import STATE
from storage.web.outcomes import Failed
from storage.web.pace import Pace, is_progress

PIECE_BYTES = 64 * 2**20
SAVED_EVERY_BYTES = 16 * 2**20
"""Of a piece, after which its place is noted; or after SAVED_EVERY_SECONDS, where it is slow."""
SAVED_EVERY_SECONDS = 3.0
SPARE_BYTES = 2**30
"""Of the disk, that stay free."""
Progress = Callable[[int], None]
"""Told how many more bytes are there."""


@dataclass(frozen=True)
class RemoteFile:
    """A file somewhere on the web, and what is published about it."""

    address: str
    name: str
    """Under the folder; folders in it are made."""
    bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Remote:
    """What a server says of a file before it is fetched."""

    bytes: int | None
    etag: str | None
    last_modified: str | None
    in_pieces: bool
    """Whether parts of it can be asked for."""

    @property
    def validator(self) -> str | None:
        """By which the server tells whether it is still the same file; None where it cannot."""
        for told in (self.etag, self.last_modified):
            if told and told.isascii() and not told.startswith("W/"):
                return told
        return None

    def is_of(self, record: dict[str, Any]) -> bool:
        """Whether a record is of the file as it is now, as far as the server tells."""
        if self.etag or record.get("etag"):
            return self.etag == record.get("etag") and self.bytes in (None, record["bytes"])
        known = self.last_modified is not None and self.bytes is not None
        return known and (self.last_modified, self.bytes) == (
            record.get("last_modified"),
            record["bytes"],
        )


@dataclass(frozen=True)
class FetchedFile:
    """A file that is there now, and where it came from: a row of a data set's provenance."""

    name: str
    address: str
    bytes: int
    sha256: str
    etag: str | None
    last_modified: str | None
    fetched_at: str
    """ISO 8601, UTC."""
    status: Literal["new", "unchanged"] = field(default="new", compare=False)


def ask(web: Web, file: RemoteFile) -> Remote:
    """What a server says of a file, by asking for its first byte. Raises as `Web.answer` does."""
    with web.answer(file.address, {"Range": "bytes=0-0"}) as response:
        headers = response.headers
        total = headers.get("content-range", "").rpartition("/")[2]
        length = total if response.status_code == 206 else headers.get("content-length", "")
        return Remote(
            int(length) if length.isascii() and length.isdigit() else None,
            headers.get("etag"),
            headers.get("last-modified"),
            response.status_code == 206,
        )


def known(folder: Path, file: RemoteFile) -> FetchedFile | None:
    """What is recorded of a file that is there, as it was fetched; None where it is not."""
    try:
        record = json.loads(_record_of(folder, file).read_text(encoding="utf-8"))
        found = FetchedFile(**{**record, "status": "unchanged"})
        size = (folder / file.name).stat().st_size
    except (OSError, ValueError, TypeError):
        return None
    return found if size == found.bytes and found.address == file.address else None


def still_to_fetch(folder: Path, file: RemoteFile, remote: Remote) -> int | None:
    """Bytes that are missing: 0 for a file that is there unchanged, None where nobody says."""
    there = known(folder, file)
    if there is not None and remote.is_of(asdict(there)):
        return 0
    if remote.bytes is None:
        return None
    return remote.bytes - sum(_resumed(folder, file, remote).get("pieces", {}).values())


def free_bytes(folder: Path) -> int:
    """Of the disk that holds a folder, or will, beside SPARE_BYTES."""
    there = folder
    while not there.exists():
        there = there.parent
    status = os.statvfs(there)
    return max(0, status.f_bavail * status.f_frsize - SPARE_BYTES)


def check_space(folder: Path, needed_bytes: int) -> None:
    """Raise CannotWrite where a folder's disk has not so many bytes free."""
    free = free_bytes(folder)
    if needed_bytes > free:
        what = f"{needed_bytes / 1e9:,.1f} GB are to be fetched, and {free / 1e9:,.1f} GB are"
        cure = "Free some space (1 GB stays spare), or give another --set path."
        raise CannotWrite(folder, f"{what} free", cure)


def fetch_file(
    web: Web,
    folder: Path,
    file: RemoteFile,
    remote: Remote,
    connections: int = 4,
    progress: Progress = lambda more: None,
) -> FetchedFile:
    """Bring a file into a folder; one that is there unchanged stays.

    What an interrupted call left is gone on with, if the server says by its ETag or its date that
    it is still the same file; a file that changed is begun anew. Raises SourceError where it is not
    what was published, Refused, Failed, and CannotWrite.
    """
    there = known(folder, file)
    is_published = there is not None and file.sha256 in (None, there.sha256)
    if there is not None and is_published and remote.is_of(asdict(there)):
        return there
    if file.bytes is not None and remote.bytes is not None and file.bytes != remote.bytes:
        what = f"has {remote.bytes:,} bytes there, {file.bytes:,} are published"
        cure = "It is another file than the one that was looked up: give its size and sha256."
        raise SourceError(file.address, what, cure)
    part = _part_of(folder, file)
    with explaining_disk_errors(folder):
        part.parent.mkdir(parents=True, exist_ok=True)
        _Download(web, part, file, remote, _resumed(folder, file, remote), progress).run(
            connections
        )
        digest, size = sha256_file(part), part.stat().st_size
        if remote.bytes not in (None, size):
            _forget(part)
            what = f"{size:,} bytes came, and {remote.bytes:,} were told"
            raise SourceError(file.address, what, "Ask again: it is begun anew.")
        if file.sha256 is not None and digest != file.sha256:
            _forget(part)
            what = f"its sha256 is {digest}, {file.sha256} is published"
            cure = "It was altered on the way or at its source; ask again, or give another address."
            raise SourceError(file.address, what, cure)
        record = FetchedFile(
            file.name, file.address, size, digest, remote.etag,
            remote.last_modified, datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip
        (folder / file.name).parent.mkdir(parents=True, exist_ok=True)
        publish(part, folder / file.name)
        kept = asdict(record)
        del kept["status"]
        write_json(_record_of(folder, file), kept)
        _forget(part)
    return record


class _Download:
    """One file on its way: which bytes of which piece are there."""

    def __init__(
        self,
        web: Web,
        part: Path,
        file: RemoteFile,
        remote: Remote,
        resumed: dict[str, Any],
        progress: Progress,
    ) -> None:
        self.web, self.part, self.file, self.remote = web, part, file, remote
        self.progress = progress
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.forgotten = False
        """Whether it is another file by now."""
        self.done: dict[int, int] = {}
        """Piece -> bytes of it that are there."""
        for piece, there_bytes in resumed.get("pieces", {}).items():
            self.done[int(piece)] = there_bytes
        if not self.done:
            _forget(part)
        progress(sum(self.done.values()))

    def run(self, connections: int) -> None:
        """Fetch what is missing."""
        descriptor = os.open(self.part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not (self.remote.in_pieces and self.remote.bytes and self.remote.validator):
                self._whole(descriptor)
            else:
                count = -(-self.remote.bytes // PIECE_BYTES)
                with ThreadPoolExecutor(connections) as pool:
                    futures = [
                        pool.submit(self._piece, descriptor, piece) for piece in range(count)
                    ]
                    try:
                        finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
                        for future in finished:
                            future.result()
                    finally:  # an interrupt too: the others end at their next bytes
                        self.stopped.set()
                        pool.shutdown(wait=True, cancel_futures=True)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _whole(self, descriptor: int) -> None:
        """A file that can only be had from its beginning."""
        self.done.clear()
        most = self.remote.bytes or free_bytes(self.part.parent)
        with self.web.answer(self.file.address) as response:
            there = self._written(descriptor, response, 0, None, most + 1)
        if there > most:
            raise Failed("too many bytes", f"more than the {most:,} that were told or are free")
        if self.remote.bytes is not None and there != self.remote.bytes:
            raise Failed("cut short", f"{there:,} of {self.remote.bytes:,} bytes")

    def _piece(self, descriptor: int, piece: int) -> None:
        """What is missing of one piece; where the connection is cut, it goes on from there."""
        assert self.remote.bytes is not None, "known where there are pieces"
        first = piece * PIECE_BYTES
        size = min(PIECE_BYTES, self.remote.bytes - first)
        cuts = 0
        while self.done.get(piece, 0) < size and not self.stopped.is_set():
            before, began = self.done.get(piece, 0), time.monotonic()
            asked = {"Range": f"bytes={first + before}-{first + size - 1}"}
            if self.remote.validator:
                asked["If-Range"] = self.remote.validator
            try:
                with self.web.answer(self.file.address, asked) as response:
                    self._check_same(response, first + before)
                    self._written(descriptor, response, first + before, piece, size - before)
            except Failed:
                # Bytes that came are progress, unless they trickle: only cuts one after the other
                # are counted.
                cuts = 1 if is_progress(self.done.get(piece, 0) - before, began) else cuts + 1
                if cuts >= self.web.manners.tries:
                    raise
                seconds = min(2.0**cuts, self.web.manners.longest_wait_seconds) / 2
                self.stopped.wait(seconds)

    def _check_same(self, response: httpx.Response, first: int) -> None:
        """Raise SourceError where the answer is of another file than the first one was."""
        told = response.headers.get("content-range", "")
        total = told.rpartition("/")[2]
        same = response.status_code == 206 and told.startswith(f"bytes {first}-")
        now = response.headers.get("etag"), response.headers.get("last-modified")
        was = self.remote.etag, self.remote.last_modified
        other = any(told and told != before for told, before in zip(now, was, strict=True))
        if not same or total != str(self.remote.bytes) or other:
            with self.lock:  # from now on nothing is noted any more
                self.stopped.set()
                self.forgotten = True
                _forget(self.part)
            what = "changed while it was fetched"
            raise SourceError(self.file.address, what, "Ask again: it is begun anew.")

    def _written(
        self,
        descriptor: int,
        response: httpx.Response,
        at: int,
        piece: int | None,
        most: int | None = None,
    ) -> int:
        """Write a body from a place on, and note how far it is. Returns its bytes."""
        there, saved, saved_at = 0, 0, time.monotonic()
        pace = Pace(self.web.manners.timeout_seconds)
        try:
            for data in response.iter_raw():
                if self.stopped.is_set():
                    break
                data = data if most is None else data[: most - there]
                if not data:
                    break
                os.pwrite(descriptor, data, at + there)
                there += len(data)
                self.progress(len(data))
                pace.check(there)
                if piece is not None:
                    with self.lock:
                        self.done[piece] = self.done.get(piece, 0) + len(data)
                    late = time.monotonic() - saved_at >= SAVED_EVERY_SECONDS
                    if late or there - saved >= SAVED_EVERY_BYTES:
                        self._save(descriptor)
                        saved, saved_at = there, time.monotonic()
        except httpx.HTTPError as error:
            raise Failed(*in_words(error)) from error
        finally:
            if piece is not None:
                self._save(descriptor)
        return there

    def _save(self, descriptor: int) -> None:
        """Note how far every piece is, once its bytes are on the disk."""
        with self.lock:
            if self.forgotten:
                return
            pieces = dict(self.done)
            os.fdatasync(descriptor)
            state = {
                "address": self.file.address,
                "bytes": self.remote.bytes,
                "etag": self.remote.etag,
                "last_modified": self.remote.last_modified,
                "piece_bytes": PIECE_BYTES,
                "pieces": {str(piece): there for piece, there in pieces.items()},
            }
            write_json(_state_of(self.part), state, durable=False)


def _resumed(folder: Path, file: RemoteFile, remote: Remote) -> dict[str, Any]:
    """How far an unfinished file is; nothing where it is none of the file as it is now."""
    part = _part_of(folder, file)
    try:
        state: dict[str, Any] = json.loads(_state_of(part).read_text(encoding="utf-8"))
        usable = (
            state["address"] == file.address
            and state["piece_bytes"] == PIECE_BYTES
            and remote.in_pieces
            and remote.validator is not None
            and remote.is_of(state)
            and part.exists()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return state if usable else {}


def _part_of(folder: Path, file: RemoteFile) -> Path:
    return folder / STATE / f"{file.name.replace('/', '%2F')}.part"


def _state_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _record_of(folder: Path, file: RemoteFile) -> Path:
    return folder / STATE / f"{file.name.replace('/', '%2F')}.json"


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state_of(part).unlink(missing_ok=True)
