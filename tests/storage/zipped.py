"""Zips as tests need them: of a folder, or with what no honest packer writes."""

import shutil
import struct
import zipfile
from pathlib import Path


def zip_folder(folder: Path, path: Path | None = None, under: str | None = None, **how) -> Path:
    """The files of a folder as one zip, in a folder of its name unless `under` says otherwise."""
    path = path or folder.with_suffix(".zip")
    under = f"{folder.name}/" if under is None else under
    with zipfile.ZipFile(path, "w", **how) as packed:
        for file in sorted(folder.rglob("*")):
            packed.write(file, under + file.relative_to(folder).as_posix())
    return path


def pack_coco(root: Path) -> Path:
    """A data set in the layout of COCO with its folders turned into zips."""
    for folder in sorted(root.glob("*2017")):
        zip_folder(folder)
        shutil.rmtree(folder)
    zip_folder(root / "annotations", root / "annotations_trainval2017.zip")
    shutil.rmtree(root / "annotations")
    return root


class RawInfo(zipfile.ZipInfo):
    """A member whose name is bytes, written by a system, said to be UTF-8 or not."""

    def __init__(self, raw: bytes, system: int, is_utf8: bool = False, extra: bytes = b"") -> None:
        super().__init__("placeholder")
        self.raw, self.create_system, self.is_utf8, self.extra = raw, system, is_utf8, extra

    def _encodeFilenameFlags(self):  # noqa: N802  zipfile's own name
        return self.raw, self.flag_bits | (0x800 if self.is_utf8 else 0)


def directory_entry(data: bytes, name: str) -> int:
    """Where the directory's record of a member begins in the bytes of a zip."""
    start = 0
    while True:
        start = data.index(b"PK\1\2", start)
        length = struct.unpack_from("<H", data, start + 28)[0]
        if data[start + 46 : start + 46 + length] == name.encode():
            return start
        start += 4


FIELDS = {"flags": (8, "<H"), "method": (10, "<H"), "crc": (16, "<L"), "packed": (20, "<L"),
          "size": (24, "<L"), "offset": (42, "<L")}  # fmt: skip
"""Of a record of the directory: where, and how many bytes."""


def patch(path: Path, name: str, **values: int) -> None:
    """Make the directory say something else of a member."""
    data = bytearray(path.read_bytes())
    start = directory_entry(bytes(data), name)
    for field, value in values.items():
        at, kind = FIELDS[field]
        struct.pack_into(kind, data, start + at, value)
    path.write_bytes(data)
