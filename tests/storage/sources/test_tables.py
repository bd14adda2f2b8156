"""Reading large CSV files: what is damaged costs its own rows and is counted by reason."""

import csv

import pytest

from storage.errors import SourceError
from storage.sources.tables import MOST_LINES, CsvTable

HEADER = ["ImageID", "Author", "Title", "Rotation"]
GOOD_IDS = [f"good{number}" for number in range(1000)]
GOOD = [[image_id, "Ann", "T", "0"] for image_id in GOOD_IDS]


def table(tmp_path, data, **options):
    path = tmp_path / "list.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return CsvTable(path, ("ImageID", "Author"), "Cure.", **options)


def lines(*rows, good=GOOD):
    return "\n".join([",".join(row) for row in [HEADER, *rows, *good]]) + "\n"


def authors(read, *wanted):
    return dict(read.matching(wanted))


def test_every_row_is_read_and_counted(tmp_path):
    read = table(tmp_path, lines(), count_by="Rotation")
    assert authors(read, "good0", "good999", "missing") == {"good0": "Ann", "good999": "Ann"}
    assert read.rows == {"0": 1000} and not read.damaged and not read.blank_lines


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_a_csv_writer_writes_is_read_as_it_was(quoting, end, tmp_path):
    titles = [
        "a, b",
        'say "cheese"',
        "two\nlines",
        "",
        '"',
        "tab\there",
        ",",
        '\n"\n',
        '","',
        "日本 \U0001f415",
        "a;b",
    ]
    path = tmp_path / "list.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=quoting, lineterminator=end)
        writer.writerow(HEADER)
        for title in titles:
            writer.writerow(["a", title, title, "0"])
    read = CsvTable(path, ("ImageID", "Author", "Title"), "Cure.")
    assert list(read.matching(["a"])) == [("a", title, title) for title in titles]
    assert not read.damaged


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_other_encodings_are_read_by_their_mark(encoding, tmp_path):
    assert authors(table(tmp_path, lines(["a", "J\u00f6rg", "", ""]).encode(encoding)), "a") == {
        "a": "J\u00f6rg"
    }


def test_columns_are_found_in_any_order_and_with_blanks_around_their_names(tmp_path):
    assert authors(table(tmp_path, "Rotation, Author ,ImageID\n0,Ann,a\n"), "a") == {"a": "Ann"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('a,Ann,"never closed,0', "a quote that is not closed"),
        ('a,"never closed,T,0', "a quote that is not closed"),
        ('"a,Ann,T,0', "a quote that is not closed"),
        ('a,Ann,T,"0', "a quote that is not closed"),
        ('a,"An"n,T,0', "misplaced quotes"),
        ("a,Ann", "other fields than the header"),
        ("a,Ann,T,0,1", "other fields than the header"),
        ("a;Ann;T;0", "other fields than the header"),
        (",Ann,T,0", "nothing in ImageID"),
        (" ,,,", "nothing in ImageID"),
        ("a,An\0n,T,0", "NUL characters"),
    ],
)
@pytest.mark.parametrize(
    "follows", ['next,Bob,"a, b",0', 'next,"Bob","two\nlines",0', 'next,Bob,", x",0']
)
def test_a_damaged_row_costs_itself_alone(row, reason, follows, tmp_path):
    read = table(tmp_path, lines([row], [follows]))
    assert authors(read, "a", "next", "good0", "good999") == {
        "next": "Bob",
        "good0": "Ann",
        "good999": "Ann",
    }
    assert read.damaged == {reason: 1} and read.rows.total() == 1001


def test_a_quote_inside_a_field_is_a_character(tmp_path):
    assert authors(table(tmp_path, lines(['a,A"nn,5" disc,0'])), "a") == {"a": 'A"nn'}


def test_many_quotes_that_are_not_closed_are_passed_over_one_by_one(tmp_path):
    rows = list(GOOD)
    for number in range(0, 1000, 125):  # eight of them, with good rows in between
        rows.insert(number, [f'open{number},"x', "T", "0"])
    read = table(tmp_path, lines(*rows, good=[]))
    assert len(authors(read, *GOOD_IDS)) == 1000 and read.damaged.total() == 8


