"""The key of a sample, `<dataset>-<id>-<crop>`: this file alone makes one and takes one apart.

  coco-000000000139-00     the sample (key)
  coco-000000000139        its image (source key), equal for every crop of it

A key holds only [A-Za-z0-9_-], so that a WebDataset tar can hold it and a removal list can name it.
It depends on its image alone, never on a place in a list, and is the same on every machine. The
data set has no hyphen and the crop is a number, so the first hyphen and the last one part the
three; the id between them may hold more.
"""

import hashlib
import re
import unicodedata

# Tar members and removal lists must hold them, so nothing but these characters.
_SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SAFE_DATASET = re.compile(r"[a-z0-9_]{1,32}")
_KEY = re.compile(r"[A-Za-z0-9_-]+")


def key_of(dataset: str, source_id: str, crop: int) -> str:
    """The key of one sample: crop number `crop` of the image that a data set calls `source_id`.

    An id made of up to 64 safe characters stays as it is; any other becomes a slug of up to 64
    characters and the first 12 hex digits of its sha256. Raises ValueError for a data set name
    other than [a-z0-9_], an empty id or a negative crop.
    """
    if not _SAFE_DATASET.fullmatch(dataset) or not source_id or crop < 0:
        raise ValueError(f"no key for dataset {dataset!r}, id {source_id!r}, crop {crop}")
    safe_id = source_id
    if not _SAFE_ID.fullmatch(source_id):
        # The slug alone is not unique: "a b" and "a.b" have the same one.
        digest = hashlib.sha256(source_id.encode("utf-8", "surrogatepass")).hexdigest()
        safe_id = f"{_slug(source_id)}-{digest[:12]}"
    return f"{dataset}-{safe_id}-{crop:02d}"


def source_key_of(key: str) -> str:
    """The key without the crop number: equal for every crop of one image."""
    # The crop is a number and holds no hyphen, an id may hold some: so the last one.
    return key.rpartition("-")[0]


def is_key(text: str) -> bool:
    """Whether a text could be a key or a source key: it holds what these hold, and nothing else."""
    return _KEY.fullmatch(text) is not None


def _slug(text: str) -> str:
    """Up to 64 characters of [A-Za-z0-9_-] that remind a reader of text, or "id"."""
    # NFKD takes accents off their letters, and ASCII then drops the accents: "é" becomes "e".
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")
    return re.sub(r"[^A-Za-z0-9_]+", "-", plain).strip("-")[:64].strip("-") or "id"
