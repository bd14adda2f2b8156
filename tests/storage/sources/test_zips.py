"""Files inside a zip, as they were listed or not at all."""

import multiprocessing
import os
import struct
import threading
import time
import zipfile
import zlib
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from zipped import RawInfo, patch, zip_folder

from storage.errors import SourceError
from storage.sources import NotAsListed, SourceImage, read_as_listed, zips
from storage.sources.disk import open_zip, read_json
from storage.sources.zips import ZippedFile, opened

NAMES = [f"{number:012d}.jpg" for number in range(40)]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "val2017"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(f"picture {number} ".encode() * (100 + number))
    return folder


@pytest.fixture(params=[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def packed(folder, request):
    """A zip of the pictures."""
    return zip_folder(folder, compression=request.param)


def listed(path: Path) -> list[SourceImage]:
    images = []
    for member in opened(path).members.values():
        images.append(
            SourceImage("coco", member.name, path, stamp=member.stamp, member=member.name)
        )
    return images


def test_a_member_is_read_as_the_file_it_was_packed_from(packed, folder):
    images = listed(packed)
    assert len(images) == len(NAMES)
    for image, name in zip(images, NAMES, strict=True):
        data = (folder / name).read_bytes()
        assert read_as_listed(image) == data
        assert image.stamp == (len(data), zlib.crc32(data))


def test_many_threads_read_one_zip_at_once_and_its_directory_once(packed, folder, monkeypatch):
    images = listed(packed) * 10
    zips._kept.clear()
    openings, plain = [], zips.OpenZip

    def slow(path):
        openings.append(path)
        # As long as the directory of a real zip takes, so that others come meanwhile.
        time.sleep(0.1)
        return plain(path)

    monkeypatch.setattr(zips, "OpenZip", slow)
    together = threading.Barrier(8)
    with ThreadPoolExecutor(8, initializer=together.wait) as pool:
        read = list(pool.map(read_as_listed, images))
    expected = [(folder / name).read_bytes() for name in NAMES]
    assert read == expected * 10
    assert openings == [packed]


def test_processes_that_share_the_open_zip_read_it_at_once(packed, folder):
    images = listed(packed) * 10
    expected = [(folder / name).read_bytes() for name in NAMES]
    # Forked: they inherit the descriptor, and with it whatever position it has.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        assert list(pool.map(read_as_listed, images, chunksize=40)) == expected * 10


def test_a_zip_that_is_replaced_by_an_equal_one_is_read_on(packed, folder, tmp_path):
    images = listed(packed)
    again = zip_folder(folder, tmp_path / "again.zip", compression=zipfile.ZIP_DEFLATED)
    os.utime(again, ns=(1, 1))
    again.replace(packed)
    assert read_as_listed(images[3]) == (folder / NAMES[3]).read_bytes()


def test_a_member_that_changed_or_is_gone_since_is_told_and_the_others_are_read(packed, folder):
    images = listed(packed)
    (folder / NAMES[0]).write_bytes(b"another")
    (folder / NAMES[1]).unlink()
    same_length = (folder / NAMES[2]).read_bytes().replace(b"picture", b"drawing")
    (folder / NAMES[2]).write_bytes(same_length)
    zip_folder(folder)
    with pytest.raises(NotAsListed, match="it had 1,000 bytes and has 7.*import again"):
        read_as_listed(images[0])
    with pytest.raises(NotAsListed, match="is gone; import again"):
        read_as_listed(images[1])
    with pytest.raises(NotAsListed, match="it changed after the data set was listed"):
        read_as_listed(images[2])
    assert read_as_listed(images[4]) == (folder / NAMES[4]).read_bytes()


def test_few_zips_are_kept_open_and_those_let_go_are_closed(folder, tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(12):
        path = zip_folder(folder, tmp_path / f"{number}.zip")
        read_as_listed(listed(path)[0])
    assert len(zips._kept) == zips.MOST_OPEN
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + zips.MOST_OPEN


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"flags": 1}, "is encrypted"),
        ({"flags": 1 << 6}, "is encrypted"),
        ({"method": 9}, "packed by method 9"),
        ({"method": 12}, "packed by method 12"),
        ({"flags": 1 << 5}, "packed by method"),
        ({"crc": 1}, "its checksum"),
        ({"offset": 7}, "does not begin where the directory says"),
        ({"offset": 2**31}, "lies beyond the end"),
        ({"packed": 2**30}, "two lengths|lies beyond the end"),
        ({"size": 2**31}, "two lengths|holds 1,000 of 2,147,483,648 bytes"),
        ({"size": 10}, "two lengths|more than the 10 bytes that it claims"),
        ({"packed": 4}, "two lengths|holds . of 1,000 bytes|holds .. of 1,000 bytes"),
    ],
)
def test_a_member_that_cannot_be_read_is_told_and_the_others_are_read(change, told, packed, folder):
    patch(packed, f"val2017/{NAMES[0]}", **change)
    first, second, *_ = listed(packed)
    with pytest.raises(NotAsListed, match=told):
        read_as_listed(first)
    assert read_as_listed(second) == (folder / NAMES[1]).read_bytes()


