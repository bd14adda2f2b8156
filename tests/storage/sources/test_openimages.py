"""Reading Open Images."""

import os
import re
import shutil
from pathlib import Path

import pytest
from listings import ids_of, images_by_id, labelled, notes_about

from storage.errors import SourceError
from storage.sources import read_openimages

HEADER = (
    "ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title,"
    "OriginalSize,OriginalMD5,Thumbnail300KURL,Rotation"
)
PAGE, LICENCE = "https://www.flickr.com/photos/x/1", "https://creativecommons.org/licenses/by/2.0/"


def line(
    image_id: str,
    subset: str = "train",
    author: str = "Ann",
    title: str = "T",
    rotation: str = "0.0",
) -> str:
    return f"{image_id},{subset},http://o,{PAGE},{LICENCE},http://p,{author},{title},10,md5==,,{rotation}"


def write_openimages(root: Path, lines: list[str] | None = None) -> Path:
    """train/ holds aa, bb, cc; validation/ holds dd, which no list names; ee is listed and
    absent.
    """
    for split, names in {"train": ("aa", "bb", "cc"), "validation": ("dd",)}.items():
        (root / split).mkdir(parents=True)
        for name in names:
            (root / split / f"{name}.jpg").write_bytes(b"jpeg")
    lines = lines or [
        line("aa", rotation="90.0"),
        line("bb", author='"Doe, J ""X"""', rotation="NaN"),
        line("cc"),
        line("ee"),
    ]
    (root / "image_ids_and_rotation.csv").write_bytes(
        "\n".join([HEADER, *lines, ""]).encode("utf-8", "surrogateescape")
    )
    boxes = (
        "ImageID,Source,LabelName,Confidence\n"
        "aa,x,/m/1,1\naa,x,/m/2,1\naa,x,/m/1,1\nbb,x,/m/9,1\nzz,x,/m/1,1\n"
    )
    (root / "oidv6-train-annotations-bbox.csv").write_text(boxes)
    (root / "class-descriptions-boxable.csv").write_bytes(b'/m/1,Tortoise\r\n/m/2,"Bow, arrow"\r\n')
    return root


def by_id(root: Path, split: str = "all") -> dict:
    return images_by_id(read_openimages(root, split))


def test_author_licence_page_and_rotation_are_joined(tmp_path):
    images = by_id(write_openimages(tmp_path))
    assert (
        images["aa"].author == "Ann"
        and images["aa"].licence == LICENCE
        and images["aa"].source_url == PAGE
    )
    assert images["aa"].rotation_degrees == 90 and images["aa"].split == "train"
    assert images["bb"].author == 'Doe, J "X"' and images["bb"].rotation_degrees == 0
    assert images["aa"].captions == ()


def test_labels_are_class_names_each_once_and_an_unnamed_class_keeps_its_id(tmp_path):
    listing = read_openimages(write_openimages(tmp_path))
    images = images_by_id(listing)
    assert images["aa"].labels == ("Bow, arrow", "Tortoise")
    assert images["bb"].labels == ("/m/9",)
    assert listing.notes["boxes"] == 4 and listing.notes["boxes_of_unnamed_class"] == 1


def test_what_people_found_in_the_whole_image_is_a_label_and_what_they_did_not_find_is_none(
    tmp_path,
):
    root = write_openimages(tmp_path)
    rows = ["aa,verification,/m/3,1", "bb,verification,/m/3,0", "cc,crowdsource,/m/3,1.0"]
    rows += ["cc,machine,/m/1,0.7", "cc,verification,/m/8,1"]
    (root / "train-annotations-human-imagelabels.csv").write_text(
        "\n".join(["ImageID,Source,LabelName,Confidence", *rows, ""])
    )
    with pytest.raises(SourceError, match=r"oidv7-class-descriptions\.csv.*Download https"):
        read_openimages(root)
    (root / "oidv7-class-descriptions.csv").write_text("LabelName,DisplayName\n/m/3,Sky\n")
    listing = read_openimages(root)
    assert {image.source_id: image.labels for image in listing.images} == {
        "aa": ("Bow, arrow", "Sky", "Tortoise"), "bb": ("/m/9",), "cc": ("/m/8", "Sky"), "dd": (),
    }  # fmt: skip
    assert listing.notes["image_labels"] == 3 and listing.notes["image_labels_not_present"] == 2
    assert listing.notes["image_labels_of_unnamed_class"] == 1
    assert "without_labels" not in listing.notes, "each of train, the split with a list, has one"


