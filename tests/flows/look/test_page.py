"""HTML and SVG pieces."""

import re

import pytest

from flows.look import page

HOSTILE = "<script>alert(1)</script>\"'&"
ESTIMATE = {"mean": 0.5, "low": 0.4, "high": 0.6, "count": 10}


def test_text_is_escaped_and_markup_is_not():
    assert (
        page.element("p", HOSTILE)
        == "<p>&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;&amp;</p>"
    )
    assert page.element("p", page.element("b", "x")) == "<p><b>x</b></p>"


def test_attributes_are_quoted_whatever_they_hold_and_left_out_when_none():
    made = page.element("img", alt=page.Html('" onerror="x'), class_=None, aria_hidden="true")
    assert made == '<img alt="&quot; onerror=&quot;x" aria-hidden="true">'


def test_document_forbids_every_request_and_escapes_its_title():
    made = page.document(HOSTILE, page.section("a", "A & B", "text"), page.contents({"a": "A & B"}))
    assert made.startswith("<!doctype html>") and "default-src 'none'" in made
    assert "<script" not in made and "A &amp; B" in made and 'href="#a"' in made
    assert "http" not in made.replace("http-equiv", ""), "no address of any kind"


def test_columns_of_numbers_are_flush_right_and_rows_have_headers():
    made = page.table(
        "Sizes", ["Name", "Bytes", "Note"], [["a", "1,200", "x"], ["b", page.ABSENT, HOSTILE]]
    )
    assert made.count('scope="row"') == 2 and made.count('scope="col"') == 3
    assert (
        '<td class="n">1,200</td><td>x</td>' in made
        and '<th class="n" scope="col">Bytes</th>' in made
    )
    assert "<caption>Sizes</caption>" in made and "<script" not in made


def test_total_row_is_marked():
    made = page.table("Sizes", ["Name", "Bytes"], [["a", "1"], ["Total", "1"]], total=True)
    assert (
        made.count('<tr class="total">') == 1 and '<tr class="total"><th scope="row">Total' in made
    )


def test_picture_is_data():
    assert page.picture(b"abc", "image/png", HOSTILE, small=True).startswith(
        '<img src="data:image/png;base64,YWJj" alt="&lt;script'
    )


def test_line_chart_draws_each_series_twice_and_names_it():
    series = {
        "one": [(i, 1 / (i + 1)) for i in range(100)],
        HOSTILE: [(i, 2.0) for i in range(100)],
    }
    made = page.line_chart("Loss", series, "step", "loss")
    assert (
        made.count("<polyline") == 4
        and made.count('class="s0 raw"') == 1
        and made.count('class="s1 mean"') == 1
    )
    assert ">one</text>" in made and "<script" not in made and "<title>Loss</title>" in made
    for value in re.findall(r"[\d.]+,([\d.]+)", " ".join(re.findall(r'points="([^"]*)"', made))):
        assert 0 <= float(value) <= 264, "inside the view box"


@pytest.mark.parametrize(
    "line",
    [[], [(0, float("nan"))], [(0, 0.0)], [(5, float("inf")), (6, -1.0)]],
    ids=["empty", "nan", "zero", "inf"],
)
def test_line_chart_says_when_there_is_nothing_to_draw(line):
    assert "nothing was recorded" in page.line_chart("Loss", {"one": line}, "step", "loss")


@pytest.mark.parametrize("line", [[(3, 0.5)], [(1, 0.5), (2, 0.5)]], ids=["one point", "constant"])
def test_line_chart_of_a_degenerate_line(line):
    assert "nan" not in page.line_chart("Loss", {"one": line}, "step", "loss")


def test_long_lines_are_thinned():
    made = page.line_chart("Loss", {"one": [(i, 1 + i) for i in range(10_000)]}, "step", "loss")
    assert len(made) < 40_000


def test_running_mean_is_smoother_and_keeps_a_constant():
    noisy = [(i, 1.0 if i % 2 else 4.0) for i in range(200)]
    assert max(y for _, y in page.running_mean(noisy)) < 2.7
    assert page.running_mean([(0, 3.0), (1, 3.0)]) == [
        (0, pytest.approx(3.0)),
        (1, pytest.approx(3.0)),
    ]


@pytest.mark.parametrize(
    "low, high, expected",
    [(0, 1500, [0, 500, 1000, 1500]), (0.2, 0.8, [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]), (3, 3, [3])],
)
def test_linear_ticks(low, high, expected):
    assert page.linear_ticks(low, high) == expected


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (0.01, 12, [0.01, 0.1, 1, 10]),
        (0.09, 1.1, [0.1, 0.2, 0.5, 1]),
        (0.21, 0.3, [0.22, 0.24, 0.26, 0.28, 0.3]),
    ],
)
def test_log_ticks(low, high, expected):
    assert page.log_ticks(low, high) == expected


def test_interval_bar_places_the_mean_and_clamps():
    assert 'cx="80.0"' in page.interval_bar(ESTIMATE, 0, 1, 0.125)
    assert 'x2="155.0"' in page.interval_bar({"mean": 0.5, "low": 0.4, "high": 7.0}, 0, 1)
    assert (
        page.interval_bar(None, 0, 1) == ""
        and page.interval_bar(ESTIMATE | {"mean": float("nan")}, 0, 1) == ""
    )


def test_numbers_carry_their_intervals():
    assert page.estimate_text(ESTIMATE, 2) == "0.50 [0.40, 0.60]"
    assert page.percent({"mean": -0.177, "low": -0.19, "high": -0.165}) == "−17.7 % [−19.0, −16.5]"
    assert page.percent(0.01) == "1.0 %" and page.number(-1.5, 1) == "−1.5"
    assert page.number(-0.00001) == "0.0000" and page.percent(-1e-9, signed=True) == "+0.0 %"
    assert (
        page.percent(None)
        == page.estimate_text(None)
        == page.number(float("nan"))
        == page.percent(float("nan"))
        == page.ABSENT
    )


@pytest.mark.parametrize(
    "count, expected",
    [(12, "12 B"), (12_345, "12.3 kB"), (5_000_000, "5.0 MB"), (7_100_000_000, "7.1 GB")],
)
def test_bytes_text(count, expected):
    assert page.bytes_text(count) == expected
