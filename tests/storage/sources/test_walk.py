"""What lies under a folder, in every reader: nothing of it ends a listing, and our own root is left
out.
"""

import json
import os
import socket
from collections import Counter
from pathlib import Path

import pytest
from listings import ids_of, images_by_id, with_files

from storage.errors import SourceError
from storage.sources import SOURCES, read_folder, read_wikiart
from storage.sources.walk import walk

IMAGES = {
    "coco": "val2017",
    "openimages": "train",
    "wikiart": "Cubism",
    "folder": "pictures",
}
"""Where each data set keeps its images."""


@pytest.fixture(params=sorted(IMAGES))
def dataset(request, tmp_path):
    """(reader, its folder, the folder of its images, which holds good.jpg)."""
    root = tmp_path / "set"
    images = root / IMAGES[request.param]
    images.mkdir(parents=True)
    (images / "good.jpg").write_bytes(b"jpeg")
    if request.param == "coco":
        (root / "annotations").mkdir()
        content = {"images": [], "annotations": []}
        for name in ("captions", "instances"):
            (root / f"annotations/{name}_val2017.json").write_text(json.dumps(content))
    if request.param == "openimages":
        header = "ImageID,Subset,License,Author,OriginalLandingURL,Rotation"
        (root / "image_ids_and_rotation.csv").write_text(f"{header}\nx,train,,,,0\n")
    return SOURCES[request.param], root, images


def reasons(listing):
    """Name of a file without folders and suffix -> its reason."""
    by_name = {}
    for image in listing.images:
        by_name[image.source_id.rsplit("/")[-1].split(".")[0]] = image.reason
    return by_name


def unlisted(monkeypatch, name):
    """A folder of that name may not be listed; the tests may run as root, whom no mode stops."""
    plain = os.scandir

    def scandir(path):
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_links_in_a_circle_pipes_sockets_and_devices_are_rows(dataset, monkeypatch):
    reader, root, images = dataset
    (images / "circle.jpg").symlink_to("circle.jpg")
    (images / "one.jpg").symlink_to("two.jpg")
    (images / "two.jpg").symlink_to("one.jpg")
    (images / "gone.jpg").symlink_to("nowhere.jpg")
    (images / "device.jpg").symlink_to("/dev/zero")
    (images / "folder.jpg").symlink_to("..")
    os.mkfifo(images / "pipe.jpg")
    monkeypatch.chdir(images)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.jpg")
    (images / "folder").symlink_to(images)
    told = reasons(reader(root))
    assert told["good"] is None
    for name in ("circle", "one", "two", "gone"):
        assert told[name].startswith("a broken link: ")
    for name in ("pipe", "socket"):
        assert told[name] == "a pipe, socket or device, not a file"
    assert told["device"] in ("a pipe, socket or device, not a file", "links outside the folder")
    assert told["folder"] in ("a link to a folder, not followed", "links outside the folder")


def test_a_folder_that_may_not_be_listed_is_a_row(dataset, monkeypatch):
    reader, root, images = dataset
    if reader is read_wikiart:
        images = root
        (root / "locked").mkdir()
    (images / "locked").mkdir(exist_ok=True)
    if reader is read_wikiart:
        plain = os.listdir

        def listdir(path):
            if Path(path).name == "locked":
                raise PermissionError(13, "Permission denied")
            return plain(path)

        monkeypatch.setattr(os, "listdir", listdir)
    else:
        unlisted(monkeypatch, "locked")
    told = reasons(reader(root))
    assert told["good"] is None
    assert told["locked"] == "a folder that cannot be listed: Permission denied"


def test_a_file_that_may_not_be_read_is_a_row_and_read_again_once_it_may(dataset, monkeypatch):
    reader, root, images = dataset
    (images / "secret.jpg").write_bytes(b"jpeg")
    open_to_all = reader(root)
    plain = os.access
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "access", lambda path, mode: "secret" not in str(path) and plain(path, mode)
        )
        locked = reader(root)
    assert reasons(locked) == {"good": None, "secret": "may not be read: Permission denied"}
    assert locked.snapshot != open_to_all.snapshot == reader(root).snapshot


