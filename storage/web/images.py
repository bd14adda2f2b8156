"""One image of the web, into memory: its bytes, or why there are none."""

from dataclasses import dataclass
from typing import Literal

from storage.web.client import Web
from storage.web.outcomes import Failed, Refused

SUFFIXES = {
    b"\xff\xd8\xff": "jpg",
    b"\x89PNG\r\n\x1a\n": "png",
    b"GIF8": "gif",
    b"BM": "bmp",
    b"II*\0": "tif",
    b"MM\0*": "tif",
    b"\xff\x0a": "jxl",
}
"""First bytes of a file -> the suffix that such files have."""
BRANDS = {b"avif": "avif", b"avis": "avif", b"heic": "heic", b"heix": "heic", b"mif1": "heic"}
"""The same of those that begin with a box `ftyp`, by its brand."""
UNTOLD_TYPES = ("", "application/octet-stream", "binary/octet-stream")
"""What servers say of files whose kind they do not know, such as object stores."""


@dataclass(frozen=True)
class FetchedImage:
    """What an address gave."""

    status: Literal["new", "unchanged"]
    data: bytes
    """Nothing where it is unchanged."""
    suffix: str
    etag: str | None
    last_modified: str | None


def fetch_image(
    web: Web,
    address: str,
    most_bytes: int,
    etag: str | None = None,
    last_modified: str | None = None,
) -> FetchedImage:
    """An image of the web, unless it is the one that had this ETag or this date.

    Raises Refused for what is no image, is too large or packed or not to be had, and Failed.
    """
    headers = {}
    if etag and etag.isascii():
        headers["If-None-Match"] = etag
    elif last_modified and last_modified.isascii():
        headers["If-Modified-Since"] = last_modified
    with web.answer(address, headers) as response:
        kept = response.headers.get("etag"), response.headers.get("last-modified")
        if response.status_code == 304:
            return FetchedImage("unchanged", b"", "", kept[0] or etag, kept[1] or last_modified)
        if response.status_code != 200:
            raise Failed(f"status {response.status_code}")
        kind = response.headers.get("content-type", "").split(";")[0].strip().lower()
        if not kind.startswith("image/") and kind not in UNTOLD_TYPES:
            raise Refused("no image", f"its type is {kind}")
        data = web.read(response, most_bytes)
    if not data:
        raise Failed("empty", "no bytes")
    suffix = suffix_of(data)
    if suffix is None:
        raise Refused("no image", f"it begins with {data[:12]!r}")
    return FetchedImage("new", data, suffix, *kept)


def suffix_of(data: bytes) -> str | None:
    """The suffix of an image file by its first bytes; None for what is none of those known."""
    for first, suffix in SUFFIXES.items():
        if data.startswith(first):
            return suffix
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return BRANDS.get(data[8:12]) if data[4:8] == b"ftyp" else None
