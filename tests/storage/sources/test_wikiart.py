"""Reading WikiArt in ArtGAN's layout."""

import re
from collections import Counter
from pathlib import Path

import pytest
from listings import images_by_id, labelled, notes_about, with_files

from storage.errors import SourceError
from storage.sources import read_wikiart
from storage.sources.wikiart import LICENCE

GRIS, KLEE, ABSENT = (
    "Cubism/juan-gris_bottle-wine-1921.jpg",
    "Cubism/paul-klee_harbour(1).jpg",
    "Ukiyo_e/hiroshige_rain.jpg",
)


def write_wikiart(root: Path) -> Path:
    """Two Cubist paintings, one of them in every list; a listed Ukiyo-e that is absent; a folder of
    something else.
    """
    for folder in ("Cubism", "Style", "Genre", "Artist", "api"):
        (root / folder).mkdir()
    for name in (GRIS, KLEE):
        (root / name).write_bytes(b"jpeg")
    (root / "api/paintings.json").write_text("[]")
    (root / "Cubism/notes.md").write_text("x")
    (root / "Style/style_class.txt").write_text("7 Cubism\n26 Ukiyo_e\n")
    (root / "Style/style_train.csv").write_bytes(f"{GRIS},7\r\n{ABSENT},26\r\n".encode())
    (root / "Style/style_val.csv").write_bytes(b"\r\n")
    (root / "Genre/genre_class").write_text("9 still_life")
    (root / "Genre/genre_train.csv").write_bytes(b"\r\n")
    (root / "Genre/genre_val.csv").write_bytes(f"{GRIS},9\r\n".encode())
    (root / "Artist/artist_class").write_text("3 Juan_de_Gris\n")
    (root / "Artist/artist_val").write_bytes(
        f"(Path to image),, (Groundtruth class) \r\n\r\n{GRIS},,3\r\n".encode()
    )
    (root / "Artist/artist_train").write_bytes(b"\r\n")
    return root


def by_id(root: Path) -> dict:
    return images_by_id(read_wikiart(root))


def test_style_genre_artist_and_split_are_joined(tmp_path):
    image = by_id(write_wikiart(tmp_path))[GRIS]
    assert (image.style, image.labels, image.author, image.split) == (
        "Cubism",
        ("still_life",),
        "Juan de Gris",
        "train",
    )
    assert image.path == tmp_path / GRIS and image.licence == LICENCE


def test_a_caption_and_an_unlisted_artist_come_from_the_file_name(tmp_path):
    listing = read_wikiart(write_wikiart(tmp_path))
    images = images_by_id(listing)
    assert images[GRIS].captions == ("bottle wine 1921 by Juan de Gris",)
    assert images[KLEE].captions == ("harbour by Paul Klee",)
    assert (
        images[KLEE].author == "Paul Klee"
        and images[KLEE].split is None
        and images[KLEE].labels == ()
    )
    assert listing.notes["author_from_file_name"] == 2 and listing.notes["in_no_list"] == 1


@pytest.mark.parametrize(
    "name",
    [
        "960px-1913_Popova_Das_Modell.jpeg",
        "Johann_Tischbein_-_Goethe.jpg",
        "masaccio.jpg!Portrait.jpg",
    ],
)
def test_a_file_not_named_as_artgan_does_has_no_author(name, tmp_path):
    (write_wikiart(tmp_path) / "Cubism" / name).write_bytes(b"jpeg")
    listing = read_wikiart(tmp_path)
    image = images_by_id(listing)[f"Cubism/{name}"]
    assert image.author is None and " by " not in image.captions[0]
    assert listing.notes["without_author"] == 1


def test_a_listed_painting_without_a_file_is_a_row_with_a_reason(tmp_path):
    listing = read_wikiart(write_wikiart(tmp_path))
    image = images_by_id(listing)[ABSENT]
    assert image.path is None and image.style == "Ukiyo_e" and image.licence == LICENCE
    assert image.reason == "listed in Style/style_train.csv, but the file is absent"
    assert listing.notes["listed_but_absent"] == 1