def test_only_files_on_the_disk_are_rows_and_the_rest_is_counted(tmp_path):
    listing = read_openimages(write_openimages(tmp_path))
    assert ids_of(listing) == ["aa", "bb", "cc", "dd"]
    assert listing.notes["listed_but_absent"] == 1 and listing.notes["metadata_rows"] == 4
    assert listing.notes["without_metadata"] == 1 and listing.notes["rotation_unknown"] == 1
    assert listing.notes["no_box_list_for_validation"] == 1
    assert listing.images[3].licence is None


def test_absent_files_are_counted_for_the_chosen_split_only(tmp_path):
    write_openimages(tmp_path, [line("aa"), line("gg", "validation"), line("hh", "validation")])
    assert "listed_but_absent" not in read_openimages(tmp_path, "train").notes
    assert read_openimages(tmp_path, "validation").notes["listed_but_absent"] == 2


@pytest.mark.parametrize(
    ("written", "degrees", "note"),
    [
        ("0", 0, None),
        ("180", 180, None),
        ("270.0", 270, None),
        ("nan", 0, "unknown"),
        ("", 0, "unknown"),
        ("45", 0, "unusable"),
    ],
)
def test_a_rotation_is_a_quarter_turn_or_counted(written, degrees, note, tmp_path):
    listing = read_openimages(write_openimages(tmp_path, [line("aa", rotation=written)]))
    assert listing.images[0].rotation_degrees == degrees
    assert notes_about(listing, "rotation") == ({f"rotation_{note}"} if note else set())


def test_the_download_address_stands_in_where_no_page_is_known(tmp_path):
    write_openimages(tmp_path)
    text = "image_name,image_url\ndd.jpg,http://mirror/dd.jpg\n"
    (tmp_path / "validation-images-boxable.csv").write_text(text)
    (tmp_path / "train-images-boxable.csv").write_text(text.replace("dd", "aa"))
    images = by_id(tmp_path)
    assert images["dd"].source_url == "http://mirror/dd.jpg" and images["aa"].source_url == PAGE


def test_the_list_of_a_split_serves_where_the_full_list_is_missing(tmp_path):
    write_openimages(tmp_path)
    (tmp_path / "image_ids_and_rotation.csv").rename(
        tmp_path / "train-images-boxable-with-rotation.csv"
    )
    assert by_id(tmp_path, "train")["aa"].author == "Ann"
    with pytest.raises(
        SourceError, match="this file is missing, and so is validation-images-with-rotation.csv"
    ):
        read_openimages(tmp_path)


def test_a_missing_metadata_list_is_an_error_because_licences_must_travel(tmp_path):
    path = write_openimages(tmp_path) / "image_ids_and_rotation.csv"
    path.unlink()
    with pytest.raises(
        SourceError,
        match=f"{path}: this file is missing.*Download http.*licence and author must travel",
    ):
        read_openimages(tmp_path)


def test_boxes_without_class_names_are_an_error_and_no_boxes_are_none(tmp_path):
    write_openimages(tmp_path)
    (tmp_path / "class-descriptions-boxable.csv").unlink()
    with pytest.raises(SourceError, match="class-descriptions-boxable.csv: this file is missing"):
        read_openimages(tmp_path)
    (tmp_path / "oidv6-train-annotations-bbox.csv").unlink()
    assert read_openimages(tmp_path).notes["no_box_list_for_train"] == 1


def test_a_list_with_other_columns_is_named_with_its_first_line(tmp_path):
    path = write_openimages(tmp_path) / "image_ids_and_rotation.csv"
    path.write_text(path.read_text().replace(",", ";"))
    with pytest.raises(
        SourceError, match=re.escape(str(path)) + ".*line 1 has no column ImageID.*spreadsheet"
    ):
        read_openimages(tmp_path)


def test_a_damaged_row_in_a_short_list_is_named_with_its_line(tmp_path):
    write_openimages(tmp_path, [line("aa"), "bb,train,oops", line("cc")])
    with pytest.raises(
        SourceError,
        match=(
            "1 of 3 rows are damaged, first line 3: "
            "other fields than the header: 3 instead of 12 in"
        ),
    ):
        read_openimages(tmp_path)


def test_a_damaged_row_among_many_is_left_out_and_counted(tmp_path):
    write_openimages(tmp_path, [line("aa"), *(line(f"x{i}") for i in range(200)), "bb,train,oops"])
    listing = read_openimages(tmp_path)
    assert (
        listing.notes["rows_with_other_fields_than_the_header"] == 1
        and listing.images[1].author is None
    )


