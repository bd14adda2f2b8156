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


def encode_png(image: np.ndarray, record: Mapping[str, Any]) -> bytes:
    """uint8 [H, W, 3] -> PNG bytes with `record` as UTF-8 JSON in an iTXt chunk."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(RECORD, json.dumps(record, ensure_ascii=False, sort_keys=True))
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png", pnginfo=chunks)
    return stream.getvalue()


def read_record(data: bytes, where: str) -> dict[str, Any]:
    """The record inside a PNG. Raises RequestError when there is none; `where` names the file in the message."""
    cure = "Only images that `rdm sample` wrote carry one, as long as no other program saved them again."
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            return json.loads(image.text[RECORD])  # type: ignore[attr-defined]
    # Pillow says SyntaxError of some damaged files
    except (OSError, KeyError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RequestError(where, "holds no record of how it was made", cure) from error
