"""From packages of emoji to pictures, to shards: with sets of our own drawing, once for real."""

import io
import json
import tarfile
from dataclasses import replace

import pytest
from drawn_icons import (
    DISC,
    SQUARE,
    asked_of,
    false_npm,
    icon_files,
    package_of,
    publish_emoji,
)
from PIL import Image

from flows.config.images import ImportImages
from flows.data import emoji_pictures
from flows.data.emoji_pictures import acquire_emoji
from flows.data.import_images import drawing, import_images
from storage.emoji import NAMES, STYLES
from storage.errors import CannotWrite, SourceError
from storage.npm import fetch_package
from storage.shards import read_sidecar
from storage.sources import read_emoji

BOTH = ("noto", "openmoji")
NO_NETWORK = ("cannot be reached", "is not on the PATH", "did not end within", "refuses us")


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Two styles of three concepts; one of them cannot be drawn in one style."""
    registry = false_npm(tmp_path, monkeypatch)
    publish_emoji(registry, monkeypatch)
    return registry


def acquired(folder, styles=BOTH, side=32):
    told = []
    return acquire_emoji(folder, styles, side, told.append), told


def test_packages_become_pictures_and_a_table(registry, tmp_path):
    counts, told = acquired(tmp_path / "emoji")
    assert counts == {
        "concepts": 3, "held_out_concepts": 1, "pictures": 5, "drawn": 5, "kept": 0, "rejected": 1,
    }  # fmt: skip
    assert told[0].startswith("emojibase-data@17.0.0: fetched, ")
    assert "3 of 3 emoji are in noto, openmoji" in told and told[-1] == "openmoji: 3 of 3 pictures"
    table = json.loads((tmp_path / "emoji/emoji.json").read_text())
    assert table["side_pixels"] == 32 and len(table["pictures"]) == 6
    assert [package["name"] for package in table["packages"]] == [
        "emojibase-data", "@iconify-json/noto", "@iconify-json/openmoji", "openmoji",
    ]  # fmt: skip
    by_name = {(row["style"], row["name"]): row for row in table["pictures"]}
    assert by_name["openmoji", "red apple"]["reason"] == "an element image"
    assert by_name["openmoji", "grinning face"]["author"] == "Ada Lovelace, A. Painter"
    assert by_name["openmoji", "frowning face"]["author"] == "A. Painter", "its own is not known"
    assert by_name["noto", "grinning face"] == {
        "author": "A. Painter", "code_points": "1f600", "group": "smileys-emotion",
        "keywords": ["grin", "smile"], "licence": "CC-BY-4.0", "name": "grinning face",
        "package": "@iconify-json/noto", "reason": None, "source_url": "https://example.org/painter",
        "split": "known", "style": "noto", "subgroup": "face-smiling", "version": "1.2.9",
        "svg_sha256": by_name["noto", "grinning face"]["svg_sha256"],
    }  # fmt: skip


def test_a_second_time_nothing_is_fetched_or_drawn(registry, tmp_path):
    first, _ = acquired(tmp_path / "emoji")
    table = (tmp_path / "emoji/emoji.json").read_bytes()
    asked = asked_of(registry)
    again, told = acquired(tmp_path / "emoji")
    assert again == first | {"drawn": 0, "kept": 5}
    assert asked_of(registry) == asked and "emojibase-data@17.0.0: kept" in told[0]
    assert (tmp_path / "emoji/emoji.json").read_bytes() == table


def test_it_goes_on_where_it_was_stopped(registry, tmp_path):
    def stop(line):
        if line.startswith("noto: "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        acquire_emoji(tmp_path / "emoji", BOTH, 32, stop)
    assert not (tmp_path / "emoji/emoji.json").exists(), "the table comes last"
    assert acquired(tmp_path / "emoji")[0]["kept"] == 3


def test_another_size_is_drawn_anew_and_the_table_is_of_the_last_call(registry, tmp_path):
    acquired(tmp_path / "emoji")
    counts, _ = acquired(tmp_path / "emoji", ("noto",), side=48)
    assert counts["kept"] == 0 and counts["drawn"] == 3
    listing = read_emoji(tmp_path / "emoji")
    assert {image.style for image in listing.images} == {"noto"}
    with Image.open(listing.images[0].path) as image:
        assert image.size == (48, 48) and image.mode == "RGBA"


def test_a_package_that_cannot_be_fetched_is_told_and_what_came_stays(registry, tmp_path):
    package = registry / "iconify-json-openmoji-1.2.29.tgz"
    package.rename(tmp_path / "away.tgz")
    with pytest.raises(SourceError, match=r"npm pack @iconify-json/openmoji@1\.2\.29: "):
        acquired(tmp_path / "emoji")
    (tmp_path / "away.tgz").rename(package)
    _, told = acquired(tmp_path / "emoji")
    assert told[1].startswith("@iconify-json/noto@1.2.9: kept")


def test_a_package_that_is_not_the_pinned_one_is_refused(registry, tmp_path):
    package = registry / "iconify-json-noto-1.2.9.tgz"
    package.write_bytes(package.read_bytes() + b"more")
    with pytest.raises(SourceError, match=r"noto@1\.2\.9 from npm: what came is sha512"):
        acquired(tmp_path / "emoji")


@pytest.mark.parametrize("styles", [(), ("noto", "apple"), ("noto", "noto")])
def test_styles_that_there_are_not_are_refused_before_anything_is_fetched(
    registry, tmp_path, styles
):
    with pytest.raises(ValueError, match="styles: .*must be some of noto"):
        acquired(tmp_path / "emoji", styles)
    with pytest.raises(ValueError, match="side_pixels: 8, must be 16 to 512"):
        acquired(tmp_path / "emoji", side=8)
    assert asked_of(registry) == []


def test_a_full_disk_is_told_with_a_cure(registry, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("storage.emoji_drawing.write_bytes", full)
    with pytest.raises(CannotWrite, match="Free some space and run the same command again"):
        acquired(tmp_path / "emoji")


# To shards


def imported(tmp_path, name="set", **more):
    config = ImportImages(
        root=tmp_path / "data", name=name, source="emoji", path=tmp_path / "emoji", size=32,
        encoding="png", **more,
    )  # fmt: skip
    artifact = import_images(config)
    return artifact, {row["key"]: row for row in read_sidecar(artifact, "00000").to_pylist()}


def test_pictures_become_crops_on_white_with_all_that_is_known_of_them(registry, tmp_path):
    acquired(tmp_path / "emoji")
    artifact, rows = imported(tmp_path)
    assert set(rows) == {
        f"emoji-{style}-{code}-00" for style in BOTH for code in ("1f600", "2639", "1f34e")
    }
    grin = rows["emoji-noto-1f600-00"]
    assert grin["captions"] == ["grinning face", "grin", "smile"]
    assert grin["labels"] == ["group=smileys-emotion", "subgroup=face-smiling"]
    assert (grin["style"], grin["licence"], grin["author"]) == ("noto", "CC-BY-4.0", "A. Painter")
    rejected = rows["emoji-openmoji-1f34e-00"]
    assert (rejected["status"], rejected["reason"]) == ("rejected", "unreadable file")
    assert rejected["detail"] == "could not be drawn: an element image"
    with tarfile.open(artifact.directory / "00000.tar") as archive:
        data = archive.extractfile("emoji-noto-1f600-00.png").read()
    image = Image.open(io.BytesIO(data))
    assert image.mode == "RGB", "the alpha stays in the source"
    assert image.getpixel((0, 0)) == (255, 255, 255), "transparent is white"
    assert image.getpixel((16, 16)) == (255, 204, 0)


def test_one_style_is_imported_by_its_name(registry, tmp_path):
    acquired(tmp_path / "emoji")
    _, rows = imported(tmp_path, style="openmoji", concepts="known")
    assert all(row["split"] == "known" for row in rows.values())
    assert {row["style"] for row in rows.values()} == {"openmoji"} and len(rows) == 2
    with pytest.raises(SourceError, match="no style 'fluent'"):
        imported(tmp_path, style="fluent")


def test_which_are_imported_changes_no_crop():
    some, others = (
        ImportImages(name="a", source="emoji", path="p", style=style, concepts=concepts)
        for style, concepts in (("all", "all"), ("noto,fluent", "held out"))
    )
    assert drawing(some) == drawing(others)


# Sets without code points


def test_a_set_without_code_points_goes_by_the_names_of_another(tmp_path, monkeypatch, registry):
    old = icon_files({"grin": DISC, "apple": SQUARE, "unknown": DISC}, {})
    pin = STYLES["noto_v1"]
    package = package_of(registry, pin.name, pin.version, old)
    styles = emoji_pictures.STYLES | {"noto_v1": replace(pin, integrity=package.integrity)}
    monkeypatch.setattr(emoji_pictures, "STYLES", styles)
    counts, _ = acquired(tmp_path / "emoji", ("noto_v1",))
    assert counts["pictures"] == 2
    listing = read_emoji(tmp_path / "emoji")
    found = {image.source_id for image in listing.images}
    assert found == {"noto_v1-1f600", "noto_v1-1f34e"}


# For real


@pytest.mark.long
def test_the_real_sets_are_fetched_drawn_and_read(tmp_path):
    try:
        fetch_package(NAMES.name, NAMES.version, tmp_path / "packages", NAMES.integrity)
    except SourceError as error:
        if not any(words in str(error) for words in NO_NETWORK):
            raise
        pytest.skip(f"no packages from npm here: {error}")
    counts, _ = acquired(tmp_path, tuple(STYLES)[:4], side=16)
    assert counts["concepts"] == 1594 and counts["pictures"] == 4 * 1594
    assert counts["rejected"] == 0 and 140 < counts["held_out_concepts"] < 180
    listing = read_emoji(tmp_path)
    assert len(listing.images) == 4 * 1594 and listing.notes == {}
    licences = {image.style: image.licence for image in listing.images}
    assert licences == {
        "noto": "Apache-2.0", "twemoji": "CC-BY-4.0", "fluent": "MIT", "openmoji": "CC-BY-SA-4.0",
    }  # fmt: skip
    authors = {image.author for image in listing.images if image.style == "openmoji"}
    assert len(authors) > 50, "every picture of OpenMoji has its own"
    assert not any("fe0f" in image.source_id for image in listing.images)
    with Image.open(listing.images[0].path) as image:
        assert image.size == (16, 16)
