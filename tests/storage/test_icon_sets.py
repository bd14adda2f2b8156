"""Sets of icons: names by code points; an icon as SVG, turned and mirrored as its alias says."""

import zlib

import pytest
from drawn_icons import CORNER, DISC, INFO, icon_files, package_of

from storage.errors import SourceError
from storage.icon_sets import BadIcon, code_points_of, read_icon_set, svg_of
from storage.svg import Drawer


def icon_set(folder, files):
    return read_icon_set(package_of(folder, "icons", "1.0.0", files))


def test_a_set_says_its_licence_its_author_and_its_names(tmp_path):
    icons = icon_set(tmp_path, icon_files({"a": DISC}, {"1F468-200D-2695-FE0F": "a", "2639": "a"}))
    assert icons.names == {"1f468-200d-2695": "a", "2639": "a"}
    said = (icons.licence, icons.author, icons.source_url)
    assert said == ("CC-BY-4.0", "A. Painter", "https://example.org/painter")


def test_a_licence_without_an_spdx_name_is_its_title(tmp_path):
    files = icon_files({"a": DISC}, {}) | {"info.json": INFO | {"license": {"title": "Mine"}}}
    assert icon_set(tmp_path, files).licence == "Mine"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"info.json": {}}, "info.json: states no licence"),
        ({"info.json": []}, "info.json: states no licence"),
        ({"info.json": INFO | {"license": {"spdx": 5, "title": "a\nb"}}}, "states no licence"),
        ({"info.json": INFO | {"author": {"url": "x"}}}, "states no author"),
        ({"info.json": INFO | {"author": {"name": "x"}}}, "states no source_url"),
        ({"info.json": "{"}, "info.json: is not JSON"),
        ({"icons.json": []}, "icons.json: is no object"),
        ({"icons.json": {}}, "icons.json: icons: is no object"),
        ({"icons.json": {"icons": {}, "aliases": 1}}, "aliases: is no object"),
        ({"icons.json": "[" * 100_000}, "icons.json: is not JSON"),
        ({"chars.json": []}, "chars.json: is no object"),
        ({"chars.json": {"../x": "a"}}, "no code points: '../x'"),
    ],
)
def test_a_set_that_is_laid_out_otherwise_is_refused_by_its_place(tmp_path, change, told):
    with pytest.raises(SourceError, match=f"icons-1.0.0.tgz, .*{told}"):
        icon_set(tmp_path, icon_files({"a": DISC}, {}) | change)


@pytest.mark.parametrize(
    "text", ["", "-", "fe0f", "1f600.png", "../a", "1f600-", "x" * 5, "1" * 99]
)
def test_what_is_no_code_points_is_refused(text):
    with pytest.raises(ValueError, match="no code points"):
        code_points_of(text)


# An icon as SVG


def pixels_of(svg, side=16):
    """Where a drawing is opaque, as a set of (x, y) of the four quarters' middles."""
    with Drawer() as drawer:
        png = drawer.draw(svg, side)
    place, packed = 8, b""
    while place < len(png):
        length = int.from_bytes(png[place : place + 4], "big")
        if png[place + 4 : place + 8] == b"IDAT":
            packed += png[place + 8 : place + 8 + length]
        place += 12 + length
    raw, rows = zlib.decompress(packed), []
    for y in range(side):
        line = bytearray(raw[y * (4 * side + 1) : (y + 1) * (4 * side + 1)])
        rows.append(unfiltered(line, rows[-1] if rows else bytes(4 * side)))
    return {(x, y) for y in range(side) for x in range(side) if rows[y][4 * x + 3] == 255}


