"""What a step is told in words: captions of samples and neighbors, in the order of the slots."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rdm_core.clip import load_encoder
from rdm_core.config import ContextConfig
from rdm_core.context import ABSENT, NEIGHBOR, NO_TOKEN, QUERY
from rdm_core.data import (
    NO_ROW,
    References,
    StoredLatents,
    Texts,
    TrainingData,
    training_context,
)

L, N, M = 3, 5, 7
EVERY = slice(None)


def numbered(counts, first):
    """Captions of images, so many of each, whose tokens say which it is: first, first + 1, ..."""
    starts = np.cumsum([0, *counts])
    tokens = np.repeat(first + np.arange(starts[-1]), L).reshape(-1, L)
    return Texts(tokens.astype(np.int32), starts)


@pytest.fixture
def data() -> TrainingData:
    """Five samples, the fourth without a caption; seven rows of a database, the last without one.
    Latents and captions of row r are 10 + r and 100 + r, but row 0 has three captions: 100 to 102.
    """
    rows = np.array([[0, 1, 2], [6, 5, 4], [3, NO_ROW, NO_ROW], [NO_ROW] * 3, [1, 2, 5]])
    vectors = np.eye(M, 8, dtype=np.float32)
    latents = np.arange(10, 10 + M, dtype=np.uint8)[:, None, None, None]
    of_database = References(StoredLatents([latents]), np.arange(M))
    captions = numbered([3, 1, 1, 1, 1, 1, 0], first=100)
    return TrainingData(
        StoredLatents([np.zeros((N, 1, 1, 1), np.uint8)]),
        rows,
        np.where(rows == NO_ROW, -2, 0.5).astype(np.float32),
        vectors,
        np.ones(M),
        query_vectors=np.eye(N, 8, dtype=np.float32),
        query_norms=np.ones(N),
        texts=numbered([1, 1, 2, 0, 1], first=0),
        neighbor_texts=captions,
        references=of_database,
    )


def of_step(data, step=0, mine=EVERY, with_query=False, rows=tuple(range(N)), **settings):
    config = ContextConfig(**{"k": 3, "neighbor_dropout": 0.0, **settings})
    return training_context(data, config, with_query, np.array(rows), 4, step, mine)


def said(texts):
    """The number that a text's tokens repeat, [*]."""
    assert texts.dtype == torch.int64
    assert (texts == texts[..., :1]).all()
    return texts[..., 0].numpy()


def test_samples_and_neighbors_have_their_own_captions(data):
    context = data.neighbors(np.array([4, 0, 3, 2, 1]), k=3)
    assert said(context.text).tolist() == [4, 0, NO_TOKEN, 2, 1]
    captions = [[103, 104, 107], [100, 103, 104], [-1] * 3, [105, -1, -1], [-1, 107, 106]]
    assert said(context.neighbor_texts).tolist() == captions
    assert context.references.shape == (5, 3, 1, 1, 1)
    assert context.references[:2, :, 0, 0, 0].tolist() == [[11, 12, 15], [10, 11, 12]]


def test_a_query_has_a_slot_in_texts_and_latents_too(data):
    context = data.neighbors(np.arange(2), k=3, with_query=True)
    assert context.slots[:, 0].tolist() == [QUERY, QUERY]
    assert context.neighbor_texts.shape == (2, 4, L) and context.references.shape[:2] == (2, 4)
    assert said(context.neighbor_texts).tolist() == [[-1, 100, 103, 104], [-1, -1, 107, 106]]
    assert context.references[:, 1:, 0, 0, 0].tolist() == [[10, 11, 12], [16, 15, 14]]


def test_a_step_draws_one_of_several_captions(data):
    own, neighbors = [], []
    for step in range(60):
        context = of_step(data, step)
        own.append(said(context.text)[2])
        neighbors.append(said(context.neighbor_texts)[0, 0])
    assert set(own) == {2, 3} and set(neighbors) == {100, 101, 102}


