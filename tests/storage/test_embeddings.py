"""Embeddings: unit vectors that come back as written, in row order, and that anybody's SQL can
search.
"""

import duckdb
import numpy as np
import pytest
from building import keys_of

from storage import embeddings as module
from storage.embeddings import (
    NORMS_OF,
    VECTORS_OF,
    embeddings_schema,
    licence_counts,
    of_what,
    read_columns,
    read_rows,
    read_vectors,
    write_embeddings,
    write_embeddings_without,
)
from storage.errors import FormatError
from storage.parquet import read_table, vectors_of


@pytest.fixture
def embeddings(make, sidecar, unit_vectors):
    """embeddings(5, 3) publishes two parts of 5 and 3 rows; the vectors are those of
    unit_vectors(8).
    """

    def made(*rows):
        vectors, norms = unit_vectors(sum(rows))
        whole = sidecar(sum(rows))

        def writer(start, count):
            """Writes `count` rows, from row `start` on, as one part."""
            end = start + count
            return lambda directory, part_name: write_embeddings(
                directory,
                part_name,
                whole.slice(start, count),
                vectors[start:end],
                norms[start:end],
            )

        writers, start = [], 0
        for count in rows:
            writers.append(writer(start, count))
            start += count
        return make("embeddings", "a", *writers)

    return made


def test_vectors_and_norms_come_back_in_row_order_over_all_parts(embeddings, unit_vectors):
    artifact = embeddings(5, 1, 3)
    vectors, norms = unit_vectors(9)
    read, read_norms = read_vectors(artifact)
    assert artifact.rows == 9
    assert read.dtype == read_norms.dtype == np.float32
    np.testing.assert_allclose(read, vectors, atol=1e-3)
    np.testing.assert_array_equal(read_norms, norms)
    assert read_columns(artifact, ["key"])["key"].to_pylist() == keys_of(range(9))


def test_some_rows_are_read_in_the_order_asked_for_from_the_parts_that_hold_them(
    embeddings, monkeypatch
):
    artifact = embeddings(5, 1, 3, 2)
    opened = []
    real = module.read_table
    monkeypatch.setattr(
        module, "read_table", lambda path, columns: opened.append(path.name) or real(path, columns)
    )
    # Out of order, over two parts, and one row twice.
    rows = [8, 0, 6, 4, 8]
    table = read_rows(artifact, rows, ["key", "author"])
    assert table["key"].to_pylist() == keys_of(rows)
    assert table.schema.names == ["key", "author"]
    assert opened == ["00000.parquet", "00002.parquet"]
    backwards = range(10, -1, -1)
    assert read_rows(artifact, backwards, ["key"])["key"].to_pylist() == keys_of(backwards)
    assert read_rows(artifact, [], ["key"]).num_rows == 0


@pytest.mark.parametrize("row", [-1, 9])
def test_a_row_that_is_not_there_is_refused(embeddings, row):
    with pytest.raises(IndexError, match="0 to 8"):
        read_rows(embeddings(5, 4), [0, row], ["key"])


def test_vectors_are_unit_to_float16_in_the_file_and_to_float32_after_reading(embeddings):
    artifact = embeddings(200)
    stored = vectors_of(read_table(artifact.file("00000.parquet")), "embedding")
    assert stored.dtype == np.float16
    in_file = np.linalg.norm(stored.astype(np.float64), axis=1)
    np.testing.assert_allclose(in_file, 1, atol=1e-3)
    assert np.abs(in_file - 1).max() > 1e-5, "float16 rounds; otherwise this test sees nothing"
    read, _ = read_vectors(artifact)
    np.testing.assert_allclose(np.linalg.norm(read.astype(np.float64), axis=1), 1, atol=2e-7)


