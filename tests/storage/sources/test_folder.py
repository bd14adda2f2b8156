"""Reading a folder of images."""

import os
from pathlib import Path

import pytest
from listings import ids_of, images_by_id, with_files

from storage.errors import SourceError
from storage.keys import key_of
from storage.sources import read_folder


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def by_id(root: Path) -> dict:
    return images_by_id(read_folder(root))


def keys_of(listing):
    return {key_of("folder", image.source_id, 0) for image in listing.images}


def test_every_file_is_a_row_however_deep_and_whatever_it_is(tmp_path):
    write(tmp_path, b_dot_jpg="x", a__deep__er__c_dot_png="x", notes_dot_pdf="x", noext="x")
    assert list(by_id(tmp_path)) == ["a/deep/er/c.png", "b.jpg", "noext", "notes.pdf"]
    assert by_id(tmp_path)["a/deep/er/c.png"].path == tmp_path / "a/deep/er/c.png"


def test_a_text_beside_an_image_holds_its_captions(tmp_path):
    write(
        tmp_path,
        a_dot_jpg="x",
        a_dot_txt="one\n\n  two \r\n",
        b_dot_jpg="x",
        readme_dot_txt="x",
        notes_dot_md="x",
        notes_dot_txt="x",
    )
    images = by_id(tmp_path)
    assert images["a.jpg"].captions == ("one", "two") and images["b.jpg"].captions == ()
    assert sorted(images) == ["a.jpg", "b.jpg", "notes.md", "notes.txt", "readme.txt"], (
        "texts of no image are rows"
    )
    assert images["notes.md"].captions == ()
    assert read_folder(tmp_path).notes["caption_files"] == 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_captions_are_read_in_every_encoding_that_says_its_name(encoding, tmp_path):
    write(tmp_path, a_dot_jpg="x")
    (tmp_path / "a.txt").write_bytes("caf\u00e9\r\n\U0001f415 dog".encode(encoding))
    assert by_id(tmp_path)["a.jpg"].captions == ("caf\u00e9", "\U0001f415 dog")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("good\ncaf\u00e9".encode("latin-1"), "byte 8 is no UTF-8"),
        ("dog".encode("utf-16-le"), "NUL characters, as UTF-16 without a byte order mark does"),
        ("dog".encode("utf-16-be"), "NUL characters"),
        (b"\xff\xfed", "byte 2 is no UTF-16"),
        ("日本".encode("shift-jis"), "no UTF-8"),
    ],
    ids=["latin-1", "utf-16-le", "utf-16-be", "cut", "shift-jis"],
)
def test_a_caption_file_of_unknown_encoding_is_a_row_and_gives_no_captions(content, why, tmp_path):
    write(tmp_path, a_dot_jpg="x", b_dot_jpg="x", b_dot_txt="of b")
    (tmp_path / "a.txt").write_bytes(content)
    listing = read_folder(tmp_path)
    images = images_by_id(listing)
    assert images["a.jpg"].captions == () and images["b.jpg"].captions == ("of b",)
    assert images["a.txt"].path is None and why in images["a.txt"].reason
    assert (
        listing.notes["caption_files_that_cannot_be_read"] == 1
        and listing.notes["caption_files"] == 1
    )


def test_a_caption_file_that_cannot_be_opened_is_a_row(tmp_path, monkeypatch):
    write(tmp_path, a_dot_jpg="x", a_dot_txt="x")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    images = by_id(tmp_path)
    assert images["a.txt"].reason == "a caption file that cannot be read: Permission denied"
    assert images["a.jpg"].captions == ()


def test_captions_are_found_whatever_the_case_of_their_suffix_and_however_accents_are_composed(
    tmp_path,
):
    write(
        tmp_path,
        a_dot_jpg="x",
        a_dot_TXT="upper",
        b_dot_png="x",
        b_dot_Caption="two",
        b_dot_txt="one",
    )
    for name in ("caf\u00e9.jpg", "cafe\u0301.txt", "22.05.png", "22.05.txt"):
        (tmp_path / name).write_text("of " + name[:2])
    images = by_id(tmp_path)
    assert sorted(images) == ["22.05.png", "a.jpg", "b.png", "caf\u00e9.jpg"]
    assert images["a.jpg"].captions == ("upper",) and images["b.png"].captions == ("one", "two")
    assert images["caf\u00e9.jpg"].captions == ("of ca",) and images["22.05.png"].captions == (
        "of 22",
    )


def test_a_text_too_long_for_captions_is_a_row(tmp_path):
    write(
        tmp_path, a_dot_jpg="x", a_dot_txt="x" * (2**20 + 1), b_dot_jpg="x", b_dot_txt="x" * 2**20
    )
    images = by_id(tmp_path)
    assert sorted(images) == ["a.jpg", "a.txt", "b.jpg"]
    assert images["a.jpg"].captions == () and len(images["b.jpg"].captions[0]) == 2**20


def test_a_text_beside_what_is_no_file_is_a_row(tmp_path):
    write(tmp_path, a_dot_txt="x")
    (tmp_path / "a.jpg").symlink_to("gone")
    images = by_id(tmp_path)
    assert sorted(images) == ["a.jpg", "a.txt"] and images["a.jpg"].captions == ()


