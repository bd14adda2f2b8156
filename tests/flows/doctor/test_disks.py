"""Folders that are full, read-only, or on a file system that lacks what storage does there."""

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.doctor import disks
from flows.doctor.disks import GB, ROOT, existing, mount_of, room

MOUNTS = r"""22 27 0:21 / / rw,relatime - ext4 /dev/vda rw
30 22 0:30 / /mnt/with\040space rw - fuse.sshfs host:/x rw
31 22 0:31 / /mnt/read ro,nosuid shared:1 - nfs4 host:/y rw
32 31 0:32 / /mnt/read/over rw master:2 propagate_from:1 - overlay overlay ro
a line of another kind
"""


@pytest.fixture
def mounts(tmp_path):
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTS.replace("a line of another kind\n", ""))
    return path


@pytest.mark.parametrize(
    ("folder", "kind", "read_only"),
    [
        ("/srv", "ext4", False),
        ("/mnt/with space/a", "fuse.sshfs", False),
        ("/mnt/read/a", "nfs4", True),
        ("/mnt/read/over", "overlay", True),
        ("/mnt/readable", "ext4", False),
    ],
)
def test_the_file_system_of_a_folder_is_the_nearest_mount_around_it(
    folder, kind, read_only, mounts
):
    found = mount_of(Path(folder), mounts)
    assert (found.kind, found.read_only) == (kind, read_only)


def test_where_the_kernel_does_not_say_nothing_is_known(tmp_path):
    assert mount_of(tmp_path, tmp_path / "absent") is None


def statvfs(free_bytes, files=1_000_000, of=2_000_000):
    return lambda path: SimpleNamespace(f_bavail=free_bytes, f_frsize=1, f_favail=files, f_files=of)


@pytest.mark.parametrize(
    ("answer", "mark"),
    [
        (statvfs(100 * GB), "ok"),
        (statvfs(1 * GB), "!"),
        (statvfs(0.1 * GB), "x"),
        (statvfs(100 * GB, files=10_000), "!"),
        (statvfs(100 * GB, files=10), "x"),
        (statvfs(100 * GB, files=0, of=0), "ok"),
    ],
    ids=["much", "little", "none", "few files", "no files", "files are not counted"],
)
def test_room_for_bytes_and_files(answer, mark, tmp_path, monkeypatch, told):
    monkeypatch.setattr(disks.os, "statvfs", answer)
    ((found, _),) = told(room("root", tmp_path, str(tmp_path), ROOT, False, "Free some"))
    assert found == mark


def test_a_root_where_all_works_is_fine_and_nothing_stays_there(machine, told, tmp_path):
    root = tmp_path / "not" / "there"
    found = told(disks.root(machine(root=root)))
    assert [mark for mark, _ in found if "in memory" not in _][-1:] == ["ok"]
    assert f"{root}, which would be made in {tmp_path}: " in found[-1][1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.EROFS, "Make it writable"),
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, f"for uid {os.getuid()}"),
        (errno.EIO, "on a disk of this machine"),
    ],
)
def test_a_root_that_cannot_be_written_is_told_with_the_cure_of_its_cause(
    number, cure, machine, told, tmp_path, monkeypatch
):
    def refused(**_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(disks.tempfile, "TemporaryDirectory", refused)
    found = told(disks.root(machine(root=tmp_path)))
    assert found[-1][0] == "x" and cure in found[-1][1]
    assert f"cannot be written: {os.strerror(number)}" in found[-1][1]


def not_supported(*_, **__):
    raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))


@contextmanager
def never_held(path):
    yield False


@pytest.mark.parametrize(
    ("name", "fake", "mark", "said"),
    [
        ("write_bytes", not_supported, "x", "replacing a file at once does not work"),
        ("write_bytes", lambda target, data: target.write_bytes(b"one"), "x", "not what is read"),
        ("publish", not_supported, "x", "moving a folder into place does not work"),
        ("publish", lambda source, target: target.mkdir(), "x", "what was in it is gone"),
        ("exclusive", not_supported, "x", "a lock (flock) does not work"),
        ("exclusive", never_held, "x", "two hold it at once"),
        ("os.link", not_supported, "!", "is copied"),
        ("mmap.mmap", not_supported, "!", "large indices"),
    ],
)
def test_a_file_system_that_lacks_what_storage_does_is_told(
    name, fake, mark, said, machine, told, tmp_path, monkeypatch
):
    place, _, attribute = name.rpartition(".")
    monkeypatch.setattr(getattr(disks, place) if place else disks, attribute, fake)
    found = [(m, t) for m, t in told(disks.root(machine(root=tmp_path))) if "in memory" not in t]
    assert [m for m, _ in found] == [mark] and said in found[0][1] and "--root" in found[0][1]


@pytest.mark.parametrize("kind", disks.PASSING)
def test_a_root_that_will_be_gone_is_told(kind, machine, told, tmp_path, monkeypatch):
    monkeypatch.setattr(disks, "mount_of", lambda folder: disks.Mount(Path("/"), kind, False))
    found = told(disks.root(machine(root=tmp_path)))
    assert found[0][0] == "!" and "gone" in found[0][1] and kind in found[0][1]


def test_a_root_in_a_bucket_is_told_by_its_url_and_its_mirror_is_looked_at(
    machine, told, tmp_path, monkeypatch
):
    monkeypatch.setenv("RDM_MIRROR", str(tmp_path))
    found = told(disks.root(machine(root=tmp_path.resolve() / "s3" / "bucket" / "folder")))
    assert found[0][0] == "ok" and "s3://bucket/folder" in found[0][1]
    cached = told(disks.caches(machine(root=tmp_path.resolve() / "s3" / "bucket")))
    assert "files of the bucket" in cached[-1][1]


def test_a_folder_for_temporary_files_that_cannot_be_used_is_told(
    machine, told, tmp_path, monkeypatch
):
    monkeypatch.setattr(disks.tempfile, "gettempdir", lambda: str(tmp_path))
    found = told(disks.temporary(machine(TMPDIR="/nonexistent")))
    assert found[0][0] == "!" and f"{tmp_path} is used" in found[0][1]
    found = told(disks.temporary(machine(TMPDIR=str(tmp_path))))
    assert len(found) == 1

    def none():
        raise FileNotFoundError("No usable temporary directory")

    monkeypatch.setattr(disks.tempfile, "gettempdir", none)
    ((mark, text),) = told(disks.temporary(machine()))
    assert mark == "x" and "export TMPDIR" in text


def test_a_cache_that_cannot_be_written_is_told(machine, told, monkeypatch):
    monkeypatch.setattr(disks.os, "access", lambda *_: False)
    found = told(disks.caches(machine()))
    assert found[0][0] == "!" and "export HF_HOME=FOLDER" in found[0][1]


def test_the_nearest_folder_that_is_there(tmp_path):
    (tmp_path / "file").touch()
    assert existing(tmp_path / "file" / "a" / "b") == tmp_path
