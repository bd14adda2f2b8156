"""Pictures of emoji: drawn once, kept while nothing of theirs changes, and rows with a reason."""

import os
from importlib.metadata import PackageNotFoundError

import pytest
from drawn_icons import CORNER, DISC, SQUARE, icon_files, package_of

from storage import emoji_drawing
from storage.emoji import Concept
from storage.emoji_drawing import draw_emoji, drawn_of
from storage.errors import SourceError
from storage.icon_sets import read_icon_set

CONCEPTS = [Concept(code, f"name of {code}", (), "g", "s") for code in ("1f600", "2639", "1f34e")]
ICONS = {"a": DISC, "b": SQUARE, "c": CORNER}
CHARS = {"1f600": "a", "2639": "b", "1f34e": "c"}


def drawn(folder, icons=ICONS, side=32, **more):
    package = package_of(folder, "icons", "1.0.0", icon_files(icons, CHARS))
    return draw_emoji(folder / "out", "noto", read_icon_set(package), CONCEPTS, side, **more)


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "out/noto").iterdir()}


def test_every_concept_is_a_file_called_by_its_code_points(tmp_path):
    told = []
    result = drawn(tmp_path, progress=lambda done, of: told.append((done, of)))
    assert files_of(tmp_path / "out") == ["noto/1f34e.png", "noto/1f600.png", "noto/2639.png"]
    assert result.kept == 0 and told == [(1, 3), (2, 3), (3, 3)]
    first = result.pictures[0]
    assert (first.style, first.concept, first.reason) == ("noto", CONCEPTS[0], None)
    assert (first.package, first.version) == ("icons", "1.0.0")
    assert (first.licence, first.author) == ("CC-BY-4.0", "A. Painter")
    assert first.source_url == "https://example.org/painter"
    assert len({picture.svg_sha256 for picture in result.pictures}) == 3


def test_the_author_of_a_picture_stands_before_the_sets(tmp_path):
    pictures = drawn(tmp_path, authors={"2639": "Ada Lovelace"}).pictures
    assert [one.author for one in pictures] == [
        "A. Painter", "Ada Lovelace, A. Painter", "A. Painter",
    ]  # fmt: skip


def test_what_lies_there_of_the_same_drawing_and_size_is_kept(tmp_path):
    first = drawn(tmp_path)
    before = times(tmp_path)
    again = drawn(tmp_path)
    assert again.kept == 3 and again.pictures == first.pictures and times(tmp_path) == before


def test_what_changed_is_drawn_again(tmp_path, monkeypatch):
    drawn(tmp_path)
    before = times(tmp_path)
    assert drawn(tmp_path, ICONS | {"b": DISC}).kept == 2
    assert {name for name, time in times(tmp_path).items() if time != before[name]} == {"2639.png"}
    assert drawn(tmp_path, ICONS | {"b": DISC}, side=48).kept == 0
    monkeypatch.setattr(emoji_drawing, "version", lambda package: "another")
    assert drawn(tmp_path, ICONS | {"b": DISC}, side=48).kept == 0


@pytest.mark.parametrize("data", [b"", b"\x89PNG", b"a picture of somebody's"])
def test_a_picture_that_is_cut_or_not_ours_is_drawn_again(tmp_path, data):
    drawn(tmp_path)
    path = tmp_path / "out/noto/2639.png"
    whole = path.read_bytes()
    path.write_bytes(data)
    assert drawn_of(path) is None
    path.write_bytes(whole[:-20])
    assert drawn_of(path) is None
    assert drawn(tmp_path).kept == 2 and path.read_bytes() == whole


def test_a_stop_in_the_middle_leaves_whole_pictures_and_the_rest_is_drawn_next_time(tmp_path):
    def stop(done, of):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawn(tmp_path, progress=stop)
    assert files_of(tmp_path / "out") == ["noto/1f600.png", "noto/2639.png"]
    assert drawn(tmp_path).kept == 2


@pytest.mark.parametrize(
    ("icon", "reason"),
    [
        ('<image href="/etc/passwd"/>', "an element image"),
        ("<g>", "no XML"),
        ({"width": 4}, "it has no drawing"),
        ("<g/>", "nothing to be seen in the drawing"),
        ('<circle r="4" opacity="0"/>', "nothing to be seen in the drawing"),
    ],
)
def test_what_cannot_be_drawn_is_a_row_with_a_reason_and_no_file(tmp_path, icon, reason):
    drawn(tmp_path)
    result = drawn(tmp_path, ICONS | {"b": icon})
    assert result.pictures[1].reason.startswith(reason)
    assert result.pictures[1].concept == CONCEPTS[1] and result.kept == 2
    assert files_of(tmp_path / "out") == ["noto/1f34e.png", "noto/1f600.png"], "the old one is gone"


def test_an_alias_of_nothing_is_a_row_with_a_reason(tmp_path):
    result = drawn(tmp_path, {"a": DISC, "b": SQUARE})
    assert [one.reason for one in result.pictures] == [None, None, "the set has no icon 'c'"]
    assert result.pictures[2].svg_sha256 is None


def test_a_picture_of_few_pixels_shows_something(tmp_path):
    dot = '<rect x="15" y="15" width="1" height="1"/>'
    assert drawn(tmp_path, ICONS | {"b": dot}).pictures[1].reason is None


def test_no_file_is_left_beside_the_pictures_where_writing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fdopen", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        drawn(tmp_path)
    monkeypatch.undo()
    assert files_of(tmp_path / "out") == []


def test_a_renderer_that_is_not_installed_is_told_with_a_cure(tmp_path, monkeypatch):
    def absent(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(emoji_drawing, "version", absent)
    with pytest.raises(SourceError, match="resvg-py: is not installed.*pip install resvg-py"):
        drawn(tmp_path)
