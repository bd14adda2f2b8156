"""Reading COCO 2017: which file is which image."""

import pytest
from coco_files import by_id, small, write_coco
from listings import labelled

from storage.errors import SourceError
from storage.sources import read_coco


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
    assert (
        listing.images[1].licence == "http://only-url/"
        and listing.images[1].source_url == "http://c"
    )
    assert listing.images[2].licence is None
    assert listing.notes["without_licence"] == 2, (
        "the unknown licence, and the file without annotation"
    )


def test_an_annotated_image_without_a_file_is_a_row_with_a_reason(tmp_path):
    listing = read_coco(write_coco(tmp_path))
    absent = listing.images[3]
    assert absent.path is None
    assert (
        absent.reason == "listed in captions_val2017.json, but val2017/000000000004.jpg is absent"
    )
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


def test_a_name_in_both_splits_is_two_images(tmp_path):
    write_coco(write_coco(tmp_path, "val"), "train")
    listing = read_coco(tmp_path)
    assert len(listing.images) == 10 and listing.notes["ids_claimed_twice"] == 5
    first, second = [image for image in listing.images if "000000000001" in image.source_id]
    assert {first.split, second.split} == {"train", "val"}


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


def test_an_image_listed_twice_has_the_captions_of_both_and_each_file_its_own_ids(tmp_path):
    images = [{"id": 1, "file_name": "1.jpg"}, {"id": 5, "file_name": "./1.jpg"}]
    rows = [{"id": 1, "image_id": 1, "caption": "one"}, {"id": 2, "image_id": 5, "caption": "five"}]
    objects = [{"image_id": 9, "category_id": 7}, {"image_id": 5, "category_id": 7}]
    path = small(tmp_path, rows, images, objects) / "annotations/instances_val2017.json"
    # In this file the image has another number.
    path.write_text(path.read_text().replace('"id": 1,', '"id": 9,'))
    listing = read_coco(tmp_path)
    assert listing.images[0].captions == ("one", "five") and listing.images[0].labels == ("cat",)
    assert listing.notes["images_listed_twice"] == 2


@pytest.mark.parametrize(
    ("listed", "there"),
    [
        ("val2017/a.jpg", "a.jpg"),
        ("coco/val2017/a.jpg", "a.jpg"),
        ("./a.jpg", "a.jpg"),
        ("sub/a.jpg", "sub/a.jpg"),
        ("sub\\a.jpg", "sub/a.jpg"),
        ("val2017\\sub\\a.jpg", "sub/a.jpg"),
        ("val2017/a.jpg", "val2017/a.jpg"),
        ("a.JPG", "a.JPG"),
        ("a.jpeg", "a.jpeg"),
        ("a.heic", "a.heic"),
        ("a.raw", "a.raw"),
        ("caf\u00e9.jpg", "cafe\u0301.jpg"),
        ("cafe\u0301.jpg", "caf\u00e9.jpg"),
        ("caf\udce9.jpg", "caf\udce9.jpg"),
        ("caf\u00e9.jpg", "caf#U00e9.jpg"),
        ("caf#U00e9.jpg", "caf#U00e9.jpg"),
        ("a.JPG", "a.jpg"),
    ],
)
def test_a_file_is_found_by_the_name_a_list_gives_it(listed, there, tmp_path):
    small(
        tmp_path, [{"id": 1, "image_id": 1, "caption": "a dog"}], [{"id": 1, "file_name": listed}]
    )
    path = tmp_path / "annotations/captions_val2017.json"
    path.write_bytes(path.read_bytes().replace(b"\\udce9", b"\xe9"))
    (tmp_path / "val2017" / there).parent.mkdir(exist_ok=True)
    (tmp_path / "val2017" / there).write_bytes(b"jpeg")
    listing = read_coco(tmp_path)
    (image,) = [image for image in listing.images if image.captions]
    assert image.path == tmp_path / "val2017" / there and len(listing.images) == 3
    # Counted in each of the two annotation files.
    assert listing.notes.get("found_in_another_case", 0) == 2 * (listed.lower() == there != listed)
    image.source_id.encode()


def test_ids_of_plain_names_stay_and_others_are_the_whole_name(tmp_path):
    small(tmp_path, [], [])
    for name in ("1.png", "1.JPG", "sub/1.jpg"):
        (tmp_path / "val2017" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "val2017" / name).write_bytes(b"jpeg")
    assert list(by_id(tmp_path)) == ["1", "1.JPG", "1.png", "2", "sub/1.jpg"]


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "/etc/passwd", "C:\\a.jpg", "a/../../b.jpg", "..", "a\0b.jpg", "."]
)
def test_a_name_that_leads_out_is_a_row_that_is_never_opened(name, tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"jpeg")
    listing = read_coco(
        small(tmp_path, [], [{"id": 1, "file_name": name}, {"id": 2, "file_name": "2.jpg"}])
    )
    (image,) = [image for image in listing.images if image.path is None]
    assert "leads out of val2017/" in image.reason and not image.is_absent
    assert listing.notes["file_names_that_lead_out"] == 2, "in each of the two files"


def test_a_file_that_a_list_names_is_not_taken_for_another_that_differs_in_case(tmp_path):
    images = [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "1.JPG"}]
    captions = [
        {"id": 1, "image_id": 1, "caption": "of 1"},
        {"id": 2, "image_id": 2, "caption": "of 2"},
    ]
    images = by_id(small(tmp_path, captions, images))
    assert images["1"].captions == ("of 1",) and images["1.JPG"].is_absent


def test_a_name_in_two_cases_is_taken_for_neither(tmp_path):
    small(tmp_path, [], [{"id": 1, "file_name": "A.JPG"}])
    for name in ("a.jpg", "a.JPG"):
        (tmp_path / "val2017" / name).write_bytes(b"jpeg")
    assert read_coco(tmp_path).notes["listed_but_absent"] == 1


def test_a_file_whose_name_is_no_utf8_is_listed_with_storable_text(tmp_path):
    (small(tmp_path, []) / "val2017/caf\udce9.jpg").write_bytes(b"jpeg")
    assert by_id(tmp_path)["caf\\xe9"].path.read_bytes() == b"jpeg"


def test_the_real_sample_is_read_whole(real_data):
    listing = read_coco(real_data / "coco")
    assert len(listing.images) == 66 and listing.notes == {}
    assert len(labelled(listing)) == 65
    for image in listing.images:
        assert len(image.captions) == 5
        assert image.licence and image.source_url and image.path.is_file()
    assert len(read_coco(real_data / "coco", "train").images) == 20
    assert len(read_coco(real_data / "coco", "val").images) == 46
