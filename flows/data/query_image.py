"""An image that is a query."""

from pathlib import Path

import numpy as np

from rdm_core.decode import ImageRejected, decode
from rdm_core.errors import RequestError


def query_image(path: Path) -> np.ndarray:
    """uint8 [H, W, 3]. Raises RequestError when it cannot be used."""
    try:
        return decode(checked_image(path).read_bytes())
    except ImageRejected as error:
        raise RequestError(
            path, f"an image of the request cannot be used ({error})", "Give another image."
        ) from error


def checked_image(path: Path) -> Path:
    """The path of an image. Raises RequestError when there is no such file."""
    if not path.is_file():
        raise RequestError(path, "no such image", "Give the path of an image file.")
    return path
