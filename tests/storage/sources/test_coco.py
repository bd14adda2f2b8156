"""Reading COCO 2017."""

import json
import shutil
from pathlib import Path

import pytest

from storage.errors import SourceError
from storage.sources import read_coco

LICENSES = [{"id": 4, "name": "Attribution License", "url": "http://by/2.0/"}, {"id": 9, "url": "http://only-url/"}]


def write_coco(root: Path, split: str = "val") -> Path:
    """Images 1..4 are annotated (4 has no file), 5 is a file without annotation."""
    (root / f"{split}2017").mkdir(parents=True)
    for number in (1, 2, 3, 5):
        (root / f"{split}2017" / f"{number:012d}.jpg").write_bytes(b"jpeg")
    images = [
        {
            "id": number,
            "file_name": f"{number:012d}.jpg",
            "license": 4,
            "flickr_url": f"http://f/{number}",
            "coco_url": "http://c",
        }
        for number in (1, 2, 3, 4)
    ]
    images[1] |= {"license": 9, "flickr_url": ""}
    images[2] |= {"license": 77}
    captions = [
        {"id": 12, "image_id": 1, "caption": "second\n"},
        {"id": 11, "image_id": 1, "caption": " A  first one. "},
        {"id": 13, "image_id": 1, "caption": "  "},
        {"id": 14, "image_id": 99, "caption": "of nothing"},
    ]
    boxes = [(1, 3), (1, 1), (1, 3), (2, 1)]
    annotations = [{"id": i, "image_id": image, "category_id": c, "segmentation": [[0]]} for i, (image, c) in enumerate(boxes)]
    categories = [{"id": 3, "name": "car"}, {"id": 1, "name": "person"}]
    common = {"images": images, "licenses": LICENSES}
    (root / "annotations").mkdir(exist_ok=True)
    for name, content in (
        ("captions", {"annotations": captions}),
        ("instances", {"annotations": annotations, "categories": categories}),
    ):
        (root / "annotations" / f"{name}_{split}2017.json").write_text(json.dumps(common | content))
    return root


def test_captions_labels_licence_and_address_are_joined(tmp_path):
    image = read_coco(write_coco(tmp_path)).images[0]
    assert image.source_id == "000000000001" and image.split == "val" and image.author is None
    assert image.path == tmp_path / "val2017/000000000001.jpg"
    assert image.captions == ("A first one.", "second")
    assert image.labels == ("person", "car")
    assert image.licence == "Attribution License (http://by/2.0/)"
    assert image.source_url == "http://f/1"


def test_a_licence_without_a_name_is_its_address_and_an_unknown_one_is_counted(tmp_path):
    listing = read_coco(write_coco(tmp_path))
    assert listing.images[1].licence == "http://only-url/" and listing.images[1].source_url == "http://c"
    assert listing.images[2].licence is None
    assert listing.notes["without_licence"] == 2, "the unknown licence, and the file without annotation"


def test_an_annotated_image_without_a_file_is_a_row_with_a_reason(tmp_path):
    listing = read_coco(write_coco(tmp_path))
    absent = listing.images[3]
    assert absent.path is None
    assert absent.reason == "listed in captions_val2017.json, but val2017/000000000004.jpg is absent"
    assert listing.notes["listed_but_absent"] == 1


def test_a_file_without_annotation_is_kept_and_counted(tmp_path):
    listing = read_coco(write_coco(tmp_path))
    assert listing.images[4].source_id == "000000000005" and listing.images[4].captions == ()
    assert listing.notes["files_without_annotation"] == 1
    assert listing.notes["captions_of_unlisted_images"] == 1
    assert listing.notes["without_captions"] == 3


def test_all_reads_only_the_splits_whose_images_are_there(tmp_path):
    write_coco(tmp_path, "val")
    (tmp_path / "annotations/captions_train2017.json").write_text("not even JSON")
    assert {image.split for image in read_coco(tmp_path).images} == {"val"}
    with pytest.raises(SourceError, match="train2017/ and annotations/"):
        read_coco(tmp_path, "train")


@pytest.mark.parametrize("name", ["captions", "instances"])
def test_a_missing_annotation_file_is_named_with_its_cure(name, tmp_path):
    path = write_coco(tmp_path) / f"annotations/{name}_val2017.json"
    path.unlink()
    with pytest.raises(SourceError, match=f"{path}: this file is missing.*annotations_trainval2017.zip"):
        read_coco(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b'{"images": [', "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[]", "holds a JSON list"),
        (b"{}", 'has no list "images"'),
        (b'{"images": [{"id": 1}]}', r'images\[0\] has no "file_name"'),
        (b'{"images": [7]}', r'images\[0\] has no "id"'),
    ],
)
def test_a_damaged_annotation_file_is_an_error_that_says_how(content, message, tmp_path):
    path = write_coco(tmp_path) / "annotations/captions_val2017.json"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=f"{path}: .*{message}"):
        read_coco(tmp_path)


def test_an_unknown_category_is_an_error(tmp_path):
    path = write_coco(tmp_path) / "annotations/instances_val2017.json"
    path.write_text(path.read_text().replace('"category_id": 3', '"category_id": 8'))
    with pytest.raises(SourceError, match="category_id 8 is not in categories"):
        read_coco(tmp_path)


def test_one_image_in_both_splits_is_refused(tmp_path):
    write_coco(write_coco(tmp_path, "val"), "train")
    with pytest.raises(SourceError, match="two images have the id '000000000001'"):
        read_coco(tmp_path)


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'test'"):
        read_coco(write_coco(tmp_path), "test")


def test_the_snapshot_follows_files_and_annotations(tmp_path):
    write_coco(tmp_path)
    before = read_coco(tmp_path).snapshot
    assert read_coco(tmp_path).snapshot == before
    (tmp_path / "val2017/000000000001.jpg").write_bytes(b"another")
    touched = read_coco(tmp_path).snapshot
    path = tmp_path / "annotations/captions_val2017.json"
    path.write_text(path.read_text().replace("second", "secund"))
    assert len({before, touched, read_coco(tmp_path).snapshot}) == 3


def test_a_git_lfs_pointer_in_place_of_annotations_is_called_one(tmp_path, real_data):
    path = write_coco(tmp_path) / "annotations/captions_val2017.json"
    shutil.copyfile(real_data / "awkward/lfs_pointers/annotations/captions_val2014.json", path)
    with pytest.raises(SourceError, match="is a git-lfs pointer, not the data.*git lfs pull"):
        read_coco(tmp_path)


def test_the_real_sample_is_read_whole(real_data):
    listing = read_coco(real_data / "coco")
    assert len(listing.images) == 66 and listing.notes == {}
    assert sum(len(image.captions) for image in listing.images) == 330
    assert sum(bool(image.labels) for image in listing.images) == 65
    assert all(image.licence and image.source_url and image.path.is_file() for image in listing.images)
    assert [len(read_coco(real_data / "coco", split).images) for split in ("train", "val")] == [20, 46]
