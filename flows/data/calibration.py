"""The cosine above which two images of a database are copies of one picture, under its encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flows.data.database import OpenDatabase
from rdm_core.decode import decode
from rdm_core.errors import RequestError
from storage.checks import images_missing, vectors_of_images
from storage.embeddings import read_columns

if TYPE_CHECKING:
    from rdm_core.duplicates import Cap

CALIBRATED_WITH = 200
"""Images that are altered to calibrate a cap, unless another number is asked for."""
MOST_MISTAKEN = 0.01
"""Share of these from which on a cap is doubted: in the whole database the share is many times
larger.
"""


def calibrated_cap_of(
    database: OpenDatabase, images: int = CALIBRATED_WITH, seed: int = 0
) -> tuple[Cap, int]:
    """The cap that altered copies of some of the database's own images give, and how many images
    these were.

    Raises RequestError when none is at hand, ArtifactMismatch where other than images are embedded.
    """
    why = "a cap is calibrated with altered copies of pictures"
    vectors_of_images(database.embeddings, why, "give a number: 0.95, for example")
    keys = read_columns(database.embeddings, ["key"])["key"].to_pylist()
    rows = np.random.default_rng(seed).choice(len(keys), min(images, len(keys)), replace=False)
    images_by_key = database.images([keys[row] for row in rows])
    if not images_by_key:
        what = f"{images_missing(database.embeddings)[0]}, so that no cap can be calibrated"
        raise RequestError(
            f"embeddings/{database.embeddings.name}", what, "Give one: 0.95, for example."
        )
    # Imported here: it loads scipy, which searches that calibrate nothing do without.
    from rdm_core.duplicates import calibrated_cap

    present, pictures = [], []
    for row in sorted(rows):
        if keys[row] in images_by_key:
            present.append(row)
            pictures.append(decode(images_by_key[keys[row]]))
    vectors = database.retrieval.vectors(np.asarray(present))
    return calibrated_cap(database.encoder, pictures, vectors), len(present)


def doubt_of(cap: Cap, images: int) -> str | None:
    """Why a calibrated cap should not be believed, or None."""
    if cap.mistaken <= MOST_MISTAKEN:
        return None
    return (
        f"{100 * cap.mistaken:.1f} % of the {images:,} images it was calibrated with "
        "have a different picture above it: here the encoder does not tell copies from likeness"
    )