def test_text_that_is_no_utf8_is_left_out_and_counted_and_the_rest_of_its_row_is_kept(tmp_path):
    write_openimages(
        tmp_path, [line("aa", author="J\udcf6rg", rotation="90"), line("cc", title="\udcff")]
    )
    listing = read_openimages(tmp_path)
    assert listing.images[0].author is None and listing.images[0].licence == LICENCE
    assert listing.images[0].rotation_degrees == 90 and listing.images[2].author == "Ann"
    assert listing.notes["authors_not_utf8"] == 1


def test_an_image_in_two_splits_is_read_once_and_told(tmp_path):
    write_openimages(tmp_path)
    # One image in two splits, and one under two suffixes.
    shutil.copyfile(tmp_path / "train/aa.jpg", tmp_path / "validation/aa.jpg")
    (tmp_path / "train/bb.png").write_bytes(b"png")
    listing = read_openimages(tmp_path)
    reasons = sorted(image.reason for image in listing.images if image.reason)
    assert reasons == [
        "train/bb.png is the same image as train/bb.jpg",
        "validation/aa.jpg is the same image as train/aa.jpg",
    ]
    assert listing.notes["images_there_twice"] == 2 and len(listing.images) == 6
    assert by_id(tmp_path)["aa"].author == "Ann"


def test_a_file_is_taken_before_a_broken_link_of_its_name(tmp_path):
    # train comes before validation, where the file is.
    (write_openimages(tmp_path) / "train/dd.jpg").symlink_to("gone")
    listing = read_openimages(tmp_path)
    image = images_by_id(listing)["dd"]
    assert image.path == tmp_path / "validation/dd.jpg" and len(listing.images) == 5


def test_a_folder_that_cannot_be_listed_is_a_row_and_no_image_of_a_list(tmp_path, monkeypatch):
    (write_openimages(tmp_path) / "train/more.0").mkdir()
    plain = os.scandir

    def scandir(path):
        if Path(path).name == "more.0":
            raise PermissionError(13, "Permission denied")
        return plain(path)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = read_openimages(tmp_path)
    assert by_id(tmp_path)["more.0"].reason == "a folder that cannot be listed: Permission denied"
    assert listing.notes["without_metadata"] == 1, "dd alone"


def test_images_of_every_suffix_and_in_folders_are_found_and_others_counted(tmp_path):
    write_openimages(tmp_path, [line(name) for name in ("aa", "ff", "gg", "hh")])
    (tmp_path / "train/train_0").mkdir()
    for name in ("ff.JPG", "gg.webp", "train_0/hh.jpeg", "list.txt"):
        (tmp_path / "train" / name).write_bytes(b"x")
    listing = read_openimages(tmp_path, "train")
    images = images_by_id(listing)
    for name in ("ff", "gg", "hh"):
        assert images[name].author == "Ann" and images[name].path
    assert listing.notes["other_files"] == 1


@pytest.mark.parametrize(
    ("written", "degrees"),
    [("90.00", 90), ("-90", 270), ("360", 0), (" 180 ", 180), ("+270.", 270)],
)
def test_a_quarter_turn_is_read_however_it_is_written(written, degrees, tmp_path):
    listing = read_openimages(write_openimages(tmp_path, [line("aa", rotation=written)]))
    assert listing.images[0].rotation_degrees == degrees
    assert not notes_about(listing, "rotation")


@pytest.mark.parametrize(
    "written", ["1e2", "9e1", "zero", "inf", "1_80", "90.5", "-", "0x5a", "\uff19\uff10"]
)
def test_another_rotation_is_none_and_counted(written, tmp_path):
    listing = read_openimages(write_openimages(tmp_path, [line("aa", rotation=written)]))
    assert listing.images[0].rotation_degrees == 0 and listing.notes["rotation_unusable"] == 1


def test_a_list_of_boxes_that_holds_blank_rows_only_is_refused(tmp_path):
    path = write_openimages(tmp_path) / "oidv6-train-annotations-bbox.csv"
    for rows, told in (
        ("\n" * 500, "holds no row, only its header and 500 blank lines"),
        (",,,\n" * 500, "500 of 500 rows are damaged"),
    ):
        path.write_text("ImageID,Source,LabelName,Confidence\n" + rows)
        with pytest.raises(SourceError, match=f"bbox.csv: {told}"):
            read_openimages(tmp_path)


