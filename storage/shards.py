"""Image shards: one WebDataset tar and one Parquet sidecar a part. A rejected image is a sidecar
row with its reason.

The tar holds, for each accepted sample, `<key>.jpg|png`, `<key>.json` (the sidecar row) and
`<key>.txt` (its first caption). The sidecar holds a row for every sample, accepted or not, in key
order.
"""

import io
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.artifact import Artifact
from storage.atomic import canonical_json
from storage.errors import FormatError
from storage.parquet import column, read_table, vector_type, write_table

SIDECAR = pa.schema(
    [
        column("key", pa.string(), "stable id of the sample: dataset, original id, crop"),
        column(
            "source_key", pa.string(), "dataset and original id: equal for every crop of one image"
        ),
        column("status", pa.string(), "'ok' (in the tar) or 'rejected'"),
        column(
            "reason",
            pa.string(),
            "why it was rejected, in a word or two that can be counted",
            nullable=True,
        ),
        column("detail", pa.string(), "the same in full, for a person", nullable=True),
        column("width", pa.int32(), "stored width in pixels, 0 if rejected"),
        column("height", pa.int32(), "stored height in pixels, 0 if rejected"),
        column(
            "original_width",
            pa.int32(),
            "upright width of the source image in pixels, 0 if it never opened",
        ),
        column(
            "original_height",
            pa.int32(),
            "upright height of the source image in pixels, 0 if it never opened",
        ),
        column("crop", vector_type(4, pa.int32()), "x0, y0, x1, y1 in the resized square frame"),
        column("sha256", pa.string(), "of the stored image bytes; empty if rejected"),
        column("captions", pa.list_(pa.string()), "texts that describe the image, possibly none"),
        column("labels", pa.list_(pa.string()), "class names, possibly none"),
        column("style", pa.string(), "style or medium", nullable=True),
        column("author", pa.string(), "who made the image", nullable=True),
        column(
            "licence", pa.string(), "licence of the image as its dataset states it", nullable=True
        ),
        column("source_url", pa.string(), "page or file the image came from", nullable=True),
        column("split", pa.string(), "split of the dataset it belongs to", nullable=True),
    ],
    metadata={"doc": "one row a sample, accepted or rejected"},
)
CREDIT_COLUMNS = ("captions", "labels", "style", "author", "licence", "source_url")
"""What travels with an image from its source to every sample it stands behind."""


@dataclass(frozen=True)
class SampleRecord:
    """One sidecar row; the fields are the columns of SIDECAR."""

    key: str
    source_key: str
    status: str = "ok"
    reason: str | None = None
    detail: str | None = None
    width: int = 0
    height: int = 0
    original_width: int = 0
    original_height: int = 0
    crop: tuple[int, int, int, int] = (0, 0, 0, 0)
    sha256: str = ""
    captions: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    style: str | None = None
    author: str | None = None
    licence: str | None = None
    source_url: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class EncodedSample:
    """A record and, when it was accepted, its encoded image."""

    record: SampleRecord
    image: bytes = b""
    extension: str = "png"


def write_shard(
    directory: Path, part_name: str, samples: Iterable[EncodedSample]
) -> tuple[int, dict[str, int]]:
    """Write `<part>.tar` and `<part>.parquet`; return (rows, counts of 'ok' and of 'rejected:
    <reason>').

    Members carry no time, owner or mode of the machine, so equal samples give equal bytes.
    """
    rows: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    with tarfile.open(directory / f"{part_name}.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for sample in samples:
            row = asdict(sample.record)
            rows.append(row)
            counts["ok" if row["status"] == "ok" else f"rejected: {row['reason']}"] += 1
            if row["status"] == "ok":
                _add(tar, f"{row['key']}.{sample.extension}", sample.image)
                _add(tar, f"{row['key']}.json", canonical_json(row))
                if row["captions"]:
                    _add(tar, f"{row['key']}.txt", row["captions"][0].encode())
    write_table(directory / f"{part_name}.parquet", pa.Table.from_pylist(rows, schema=SIDECAR))
    return len(rows), dict(counts)


def read_sidecar(
    shards: Artifact, part_name: str, columns: Sequence[str] | None = None
) -> pa.Table:
    """The sidecar rows of one part, rejected ones included."""
    return read_table(shards.file(f"{part_name}.parquet"), columns)


def accepted(sidecar: pa.Table) -> pa.Table:
    """The rows whose image is in the tar, in tar order."""
    return sidecar.filter(pc.equal(sidecar["status"], "ok"))


def read_images(shards: Artifact, part_name: str) -> Iterator[tuple[str, bytes]]:
    """(key, encoded image) of every accepted sample, in sidecar order.

    Members are read in memory and never extracted, so no name in a tar can reach the file system.
    Raises FormatError when the tar is damaged or does not hold exactly the accepted samples of its
    sidecar.
    """
    path = shards.file(f"{part_name}.tar")
    # The tar has its images in the order of the sidecar: one pass compares both.
    expected = iter(accepted(read_sidecar(shards, part_name, ["key", "status"]))["key"].to_pylist())
    cure = "Run `rdm check` on it, then import again."
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.size < 0:  # some versions of tarfile would go back and never end
                    raise tarfile.ReadError(f"{member.name} has a negative size")
                key, _, extension = member.name.rpartition(".")
                if extension not in ("jpg", "png"):  # the record or the caption of a sample
                    continue
                # Nothing else is unpacked: a sparse member may hold a terabyte of zeros.
                plain = member.isreg() and not member.issparse()
                stream = tar.extractfile(member) if plain else None
                if stream is None or key != next(expected, None):
                    raise FormatError(
                        path,
                        f"member {member.name!r} is not the sample the sidecar lists next",
                        cure,
                    )
                yield key, stream.read()
    except (tarfile.TarError, ValueError, OverflowError, MemoryError, OSError) as error:
        # tarfile believes any number
        raise FormatError(path, f"damaged tar ({error})", cure) from error
    absent = next(expected, None)
    if absent is not None:
        raise FormatError(path, f"the sidecar lists {absent!r}, the tar does not hold it", cure)


def read_some_images(shards: Artifact, keys: Iterable[str]) -> dict[str, bytes]:
    """Encoded images of the given keys; keys that the shards do not hold are absent from the
    answer.

    A database of many shards is scanned by its sidecars; only tars that hold a wanted key are
    opened.
    """
    wanted = set(keys)
    images: dict[str, bytes] = {}
    for part in shards.parts:
        if not wanted:
            break
        # The sidecar is small; the tar is only opened where a key is in it.
        here = wanted.intersection(read_sidecar(shards, part.name, ["key"])["key"].to_pylist())
        if here:
            for key, image in read_images(shards, part.name):
                if key in here:
                    images[key] = image
        wanted -= here
    return images


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    # TarInfo starts with time 0, owner 0 and no names: nothing of this machine gets in.
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))