def test_folders_without_images_and_other_files_are_counted_not_read(tmp_path):
    notes = read_wikiart(write_wikiart(tmp_path)).notes
    assert notes["other_folders"] == 1 and notes["other_files"] == 1
    (tmp_path / "My_Style").mkdir()
    (tmp_path / "My_Style/a_b.jpg").write_bytes(b"jpeg")
    assert read_wikiart(tmp_path).notes["folders_of_unknown_style"] == 1


def test_a_list_that_contradicts_the_folder_is_an_error(tmp_path):
    write_wikiart(tmp_path)
    (tmp_path / "Style/style_train.csv").write_text(f"{GRIS},26\n")
    with pytest.raises(
        SourceError, match=r"style_train.csv: line 1 says style 'Ukiyo_e' of 'Cubism/juan-gris"
    ):
        read_wikiart(tmp_path)


@pytest.mark.parametrize(
    "line", ["Cubism/a_b.jpg", "Cubism/a_b.jpg,99", "a_b.jpg,7", "Cubism/a_b.jpg,x", ",7"]
)
def test_a_damaged_list_line_is_named(line, tmp_path):
    write_wikiart(tmp_path)
    (tmp_path / "Style/style_train.csv").write_text(f"{GRIS},7\n{line}\n")
    with pytest.raises(
        SourceError,
        match=(
            "style_train.csv: 1 of 2 rows are damaged, first line 2 is "
            ".*not <Style>/<file>,<number of one of 2 classes>"
        ),
    ):
        read_wikiart(tmp_path)


def test_a_damaged_class_list_is_named(tmp_path):
    (write_wikiart(tmp_path) / "Genre/genre_class").write_text("9 still_life\nportrait\n")
    with pytest.raises(SourceError, match="genre_class: line 2 is 'portrait'"):
        read_wikiart(tmp_path)


def test_a_missing_list_beside_its_class_list_is_an_error(tmp_path):
    (write_wikiart(tmp_path) / "Genre/genre_val.csv").unlink()
    with pytest.raises(SourceError, match="genre_val.csv: this file is missing"):
        read_wikiart(tmp_path)


def test_without_any_lists_the_folders_alone_serve_and_it_is_noted(tmp_path):
    (tmp_path / "Cubism").mkdir()
    (tmp_path / GRIS).write_bytes(b"jpeg")
    listing = read_wikiart(tmp_path)
    assert listing.images[0].author == "Juan Gris" and listing.images[0].licence == LICENCE
    assert notes_about(listing, "no_") == {
        "no_style_lists",
        "no_genre_lists",
        "no_artist_lists",
    }


def test_a_name_is_found_in_the_lists_composed_or_decomposed(tmp_path):
    write_wikiart(tmp_path)
    (tmp_path / "Cubism/rene\u0301-a_b.jpg").write_bytes(b"jpeg")
    (tmp_path / "Style/style_val.csv").write_text("Cubism/ren\u00e9-a_b.jpg,7\n", encoding="utf-8")
    assert by_id(tmp_path)["Cubism/ren\u00e9-a_b.jpg"].split == "val"


def test_names_equal_up_to_normalisation_are_images_of_their_own(tmp_path):
    write_wikiart(tmp_path)
    for name in ("rene\u0301-a_b.jpg", "ren\u00e9-a_b.jpg"):
        (tmp_path / "Cubism" / name).write_bytes(b"jpeg")
    listing = read_wikiart(tmp_path)
    assert listing.notes["ids_claimed_twice"] == 1
    assert {image.author for image in listing.images if "ren" in image.source_id} == {"Ren\u00e9 A"}


@pytest.mark.parametrize(
    "escaped", ["fernand-l#U00e9ger", "fernand-le#U0301ger", "fernand-l#L0000e9ger"]
)
def test_a_name_as_unzip_escapes_it_is_the_name(escaped, tmp_path):
    (write_wikiart(tmp_path) / f"Cubism/{escaped}_the-city.jpg").write_bytes(b"jpeg")
    (tmp_path / "Style/style_val.csv").write_text(
        "Cubism/fernand-l\u00e9ger_the-city.jpg,7\n", encoding="utf-8"
    )
    listing = read_wikiart(tmp_path)
    image = images_by_id(listing)["Cubism/fernand-l\u00e9ger_the-city.jpg"]
    assert image.split == "val"
    assert image.captions == ("the city by Fernand L\u00e9ger",) and image.path.name.startswith(
        escaped
    )
    assert listing.notes["names_escaped_by_unzip"] == 1


