"""Shards: what is written, and that no tar, however made, does more than raise FormatError."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from building import files_under

from storage.errors import FormatError
from storage.shards import (
    SIDECAR,
    accepted,
    read_images,
    read_sidecar,
    read_some_images,
    write_shard,
)


@pytest.fixture
def shards(make):
    """shards(samples, ...) publishes one part for each list of samples."""
    return lambda *parts: make("shards", "a", *[shard_writer(samples) for samples in parts])


def shard_writer(samples):
    return lambda directory, part_name: write_shard(directory, part_name, samples)


@pytest.fixture
def with_tar(make):
    """with_tar(samples, raw) publishes a shard whose sidecar is true and whose tar is `raw`
    instead.
    """

    def made(samples, raw):
        def write(scratch, part_name):
            result = write_shard(scratch, part_name, samples)
            path = scratch / f"{part_name}.tar"
            path.write_bytes(raw(path.read_bytes()) if callable(raw) else raw)
            return result

        return make("shards", "a", write)

    return made


def tar_of(*members, format=tarfile.PAX_FORMAT):
    """A tar of (name or TarInfo, data) pairs."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as tar:
        for member, data in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def header(name, size, kind=tarfile.REGTYPE):
    """A header that claims any size, followed by nothing."""
    info = tarfile.TarInfo(name)
    info.type = kind
    raw = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    # Bytes 124 to 136 of a header are the size, 148 to 156 the checksum, which is computed with
    # blanks in its own place.
    raw[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def everything_under(directory):
    return {path: path.stat().st_size for path in directory.rglob("*")}


# Written


def test_images_come_back_as_they_were_in_sidecar_order(shards, sample):
    samples = [
        sample(2, image=b"two"),
        sample(0, image=b""),
        sample(1, image=b"one" * 500, extension="jpg"),
    ]
    artifact = shards(samples)
    assert list(read_images(artifact, "00000")) == [
        ("folder-2-00", b"two"),
        ("folder-0-00", b""),
        ("folder-1-00", b"one" * 500),
    ]


def test_a_tar_holds_image_record_and_first_caption_of_each_accepted_sample(shards, sample):
    artifact = shards(
        [sample(0), sample(1, captions=(), extension="jpg"), sample(2, reason="too small")]
    )
    with tarfile.open(artifact.file("00000.tar")) as tar:
        assert tar.getnames() == [
            "folder-0-00.png",
            "folder-0-00.json",
            "folder-0-00.txt",
            "folder-1-00.jpg",
            "folder-1-00.json",
        ]
        assert tar.extractfile("folder-0-00.txt").read() == b"caption 0"
        row = json.loads(tar.extractfile("folder-0-00.json").read())
    first = read_sidecar(artifact, "00000").to_pylist()[0]
    assert row == first
    assert list(row) == sorted(SIDECAR.names)


def test_a_rejected_image_is_a_sidecar_row_with_its_reason_and_nothing_else(shards, sample):
    artifact = shards(
        [
            sample(0),
            sample(1, reason="too small", detail="3 x 4 pixels, less than 64"),
            sample(2, reason="no image"),
        ]
    )
    rows = read_sidecar(artifact, "00000")
    assert rows["status"].to_pylist() == ["ok", "rejected", "rejected"]
    assert rows["reason"].to_pylist() == [None, "too small", "no image"]
    assert rows["detail"].to_pylist() == [None, "3 x 4 pixels, less than 64", None]
    assert accepted(rows)["key"].to_pylist() == ["folder-0-00"]
    assert artifact.rows == 3
    assert artifact.counts == {"ok": 1, "rejected: no image": 1, "rejected: too small": 1}
    assert list(dict(read_images(artifact, "00000"))) == ["folder-0-00"]
    assert b"folder-1" not in artifact.file("00000.tar").read_bytes()


def test_equal_samples_give_equal_bytes_in_another_place_and_minute(tmp_path, sample, monkeypatch):
    raw = []
    for second in (1_000_000_000, 2_000_000_000):
        # tarfile would put it into a header.
        monkeypatch.setattr("time.time", lambda s=second: s)
        directory = tmp_path / str(second)
        directory.mkdir(mode=0o700)
        write_shard(directory, "00000", map(sample, range(5)))
        assert files_under(directory) == ["00000.parquet", "00000.tar"]
        raw.append([(directory / name).read_bytes() for name in files_under(directory)])
    assert raw[0] == raw[1]


def test_other_samples_give_another_fingerprint(make, sample):
    versions = {
        "a": [sample(0), sample(1)],
        "same": [sample(0), sample(1)],
        "image": [sample(0, image=b"other"), sample(1)],
        "caption": [sample(0, captions=("other",)), sample(1)],
        "order": [sample(1), sample(0)],
    }
    fingerprints = set()
    for name, samples in versions.items():
        fingerprints.add(make("shards", name, shard_writer(samples)).fingerprint)
    assert len(fingerprints) == len(versions) - 1, "of two that are the same there is one"


def test_a_member_says_nothing_of_the_machine_that_wrote_it(shards, sample):
    with tarfile.open(shards([sample(0)]).file("00000.tar")) as tar:
        for member in tar:
            assert (
                member.mtime,
                member.uid,
                member.gid,
                member.uname,
                member.gname,
                member.mode,
            ) == (0, 0, 0, "", "", 0o644)


def test_the_sidecar_has_the_declared_schema_even_without_a_row(shards, sample):
    artifact = shards([], [sample(0)])
    for name in ("00000", "00001"):
        assert pq.read_schema(artifact.file(f"{name}.parquet")).equals(SIDECAR)
    assert list(read_images(artifact, "00000")) == []


def test_some_images_are_found_across_shards_and_only_their_tars_are_opened(shards, sample):
    artifact = shards([sample(0), sample(1)], [sample(2)], [sample(3)])
    # Nobody asks for its images: opening it would be an error.
    artifact.file("00001.tar").write_bytes(b"not a tar")
    found = read_some_images(artifact, ["folder-3-00", "folder-1-00", "nobody"])
    assert found == {"folder-1-00": b"PNG bytes 1", "folder-3-00": b"PNG bytes 3"}
    assert read_some_images(artifact, []) == {}


# Hostile


def sparse(name):
    info = tarfile.TarInfo(name)
    info.pax_headers = {
        "GNU.sparse.map": "0,1",
        "GNU.sparse.size": str(1 << 24),
        "GNU.sparse.name": name,
    }
    return info


PNG = "folder-0-00.png"
HOSTILE = {
    "climbs out": tar_of(("../../escaped.png", b"x")),
    "absolute": tar_of(("/tmp/escaped.png", b"x")),
    "climbs out, then the sample": tar_of(("../escaped.png", b"x"), (PNG, b"x")),
    "climbs out by two dots in the middle": tar_of(
        ("folder-0-00/../../escaped.png", b"x"), (PNG, b"x")
    ),
    "two extensions": tar_of(("folder-0-00.old.png", b"x"), (PNG, b"x")),
    "climbs out by a pax header": tar_of((f"../{'x' * 300}.png", b"x")),
    "in a folder": tar_of((f"folder/{PNG}", b"x")),
    "symlink to a file": tar_of((link(PNG, "/etc/passwd"), b"")),
    "symlink, then a file through it": tar_of(
        (link("out", "/tmp"), b""), ("out/escaped.png", b"x")
    ),
    "hard link": tar_of(("a.txt", b"x"), (link(PNG, "a.txt", tarfile.LNKTYPE), b"")),
    "fifo": tar_of((link(PNG, "", tarfile.FIFOTYPE), b"")),
    "device": tar_of((link(PNG, "", tarfile.CHRTYPE), b"")),
    "directory": tar_of((link(PNG, "", tarfile.DIRTYPE), b"")),
    "sparse: one byte that becomes 16 MiB": tar_of((sparse(PNG), b"x")),
    "missing member": tar_of(),
    "no image of it": tar_of(("folder-0-00.json", b"{}"), ("folder-0-00.txt", b"x")),
    "extra member": tar_of((PNG, b"x"), ("folder-1-00.png", b"x")),
    "the same member twice": tar_of((PNG, b"x"), (PNG, b"y")),
    "another name": tar_of(("folder-1-00.png", b"x")),
    "upper case": tar_of((PNG.upper(), b"x")),
    "claims 8 GiB": header(PNG, 1 << 33) + b"x" * 512,
    "claims 4 EiB": header(PNG, 1 << 62) + b"x" * 512,
    "claims a record of 32 TiB": header("x", 1 << 45, tarfile.XHDTYPE) + b"x" * 512,
    "claims a long name of 32 TiB": header("x", 1 << 45, tarfile.GNUTYPE_LONGNAME) + b"x" * 512,
    "negative size": header(PNG, -512) + b"x" * 512,
    "circle": header("folder-0-00.txt", -512) + b"x" * 512,
    "circle by a pax header": header("x", 13, tarfile.XHDTYPE)
    + b"13 size=-512\n".ljust(512, b"\0")
    + header("a.txt", 0),
    "gzip": b"\x1f\x8b\x08\x00" + b"\0" * 600,
    "zip": b"PK\x03\x04" + b"\0" * 600,
    "empty file": b"",
    "noise": bytes(range(256)) * 8,
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_tar_is_refused_and_touches_no_file(raw, with_tar, sample, tmp_path, monkeypatch):
    artifact = with_tar([sample(0)], raw)
    (tmp_path / "some/folder").mkdir(parents=True)
    # Deep enough that "../.." stays inside what is compared.
    monkeypatch.chdir(tmp_path / "some/folder")
    before = everything_under(tmp_path)
    with pytest.raises(FormatError, match="00000.tar: .*rdm check"):
        list(read_images(artifact, "00000"))
    assert everything_under(tmp_path) == before
    assert not Path("/tmp/escaped.png").exists()


@pytest.mark.parametrize("keep", [0, 100, 511, 512, 520, 1023, 1024, 1536, 2048, 2560, 3072])
def test_a_truncated_tar_never_gives_a_truncated_image(keep, with_tar, sample):
    """Each member is a 512 byte header and 512 bytes of data, so every kind of cut is among
    them.
    """
    images = [bytes([i]) * 300 for i in range(3)]
    artifact = with_tar(
        [sample(i, image=images[i], captions=()) for i in range(3)], lambda raw: raw[:keep]
    )
    got = []
    with pytest.raises(FormatError, match="00000.tar: "):
        for _, image in read_images(artifact, "00000"):
            got.append(image)
    assert got == images[: len(got)]


def test_a_flipped_bit_in_a_header_is_refused(with_tar, sample):
    artifact = with_tar([sample(0), sample(1)], lambda raw: raw[:1] + bytes([raw[1] ^ 1]) + raw[2:])
    with pytest.raises(FormatError, match="damaged tar"):
        list(read_images(artifact, "00000"))


def test_a_missing_sample_is_named(with_tar, sample):
    artifact = with_tar([sample(0), sample(1)], tar_of((PNG, b"x")))
    with pytest.raises(
        FormatError, match="the sidecar lists 'folder-1-00', the tar does not hold it"
    ):
        list(read_images(artifact, "00000"))


def test_an_unexpected_member_is_named(with_tar, sample):
    artifact = with_tar([sample(0)], tar_of((PNG, b"x"), ("stranger.png", b"x")))
    with pytest.raises(
        FormatError, match="member 'stranger.png' is not the sample the sidecar lists next"
    ):
        list(read_images(artifact, "00000"))


def test_a_damaged_sidecar_is_refused(shards, sample):
    artifact = shards([sample(0)])
    artifact.file("00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(FormatError, match="00000.parquet"):
        list(read_images(artifact, "00000"))


# Tars that others wrote

FOREIGN = [
    "clip-retrieval/image1.tar", "tar-rs/duplicate_dirs.tar", "tar-rs/link.tar", "tar-rs/pax.tar",
    "tar-rs/simple.tar", "tar-rs/simple_missing_last_header.tar", "tar-rs/spaces.tar",
    "tar-rs/sparse.tar", "webdataset/compressed.tar", "webdataset/sample.tgz",
]  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_a_real_tar_of_something_else_is_refused_and_touches_no_file(
    name, real_data, with_tar, sample, tmp_path
):
    artifact = with_tar([sample(0)], (real_data / "awkward/tars" / name).read_bytes())
    before = everything_under(tmp_path)
    with pytest.raises(FormatError, match="00000.tar: "):
        list(read_images(artifact, "00000"))
    assert everything_under(tmp_path) == before


def test_a_tar_another_program_wrote_is_read_if_it_holds_what_the_sidecar_lists(
    real_data, with_tar, sample
):
    keys = ["123_456", "208_495", "321_421", "389_535"]
    raw = (real_data / "awkward/tars/clip-retrieval/image1.tar").read_bytes()
    artifact = with_tar([sample(0, key=key) for key in keys], raw)
    images = dict(read_images(artifact, "00000"))
    assert list(images) == keys
    for image in images.values():  # the marks at the start and the end of a JPEG
        assert image.startswith(b"\xff\xd8") and image.endswith(b"\xff\xd9")
    assert list(map(len, images.values())) == [7421, 18569, 26726, 25591]
