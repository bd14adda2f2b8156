"""Reading COCO 2017 out of its zips: which member is which image."""

import json
import shutil
import stat
import zipfile
from dataclasses import replace

import pytest
from coco_files import by_id, small, write_coco
from listings import images_by_id
from zipped import RawInfo, pack_coco, patch, zip_folder

from storage.errors import SourceError
from storage.sources import (
    cut_into_parts,
    members_in_zips,
    origin_of,
    read_as_listed,
    read_coco,
)
from storage.sources.source import PLACE

PIXELS = b"jpeg"


def known_of(listing):
    """What is said of each image, wherever and whenever its file was written."""
    return [
        replace(image, path=None, member=None, stamp=None, reason="-") for image in listing.images
    ]


def with_members(root, *members, folder="val2017"):
    """A split of 1.jpg and 2.jpg in a zip with more members: (name or ZipInfo, bytes)."""
    root.mkdir(exist_ok=True)
    small(root, [{"id": 1, "image_id": 1, "caption": "a dog"}])
    shutil.rmtree(root / folder)
    with zipfile.ZipFile(root / f"{folder}.zip", "w") as packed:
        for name in ("1.jpg", "2.jpg"):
            packed.writestr(f"{folder}/{name}", PIXELS)
        for name, data in members:
            packed.writestr(name, data)
    return root


def test_zips_hold_the_same_images_as_the_folders_they_unpack_to(tmp_path):
    folders = write_coco(write_coco(tmp_path / "folders", "val"), "train")
    (folders / "val2017/sub").mkdir()
    for name in ("sub/a.png", "caf\u00e9.jpg", "notes.txt", ".hidden.jpg"):
        (folders / "val2017" / name).write_bytes(PIXELS)
    unpacked = read_coco(folders)
    shutil.copytree(folders, tmp_path / "zips")
    packed = read_coco(pack_coco(tmp_path / "zips"))
    assert known_of(packed) == known_of(unpacked)
    assert packed.notes == unpacked.notes
    for one, other in zip(packed.images, unpacked.images, strict=True):
        assert (one.path is None, one.reason) == (other.path is None, other.reason)
        if one.path:
            assert one.path.suffix == ".zip" and one.member
            assert read_as_listed(one) == other.path.read_bytes()


def test_the_real_sample_is_the_same_in_zips(real_data, tmp_path):
    for folder in ("train2017", "val2017"):
        zip_folder(real_data / "coco" / folder, tmp_path / f"{folder}.zip")
    zip_folder(
        real_data / "coco/annotations",
        tmp_path / "annotations_trainval2017.zip",
        compression=zipfile.ZIP_DEFLATED,
    )
    packed, unpacked = read_coco(tmp_path), read_coco(real_data / "coco")
    assert known_of(packed) == known_of(unpacked) and len(packed.images) == 66
    assert packed.notes == {}
    for one, other in zip(packed.images, unpacked.images, strict=True):
        assert read_as_listed(one) == other.path.read_bytes()
    assert members_in_zips(tmp_path) == 66 and members_in_zips(tmp_path, "train") == 20


def test_each_part_may_be_a_folder_or_a_zip(tmp_path):
    expected = known_of(read_coco(write_coco(tmp_path / "folders")))
    for packed in ("val2017", "annotations"):
        root = write_coco(tmp_path / packed)
        zip_folder(root / packed)
        shutil.rmtree(root / packed)
        assert known_of(read_coco(root)) == expected


def test_a_folder_wins_over_a_zip_of_its_split_and_that_is_told(tmp_path):
    root = write_coco(tmp_path)
    before = read_coco(root)
    (root / "val2017.zip").write_bytes(b"cut short")
    listing = read_coco(root)
    assert (listing.images, listing.snapshot) == (before.images, before.snapshot)
    assert listing.notes == before.notes | {"zips_left_out_for_a_folder": 1}
    assert members_in_zips(root) == 0


def test_a_folder_without_images_is_no_folder_of_images(tmp_path):
    root = write_coco(tmp_path)
    zip_folder(root / "val2017")
    shutil.rmtree(root / "val2017")
    (root / "val2017/sub").mkdir(parents=True)
    for name in ("readme.txt", "._1.jpg"):
        (root / "val2017/sub" / name).write_bytes(b"")
    listing = read_coco(root)
    assert listing.images[0].member == "val2017/000000000001.jpg"
    assert "zips_left_out_for_a_folder" not in listing.notes


def test_all_reads_the_splits_that_are_there_as_folder_or_zip(tmp_path):
    root = write_coco(write_coco(tmp_path, "val"), "train")
    zip_folder(root / "train2017")
    shutil.rmtree(root / "train2017")
    assert {image.split for image in read_coco(root).images} == {"train", "val"}
    assert {image.split for image in read_coco(root, "train").images} == {"train"}
    (root / "train2017.zip").unlink()
    with pytest.raises(SourceError, match=r"train2017/ and annotations/ \(or their zips\)"):
        read_coco(root, "train")


