"""Keys, ids and listings, whatever the data set."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from listings import ids_of

from storage.errors import SourceError
from storage.sources import SOURCES, SourceImage, origin_of
from storage.sources.source import absent, listing_of, readable, snapshot_of, source_id_of


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
    assert ids_of(listing) == ["a", "b", "c"]
    assert listing.notes == {"one": 1}


def test_two_images_of_one_id_are_both_kept_whichever_comes_first():
    x, y = SourceImage("coco", "a", Path("r/x/a.jpg")), SourceImage("coco", "a", Path("r/y/a.jpg"))
    gone = SourceImage("coco", "a", None, reason="gone")
    listing = listing_of(Path("r"), [x, y, gone], {})
    assert listing == listing_of(Path("r"), [gone, y, x], {})
    assert listing.notes == {"ids_claimed_twice": 2}
    first, *others = listing.images
    assert (first.source_id, first.path) == ("a", x.path), "a file, and the first by name"
    assert {image.path for image in others} == {y.path, None}
    for image in others:
        assert re.fullmatch("a~[0-9a-f]{8}", image.source_id)
    elsewhere = [replace(x, path=Path("other/x/a.jpg")), replace(y, path=Path("other/y/a.jpg"))]
    assert ids_of(listing_of(Path("other"), [*elsewhere, gone], {})) == ids_of(listing)


def test_the_snapshot_changes_with_all_that_is_known_of_an_image_but_its_place():
    image = SourceImage("coco", "a", Path("x/a.jpg"), ("caption",), ("label",), stamp=(1, 2))
    before = snapshot_of([image])
    assert before == snapshot_of([replace(image, path=Path("y/a.jpg"))])
    changes = [
        {"source_id": "b"}, {"stamp": (1, 3)}, {"stamp": (2, 2)}, {"captions": ()},
        {"labels": ("l",)}, {"style": "s"}, {"author": "a"}, {"licence": "l"},
        {"source_url": "u"}, {"rotation_degrees": 90}, {"split": "val"},
        {"path": None, "reason": "gone"}, {"path": None, "reason": "a pipe"},
    ]  # fmt: skip
    snapshots = {before, snapshot_of([image, image])}
    for change in changes:
        snapshots.add(snapshot_of([replace(image, **change)]))
    assert len(snapshots) == len(changes) + 2


# Of images without a member, as they were before there were any: plans hold these hashes.
LISTED_BEFORE = (
    SourceImage(
        "coco", "a", Path("x/a.jpg"), ("caption",), ("label",), licence="L (u)",
        source_url="http://f/1", split="val", stamp=(10, 10**18),
    ),
    SourceImage(
        "coco", "b", None, split="val",
        reason="listed in captions_val2017.json, but val2017/b.jpg is absent",
    ),
)  # fmt: skip


def test_a_snapshot_of_before_there_were_members_is_the_same_now():
    assert snapshot_of(LISTED_BEFORE) == (
        "53bf90699d8289ae0c425cf3c3b8ddaefcaea81fd5a4422c9e4ffb9c1be09c99"
    )
    assert origin_of(LISTED_BEFORE, {"size": 16}) == "3b5b78557dabd387"


def test_neither_snapshot_nor_origin_says_where_in_which_zip_an_image_lies():
    one = SourceImage("coco", "a", Path("val2017.zip"), stamp=(1, 2), member="val2017/a.jpg")
    for other in (replace(one, member="a.jpg"), replace(one, path=Path("other.zip"))):
        assert snapshot_of([one]) == snapshot_of([other])
        assert origin_of((one,), {}) == origin_of((other,), {})
    changed = replace(one, stamp=(1, 3))
    assert snapshot_of([one]) != snapshot_of([changed])
    assert origin_of((one,), {}) != origin_of((changed,), {})


def test_a_member_is_in_a_zip():
    with pytest.raises(ValueError, match="'a.jpg' is in no zip"):
        SourceImage("coco", "a", None, reason="a link", member="a.jpg")


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

    code = (
        "import storage.sources, sys; "
        "print([m for m in ('PIL', 'torch', 'prefect', 'rdm_core') if m in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
