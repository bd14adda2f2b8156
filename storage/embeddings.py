"""Embeddings: Parquet parts whose row order, part after part, is the index id.

What a row's vector is of, the plan's `of` says: the image, its captions (text), or both (document).
"""

from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from storage.artifact import Artifact
from storage.errors import FormatError
from storage.parquet import column, read_table, vector_array, vector_type, vectors_of, write_table
from storage.shards import CREDIT_COLUMNS, SIDECAR

VECTORS_OF = {
    "image": "unit vector of the encoder's image tower",
    "text": "unit vector of the encoder's text tower; of several captions the unit mean of theirs",
    "document": "unit mean of the image's unit vector and the text's",
}
"""What is embedded -> what stands in the column `embedding`."""
NORMS_OF = {
    "image": "length of the vector before it was made unit",
    "text": "length of the caption's vector before it was made unit; of several the mean of theirs",
    "document": "mean of the image's length and the text's",
}
"""What is embedded -> what stands in the column `norm`."""


def of_what(embeddings: Artifact) -> str:
    """What the vectors are of: image, text or document. Older plans do not say: images."""
    of: str = embeddings.parameters.get("of", "image")
    return of


def embeddings_schema(dimension: int, of: str = "image") -> pa.Schema:
    """Columns of a part: the unit vector, the norm it had, and what an analyst filters on."""
    return pa.schema(
        [
            column("key", pa.string(), "key of the sample the vector belongs to"),
            column(
                "source_key",
                pa.string(),
                "dataset and original id: equal for every crop of one image",
            ),
            column(
                "embedding",
                vector_type(dimension, pa.float16()),
                VECTORS_OF[of],
            ),
            column("norm", pa.float32(), NORMS_OF[of]),
            *[SIDECAR.field(name) for name in CREDIT_COLUMNS],
        ],
        metadata={"doc": "one row a sample; row order over all parts = index id"},
    )


def write_embeddings(
    directory: Path,
    part_name: str,
    sidecar: pa.Table,
    vectors: np.ndarray,
    norms: np.ndarray,
    of: str = "image",
) -> int:
    """Write one part; `vectors` unit [N, D] float32 and `norms` [N], of image, text or document,
    belong to the N accepted sidecar rows. Returns N.
    """
    schema = embeddings_schema(vectors.shape[1], of)
    arrays = {
        "embedding": vector_array(vectors.astype(np.float16)),
        "norm": pa.array(norms.astype(np.float32)),
    }
    columns = [arrays[name] if name in arrays else sidecar[name] for name in schema.names]
    write_table(
        directory / f"{part_name}.parquet",
        pa.Table.from_arrays(columns, schema=schema),
        plain=["embedding"],
    )
    return len(vectors)


def without_keys(table: pa.Table, gone: Set[str]) -> pa.Table:
    """The rows whose key is not among those."""
    if not gone:
        return table
    kept = [key not in gone for key in table["key"].to_pylist()]
    return table.filter(pa.array(kept, pa.bool_()))


def write_embeddings_without(
    source: Path, directory: Path, part_name: str, gone: Set[str], of: str = "image"
) -> int:
    """Write a part with the rows of another but those keys, bit by bit as if it had never held
    them. Returns their number.
    """
    kept = without_keys(read_table(source), gone)
    schema = embeddings_schema(kept.schema.field("embedding").type.list_size, of)
    write_table(
        directory / f"{part_name}.parquet",
        pa.Table.from_arrays(kept.columns, schema=schema),
        plain=["embedding"],
    )
    return kept.num_rows


def read_columns(embeddings: Artifact, columns: Sequence[str]) -> pa.Table:
    """Some columns of every row, in row order."""
    return read_columns_of(embeddings.files(".parquet"), columns)


def read_columns_of(paths: Sequence[Path], columns: Sequence[str]) -> pa.Table:
    """Some columns of every row of some parts. Raises FormatError when there is no part."""
    if not paths:
        raise FormatError(
            "embeddings",
            "there is no part to read",
            "Import images that can be read, then embed again.",
        )
    return pa.concat_tables(read_table(path, columns) for path in paths)


def read_rows(embeddings: Artifact, rows: Sequence[int], columns: Sequence[str]) -> pa.Table:
    """Some columns of some rows (index ids), in the order asked for; only the parts that hold them
    are read. Raises IndexError for a row that is not there."""
    wanted = np.asarray(rows, dtype=np.int64)
    ends = np.cumsum([part.rows for part in embeddings.parts], dtype=np.int64)
    if len(wanted) and (wanted.min() < 0 or wanted.max() >= embeddings.rows):
        raise IndexError(f"{embeddings.reference} has the rows 0 to {embeddings.rows - 1:,}")
    # A row belongs to the first part that ends behind it; `side` skips parts without rows.
    owners = np.searchsorted(ends, wanted, side="right")
    # Read part after part, then put back into the order asked for: `order` says where each row of
    # the concatenated tables came from, and its argsort undoes that.
    order, tables = np.argsort(owners, kind="stable"), []
    for owner in np.unique(owners).tolist() or [0]:  # no row at all: an empty table of part 0
        part = embeddings.parts[owner]
        (path,) = replace(embeddings, parts=(part,)).files(".parquet")
        inside = wanted[order][owners[order] == owner] - (ends[owner] - part.rows)
        tables.append(read_table(path, columns).take(inside))
    return pa.concat_tables(tables).take(np.argsort(order))


def read_vectors(embeddings: Artifact) -> tuple[np.ndarray, np.ndarray]:
    """All vectors [N, D] float32, of unit length again after float16, and their raw norms [N]
    float32.

    Raises FormatError when the artifact has no row, or one without a direction.
    """
    vectors, norms = zip(*vector_parts(embeddings), strict=True)
    return np.concatenate(vectors), np.concatenate(norms)


def vector_parts(embeddings: Artifact) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The vectors and norms of one part after the other; parts without rows are left out."""
    empty = True
    for path in embeddings.files(".parquet"):
        table = read_table(path, ["embedding", "norm"])
        if table.num_rows:
            empty = False
            # Rounding to float16 changed the lengths a little: they are made unit again.
            yield _unit(vectors_of(table, "embedding"), path), table["norm"].to_numpy()
    if empty:
        raise FormatError(
            embeddings.directory,
            "holds no embedding",
            "Import images that can be read, then embed again.",
        )


def end_vectors(embeddings: Artifact) -> np.ndarray:
    """The first and the last vector, unit float32 [2, D]; only the parts that hold them are
    read.
    """
    parts = [part for part in embeddings.parts if part.rows]
    ends = []
    # May be one part, and even one row: then both are that one.
    for part, row in ((parts[0], 0), (parts[-1], -1)):
        (path,) = replace(embeddings, parts=(part,)).files(".parquet")
        ends.append(_unit(vectors_of(read_table(path, ["embedding"]), "embedding")[[row]], path))
    return np.concatenate(ends)


def _unit(vectors: np.ndarray, path: Path) -> np.ndarray:
    vectors = vectors.astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    without_direction = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(without_direction):
        row = without_direction[0]
        what = f"the vector of row {row} has no direction (its length is {lengths[row, 0]})"
        raise FormatError(path, what, "Embed the images again.")
    return vectors / lengths


def licence_counts(embeddings: Artifact) -> dict[str, int]:
    """How many rows carry each licence, most first; 'not stated' where the dataset gives none."""
    licences = read_columns(embeddings, ["licence"])["licence"].to_pylist()
    counts = Counter(licence or "not stated" for licence in licences)
    return dict(counts.most_common())
