"""Zips that were fetched: what is in them, and nothing anywhere else."""

import stat
import zipfile

import pytest

from storage.errors import SourceError
from storage.web.unpack import unpack


def zipped(path, members, **facts):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data, **facts)
    return path


def files(folder):
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and ".fetched" not in path.parts and path.suffix != ".zip":
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def test_what_is_in_a_zip_is_written_and_what_is_there_stays(tmp_path):
    path = zipped(tmp_path / "a.zip", {"x/1.txt": b"one", "x/2.txt": b"two", "y.txt": b"y"})
    assert unpack(path, tmp_path) == {"written": 3, "unchanged": 0, "removed": 0}
    assert files(tmp_path) == {"x/1.txt": b"one", "x/2.txt": b"two", "y.txt": b"y"}
    before = (tmp_path / "x/1.txt").stat().st_mtime_ns
    zipped(path, {"x/1.txt": b"one", "x/2.txt": b"TWO", "z.txt": b"z"})
    assert unpack(path, tmp_path) == {"written": 2, "unchanged": 1, "removed": 1}
    assert files(tmp_path) == {"x/1.txt": b"one", "x/2.txt": b"TWO", "z.txt": b"z"}
    assert (tmp_path / "x/1.txt").stat().st_mtime_ns == before


def test_one_folder_of_a_zip_or_its_own_folder_is_taken(tmp_path):
    path = zipped(tmp_path / "a.zip", {"in/1": b"1", "out/2": b"2", "__MACOSX/in/._1": b"x"})
    unpack(path, tmp_path / "one", "in")
    assert files(tmp_path / "one") == {"in/1": b"1"}
    own = zipped(tmp_path / "own.zip", {"own/a/1": b"1", "own/b": b"2"})
    unpack(own, tmp_path / "two")
    assert files(tmp_path / "two") == {"a/1": b"1", "b": b"2"}


@pytest.mark.parametrize(
    "name",
    [
        "../out",
        "/etc/out",
        "a/../../out",
        "a\\..\\out",
        ".fetched/list.sqlite",
        "acquired.json",
        "a.zip",
    ],
)
def test_names_that_lead_out_are_refused_before_anything_is_written(tmp_path, name):
    (tmp_path / "in").mkdir()
    path = zipped(tmp_path / "a.zip", {"good": b"1", name: b"2"})
    with pytest.raises(SourceError, match="a name in it leads out"):
        unpack(path, tmp_path / "in")
    assert files(tmp_path) == {}


def test_links_bombs_and_damage_are_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(SourceError, match="holds a link"):
        unpack(tmp_path / "link.zip", tmp_path)
    bomb = zipped(tmp_path / "bomb.zip", {"zeros": b"\0" * 50_000_000})
    with pytest.raises(SourceError, match="claims 50,000,000 bytes in"):
        unpack(bomb, tmp_path)
    cut = zipped(tmp_path / "cut.zip", {"a": b"x" * 1000})
    cut.write_bytes(cut.read_bytes()[:-40])
    with pytest.raises(SourceError, match="cannot be unpacked: .* Remove it and fetch it again"):
        unpack(cut, tmp_path)
    wrong = zipped(tmp_path / "wrong.zip", {"a": b"x" * 1000, "b": b"2"})
    data = bytearray(wrong.read_bytes())
    data[35] ^= 0xFF
    wrong.write_bytes(bytes(data))
    with pytest.raises(SourceError, match="cannot be unpacked"):
        unpack(wrong, tmp_path)
    assert "a" not in files(tmp_path)
