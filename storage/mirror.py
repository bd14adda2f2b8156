"""Paths in the local mirrors of object stores, and the urls they stand for.

A path in a mirror knows its url again, `<mirrors>/<scheme>/<rest of the url>`: there is no state to
lose. Nothing here is read or written, and nothing of this package imported: errors name urls too.
"""

import os
from functools import lru_cache
from pathlib import Path

SETTING = "RDM_MIRROR"


def mirrors() -> Path | None:
    """The directory of all mirrors, or None where there is no home directory: roots on a disk need
    none.
    """
    return _resolved(os.environ.get(SETTING) or "~/.cache/rdm/mirror")


def url_of(path: Path) -> str | None:
    """What a path in a mirror stands for, or None for a path on a disk."""
    directory = mirrors() if path.is_absolute() else None
    if directory is None or not path.is_relative_to(directory):
        return None
    # <mirrors>/<scheme>/<host or bucket>/<folders>: the url, cut at its slashes.
    scheme, *folders = path.relative_to(directory).parts or ("",)
    if not folders or ".." in folders:
        return None
    return f"{scheme}://{'/' if scheme == 'file' else ''}{'/'.join(folders)}"


def path_or_url(path: Path) -> str:
    """A path as a message names it: the url that it stands for, if it stands for one."""
    return url_of(path) or str(path)


@lru_cache(maxsize=8)
def _resolved(setting: str) -> Path | None:
    try:
        return Path(setting).expanduser().resolve()
    except RuntimeError:  # no home directory
        return None
