"""The neighbor table."""

import duckdb
import numpy as np
import pytest

from storage.neighbors import NO_ROW, neighbors_schema, read_neighbors, write_neighbors
from storage.parquet import read_table

DATABASE_KEYS = np.asarray(["a", "b", "c", "d"], dtype=object)
ROWS = np.array([[2, 0, 3], [1, NO_ROW, NO_ROW]], dtype=np.int64)
SCORES = np.array([[0.9, 0.5, -0.25], [0.75, -2, -2]], dtype=np.float32)


@pytest.fixture
def neighbors(make):
    return make(
        "neighbors",
        "a",
        lambda d, n: write_neighbors(d, n, ["q0", "q1"], DATABASE_KEYS, ROWS, SCORES),
        lambda d, n: write_neighbors(d, n, ["q2"], DATABASE_KEYS, ROWS[:1] + 0, SCORES[:1]),
    )


def test_rows_and_scores_come_back_in_part_order(neighbors):
    keys, rows, scores = read_neighbors(neighbors)
    assert keys == ["q0", "q1", "q2"]
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)
    np.testing.assert_array_equal(rows, np.concatenate([ROWS, ROWS[:1]]))
    np.testing.assert_array_equal(scores, np.concatenate([SCORES, SCORES[:1]]))
    assert neighbors.rows == 3


def test_a_list_shorter_than_k_is_padded_with_no_row_and_no_key(neighbors):
    table = read_table(neighbors.file("00000.parquet"))
    assert table.schema.equals(neighbors_schema(3))
    assert table["keys"].to_pylist() == [["c", "a", "d"], ["b", "", ""]]
    assert table["rows"].to_pylist()[1] == [1, -1, -1]
    assert table["scores"].to_pylist()[1] == [0.75, -2, -2]


def test_sql_reads_the_neighbors_of_a_query(neighbors):
    path = neighbors.file("00000.parquet")
    found = duckdb.sql(
        f"""SELECT * FROM (SELECT unnest(rows) AS r, unnest(keys) AS neighbor, \
unnest(scores) AS score
            FROM '{path}' WHERE key = 'q1') WHERE r >= 0"""
    ).fetchall()
    assert found == [(1, "b", 0.75)]


def test_no_queries_are_an_empty_table(make):
    empty = make(
        "neighbors",
        "a",
        lambda d, n: write_neighbors(
            d, n, [], DATABASE_KEYS, np.empty((0, 3), np.int64), np.empty((0, 3), np.float32)
        ),
    )
    keys, rows, scores = read_neighbors(empty)
    assert (keys, rows.shape, scores.shape) == ([], (0, 3), (0, 3))
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)


def test_arrays_of_another_type_are_stored_as_the_declared_one(make):
    artifact = make(
        "neighbors",
        "a",
        lambda d, n: write_neighbors(
            d, n, ["q0", "q1"], DATABASE_KEYS, ROWS.astype(np.int32), SCORES.astype(np.float64)
        ),
    )
    assert read_table(artifact.file("00000.parquet")).schema.equals(neighbors_schema(3))
    np.testing.assert_array_equal(read_neighbors(artifact)[1], ROWS)


@pytest.mark.parametrize(
    ("keys", "scores"),
    [
        (["q0"], SCORES),
        (["q0", "q1", "q2"], SCORES),
        (["q0", "q1"], SCORES[:, :2]),
        (["q0", "q1"], SCORES[:1]),
    ],
)
def test_arrays_of_another_shape_are_not_written(keys, scores, tmp_path):
    # Numpy refuses some of these, pyarrow the others.
    with pytest.raises((ValueError, TypeError)):
        write_neighbors(tmp_path, "00000", keys, DATABASE_KEYS, ROWS, scores)
    assert list(tmp_path.iterdir()) == []