@pytest.mark.parametrize(
    "name",
    [
        "a_b#Uzz.jpg",
        "a_b#U12.jpg",
        "a_b#Ud83d.jpg",
        "a_b#U002f.jpg",
        "a_b#Lffffff.jpg",
        "no-#U.jpg",
    ],
)
def test_what_only_looks_like_an_escape_stays(name, tmp_path):
    (write_wikiart(tmp_path) / "Cubism" / name).write_bytes(b"jpeg")
    assert (
        f"Cubism/{name}" in by_id(tmp_path)
        and "names_escaped_by_unzip" not in read_wikiart(tmp_path).notes
    )


@pytest.mark.parametrize(
    ("name", "author", "caption"),
    [
        ("fernand-l\u00c3\u00a9ger_two-women.jpg", None, "two women"),  # UTF-8 read as Latin-1
        ("andr\u00c3\u0192_rugby.jpg", None, "rugby"),  # and as Windows-1252
        (
            "ant\u0393\u00f6\u00a3nio_na-cisterna.jpg",
            "Ant\u0393\u00f6\u00a3nio",
            "na cisterna by Ant\u0393\u00f6\u00a3nio",
        ),
        ("ant\u251c\u2502nio_na-cisterna.jpg", None, "na cisterna"),  # as code page 437
        ("andr?-lhote_rugby.jpg", None, "rugby"),
        ("andr\ufffd-lhote_rugby.jpg", None, "rugby"),
        ("jos\udce9-a_b.jpg", None, "b"),
        ("joan-miro_caf\u00c3\u00a9.jpg", "Joan Miro", None),
        ("joan-miro_who-is-it?.jpg", "Joan Miro", "who is it? by Joan Miro"),
        (
            "fernand-l\u00e9ger_\u00e9t\u00e9.jpg",
            "Fernand L\u00e9ger",
            "\u00e9t\u00e9 by Fernand L\u00e9ger",
        ),
        ("\u6b4c\u5ddd_\u96e8.jpg", "\u6b4c\u5ddd", "\u96e8 by \u6b4c\u5ddd"),
        ("pablo-picasso_.jpg", "Pablo Picasso", None),
        ("pablo-picasso_-.jpg", "Pablo Picasso", None),
        ("_untitled.jpg", None, "untitled"),
        ("_.jpg", None, None),
        ("noartist.jpg", None, "noartist"),
        ("o'brien_it's-a-day.jpg", "O'brien", "it's a day by O'brien"),
    ],
)
def test_what_a_file_name_says_of_artist_and_title_is_right_or_left_out(
    name, author, caption, tmp_path
):
    (write_wikiart(tmp_path) / "Cubism" / name).write_bytes(b"jpeg")
    listing = read_wikiart(tmp_path)
    (image,) = [image for image in with_files(listing) if image.path.name == name]
    assert image.author == author and image.captions == (() if caption is None else (caption,))
    assert listing.notes.get("without_author", 0) == (author is None)
    assert listing.notes.get("without_title", 0) == (caption is None)
    garbled = "artists_garbled" in listing.notes or "titles_garbled" in listing.notes
    # "é" read as Windows-1252 and as code page 437, a lost letter, and bytes that are no UTF-8
    assert garbled == bool(re.search("\u00c3|\u251c|dr\\?|\ufffd|\udce9", name))


@pytest.mark.parametrize("written", ["{}\t7", "./{},7", "{} , 7", "{},,7", "{},7\r"])
def test_a_line_of_a_list_may_be_written_in_other_ways(written, tmp_path):
    write_wikiart(tmp_path)
    (tmp_path / "Style/style_train.csv").write_text(written.format(GRIS) + "\n")
    (tmp_path / "Style/style_val.csv").write_text(
        written.format(KLEE).replace("/", "\\").replace(".\\", "./") + "\n"
    )
    images = by_id(tmp_path)
    assert images[GRIS].split == "train" and images[KLEE].split == "val"


