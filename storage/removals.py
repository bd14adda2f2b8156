"""What was taken out of a database and must not come back: a list beside its versions.

<root>/embeddings/<name>/removed.txt   one key a line, sorted, only growing

A line is a sample's key, or an image's source key, which stands for every crop of it: those there
are and those to come. Who still holds such samples: storage.holders.
"""

from collections.abc import Iterable, Set
from pathlib import Path

from storage import layout
from storage.artifact import Artifact, artifacts
from storage.atomic import canonical_json, sha256_of, write_bytes
from storage.errors import FormatError, StorageError
from storage.keys import is_key, source_key_of
from storage.locks import exclusive
from storage.place import place_of
from storage.shards import accepted, read_sidecar
from storage.text import NotText, encoding_of, text_of

REMOVED_FILE = "removed.txt"


def removals_file(root: Path, name: str) -> Path:
    """The removal list of a database."""
    return layout.family_directory(root, "embeddings", name) / REMOVED_FILE


def read_removals(root: Path, name: str) -> frozenset[str]:
    """The keys on a database's removal list; none when nothing was ever removed.

    Raises FormatError when the list is gone although a version was made with one: nothing may come
    back.
    """
    path = removals_file(root, name)
    data = place_of(path).read(path)
    if data is not None:
        return frozenset(_keys_in(data, path))
    for embeddings in artifacts(root, "embeddings", name):
        if "removed" in embeddings.parameters:
            raise FormatError(
                path,
                f"is absent, although {embeddings.reference} was made with it",
                "Put it back from a copy.",
            )
    return frozenset()


def add_removals(root: Path, name: str, keys: Iterable[str]) -> frozenset[str]:
    """Put keys on a database's removal list and return the whole list. It is on the disk when this
    returns.
    """
    # The list is read and written under one lock: two that add at once lose nothing.
    with exclusive(layout.publishing_lock_file(root, "embeddings", name), lambda _: None):
        before = read_removals(root, name)
        after = before | set(keys)
        if after != before:
            path = removals_file(root, name)
            lines = [f"{key}\n" for key in sorted(after)]
            write_bytes(path, "".join(lines).encode())
            place_of(path).store(path)
    return after


def removal_parameters(removed: Set[str]) -> dict[str, str]:
    """What a plan says of the list: the hash of its keys.

    Nothing while the list is empty: then a plan is as it was before, and nothing is built again.
    """
    if not removed:
        return {}
    return {"removed": sha256_of(canonical_json(sorted(removed)))[:16]}


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys in a text file, one a line, each once, without blank lines and what follows a #.

    Raises StorageError when it cannot be read as UTF-8, or holds a line that is no key: a line on
    the list stays there for good, so a mistake could not be undone.
    """
    try:
        keys = _keys_in(path.read_bytes(), path)
    except OSError as error:
        raise StorageError(
            path, f"cannot be read ({error})", "Give a text file with one key a line."
        ) from error
    for key in keys:
        if not is_key(key):
            cure = "Write one key a line and nothing else; a key holds letters, digits, - and _."
            raise FormatError(path, f"{key[:80]!r} is no key", cure)
    return keys


def _keys_in(data: bytes, path: Path) -> tuple[str, ...]:
    try:
        # The list is UTF-8 by its format; text_of would read UTF-16 and UTF-32 too.
        if encoding_of(data) != "utf-8-sig":
            raise NotText(f"it is {encoding_of(data).upper()}")
        lines = text_of(data).splitlines()
    except NotText as error:
        cure = "Write one key a line, as UTF-8."
        raise FormatError(path, f"is no text in UTF-8 ({error})", cure) from error
    keys = dict.fromkeys(line.partition("#")[0].strip() for line in lines)
    keys.pop("", None)  # blank lines and those that only hold a comment
    return tuple(keys)


def on_list(keys: Iterable[str], removed: Set[str]) -> list[str]:
    """Those of the keys that are on the list, by themselves or by their source key, in the given
    order.
    """
    return [key for key in keys if key in removed or source_key_of(key) in removed]


def removed_from_shard(shards: Artifact, part_name: str, removed: Set[str]) -> list[str]:
    """The accepted samples of one shard that are on the list, sorted. Nothing is read while the
    list is empty.
    """
    if not removed:
        return []
    sidecar = accepted(read_sidecar(shards, part_name, ["key", "status"]))
    return sorted(on_list(sidecar["key"].to_pylist(), removed))
