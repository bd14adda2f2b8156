"""Annotation files of COCO, as many programs write them: what is no text, no id or no record."""

import json
import shutil

import pytest
from coco_files import by_id, small, write_coco
from listings import captions_of

from storage.errors import SourceError
from storage.sources import read_coco

# Files


@pytest.mark.parametrize("name", ["captions", "instances"])
def test_a_missing_annotation_file_is_named_with_its_cure(name, tmp_path):
    path = write_coco(tmp_path) / f"annotations/{name}_val2017.json"
    path.unlink()
    with pytest.raises(
        SourceError, match=f"{path}: this file is missing.*annotations_trainval2017.zip"
    ):
        read_coco(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b'{"images": [', "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[" * 100_000, "is not JSON: it is nested too deeply"),
        (b'{"images": {}}', 'has no list "annotations"'),
        (b"[]", "holds a JSON list"),
        (b'{"annotations": []}', 'has no list "images"'),
        (b'{"annotations": [], "images": {}}', 'has no list "images"'),
        (
            b'{"annotations": [], "images": [{"id": 1}]}',
            'has no record in "images" with an "id" and a "file_name"',
        ),
        (b'{"annotations": [], "images": [7]}', 'has no record in "images" with'),
    ],
)
def test_a_damaged_annotation_file_is_an_error_that_says_how(content, message, tmp_path):
    path = write_coco(tmp_path) / "annotations/captions_val2017.json"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=f"{path}: .*{message}"):
        read_coco(tmp_path)


def test_an_object_of_an_unknown_class_is_counted(tmp_path):
    path = write_coco(tmp_path) / "annotations/instances_val2017.json"
    path.write_text(path.read_text().replace('"category_id": 3', '"category_id": 8'))
    listing = read_coco(tmp_path)
    assert (
        listing.images[0].labels == ("person",) and listing.notes["objects_of_unknown_class"] == 2
    )


# Captions and ids


@pytest.mark.parametrize(
    ("caption", "note"),
    [
        (None, "captions_missing"),
        (float("nan"), "captions_missing"),
        (5, "captions_not_text"),
        (float("inf"), "captions_not_text"),
        (True, "captions_not_text"),
        (["a dog"], "captions_not_text"),
        ({"raw": "a dog"}, "captions_not_text"),
        (" \n", "captions_empty"),
    ],
    ids=repr,
)
def test_a_caption_that_is_no_text_is_counted_by_reason_and_never_stored(caption, note, tmp_path):
    rows = [
        {"id": 1, "image_id": 1, "caption": caption},
        {"id": 2, "image_id": 2, "caption": "a cat"},
    ]
    listing = read_coco(small(tmp_path, rows))
    assert captions_of(listing) == [(), ("a cat",)]
    assert listing.notes[note] == 1 and listing.notes["without_captions"] == 1


def test_half_a_character_is_marked_and_counted_and_the_rest_is_kept(tmp_path):
    rows = [
        {"id": 1, "image_id": 1, "caption": "a \ud83d dog"},
        {"id": 2, "image_id": 2, "caption": "\U0001f415"},
    ]
    listing = read_coco(small(tmp_path, rows))
    assert captions_of(listing) == [("a \ufffd dog",), ("\U0001f415",)]
    assert listing.notes["captions_with_half_a_character"] == 1


def test_bytes_of_another_encoding_cost_the_captions_they_are_in(tmp_path):
    rows = [
        {"id": 1, "image_id": 1, "caption": "caf?"},
        {"id": 2, "image_id": 2, "caption": "a cat"},
    ]
    path = small(tmp_path, rows) / "annotations/captions_val2017.json"
    # é in Latin-1, which is no UTF-8.
    path.write_bytes(path.read_bytes().replace(b"caf?", b"caf\xe9"))
    listing = read_coco(tmp_path)
    assert captions_of(listing) == [(), ("a cat",)]
    assert listing.notes["captions_not_utf8"] == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_is_read_in_every_encoding_it_may_have(encoding, tmp_path):
    path = (
        small(tmp_path, [{"id": 1, "image_id": 1, "caption": "caf\u00e9"}])
        / "annotations/captions_val2017.json"
    )
    path.write_bytes(json.dumps(json.loads(path.read_text()), ensure_ascii=False).encode(encoding))
    assert by_id(tmp_path)["1"].captions == ("caf\u00e9",)


