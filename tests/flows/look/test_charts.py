"""A small chart, read back whole: every line, tick, label and curve is where its numbers say."""

import pytest
from markup import read

from flows.look import page

LEFT, RIGHT, TOP, BOTTOM = 46, 460, 10, 222
"""Edges of the plot inside the picture of 480 x 264."""
SERIES = {"with neighbors": [(0, 1.0), (10, 10.0), (20, 100.0)]}
"""Two powers of ten over twenty steps: 106 pixels a power, 20.7 a step."""
ESTIMATE = {"mean": 0.5, "low": 0.4, "high": 0.6}


def chart(series=None, x_label="step", y_label="loss"):
    """The figure and, inside it, the drawing."""
    figure = read(page.line_chart("Held-out loss", series or SERIES, x_label, y_label)).inside[0]
    return figure, next(figure.every("svg"))


def lines(drawing, class_):
    """Ends of the lines of a class: x1, y1, x2, y2."""
    found = drawing.of_class("line", class_)
    return {one.numbers("x1", "y1", "x2", "y2") for one in found}


def texts(drawing):
    """What is written, where, and which end of it stands there."""
    written = []
    for text in drawing.every("text"):
        written.append((text.text, *text.numbers("x", "y"), text.attributes["text-anchor"]))
    return sorted(written)


def curves(drawing):
    """class -> its points."""
    points_of = {}
    for curve in drawing.every("polyline"):
        points = []
        for point in curve.attributes["points"].split():
            x, y = point.split(",")
            points.append((float(x), float(y)))
        points_of[curve.attributes["class"]] = points
    return points_of


def test_a_figure_is_a_caption_above_one_drawing_that_says_in_words_what_it_shows():
    figure, drawing = chart()
    assert figure.tag == "figure" and [one.tag for one in figure.inside] == ["figcaption", "svg"]
    assert figure.inside[0].text == "Held-out loss (logarithmic; strong: running mean)"
    assert figure.texts("strong") == ["Held-out loss"]
    assert drawing.attributes == {
        "viewbox": "0 0 480 264",
        "role": "img",
        "aria-label": "Held-out loss: loss over step for with neighbors",
    }
    assert drawing.texts("title") == ["Held-out loss"]


def test_the_axes_have_a_rule_at_every_power_of_ten_and_a_tick_at_every_round_step():
    _, drawing = chart()
    rules = {(LEFT, y, RIGHT, y) for y in (BOTTOM, 116, TOP)}
    ticks = {(x, BOTTOM, x, BOTTOM + 5) for x in (46, 149.5, 253, 356.5, 460)}
    assert lines(drawing, "axis") == rules | ticks


def test_every_rule_tick_and_axis_is_labelled_beside_it():
    _, drawing = chart()
    values = [("1", 40, 226, "end"), ("10", 40, 120, "end"), ("100", 40, 14, "end")]
    places = {"0": 46, "5": 149.5, "10": 253, "15": 356.5, "20": 460}
    steps = [(text, x, BOTTOM + 18, "middle") for text, x in places.items()]
    names = [("step", 253, 258, "middle"), ("with neighbors", RIGHT - 34, 24, "end")]
    assert texts(drawing) == sorted(values + steps + names)


def test_a_series_is_drawn_as_measured_and_as_the_geometric_mean_of_three_neighboring_points():
    _, drawing = chart()
    assert curves(drawing) == {
        "s0 raw": [(46, 222), (253, 116), (460, 10)],
        "s0 mean": [(46, 169), (253, 116), (460, 63)],
    }


def test_series_share_the_axes_and_take_four_looks_in_turn_each_named_beside_its_key():
    flat = {name: [(1, 2.0 + i), (3, 2.0 + i)] for i, name in enumerate("abcde")}
    _, drawing = chart(flat, "images seen", "share")
    assert (
        drawing.attributes["aria-label"]
        == "Held-out loss: share over images seen for a, b, c, d, e"
    )
    looks = [one.attributes["class"] for one in drawing.every("polyline")]
    assert looks == [f"s{i} {how}" for how in ("raw", "mean") for i in (0, 1, 2, 3, 0)]
    heights = [20, 38, 56, 74, 92]
    keys = [one for one in drawing.every("line") if one.attributes["class"].endswith("key")]
    assert [one.attributes["class"] for one in keys] == [f"s{i} key" for i in (0, 1, 2, 3, 0)]
    assert [one.numbers("x1", "y1", "x2", "y2") for one in keys] == [
        (432, y, 460, y) for y in heights
    ]
    named = [(name, 426, y + 4, "end") for name, y in zip("abcde", heights, strict=True)]
    assert {*named, ("images seen", 253, 258, "middle")} <= set(texts(drawing))
    lowest, highest = curves(drawing)["s0 raw"], curves(drawing)["s3 raw"]
    assert lowest == [(46, 10), (460, 10)], "the last of the first look is the largest of all"
    assert highest == [(46, 45.2), (460, 45.2)], "log(5 / 2) of log(6 / 2) of the height"


def test_one_point_stands_at_the_left_in_the_middle_of_the_height():
    _, drawing = chart({"one": [(7, 3.0)]})
    assert curves(drawing) == {"s0 raw": [(46, 116)], "s0 mean": [(46, 116)]}
    assert (46, BOTTOM, 46, BOTTOM + 5) in lines(drawing, "axis")
    assert ("7", 46, BOTTOM + 18, "middle") in texts(drawing)


