"""Images of the web that were fetched by a list of addresses (`storage.web.collection`).

<root>/fetched.parquet       a row an address, and what became of it
<root>/images/**             the images that are there
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import SourceError
from storage.sources.disk import check_metadata, check_root
from storage.sources.source import Listing, SourceImage, listing_of
from storage.sources.walk import check_not_ours
from storage.web.collection import COLUMNS, TABLE_FILE

CURE = "Fetch the list: rdm acquire urls LIST --path FOLDER."
READ = ("id", "url", "captions", "licence", "author", "source_url", "style", "labels", "status",
        "reason", "detail", "file")  # fmt: skip


def read_urls(root: Path, ours: Path | None = None) -> Listing:
    """List every address that was asked: an image, or a row with the reason why there is none.

    source_id: sixteen digits of a hash of the address. source_url: the page that the list names, or
    the address itself. ours: the root of this project's files. Raises SourceError for a folder
    that holds no such table, or one of another form.
    """
    check_root(root, "urls", TABLE_FILE)
    check_not_ours(root, ours)
    path = root / TABLE_FILE
    check_metadata(path, CURE)
    notes: Counter[str] = Counter()
    images = []
    try:
        with pq.ParquetFile(path) as file:
            missing = sorted(set(COLUMNS) - set(file.schema_arrow.names))
            if missing:
                raise SourceError(path, f"has no column {', '.join(missing)}", CURE)
            for batch in file.iter_batches(10_000, columns=list(READ)):
                images += [_image_of(root, row, notes) for row in batch.to_pylist()]
    except (OSError, pa.ArrowException) as error:
        raise SourceError(path, f"cannot be read: {error}", CURE) from error
    return listing_of(root, images, notes)


def _image_of(root: Path, row: dict[str, Any], notes: Counter[str]) -> SourceImage:
    """One address as an image, or as a row with a reason."""
    path, stamp, reason = None, None, None
    if row["status"] == "kept":
        path, stamp, reason = _file_of(root, row["file"] or "")
    elif row["status"] is None:
        reason = "not asked yet"
    else:
        reason = f"{row['status']}: {row['reason']}"
        if row["detail"]:
            reason += f" ({row['detail']})"
    notes[row["status"] or "not_asked"] += row["status"] != "kept"
    return SourceImage(
        "urls", row["id"], path, tuple(json.loads(row["captions"] or "[]")),
        tuple(json.loads(row["labels"] or "[]")), row["style"], row["author"], row["licence"],
        row["source_url"] or row["url"], reason=reason, stamp=stamp,
    )  # fmt: skip


def _file_of(root: Path, name: str) -> tuple[Path | None, tuple[int, int] | None, str | None]:
    """Where an image lies, its stamp, and why there is none: the table is somebody's word."""
    path = root / name
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        return None, None, f"its file name leads out of the folder: {name!r}"
    try:
        status = path.lstat()
    except OSError:
        return None, None, f"listed in {TABLE_FILE}, but {name} is absent"
    if not path.is_file() or path.is_symlink():
        return None, None, f"{name} is no file"
    return path, (status.st_size, status.st_mtime_ns), None
