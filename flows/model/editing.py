"""An image that is given to be changed, and what became of it."""

from pathlib import Path

import numpy as np

from flows.config.sample import SampleRDM
from flows.data.query_image import query_image
from flows.model.opening import OpenRun
from flows.run.progress import say
from rdm_core.decode import is_transparent
from rdm_core.images import CELL_PIXELS, centre_square, fitted, grid

CHANGED = 0.1
"""A pixel counts as changed where the mean over its channels differs by more, of 0..1."""
FULL = 0.5
"""The map of what changed is white where a pixel differs by so much, or more."""


def as_the_run_draws(path: Path, config: SampleRDM, run: OpenRun) -> np.ndarray:
    """An image of a request, as large as the run draws: uint8 [H, W, 3].

    What is done to the image before is said. Raises RequestError for a file that is no usable
    image.
    """
    image, side = query_image(path), run.facts.latent_side * run.facts.space["factor"]
    high, wide = image.shape[:2]
    if (high, wide) != (side, side):
        cut = "" if high == wide else "its centred square is "
        text = f"{Path(path).name} is {wide} x {high} pixels: {cut}scaled to {side} x {side}"
        say("sample", config.name, f"{text}, the size that {config.run} draws")
    if is_transparent(path.read_bytes()):
        say("sample", config.name, f"{Path(path).name} is transparent: white is behind it")
    return centre_square(image, side)


def given_back(run: OpenRun, image: np.ndarray) -> np.ndarray:
    """An image uint8 [H, W, 3] as the run's autoencoder gives it back: what an edit that changes
    nothing is at best.
    """
    return run.model.works_in.given_back(image)


def differences(original: np.ndarray, images: np.ndarray) -> np.ndarray:
    """How much each pixel of images uint8 [B, H, W, 3] differs from an original uint8 [H, W, 3]:
    float64 [B, H, W] in 0..1, the mean over the channels.
    """
    return np.abs(images.astype(np.float64) - original).mean(axis=3) / 255


def how_much(changes: np.ndarray) -> dict[str, float]:
    """How much was changed, of differences float64 [B, H, W]: the mean over all pixels, and the
    share of those that changed.
    """
    return {
        "mean_change": round(float(changes.mean()), 5),
        "changed_pixels": round(float((changes > CHANGED).mean()), 5),
    }


def sheet_of_edits(original: np.ndarray, images: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """One line an edit: the original as the autoencoder gives it back, the edit, and a map of what
    changed, black where nothing did: uint8 [H, W, 3].
    """
    cells = []
    for image, change in zip(images, changes, strict=True):
        grey = (np.clip(change / FULL, 0, 1) * 255).round().astype(np.uint8)
        pictures = (original, image, np.repeat(grey[..., None], 3, axis=2))
        cells += [fitted(picture, CELL_PIXELS) for picture in pictures]
    return grid(cells, columns=3)