def test_what_has_no_logarithm_is_left_out_and_stretches_no_axis():
    broken = [(-5, 0.0), (0, 1.0), (20, 100.0), (90, float("nan")), (99, -1.0)]
    _, drawing = chart({"one": [*broken, (200, float("inf"))]})
    assert curves(drawing)["s0 raw"] == [(46, 222), (460, 10)]


def test_a_tick_is_written_with_commas_and_without_an_exponent():
    _, drawing = chart({"one": [(0, 1.0), (20_000, 10.0)]})
    assert {"5,000", "10,000", "15,000", "20,000"} <= {text for text, *_ in texts(drawing)}


@pytest.mark.parametrize(
    ("points", "drawn"), [(499, 499), (500, 500), (501, 251), (1000, 500), (1001, 334)]
)
def test_no_more_than_five_hundred_points_are_drawn_evenly(points, drawn):
    _, drawing = chart({"one": [(i, 1.0 + i) for i in range(points)]})
    assert {len(curve) for curve in curves(drawing).values()} == {drawn}


# Ticks


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 6, [0, 1, 2, 3, 4, 5, 6]),
        (0, 7, [0, 2, 4, 6]),
        (0, 12, [0, 2, 4, 6, 8, 10, 12]),
        (0, 13, [0, 5, 10]),
        (0, 30, [0, 5, 10, 15, 20, 25, 30]),
        (0, 31, [0, 10, 20, 30]),
        (0, 60, [0, 10, 20, 30, 40, 50, 60]),
        (0, 61, [0, 20, 40, 60]),
        (-3, 3, [-3, -2, -1, 0, 1, 2, 3]),
        (0.15, 0.45, [0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45]),
        (1400, 1400, [1400]),
        (5, 4, [5]),
    ],
)
def test_ticks_are_one_two_or_five_times_a_power_of_ten_apart_and_at_most_seven(low, high, ticks):
    assert page.linear_ticks(low, high) == ticks


def test_fewer_ticks_are_made_where_fewer_are_wanted():
    assert page.linear_ticks(0, 6, most=2) == [0, 5]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1, 100, [1, 10, 100]),
        (1, 99, [1, 2, 5, 10, 20, 50]),
        (2, 10, [2, 5, 10]),
        (2, 9, [2, 4, 6, 8]),
        (0.001, 0.1, [0.001, 0.01, 0.1]),
        (0.5, 5, [0.5, 1, 2, 5]),
    ],
)
def test_ticks_of_a_logarithm_are_at_least_three_of_the_roundest_there_are(low, high, ticks):
    assert page.log_ticks(low, high) == ticks


# A running mean


def test_a_running_mean_is_over_a_twentieth_of_the_points_on_both_sides_together():
    line = [(i, 10.0 if i == 50 else 1.0) for i in range(100)]
    raised = [x for x, y in page.running_mean(line) if y > 1]
    assert raised == [48, 49, 50, 51, 52], "2 points on either side, of 100"
    assert page.running_mean(line)[50] == (50, pytest.approx(10 ** (1 / 5)))
    assert [x for x, y in page.running_mean(line, share=0.1) if y > 1] == list(range(45, 56))


def test_at_the_ends_a_running_mean_is_over_what_there_is():
    assert page.running_mean([(0, 1.0), (1, 4.0), (2, 2.0)]) == [
        (0, pytest.approx(2)), (1, pytest.approx(2)), (2, pytest.approx(8**0.5)),
    ]  # fmt: skip


# The bar of one cell


def test_an_interval_is_a_whisker_with_a_dot_over_an_axis_and_a_mark_at_the_reference():
    drawing = read(page.interval_bar(ESTIMATE, 0, 1, 0.25)).inside[0]
    assert drawing.tag == "svg"
    assert drawing.attributes == {"viewbox": "0 0 160 18", "class": "bar", "aria-hidden": "true"}
    assert lines(drawing, "axis") == {(5, 9, 155, 9)}
    assert lines(drawing, "reference") == {(42.5, 1, 42.5, 17)}
    assert lines(drawing, "whisker") == {(65, 9, 95, 9)}
    (dot,) = drawing.every("circle")
    assert dot.numbers("cx", "cy", "r") == (80, 9, 4) and dot.attributes["class"] == "dot"
    assert len(drawing.inside) == 4


def test_a_bar_lies_between_the_limits_that_its_table_has():
    drawing = read(page.interval_bar(ESTIMATE, 0.3, 0.7, 0.1)).inside[0]
    assert lines(drawing, "whisker") == {(42.5, 9, 117.5, 9)}
    assert lines(drawing, "reference") == {(5, 1, 5, 17)}, "at the edge: it is outside"


@pytest.mark.parametrize("reference", [None, float("nan"), float("inf")])
def test_without_a_finite_reference_there_is_no_mark(reference):
    drawing = read(page.interval_bar(ESTIMATE, 0, 1, reference)).inside[0]
    assert not lines(drawing, "reference") and len(drawing.inside) == 3


@pytest.mark.parametrize(
    ("estimate", "low", "high"),
    [
        ({}, 0, 1),
        (ESTIMATE | {"low": float("nan")}, 0, 1),
        (ESTIMATE | {"high": float("inf")}, 0, 1),
        (ESTIMATE, 1, 1),
        (ESTIMATE, 1, 0),
    ],
)
def test_without_an_interval_or_room_for_one_there_is_no_bar(estimate, low, high):
    assert page.interval_bar(estimate, low, high) == ""