def test_a_byte_that_changed_inside_a_zip_is_told(packed):
    data = bytearray(packed.read_bytes())
    start = data.index(b".jpg") + 4
    data[start + 20] ^= 255
    packed.write_bytes(data)
    with pytest.raises(NotAsListed, match="the zip is damaged"):
        read_as_listed(listed(packed)[0])


def test_a_zip_that_lost_its_beginning_is_read_as_far_as_it_is_there(packed, folder):
    images = listed(packed)
    packed.write_bytes(packed.read_bytes()[20:])
    with pytest.raises(NotAsListed, match="the zip is damaged or cut short"):
        read_as_listed(images[0])
    assert read_as_listed(images[1]) == (folder / NAMES[1]).read_bytes()


def test_a_bomb_is_never_unpacked_further_than_it_claims(tmp_path, monkeypatch):
    path = tmp_path / "val2017.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.jpg", bytes(2**26))
    patch(path, "a.jpg", size=1000)
    unpacked, plain = [], zlib.decompressobj

    class Counting:
        def __init__(self, *arguments):
            self.inner = plain(*arguments)

        def decompress(self, data, most):
            piece = self.inner.decompress(data, most)
            unpacked.append(len(piece))
            return piece

    monkeypatch.setattr(zlib, "decompressobj", Counting)
    with pytest.raises(NotAsListed, match="more than the 1,000 bytes that it claims"):
        read_as_listed(listed(path)[0])
    assert sum(unpacked) == 1001


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-500]), "cannot be opened as a ZIP"),
        (lambda path: path.write_bytes(b"<html>not found</html>"), "cannot be opened as a ZIP"),
        (lambda path: path.write_bytes(b""), "this file is empty"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1"), "git-lfs"),
        (lambda path: path.unlink(), "this file is missing"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "is no file that can be read"),
        (lambda path: (path.unlink(), path.mkdir()), "is no file that can be read"),
    ],
    ids=["cut", "page", "empty", "pointer", "gone", "pipe", "folder"],
)
def test_a_zip_that_cannot_be_opened_is_told_and_no_image_is_blamed(break_it, told, packed):
    image = listed(packed)[0]
    break_it(packed)
    with pytest.raises(SourceError, match=f"val2017.zip: .*{told}.*run the same command again"):
        read_as_listed(image)
    with pytest.raises(SourceError, match=f"val2017.zip: .*{told}.*The cure."):
        open_zip(packed, "The cure.")


@pytest.mark.parametrize("spoil", [b"PK\1\3", b"\0\0\0\0"])
def test_a_directory_that_is_damaged_is_told(spoil, packed):
    packed.write_bytes(packed.read_bytes().replace(b"PK\1\2", spoil))
    with pytest.raises(SourceError, match="val2017.zip: cannot be opened as a ZIP: Bad magic"):
        open_zip(packed, "The cure.")


def test_a_directory_that_claims_more_than_memory_holds_is_not_read(packed, monkeypatch):
    monkeypatch.setattr(zips, "MOST_DIRECTORY_BYTES", 100)
    with pytest.raises(SourceError, match="its directory claims .* bytes"):
        open_zip(packed, "The cure.")