def test_blank_lines_and_damage_of_every_list_are_told(tmp_path):
    path = write_openimages(tmp_path) / "oidv6-train-annotations-bbox.csv"
    path.write_text(path.read_text() + "\n\n" + "zz,x,/m/1,1\n" * 200 + ",,,\n" + 'zz,"x,/m/1,1\n')
    listing = read_openimages(tmp_path)
    assert listing.notes["blank_lines"] == 2 and listing.notes["boxes"] == 4
    assert listing.notes["rows_with_nothing_in_ImageID"] == 1
    assert listing.notes["rows_with_a_quote_that_is_not_closed"] == 1


def test_a_damaged_class_name_among_many_is_left_out_and_counted(tmp_path):
    path = write_openimages(tmp_path) / "class-descriptions-boxable.csv"
    with path.open("ab") as file:
        file.write(b'"/m/open,X\n/m/9,caf\xe9\n')
        for number in range(200):
            file.write(b"/m/x%d,Name\n" % number)
    listing = read_openimages(tmp_path)
    assert listing.notes["class_names_damaged"] == 1 and listing.notes["class_names_not_utf8"] == 1
    assert listing.images[0].labels == ("Bow, arrow", "Tortoise") and listing.images[1].labels == (
        "/m/9",
    )


def test_a_class_with_two_names_has_neither_and_is_counted(tmp_path):
    path = write_openimages(tmp_path) / "class-descriptions-boxable.csv"
    path.write_bytes(path.read_bytes() + b'/m/1,Turtle\n/m/2,"Bow, arrow"\n')
    listing = read_openimages(tmp_path)
    assert listing.images[0].labels == ("/m/1", "Bow, arrow")
    assert listing.notes["class_names_that_contradict"] == 1


def test_what_two_rows_say_differently_of_an_image_is_taken_from_neither(tmp_path):
    write_openimages(
        tmp_path, [line("aa"), line("aa", author="Bob", rotation="90"), line("bb"), line("bb")]
    )
    listing = read_openimages(tmp_path)
    first, second = listing.images[:2]
    assert (first.author, first.licence, first.rotation_degrees) == (None, LICENCE, 0)
    assert (second.author, second.licence) == ("Ann", LICENCE)
    assert listing.notes["listed_twice"] == 2 and listing.notes["listed_twice_and_otherwise"] == 2
    assert listing.notes["without_author"] == 1 and "without_licence" not in listing.notes


def test_images_without_a_box_are_counted_where_there_is_a_list_of_boxes(tmp_path):
    path = write_openimages(tmp_path) / "oidv6-train-annotations-bbox.csv"
    assert read_openimages(tmp_path).notes["without_labels"] == 1, "cc; validation has no list"
    path.write_text("ImageID,LabelName\nof-another-split,/m/1\n")
    assert read_openimages(tmp_path).notes["without_labels"] == 3
    path.unlink()
    assert "without_labels" not in read_openimages(tmp_path).notes


def test_class_names_with_a_header_are_read_too(tmp_path):
    path = write_openimages(tmp_path) / "class-descriptions-boxable.csv"
    path.write_text("LabelName,DisplayName\n" + path.read_text())
    assert by_id(tmp_path)["aa"].labels == ("Bow, arrow", "Tortoise")


def test_a_class_list_saved_by_a_spreadsheet_is_named_with_its_line(tmp_path, real_data):
    write_openimages(tmp_path)
    shutil.copyfile(
        real_data / "awkward/csv/class-descriptions-boxable.csv",
        tmp_path / "class-descriptions-boxable.csv",
    )
    with pytest.raises(
        SourceError,
        match=(
            "class-descriptions-boxable.csv: 601 of 601 .* line 1: "
            "not LabelName,DisplayName.*Tortoise"
        ),
    ):
        read_openimages(tmp_path)


def test_the_real_sample_is_read_whole(real_data):
    listing = read_openimages(real_data / "openimages")
    assert len(listing.images) == 49
    assert listing.notes == {
        "boxes": 322,
        "metadata_rows": 9,
        "rotation_unknown": 4,
        "source_url_is_a_download": 20,
        "without_labels": 9,
        "without_metadata": 40,
    }
    assert len(labelled(listing)) == 40
    with_author = [image for image in listing.images if image.author]
    assert len(with_author) == 9
    for image in with_author:
        assert image.licence == LICENCE
    author = images_by_id(listing)["008e55802c9e2f90"].author
    assert author == "Louisiana Sea Grant College Program Louisiana State University"
    labels = set()
    for image in listing.images:
        labels.update(image.labels)
    assert labels >= {"Lily", "Person", "Human arm"}
