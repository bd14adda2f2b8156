"""The cosine above which two images of a database are copies of one picture, under its encoder."""

import numpy as np

from flows.database import OpenDatabase
from rdm_core.decode import decode
from rdm_core.errors import RequestError
from storage.embeddings import read_columns

CALIBRATED_WITH = 200
"""Images that are altered to calibrate a cap, unless another number is asked for."""


def calibrated_cap_of(database: OpenDatabase, images: int = CALIBRATED_WITH, seed: int = 0) -> tuple[float, int]:
    """The cap that altered copies of some of the database's own images give, and how many images these were.

    Raises RequestError when none is at hand.
    """
    keys = read_columns(database.embeddings, ["key"])["key"].to_pylist()
    picked = np.random.default_rng(seed).choice(len(keys), min(images, len(keys)), replace=False)
    found = database.images([keys[i] for i in picked])
    if not found:
        what = "its images are no longer under this root, so that no cap can be calibrated"
        raise RequestError(f"embeddings/{database.embeddings.name}", what, "Give one: 0.95, for example.")
    from rdm_core.duplicates import calibrated_cap  # the encoder's libraries, which a search without one does not need

    return calibrated_cap(database.encoder, [decode(data) for _, data in sorted(found.items())]), len(found)
