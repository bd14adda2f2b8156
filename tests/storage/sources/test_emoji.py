"""Reading emoji as they were acquired."""

import json

import pytest
from listings import ids_of, images_by_id, with_files

from storage.emoji import Concept, Picture, concept_is_held_out, write_table
from storage.errors import SourceError
from storage.keys import key_of
from storage.npm import Package
from storage.sources import read_emoji
from storage.sources.emoji import CONCEPTS

KNOWN, HELD_OUT = "1f600", "2712"
NAMES = {KNOWN: ("grinning face", ("grin", "smile")), HELD_OUT: ("black nib", ())}


def picture(style, code_points, reason=None):
    name, keywords = NAMES[code_points]
    concept = Concept(code_points, name, keywords, "food-drink", "food-fruit")
    licence = "MIT" if style == "fluent" else "CC-BY-SA-4.0"
    return Picture(
        style, concept, licence, f"who drew {style}", "https://example.org", "@x/icons", "1.2.3",
        None if reason else "0" * 64, reason,
    )  # fmt: skip


@pytest.fixture
def root(tmp_path, request):
    """Two styles of two concepts, one of which could not be drawn in one style."""
    pictures = [picture("fluent", KNOWN), picture("fluent", HELD_OUT), picture("openmoji", KNOWN)]
    pictures.append(picture("openmoji", HELD_OUT, "an element image"))
    for one in pictures:
        path = tmp_path / one.style / f"{one.concept.code_points}.png"
        path.parent.mkdir(exist_ok=True)
        if one.reason is None:
            path.write_bytes(b"png")
    package = Package("@x/icons", "1.2.3", tmp_path / "p.tgz", "sha512-x")
    write_table(tmp_path, pictures, [package], 64)
    return tmp_path


def change_table(root, change):
    table = json.loads((root / "emoji.json").read_text())
    change(table)
    (root / "emoji.json").write_text(json.dumps(table))


def test_a_picture_has_all_that_its_set_says_of_it(root):
    image = images_by_id(read_emoji(root))["fluent-1f600"]
    assert key_of(image.dataset, image.source_id, 0) == "emoji-fluent-1f600-00"
    assert image.path == root / "fluent/1f600.png" and image.stamp[0] == 3
    assert image.captions == ("grinning face", "grin", "smile")
    assert image.labels == ("group=food-drink", "subgroup=food-fruit")
    assert (image.style, image.licence, image.author) == ("fluent", "MIT", "who drew fluent")
    assert (image.source_url, image.split) == ("https://example.org", "known")


def test_a_picture_that_could_not_be_drawn_is_a_row_with_its_reason(root):
    listing = read_emoji(root)
    image = images_by_id(listing)["openmoji-2712"]
    assert image.path is None and image.reason == "could not be drawn: an element image"
    assert not image.is_absent and listing.notes == {"without_picture": 1}
    assert len(with_files(listing)) == 3


@pytest.mark.parametrize(
    ("style", "ids"),
    [
        ("fluent", ["fluent-1f600", "fluent-2712"]),
        ("openmoji", ["openmoji-1f600", "openmoji-2712"]),
        ("openmoji, fluent", ["fluent-1f600", "fluent-2712", "openmoji-1f600", "openmoji-2712"]),
    ],
)
def test_styles_are_asked_for_by_name(root, style, ids):
    assert ids_of(read_emoji(root, style=style)) == ids


def test_a_style_that_the_table_does_not_hold_is_refused_with_those_that_it_holds(root):
    with pytest.raises(SourceError, match="no style 'noto'. Ask for some of fluent, openmoji, or"):
        read_emoji(root, style="fluent,noto")


def test_held_out_concepts_are_the_same_in_every_style(root):
    assert concept_is_held_out(HELD_OUT) and not concept_is_held_out(KNOWN)
    assert ids_of(read_emoji(root, concepts="known")) == ["fluent-1f600", "openmoji-1f600"]
    held_out = read_emoji(root, concepts="held out")
    assert ids_of(held_out) == ["fluent-2712", "openmoji-2712"]
    assert {image.split for image in held_out.images} == {"held out"}
    with pytest.raises(ValueError, match="concepts is 'new', must be one of"):
        read_emoji(root, concepts="new")


