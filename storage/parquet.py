"""Parquet tables whose schema carries its own documentation, and vectors as fixed-size lists."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import FormatError


def column(name: str, kind: pa.DataType, doc: str, nullable: bool = False) -> pa.Field:
    """A field with its meaning attached; FORMAT.md is compared with it."""
    return pa.field(name, kind, nullable=nullable, metadata={"doc": doc})


def vector_type(width: int, element: pa.DataType) -> pa.DataType:
    """A fixed-size list whose elements are never null; DuckDB reads it as a list that casts to
    `FLOAT[<width>]`.
    """
    return pa.list_(pa.field("element", element, nullable=False), width)


def vector_array(values: np.ndarray) -> pa.Array:
    """Numeric [N, W] -> fixed-size list column of the same element type."""
    element = pa.from_numpy_dtype(values.dtype)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), type=element)
    return pa.FixedSizeListArray.from_arrays(flat, type=vector_type(values.shape[1], element))


def vectors_of(table: pa.Table, name: str) -> np.ndarray:
    """A fixed-size list column -> [N, W] of its element type."""
    kind = table.schema.field(name).type
    # Not to_numpy: for its sake pyarrow imports pandas.
    pieces = [np.from_dlpack(piece.flatten()) for piece in table.column(name).chunks]
    flat = np.concatenate(pieces) if pieces else np.empty(0, kind.value_type.to_pandas_dtype())
    return flat.reshape(-1, kind.list_size)


def write_table(path: Path, table: pa.Table, plain: Sequence[str] = ()) -> None:
    """Write with zstd and a page index; the columns in `plain` (vectors) uncompressed, without
    dictionary or statistics.

    pyarrow's defaults read a float16 vector column fifteen times slower.
    """
    # Parquet counts by leaves: of a column of lists the leaf is the element.
    compression: dict[str, str] = {}
    with_statistics, with_dictionary = [], []
    for field in table.schema:
        leaf = f"{field.name}.list.element" if _is_list(field.type) else field.name
        compression[leaf] = "NONE" if field.name in plain else "ZSTD"
        if field.name not in plain:
            with_statistics.append(leaf)
            if pa.types.is_string(field.type.value_type if _is_list(field.type) else field.type):
                with_dictionary.append(leaf)
    with pq.ParquetWriter(
        path,
        table.schema,
        compression=compression,
        use_dictionary=with_dictionary,
        write_statistics=with_statistics,
        write_page_index=True,
    ) as writer:
        writer.write_table(table, row_group_size=16_384)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, all columns or some.

    Raises FormatError when the file is not Parquet or lacks a column.
    """
    try:
        table = pq.ParquetFile(path).read(columns=list(columns) if columns is not None else None)
    except (pa.ArrowException, ValueError, OSError) as error:
        # ValueError: a column's name is no text
        raise FormatError(
            path, f"cannot be read as Parquet ({error})", "Run `rdm check`, then build it again."
        ) from error
    missing = set(columns or ()) - set(table.schema.names)
    if missing:
        raise FormatError(
            path,
            f"lacks the column(s) {', '.join(sorted(missing))}",
            "Build it again with this version.",
        )
    return table


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