@pytest.mark.parametrize(
    ("of_image", "of_caption"), [(1, 1), ("1", "1"), (1.0, 1), ("1", 1), (1, 1.0), ("a-b", "a-b")]
)
def test_ids_are_numbers_or_texts(of_image, of_caption, tmp_path):
    images = [{"id": of_image, "file_name": "1.jpg"}]
    objects = [{"id": "x", "image_id": of_caption, "category_id": 7.0}]
    image = by_id(
        small(tmp_path, [{"id": "x", "image_id": of_caption, "caption": "a dog"}], images, objects)
    )["1"]
    assert image.captions == ("a dog",) and image.labels == ("cat",)


@pytest.mark.parametrize(
    "number", [True, None, float("nan"), 1.5, [1], "", {"$oid": 1}, 2.0**80], ids=repr
)
def test_what_is_no_id_belongs_to_no_image_and_is_counted(number, tmp_path):
    rows = [
        {"id": 1, "image_id": number, "caption": "a dog"},
        {"id": number, "image_id": 2, "caption": "a cat"},
    ]
    objects = [{"image_id": number, "category_id": 7}, {"image_id": 2, "category_id": number}]
    images = [{"id": number, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}]
    listing = read_coco(small(tmp_path, rows, images, objects))
    assert captions_of(listing) == [(), ("a cat",)]
    assert [image.labels for image in listing.images] == [(), ()]
    wanted = {"images_without_id": 2, "captions_without_image_id": 1, "objects_without_image_id": 1}
    wanted |= {"objects_of_unknown_class": 1, "files_without_annotation": 1}
    assert wanted.items() <= listing.notes.items()


def test_whole_numbers_of_any_length_are_ids_of_their_own(tmp_path):
    # Beyond 64 bits, and equal as floats.
    numbers = 2**63, 2**63 + 1
    images = [{"id": numbers[0], "file_name": "1.jpg"}, {"id": numbers[1], "file_name": "2.jpg"}]
    rows = [
        {"id": 2**70 + 1, "image_id": str(numbers[0]), "caption": "later"},
        {"id": 2**70, "image_id": numbers[0], "caption": "sooner"},
        {"id": 1, "image_id": numbers[1], "caption": "a cat"},
    ]
    listing = read_coco(small(tmp_path, rows, images))
    assert captions_of(listing) == [("sooner", "later"), ("a cat",)]


def test_what_one_record_says_twice_and_differently_is_not_taken(tmp_path):
    rows = [
        {"id": 1, "image_id": 1, "caption": "a dog"},
        {"id": 2, "image_id": 1, "caption": "a cat"},
    ]
    root = small(tmp_path, rows)
    path = root / "annotations/captions_val2017.json"
    written = path.read_text()
    twice = written.replace('"a dog"', '"a dog", "caption": "a cow"')
    # Twice the same is no contradiction.
    path.write_text(twice.replace('"a cat"', '"a cat", "caption": "a cat"'))
    listing = read_coco(root)
    assert listing.images[0].captions == ("a cat",) and listing.notes["captions_not_text"] == 1
    path.write_text(written.rstrip()[:-1] + ', "annotations": []}')
    with pytest.raises(SourceError, match='has "annotations" twice, and not the same'):
        read_coco(root)


def test_captions_are_ordered_by_ids_of_any_kind(tmp_path):
    ids = ["b", 10, None, "9", 2.0, "a"]
    rows = [{"id": one, "image_id": 1, "caption": f"{one}"} for one in ids]
    assert by_id(small(tmp_path, rows))["1"].captions == ("2.0", "9", "10", "a", "b", "None")


def test_an_id_of_two_images_is_of_neither(tmp_path):
    images = [{"id": 1, "file_name": "1.jpg"}, {"id": 1, "file_name": "2.jpg"}]
    listing = read_coco(small(tmp_path, [{"id": 1, "image_id": 1, "caption": "a dog"}], images))
    assert captions_of(listing) == [(), ()]
    assert listing.notes["ids_of_several_images"] == 2, "in each of the two files"
    assert listing.notes["captions_of_unlisted_images"] == 1


# Addresses, licences and classes