@pytest.mark.parametrize("of", VECTORS_OF)
def test_the_file_says_what_its_vectors_and_norms_are_of(of, make, sidecar, unit_vectors):
    made = make(
        "embeddings",
        "a",
        lambda d, n: write_embeddings(d, n, sidecar(3), *unit_vectors(3), of),
        parameters={"of": of},
    )
    assert of_what(made) == of
    path = made.file("00000.parquet")
    schema = read_table(path).schema
    assert schema.field("embedding").metadata[b"doc"].decode() == VECTORS_OF[of]
    assert schema.field("norm").metadata[b"doc"].decode() == NORMS_OF[of]
    write_embeddings_without(path, path.parent, "less", {"folder-0-00"}, of)
    assert read_table(path.parent / "less.parquet").schema.equals(schema, check_metadata=True)


def test_a_plan_that_does_not_say_is_of_images(embeddings):
    assert of_what(embeddings(1)) == "image"


def test_what_an_analyst_filters_on_travels_with_each_vector(embeddings, sidecar):
    artifact = embeddings(3)
    table = read_table(artifact.file("00000.parquet"))
    assert table.schema.equals(embeddings_schema(8))
    names = ["key", "source_key", "captions", "labels", "style", "author", "licence", "source_url"]
    assert table.select(names).to_pylist() == sidecar(3).select(names).to_pylist()


def test_sql_computes_inner_products_on_the_embedding_as_a_float_array(embeddings, unit_vectors):
    path = embeddings(6).file("00000.parquet")
    vectors, _ = unit_vectors(6)
    assert duckdb.sql(f"SELECT typeof(embedding) FROM '{path}' LIMIT 1").fetchall() == [
        ("FLOAT[]",)
    ]
    rows = duckdb.sql(
        f"SELECT key, array_inner_product(embedding::FLOAT[8], {vectors[2].tolist()}::FLOAT[8]) "
        f"AS score FROM '{path}' ORDER BY score DESC"
    ).fetchall()
    scores = dict(rows)
    assert rows[0][0] == "folder-2-00"
    by_row = [scores[key] for key in keys_of(range(6))]
    np.testing.assert_allclose(by_row, vectors @ vectors[2], atol=2e-3)


def test_a_part_without_an_accepted_image_is_an_empty_table(make, sidecar, unit_vectors):
    vectors, norms = unit_vectors(2)
    artifact = make(
        "embeddings",
        "a",
        lambda d, n: write_embeddings(
            d, n, sidecar(0), np.empty((0, 8), np.float32), np.empty(0, np.float32)
        ),
        lambda d, n: write_embeddings(d, n, sidecar(2), vectors, norms),
    )
    read, read_norms = read_vectors(artifact)
    assert read.shape == (2, 8)
    assert read_norms.shape == (2,)


def test_a_database_of_nothing_is_refused(make, sidecar):
    empty = make(
        "embeddings",
        "a",
        lambda d, n: write_embeddings(d, n, sidecar(0), np.empty((0, 8)), np.empty(0)),
    )
    with pytest.raises(FormatError, match="holds no embedding. Import images that can be read"):
        read_vectors(empty)


def test_vectors_that_do_not_match_the_sidecar_are_not_written(tmp_path, sidecar, unit_vectors):
    vectors, norms = unit_vectors(3)
    with pytest.raises(ValueError, match="(?i)length|rows|equal"):
        write_embeddings(tmp_path, "00000", sidecar(2), vectors, norms)


def test_licences_are_counted_most_first(make, sidecar, sample, unit_vectors):
    table = sidecar(5)
    position = table.schema.get_field_index("licence")
    licences = ["CC0", None, "CC-BY", "CC-BY", None]
    table = table.set_column(position, table.schema.field("licence"), [licences])
    vectors, norms = unit_vectors(5)
    artifact = make("embeddings", "a", lambda d, n: write_embeddings(d, n, table, vectors, norms))
    assert list(licence_counts(artifact).items()) == [("not stated", 2), ("CC-BY", 2), ("CC0", 1)]


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_a_vector_without_a_direction_is_refused_when_it_is_read(
    make, sidecar, unit_vectors, value
):
    vectors, norms = unit_vectors(4)
    vectors[2] = value
    artifact = make(
        "embeddings", "e", lambda d, n: write_embeddings(d, n, sidecar(4), vectors, norms)
    )
    with pytest.raises(FormatError, match="00000.parquet: the vector of row 2 has no direction"):
        read_vectors(artifact)
