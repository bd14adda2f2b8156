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
    made_with = next(
        (a for a in artifacts(root, "embeddings", name) if "removed" in a.parameters), None
    )
    if made_with:
        raise FormatError(
            path,
            f"is absent, although {made_with.reference} was made with it",
            "Put it back from a copy.",
        )
    return frozenset()


def add_removals(root: Path, name: str, keys: Iterable[str]) -> frozenset[str]:
    """Put keys on a database's removal list and return the whole list. It is on the disk when this
    returns.
    """
    with exclusive(layout.publishing_lock_file(root, "embeddings", name), lambda _: None):
        before = read_removals(root, name)
        after = before | set(keys)
        if after != before:
            path = removals_file(root, name)
            write_bytes(path, "".join(f"{key}\n" for key in sorted(after)).encode())
            place_of(path).store(path)
    return after


def removal_parameters(removed: Set[str]) -> dict[str, str]:
    """What a plan says of the list: nothing while it is empty, so that nothing is built anew for
    its sake.
    """
    return {"removed": sha256_of(canonical_json(sorted(removed)))[:16]} if removed else {}


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys in a text file, one a line, each once, without blank lines and what follows a #.

    Raises StorageError when it cannot be read as UTF-8, or holds a line that is no key: what stands
    on the list stays there for good, so nothing is taken for a key that is none.
    """
    try:
        keys = _keys_in(path.read_bytes(), path)
    except OSError as error:
        raise StorageError(
            path, f"cannot be read ({error})", "Give a text file with one key a line."
        ) from error
    wrong = next((key for key in keys if not is_key(key)), None)
    if wrong is not None:
        cure = "Write one key a line and nothing else; a key holds letters, digits, - and _."
        raise FormatError(path, f"{wrong[:80]!r} is no key", cure)
    return keys


def _keys_in(data: bytes, path: Path) -> tuple[str, ...]:
    try:
        if encoding_of(data) != "utf-8-sig":
            raise NotText(f"it is {encoding_of(data).upper()}")
        lines = text_of(data).splitlines()
    except NotText as error:
        cure = "Write one key a line, as UTF-8."
        raise FormatError(path, f"is no text in UTF-8 ({error})", cure) from error
    keys = (line.partition("#")[0].strip() for line in lines)
    return tuple(dict.fromkeys(key for key in keys if key))


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
