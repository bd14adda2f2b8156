"""The causal transformer: nothing is seen ahead of its time, and a cache changes the work alone."""

import time

import pytest
import torch
from torch.nn import functional

from rdm_core.context import ABSENT, NEIGHBOR, Context, nothing
from rdm_core.families.autoregressive.config import Config, TransformerConfig
from rdm_core.families.autoregressive.decoder import Cache, CausalTransformer

V, T, D, K = 11, 9, 6, 3
SMALL = TransformerConfig(width=32, depth=2, head_channels=16)


def network(config=SMALL, codes=V, positions=T, seed=0):
    torch.manual_seed(seed)
    return CausalTransformer(codes, positions, D, config).eval()


def contexts(count, absent=()):
    generator = torch.Generator().manual_seed(1)
    vectors = functional.normalize(torch.randn(count, K, D, generator=generator), dim=-1)
    ones = torch.ones(count, K)
    slots = torch.full((count, K), NEIGHBOR, dtype=torch.int8)
    for row, slot in absent:
        slots[row, slot] = ABSENT
    return Context(vectors, ones, ones, slots)


def some_codes(count, codes=V, positions=T):
    return torch.randint(codes, (count, positions), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_a_code_is_predicted_from_those_before_it_alone():
    model, codes = network(), some_codes(2)
    seen = model.seen(contexts(2))
    logits = model(codes, *seen)
    assert logits.shape == (2, T, V)
    changed = codes.clone()
    changed[:, 4] = (changed[:, 4] + 1) % V
    other = model(changed, *seen)
    assert torch.equal(logits[:, :5], other[:, :5]), "its own logits and all before it"
    assert (logits[:, 5:] - other[:, 5:]).abs().amax(dim=(0, 2)).min() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("absent", [(), ((0, 1), (1, 0), (1, 1), (1, 2))])
def test_logits_with_a_cache_are_those_without(absent):
    model, codes = network(), some_codes(2)
    seen = model.seen(contexts(2, absent))
    wanted = model(codes, *seen)
    cache, before = Cache(T), model.after_start(codes)
    for position in range(T):
        one = model.logits(before[:, position, None], *seen, position, cache)
        assert torch.allclose(one[:, 0], wanted[:, position], atol=1e-5)


@torch.no_grad()
def test_a_prefix_can_be_kept_in_one_go():
    model, codes = network(), some_codes(2)
    seen = model.seen(contexts(2))
    wanted = model(codes, *seen)
    cache, before = Cache(T), model.after_start(codes)
    prefix = model.logits(before[:, :4], *seen, 0, cache)
    assert torch.allclose(prefix, wanted[:, :4], atol=1e-5)
    after = model.logits(before[:, 4, None], *seen, 4, cache)
    assert torch.allclose(after[:, 0], wanted[:, 4], atol=1e-5)


@torch.no_grad()
def test_neighbors_are_a_set_and_absent_ones_are_not_seen():
    model, codes = network(), some_codes(1)
    context = contexts(1, [(0, 2)])
    logits = model(codes, *model.seen(context))
    turned = Context(*(tensor.flip(1) for tensor in vars(context).values() if tensor is not None))
    assert torch.allclose(model(codes, *model.seen(turned)), logits, atol=1e-5)
    context.vectors[0, 2] = 100.0
    assert torch.equal(model(codes, *model.seen(context)), logits)
    context.vectors[0, 1] = -context.vectors[0, 1]
    assert not torch.allclose(model(codes, *model.seen(context)), logits, atol=1e-4)


@torch.no_grad()
def test_without_neighbors_the_learned_null_is_seen():
    model, codes = network(), some_codes(1)
    model.null.copy_(torch.linspace(-1, 1, D))
    tokens, mask = model.seen(nothing(1, D))
    assert torch.equal(tokens[0, 0], model.null) and mask.tolist() == [[True]]
    before = model(codes, tokens, mask)
    model.null.mul_(2)
    assert not torch.equal(model(codes, *model.seen(nothing(1, D))), before)


def test_checkpointed_activations_give_the_same_gradients():
    grads = []
    for keeps in (True, False):
        model = network().train()
        model.keeps_activations = keeps
        loss = functional.cross_entropy(
            model(some_codes(2), *model.seen(contexts(2))).flatten(0, 1), some_codes(2).flatten()
        )
        loss.backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))


def test_the_network_of_2022_has_its_230_874_112_parameters_and_a_learned_null():
    with torch.device("meta"):
        model = CausalTransformer(16_384, 256, 512, TransformerConfig(final_norm=False))
    assert sum(parameter.numel() for parameter in model.parameters()) == 230_874_112 + 512


@pytest.mark.long
@torch.no_grad()
def test_256_tokens_with_the_cache_are_at_least_5_times_as_fast_as_computing_all_again():
    model = network(TransformerConfig(width=128, depth=4, head_channels=32), 256, 256)
    codes, seen = some_codes(8, 256, 256), model.seen(contexts(8))
    before, seconds = model.after_start(codes), []
    for kept in (True, False):
        started, cache = time.monotonic(), Cache(256)
        for position in range(256):
            if kept:
                model.logits(before[:, position, None], *seen, position, cache)
            else:
                model.logits(before[:, : position + 1], *seen)
        seconds.append(time.monotonic() - started)
    assert seconds[1] / seconds[0] >= 5, seconds


def test_widths_that_heads_do_not_divide_and_codebooks_beyond_uint16_are_refused():
    with pytest.raises(ValueError, match="width: 100 cannot be divided into heads of 64"):
        TransformerConfig(width=100)
    with pytest.raises(ValueError, match="codes: is 100000"):
        Config(codes=100_000)
    assert Config().codebook == 16_384