def test_a_damaged_line_among_many_is_left_out_and_counted(tmp_path):
    write_wikiart(tmp_path)
    good = [f"Cubism/a_{number}.jpg,7" for number in range(200)]
    (tmp_path / "Style/style_train.csv").write_text(
        "\n".join([f"{GRIS},7", "Cubism/b_c.jpg,99", *good])
    )
    listing = read_wikiart(tmp_path)
    assert listing.notes["list_lines_damaged"] == 1
    assert images_by_id(listing)[GRIS].split == "train"


def test_lists_in_utf16_are_read_by_their_mark_and_refused_without(tmp_path):
    path = write_wikiart(tmp_path) / "Style/style_train.csv"
    path.write_bytes(f"{GRIS},7\n".encode("utf-16"))
    assert by_id(tmp_path)[GRIS].split == "train"
    for content in (f"{GRIS},7\n".encode("utf-16-le"), b"\xff\xfeC"):
        path.write_bytes(content)
        with pytest.raises(SourceError, match="style_train.csv: is no text: .*Save it as UTF-8"):
            read_wikiart(tmp_path)


def test_a_class_whose_name_is_no_utf8_is_left_out_and_counted(tmp_path):
    (write_wikiart(tmp_path) / "Artist/artist_class").write_bytes(b"3\tJuan_de_Gr\xeds\n")
    listing = read_wikiart(tmp_path)
    image = images_by_id(listing)[GRIS]
    assert image.author == "Juan Gris", "the file name's"
    assert listing.notes["class_names_not_utf8"] == 1


def test_an_empty_list_is_named(tmp_path):
    (write_wikiart(tmp_path) / "Style/style_train.csv").write_bytes(b"")
    with pytest.raises(SourceError, match="style_train.csv: this file is empty"):
        read_wikiart(tmp_path)


def test_folders_inside_a_style_are_counted_and_not_entered(tmp_path):
    (write_wikiart(tmp_path) / "Cubism/more").mkdir()
    (tmp_path / "Cubism/more/a_b.jpg").write_bytes(b"jpeg")
    listing = read_wikiart(tmp_path)
    assert listing.notes["folders_not_entered"] == 1 and "Cubism/more/a_b.jpg" not in by_id(
        tmp_path
    )


def test_folders_of_pictures_that_are_no_styles_are_not_wikiart(tmp_path):
    (tmp_path / "holidays").mkdir()
    (tmp_path / "holidays/a_b.jpg").write_bytes(b"jpeg")
    with pytest.raises(SourceError, match="is not laid out as wikiart; it holds holidays"):
        read_wikiart(tmp_path)


@pytest.mark.parametrize(
    ("name", "author", "captions"),
    [
        ("ren\u00e9_???.jpg", "Ren\u00e9", ()),
        ("???_tea.jpg", None, ("tea",)),
        ("--_tea.jpg", None, ("tea",)),
    ],
)
def test_an_artist_or_title_without_a_letter_is_none(name, author, captions, tmp_path):
    (write_wikiart(tmp_path) / "Cubism" / name).write_bytes(b"jpeg")
    image = by_id(tmp_path)[f"Cubism/{name}"]
    assert image.author == author and image.captions == captions


def test_pictures_beside_the_styles_and_below_them_are_told(tmp_path):
    write_wikiart(tmp_path)
    (tmp_path / "lost.jpg").write_bytes(b"jpeg")
    (tmp_path / "readme.txt").write_bytes(b"no picture")
    (tmp_path / "Rococo/deeper").mkdir(parents=True)
    (tmp_path / "Rococo/deeper/a_b.jpg").write_bytes(b"jpeg")
    notes = read_wikiart(tmp_path).notes
    assert notes["pictures_in_no_style"] == 1 and notes["folders_not_entered"] == 1


def test_the_real_sample_is_read_whole(real_data):
    listing = read_wikiart(real_data / "wikiart")
    assert len(listing.images) == 154
    told = {
        "artists_garbled": 4,
        "author_from_file_name": 137,
        "in_no_list": 4,
        "other_folders": 2,
        "without_author": 4,
    }
    assert listing.notes == told, "four names are mojibake, as in the real zip"
    assert Counter(image.split for image in listing.images) == {"train": 118, "val": 32, None: 4}
    assert len(labelled(listing)) == 111
    for image in listing.images:
        assert image.path and image.licence and image.captions and image.style
        if image.split:
            assert image.source_id.isascii(), "the mojibake names are in no list"
