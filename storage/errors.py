"""Everything that can go wrong with stored data, as one tree.

StorageError               base: says where it happened, what is wrong and what cures it
  SourceError              a dataset on the user's disk does not look as its reader expects
  ArtifactMissing          nothing whole is there under that kind and name
  ArtifactDamaged          a manifest exists, but a file it lists is absent, short or altered
  ArtifactMismatch         two artifacts that do not belong together (encoder, dim, fingerprint)
  FormatError              a file is not in the format this version reads
  BuildRefused             an unfinished build under that name would be abandoned
  CannotWrite              the disk is full, read-only or not ours
  Unreachable              the object store of a root does not answer, or refuses us
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.mirror import path_or_url

_DISK = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some space or have the quota raised",
    errno.EROFS: "Make it writable or choose another root",
    errno.EACCES: "Give yourself the right to write there or choose another root",
    errno.EPERM: "Give yourself the right to write there or choose another root",
}


def as_text(text: str) -> str:
    """The text, with \\xe9 for a byte of a file name that is no UTF-8 and \\ud83d for half a
    letter.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a letter: it came out of JSON, not from a disk
        return text.encode("utf-8", "backslashreplace").decode("utf-8")


class StorageError(Exception):
    """One message with where it happened, what is wrong, and what to do about it."""

    def __init__(self, where: str | Path, what: str, cure: str) -> None:
        self.where, self.what, self.cure = as_text(_named(where)), as_text(what), as_text(cure)
        super().__init__(f"{self.where}: {self.what}. {self.cure}")

    def __reduce__(self) -> tuple:  # keeps the three parts when it crosses a process border
        return type(self), (self.where, self.what, self.cure)


def _named(where: str | Path) -> str:
    """A path as somebody knows it: of the mirror of an object store, the url."""
    return path_or_url(where) if isinstance(where, Path) else where


class SourceError(StorageError):
    """A dataset on the user's disk does not look as its reader expects."""


class ArtifactMissing(StorageError):
    """Nothing whole is there under that kind and name."""


class ArtifactDamaged(StorageError):
    """A manifest exists, but a file it lists is absent, short or altered."""


class ArtifactMismatch(StorageError):
    """Two artifacts that do not belong together."""


class FormatError(StorageError):
    """A file is not in the format this version reads."""


class BuildRefused(StorageError):
    """An unfinished build of other parameters under the same name holds finished work."""


class CannotWrite(StorageError):
    """The disk is full, read-only or not ours."""


class Unreachable(StorageError):
    """The object store of a root does not answer, or refuses us."""


@contextmanager
def explaining_disk_errors(directory: Path) -> Iterator[None]:
    """Turn what a disk refuses into CannotWrite: what happened, and that nothing finished is
    lost.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        what = f"cannot be written: {os.strerror(error.errno)}"
        raise CannotWrite(  # of a mirror too it is this disk that is full
            str(directory),
            what,
            f"{_DISK[error.errno]} and run the same command again: it continues where it stopped.",
        ) from error
