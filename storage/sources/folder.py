"""A folder of images, however deep, each with an optional caption file beside it.

<root>/**/<stem>.<suffix>      <root>/**/<stem>.txt: its captions, one a line
"""

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from storage.errors import SourceError
from storage.sources.disk import check_root, is_image_name, snapshot_of
from storage.sources.source import Listing, SourceImage, listing_of, source_id_of

_MAX_CAPTION_BYTES = 2**20  # a longer .txt is a document, not a caption


def read_folder(root: Path, licence: str | None = None, author: str | None = None) -> Listing:
    """List every file under root that is not hidden; licence and author are the caller's word, for all of them.

    What is no image is found out by the decoder and becomes a rejected row there. A `<stem>.txt` beside an image
    `<stem>.<suffix>` holds its captions. Links out of the folder, pipes and devices are rows with a reason and are
    never opened. Raises SourceError if root is absent, a file, without files or not readable.
    """
    check_root(root, "folder", "images")
    notes: Counter[str] = Counter()
    reasons = {path: _why_not(path, root.resolve()) for path in _walk(root, notes)}
    captions = _captions_beside_images(path for path, reason in reasons.items() if reason is None)
    rows, files = [], {}
    for path, reason in reasons.items():
        if path in captions:
            continue
        source_id = source_id_of(path.relative_to(root).as_posix())
        texts = captions.get(path.with_suffix(".txt"), ()) if is_image_name(path.name) else ()
        readable_path = path if reason is None else None
        rows.append(SourceImage("folder", source_id, readable_path, texts, licence=licence, author=author, reason=reason))
        if reason is None:
            status = path.stat()
            files[source_id] = (status.st_size, status.st_mtime_ns)
    if not rows:
        raise SourceError(root, "holds no files", "Pass a folder of images (hidden files do not count).")
    notes["caption_files"] = len(captions)
    notes["without_captions"] = sum(not row.captions for row in rows)
    notes["not_to_be_opened"] = sum(row.reason is not None for row in rows)
    return listing_of(root, rows, snapshot_of(files, captions), dict(notes), files)


def _walk(root: Path, notes: Counter[str]) -> Iterator[Path]:
    """Everything under root that is neither hidden nor a real folder, in sorted order; links are not descended."""

    def refuse(error: OSError) -> None:
        raise SourceError(str(error.filename), f"cannot be listed: {error.strerror}", "Check its permissions.")

    for folder, subfolders, names in os.walk(root, onerror=refuse):
        notes["hidden"] += sum(name.startswith(".") for name in (*names, *subfolders))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        links = [name for name in subfolders if Path(folder, name).is_symlink()]
        for name in sorted([*names, *links]):
            if not name.startswith("."):
                yield Path(folder, name)


def _why_not(path: Path, root: Path) -> str | None:
    """Why path must not be opened, or None for a regular file that lies under root (resolved)."""
    try:
        target = path.resolve(strict=True) if path.is_symlink() else path
        mode = target.stat().st_mode
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        return f"a broken link: {getattr(error, 'strerror', None) or 'it leads in a circle'}"
    if target != path and not target.is_relative_to(root):
        return "links outside the folder"
    if stat.S_ISDIR(mode):
        return "a link to a folder, not followed"
    return None if stat.S_ISREG(mode) else "a pipe, socket or device, not a file"


def _captions_beside_images(paths: Iterable[Path]) -> dict[Path, tuple[str, ...]]:
    """caption file -> its captions, for each .txt with an image of the same stem beside it."""
    paths = list(paths)
    expected = {path.with_suffix(".txt") for path in paths if is_image_name(path.name)}
    beside = (path for path in paths if path in expected and path.stat().st_size <= _MAX_CAPTION_BYTES)
    return {path: _captions(path) for path in beside}


def _captions(path: Path) -> tuple[str, ...]:
    """The lines of a caption file that are not blank; bytes that are no UTF-8 become the replacement character."""
    lines = path.read_bytes().decode("utf-8-sig", "replace").splitlines()
    return tuple(line.strip() for line in lines if line.strip())
