"""A model of documents: what its loss is, that it resumes and divides as every family, what it
refuses.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from training import Recorder, asked, assert_equal, weights
from word_documents import (
    CODES,
    FILLER,
    LENGTH,
    SHAPE,
    SIDE,
    SMALL,
    TRANSFORMER,
    WORDS,
    contexts,
    made,
    texts,
)  # fmt: skip

from rdm_core.config import ExecutionConfig
from rdm_core.context import ABSENT, NO_TOKEN
from rdm_core.data import StoredLatents, Texts, TrainingData
from rdm_core.errors import RequestError, WeightsError
from rdm_core.families import family_of
from rdm_core.families.multimodal.config import Config, MaskingConfig
from rdm_core.judge.losses import held_out_losses
from rdm_core.train import train

COUNT = 12


class Captioned(TrainingData):
    """Training data whose contexts have texts and documents, by the rows of the samples."""

    def context(self, rows, places, dropped_query=None, shares=None):
        context = super().context(rows, places, dropped_query)
        near = np.where(places < 0, 0, self.neighbor_rows[rows[:, None], places])
        absent = context.slots == ABSENT
        captions = texts(COUNT, seed=8)
        neighbor_texts = torch.where(absent[..., None], NO_TOKEN, captions[near])
        codes = self.latents.take(near.ravel()).view(*near.shape, SIDE, SIDE)
        return replace(
            context, text=captions[rows], neighbor_texts=neighbor_texts, references=codes
        )


@pytest.fixture
def data(tiny_data):
    """The usual neighbors of documents of which each has codes and words of its own."""
    codes = (np.arange(COUNT)[:, None, None] + np.arange(2).repeat(5)[:9].reshape(3, 3)) % CODES
    usual = tiny_data(COUNT)
    return Captioned(**vars(usual) | {"latents": StoredLatents([codes.astype(np.uint16)])})


def inputs_of(model, data, context, generator=0):
    rows = np.arange(len(context.slots))
    return model.inputs(data, rows, slice(None), context, torch.Generator().manual_seed(generator))


@torch.no_grad()
def losses_by_hand(model, inputs, row, weight, behind=0):
    """The loss of one sample, each of its tokens predicted from the sequence that ends before; of
    its places behind one.
    """
    layout, network = model.layout, model.transformer
    retrieved = inputs.retrieved[row : row + 1, : inputs.there.numbers[row]]
    rest = inputs.main[row : row + 1], inputs.moved[row : row + 1]
    sequence = layout.sequence(retrieved, *rest)
    total, counted = 0.0, 0
    for end in range(1, sequence.tokens.shape[1]):
        if not sequence.counted[0, end] or sequence.places[0, end] <= behind:
            continue
        hidden = network.hidden(sequence[:end], sequence.places[:, 1 : end + 1])[0, -1]
        token, place = int(sequence.tokens[0, end]), int(sequence.places[0, end])
        if place > LENGTH:
            share = network.code_logits(hidden).softmax(dim=0)[token]
        else:
            share = network.word_logits(hidden).softmax(dim=0)[token - CODES]
        is_main = end >= retrieved.shape[1] * (layout.document + 1)
        total -= (1.0 if is_main else weight) * float(share.log())
        counted += is_main
    return total / counted


@pytest.mark.parametrize("weight", [0.0, 0.1, 2.0])
def test_the_loss_is_that_of_each_token_after_all_before_it(data, weight):
    model = made(replace(SMALL, retrieved_weight=weight)).train()
    context = contexts([0, 1, 2, 2, 0, 1])
    context.text[3] = NO_TOKEN
    inputs = inputs_of(model, data, context, 4)
    kinds = inputs.moved[:, :LENGTH].any(1).sum(), inputs.moved[:, LENGTH:].any(1).sum()
    assert min(kinds) > 0, "something of everything is moved"
    losses = model(inputs)
    wanted = [losses_by_hand(model, inputs, row, weight) for row in range(6)]
    assert losses.tolist() == pytest.approx(wanted, abs=1e-4)


@torch.no_grad()
def test_pads_behind_the_first_and_documents_that_are_not_there_change_nothing(data):
    model, context = made().train(), contexts([1, 0, 2])
    inputs = inputs_of(model, data, context)
    losses = model(inputs)
    spoiled = inputs.retrieved.clone()
    spoiled[0, 1], spoiled[1] = 3, 4
    assert torch.equal(model(replace(inputs, retrieved=spoiled)), losses)
    inputs = inputs_of(model, data, contexts([1, 1, 1]))
    losses, layout = model(inputs), model.layout
    sequence = layout.sequence(inputs.retrieved, inputs.main, inputs.moved)
    each = model.transformer(sequence)
    kept = (each * sequence.counted[:, 1:]).sum(dim=1)
    assert (each.sum(dim=1) > kept + 0.1).any(), "there are pads that do not count"


def test_without_training_it_is_that_of_the_image_given_all_else(data):
    model, context = made().eval(), contexts([0, 2, 1])
    inputs = inputs_of(model, data, context)
    still = replace(inputs, moved=torch.zeros_like(inputs.moved))
    with torch.no_grad():
        losses = model(inputs)
        assert torch.equal(losses, model(inputs_of(model, data, context, 9))), "nothing random"
        wanted = [losses_by_hand(model, still, row, 0.0, LENGTH) for row in range(3)]
        assert losses.tolist() == pytest.approx(wanted, abs=1e-4)
        fewer = model.code_losses(inputs, documents=1)
        assert fewer[0] == losses[0] and fewer[1] != losses[1]
        none = model.code_losses(inputs, documents=0)
        without = replace(context, slots=torch.zeros_like(context.slots))
        assert torch.allclose(none, model(inputs_of(model, data, without)), atol=1e-6)


@torch.no_grad()
def test_a_token_sees_nothing_that_comes_after_it(data):
    model = made()
    inputs = inputs_of(model, data, contexts([1, 1]))
    sequence = model.layout.sequence(inputs.retrieved, inputs.main, inputs.moved)
    before = model.transformer(sequence)
    at = 20
    tokens = sequence.tokens.clone()
    tokens[:, at] = (tokens[:, at] + 1) % CODES
    after = model.transformer(replace(sequence, tokens=tokens))
    assert torch.allclose(before[:, : at - 1], after[:, : at - 1], atol=1e-6)
    assert (before[:, at:] - after[:, at:]).abs().max() > 1e-3


@torch.no_grad()
def test_what_is_expected_depends_on_the_place_that_comes_next_and_on_each_token_s_own(data):
    model = made()
    inputs = inputs_of(model, data, contexts([1, 1]))
    sequence = model.layout.sequence(inputs.retrieved, inputs.main, inputs.moved)[:-1]
    following = sequence.places.roll(-1, dims=1)
    hidden = model.transformer.hidden(sequence, following)
    changed = following.clone()
    changed[:, -1] = LENGTH + 2
    for other in (
        model.transformer.hidden(sequence, changed),
        model.transformer.hidden(replace(sequence, places=changed), following),
        model.transformer.hidden(replace(sequence, marks=1 - sequence.marks), following),
    ):
        assert (hidden[:, -1] - other[:, -1]).abs().amax(dim=1).min() > 1e-3


def test_every_weight_is_used_in_every_step_whatever_is_there(data):
    model = made().train()
    context = contexts([0, 0, 0])
    context.text[:] = NO_TOKEN
    model(inputs_of(model, data, context)).mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_is_moved_does_not_depend_on_how_a_batch_is_divided(data):
    model, context, rows = made(), contexts([2, 0, 1, 1, 0, 2]), np.arange(6)
    whole = model.inputs(data, rows, slice(None), context, torch.Generator().manual_seed(7))
    mine = slice(2, 5)
    part = model.inputs(data, rows, mine, context.rows(mine), torch.Generator().manual_seed(7))
    assert torch.equal(part.moved, whole.moved[mine]) and torch.equal(part.main, whole.main[mine])
    assert np.array_equal(part.there.numbers, whole.there.numbers[mine])
    with torch.no_grad():
        losses = model.train()(whole)
        assert torch.allclose(model(part), losses[mine], atol=1e-6)
        assert torch.allclose(model(whole.rows(torch.tensor([4, 1]))), losses[[4, 1]], atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_it_resumes_to_the_same_bits(data, optimizer):
    how = asked(optimizer=optimizer)
    whole, first = Recorder(), Recorder()
    straight = train(made(), data, hooks=whole.hooks, **how)
    train(made(), data, hooks=first.hooks, **how)
    resumed = train(made(seed=9), data, hooks=Recorder().hooks, resume=(3, first.states[3]), **how)
    assert_equal(weights(resumed), weights(straight))
    assert whole.column("loss") == first.column("loss")


def test_pieces_and_checkpointing_give_the_same_model(data):
    whole = train(made(), data, hooks=Recorder().hooks, **asked())
    execution = ExecutionConfig(accumulate=5, gradient_checkpointing=True)
    pieces = train(made(), data, hooks=Recorder().hooks, **asked() | {"execution": execution})
    for name, tensor in weights(whole).items():
        assert torch.allclose(weights(pieces)[name], tensor, atol=1e-4), name


def test_held_out_losses_are_measured_with_documents_and_without(data):
    model = made().eval()
    right, shuffled, null = (
        held_out_losses(model, data, 2, **way) for way in ({}, {"shuffled": True}, {"null": True})
    )
    assert right.shape == (COUNT,) and np.isfinite(right).all()
    assert not np.allclose(right, shuffled) and not np.allclose(right, null)


def test_a_model_begins_with_the_weights_of_another(data):
    model, other = made(), made(seed=4)
    model.begin_with(other)
    assert_equal(weights(model), weights(other))
    with pytest.raises(RequestError, match="start_from: transformer.embedding.weight is"):
        model.begin_with(made(replace(SMALL, tokens=WORDS + 1)))


def test_weights_are_read_as_they_were_written_and_others_are_refused(tmp_path):
    model = made()
    model.save_weights(tmp_path)
    facts, load = SimpleNamespace(shape=SHAPE), family_of("multimodal").load
    loaded = load(tmp_path, SMALL, facts, None)
    assert_equal(loaded.state_dict(), model.state_dict())
    wider = replace(SMALL, transformer=replace(TRANSFORMER, width=48))
    with pytest.raises(WeightsError, match="not a weights folder of this project"):
        load(tmp_path, wider, facts, None)


# -- bad input


def test_a_space_of_another_codebook_or_none_is_refused():
    for space, said in (
        (SimpleNamespace(name="v", quantises=True, codebook=range(7)), "'v' has 7 entries"),
        (SimpleNamespace(name="kl", quantises=False), "'kl' has no entries"),
    ):
        with pytest.raises(RequestError, match=f"model.codes: is 12, and the codebook of {said}"):
            family_of("multimodal").build(SMALL, SHAPE, space)


def test_more_documents_than_the_model_takes_are_refused(data):
    model = made()
    assert len(inputs_of(model, data, contexts([3, 1]))) == 2
    with pytest.raises(RequestError, match="k: asks for 4 documents, and .* at most 3"):
        inputs_of(model, data, contexts([4, 1]))
    with pytest.raises(RequestError, match="asks for 4 documents"):
        model.example(2, 4, torch.device("cpu"))


def test_captions_that_are_too_long_are_refused(data):
    context = contexts([1])
    context.text[0, :7] = 3
    with pytest.raises(RequestError, match="caption_tokens: is 5, and a caption has 7 words"):
        inputs_of(made(), data, context)


@pytest.mark.parametrize("absent", ["references", "neighbor_texts"])
def test_neighbors_without_codes_or_captions_are_refused(data, absent):
    context = replace(contexts([1, 0]), **{absent: None})
    with pytest.raises(RequestError, match="database: neighbors have no codes or no captions"):
        inputs_of(made(), data, context)


class Tokenizer:
    """Like open_clip's: the end is 2, and 0 fills up."""

    def __init__(self, words=WORDS, length=LENGTH, filler=FILLER):
        self.vocab_size, self.length, self.filler = words, length, filler

    def __call__(self, given):
        tokens = torch.full((len(given), self.length), self.filler)
        tokens[:, 0] = 2
        return tokens


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        (Tokenizer(words=WORDS + 3), "model.tokens: is 9, and the tokenizer of 'tower' has 12"),
        (Tokenizer(length=4), "model.caption_tokens: is 5, .* gives 4. Train with --set"),
        (Tokenizer(filler=1), "model.filler: is 0, .* fills captions up with 1"),
    ],
)
def test_another_tokenizer_is_refused(tokenizer, said):
    made().set_encoder(SimpleNamespace(name="tower", tokenizer=Tokenizer()))
    with pytest.raises(RequestError, match=said):
        made().set_encoder(SimpleNamespace(name="tower", tokenizer=tokenizer))


