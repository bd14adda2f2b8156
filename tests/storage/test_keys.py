"""Keys: made, taken apart and told from other texts in one place."""

import re
from pathlib import Path

import pytest

import flows
import rdm_core
import storage
from storage.keys import is_key, key_of, source_key_of

AWKWARD_IDS = [
    "Cubism/juan-gris_bottle.jpg",
    "Cubism/juan-gris-bottle.jpg",
    "Cubism-juan-gris-bottle-jpg",
    "a b",
    "a.b",
    "a/b",
    "日本語.png",
    "中文.png",
    "caf\u00e9.jpg",
    "cafe.jpg",
    "x" * 64,
    "x" * 65,
    "x" * 66,
    "../../etc/passwd",
    "new\nline",
    "nul\0byte",
    "bad\udce9byte",
    "lone\ud800surrogate",
    ".",
    " ",
]


def test_a_plain_id_stays_literal_in_the_key():
    assert key_of("coco", "000000000139", 0) == "coco-000000000139-00"
    assert key_of("openimages", "001ad258e358b14a", 7) == "openimages-001ad258e358b14a-07"
    assert key_of("folder", "x" * 64, 123) == f"folder-{'x' * 64}-123"


def test_a_key_is_the_same_on_every_machine():
    """Literal values: if one changes, every key of every artifact out there changes."""
    assert (
        key_of("wikiart", "Cubism/juan-gris_bottle.jpg", 0)
        == "wikiart-Cubism-juan-gris_bottle-jpg-7f8b5b91f901-00"
    )
    assert key_of("folder", "日本語.png", 1).startswith("folder-png-")


@pytest.mark.parametrize("source_id", AWKWARD_IDS)
def test_a_key_holds_only_characters_a_tar_member_can(source_id):
    key = key_of("folder", source_id, 3)
    assert re.fullmatch(r"folder-[A-Za-z0-9_-]{1,77}-03", key), key


def test_keys_of_different_images_and_crops_differ():
    keys = set()
    for source_id in AWKWARD_IDS:
        for crop in (0, 1, 99, 100):
            keys.add(key_of("folder", source_id, crop))
    assert len(keys) == len(AWKWARD_IDS) * 4


@pytest.mark.parametrize(
    ("dataset", "source_id", "crop"),
    [("my-set", "a", 0), ("", "a", 0), ("coco", "", 0), ("coco", "a", -1)],
)
def test_a_key_of_nonsense_is_refused(dataset, source_id, crop):
    with pytest.raises(ValueError, match="no key for dataset"):
        key_of(dataset, source_id, crop)


@pytest.mark.parametrize("source_id", AWKWARD_IDS)
@pytest.mark.parametrize("crop", [0, 7, 100])
def test_the_source_key_is_that_of_every_crop_and_of_no_other_image(source_id, crop):
    key = key_of("folder", source_id, crop)
    assert source_key_of(key) == source_key_of(key_of("folder", source_id, 0))
    source_keys = {source_key_of(key_of("folder", other, crop)) for other in AWKWARD_IDS}
    assert len(source_keys) == len(AWKWARD_IDS)
    assert is_key(key) and is_key(source_key_of(key))


@pytest.mark.parametrize("text", ["", "a b", "a;b", "a/b", "a.jpg", "caf\u00e9", "a\n", '"a-00"'])
def test_what_holds_anything_else_is_no_key(text):
    assert not is_key(text)


ELSEWHERE = re.compile(r"\bkey\w*(\(.*\))?\.r?(split|partition)\(\"-\"|-00\b|-\{crop")
"""What taking a key apart, or joining one, looks like."""


@pytest.mark.parametrize(
    "line", ['key.rsplit("-", 1)', 'key_of(a, b).partition("-")', 'f"{source}-00"', 'f"a-{crop}"']
)
def test_what_that_looks_like_is_known(line):
    assert ELSEWHERE.search(line)


def test_nothing_else_takes_a_key_apart_or_joins_one():
    for package in (flows, rdm_core, storage):
        for path in Path(package.__file__).parent.rglob("*.py"):
            for line in path.read_text(encoding="utf-8").split("\n"):
                assert path.name == "keys.py" or not ELSEWHERE.search(line), f"{path}: {line}"
