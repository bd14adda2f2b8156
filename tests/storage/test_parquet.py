"""Tables whose schema explains itself, and vectors in fixed-size lists."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import FormatError
from storage.parquet import column, read_table, vector_array, vector_type, vectors_of, write_table

SCHEMA = pa.schema(
    [
        column("key", pa.string(), "a key"),
        column("vector", vector_type(3, pa.float16()), "a vector"),
        column("words", pa.list_(pa.string()), "texts"),
        column("note", pa.string(), "a note", nullable=True),
    ],
    metadata={"doc": "a table"},
)


def table_of(n):
    vectors = np.arange(3 * n, dtype=np.float16).reshape(n, 3)
    values = [[f"k{i}" for i in range(n)], vector_array(vectors), [["a", "b"]] * n, [None] * n]
    return pa.table(dict(zip(SCHEMA.names, values, strict=True)), schema=SCHEMA)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int64", "uint8"])
def test_vectors_come_back_bit_for_bit(dtype, tmp_path):
    values = (np.random.default_rng(0).normal(size=(50, 7)) * 100).astype(dtype)
    write_table(tmp_path / "a.parquet", pa.table({"v": vector_array(values)}), plain=["v"])
    read = vectors_of(read_table(tmp_path / "a.parquet"), "v")
    assert read.dtype == values.dtype
    assert read.tobytes() == values.tobytes()


def test_vectors_of_a_table_in_pieces_keep_their_order():
    values = np.arange(60, dtype=np.int64).reshape(20, 3)
    table = pa.table({"v": vector_array(values)})
    pieces = pa.concat_tables([table.slice(0, 7), table.slice(7, 2), table.slice(9)])
    # pyarrow keeps the pieces apart: nothing has joined them before.
    assert pieces["v"].num_chunks == 3
    np.testing.assert_array_equal(vectors_of(pieces, "v"), values)


def test_no_rows_still_have_a_width_and_a_type():
    empty = pa.schema([column("v", vector_type(5, pa.float16()), "")]).empty_table()
    assert vectors_of(empty, "v").shape == (0, 5)
    assert vectors_of(empty, "v").dtype == np.float16
    # A table that was filtered to nothing may have no chunk at all.
    without_chunks = pa.table({"v": pa.chunked_array([], type=vector_type(5, pa.int64()))})
    assert vectors_of(without_chunks, "v").shape == (0, 5)
    assert vectors_of(without_chunks, "v").dtype == np.int64


def test_the_meaning_of_each_column_travels_in_the_file(tmp_path):
    write_table(tmp_path / "a.parquet", table_of(2))
    schema = pq.read_schema(tmp_path / "a.parquet")
    assert schema.equals(SCHEMA)
    assert schema.field("key").metadata[b"doc"] == b"a key"
    assert schema.metadata[b"doc"] == b"a table"


def test_vectors_are_stored_plain_and_texts_compressed(tmp_path):
    write_table(tmp_path / "a.parquet", table_of(100), plain=["vector"])
    group = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert columns["vector.list.element"].compression == "UNCOMPRESSED"
    assert not columns["vector.list.element"].has_dictionary_page
    assert not columns["vector.list.element"].is_stats_set
    for name in ("key", "words.list.element"):
        assert columns[name].compression == "ZSTD"
        assert columns[name].has_dictionary_page
        assert columns[name].is_stats_set


def test_equal_tables_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_table(tmp_path / name, table_of(1000), plain=["vector"])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_null_where_none_may_be_is_not_written(tmp_path):
    table = pa.Table.from_arrays(
        [pa.array(["a", None])], schema=pa.schema([column("key", pa.string(), "")])
    )
    with pytest.raises(pa.ArrowInvalid, match="non-nullable"):
        write_table(tmp_path / "a.parquet", table)


def test_only_the_columns_asked_for_are_read(tmp_path):
    write_table(tmp_path / "a.parquet", table_of(2))
    assert read_table(tmp_path / "a.parquet", ["note", "key"]).column_names == ["note", "key"]
    assert read_table(tmp_path / "a.parquet").column_names == SCHEMA.names


def test_a_missing_column_is_named(tmp_path):
    write_table(tmp_path / "a.parquet", table_of(2))
    with pytest.raises(
        FormatError, match=r"a.parquet: lacks the column\(s\) embedding, norm\. Build it again"
    ):
        read_table(tmp_path / "a.parquet", ["key", "norm", "embedding"])


def not_parquet(raw):
    return b"PK\x03\x04 something else"


def empty(raw):
    return b""


def truncated(raw):
    return raw[: len(raw) // 2]


def renamed_to_no_text(raw):
    return raw.replace(b"note", b"n\xffte")


@pytest.mark.parametrize("damage", [not_parquet, empty, truncated, renamed_to_no_text])
def test_what_is_not_parquet_is_refused_by_name(damage, tmp_path):
    path = tmp_path / "a.parquet"
    write_table(path, table_of(2))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FormatError, match="a.parquet: cannot be read as Parquet .*rdm check"):
        read_table(path)


def test_pages_of_what_is_filtered_on_are_indexed_and_vectors_have_no_statistics(tmp_path):
    write_table(tmp_path / "a.parquet", table_of(100), plain=["vector"])
    group = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0)
    key, vector = group.column(0), group.column(1)
    assert key.has_column_index and key.has_offset_index and key.statistics.max == "k99"
    assert not vector.has_column_index and vector.statistics is None
