"""Reading WikiArt in ArtGAN's layout."""

from collections import Counter
from pathlib import Path

import pytest

from storage.errors import SourceError
from storage.sources import read_wikiart
from storage.sources.wikiart import LICENCE

GRIS, KLEE, ABSENT = "Cubism/juan-gris_bottle-wine-1921.jpg", "Cubism/paul-klee_harbour(1).jpg", "Ukiyo_e/hiroshige_rain.jpg"


def write_wikiart(root: Path) -> Path:
    """Two Cubist paintings, one of them in every list; a listed Ukiyo-e that is absent; a folder of something else."""
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
    (root / "Artist/artist_val").write_bytes(f"(Path to image),, (Groundtruth class) \r\n\r\n{GRIS},,3\r\n".encode())
    (root / "Artist/artist_train").write_bytes(b"\r\n")
    return root


def by_id(root: Path) -> dict:
    return {image.source_id: image for image in read_wikiart(root).images}


def test_style_genre_artist_and_split_are_joined(tmp_path):
    image = by_id(write_wikiart(tmp_path))[GRIS]
    assert (image.style, image.labels, image.author, image.split) == ("Cubism", ("still_life",), "Juan de Gris", "train")
    assert image.path == tmp_path / GRIS and image.licence == LICENCE


def test_a_caption_and_an_unlisted_artist_come_from_the_file_name(tmp_path):
    listing = read_wikiart(write_wikiart(tmp_path))
    images = {image.source_id: image for image in listing.images}
    assert images[GRIS].captions == ("bottle wine 1921 by Juan de Gris",)
    assert images[KLEE].captions == ("harbour by Paul Klee",)
    assert images[KLEE].author == "Paul Klee" and images[KLEE].split is None and images[KLEE].labels == ()
    assert listing.notes["author_from_file_name"] == 2 and listing.notes["in_no_list"] == 1


@pytest.mark.parametrize(
    "name", ["960px-1913_Popova_Das_Modell.jpeg", "Johann_Tischbein_-_Goethe.jpg", "masaccio.jpg!Portrait.jpg"]
)
def test_a_file_not_named_as_artgan_does_has_no_author(name, tmp_path):
    (write_wikiart(tmp_path) / "Cubism" / name).write_bytes(b"jpeg")
    listing = read_wikiart(tmp_path)
    image = next(image for image in listing.images if image.source_id == f"Cubism/{name}")
    assert image.author is None and " by " not in image.captions[0]
    assert listing.notes["without_author"] == 1


def test_a_listed_painting_without_a_file_is_a_row_with_a_reason(tmp_path):
    listing = read_wikiart(write_wikiart(tmp_path))
    image = next(image for image in listing.images if image.source_id == ABSENT)
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
    with pytest.raises(SourceError, match=r"style_train.csv: line 1 says style 'Ukiyo_e' of 'Cubism/juan-gris"):
        read_wikiart(tmp_path)


@pytest.mark.parametrize("line", ["Cubism/a_b.jpg", "Cubism/a_b.jpg,99", "a_b.jpg,7", "Cubism/a_b.jpg,x", ",7"])
def test_a_damaged_list_line_is_named(line, tmp_path):
    write_wikiart(tmp_path)
    (tmp_path / "Style/style_train.csv").write_text(f"{GRIS},7\n{line}\n")
    with pytest.raises(SourceError, match=r"style_train.csv: line 2 is .*not <Style>/<file>,<number of one of 2 classes>"):
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
    assert {name for name in listing.notes if name.startswith("no_")} == {"no_style_lists", "no_genre_lists", "no_artist_lists"}


def test_a_name_is_found_in_the_lists_composed_or_decomposed(tmp_path):
    write_wikiart(tmp_path)
    (tmp_path / "Cubism/rene\u0301-a_b.jpg").write_bytes(b"jpeg")
    (tmp_path / "Style/style_val.csv").write_text("Cubism/ren\u00e9-a_b.jpg,7\n", encoding="utf-8")
    assert by_id(tmp_path)["Cubism/ren\u00e9-a_b.jpg"].split == "val"


def test_names_equal_up_to_normalisation_are_refused(tmp_path):
    write_wikiart(tmp_path)
    for name in ("rene\u0301-a_b.jpg", "ren\u00e9-a_b.jpg"):
        (tmp_path / "Cubism" / name).write_bytes(b"jpeg")
    with pytest.raises(SourceError, match="differs only in Unicode normalisation"):
        read_wikiart(tmp_path)


def test_a_name_of_undecodable_bytes_is_listed_with_storable_text(tmp_path):
    (write_wikiart(tmp_path) / "Cubism/jos\udce9-a_b.jpg").write_bytes(b"jpeg")
    image = by_id(tmp_path)["Cubism/jos\\xe9-a_b.jpg"]
    assert image.path.read_bytes() == b"jpeg"
    image.captions[0].encode("utf-8")


def test_folders_of_pictures_that_are_no_styles_are_not_wikiart(tmp_path):
    (tmp_path / "holidays").mkdir()
    (tmp_path / "holidays/a_b.jpg").write_bytes(b"jpeg")
    with pytest.raises(SourceError, match="is not laid out as wikiart; it holds holidays"):
        read_wikiart(tmp_path)


def test_the_real_sample_is_read_whole(real_data):
    listing = read_wikiart(real_data / "wikiart")
    assert len(listing.images) == 154
    assert listing.notes == {"author_from_file_name": 141, "in_no_list": 4, "other_folders": 2}
    assert Counter(image.split for image in listing.images) == {"train": 118, "val": 32, None: 4}
    assert sum(bool(image.labels) for image in listing.images) == 111
    assert all(image.path and image.author and image.licence and image.captions and image.style for image in listing.images)
    assert all(image.source_id.isascii() for image in listing.images if image.split), "the mojibake names are in no list"
