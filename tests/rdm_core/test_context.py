"""Contexts: sets that know what each of their slots holds."""

from dataclasses import fields, replace

import numpy as np
import torch

from rdm_core.context import ABSENT, NEIGHBOR, NO_TOKEN, QUERY, TEXT, Context, nothing, zeros

SLOTS = np.array([[TEXT, NEIGHBOR, ABSENT], [QUERY, NEIGHBOR, NEIGHBOR]])


def drawn() -> Context:
    """Two sets of at most three vectors [2, 3, 4]."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2, 3, 4)).astype(np.float32)
    norms = rng.standard_normal((2, 3)).astype(np.float32)
    scores = rng.standard_normal((2, 3)).astype(np.float32)
    return Context.of(vectors, norms, scores, SLOTS)


def test_the_mask_says_where_there_is_a_vector():
    context = drawn()
    assert torch.equal(context.mask, torch.tensor([[True, True, False], [True, True, True]]))
    assert context.slots.dtype == torch.int8


def with_everything() -> Context:
    """The same, with a latent and a caption of each neighbor, and a text of each sample."""
    latents = torch.arange(2.0 * 3 * 5 * 2 * 2).view(2, 3, 5, 2, 2)
    captions, text = torch.arange(2 * 3 * 6).view(2, 3, 6), torch.arange(2 * 6).view(2, 6)
    return replace(drawn(), references=latents, text=text, neighbor_texts=captions)


def test_some_of_the_sets_can_be_taken_and_moved():
    context = with_everything()
    for chosen in (slice(1, 2), torch.tensor([1])):
        part = context.rows(chosen).to(torch.device("cpu"))
        assert part.device == torch.device("cpu")
        for field in fields(Context):
            assert torch.equal(getattr(part, field.name), getattr(context, field.name)[1:])


def test_sets_whose_neighbors_latents_nobody_reads_have_none_wherever_they_go():
    context = drawn()
    assert context.references is None
    assert context.rows(slice(1, 2)).to(torch.device("cpu")).references is None
    assert nothing(3, 4).references is zeros(3, 4).references is None


def test_the_latents_of_neighbors_are_moved_with_their_vectors():
    for name, tensor in vars(with_everything().to(torch.device("meta"))).items():
        assert tensor.device.type == "meta", name


def test_a_slot_without_a_neighbor_has_no_text():
    context = with_everything()
    texts = context.with_texts_of_neighbors_alone().neighbor_texts
    is_neighbor = torch.from_numpy(SLOTS == NEIGHBOR)
    assert torch.equal(texts[is_neighbor], context.neighbor_texts[is_neighbor])
    assert (texts[~is_neighbor] == NO_TOKEN).all()
    assert texts.dtype == torch.int64
    assert drawn().with_texts_of_neighbors_alone().neighbor_texts is None


def test_sets_without_a_slot_are_as_if_it_had_held_nothing():
    context = with_everything()
    less = context.without(1)
    assert less.slots.tolist() == [[TEXT, ABSENT, ABSENT], [QUERY, ABSENT, NEIGHBOR]]
    assert torch.equal(less.vectors, context.vectors) and torch.equal(less.text, context.text)
    assert torch.equal(less.references, context.references)
    assert (less.neighbor_texts[:, 1] == NO_TOKEN).all()
    assert torch.equal(less.neighbor_texts[1, 2], context.neighbor_texts[1, 2])
    assert context.slots.tolist() == SLOTS.tolist(), "what it was taken from is left alone"


def test_sets_without_neighbors_keep_their_own_text():
    context = with_everything().without_neighbors()
    assert not context.mask.any()
    assert torch.equal(context.text, with_everything().text)
    assert (context.neighbor_texts == NO_TOKEN).all()
    assert with_everything().mask.any(), "the others stay as they are"


def test_nothing_has_no_vector_and_zeros_has_one_of_length_0():
    assert nothing(3, 4).vectors.shape == zeros(3, 4).vectors.shape == (3, 1, 4)
    assert not nothing(3, 4).mask.any()
    assert zeros(3, 4).mask.all()
    assert not zeros(3, 4).vectors.any()
