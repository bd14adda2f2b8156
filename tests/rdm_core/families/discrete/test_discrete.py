"""A discrete diffusion model: what its loss is, that it resumes and divides as every family, what
it refuses.
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
from rdm_core.families.discrete.config import Config, TransformerConfig, TransitionsConfig
from rdm_core.families.facts import Shape
from rdm_core.judge.losses import held_out_losses
from rdm_core.train import step_inputs, train

CODES, SIDE, TIMES = 12, 3, 10
TRANSFORMER = TransformerConfig(width=16, depth=2, head_channels=8, remove_means=True)
SMALL = Config(
    codes=CODES, transformer=TRANSFORMER, transitions=TransitionsConfig(times=TIMES)
)  # fmt: skip
SHAPE = Shape(channels=4, side=SIDE, dimension=DIMENSION)


def made(config=SMALL, seed=0):
    model = family_of("discrete").build(config, SHAPE, seed=seed)
    generator = np.random.default_rng(3)
    model.set_means(generator.normal(size=(2, DIMENSION)).astype(np.float32))
    return model


def some_inputs(model, data, batch=5, mine=slice(None), step=0):
    how = asked(batch=batch)
    return step_inputs(model, data, how["config"], how["context"], step, mine)


@pytest.fixture
def data(tiny_data):
    """The usual neighbors, of images as codes of which each is its row's number or one more."""
    count = 12
    codes = (np.arange(count)[:, None, None] + np.arange(2).repeat(5)[:9].reshape(3, 3)) % CODES
    return replace(tiny_data(count), latents=StoredLatents([codes.astype(np.uint16)]))


def test_times_are_spread_evenly_over_a_batch_and_each_sample_gets_any_of_them(data):
    model, first = made(), []
    for step in range(200):
        inputs = some_inputs(model, data, batch=TIMES, step=step)
        assert sorted(inputs.times.tolist()) == list(range(1, TIMES + 1))
        first.append(int(inputs.times[0]))
    assert set(first) == set(range(1, TIMES + 1))
    assert abs(np.mean(first) - (TIMES + 1) / 2) < 0.8


def test_inputs_of_a_share_are_those_of_the_whole_batch(data):
    model = made()
    whole, share = some_inputs(model, data), some_inputs(model, data, mine=slice(2, 4))
    rows = whole.rows(slice(2, 4))
    for name in ("codes", "times", "uniform", "others"):
        assert torch.equal(getattr(share, name), getattr(rows, name)), name


def test_the_loss_is_the_bound_at_one_time_and_a_cross_entropy_while_training(data):
    model = made()
    inputs = some_inputs(model, data)
    losses, bound = model.train()(inputs), model.eval()(inputs)
    assert losses.shape == (5,) and bound.shape == (5,) and losses.dtype == torch.float32
    process, times = model.transitions, inputs.times
    noisy = process.corrupted(inputs.codes, times, inputs.uniform, inputs.others)
    with torch.no_grad():
        guess = model.transformer(noisy, times, *model.transformer.seen(inputs.context))
    guess = process.with_likelihood(guess, noisy, times).log_softmax(dim=2)
    entropy = -guess.gather(2, inputs.codes[..., None]).mean(dim=(1, 2))
    divergence = process.divergence(guess, inputs.codes, noisy, times - 1, times).mean(dim=1)
    wanted = TIMES * divergence + process.last_divergence()
    assert torch.allclose(bound, wanted, atol=1e-5)
    more = 5e-4 * TIMES * (2 - (times - 1) / TIMES) * entropy
    assert torch.allclose(losses, wanted + more, atol=1e-5)
    plain = made(replace(SMALL, adaptive_auxiliary=False, auxiliary_weight=0.1)).train()
    assert torch.allclose(plain(inputs), wanted + 0.1 * TIMES * entropy, atol=1e-5)


@torch.no_grad()
def test_a_model_that_knows_how_codes_are_noised_need_not_learn_to_copy(data):
    bounds = {}
    for likelihood in (True, False):
        model = made(replace(SMALL, likelihood=likelihood)).eval()
        bounds[likelihood] = held_out_losses(model, data, 2, draws=50).mean()
    assert bounds[True] < 1.1 * math.log(CODES) < 1.3 * math.log(CODES) < bounds[False]


@torch.no_grad()
def test_held_out_losses_are_an_estimate_of_the_whole_bound(data):
    model = made().eval()
    model.transformer.head.weight.mul_(5)
    generator = torch.Generator().manual_seed(0)
    context, codes = data.neighbors(np.arange(12), 2), data.raw(np.arange(12)).flatten(1)
    whole = torch.stack([model.bound(context, codes, generator) for _ in range(10)])
    estimates = held_out_losses(model, data, 2, draws=100)
    error = whole.std(dim=0).mean().item() / math.sqrt(10)
    assert abs(whole.mean().item() - estimates.mean()) < 4 * error + 0.02
    assert whole.mean().item() > 0.9 * math.log(CODES), "it has learned nothing yet"


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
    # A gradient of almost nothing is mostly rounding, and Adam makes every gradient as large.
    for name, tensor in weights(whole).items():
        assert torch.allclose(weights(pieces)[name], tensor, atol=2e-4), name


def test_it_learns_what_neighbors_say(data):
    how = asked(steps=220, batch=8, learning_rate=1e-2, checkpoint_steps=220)
    model = train(made(), data, hooks=Recorder().hooks, **how)
    right, null = (held_out_losses(model, data, 2, null=null).mean() for null in (False, True))
    assert right < 0.5 * math.log(CODES) and right < null


def test_a_space_of_another_codebook_or_none_is_refused():
    for space, said in (
        (SimpleNamespace(name="v", quantises=True, codebook=range(7)), "'v' has 7 entries"),
        (SimpleNamespace(name="kl", quantises=False), "'kl' has no entries"),
    ):
        with pytest.raises(RequestError, match=f"model.codes: is 12, and the codebook of {said}"):
            family_of("discrete").build(SMALL, SHAPE, space)


def test_weights_are_read_as_they_were_written_and_others_are_refused(tmp_path):
    model = made()
    model.save_weights(tmp_path)
    facts, load = SimpleNamespace(shape=SHAPE), family_of("discrete").load
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


def test_widths_that_heads_do_not_divide_and_codebooks_beyond_uint16_are_refused():
    with pytest.raises(ValueError, match="width: 100 cannot be divided into heads of 64"):
        TransformerConfig(width=100)
    with pytest.raises(ValueError, match="codes: is 100000"):
        Config(codes=100_000)
    with pytest.raises(ValueError, match="auxiliary_weight: is -1"):
        Config(auxiliary_weight=-1)
    assert Config().codebook == 8192
