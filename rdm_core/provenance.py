"""Images that say where they came from: a PNG with a JSON record inside."""

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from rdm_core.errors import RequestError

RECORD = "rdm"
"""Keyword of the PNG text chunk."""
ALWAYS_TOLD = ("query", "seed", "neighbor_keys")
"""What every record of ours says; another program may use the same keyword for something else."""


def encode_png(image: np.ndarray, record: Mapping[str, Any]) -> bytes:
    """uint8 [H, W, 3] -> PNG bytes with `record` as UTF-8 JSON in an iTXt chunk."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(RECORD, json.dumps(record, ensure_ascii=False, sort_keys=True))
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png", pnginfo=chunks)
    return stream.getvalue()


def read_record(data: bytes, where: str) -> dict[str, Any]:
    """The record inside a PNG. Raises RequestError when there is none, or one that is not ours.

    `where` names the file in the message.
    """
    cure = (
        "Only images that `rdm sample` wrote carry one, "
        "as long as no other program saved them again."
    )
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            record = json.loads(image.text[RECORD])  # type: ignore[attr-defined]
    # Pillow says SyntaxError of some damaged files, and json RecursionError of what is too deep
    except (
        OSError, KeyError, ValueError, SyntaxError, RecursionError, Image.DecompressionBombError
    ) as error:  # fmt: skip
        raise RequestError(where, "holds no record of how it was made", cure) from error
    if not _is_ours(record):
        what = f"holds a record called {RECORD!r} that `rdm sample` did not write"
        raise RequestError(where, what, cure)
    return record


def _is_ours(record: Any) -> bool:
    """Whether it says what every record of ours says, in plain values and lists of them."""
    if not isinstance(record, dict) or not set(ALWAYS_TOLD) <= record.keys():
        return False
    for value in record.values():
        inside = value if isinstance(value, list) else [value]
        if any(isinstance(one, dict | list) for one in inside):
            return False
    return True