def test_another_download_of_equal_images_is_the_same_snapshot_and_a_changed_one_another_row(
    tmp_path,
):
    root = write_coco(tmp_path)
    zip_folder(root / "val2017")
    shutil.copytree(root / "val2017", tmp_path / "kept/val2017")
    shutil.rmtree(root / "val2017")
    before = read_coco(root)
    kept = tmp_path / "kept/val2017"
    for how in ({"compression": zipfile.ZIP_DEFLATED}, {"under": ""}, {"under": "coco/val2017/"}):
        (root / "val2017.zip").unlink()
        (kept / "000000000001.jpg").touch()
        zip_folder(kept, root / "val2017.zip", **how)
        assert read_coco(root).snapshot == before.snapshot
    (kept / "000000000003.jpg").write_bytes(b"JPEG")
    zip_folder(kept, root / "val2017.zip")
    after = read_coco(root)
    assert after.snapshot != before.snapshot
    one, two = images_by_id(before), images_by_id(after)
    assert [name for name in one if differs(one[name], two[name])] == ["000000000003"]
    parts = cut_into_parts(before, 1), cut_into_parts(after, 1)
    origins = [{part: origin_of(images, {}) for part, images in cut.items()} for cut in parts]
    assert len(origins[0]) == 5
    assert sum(origins[0][part] != origins[1][part] for part in origins[0]) == 1


def differs(one, other):
    """Whether more than the place of an image is another."""
    return replace(one, **dict.fromkeys(PLACE), reason="-") != replace(
        other, **dict.fromkeys(PLACE), reason="-"
    )


