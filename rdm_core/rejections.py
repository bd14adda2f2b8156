"""Why a file does not become a picture: fixed words that can be counted, and the reason behind an
exception of a decoder.
"""

from collections.abc import Sequence

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from rdm_core.formats import (
    READABLE,
    is_of_a_readable_format,
    other_format,
    refusal,
    tiff_kind,
    tiff_tags,
)

# The values of ImageRejected.reason. They do not change, so that one can count and filter by them.
REASONS = {
    "missing file": "the data set lists it, but there is no such file",
    "unreadable file": "the operating system would not read it",
    "not fetched": "its address gave nothing, or nothing that can be used",
    "forbidden by its owner": "robots.txt or a header says that it is not for training",
    "empty file": "no bytes at all",
    "git-lfs pointer": "the small text git-lfs leaves where the data should be",
    "too many bytes": "the file is longer than DecodeLimits.max_bytes",
    "not an image": "no picture format that is known here",
    "unsupported format": "a picture, of a format that is not in READABLE",
    "too many pixels": "the header claims more than DecodeLimits.max_pixels, or Pillow's limit",
    "too small": "a side is shorter than DecodeLimits.min_side",
    "truncated": "the file ends before its pixels do",
    "damaged": "an image format, but the decoder cannot make sense of the file",
    "unsupported pixels": "no decoder, or no agreed way to 8-bit RGB: floats, Lab, 12-bit JPEG",
    "out of memory": "the decoder could not get the memory; perhaps not the image's fault",
}


class ImageRejected(Exception):
    """A file does not become an image. `reason` is one of REASONS; `detail` says more to people."""

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in REASONS, f"{reason!r} is not in the vocabulary REASONS"
        self.reason, self.detail = reason, detail
        super().__init__(reason, detail)

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def rejection(error: Exception, data: bytes) -> ImageRejected:
    """The rejection for an exception that a decoder raised. Its text depends on the bytes alone: it
    has no addresses of memory.
    """
    if isinstance(error, UnidentifiedImageError):
        if not is_of_a_readable_format(data):
            return _foreign(data)
        error = refusal(data)
    if isinstance(error, MemoryError):
        return ImageRejected("out of memory", "the decoder could not get the memory it needs")
    detail = f"{type(error).__name__}: {error}"[:200]
    if isinstance(error, Image.DecompressionBombError):
        return ImageRejected("too many pixels", detail)
    return _rejection_by_words(str(error).lower(), detail, data)


def _rejection_by_words(words: str, detail: str, data: bytes) -> ImageRejected:
    """The rejection by the words of an exception: Pillow raises the same types for an unknown kind
    of file and for a damaged one.
    """
    if "no meta box found" in words:  # a sequence of pictures (.heics), or nothing at all
        return ImageRejected("unsupported format", "HEIF without a still picture (no meta box)")
    tags = tiff_tags(data)  # 259 is the compression, 1 is none
    if tags.get(259, 1) not in TiffImagePlugin.COMPRESSION_INFO:
        return ImageRejected("unsupported pixels", f"a TIFF of compression {tags.get(259)}")
    unknown = ("unknown pixel mode", "cannot handle", "unsupported", "not available")
    if _contains_any(words, unknown):
        return ImageRejected("unsupported pixels", tiff_kind(tags) if tags else detail)
    ends = ("truncated", "end of file", "cannot read full", "not enough image data")
    is_short = _contains_any(words, ends) or _is_cut_webp(data)
    return ImageRejected("truncated" if is_short else "damaged", detail)


def _contains_any(text: str, parts: Sequence[str]) -> bool:
    """Whether a text contains at least one of the parts."""
    return any(part in text for part in parts)


def _is_cut_webp(data: bytes) -> bool:
    """Whether a WebP is shorter than its header says; its decoder gives another reason."""
    return data[8:12] == b"WEBP" and len(data) < 8 + int.from_bytes(data[4:8], "little")


def _foreign(data: bytes) -> ImageRejected:
    """The rejection of a file that none of the decoders takes."""
    readable = f"readable are {', '.join(READABLE)}"
    if other := other_format(data):
        return ImageRejected("unsupported format", f"{other}; {readable}")
    return ImageRejected("not an image", f"starts with {data[:16]!r}; {readable}")
