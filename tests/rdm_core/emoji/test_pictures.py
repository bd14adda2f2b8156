"""Emoji as arrays: on white, with their texts, and apart by what may be learned from."""

import json

import numpy as np
import pytest
from PIL import Image

from rdm_core.emoji.pictures import read_pictures
from rdm_core.errors import RequestError

ROW = {"group": "food-drink", "subgroup": "food-fruit", "reason": None, "split": "known"}


def folder_with(folder, rows):
    """A table and its pictures: a red square in the upper left quarter of nothing."""
    for row in rows:
        image = Image.new("RGBA", (32, 32))
        image.paste((255, 0, 0, 255), (0, 0, 16, 16))
        (folder / row["style"]).mkdir(parents=True, exist_ok=True)
        image.save(folder / row["style"] / f"{row['code_points']}.png")
    (folder / "emoji.json").write_text(json.dumps({"pictures": [ROW | row for row in rows]}))
    return folder


def rows_of(*styles):
    rows = []
    for style in styles:
        for name, code_points, split in (("red apple", "1f34e", "known"), ("pear", "1f350", "h")):
            split = "held out" if split == "h" else split
            keywords = ["fruit", name]
            rows.append({
                "style": style, "code_points": code_points, "name": name, "keywords": keywords,
                "split": split,
            })  # fmt: skip
    return rows


def test_pictures_lie_on_white_with_their_texts(tmp_path):
    found = read_pictures([folder_with(tmp_path, rows_of("noto"))], 16)
    assert found.pixels.shape == (2, 16, 16, 3) and found.pixels.dtype == np.uint8
    assert tuple(found.pixels[0, 2, 2]) == (255, 0, 0)
    assert tuple(found.pixels[0, 12, 12]) == (255, 255, 255)
    assert found.texts[0] == ("red apple", "fruit")
    assert found.groups[0] == ("food-drink", "food-fruit")
    assert found.held_out.tolist() == [False, True]


def test_a_training_sees_neither_held_out_concepts_nor_the_style_for_databases(tmp_path):
    found = read_pictures([folder_with(tmp_path, rows_of("noto", "openmoji", "fluent"))], 16)
    shown = found.for_training()
    assert len(found) == 6 and len(shown) == 2
    assert shown.styles == ["noto", "fluent"] and shown.concepts == ["1f34e", "1f34e"]


def test_what_could_not_be_drawn_is_left_out(tmp_path):
    rows = rows_of("noto")
    folder = folder_with(tmp_path, rows)
    rows[0] = rows[0] | {"reason": "an element image"}
    (folder / "emoji.json").write_text(json.dumps({"pictures": [ROW | row for row in rows]}))
    assert read_pictures([folder], 16).concepts == ["1f350"]


def test_several_folders_are_read_one_after_the_other(tmp_path):
    first = folder_with(tmp_path / "a", rows_of("noto"))
    second = folder_with(tmp_path / "b", rows_of("emojione"))
    styles = read_pictures([first, second], 16).styles
    assert styles == ["noto", "noto", "emojione", "emojione"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read.*Run `rdm acquire emoji`"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"pictures": [{"style": "noto"}]}', "does not say what is held out.*what is drawn is"),
        ('{"pictures": []}', "none are in"),
    ],
)
def test_a_folder_without_a_table_that_can_be_used_is_told(tmp_path, content, told):
    if content is not None:
        (tmp_path / "emoji.json").write_text(content)
    with pytest.raises(RequestError, match=told):
        read_pictures([tmp_path], 16)
