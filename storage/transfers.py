"""Transfers between an object store and its mirror on this disk: several at once, each whole or
absent.
"""

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from storage.atomic import move_whole
from storage.errors import ArtifactDamaged, CannotWrite
from storage.mirror import SETTING
from storage.objects import Remote

TRANSFERS_AT_ONCE = 8
ATTEMPTS_AT_OTHER_BYTES = 3
T = TypeVar("T")
R = TypeVar("R")


def side_by_side(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """The results in order; the first failure ends it."""
    # For a single item a pool costs more than it gives.
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(TRANSFERS_AT_ONCE, len(items))) as pool:
        return list(pool.map(work, items))


def fetch_object(remote: Remote, path: Path, size: int, sha256: str) -> None:
    """Write an object beside, compare bytes and hash, rename.

    Raises ArtifactDamaged when it is absent, or its bytes differ every time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            for _ in range(ATTEMPTS_AT_OTHER_BYTES):
                # From the start: the attempt before may have written more.
                stream.seek(0)
                stream.truncate()
                # Hashed on its way: the file is not read a second time.
                if digest(remote.pieces(size), stream.write) == sha256:
                    stream.flush()
                    move_whole(Path(beside), path)
                    return
        cure = "Delete that object, then run the command that builds it again."
        raise ArtifactDamaged(remote.url, "it has other bytes than its manifest says", cure)
    except FileNotFoundError as error:
        cure = "Run the command that builds it again."
        raise ArtifactDamaged(remote.url, "it is absent", cure) from error
    finally:
        Path(beside).unlink(missing_ok=True)


def digest(pieces: Iterator[bytes], write: Callable[[bytes], Any] = len) -> str:
    """The sha256 of bytes that come in pieces; each is given to `write` too."""
    sha256 = hashlib.sha256()
    for piece in pieces:
        sha256.update(piece)
        write(piece)
    return sha256.hexdigest()


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