def test_a_disk_that_fails_under_a_zip_is_told(packed, monkeypatch):
    image = listed(packed)[0]

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(NotAsListed, match="Input/output error"):
        read_as_listed(image)
    monkeypatch.undo()
    monkeypatch.setattr(os, "stat", fail)
    with pytest.raises(SourceError, match="val2017.zip: "):
        read_as_listed(image)


UNIX, DOS = 3, 0
STATED = b"\1" + struct.pack("<L", zlib.crc32(b"caf_.jpg")) + "caf\u00e9.jpg".encode()
FOR_ANOTHER = b"\1" + struct.pack("<L", 7) + "caf\u00e9.jpg".encode()


def info_zip(content: bytes) -> bytes:
    """The extra field in which Info-ZIP states a name, behind one of another kind."""
    other = struct.pack("<HHL", 0xABCD, 4, 0)
    return other + struct.pack("<HH", 0x7075, len(content)) + content


@pytest.mark.parametrize(
    ("info", "name"),
    [
        (RawInfo("caf\u00e9.jpg".encode(), UNIX, is_utf8=True), "caf\u00e9.jpg"),
        (RawInfo("caf\u00e9.jpg".encode(), UNIX), "caf\u00e9.jpg"),
        (RawInfo("caf\u00e9.jpg".encode(), DOS), "caf\u00e9.jpg"),
        (RawInfo("caf\u00e9.jpg".encode("cp437"), DOS), "caf\u00e9.jpg"),
        (RawInfo("caf\u00e9.jpg".encode("latin-1"), UNIX), "caf\udce9.jpg"),
        (RawInfo(b"caf_.jpg", UNIX, extra=info_zip(STATED)), "caf\u00e9.jpg"),
        (RawInfo(b"caf_.jpg", UNIX, extra=info_zip(FOR_ANOTHER)), "caf_.jpg"),
        (RawInfo(b"caf_.jpg", UNIX, extra=info_zip(STATED[:5] + b"\xff")), "caf_.jpg"),
    ],
)
def test_a_name_is_the_one_that_unzip_would_give_the_file(info, name, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr(info, b"jpeg")
    (image,) = listed(tmp_path / "a.zip")
    assert image.member == name and read_as_listed(image) == b"jpeg"


def test_a_list_inside_a_zip_is_read_as_the_file_would_be(tmp_path, monkeypatch):
    path = tmp_path / "annotations.zip"
    contents = {
        "utf8": '{"a": "\u00e9"}'.encode(),
        "utf16": '{"a": "\u00e9"}'.encode("utf-16"),
        "mark": b"\xef\xbb\xbf" + '{"a": "\u00e9"}'.encode(),
        "latin": b'{"a": "\xe9"}',
        "cut": b'{"a": ',
        "empty": b"",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in contents.items():
            packed.writestr(name, content)

    def read(name):
        return read_json(ZippedFile(path, name), "The cure.")

    assert read("utf8") == read("utf16") == read("mark") == {"a": "\u00e9"}
    assert read("latin") == {"a": "\udce9"}
    for name in ("cut", "empty"):
        with pytest.raises(
            SourceError, match=f"{name} in .*annotations.zip: is not JSON.*The cure"
        ):
            read(name)
    with pytest.raises(SourceError, match="gone in .*annotations.zip: this file is missing"):
        read("gone")
    monkeypatch.setattr("storage.sources.disk.MOST_JSON_BYTES", 10)
    with pytest.raises(SourceError, match=r"utf8 in .*claims 11 bytes, and 10 are.*Unpack the zip"):
        read("utf8")
    monkeypatch.undo()
    patch(path, "utf8", crc=1)
    with pytest.raises(SourceError, match=r"utf8 in .*cannot be read: the zip is damaged"):
        read("utf8")


def test_a_list_inside_a_zip_that_does_not_fit_into_memory_is_told(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("a.json", "[1]")

    def exhaust(*_, **__):
        raise MemoryError

    monkeypatch.setattr("json.loads", exhaust)
    with pytest.raises(SourceError, match=r"a.json in .*does not fit into memory \(3 bytes\)"):
        read_json(ZippedFile(tmp_path / "a.zip", "a.json"), "Cure.")
