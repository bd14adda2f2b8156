"""A kernel lock on a file: freed when its holder dies, whatever it died of."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS_BETWEEN_LOOKS = 0.1


@contextmanager
def exclusive(path: Path, waiting: Callable[[str], None] | None = None) -> Iterator[bool]:
    """Hold the lock of that file; yields whether somebody else held it first.

    `waiting` is told once who holds it. Without `waiting` nobody is waited for: raises
    BlockingIOError at once.
    """
    descriptor, waited = _taken(path), False
    while descriptor is None:
        if waiting is None:
            raise BlockingIOError(f"{path} is held by {holder(path)}")
        if not waited:
            waiting(holder(path))
        waited = True
        time.sleep(SECONDS_BETWEEN_LOOKS)
        descriptor = _taken(path)
    try:
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
        yield waited
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def holder(path: Path) -> str:
    """Who took the lock last, in words; only as good as what the holder could write."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or "another process"
    except OSError:
        return "another process"


def _taken(path: Path) -> int | None:
    """A descriptor that holds the lock, or None when somebody else holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:  # the directory was removed at this very moment: look again
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)  # held, or removed and made anew by a holder that had finished: look again
    return None