def test_the_groups_of_concepts_of_the_parameters_are_the_readers():
    from typing import get_args

    from flows.config.images import ConceptGroup

    assert get_args(ConceptGroup) == CONCEPTS


def test_nothing_of_what_is_asked_for_is_an_error(root):
    change_table(root, lambda table: table["pictures"].pop(1) and table["pictures"].pop(2))
    with pytest.raises(SourceError, match="lists no pictures of concepts=held out in style=all"):
        read_emoji(root, concepts="held out")


def test_files_that_are_gone_are_rows_and_files_that_no_row_names_are_counted(root):
    (root / "fluent/1f600.png").rename(root / "fluent/1f601.png")
    listing = read_emoji(root)
    image = images_by_id(listing)["fluent-1f600"]
    assert image.is_absent and "emoji.json" in image.reason
    assert listing.notes == {
        "files_not_in_the_table": 1, "listed_but_absent": 1, "without_picture": 2,
    }  # fmt: skip
    for file in (root / "openmoji").iterdir():
        file.unlink()
    (root / "openmoji").rmdir()
    assert images_by_id(read_emoji(root))["openmoji-1f600"].is_absent


def test_a_link_out_of_the_folder_is_not_read(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "a.png"
    elsewhere.write_bytes(b"secret")
    (root / "fluent/1f600.png").unlink()
    (root / "fluent/1f600.png").symlink_to(elsewhere)
    image = images_by_id(read_emoji(root))["fluent-1f600"]
    assert image.path is None and image.reason == "links outside the folder"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"style": "../fluent"}, r"names '\.\./fluent'"),
        ({"style": "fluent/x"}, "names 'fluent/x'"),
        ({"code_points": "../../x"}, "names 'fluent', '../../x'"),
        ({"code_points": "1F600"}, "names 'fluent', '1F600'"),
        ({"code_points": 5}, "has no code_points"),
        ({"name": ""}, "has no name"),
        ({"name": "a\nb"}, "has no name"),
        ({"licence": None}, "has no licence"),
        ({"author": "x" * 301}, "has no author"),
        ({"keywords": "grin"}, "has no list of keywords"),
        ({"keywords": ["x"] * 101}, "has no list of keywords"),
        ({"keywords": [None]}, "has a keyword that is no text"),
        ({"source_url": 5}, "has a source_url that is no text"),
        ({"reason": ""}, "has a reason that is no text"),
        ({"code_points": "2712"}, "is there twice"),
    ],
)
def test_a_row_that_was_not_written_here_is_refused(root, change, told):
    change_table(root, lambda table: table["pictures"][0].update(change))
    with pytest.raises(SourceError, match=f"1 of 4 rows are damaged, first picture [12] {told}"):
        read_emoji(root)


def test_one_damaged_row_in_many_is_left_out_and_counted(root):
    def many(table):
        for number in range(100):
            table["pictures"].append(
                table["pictures"][0] | {"code_points": f"{0x1F300 + number:x}"}
            )
        table["pictures"].append(5)

    change_table(root, many)
    listing = read_emoji(root)
    assert listing.notes["table_rows_damaged"] == 1 and len(listing.images) == 104


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "this file is empty"), ("{", "is not JSON"), ("[]", "no table of emoji of format 1"),
        ('{"format": 2}', "no table of emoji of format 1"), ('{"format": 1}', "lists no pictures"),
        ('{"format": 1, "pictures": []}', "lists no pictures"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_refused_with_the_cure(root, content, told):
    (root / "emoji.json").write_text(content)
    with pytest.raises(SourceError, match=rf"emoji\.json: .*{told}.*rdm acquire emoji"):
        read_emoji(root)


def test_another_folder_is_told_what_it_looks_like(tmp_path):
    (tmp_path / "val2017").mkdir()
    with pytest.raises(SourceError, match="not laid out as emoji; .*This looks like coco: read it"):
        read_emoji(tmp_path)


def test_the_root_of_this_project_is_refused(root):
    with pytest.raises(SourceError, match="is the root, where this project keeps"):
        read_emoji(root, ours=root)
