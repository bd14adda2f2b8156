"""Codes are drawn as the settings say, each image from its own seed, guided on the logits."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from rdm_core.context import NEIGHBOR, Context, nothing
from rdm_core.errors import RequestError
from rdm_core.families.autoregressive import draw as module
from rdm_core.families.autoregressive.config import Draw, TransformerConfig
from rdm_core.families.autoregressive.decoder import CausalTransformer
from rdm_core.families.autoregressive.draw import chosen, generate, uniforms
from rdm_core.families.family import Beside

V, T, D, K = 7, 6, 5, 2


@pytest.fixture
def network():
    torch.manual_seed(0)
    made = CausalTransformer(V, T, D, TransformerConfig(width=16, depth=2, head_channels=8)).eval()
    for parameter in made.parameters():
        parameter.data.mul_(3)  # so that contexts matter
    made.null.data.normal_()
    return made


def contexts(count, seed=1, k=K):
    generator = torch.Generator().manual_seed(seed)
    vectors = functional.normalize(torch.randn(count, k, D, generator=generator), dim=-1)
    ones = torch.ones(count, k)
    return Context(vectors, ones, ones, torch.full((count, k), NEIGHBOR, dtype=torch.int8))


def test_codes_come_as_often_as_their_probabilities_say():
    logits = torch.tensor([0.5, 0.2, 0.3, 0.0]).log().expand(20_000, 4)
    drawn = chosen(logits, torch.rand(20_000, dtype=torch.float64), Draw())
    shares = np.bincount(drawn.numpy(), minlength=4) / 20_000
    assert shares[:3] == pytest.approx([0.5, 0.2, 0.3], abs=0.02) and shares[3] == 0


@pytest.mark.parametrize(
    ("how", "possible"),
    [
        (Draw(top_k=1), {0}),
        (Draw(top_k=3), {0, 1, 2}),
        (Draw(top_p=0.5), {0}),
        (Draw(top_p=0.55), {0, 2}),
        (Draw(top_p=0.85), {0, 1, 2}),
        (Draw(top_k=2, top_p=0.99), {0, 2}),
        (Draw(temperature=0.01), {0}),
        (Draw(), {0, 1, 2, 3}),
    ],
)
def test_top_k_top_p_and_temperature_leave_the_likeliest(how, possible):
    logits = torch.tensor([0.5, 0.2, 0.25, 0.05]).log().expand(2_000, 4)
    spread = torch.linspace(0, 1, 2_001, dtype=torch.float64)[:-1]
    assert set(chosen(logits, spread, how).tolist()) == possible


def test_the_highest_number_below_1_draws_a_code_that_is_possible():
    highest = torch.tensor([1 - 2**-53], dtype=torch.float64)
    assert chosen(torch.tensor([[0.0, 1.0, -torch.inf]]), highest, Draw()).tolist() == [1]
    assert chosen(torch.tensor([[-torch.inf, 1.0]]), torch.zeros(1).double(), Draw()).tolist() == [
        1
    ]


def test_an_image_depends_on_its_seed_and_context_alone(network, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 3)
    how, seeds, context = Draw(guidance_scale=1.5), [5, 6, 7, 5], contexts(4)
    done = []
    together = generate(network, context, seeds, how, progress=done.append)
    assert together.shape == (4, T) and together.dtype == np.uint16 and done == [3, 4]
    for row, seed in enumerate(seeds):
        alone = generate(network, context.rows(slice(row, row + 1)), [seed], how)
        assert np.array_equal(alone[0], together[row])
    assert not np.array_equal(together[0], together[1])


def test_each_code_is_drawn_from_the_logits_of_all_before_it(network):
    """Beside a drawing that computes everything anew at each position."""
    scale, context = 2.5, contexts(2)
    drawn = generate(network, context, [1, 2], Draw(guidance_scale=scale))
    uniform, codes = uniforms([1, 2], T), torch.zeros(2, T, dtype=torch.long)
    with torch.no_grad():
        for position in range(T):
            wanted = network(codes, *network.seen(context))[:, position]
            reference = network(codes, *network.seen(nothing(2, D)))[:, position]
            guided = reference + scale * (wanted - reference)
            codes[:, position] = chosen(guided, uniform[:, position], Draw())
    assert np.array_equal(drawn, codes.numpy())


def test_guidance_goes_away_from_what_is_asked_for(network):
    context, seeds = contexts(8), range(8)

    def drawn(beside=Beside(), **settings):  # noqa: B008 - frozen
        return generate(network, context, seeds, Draw(**settings), beside).tolist()

    kinds = {
        "not": drawn(guidance_scale=1.0),
        "nothing": drawn(guidance_scale=0.0),
        "learned": drawn(guidance_scale=3.0),
        "zero": drawn(guidance_scale=3.0, null="zero"),
        "negative": drawn(Beside(negative=contexts(1, seed=9, k=4)), guidance_scale=3.0),
    }
    assert len({str(codes) for codes in kinds.values()}) == len(kinds)
    same = generate(network, contexts(8, seed=3), seeds, Draw(guidance_scale=0.0))
    assert kinds["nothing"] == same.tolist(), "contexts are not looked at"
    each = generate(
        network, context, seeds, Draw(guidance_scale=3.0),
        Beside(negative=contexts(1, seed=9, k=4).rows(torch.zeros(8, dtype=torch.long))),
    )  # fmt: skip
    assert kinds["negative"] == each.tolist()


def test_what_does_not_fit_the_network_is_refused(network):
    with pytest.raises(RequestError, match="top_k: 8 of a codebook that has 7 codes. Use at most"):
        generate(network, contexts(1), [0], Draw(top_k=8))
    with pytest.raises(RequestError, match="two things to guide away from"):
        generate(network, contexts(1), [0], Draw(null="zero"), Beside(negative=contexts(1)))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"temperature": 0}, "temperature: is 0, must be above 0"),
        ({"temperature": -1.0}, "temperature: is -1.0, must be above 0"),
        ({"top_k": -1}, "top_k: is -1"),
        ({"top_p": 0.0}, "top_p: is 0.0, must be above 0, at most 1"),
        ({"top_p": 1.5}, "top_p: is 1.5"),
        ({"guidance_scale": -1.0}, "guidance_scale: is -1.0"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(wrong, said):
    with pytest.raises(ValueError, match=said):
        Draw(**wrong)
