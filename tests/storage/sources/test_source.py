"""Keys, ids and listings, whatever the data set."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from storage.errors import SourceError
from storage.sources import SOURCES, SourceImage, key_of
from storage.sources.source import absent, listing_of, readable, snapshot_of, source_id_of

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
    keys = {
        key_of("folder", source_id, crop) for source_id in AWKWARD_IDS for crop in (0, 1, 99, 100)
    }
    assert len(keys) == len(AWKWARD_IDS) * 4


@pytest.mark.parametrize(
    ("dataset", "source_id", "crop"),
    [("my-set", "a", 0), ("", "a", 0), ("coco", "", 0), ("coco", "a", -1)],
)
def test_a_key_of_nonsense_is_refused(dataset, source_id, crop):
    with pytest.raises(ValueError, match="no key for dataset"):
        key_of(dataset, source_id, crop)


def test_an_id_is_the_same_composed_or_decomposed():
    assert source_id_of("cafe\u0301.jpg") == source_id_of("caf\u00e9.jpg") == "caf\u00e9.jpg"


def test_undecodable_bytes_become_storable_text():
    assert source_id_of("bad\udce9byte.jpg") == "bad\\xe9byte.jpg"
    assert readable("lone\ud800") == "lone\\ud800"
    source_id_of("bad\udce9byte.jpg").encode("utf-8")


def test_an_image_has_a_path_or_a_reason_and_never_both():
    with pytest.raises(ValueError, match="path or a reason"):
        SourceImage("coco", "1", None)
    with pytest.raises(ValueError, match="path or a reason"):
        SourceImage("coco", "1", Path("a.jpg"), reason="absent")


def test_an_image_that_is_listed_only_is_absent_and_one_that_must_not_be_read_is_not():
    assert SourceImage("coco", "1", None, reason=absent("a.json", "val2017/1.jpg")).is_absent
    assert not SourceImage("coco", "1", None, reason="a broken link: absent").is_absent
    assert not SourceImage("coco", "1", Path("is absent")).is_absent


def test_a_listing_is_sorted_and_drops_zero_counts():
    images = [SourceImage("coco", name, Path(name)) for name in ("b", "a", "c")]
    listing = listing_of(Path(), images, {"zero": 0, "one": 1})
    assert [image.source_id for image in listing.images] == ["a", "b", "c"]
    assert listing.notes == {"one": 1}


def test_two_images_of_one_id_are_both_kept_whichever_comes_first():
    x, y = (SourceImage("coco", "a", Path(f"r/{place}/a.jpg")) for place in "xy")
    gone = SourceImage("coco", "a", None, reason="gone")
    listing = listing_of(Path("r"), [x, y, gone], {})
    assert listing == listing_of(Path("r"), [gone, y, x], {})
    assert listing.notes == {"ids_claimed_twice": 2}
    first, *others = listing.images
    assert (first.source_id, first.path) == ("a", x.path), "a file, and the first by name"
    assert {image.path for image in others} == {y.path, None}
    assert all(re.fullmatch("a~[0-9a-f]{8}", image.source_id) for image in others)
    elsewhere = SourceImage("coco", "a", Path("other/y/a.jpg"))
    moved = listing_of(
        Path("other"), [SourceImage("coco", "a", Path("other/x/a.jpg")), elsewhere, gone], {}
    )
    assert [image.source_id for image in moved.images] == [
        image.source_id for image in listing.images
    ]


def test_the_snapshot_changes_with_all_that_is_known_of_an_image_but_its_place():
    image = SourceImage("coco", "a", Path("x/a.jpg"), ("caption",), ("label",), stamp=(1, 2))
    before = snapshot_of([image])
    assert before == snapshot_of([replace(image, path=Path("y/a.jpg"))])
    changes = [
        {"source_id": "b"},
        {"stamp": (1, 3)},
        {"stamp": (2, 2)},
        {"captions": ()},
        {"labels": ("l",)},
        {"style": "s"},
        {"author": "a"},
        {"licence": "l"},
        {"source_url": "u"},
        {"rotation_degrees": 90},
        {"split": "val"},
        {"path": None, "reason": "gone"},
        {"path": None, "reason": "a pipe"},
    ]
    others = {snapshot_of([replace(image, **change)]) for change in changes}
    assert len(others | {before, snapshot_of([image, image])}) == len(changes) + 2


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_reader_says_that_a_root_is_absent_or_a_file(name, tmp_path):
    with pytest.raises(SourceError, match="does not exist.*Pass the folder that holds"):
        SOURCES[name](tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(SourceError, match="is a file, not a folder"):
        SOURCES[name](tmp_path / "file")


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_reader_refuses_an_empty_folder(name, tmp_path):
    with pytest.raises(SourceError, match=re.escape(str(tmp_path))):
        SOURCES[name](tmp_path)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        (a, b)
        for a in ("coco", "openimages", "wikiart")
        for b in ("coco", "openimages", "wikiart")
        if a != b
    ],
)
def test_a_reader_pointed_at_another_data_set_says_what_it_looks_like(name, other, real_data):
    with pytest.raises(
        SourceError,
        match=f'is not laid out as {name}.*This looks like {other}: read it as "{other}"',
    ):
        SOURCES[name](real_data / other)


def test_reading_sources_loads_neither_pillow_nor_torch():
    import subprocess
    import sys

    code = "import storage.sources, sys; print([m for m in ('PIL', 'torch', 'prefect', 'rdm_core') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
