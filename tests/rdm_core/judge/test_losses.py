"""The loss on held-out images: what a model is given for each row of the table."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rdm_core.context import NEIGHBOR, NO_TOKEN, nothing
from rdm_core.data import NO_ROW, References, StoredLatents, Texts, TrainingData
from rdm_core.families.facts import Reads
from rdm_core.judge.losses import held_out_losses

N = 6


class Recorder:
    """A model that keeps the contexts that it is given."""

    random_loss, device = False, torch.device("cpu")

    def __init__(self, reads):
        self.reads, self.given = reads, []

    def null(self, count):
        return nothing(count, N)

    def inputs(self, data, rows, mine, context, generator):
        self.given.append(context)
        return SimpleNamespace(to=lambda device: rows)

    def __call__(self, rows):
        return torch.from_numpy(rows.astype(float))


def numbered(first):
    """One caption of each of N images, whose token is its number."""
    return Texts(first + np.arange(N)[:, None], np.arange(N + 1))


@pytest.fixture
def data():
    """Sample i has the neighbor i."""
    latents = StoredLatents([np.arange(N, dtype=np.uint8)[:, None, None, None]])
    rows = np.stack([np.arange(N), np.full(N, NO_ROW)], axis=1)
    return TrainingData(
        latents, rows, np.ones((N, 2), np.float32), np.eye(N, dtype=np.float32), np.ones(N),
        texts=numbered(0), neighbor_texts=numbered(10),
        references=References(latents, np.arange(N)),
    )  # fmt: skip


def given(data, reads, **how):
    model = Recorder(reads)
    losses = held_out_losses(model, data, 2, **how)
    assert losses.tolist() == list(range(N))
    (context,) = model.given
    return context


WHOLE = Reads(captions=True, references=True)


def test_texts_and_latents_of_neighbors_go_along_and_a_sample_keeps_its_own_text(data):
    right, shuffled = (given(data, WHOLE, shuffled=wrong) for wrong in (False, True))
    for context in (right, shuffled):
        assert context.text[:, 0].tolist() == list(range(N))
        near = context.neighbor_texts[:, 0, 0] - 10
        assert context.references[:, 0, 0, 0, 0].tolist() == near.tolist()
        assert (context.neighbor_texts[:, 1] == NO_TOKEN).all()
    assert (right.neighbor_texts[:, 0, 0] - 10).tolist() == list(range(N))
    assert (shuffled.neighbor_texts[:, 0, 0] - 10 != torch.arange(N)).all()


def test_without_neighbors_a_sample_keeps_its_own_text(data):
    context = given(data, WHOLE, null=True)
    assert not (context.slots == NEIGHBOR).any()
    assert context.text[:, 0].tolist() == list(range(N))
    assert (context.neighbor_texts == NO_TOKEN).all()


def test_a_model_that_reads_vectors_alone_is_given_its_learned_null(data):
    plain = TrainingData(
        data.latents, data.neighbor_rows, data.neighbor_scores, data.vectors, data.norms
    )
    context = given(plain, Reads(), null=True)
    assert context.slots.shape == (N, 1) and context.text is None
