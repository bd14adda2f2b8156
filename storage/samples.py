"""Samples: one PNG an image, and a table that says of each what stood behind it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage.artifact import Artifact
from storage.parquet import column, read_table, write_table

SAMPLES_FILE = "samples.parquet"
GRID_FILE = "grid.png"
EDITS_FILE = "edits.png"
"""Of an image that was edited: the original, the edits, and what changed."""
LATER = {"text": None, "condition": None, "condition_rows": None}
"""Columns that came later, and what they hold where nothing is said of them."""
SAMPLES = pa.schema(
    [
        column("file", pa.string(), "the image"),
        column("query", pa.string(), "prompt, class, query image, or key of the pseudo-query"),
        column("seed", pa.int64(), "of the image's noise"),
        column("guidance_scale", pa.float32(), "strength of guidance"),
        column("weights", pa.string(), "fingerprint of the run that made it"),
        column(
            "database",
            pa.string(),
            "fingerprint of the database; null when none was used",
            nullable=True,
        ),
        column(
            "style_database",
            pa.string(),
            "fingerprint of the style's database, if another",
            nullable=True,
        ),
        column(
            "given_images",
            pa.list_(pa.string()),
            "sha256 of the image files that were part of the request",
        ),
        column(
            "neighbor_keys",
            pa.list_(pa.string()),
            "keys of the retrieved images, nearest first; the style's come last",
        ),
        column("neighbor_scores", pa.list_(pa.float32()), "their cosines with the query"),
        column("licences", pa.list_(pa.string()), "their licences"),
        column("authors", pa.list_(pa.string()), "their authors"),
        column("source_urls", pa.list_(pa.string()), "where they came from"),
        column(
            "attributions",
            pa.list_(pa.float32()),
            "RMS change in 0..1 without each neighbor, "
            "the style's not among them; null unless asked for",
            nullable=True,
        ),
        column(
            "condition",
            pa.string(),
            "what a row had to satisfy to be a neighbor (where); null where any row may be one",
            nullable=True,
        ),
        column("condition_rows", pa.int64(), "how many rows of the database did", nullable=True),
        column(
            "text",
            pa.string(),
            "what was written of the image; null where an image was drawn",
            nullable=True,
        ),
    ],
    metadata={"doc": "one row an image"},
)


def write_samples(
    directory: Path,
    images: Sequence[bytes],
    records: Sequence[Mapping[str, Any]],
    grid: bytes,
    edits: bytes | None = None,
) -> int:
    """Write the encoded images under the names in their records, the table, the contact sheet, and
    that of edits if there is one. Returns the number of images.
    """
    # Images first: a table never names a file that is not there yet.
    for image, record in zip(images, records, strict=True):
        (directory / record["file"]).write_bytes(image)
    (directory / GRID_FILE).write_bytes(grid)
    if edits is not None:
        (directory / EDITS_FILE).write_bytes(edits)
    columns = {}
    for name in SAMPLES.names:
        columns[name] = [{**LATER, **record}[name] for record in records]
    write_table(directory / SAMPLES_FILE, pa.table(columns, schema=SAMPLES))
    return len(images)


def read_samples(samples: Artifact) -> list[dict[str, Any]]:
    """The rows of the table, in sampling order."""
    path = samples.file(SAMPLES_FILE)
    there = read_table(path).schema.names
    wanted = [name for name in SAMPLES.names if name not in LATER or name in there]
    rows: list[dict[str, Any]] = read_table(path, wanted).to_pylist()
    return [{**LATER, **row} for row in rows]
