"""Vectors of captions, and of documents: an image with its captions.

A mean of unit vectors is made unit again; its norm is the mean of the norms that its members had,
so that vector times norm is on the encoder's own scale, as of an image.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from rdm_core.clip import Encoder
from rdm_core.errors import EncoderError

Vectors = tuple[np.ndarray, np.ndarray]
"""Unit vectors [N, D] and norms [N], float32."""
NO_LENGTH = 1e-6
"""Of a mean of unit vectors: what rounding leaves of nothing."""


def caption_vectors(encoder: Encoder, captions: Sequence[Sequence[str]]) -> Vectors:
    """The captions of N samples, one at least each -> unit vectors [N, D] and norms [N].

    Of one caption its own vector, of several the unit mean of theirs. Raises EncoderError when a
    vector has no direction.
    """
    vectors, norms = encoder.encode_texts([text for texts in captions for text in texts])
    ends = np.cumsum([0, *(len(texts) for texts in captions)])
    means = np.empty((len(captions), encoder.dimension), np.float32)
    lengths = np.empty(len(captions), np.float32)
    for row, (start, end) in enumerate(pairwise(ends)):
        means[row] = vectors[start:end].mean(axis=0)
        lengths[row] = norms[start:end].mean()
    return _unit(means), lengths


def document_vectors(images: Vectors, texts: Vectors) -> Vectors:
    """Images and their captions -> the unit mean of both [N, D], as RA-CM3 retrieves documents
    (arXiv 2211.12561), and the mean of their norms [N].

    Raises EncoderError when a mean has no direction.
    """
    return _unit((images[0] + texts[0]) / 2), (images[1] + texts[1]) / 2


def _unit(means: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    if wrong := int((lengths <= NO_LENGTH).sum()):
        what = f"{wrong} of {len(means)} means have no direction: their members point opposite ways"
        raise EncoderError("means of unit vectors", what, "Embed the images alone: of=image.")
    unit: np.ndarray = means / lengths
    return unit