def test_hidden_files_and_folders_are_skipped_and_counted(tmp_path):
    write(tmp_path, a_dot_jpg="x")
    write(tmp_path / ".git", b_dot_jpg="x")
    (tmp_path / ".DS_Store").write_text("x")
    listing = read_folder(tmp_path)
    assert ids_of(listing) == ["a.jpg"] and listing.notes["hidden"] == 2


def test_a_link_out_of_the_folder_is_a_row_and_never_followed(tmp_path):
    outside = write(tmp_path / "outside", secret_dot_jpg="x", secret_dot_txt="secret caption")
    root = write(tmp_path / "root", a_dot_jpg="x", b_dot_jpg="x")
    (root / "link.jpg").symlink_to(outside / "secret.jpg")
    (root / "folder").symlink_to(outside)
    (root / "up").symlink_to("../outside/secret.jpg")
    (root / "b.txt").symlink_to(outside / "secret.txt")
    images = by_id(root)
    assert sorted(images) == ["a.jpg", "b.jpg", "b.txt", "folder", "link.jpg", "up"]
    for name in ("b.txt", "folder", "link.jpg", "up"):
        assert images[name].path is None and images[name].reason == "links outside the folder"
    assert images["b.jpg"].captions == (), "the caption file leads outside"


def test_links_inside_the_folder_are_files_but_folders_are_not_entered_twice(tmp_path):
    write(tmp_path, real__a_dot_jpg="x")
    (tmp_path / "b.jpg").symlink_to("real/a.jpg")
    (tmp_path / "again").symlink_to("real")
    (tmp_path / "real/loop").symlink_to("..")
    images = by_id(tmp_path)
    assert sorted(images) == ["again", "b.jpg", "real/a.jpg", "real/loop"]
    assert images["b.jpg"].path == tmp_path / "b.jpg"
    assert (
        images["again"].reason == images["real/loop"].reason == "a link to a folder, not followed"
    )


def test_broken_links_and_circles_are_rows_with_a_reason(tmp_path):
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    images = by_id(tmp_path)
    assert sorted(images) == ["circle.jpg", "gone.jpg"]
    for image in images.values():
        assert image.path is None and "broken link" in image.reason


def test_a_pipe_is_a_row_and_is_not_opened(tmp_path):
    write(tmp_path, a_dot_jpg="x")
    os.mkfifo(tmp_path / "pipe.jpg")
    # Called as the captions of a.jpg are.
    os.mkfifo(tmp_path / "a.txt")
    images = by_id(tmp_path)
    assert images["pipe.jpg"].path is None and "not a file" in images["pipe.jpg"].reason
    assert "not a file" in images["a.txt"].reason, "reading it would wait for ever"


def test_odd_names_give_storable_ids_and_safe_keys(tmp_path):
    for name in (b"bad\xe9byte.jpg", b"new\nline.jpg", "日本語 #1.jpg".encode(), b"-rf.jpg"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"x")
    listing = read_folder(tmp_path)
    assert len(listing.images) == 4
    assert len(keys_of(listing)) == 4
    for image in listing.images:
        image.source_id.encode("utf-8")
        assert image.path.read_bytes() == b"x"


def test_names_equal_up_to_normalisation_or_case_are_images_of_their_own(tmp_path):
    for name in ("cafe\u0301.jpg", "caf\u00e9.jpg", "a.jpg", "A.jpg"):
        (tmp_path / name).write_text(name)
    listing = read_folder(tmp_path)
    assert len(listing.images) == 4 and listing.notes["ids_claimed_twice"] == 1
    image = images_by_id(listing)["caf\u00e9.jpg"]
    assert image.path.name == "caf\u00e9.jpg", "the name that is the id keeps it"


def test_licence_and_author_are_the_callers(tmp_path):
    image = read_folder(write(tmp_path, a_dot_jpg="x"), licence="CC0", author="me").images[0]
    assert (image.licence, image.author) == ("CC0", "me")


def test_a_folder_of_hidden_files_only_is_an_error(tmp_path):
    (tmp_path / ".hidden.jpg").write_text("x")
    with pytest.raises(SourceError, match="holds no files"):
        read_folder(tmp_path)


def test_the_snapshot_follows_images_and_captions(tmp_path):
    write(tmp_path, a_dot_jpg="x", a_dot_txt="one")
    before = read_folder(tmp_path).snapshot
    assert read_folder(tmp_path).snapshot == before
    (tmp_path / "a.txt").write_text("two")
    other_caption = read_folder(tmp_path).snapshot
    (tmp_path / "a.jpg").write_text("xy")
    assert len({before, other_caption, read_folder(tmp_path).snapshot}) == 3


@pytest.mark.parametrize(("folder", "rows"), [("queries", 188), ("awkward", 68)])
def test_the_real_samples_are_listed_whole(folder, rows, real_data):
    listing = read_folder(real_data / folder)
    assert len(listing.images) == rows == len(keys_of(listing)) == len(with_files(listing))
