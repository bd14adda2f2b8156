"""A root as a person writes it: a folder on this disk, or the url of one in an object store."""

import os
import re
from pathlib import Path

from storage.errors import StorageError, as_text
from storage.mirror import SETTING, mirrors

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}(:[0-9]{1,5})?")  # a bucket, or host:port
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=-]{0,254}")


def root_of(text: str) -> Path:
    """The path itself, or the mirror of a url.

    `~` is the home, as a shell has it that was not asked: --root=~/data. Raises StorageError as
    `mirror_of` does, for a path that is no UTF-8 (DuckDB opens no file below), and for one that is
    no folder and cannot become one.
    """
    if as_text(text) != text:
        cure = "Rename the folder, or choose another one."
        raise StorageError("root", f"'{text}' is not UTF-8", cure)
    if "://" in text:
        return mirror_of(text)
    path = Path(os.path.expanduser(text))  # noqa: PTH111 - Path's fails where there is no such user
    if path.parts[:1] and path.parts[0].startswith("~"):
        path = path.absolute()  # a folder's own name; Arrow would take it for a home
    # Of the path and the folders around it the first that exists must be a folder; what does not
    # exist yet can be made in it.
    for existing in (path, *path.parents):
        if os.path.lexists(existing):
            if not os.path.isdir(existing):  # noqa: PTH112 - no error of its own
                what = "a link that leads to no folder" if existing.is_symlink() else "no folder"
                cure = "Give a folder, or a name that is free."
                raise StorageError("root", f"'{existing}' is {what}", cure)
            break
    return path


def mirror_of(url: str) -> Path:
    """The local path that stands for a root in an object store: storage.mirror.

    Raises StorageError for a url that is no plain folder: with credentials, a query, '..' or odd
    characters in it.
    """
    scheme, separator, rest = url.partition("://")
    folders = (rest.removeprefix("/") if scheme == "file" else rest).removesuffix("/").split("/")
    plain = _HOST.fullmatch(folders[0]) and all(_FOLDER.fullmatch(folder) for folder in folders[1:])
    if not separator or not _SCHEME.fullmatch(scheme) or not plain:
        shown_url = "a url" if "@" in url or "?" in url else repr(url)  # it may hold a secret
        raise StorageError(
            "root",
            f"{shown_url} is not a root: a root is scheme://bucket/folder of letters, digits and "
            ". _ - + =",
            "Credentials and endpoint come from the environment: AWS_PROFILE, AWS_ENDPOINT_URL.",
        )
    directory = mirrors()
    if directory is None:
        what = f"{url!r} needs a local mirror, and there is no home directory"
        raise StorageError("root", what, f"Set {SETTING}.")
    return directory.joinpath(scheme, *folders)