def test_odd_names_are_rows_with_ids_of_their_own(dataset):
    reader, root, images = dataset
    names = [
        "a.JPG",
        "A.jpg",
        "a.jpg",
        "x" * 250 + ".jpg",
        "new\nline.jpg",
        "caf\udce9.jpg",
        "-rf.jpg",
        "*.jpg",
    ]
    for name in names:
        (images / name).write_bytes(b"jpeg")
    listing = reader(root)
    taken = {image.path.name for image in with_files(listing)}
    # Open Images takes no two files of one id: its ids are names without a suffix.
    twice = {"a.JPG", "a.jpg"} if listing.notes.get("images_there_twice") else set()
    assert taken | twice == {*names, "good.jpg"}
    assert len(images_by_id(listing)) == len(listing.images)
    for image in listing.images:
        image.source_id.encode()


def test_hidden_entries_are_counted(dataset):
    reader, root, images = dataset
    (images / ".DS_Store").write_bytes(b"x")
    (images / "._good.jpg").write_bytes(b"x")
    assert reader(root).notes["hidden"] == 2


# The root of this project's files


def artifact(root: Path) -> Path:
    """Something as this project makes it under a root, beside a contact sheet."""
    made = root / "shards/mine/0123456789ab"
    made.mkdir(parents=True)
    for name in ("plan.json", "manifest.json", "00000.tar", "00000.parquet", "sheet.jpg"):
        (made / name).write_bytes(b"ours")
    (root / "shards/mine/current").write_text("0123456789ab")
    (root / "found.jpg").write_bytes(b"ours")
    return made


def test_a_root_inside_the_folder_of_the_images_is_left_out_and_told(dataset):
    reader, root, images = dataset
    before = reader(root)
    inside = root if reader is read_wikiart else images
    artifact(inside / "data")
    listing = reader(root, ours=inside / "data")
    assert (listing.images, listing.snapshot) == (before.images, before.snapshot)
    assert listing.notes["root_left_out"] == 1


def test_the_root_is_known_by_any_of_its_names(dataset, tmp_path, monkeypatch):
    reader, root, images = dataset
    before = reader(root).images
    inside = root if reader is read_wikiart else images
    artifact(inside / "data")
    (tmp_path / "alias").symlink_to(inside / "data")
    monkeypatch.chdir(inside)
    for ours in (tmp_path / "alias", Path("data"), inside / "data" / ".." / "data"):
        listing = reader(root, ours=ours)
        assert listing.images == before and listing.notes["root_left_out"] == 1


def test_links_into_the_root_are_left_out_and_told(dataset, tmp_path):
    reader, root, images = dataset
    before = reader(root).images
    ours = tmp_path / "data"
    made = artifact(ours)
    (images / "sheet.jpg").symlink_to(made / "sheet.jpg")
    listing = reader(root, ours=ours)
    assert listing.images == before and listing.notes["links_into_the_root_left_out"] == 1


def test_artifacts_of_another_root_are_left_out_and_told(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    artifact(tmp_path / "old")
    (tmp_path / "0123456789ab").mkdir()
    (tmp_path / "0123456789ab/b.jpg").write_bytes(b"x")
    for folder in (tmp_path, tmp_path / "old/shards/mine"):
        (folder / "removed.txt").write_bytes(b"x")
    listing = read_folder(tmp_path)
    assert ids_of(listing) == ["0123456789ab/b.jpg", "a.jpg", "old/found.jpg", "removed.txt"]
    assert listing.notes["artifacts_left_out"] == 3, "the artifact, its pointer, its removals"


def test_the_root_itself_and_its_artifacts_are_refused_as_a_folder_of_images(tmp_path):
    made = artifact(tmp_path)
    (tmp_path / "alias").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path / "alias"):
        with pytest.raises(
            SourceError, match="is the root, where this project keeps what it makes"
        ):
            read_folder(folder, ours=tmp_path)
    for folder in (made, tmp_path / "shards"):
        with pytest.raises(SourceError, match="lies among the artifacts of the root"):
            read_folder(folder, ours=tmp_path)


def test_pictures_that_the_user_keeps_under_the_root_are_read(tmp_path):
    artifact(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"x")
    (tmp_path / "photos/b.jpg").symlink_to("a.jpg")
    listing = read_folder(tmp_path / "photos", ours=tmp_path)
    assert ids_of(listing) == ["a.jpg", "b.jpg"] and len(with_files(listing)) == 2


def test_a_folder_deeper_than_a_path_may_be_is_a_row(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        # Relative to an open folder, as the whole path is too long for the system.
        os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    entries = walk(tmp_path, Counter(), None)
    file, folder = entries
    assert file.reason is None
    assert folder.is_folder and "File name too long" in folder.reason