def test_what_the_captions_file_says_of_address_and_licence_comes_before_the_instances_file(
    tmp_path,
):
    record = {"id": 1, "file_name": "1.jpg", "license": 1, "flickr_url": "http://captions"}
    licenses = [{"id": 1, "name": "by"}]
    path = small(tmp_path, [], [record, {"id": 2, "file_name": "2.jpg"}], licenses=licenses)
    path /= "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    content["licenses"] = [{"id": 1, "name": "nc"}]
    for image in content["images"]:
        image |= {"flickr_url": "http://instances", "license": 1}
    path.write_text(json.dumps(content))
    images = by_id(tmp_path)
    assert (images["1"].source_url, images["1"].licence) == ("http://captions", "by")
    assert (images["2"].source_url, images["2"].licence) == ("http://instances", "nc")


@pytest.mark.parametrize("value", [5, True, ["http://a"], {"url": "u"}], ids=repr)
def test_an_address_or_licence_of_another_type_is_counted_and_the_next_best_is_taken(
    value, tmp_path
):
    record = {
        "id": 1,
        "file_name": "1.jpg",
        "flickr_url": value,
        "coco_url": "http://c",
        "license": 1,
    }
    licenses = [{"id": 1, "name": value, "url": "http://by"}]
    listing = read_coco(small(tmp_path, [], [record], licenses=licenses))
    assert listing.images[0].source_url == "http://c" and listing.images[0].licence == "http://by"
    assert listing.notes["addresses_not_text"] == 2 and listing.notes["licences_not_text"] == 2


@pytest.mark.parametrize("value", [None, float("nan"), ""], ids=repr)
def test_an_address_or_licence_that_is_not_said_is_none(value, tmp_path):
    record = {
        "id": 1,
        "file_name": "1.jpg",
        "flickr_url": value,
        "coco_url": value,
        "license": value,
    }
    listing = read_coco(small(tmp_path, [], [record]))
    assert (listing.images[0].source_url, listing.images[0].licence) == (None, None)
    assert not any("not_text" in note or "no_id" in note for note in listing.notes)


@pytest.mark.parametrize(
    ("licenses", "licence", "note"),
    [
        (None, None, "files_without_licenses"),
        ("CC-BY", None, "files_without_licenses"),
        ({}, None, "files_without_licenses"),
        ([7, {"id": 1, "name": "by"}], "by", "licenses_that_are_no_record"),
        ([{"id": 1, "name": "by"}, {"id": 1, "name": "by"}], "by", None),
        ([{"id": 1, "name": "by"}, {"id": 1, "name": "nc"}], None, "licences_that_contradict"),
        ([{"id": 2, "name": "by"}], None, "licences_unknown"),
        ([{"name": "by"}, {"id": "1", "name": "nc"}], "nc", "licences_without_id"),
        ([{"id": 1}], "COCO licence 1", None),
    ],
)
def test_licences_that_are_missing_doubled_or_no_list_are_counted(
    licenses, licence, note, tmp_path
):
    listing = read_coco(
        small(tmp_path, [], [{"id": 1, "file_name": "1.jpg", "license": 1}], licenses=licenses)
    )
    assert listing.images[0].licence == licence
    assert note is None or listing.notes[note] == 2


@pytest.mark.parametrize(
    "categories", [None, {"7": "cat"}, [7], [{"id": 7, "name": None}], [{"name": "cat"}]], ids=repr
)
def test_classes_that_are_missing_or_no_text_are_counted(categories, tmp_path):
    listing = read_coco(
        small(tmp_path, [], objects=[{"image_id": 1, "category_id": 7}], categories=categories)
    )
    assert listing.images[0].labels == () and listing.notes["objects_of_unknown_class"] == 1
    told = {
        "files_without_categories",
        "categories_that_are_no_record",
        "classes_missing",
        "classes_without_id",
    }
    assert len(told & listing.notes.keys()) == 1


def test_records_that_are_none_are_counted(tmp_path):
    listing = read_coco(
        small(tmp_path, [3, None, {"id": 1, "image_id": 1, "caption": "a dog"}], objects=["x"])
    )
    assert (
        listing.images[0].captions == ("a dog",)
        and listing.notes["annotations_that_are_no_record"] == 3
    )


def test_a_git_lfs_pointer_in_place_of_annotations_is_called_one(tmp_path, real_data):
    path = write_coco(tmp_path) / "annotations/captions_val2017.json"
    shutil.copyfile(real_data / "awkward/lfs_pointers/annotations/captions_val2014.json", path)
    with pytest.raises(SourceError, match="is a git-lfs pointer, not the data.*git lfs pull"):
        read_coco(tmp_path)