def test_the_built_in_encoder_fits_a_configuration_for_it(small):
    config = Config(codes=CODES, tokens=676, caption_tokens=32, transformer=TRANSFORMER)
    made(config).set_encoder(small)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"codes": 1}, "codes: is 1"),
        ({"tokens": 1}, "tokens: is 1"),
        ({"tokens": 9, "filler": 9}, "filler: is 9"),
        ({"caption_tokens": 0}, "caption_tokens: is 0"),
        ({"retrieved_weight": -1.0}, "retrieved_weight: is -1.0"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(wrong, said):
    with pytest.raises(ValueError, match=said):
        Config(**wrong)
    with pytest.raises(ValueError, match="width: 100 cannot be divided into heads of 80"):
        replace(Config().transformer, width=100)
    assert Config().codebook == 8192 and Config().reads.captions and Config().reads.references
    assert MaskingConfig(0, 0, 0).box == 0


def test_too_long_captions_of_any_row_are_refused_in_the_first_step(data):
    long = np.full((COUNT, LENGTH + 2), FILLER)
    long[7, : LENGTH + 1] = 3
    starts = np.arange(COUNT + 1)
    for field in ("texts", "neighbor_texts"):
        with_long = Captioned(**vars(data) | {field: Texts(long, starts)})
        with pytest.raises(RequestError, match="caption_tokens: is 5, and a caption has 6 words"):
            made().inputs(with_long, np.arange(2), slice(None), contexts([0, 0]), torch.Generator())
        fits = Captioned(**vars(data) | {field: Texts(long[:5], starts)})
        assert len(inputs_of(made(), fits, contexts([0, 0]))) == 2
