"""How many of the drawn images of entities are copies, and how long one takes: T11's other figures.

Distances are of pixels: no classifier here sees more of an entity than its colours.
"""

import time

import numpy as np

from benchmarks.entity_runs import DATABASE, FREQUENT, HELD_OUT, TRAIN, EntityStudy, Trained
from flows.judge.trial import features_in
from flows.model.opening import OpenRun
from rdm_core.config import DrawConfig
from rdm_core.context import Context
from rdm_core.judge.copies import Known, known_beside
from storage.artifact import open_artifact

TIMED = 32
"""Images that are drawn together where seconds are measured."""


def pixels(images: np.ndarray) -> np.ndarray:
    """Images uint8 [N, H, W, 3] as points float32 [N, 3 H W], each number in 0..1."""
    return images.reshape(len(images), -1).astype(np.float32) / 255


def known_entities(config: EntityStudy, trained: Trained) -> Known:
    """Every image of the training and of the database, and how near to one of them an image must
    be to count as its copy: as 1 % of held-out images are.
    """
    real = _pixels_of(config, trained, HELD_OUT, FREQUENT)
    return known_beside(_pixels_of(config, trained, TRAIN, DATABASE), real)


def _pixels_of(config: EntityStudy, trained: Trained, *sets: str) -> np.ndarray:
    shards = [open_artifact(config.root, "shards", trained.images(of)) for of in sets]
    return features_in(config.root, [each.fingerprint for each in shards], pixels)


def seconds_an_image(run: OpenRun, context: Context, how: DrawConfig) -> dict[str, float]:
    """Seconds an image of this machine, TIMED of them together, with what contexts hold and with
    the same texts without neighbors.
    """
    few = context.rows(slice(0, TIMED))
    seeds, seconds = list(range(len(few.slots))), {}
    for name, given in (("with neighbors", few), ("without", few.without_neighbors())):
        began = time.perf_counter()
        run.model.draw(given, seeds, how)
        seconds[name] = (time.perf_counter() - began) / len(seeds)
    return seconds
