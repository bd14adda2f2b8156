"""Writes that are whole or absent: beside, fsynced, renamed, and the directory fsynced too."""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: equal values, equal bytes."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def sha256_of(data: bytes) -> str:
    """Hex digest of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fsync_path(path: Path) -> None:
    """Force a file, or the entries of a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_whole(source: Path, target: Path) -> None:
    """Move a finished file or directory into place: its bytes are on the disk first, its new name
    may not be yet.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # born private; what is published is for every reader
    source.chmod(0o755 if source.is_dir() else 0o644)
    # Its bytes first: a rename may reach the disk before the data it names.
    fsync_path(source)
    source.replace(target)


def publish(source: Path, target: Path) -> None:
    """Move a finished file or directory into place so that a reader sees all of it or none of it,
    even after a power cut.
    """
    move_whole(source, target)
    fsync_path(target.parent)


def write_bytes(target: Path, data: bytes, durable: bool = True) -> None:
    """Replace `target` with `data`, atomically. Not `durable`: a power cut may undo it or leave an
    empty file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, as a rename is atomic within one file system only.
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        if durable:
            publish(Path(name), target)
        else:
            Path(name).chmod(0o644)
            Path(name).replace(target)
    # KeyboardInterrupt too: nothing half may stay beside the target.
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(target: Path, value: Any, durable: bool = True) -> None:
    """Replace `target` with indented JSON, atomically."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes(target, text.encode() + b"\n", durable)
