"""Files on a user's disk, as they were listed or not at all."""

import os
from pathlib import Path

import pytest

from storage.errors import SourceError
from storage.sources import NotAsListed, SourceImage, read_as_listed
from storage.sources.disk import check_damage, check_metadata, check_root, read_json, read_lines


def listed(path: Path) -> SourceImage:
    status = path.stat()
    return SourceImage("folder", "a", path, stamp=(status.st_size, status.st_mtime_ns))


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"0123456789")
    # A time long ago: a later write of the same length is seen by it.
    os.utime(path, ns=(10**18, 10**18))
    return path


def test_a_file_that_did_not_change_is_read(picture):
    assert read_as_listed(listed(picture)) == b"0123456789"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda path: path.write_bytes(b"0123"), "it had 10 bytes and has 4"),
        (lambda path: path.write_bytes(b"0123456789ab"), "it had 10 bytes and has 12"),
        (lambda path: path.write_bytes(b"another one"[:10]), "it had 10 bytes and has 10"),
        (lambda path: path.unlink(), "is gone"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "it changed after"),
        (lambda path: (path.unlink(), path.mkdir()), "it changed after|Is a directory"),
        (lambda path: (path.unlink(), path.symlink_to(path)), "Too many levels"),
        (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "it changed after"),
    ],
    ids=["cut", "grown", "replaced", "deleted", "pipe", "folder", "circle", "device"],
)
def test_a_file_that_changed_after_it_was_listed_is_told_and_never_waited_for(
    change, told, picture
):
    image = listed(picture)
    change(picture)
    with pytest.raises(NotAsListed, match=told):
        read_as_listed(image)


def test_a_file_that_grows_while_it_is_read_is_told(picture, monkeypatch):
    image = listed(picture)
    plain, calls = os.fstat, []

    def fstat(descriptor):
        calls.append(descriptor)
        # the look after reading
        if len(calls) == 2:
            picture.write_bytes(b"0123456789ab")
        return plain(descriptor)

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(NotAsListed, match="it changed after the data set was listed"):
        read_as_listed(image)


def test_a_disk_that_fails_is_told(picture, monkeypatch):
    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(NotAsListed, match="Input/output error"):
        read_as_listed(SourceImage("folder", "a", picture))


@pytest.mark.parametrize(
    "read", [lambda path: read_json(path, "Cure."), lambda path: read_lines(path, "Cure.")]
)
def test_a_list_that_cannot_be_read_is_told_with_its_cure(read, tmp_path, monkeypatch):
    path = tmp_path / "list"
    for make, told in (
        (lambda: None, "this file is missing"),
        (lambda: path.mkdir(), "is no file that can be read"),
        (lambda: (path.rmdir(), path.symlink_to(path)), "is no file that can be read"),
        (lambda: (path.unlink(), os.mkfifo(path)), "is no file that can be read"),
        (lambda: (path.unlink(), path.write_bytes(b"")), "this file is empty"),
        (
            lambda: path.write_bytes(b"version https://git-lfs.github.com/spec/v1"),
            "is a git-lfs pointer",
        ),
    ):
        make()
        with pytest.raises(SourceError, match=f"list: {told}"):
            read(path)
    path.write_bytes(b"[1]")
    real = Path.open

    def refuse(self, *arguments, **options):
        if self == path:
            raise PermissionError(13, "Permission denied")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SourceError, match="list: cannot be read: Permission denied"):
        read(path)


def test_json_that_does_not_fit_into_memory_is_told(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text("[1]")

    def exhaust(*_, **__):
        raise MemoryError

    monkeypatch.setattr("json.loads", exhaust)
    with pytest.raises(SourceError, match=r"does not fit into memory \(3 bytes\)"):
        read_json(path, "Cure.")


@pytest.mark.parametrize(
    "content", ["[1", "[1]]", "{'a': 1}", '["a\tb"]', "nothing", "1" * 5000, "\0"]
)
def test_what_is_no_json_is_told(content, tmp_path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(SourceError, match="a.json: is not JSON: "):
        read_json(tmp_path / "a.json", "Cure.")


def test_one_damaged_row_in_a_hundred_is_borne(tmp_path):
    check_metadata(Path(__file__), "Cure.")
    check_damage(tmp_path, 0, 0, "", "Cure.")
    check_damage(tmp_path, 1, 100, "line 1", "Cure.")
    with pytest.raises(SourceError, match="1 of 99 rows are damaged, first line 1. Cure."):
        check_damage(tmp_path, 1, 99, "line 1", "Cure.")


def test_a_folder_behind_one_that_may_not_be_entered_does_not_exist_for_us(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(SourceError, match="does not exist|is a file"):
        check_root(tmp_path / "in/side", "coco", "images")