def test_texts_are_left_out_at_the_share_asked_for_whatever_becomes_of_neighbors(data):
    rows = np.tile([0, 1, 2, 4], 500)
    context = of_step(data, rows=rows, text_dropout=0.3, neighbor_dropout=0.2)
    without_text = context.text[:, 0] == NO_TOKEN
    without_neighbors = ~context.mask.any(dim=1)
    assert torch.equal(without_text, (context.text == NO_TOKEN).all(dim=1))
    assert without_text.float().mean() == pytest.approx(0.3, abs=0.03)
    assert without_neighbors.float().mean() == pytest.approx(0.2, abs=0.03)
    both = (without_text & without_neighbors).float().mean()
    assert both == pytest.approx(0.06, abs=0.02), "each by itself"
    assert (context.neighbor_texts[without_neighbors] == NO_TOKEN).all()
    has_text = context.neighbor_texts[context.slots == NEIGHBOR][:, 0] != NO_TOKEN
    assert has_text.float().mean() > 0.8


def test_a_neighbor_that_is_left_out_takes_its_caption_along(data):
    context = of_step(data, rows=np.zeros(300, int), each_neighbor_dropout=0.5)
    is_there = context.slots == NEIGHBOR
    assert 0.4 < is_there.float().mean() < 0.6
    assert ((context.neighbor_texts[..., 0] != NO_TOKEN) == is_there).all()
    alone = of_step(data, rows=np.zeros(9, int), with_query=True, query_alone=1.0)
    assert (alone.slots[:, 1:] == ABSENT).all() and (alone.neighbor_texts == NO_TOKEN).all()


def test_texts_change_nothing_else_that_a_step_draws(data):
    plain = replace(data, texts=None, neighbor_texts=None, references=None)
    settings = {"k": 2, "random_k": True, "neighbor_dropout": 0.3, "embedding_noise": 0.2}
    settings |= {"each_neighbor_dropout": 0.2, "query_dropout": 0.3, "query_alone": 0.2}
    for step in range(5):
        one = of_step(data, step, with_query=True, text_dropout=0.5, **settings)
        other = of_step(plain, step, with_query=True, **settings)
        for name in ("vectors", "norms", "scores", "slots"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert other.text is other.neighbor_texts is other.references is None


def test_the_texts_of_all_processes_are_those_of_the_whole_batch(data):
    rows = np.tile(np.arange(N), 4)
    settings = {"text_dropout": 0.4, "neighbor_dropout": 0.3}
    whole = of_step(data, rows=rows, **settings)
    for mine in (slice(0, 10), slice(10, 20)):
        part = of_step(data, rows=rows, mine=mine, **settings)
        assert torch.equal(part.text, whole.text[mine])
        assert torch.equal(part.neighbor_texts, whole.neighbor_texts[mine])


def test_captions_are_read_by_the_tokenizer_in_the_order_of_the_images():
    encoder = load_encoder("rdm-shapes", "built-in")
    texts = Texts.made([["a red circle"], [], ["a blue star", "a ring"]], encoder.tokens)
    assert texts.starts.tolist() == [0, 1, 1, 3]
    shown = texts.of(np.array([2, 1, 0, 2, NO_ROW]), np.array([0.6, 0, 0, 0, 0]))
    wanted = encoder.tokenizer(["a ring", "a red circle", "a blue star"])
    assert torch.equal(shown[[0, 2, 3]], wanted)
    assert (shown[[1, 4]] == NO_TOKEN).all()


def test_images_without_any_caption_have_no_text_and_keep_the_length():
    encoder = load_encoder("rdm-shapes", "built-in")
    texts = Texts.made([[], []], encoder.tokens).of(np.array([0, 1]), np.zeros(2))
    assert texts.shape == (2, encoder.context_length)
    assert (texts == NO_TOKEN).all()
