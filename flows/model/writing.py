"""Texts that are written of an image, from documents that are near to it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from flows.config.sample import GAP, SampleRDM
from flows.model.editing import as_the_run_draws, given_back
from flows.model.opening import OpenRun
from flows.model.request import Request
from flows.run.progress import bar
from rdm_core.config import DrawConfig

if TYPE_CHECKING:
    import torch

MOST_WORDS = 8
"""Tokens that a gap of a template may be filled with."""


def written(
    config: SampleRDM, run: OpenRun, request: Request, how: DrawConfig
) -> tuple[np.ndarray, list[str]]:
    """The image of a request as the run's autoencoder gives it back, once for each of its B seeds,
    uint8 [B, H, W, 3], and the B texts: whole ones, or a template's with its gap filled.

    Raises RequestError for a file that is no usable image, and for a template that is too long.
    """
    assert config.caption is not None, "asked for"
    image, count = as_the_run_draws(config.caption, config, run), len(request.seeds)
    images = np.stack([image] * count)
    if config.template is None:
        with bar(count, "caption", "text") as shown:
            tokens = run.model.write(
                request.context, images, request.seeds, how,
                lambda done: shown.update(done - shown.n),
            )  # fmt: skip
    else:
        tokens = filled_in(config.template, run, request, images, how)
    return np.stack([given_back(run, image)] * count), run.encoder.texts(tokens.numpy())


def filled_in(
    template: str, run: OpenRun, request: Request, images: np.ndarray, how: DrawConfig
) -> torch.Tensor:
    """A template with its gap filled for each of B images: int64 [B, L].

    How many words are missing is not known: one up to MOST_WORDS are tried, and of these texts the
    likeliest one is taken.
    """
    import torch

    before, behind = template.split(GAP)
    count, texts = len(images), []
    with bar(MOST_WORDS * count, "caption", "text") as shown:
        for words in range(1, MOST_WORDS + 1):
            tokens, is_gap = run.encoder.with_gap(before, behind, words)
            text = torch.from_numpy(np.stack([tokens] * count))
            known = torch.from_numpy(np.stack([~is_gap] * count))
            context = replace(request.context, text=text)
            texts.append(run.model.write(context, images, request.seeds, how, known=known))
            shown.update(count)
    candidates = torch.stack(texts, dim=1)
    best = run.model.score(request.context, images, candidates).argmax(dim=1)
    return candidates[torch.arange(count), best]