@pytest.mark.parametrize(
    "name",
    [
        "../secret.jpg", "/etc/secret.jpg", "C:\\secret.jpg", "..\\secret.jpg", "\\secret.jpg",
        "val2017/../../secret.jpg", "val2017\\..\\..\\secret.jpg", "C:secret.jpg",
    ],
)  # fmt: skip
def test_a_member_whose_name_leads_out_is_a_row_that_is_never_opened(name, tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    listing = read_coco(with_members(tmp_path, (name, b"secret")))
    assert len(listing.images) == 3
    (image,) = [image for image in listing.images if image.path is None]
    assert image.reason == f"its name leads out of the zip: {name!r}" and image.member is None


def test_what_no_image_is_of_a_zip_is_left_out_and_counted(tmp_path):
    members = [
        ("val2017/", b""),
        ("__MACOSX/val2017/._1.jpg", b"macOS"),
        ("val2017/.hidden.jpg", b"jpeg"),
        ("val2017/._2.jpg", b"macOS"),
        ("elsewhere/3.jpg", b"jpeg"),
        ("4.jpg", b"jpeg"),
        ("val2017/readme.txt", b"text"),
    ]
    listing = read_coco(with_members(tmp_path, *members))
    assert [image.source_id for image in listing.images] == ["1", "2"]
    counts = {"hidden": 3, "zip_members_outside_the_folder": 2, "other_files": 1}
    assert counts.items() <= listing.notes.items()


@pytest.mark.parametrize(
    ("mode", "reason"),
    [(stat.S_IFLNK, "a link inside a zip"), (stat.S_IFIFO, "a pipe, socket or device")],
)
def test_a_member_that_is_no_file_is_a_row_with_its_reason(mode, reason, tmp_path):
    odd = zipfile.ZipInfo("val2017/3.jpg")
    odd.create_system, odd.external_attr = 3, (mode | 0o777) << 16
    listing = read_coco(with_members(tmp_path, (odd, b"/etc/passwd")))
    image = images_by_id(listing)["3"]
    assert image.path is None and image.reason.startswith(reason) and image.stamp is None


@pytest.mark.parametrize(
    ("change", "told"),
    [({"flags": 1}, "it is encrypted"), ({"method": 9}, "packed by method 9"),
     ({"offset": 2**31}, "beyond the end")],
)  # fmt: skip
def test_a_member_that_cannot_be_read_is_a_row_with_its_reason(change, told, tmp_path):
    patch(with_members(tmp_path) / "val2017.zip", "val2017/1.jpg", **change)
    first, second = read_coco(tmp_path).images
    assert told in first.reason and first.captions == ("a dog",) and not first.is_absent
    assert second.reason is None


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("again", ["val2017/1.jpg", "coco/val2017/1.jpg", "./val2017//1.jpg"])
def test_a_member_that_comes_twice_is_one_image_where_both_are_equal(again, tmp_path):
    listing = read_coco(with_members(tmp_path / "equal", (again, PIXELS)))
    assert [image.source_id for image in listing.images] == ["1", "2"]
    assert listing.notes["zip_members_twice"] == 1
    assert read_as_listed(listing.images[0]) == PIXELS
    listing = read_coco(with_members(tmp_path / "other", (again, b"another")))
    assert listing.images[0].reason == "it is twice in the zip, and not the same"
    assert listing.images[1].reason is None and listing.notes["zip_members_twice"] == 1


@pytest.mark.parametrize(
    ("listed", "member"),
    [
        ("a.jpg", RawInfo(b"val2017\\a.jpg", 0)),
        ("sub/a.jpg", RawInfo(b"val2017/sub/a.jpg", 3)),
        ("val2017/sub/a.jpg", RawInfo(b"coco/val2017/sub/a.jpg", 3)),
        ("caf\u00e9.jpg", RawInfo("val2017/caf\u00e9.jpg".encode("cp437"), 0)),
        ("caf\u00e9.jpg", RawInfo("val2017/caf\u00e9.jpg".encode(), 3)),
        ("caf\u00e9.jpg", RawInfo("val2017/cafe\u0301.jpg".encode(), 3, is_utf8=True)),
        ("caf\u00e9.jpg", RawInfo(b"val2017/caf#U00e9.jpg", 3)),
        ("caf\udce9.jpg", RawInfo(b"val2017/caf\xe9.jpg", 3)),
        ("A.jpg", RawInfo(b"val2017/a.JPG", 3)),
    ],
)
def test_a_member_is_found_by_the_name_a_list_gives_it(listed, member, tmp_path):
    root = with_members(tmp_path, (member, b"other"))
    images = [{"id": 1, "file_name": listed}]
    content = {"images": images, "annotations": [{"id": 1, "image_id": 1, "caption": "a dog"}]}
    path = root / "annotations/captions_val2017.json"
    path.write_bytes(json.dumps(content).encode().replace(b"\\udce9", b"\xe9"))
    (image,) = [image for image in read_coco(root).images if image.captions]
    assert read_as_listed(image) == b"other"
    image.source_id.encode()


def test_a_name_in_both_splits_has_the_ids_that_it_has_in_folders(tmp_path):
    folders = write_coco(write_coco(tmp_path / "folders", "val"), "train")
    shutil.copytree(folders, tmp_path / "zips")
    unpacked, packed = read_coco(folders), read_coco(pack_coco(tmp_path / "zips"))
    assert list(images_by_id(packed)) == list(images_by_id(unpacked)) and len(packed.images) == 10
    for under in ("", "coco/train2017/"):
        zip_folder(folders / "train2017", tmp_path / "zips/train2017.zip", under=under)
        assert list(images_by_id(read_coco(tmp_path / "zips"))) == list(images_by_id(unpacked))


def test_a_zip_that_cannot_be_opened_is_told_with_where_to_get_it(tmp_path):
    root = pack_coco(write_coco(tmp_path))
    whole = (root / "val2017.zip").read_bytes()
    (root / "val2017.zip").write_bytes(whole[:-40])
    told = "val2017.zip: cannot be opened as a ZIP.*Download http.*/zips/val2017.zip again"
    with pytest.raises(SourceError, match=told):
        read_coco(root)
    with pytest.raises(SourceError, match=told):
        members_in_zips(root)
    (root / "val2017.zip").write_bytes(whole)
    (root / "annotations_trainval2017.zip").write_bytes(b"<html>")
    with pytest.raises(
        SourceError, match="annotations_trainval2017.zip: cannot be opened as a ZIP.*Put http"
    ):
        read_coco(root)


def test_a_list_is_taken_from_the_zip_that_holds_it_and_from_the_published_one_first(tmp_path):
    root = write_coco(tmp_path)
    folder = root / "annotations"
    for name in ("annotations.zip", "annotations_trainval2017.zip", "annotations_a.zip"):
        zip_folder(folder, root / name)
        for path in folder.iterdir():
            path.write_text(path.read_text().replace("second", "of another zip"))
    with zipfile.ZipFile(root / "annotations_a.zip", "w") as packed:
        packed.writestr("annotations/captions_test2017.json", "{}")
        packed.writestr("__MACOSX/annotations/._captions_val2017.json", "macOS")
    shutil.rmtree(folder)
    assert by_id(root)["000000000001"].captions[1] == "of another zip"
    (root / "annotations_trainval2017.zip").unlink()
    assert by_id(root)["000000000001"].captions[1] == "second"
    (root / "annotations.zip").unlink()
    with pytest.raises(SourceError, match="annotations/captions_val2017.json: this file is miss"):
        read_coco(root)


def test_a_list_in_its_folder_that_is_no_good_is_told_and_none_is_read_in_its_place(tmp_path):
    root = write_coco(tmp_path)
    zip_folder(root / "annotations")
    path = root / "annotations/captions_val2017.json"
    packed = (root / "annotations.zip").read_bytes()
    for content, told in ((b"", "is empty"), (b"{", "is not JSON"), (packed, "is packed with ZIP")):
        path.write_bytes(content)
        with pytest.raises(SourceError, match=f"annotations/captions_val2017.json: .*{told}"):
            read_coco(root)
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(SourceError, match=r"captions_val2017.json: is no file that can be read"):
        read_coco(root)


def test_a_list_inside_a_zip_that_is_no_coco_file_is_told_by_its_name(tmp_path):
    root = pack_coco(write_coco(tmp_path))
    for content, told in (("[]", "holds a JSON list"), ("{}", 'has no list "annotations"')):
        with zipfile.ZipFile(root / "annotations_trainval2017.zip", "w") as packed:
            packed.writestr("annotations/captions_val2017.json", content)
        with pytest.raises(
            SourceError, match=f"captions_val2017.json in .*_trainval2017.zip: {told}"
        ):
            read_coco(root)