def unfiltered(line, above):
    """A row of RGBA without PNG's filter (PNG 1.2, chapter 6)."""
    kind, row = line[0], line[1:]
    for i in range(len(row)):
        left, up = row[i - 4] if i >= 4 else 0, above[i]
        corner = above[i - 4] if i >= 4 else 0
        guess = min((left, up, corner), key=lambda one: abs(left + up - corner - one))
        row[i] = (row[i] + (0, left, up, (left + up) // 2, guess)[kind]) % 256
    return bytes(row)


QUARTERS = {
    "upper left": (4, 4),
    "upper right": (11, 4),
    "lower right": (11, 11),
    "lower left": (4, 11),
}


def quarter_of(svg):
    """Which quarter a drawing fills."""
    opaque = pixels_of(svg)
    return [name for name, place in QUARTERS.items() if place in opaque]


@pytest.mark.parametrize(
    ("turned", "quarter"),
    [
        ({}, "upper left"),
        ({"rotate": 1}, "upper right"),
        ({"rotate": 2}, "lower right"),
        ({"rotate": 3}, "lower left"),
        ({"rotate": -1}, "lower left"),
        ({"hFlip": True}, "upper right"),
        ({"vFlip": True}, "lower left"),
        ({"hFlip": True, "vFlip": True}, "lower right"),
        ({"hFlip": True, "rotate": 1}, "lower right"),
    ],
)
def test_an_alias_is_turned_and_mirrored(tmp_path, turned, quarter):
    files = icon_files({"a": CORNER}, {}, aliases={"b": {"parent": "a"} | turned})
    assert quarter_of(svg_of(icon_set(tmp_path, files), "b")) == [quarter]


def test_the_turns_of_aliases_of_aliases_are_added_and_mirrorings_cancel_out(tmp_path):
    aliases = {
        "b": {"parent": "a", "rotate": 1, "hFlip": True},
        "c": {"parent": "b", "rotate": 3, "hFlip": True},
        "d": {"parent": "c", "rotate": 1},
    }
    icons = icon_set(tmp_path, icon_files({"a": CORNER}, {}, aliases=aliases))
    assert svg_of(icons, "c") == svg_of(icons, "a")
    assert quarter_of(svg_of(icons, "d")) == ["upper right"]


def test_an_icon_that_is_not_square_is_in_the_middle_of_a_square(tmp_path):
    wide = {"body": '<rect x="2" y="1" width="16" height="4"/>', "left": 2, "top": 1, "height": 4}
    icons = icon_set(tmp_path, icon_files({"a": wide}, {}))
    opaque = pixels_of(svg_of(icons, "a"))
    assert opaque == {(x, y) for x in range(16) for y in range(6, 10)}


@pytest.mark.parametrize(
    ("icon", "told"),
    [
        ({}, "no drawing"), ({"body": 5}, "no drawing"), ({"body": " "}, "no drawing"),
        ({"body": DISC, "width": 0}, "its box is 0 x 16"),
        ({"body": DISC, "height": -1}, "its box is 16 x -1"),
        ({"body": DISC, "width": "1"}, "its width is 1"),
        ({"body": DISC, "left": 1e300}, "its left is"),
        ({"body": DISC, "top": float("nan")}, "its top is nan"),
        ({"body": DISC, "top": True}, "its top is True"),
        ({"body": DISC, "rotate": "x" * 999}, "it is turned by x{40} quarters"),
        ("no object", "no drawing|no icon"),
    ],
)  # fmt: skip
def test_an_icon_that_is_none_says_why(tmp_path, icon, told):
    files = icon_files({}, {})
    files["icons.json"]["icons"]["a"] = icon
    with pytest.raises(BadIcon, match=told):
        svg_of(icon_set(tmp_path, files), "a")


def test_aliases_in_a_circle_or_of_nothing_are_refused(tmp_path):
    aliases = {"b": {"parent": "c"}, "c": {"parent": "b"}, "d": {"parent": "e"}, "f": {}}
    icons = icon_set(tmp_path, icon_files({}, {}, aliases=aliases))
    with pytest.raises(BadIcon, match="or of itself"):
        svg_of(icons, "b")
    for name in ("d", "f", "nowhere"):
        with pytest.raises(BadIcon, match="has no icon"):
            svg_of(icons, name)
