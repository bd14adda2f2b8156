"""Files inside a zip, read where they are: nothing is unpacked onto the disk.

zipfile reads the directory, once a process: that of 118,287 images takes a second. A member is then
read by its place in the file, so that threads and processes share no position and wait for nobody.
"""

import io
import os
import stat
import struct
import threading
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

MOST_DIRECTORY_BYTES = 2**28
"""Of a zip's list of its members; COCO's largest is 13 MB. One that claims more is refused."""
MOST_OPEN = 4
"""Zips that a process keeps open."""
_CHUNK_BYTES = 2**20
_HEADER = struct.Struct("<4s22xHH")  # before each member; the lengths of its name and extra field
_HEADER_START = b"PK\3\4"
_ENCRYPTED, _PATCHED, _NAME_IS_UTF8 = 1 | 1 << 6 | 1 << 13, 1 << 5, 1 << 11  # flags of a member
_UNICODE_NAME = 0x7075  # the extra field in which Info-ZIP writes a name in UTF-8
_UNIX = 3  # the system that wrote a member
_BROKEN = (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error)
"""What zipfile raises for a directory that it cannot read; a UnicodeDecodeError is a ValueError."""


class NoZip(Exception):
    """A file that is no zip, or one whose directory cannot be read; the message says why."""


class BadMember(Exception):
    """A file inside a zip that cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class ZippedFile:
    """The place of a file inside a zip."""

    zip: Path
    name: str

    def __str__(self) -> str:
        return f"{self.name} in {self.zip}"


def as_named(file: Path | ZippedFile) -> Path | str:
    """A file as errors name it."""
    return file if isinstance(file, Path) else str(file)


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a zip, as the directory describes it.

    name: its path there; bytes that are no text are surrogates, as in names on a disk (PEP 383).
    size_bytes, crc: of what it unpacks to. packed_bytes, offset: what is read, and where its header
    begins. reason: why it cannot be read, or None.
    """

    name: str
    size_bytes: int
    crc: int
    packed_bytes: int
    offset: int
    deflated: bool
    reason: str | None = None

    @property
    def stamp(self) -> tuple[int, int]:
        """(bytes, CRC): the same for the same content, whenever and however it was packed."""
        return self.size_bytes, self.crc

    def or_neither(self, other: "Member") -> "Member":
        """Of two members of one name the first, readable only where the other is its equal."""
        if self.stamp == other.stamp:
            return other if self.reason else self
        return replace(self, reason="it is twice in the zip, and not the same")


class OpenZip:
    """A zip's members by name, directories left out. Threads may read from it at once.

    twice: how many members came with the name of an earlier one. Raises OSError and NoZip.
    """

    def __init__(self, path: Path) -> None:
        # A pipe of that name must not make us wait.
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        # Closed when the last thread that reads from it has let it go.
        weakref.finalize(self, os.close, self._descriptor)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NoZip("it is no file")
        self.identity = _identity(status)
        self.members: dict[str, Member] = {}
        self.twice = 0
        for member in _members(self._descriptor, status.st_size):
            before = self.members.get(member.name)
            self.twice += before is not None
            self.members[member.name] = before.or_neither(member) if before else member

    def read(self, member: Member) -> bytes:
        """What a member unpacks to: exactly as many bytes as the directory says, of its checksum.

        Raises BadMember where it is anything else, and OSError.
        """
        if member.reason:
            raise BadMember(member.reason)
        header = os.pread(self._descriptor, _HEADER.size, member.offset)
        if len(header) < _HEADER.size or not header.startswith(_HEADER_START):
            raise BadMember("the zip is damaged: it does not begin where the directory says")
        _, name_bytes, extra_bytes = _HEADER.unpack(header)
        start = member.offset + _HEADER.size + name_bytes + extra_bytes
        chunks = self._chunks(start, member.packed_bytes)
        data = _joined(_inflated(chunks, member.size_bytes) if member.deflated else chunks)
        if len(data) != member.size_bytes:
            said = f"{len(data):,} of {member.size_bytes:,} bytes"
            raise BadMember(f"the zip is damaged or cut short: it holds {said}")
        if zlib.crc32(data) != member.crc:
            raise BadMember("the zip is damaged: its checksum (CRC-32) is another")
        return data

    def _chunks(self, start: int, count_bytes: int) -> Iterator[bytes]:
        """The bytes from start on, a piece at a time; fewer where the file ends."""
        end = start + count_bytes
        while start < end:
            chunk = os.pread(self._descriptor, min(_CHUNK_BYTES, end - start), start)
            if not chunk:
                return
            yield chunk
            start += len(chunk)


