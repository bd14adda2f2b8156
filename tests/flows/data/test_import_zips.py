"""Importing COCO out of its zips: the same shards as out of the folders they unpack to."""

import json
import shutil
import zipfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from zipped import pack_coco, patch, zip_folder

from flows.config.images import ImportImages
from flows.data import import_images as stage
from flows.data.import_images import import_images, import_plan, list_images
from flows.data.space_needed import image_count
from storage.artifact import artifacts, open_artifact
from storage.errors import SourceError
from storage.shards import read_sidecar

COUNT = 12


@pytest.fixture
def folders(tmp_path):
    """A dozen pictures with a caption and a licence each, in folders."""
    root = tmp_path / "folders"
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, captions = [], []
    for number in range(COUNT):
        name = f"{number:012d}.jpg"
        shade = np.full((24, 20, 3), 20 * number, np.uint8)
        Image.fromarray(shade).save(root / "val2017" / name)
        images.append({"id": number, "file_name": name, "license": 1, "coco_url": f"http://{name}"})
        captions.append({"id": number, "image_id": number, "caption": f"shade {number}"})
    (root / "val2017/broken.jpg").write_bytes(b"no picture")
    both = {"images": images, "licenses": [{"id": 1, "name": "CC", "url": "http://cc"}]}
    for name, rows in (("captions", captions), ("instances", [])):
        content = both | {"annotations": rows, "categories": []}
        (root / f"annotations/{name}_val2017.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def zips(folders, tmp_path):
    """The same in zips."""
    shutil.copytree(folders, tmp_path / "zips")
    return pack_coco(tmp_path / "zips")


def config(path, name, root, **more):
    return ImportImages(root=root, name=name, source="coco", path=path, size=16, **more)


def content(artifact):
    """Every row of every part, and every file but the sidecars by its hash."""
    rows, files = [], []
    for part in artifact.parts:
        rows += read_sidecar(artifact, part.name).to_pylist()
        files += [(file.path, file.sha256) for file in part.files]
    return rows, files


def test_a_rebuild_over_zips_gives_the_bytes_of_one_over_folders(folders, zips, tmp_path):
    parts = {"images_per_part": 4}
    unpacked = import_images(config(folders, "folders", tmp_path / "data", **parts))
    packed = import_images(config(zips, "zips", tmp_path / "data", **parts))
    assert content(packed) == content(unpacked)
    assert packed.counts == unpacked.counts == {"ok": COUNT, "rejected: not an image": 1}
    assert packed.fingerprint == unpacked.fingerprint


def test_a_rebuild_over_real_zips_gives_the_bytes_of_one_over_folders(real_data, tmp_path):
    real = real_data / "coco"
    (tmp_path / "coco").mkdir()
    for folder in ("train2017", "val2017"):
        zip_folder(real / folder, tmp_path / f"coco/{folder}.zip")
    zip_folder(
        real / "annotations",
        tmp_path / "coco/annotations_trainval2017.zip",
        compression=zipfile.ZIP_DEFLATED,
    )
    unpacked = import_images(config(real, "folders", tmp_path / "data", images_per_part=20))
    packed = import_images(config(tmp_path / "coco", "zips", tmp_path / "data", images_per_part=20))
    assert content(packed) == content(unpacked)
    assert packed.counts == {"ok": 66}
    rows, _ = content(packed)
    assert all(row["captions"] and row["licence"] and row["sha256"] for row in rows)


def test_another_download_makes_nothing_anew_and_a_changed_image_its_own_part(
    folders, zips, tmp_path, monkeypatch
):
    asked = config(zips, "set", tmp_path / "data", images_per_part=2)
    first = import_images(asked)
    read, plain = Counter(), stage.read_image
    monkeypatch.setattr(
        stage, "read_image", lambda image, how: read.update([image.source_id]) or plain(image, how)
    )
    zip_folder(folders / "val2017", zips / "val2017.zip", compression=zipfile.ZIP_DEFLATED)
    assert import_images(asked).id == first.id and not read
    Image.fromarray(np.full((24, 20, 3), 9, np.uint8)).save(folders / "val2017/000000000005.jpg")
    zip_folder(folders / "val2017", zips / "val2017.zip")
    second = import_images(asked)
    assert second.id != first.id
    assert "000000000005" in read and len(read) <= 4, "the images of one part"
    before, after = content(first)[0], content(second)[0]
    changed = [row["key"] for row, other in zip(after, before, strict=True) if row != other]
    assert changed == ["coco-000000000005-00"]
    assert len(artifacts(asked.root, "shards", "set")) == 2


def test_a_member_that_claims_too_much_or_is_damaged_is_a_row_and_stops_nothing(zips, tmp_path):
    packed = zips / "val2017.zip"
    patch(packed, "val2017/000000000001.jpg", crc=7)
    patch(packed, "val2017/000000000002.jpg", flags=1)
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as more:
        more.writestr("val2017/bomb.jpg", bytes(2**21))
        more.writestr("val2017/too_large.jpg", bytes(2**21))
    patch(packed, "val2017/bomb.jpg", size=100)
    shards = import_images(config(zips, "set", tmp_path / "data", max_bytes=2**20))
    rows = {row["source_key"]: row for row in read_sidecar(shards, "00000").to_pylist()}
    told = {name: (row["reason"], row["detail"]) for name, row in rows.items() if row["reason"]}
    assert told.pop("coco-broken")[0]
    assert told == {
        "coco-000000000001": (
            "unreadable file", "the zip is damaged: its checksum (CRC-32) is another",
        ),
        "coco-000000000002": (
            "unreadable file", "it is encrypted; unpack the zip with its password",
        ),
        "coco-bomb": (
            "unreadable file", "it unpacks to more than the 100 bytes that it claims",
        ),
        "coco-too_large": ("too many bytes", "2,097,152"),
    }  # fmt: skip
    assert shards.counts["ok"] == COUNT - 2


@pytest.mark.parametrize("goes", ["the zip", "the folder around it"])
def test_a_zip_that_goes_away_during_an_import_is_told_and_nothing_is_published(
    goes, zips, tmp_path, monkeypatch
):
    asked = config(zips, "set", tmp_path / "data")
    lost = zips / "val2017.zip" if goes == "the zip" else zips

    def listing_then_loss(how):
        listing = list_images(how)
        lost.rename(tmp_path / "elsewhere")
        return listing

    with monkeypatch.context() as patched:
        patched.setattr(stage, "list_images", listing_then_loss)
        with pytest.raises(SourceError, match="val2017.zip: .*run the same command again"):
            import_images(asked)
    assert not artifacts(asked.root, "shards", "set")
    (tmp_path / "elsewhere").rename(lost)
    assert import_images(asked).counts["ok"] == COUNT


def test_the_plan_of_an_import_over_zips_does_not_say_where_they_lie(zips, tmp_path):
    here = import_plan(config(zips, "set", tmp_path / "data"))
    moved = shutil.move(zips, tmp_path / "moved")
    assert import_plan(config(moved, "set", tmp_path / "data")) == here


def test_the_space_for_images_in_zips_is_counted_and_a_broken_zip_is_told(folders, zips, tmp_path):
    in_folders = image_count(config(folders, "a", tmp_path))
    assert image_count(config(zips, "a", tmp_path)) == in_folders  # 13 images, 2 lists or zips
    assert image_count(config(zips, "a", tmp_path, split="train")) == 2
    shutil.copytree(folders / "val2017", zips / "val2017")
    assert image_count(config(zips, "a", tmp_path)) == in_folders, "once, in the folder that wins"
    shutil.rmtree(zips / "val2017")
    (zips / "val2017.zip").write_bytes(b"cut short")
    with pytest.raises(SourceError, match="val2017.zip: cannot be opened as a ZIP"):
        image_count(config(zips, "a", tmp_path))


def test_a_folder_that_wins_over_a_zip_is_in_the_notes_of_the_manifest(folders, tmp_path):
    zip_folder(folders / "val2017")
    import_images(config(folders, "set", tmp_path / "data"))
    notes = open_artifact(tmp_path / "data", "shards", "set").measured["notes"]
    assert notes["zips_left_out_for_a_folder"] == 1