def test_rows_between_quotes_that_are_not_closed_keep_their_order_and_their_lines(tmp_path):
    rows = [
        ["a", "Ann", '"two\nlines"', "0"], ["b", '"open', "T", "0"], ["c", "Ann", "T", "0"],
        ["d", '"open', "T", "0"], ["e", "Ann", '"more\nlines"', "0"], ["f", "Ann"],
    ]  # fmt: skip
    read = table(tmp_path, lines(*rows))
    assert [row[0] for row in read.matching("abcdef")] == ["a", "c", "e"]
    assert read.damaged == {"a quote that is not closed": 2, "other fields than the header": 1}
    with pytest.raises(SourceError, match="3 of 6 rows are damaged, first line 4: a quote"):
        authors(table(tmp_path, lines(*rows, good=[])), "a")
    with pytest.raises(SourceError, match="1 of 3 rows are damaged, first line 6: other fields"):
        authors(table(tmp_path, lines(rows[0], rows[4], rows[5], good=[])), "a")


def test_a_quoted_field_may_hold_many_lines_but_not_the_rest_of_the_file(tmp_path):
    long, longer = "\n".join(["x"] * (MOST_LINES - 1)), "\n".join(["x"] * (MOST_LINES + 1))
    assert authors(table(tmp_path, lines(["a", "Ann", f'"{long}"', "0"])), "a") == {"a": "Ann"}
    with pytest.raises(SourceError, match="line 2: a quote that is not closed"):
        authors(table(tmp_path, lines(["a", "Ann", f'"{longer}"', "0"])), "a")


def test_blank_lines_are_counted_and_cost_nothing(tmp_path):
    # A blank line after each row and after the header.
    read = table(tmp_path, lines().replace("\n", "\n\n"))
    assert len(authors(read, *GOOD_IDS)) == 1000 and read.blank_lines == 1001


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("ImageID,Author\n", "holds no row, only its header and 0 blank lines"),
        ("ImageID,Author\n\n\n", "holds no row, only its header and 2 blank lines"),
        (
            "ImageID,Author\n" + ",\n" * 3,
            "3 of 3 rows are damaged, first line 2: nothing in ImageID",
        ),
        ("ImageID,Author\n" + "a,b\n" * 99 + "c\n", None),
        ("ImageID,Author\n" + "a,b\n" * 98 + "c\n", "1 of 99 rows are damaged, first line 100"),
        ("ImageID;Author\na;b\n", "line 1 has no column ImageID, Author; it reads 'ImageID;Author"),
        ("ImageID\tAuthor\na\tb\n", "line 1 has no column"),
        ("imageid,Author\na,b\n", "line 1 has no column ImageID"),
        ("ImageID,Author,Author\na,b,c\n", "line 1 names Author more than once"),
        ("ImageID,Author\ra,b\r", "line 1 has no column ImageID, Author"),
        (
            "ImageID,Author\na,b\n".encode("utf-16-le"),
            "NUL characters, as UTF-16 without a byte order mark",
        ),
        (b"\xff\xfe" + "ImageID,Author\na,b\n".encode("utf-16-le")[:-1], "is no text"),
        (b"PK\x03\x04\x14\0\0", "is packed with ZIP. Unpack it"),
        (b"\x1f\x8b\x08\0\0", "is packed with gzip"),
        (b"BZh91AY&SY", "is packed with bzip2"),
        (b"\xfd7zXZ\0\0", "is packed with xz"),
        (b"\x28\xb5\x2f\xfd\x04", "is packed with zstd"),
        ("", "is empty"),
    ],
)
def test_a_file_that_is_no_such_list_is_refused_and_the_reason_told(data, told, tmp_path):
    read = table(tmp_path, data)
    if told is None:
        assert authors(read, "a")
        return
    with pytest.raises(SourceError, match=told):
        authors(read, "a")


def test_a_hopeless_file_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("storage.sources.tables._HOPELESS", 10)
    read = table(tmp_path, lines(*["x"] * 50, good=GOOD[:20]))
    with pytest.raises(SourceError, match="10 of 10 rows are damaged"):
        authors(read, "a")
