"""Lists of addresses that users bring."""

import tracemalloc
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import SourceError
from storage.web.collection import ListedImage
from storage.web.listed import read_list


def rows(path, notes=None, **columns):
    return list(read_list(path, columns, Counter() if notes is None else notes))


FIRST = ListedImage("http://a.org/1.jpg", ("a cat",), "CC0", "Ada", None, None, ())


def test_csv_parquet_and_json_lines_give_the_same(tmp_path):
    csv, tsv, jsonl = (tmp_path / f"list.{kind}" for kind in ("csv", "tsv", "jsonl"))
    csv.write_text(
        'URL,Caption,License,Author\nhttp://a.org/1.jpg,a cat,CC0,Ada\n"http://b.org",,,\n'
    )
    tsv.write_text(
        "url\ttext\tlicence\tcreator\nhttp://a.org/1.jpg\ta cat\tCC0\tAda\nhttp://b.org\t\t\t\n"
    )
    jsonl.write_text(
        '{"url": "http://a.org/1.jpg", "caption": "a cat", "licence": "CC0", "author": "Ada"}\n\n'
        '{"url": "http://b.org", "caption": null}\n'
    )
    table = {"url": ["http://a.org/1.jpg", "http://b.org"], "captions": [["a cat"], []],
             "license": ["CC0", None], "author": ["Ada", None]}  # fmt: skip
    pq.write_table(pa.table(table), tmp_path / "list.parquet")
    for path in (csv, tsv, jsonl, tmp_path / "list.parquet"):
        assert rows(path) == [FIRST, ListedImage("http://b.org")], path


def test_a_column_of_another_name_is_named(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("where,what\nhttp://a.org/1.jpg,a cat\n")
    with pytest.raises(
        SourceError, match=r"no column of addresses; it has where, what. Name it: .*"
    ):
        rows(path)
    found = rows(path, url="where", captions="what")
    assert found == [ListedImage("http://a.org/1.jpg", ("a cat",))]
    with pytest.raises(SourceError, match="has no column 'whose'; it has where, what"):
        rows(path, url="where", author="whose")
    with pytest.raises(ValueError, match="columns: colour is none of url, captions"):
        rows(path, url="where", colour="what")


def test_rows_that_cannot_be_read_are_counted_and_cost_nothing_else(tmp_path):
    path, notes = tmp_path / "list.csv", Counter()
    path.write_bytes(
        b"url,caption\nhttp://a.org,ok\n,none\nhttp://b.org,one,too many\n"
        b'http://c.org,\xff\xfe\nhttp://d.org,"open\nhttp://e.org,fine\n'
    )
    found = rows(path, notes)
    assert [image.url for image in found] == ["http://a.org", "http://c.org", "http://e.org"]
    assert found[1].captions == ("\\udcff\\udcfe",)
    assert notes == {"rows_without_an_address": 1, "rows_that_cannot_be_read": 2}
    lines, notes = tmp_path / "list.jsonl", Counter()
    lines.write_text('{"url": "http://a.org"}\nnonsense\n[1]\n{"url": "http://b.org"}\n')
    assert len(rows(lines, notes)) == 2 and notes == {"rows_that_cannot_be_read": 2}


@pytest.mark.parametrize(
    "name, content, what",
    [
        ("list.xlsx", b"PK\3\4", "is no list that is known by its ending '.xlsx'"),
        ("list.csv", b"", "this file is empty"),
        ("list.csv", b"url,caption\n", "holds no row"),
        ("list.csv", b"\x1f\x8b12345", "is packed with gzip"),
        ("list.parquet", b"no parquet", "is no Parquet file that can be read"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=what):
        rows(tmp_path / name)
    with pytest.raises(SourceError):
        rows(tmp_path / f"absent-{name}")


def test_rows_of_json_may_each_name_other_things(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_text(
        '{"url": "http://a.org"}\n{"caption": "a cat", "url": "http://b.org"}\n'
        '{"where": "http://c.org"}\n{"url": "http://d.org", "license": "CC0"}\n'
    )
    notes = Counter()
    found = rows(path, notes)
    assert [image.captions for image in found] == [(), ("a cat",), ()]
    assert found[2].licence == "CC0" and notes == {"rows_without_an_address": 1}
    assert rows(path, captions="caption")[1].captions == ("a cat",)


def test_of_a_table_only_what_is_wanted_is_read(tmp_path):
    table = {"url": ["http://a.org"], "bytes": [b"x" * 1000], "caption": ["a"]}
    pq.write_table(pa.table(table), tmp_path / "list.parquet")
    assert rows(tmp_path / "list.parquet") == [ListedImage("http://a.org", ("a",))]


def test_a_long_list_is_read_in_little_memory(tmp_path):
    path = tmp_path / "list.csv"
    with path.open("w") as file:
        file.write("url,caption\n")
        for number in range(60_000):
            file.write(f"http://a.org/{number}.jpg,a cat of number {number}\n")
    tracemalloc.start()
    count = sum(1 for _ in read_list(path, {}, Counter()))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 60_000 and most < 2_000_000
