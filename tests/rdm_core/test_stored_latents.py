"""Stored latents: one table over many arrays, and those of a database looked up by row."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rdm_core.context import ABSENT, NEIGHBOR
from rdm_core.data import NO_ROW, References, StoredLatents, TrainingData
from rdm_core.errors import RequestError


def numbered(count: int, first: int = 0, dtype: type = np.float16) -> np.ndarray:
    """Latents [count, 2, 3, 3] that hold their number."""
    numbers = np.arange(first, first + count, dtype=dtype).reshape(count, 1, 1, 1)
    return np.broadcast_to(numbers, (count, 2, 3, 3))


PARTS = StoredLatents([numbered(2), numbered(0), numbered(3, first=2), numbered(1, first=5)])


def test_rows_count_on_through_all_parts_the_empty_ones_too():
    assert len(PARTS) == 6
    for rows in ([0, 1, 2, 3, 4, 5], [5, 2, 2, 0], [4]):
        taken = PARTS.take(np.array(rows))
        assert (taken.dtype, taken.shape) == (torch.float16, (len(rows), 2, 3, 3))
        assert taken[:, 1, 2, 2].tolist() == rows


def test_what_is_taken_is_a_copy():
    stored = np.zeros((2, 1, 1, 1), np.float32)
    StoredLatents([stored]).take(np.array([0])).add_(1)
    assert not stored.any()


@pytest.mark.parametrize(
    ("stored", "most", "taken"),
    [
        (np.uint8, 255, torch.uint8),
        (np.float16, 100, torch.float16),
        (np.uint16, 65_535, torch.int64),
    ],
)
def test_codes_are_taken_as_whole_numbers_that_torch_can_count_with(stored, most, taken):
    codes = np.array([[[0, most]], [[30, 7]]], stored)  # [2, 1, 2]
    found = StoredLatents([codes[:1], codes[1:]]).take(np.array([1, 0]))
    assert found.dtype == taken
    assert found.tolist() == codes[::-1].tolist()


# -- of a database's images

# Rows of the database 0..4 in another order than their latents, row 3 without any.
PLACES = np.array([5, 0, 4, NO_ROW, 1])
REFERENCES = References(PARTS, PLACES)


def test_each_neighbor_has_the_latents_of_its_row():
    near = np.array([[4, 0, 2], [1, 1, 0]])
    found = REFERENCES.of(near)
    assert found.shape == (2, 3, 2, 3, 3)
    assert found[..., 0, 0, 0].tolist() == PLACES[near].tolist()


def test_an_absent_neighbor_has_some_latents_whatever_row_0_has():
    near = np.array([[NO_ROW, 2], [NO_ROW, NO_ROW]])
    assert REFERENCES.of(near)[..., 0, 0, 0].tolist() == [[5, 4], [5, 5]]
    without = References(PARTS, np.array([NO_ROW, 0, 4]))
    found = without.of(near)
    assert found.shape == (2, 2, 2, 3, 3)
    assert found[0, 1, 0, 0, 0] == 4


def test_a_row_without_latents_is_refused_by_its_number():
    with pytest.raises(RequestError, match=r"references: row 3 of the database .* Encode the data"):
        REFERENCES.of(np.array([[0, 1], [NO_ROW, 3]]))
    with pytest.raises(RequestError, match="references: row 0 of the database has no latents"):
        References(PARTS, np.array([NO_ROW, 0])).of(np.array([[NO_ROW, 0]]))


@pytest.fixture
def data() -> TrainingData:
    """Two samples with three neighbors at most."""
    rows = np.array([[4, 0, 2], [1, 2, NO_ROW]])
    scores = np.ones((2, 3), np.float32)
    return TrainingData(StoredLatents([numbered(2)]), rows, scores, np.eye(5), np.ones(5))


def test_references_are_given_beside_the_vectors_of_those_families_that_read_them(data):
    assert data.neighbors(np.arange(2), 3).references is None
    context = replace(data, references=REFERENCES).neighbors(np.array([1, 0]), 3)
    assert context.slots.tolist() == [[NEIGHBOR, NEIGHBOR, ABSENT], [NEIGHBOR] * 3]
    assert context.references[..., 0, 0, 0].tolist() == [[0, 4, 5], [1, 5, 4]]
    assert context.references.shape[:2] == context.vectors.shape[:2]


def test_an_empty_slot_of_a_context_needs_no_latents(data):
    reading = replace(data, references=REFERENCES)
    context = reading.context(np.array([0, 0]), np.array([[1, -1], [-1, -1]]))
    assert context.slots.tolist() == [[NEIGHBOR, ABSENT], [ABSENT, ABSENT]]
    assert context.references[0, 0, 0, 0, 0] == 5
