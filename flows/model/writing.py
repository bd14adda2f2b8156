"""Texts that are written of an image, from documents that are near to it."""

import numpy as np

from flows.config.sample import SampleRDM
from flows.model.editing import as_the_run_draws, given_back
from flows.model.opening import OpenRun
from flows.model.request import Request
from flows.run.progress import bar
from rdm_core.config import DrawConfig


def written(
    config: SampleRDM, run: OpenRun, request: Request, how: DrawConfig
) -> tuple[np.ndarray, list[str]]:
    """The image of a request as the run's autoencoder gives it back, once for each of its B seeds,
    uint8 [B, H, W, 3], and the B texts.

    Raises RequestError for a file that is no usable image.
    """
    assert config.caption is not None, "asked for"
    image, count = as_the_run_draws(config.caption, config, run), len(request.seeds)
    images = np.stack([image] * count)
    with bar(count, "caption", "text") as shown:
        tokens = run.model.write(
            request.context, images, request.seeds, how, lambda done: shown.update(done - shown.n)
        )
    return np.stack([given_back(run, image)] * count), run.encoder.texts(tokens.numpy())