def _joined(pieces: Iterator[bytes]) -> bytes:
    """All pieces as one; a single one, as of most images, is not copied."""
    whole = io.BytesIO(next(pieces, b""))
    whole.seek(0, io.SEEK_END)
    for piece in pieces:
        whole.write(piece)
    return whole.getvalue()


def _inflated(chunks: Iterator[bytes], size_bytes: int) -> Iterator[bytes]:
    """What deflated bytes unpack to; BadMember at the first byte beyond size_bytes."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    left = size_bytes
    try:
        for chunk in chunks:
            # One byte more than there may be tells a bomb before it is unpacked.
            piece = unpacker.decompress(chunk, left + 1)
            left -= len(piece)
            if left < 0:
                raise BadMember(f"it unpacks to more than the {size_bytes:,} bytes that it claims")
            yield piece
    except zlib.error as error:
        raise BadMember(f"the zip is damaged: {error}") from error


_kept: dict[Path, OpenZip] = {}  # by when they were last asked for
_one_at_a_time = threading.Lock()


def opened(path: Path) -> OpenZip:
    """The zip that lies there now. It is opened again only where it is another file than before.

    Raises OSError and NoZip.
    """
    identity = _identity(os.stat(path))  # noqa: PTH116  for each image; Path.stat costs more
    # Within the lock: else each thread would read the same directory at the start.
    with _one_at_a_time:
        archive = _kept.pop(path, None)
        if archive is None or archive.identity != identity:
            archive = OpenZip(path)
        _kept[path] = archive
        if len(_kept) > MOST_OPEN:
            del _kept[next(iter(_kept))]
    return archive


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    """What changes when a file is replaced or written to."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class _Bounded(io.FileIO):
    """The open file as zipfile sees it: nothing so large is read that it fills the memory."""

    def read(self, size: int | None = -1) -> bytes:
        """As a file's. Raises BadZipFile for more than a directory can have."""
        if size is not None and size > MOST_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its directory claims {size:,} bytes")
        return super().read(size)


def _members(descriptor: int, zip_bytes: int) -> Iterator[Member]:
    """What the directory says of each file, in its order."""
    with _Bounded(descriptor, closefd=False) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
        except _BROKEN as error:
            raise NoZip(str(error)) from error
    for info in infos:
        name = _name_of(info)
        if not name.endswith(("/", "\\")) and not stat.S_ISDIR(_mode(info)):
            yield Member(
                name, info.file_size, info.CRC, info.compress_size, info.header_offset,
                info.compress_type == zipfile.ZIP_DEFLATED, _why_not(info, zip_bytes),
            )  # fmt: skip


def _name_of(info: zipfile.ZipInfo) -> str:
    """The name that unzip would give the file.

    It says that it is UTF-8, or it is without saying so; else the bytes of a name that Unix wrote
    stay as they are, and any other is of the code page 437.
    """
    if info.flag_bits & _NAME_IS_UTF8:
        return info.orig_filename
    raw = info.orig_filename.encode("cp437")  # as zipfile decoded it
    stated = _unicode_name(info.extra, raw)
    if stated is not None:
        return stated
    try:
        return raw.decode()
    except UnicodeDecodeError:
        if info.create_system == _UNIX:
            return raw.decode(errors="surrogateescape")
        return info.orig_filename


def _unicode_name(extra: bytes, raw: bytes) -> str | None:
    """The name in UTF-8 that stands beside a raw one, if it was written for it."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        content, extra = extra[4 : 4 + length], extra[4 + length :]
        # Version 1, the CRC of the raw name, the name.
        if kind == _UNICODE_NAME and content[:5] == b"\1" + struct.pack("<L", zlib.crc32(raw)):
            try:
                return content[5:].decode()
            except UnicodeDecodeError:
                return None
    return None


def _mode(info: zipfile.ZipInfo) -> int:
    """The file's mode where Unix wrote the zip, else 0."""
    return info.external_attr >> 16 if info.create_system == _UNIX else 0


def _why_not(info: zipfile.ZipInfo, zip_bytes: int) -> str | None:
    """Why a member cannot be read, as far as the directory tells."""
    mode = _mode(info)
    if stat.S_ISLNK(mode):
        return "a link inside a zip, not followed"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "a pipe, socket or device, not a file"
    if info.flag_bits & _ENCRYPTED:
        return "it is encrypted; unpack the zip with its password"
    if info.flag_bits & _PATCHED or info.compress_type not in (
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
    ):
        return f"it is packed by method {info.compress_type}, which is not read; unpack the zip"
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        return "the zip is damaged: it says two lengths of a file that is not packed"
    if not 0 <= info.header_offset <= zip_bytes - info.compress_size:
        return "the zip is damaged or cut short: it lies beyond the end"
    return None
