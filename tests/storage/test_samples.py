"""Samples: images and the table that says what stood behind each."""

import pytest

from storage.errors import FormatError
from storage.parquet import read_table, write_table
from storage.samples import GRID_FILE, SAMPLES, SAMPLES_FILE, read_samples, write_samples

RECORDS = [
    {
        "file": f"{i:05d}.png",
        "query": "a blue circle",
        "seed": 40 + i,
        "guidance_scale": 2.0,
        "weights": "w" * 16,
        "database": "d" * 16 if i == 0 else None,
        "neighbor_keys": ["b", "a"] if i == 0 else [],
        "neighbor_scores": [0.75, 0.5] if i == 0 else [],
        "licences": ["CC0", None] if i == 0 else [],
        "authors": [None, "A. Painter"] if i == 0 else [],
        "source_urls": [None, "https://example.org/a"] if i == 0 else [],
        "style_database": None,
        "given_images": ["f" * 64] if i == 0 else [],
        "attributions": [0.25, 0.5] if i == 0 else None,
        "condition": "norm > 1" if i == 0 else None,
        "condition_rows": 7 if i == 0 else None,
        "text": "a blue circle" if i == 0 else None,
    }
    for i in range(2)
]


@pytest.fixture
def samples(make):
    return make(
        "samples", "a", lambda d, n: write_samples(d, [b"first", b"second"], RECORDS, b"grid")
    )


def test_records_come_back_in_sampling_order(samples):
    assert read_samples(samples) == RECORDS
    assert samples.rows == 2


def test_every_image_lies_under_the_name_in_its_record(samples):
    assert [samples.file(record["file"]).read_bytes() for record in read_samples(samples)] == [
        b"first",
        b"second",
    ]
    assert samples.file(GRID_FILE).read_bytes() == b"grid"
    assert read_table(samples.file(SAMPLES_FILE)).schema.equals(SAMPLES)


def test_what_the_table_has_no_column_for_stays_out_of_it(make):
    records = [record | {"steps": 50} for record in RECORDS]
    assert (
        read_samples(
            make("samples", "b", lambda d, n: write_samples(d, [b"1", b"2"], records, b""))
        )
        == RECORDS
    )


LATE = ("text", "condition", "condition_rows")


def test_columns_that_came_later_need_not_be_there_in_a_record_nor_in_an_older_table(make):
    silent = [{k: v for k, v in record.items() if k not in LATE} for record in RECORDS]

    def older(scratch, part_name):
        write_samples(scratch, [b"1", b"2"], silent, b"")
        path = scratch / SAMPLES_FILE
        write_table(path, read_table(path).drop_columns(list(LATE)))
        return 2

    nothing = dict.fromkeys(LATE)
    assert read_samples(make("samples", "c", older)) == [row | nothing for row in silent]


def test_a_record_without_a_column_is_not_written(tmp_path):
    with pytest.raises(KeyError, match="licences"):
        write_samples(
            tmp_path, [b"1"], [{k: v for k, v in RECORDS[0].items() if k != "licences"}], b""
        )
    assert not (tmp_path / SAMPLES_FILE).exists()


def test_as_many_images_as_records_are_needed(tmp_path):
    with pytest.raises(ValueError, match="zip"):
        write_samples(tmp_path, [b"1"], RECORDS, b"")


def test_a_table_that_lacks_a_column_is_refused(make):
    def without_authors(scratch, part_name):
        write_samples(scratch, [b"1", b"2"], RECORDS, b"")
        write_table(
            scratch / SAMPLES_FILE, read_table(scratch / SAMPLES_FILE).drop_columns(["authors"])
        )

    with pytest.raises(FormatError, match=r"samples.parquet: lacks the column\(s\) authors"):
        read_samples(make("samples", "a", without_authors))
