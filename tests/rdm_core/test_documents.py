"""Vectors of captions and documents: unit means of unit vectors, in the order of the samples."""

from types import SimpleNamespace

import numpy as np
import pytest

from rdm_core.clip import load_encoder
from rdm_core.documents import caption_vectors, document_vectors
from rdm_core.errors import EncoderError


@pytest.fixture(scope="module")
def encoder():
    """The built-in CLIP."""
    return load_encoder("rdm-shapes", "built-in")


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_one_caption_gives_its_own_vector_and_several_the_unit_mean_of_theirs(encoder):
    captions = [["a red circle"], ["a blue star", "a ring", "a blue star"], ["a green heart"]]
    vectors, norms = caption_vectors(encoder, captions)
    assert vectors.dtype == norms.dtype == np.float32
    for row, texts in enumerate(captions):
        own, lengths = encoder.encode_texts(texts)
        np.testing.assert_allclose(vectors[row], unit(own.mean(axis=0)), atol=1e-6)
        np.testing.assert_allclose(norms[row], lengths.mean(), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_captions_are_weighed_by_direction_and_not_by_length():
    told = {"x": ([1, 0], 100), "y": ([0, 1], 1)}

    def encode_texts(texts):
        vectors, norms = zip(*map(told.get, texts), strict=True)
        return np.array(vectors, np.float32), np.array(norms, np.float32)

    fake = SimpleNamespace(dimension=2, encode_texts=encode_texts)
    vectors, norms = caption_vectors(fake, [["x", "y"], ["y"]])
    np.testing.assert_allclose(vectors, [[0.5**0.5, 0.5**0.5], [0, 1]], atol=1e-6)
    np.testing.assert_allclose(norms, [50.5, 1])


def test_no_sample_has_no_vector(encoder):
    vectors, norms = caption_vectors(encoder, [])
    assert vectors.shape == (0, encoder.dimension) and norms.shape == (0,)


def test_a_document_lies_halfway_between_its_image_and_its_text():
    images = np.array([[1, 0], [0, 1]], np.float32), np.array([10, 20], np.float32)
    texts = np.array([[0, 1], [0, 1]], np.float32), np.array([2, 4], np.float32)
    vectors, norms = document_vectors(images, texts)
    np.testing.assert_allclose(vectors, [[0.5**0.5, 0.5**0.5], [0, 1]], atol=1e-6)
    np.testing.assert_allclose(norms, [6, 12])


def test_a_mean_without_a_direction_is_refused_and_counted():
    ones = np.ones(2, np.float32)
    images = np.array([[1, 0], [0, 1]], np.float32), ones
    texts = np.array([[-1, 0], [0, 1]], np.float32), ones
    with pytest.raises(EncoderError, match="1 of 2 means have no direction.*of=image"):
        document_vectors(images, texts)
