"""Vectors of captions, and of documents: an image with its captions.

A mean of unit vectors is made unit again. Its norm is the mean of the norms of its members, so that
vector times norm is on the encoder's own scale, as for an image.
"""

from collections.abc import Sequence
from itertools import chain, pairwise

import numpy as np

from rdm_core.clip import Encoder
from rdm_core.errors import EncoderError

Vectors = tuple[np.ndarray, np.ndarray]
"""Unit vectors [N, D] and norms [N], float32."""
NO_LENGTH = 1e-6
"""A mean of unit vectors that is no longer than this is zero but for rounding."""


def caption_vectors(encoder: Encoder, captions: Sequence[Sequence[str]]) -> Vectors:
    """The captions of N samples, at least one each -> unit vectors float32 [N, D] and norms float32
    [N].

    Several captions give the unit mean of their vectors. Raises EncoderError when a vector has no
    direction.
    """
    vectors, norms = encoder.encode_texts(list(chain.from_iterable(captions)))
    lengths_of_samples = [len(texts) for texts in captions]
    ends = np.cumsum([0, *lengths_of_samples])  # sample i has the texts ends[i]:ends[i + 1]
    means = np.empty((len(captions), encoder.dimension), np.float32)
    lengths = np.empty(len(captions), np.float32)
    for row, (start, end) in enumerate(pairwise(ends)):
        means[row] = vectors[start:end].mean(axis=0)
        lengths[row] = norms[start:end].mean()
    return _unit(means), lengths


def document_vectors(images: Vectors, texts: Vectors) -> Vectors:
    """Images and their captions, each float32 [N, D] and [N] -> the unit mean of both [N, D], as
    RA-CM3 (arXiv 2211.12561) retrieves documents, and the mean of their norms [N].

    Raises EncoderError when a mean has no direction.
    """
    return _unit((images[0] + texts[0]) / 2), (images[1] + texts[1]) / 2


def _unit(means: np.ndarray) -> np.ndarray:
    """Means float32 [N, D] -> unit vectors [N, D]. Raises EncoderError for a mean near zero."""
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    if wrong := int((lengths <= NO_LENGTH).sum()):
        what = f"{wrong} of {len(means)} means have no direction: their members point opposite ways"
        raise EncoderError("means of unit vectors", what, "Embed the images alone: of=image.")
    unit: np.ndarray = means / lengths
    return unit
