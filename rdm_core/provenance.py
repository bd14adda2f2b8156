"""Images that say how they were made: a PNG with a JSON record inside."""

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from rdm_core.errors import RequestError

RECORD = "rdm"
"""Keyword of the PNG text chunk."""
ALWAYS_THERE = ("query", "seed", "neighbor_keys")
"""Names that every record of ours has. Other programs may use the keyword for something else."""


def encode_png(image: np.ndarray, record: Mapping[str, Any]) -> bytes:
    """An image uint8 [H, W, 3] -> the bytes of a PNG; `record` is UTF-8 JSON in an iTXt chunk."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(RECORD, json.dumps(record, ensure_ascii=False, sort_keys=True))
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png", pnginfo=chunks)
    return stream.getvalue()


def read_record(data: bytes, where: str) -> dict[str, Any]:
    """The record inside a PNG; `where` names the file in messages.

    Raises RequestError when there is no record, or one that is not ours.
    """
    cure = (
        "Only images that `rdm sample` wrote carry one, "
        "as long as no other program saved them again."
    )
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            record = json.loads(image.text[RECORD])  # type: ignore[attr-defined]
    # Pillow raises SyntaxError for some damaged files, and json RecursionError for deep nesting.
    except (
        OSError, KeyError, ValueError, SyntaxError, RecursionError, Image.DecompressionBombError
    ) as error:  # fmt: skip
        raise RequestError(where, "holds no record of how it was made", cure) from error
    if not _is_ours(record):
        what = f"holds a record called {RECORD!r} that `rdm sample` did not write"
        raise RequestError(where, what, cure)
    return record


def _is_ours(record: Any) -> bool:
    """Whether a record has the names of ours, and holds only plain values and lists of them."""
    if not isinstance(record, dict) or not set(ALWAYS_THERE) <= record.keys():
        return False
    for value in record.values():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict | list):
                return False
    return True
