"""An autoregressive model: what its loss is, that it resumes and divides as every family, what it
refuses.
"""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import DIMENSION
from training import Recorder, asked, assert_equal, weights

from rdm_core.config import ExecutionConfig
from rdm_core.data import StoredLatents
from rdm_core.errors import RequestError, WeightsError
from rdm_core.families import family_of
from rdm_core.families.autoregressive.config import Config, TransformerConfig
from rdm_core.families.facts import Shape
from rdm_core.judge.losses import held_out_losses
from rdm_core.train import step_inputs, train

CODES, SIDE = 12, 3
TRANSFORMER = TransformerConfig(width=16, depth=2, head_channels=8, remove_means=True)
SMALL = Config(codes=CODES, transformer=TRANSFORMER)
SHAPE = Shape(channels=4, side=SIDE, dimension=DIMENSION)


def made(config=SMALL, seed=0):
    model = family_of("autoregressive").build(config, SHAPE, seed=seed)
    generator = np.random.default_rng(3)
    model.set_means(generator.normal(size=(2, DIMENSION)).astype(np.float32))
    return model


@pytest.fixture
def data(tiny_data):
    """The usual neighbors, of images as codes of which each is its row's number or one more."""
    count = 12
    codes = (np.arange(count)[:, None, None] + np.arange(2).repeat(5)[:9].reshape(3, 3)) % CODES
    return replace(tiny_data(count), latents=StoredLatents([codes.astype(np.uint16)]))


def test_the_loss_is_the_cross_entropy_of_each_code_in_nats(data):
    model = made().eval()
    inputs = step_inputs(model, data, asked()["config"], asked()["context"], 0, slice(0, 5))
    assert inputs.codes.shape == (5, SIDE**2) and inputs.codes.dtype == torch.int64
    losses = model(inputs)
    assert losses.shape == (5,)
    with torch.no_grad():
        logits = model.transformer(inputs.codes, *model.transformer.seen(inputs.context))
    shares = logits.softmax(dim=-1).gather(2, inputs.codes[..., None])
    assert torch.allclose(losses, -shares.log().mean(dim=(1, 2)), atol=1e-5)


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
        assert torch.allclose(weights(pieces)[name], tensor, atol=1e-5), name


def test_it_learns_what_neighbors_say(data):
    how = asked(steps=300, batch=8, learning_rate=1e-2, checkpoint_steps=300)
    model = train(made(), data, hooks=Recorder().hooks, **how)
    right, null = (held_out_losses(model, data, 2, null=null).mean() for null in (False, True))
    assert right < 0.5 * math.log(CODES) and right < null


def test_a_space_of_another_codebook_or_none_is_refused():
    for space, said in (
        (SimpleNamespace(name="v", quantises=True, codebook=range(7)), "'v' has 7 entries"),
        (SimpleNamespace(name="kl", quantises=False), "'kl' has no entries"),
    ):
        with pytest.raises(RequestError, match=f"model.codes: is 12, and the codebook of {said}"):
            family_of("autoregressive").build(SMALL, SHAPE, space)


def test_weights_are_read_as_they_were_written_and_others_are_refused(tmp_path):
    model = made()
    model.save_weights(tmp_path)
    facts, load = SimpleNamespace(shape=SHAPE), family_of("autoregressive").load
    assert_equal(
        load(tmp_path, SMALL, facts, None).transformer.state_dict(), model.transformer.state_dict()
    )
    wider = replace(SMALL, transformer=replace(TRANSFORMER, width=24))
    with pytest.raises(WeightsError, match="not a weights folder of this project"):
        load(tmp_path, wider, facts, None)


def test_the_query_is_read_where_it_is_a_token():
    assert not made().reads.query and made().reads.stored == ("codes",)
    with_query = replace(SMALL, transformer=replace(TRANSFORMER, query_token=True))
    model = made(with_query)
    assert model.reads.query
    assert model(model.example(3, 2, torch.device("cpu"))).shape == (3,)
    (of_database, of_queries) = with_query.image_vectors_only
    assert (of_database.setting, of_queries.setting) == (
        "transformer.remove_means", "transformer.query_token"
    )  # fmt: skip
