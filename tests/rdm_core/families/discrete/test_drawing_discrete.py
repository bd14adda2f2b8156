"""Codes are drawn step by step as the settings say, each image from its own seed, guided on what
the image is guessed to be.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from rdm_core.context import NEIGHBOR, Context, nothing
from rdm_core.errors import RequestError
from rdm_core.families.discrete import draw as module
from rdm_core.families.discrete.config import Draw, TransformerConfig, TransitionsConfig
from rdm_core.families.discrete.draw import chosen, generate, guessed, times_of
from rdm_core.families.discrete.network import CodesTransformer
from rdm_core.families.discrete.transitions import Transitions
from rdm_core.families.family import Beside

V, SIDE, D, K, T = 7, 3, 5, 2, 8
N = SIDE * SIDE
PROCESS = Transitions(V, TransitionsConfig(times=T))
REPLACING = Transitions(V, TransitionsConfig(times=T, kept=(0.9, 0.05), masked=(0.05, 0.6)))


@pytest.fixture
def network():
    torch.manual_seed(0)
    config = TransformerConfig(width=16, depth=2, head_channels=8)
    made = CodesTransformer(V, SIDE, T, D, config).eval()
    for parameter in made.parameters():
        parameter.data.mul_(3)  # so that contexts matter
    made.null.data.normal_()
    return made


def contexts(count, seed=1, k=K):
    generator = torch.Generator().manual_seed(seed)
    vectors = functional.normalize(torch.randn(count, k, D, generator=generator), dim=-1)
    ones = torch.ones(count, k)
    return Context(vectors, ones, ones, torch.full((count, k), NEIGHBOR, dtype=torch.int8))


def drawn(network, context, seeds, how, beside=Beside(), process=PROCESS, **more):  # noqa: B008
    return generate(network, process, False, context, seeds, how, beside, **more)


def test_classes_come_as_often_as_their_probabilities_say():
    shares = torch.tensor([0.5, 0.2, 0.3, 0.0]).log().expand(1, 20_000, 4)
    found = chosen(shares, torch.rand(1, 20_000, dtype=torch.float64))
    counts = np.bincount(found[0].numpy(), minlength=4) / 20_000
    assert counts[:3] == pytest.approx([0.5, 0.2, 0.3], abs=0.02) and counts[3] == 0
    highest = torch.tensor([[1 - 2**-53]], dtype=torch.float64)
    assert chosen(torch.tensor([[[-torch.inf, 0.0, -torch.inf]]]), highest).tolist() == [[1]]


@pytest.mark.parametrize(
    ("how", "shares"),
    [
        (Draw(), [0.5, 0.2, 0.25, 0.05]),
        (Draw(top_p=0.5), [1.0, 0, 0, 0]),
        (Draw(top_p=0.001), [1.0, 0, 0, 0]),
        (Draw(top_p=0.55), [2 / 3, 0, 1 / 3, 0]),
        (Draw(top_p=0.85), [0.5 / 0.95, 0.2 / 0.95, 0.25 / 0.95, 0]),
        (Draw(temperature=0.5), [0.25 / 0.355, 0.04 / 0.355, 0.0625 / 0.355, 0.0025 / 0.355]),
    ],
)
def test_top_p_and_temperature_leave_the_likeliest(how, shares):
    logits = torch.tensor([[[0.5, 0.2, 0.25, 0.05]]]).log() + 3.0
    assert torch.allclose(guessed(logits, how, guided=False).exp()[0, 0], torch.tensor(shares))


def test_guidance_is_linear_in_logarithms_and_sums_to_1():
    wanted, reference = torch.randn(2, 3, V), torch.randn(2, 3, V)
    found = guessed(torch.cat([wanted, reference]), Draw(guidance_scale=2.5), guided=True)
    assert torch.allclose(found.exp().sum(dim=2), torch.ones(2, 3))
    product = wanted.softmax(dim=2) ** 2.5 / reference.softmax(dim=2) ** 1.5
    assert torch.allclose(found.exp(), product / product.sum(dim=2, keepdim=True), atol=1e-6)


@pytest.mark.parametrize(
    ("steps", "times"), [(1, [8, 0]), (3, [8, 5, 3, 0]), (8, range(8, -1, -1))]
)
def test_fewer_steps_skip_times(steps, times):
    assert times_of(steps, T) == list(times)


@pytest.mark.parametrize("process", [PROCESS, REPLACING], ids=["masks", "replacing"])
@pytest.mark.parametrize("steps", [1, 3, T])
def test_a_guess_that_knows_the_image_draws_it_in_any_number_of_steps(process, steps):
    image = torch.arange(N) % V

    class Knows(CodesTransformer):
        def forward(self, noisy, times, tokens, mask):
            return 50.0 * functional.one_hot(image, V).float().expand(*noisy.shape, V)

    knowing = Knows(V, SIDE, T, D, TransformerConfig(width=16, depth=1, head_channels=8)).eval()
    how = Draw(steps=steps, guidance_scale=1.0)
    assert (drawn(knowing, contexts(5), range(5), how, process=process) == image.numpy()).all()


@pytest.mark.parametrize("process", [PROCESS, REPLACING], ids=["masks", "replacing"])
@pytest.mark.parametrize("steps", [1, 3, T])
def test_codes_that_do_not_depend_on_each_other_are_drawn_right_in_any_number_of_steps(
    process, steps
):
    """Where the guess is the true p(x_0 | x_t), what is drawn is p(x_0)."""
    shares = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.02])

    class Knows(CodesTransformer):
        def forward(self, noisy, times, tokens, mask):
            kept, masked = process.kept[times], process.masked[times]
            other = ((1 - kept - masked) / V)[:, None, None]
            is_here = functional.one_hot(noisy, V + 1)[..., :V]
            likely = other + kept[:, None, None] * is_here
            likely[noisy == V] = 1.0
            return (likely * shares).log()

    knowing = Knows(V, SIDE, T, D, TransformerConfig(width=16, depth=1, head_channels=8)).eval()
    how = Draw(steps=steps, guidance_scale=1.0)
    codes = drawn(knowing, contexts(800), range(800), how, process=process)
    found = np.bincount(codes.ravel(), minlength=V) / codes.size
    assert found == pytest.approx(shares.numpy(), abs=0.02)


def test_an_image_depends_on_its_seed_and_context_alone(network, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 3)
    how, seeds, context = Draw(guidance_scale=1.5, steps=4), [5, 6, 7, 5], contexts(4)
    done = []
    together = drawn(network, context, seeds, how, progress=done.append)
    assert together.shape == (4, N) and together.dtype == np.uint16 and done == [3, 4]
    for row, seed in enumerate(seeds):
        alone = drawn(network, context.rows(slice(row, row + 1)), [seed], how)
        assert np.array_equal(alone[0], together[row])
    assert not np.array_equal(together[0], together[1])
    monkeypatch.setattr(module, "PROBABILITIES_AT_ONCE", 2 * N * V)
    assert np.array_equal(drawn(network, context, seeds, how, progress=done.append), together)
    assert done[2:] == [2, 4], "large codebooks are drawn with in smaller batches"


def test_guidance_goes_away_from_what_is_asked_for(network):
    context, seeds = contexts(8), range(8)

    def codes(beside=Beside(), **settings):  # noqa: B008 - frozen
        return drawn(network, context, seeds, Draw(steps=4, **settings), beside).tolist()

    negative = contexts(1, seed=9, k=4)
    kinds = {
        "not": codes(guidance_scale=1.0),
        "nothing": codes(guidance_scale=0.0),
        "learned": codes(guidance_scale=3.0),
        "negative": codes(Beside(negative=negative), guidance_scale=3.0),
    }
    assert len({str(each) for each in kinds.values()}) == len(kinds)
    other = drawn(network, contexts(8, seed=3), seeds, Draw(steps=4, guidance_scale=0.0))
    assert kinds["nothing"] == other.tolist(), "contexts are not looked at"
    each = Beside(negative=negative.rows(torch.zeros(8, dtype=torch.long)))
    assert kinds["negative"] == codes(each, guidance_scale=3.0)


@torch.no_grad()
def test_neighbors_are_a_set_the_time_counts_and_a_null_is_learned(network):
    codes, times = torch.randint(V + 1, (2, N)), torch.tensor([1, 5])
    context = contexts(2)
    logits = network(codes, times, *network.seen(context))
    assert logits.shape == (2, N, V)
    turned = Context(*(tensor.flip(1) for tensor in vars(context).values() if tensor is not None))
    assert torch.allclose(network(codes, times, *network.seen(turned)), logits, atol=1e-5)
    each = [network(codes[[i]], times[[i]], *network.seen(context.rows([i]))) for i in (0, 1)]
    assert torch.allclose(torch.cat(each), logits, atol=1e-5), "each sample has its own time"
    later = network(codes, times + 1, *network.seen(context))
    assert (later - logits).abs().amax(dim=(1, 2)).min() > 1e-3
    without = network(codes, times, *network.seen(nothing(2, D)))
    network.null.mul_(2)
    assert not torch.allclose(network(codes, times, *network.seen(nothing(2, D))), without)


def test_more_steps_than_times_are_refused(network):
    with pytest.raises(RequestError, match="draw.steps: are 9, and .* 8 times. Use at most 8"):
        drawn(network, contexts(1), [0], Draw(steps=9))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"temperature": 0}, "temperature: is 0, must be above 0"),
        ({"temperature": -1.0}, "temperature: is -1.0, must be above 0"),
        ({"steps": 0}, "steps: is 0"),
        ({"top_p": 0.0}, "top_p: is 0.0, must be above 0, at most 1"),
        ({"top_p": 1.5}, "top_p: is 1.5"),
        ({"guidance_scale": -1.0}, "guidance_scale: is -1.0"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(wrong, said):
    with pytest.raises(ValueError, match=said):
        Draw(**wrong)
    assert replace(Draw(), steps=4) == Draw(steps=4) and Draw.preview().guidance_scale == 1


def test_unless_asked_for_there_are_no_more_steps_than_times(network):
    context = contexts(2)
    usual = drawn(network, context, [1, 2], Draw())
    np.testing.assert_array_equal(usual, drawn(network, context, [1, 2], Draw(steps=T)))
    assert Draw.preview().steps is None
