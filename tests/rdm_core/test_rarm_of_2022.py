"""A RARM of 2022 computes after its conversion what its equations say: they are told here a second
time, over the names of the release, and share nothing with the converter. No released file is
needed.
"""

import math
from dataclasses import replace

import pytest
import torch
from original import layer_normed
from torch.nn import functional

from rdm_core import originals
from rdm_core.context import NEIGHBOR, Context, zeros
from rdm_core.errors import WeightsError

Shapes = dict[str, tuple[int, ...]]


def linear(name: str, into: int, out: int, bias: bool = True) -> Shapes:
    """A linear layer's tensors."""
    return {f"{name}.weight": (out, into)} | ({f"{name}.bias": (out,)} if bias else {})


def released(width: int, depth: int, codes: int, positions: int, context: int) -> Shapes:
    """Every tensor of a released transformer: two tokens more than codes, blocks of attention to
    itself, to the context, and a gated layer; no norm at the end.
    """
    shapes: Shapes = {
        "proj_in.weight": (codes + 2, width),
        "positional_encoding": (width, positions),
        "proj_out.weight": (codes, width, 1),
        "proj_out.bias": (codes,),
    }
    for number in range(depth):
        block = f"transformer_blocks.{number}"
        for norm in ("norm1", "norm2", "norm3"):
            shapes |= {f"{block}.{norm}.{name}": (width,) for name in ("weight", "bias")}
        for attention, source in (("attn1", width), ("attn2", context)):
            shapes |= linear(f"{block}.{attention}.to_q", width, width, bias=False)
            shapes |= linear(f"{block}.{attention}.to_k", source, width, bias=False)
            shapes |= linear(f"{block}.{attention}.to_v", source, width, bias=False)
            shapes |= linear(f"{block}.{attention}.to_out.0", width, width)
        shapes |= linear(f"{block}.ff.net.0.proj", width, 8 * width)
        shapes |= linear(f"{block}.ff.net.2", 4 * width, width)
    return {f"transformer.{name}": shape for name, shape in shapes.items()}


LAYOUT = originals.LAYOUTS["rarm-2022"]
TINY = replace(
    LAYOUT, width=24, depth=2, head_channels=8, codes=20, latent_side=3, context_dimension=10
)
OF_TINY = released(24, 2, 20, 9, 10)


def random_state(shapes: Shapes) -> dict[str, torch.Tensor]:
    """Random weights."""
    generator = torch.Generator().manual_seed(0)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def attended(state, name, x, source, heads, causal):
    """softmax(q k / sqrt(d)) v, with what comes later hidden where it is causal; then to_out."""
    query, key, value = (
        functional.linear(of, state[f"{name}.to_{letter}.weight"])
        for letter, of in (("q", x), ("k", source), ("v", source))
    )
    depth = query.shape[-1] // heads
    parts = []
    for head in range(heads):
        own = slice(head * depth, (head + 1) * depth)
        scores = query[..., own] @ key[..., own].transpose(1, 2) / math.sqrt(depth)
        if causal:
            later = torch.ones_like(scores, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        parts.append(scores.softmax(dim=-1) @ value[..., own])
    out = torch.cat(parts, dim=-1)
    return functional.linear(out, state[f"{name}.to_out.0.weight"], state[f"{name}.to_out.0.bias"])


def original_rarm(state, codes, context, heads):
    """Logits [B, T, V] of codes int64 [B, T] for vectors [B, K, D]."""
    vocabulary = len(state["transformer.proj_out.bias"])
    start = torch.full((len(codes), 1), vocabulary + 1)
    before = torch.cat([start, codes[:, :-1]], dim=1)
    x = state["transformer.proj_in.weight"][before]
    x = x + state["transformer.positional_encoding"].T[: codes.shape[1]]
    number = 0
    while f"transformer.transformer_blocks.{number}.norm1.weight" in state:
        block = f"transformer.transformer_blocks.{number}"
        normed = layer_normed(state, f"{block}.norm1", x)
        x = x + attended(state, f"{block}.attn1", normed, normed, heads, True)
        normed = layer_normed(state, f"{block}.norm2", x)
        x = x + attended(state, f"{block}.attn2", normed, context, heads, False)
        normed = layer_normed(state, f"{block}.norm3", x)
        ff = f"{block}.ff.net"
        inside = functional.linear(normed, state[f"{ff}.0.proj.weight"], state[f"{ff}.0.proj.bias"])
        values, gates = inside.chunk(2, dim=-1)
        gated = values * functional.gelu(gates)
        x = x + functional.linear(gated, state[f"{ff}.2.weight"], state[f"{ff}.2.bias"])
        number += 1
    out = state["transformer.proj_out.weight"][..., 0]
    return functional.linear(x, out, state["transformer.proj_out.bias"])


def context_of(vectors, norms):
    """A context of neighbors with these lengths."""
    slots = torch.full(norms.shape, NEIGHBOR, dtype=torch.int8)
    return Context(vectors, norms, torch.ones_like(norms), slots)


def test_every_tensor_of_the_release_has_its_place():
    wanted = released(768, 18, 16_384, 256, 512)
    keys = originals.rarm_keys(LAYOUT)
    assert {name: tuple(shape) for name, (_, shape) in keys.items()} == wanted
    assert len({target for target, _ in keys.values()}) == len(keys)
    numbers = sum(math.prod(shape) for shape in wanted.values())
    assert numbers == 230_874_112


@torch.no_grad()
@pytest.mark.parametrize("k", [1, 4])
def test_logits_are_those_of_the_equations(k):
    state = random_state(OF_TINY)
    network = originals.convert_rarm(state, TINY)
    generator = torch.Generator().manual_seed(1)
    vectors = functional.normalize(torch.randn(2, k, 10, generator=generator), dim=-1)
    norms = torch.rand(2, k, generator=generator) * 10
    codes = torch.randint(20, (2, 9), generator=generator)
    logits = network(codes, *network.seen(context_of(vectors, norms)))
    wanted = original_rarm(state, codes, vectors * norms[..., None], 3)
    assert torch.allclose(logits, wanted, rtol=0, atol=2e-5)
    assert wanted.std() > 0.5
    without = network(codes, *network.seen(zeros(2, 10)))
    assert torch.allclose(
        without, original_rarm(state, codes, torch.zeros(2, 1, 10), 3), rtol=0, atol=2e-5
    )


@torch.no_grad()
@pytest.mark.parametrize("wrong", [{"head_channels": 6}, {"head_channels": 12}])
def test_the_comparison_sees_another_number_of_heads(wrong):
    state = random_state(OF_TINY)
    network = originals.convert_rarm(state, replace(TINY, **wrong))
    vectors = functional.normalize(torch.randn(1, 2, 10), dim=-1)
    codes = torch.randint(20, (1, 9))
    logits = network(codes, *network.seen(context_of(vectors, torch.ones(1, 2))))
    assert not torch.allclose(logits, original_rarm(state, codes, vectors, 3), atol=1e-3)


def test_what_is_absent_or_another_layout_is_told_by_name():
    state = random_state(OF_TINY)
    del state["transformer.proj_out.bias"]
    with pytest.raises(WeightsError, match=r"absent: 1, the first transformer\.proj_out\.bias"):
        originals.convert_rarm(state, TINY)
    state = random_state(OF_TINY) | {"transformer.one_more": torch.ones(1)}
    with pytest.raises(WeightsError, match=r"too many: 1, the first transformer\.one_more"):
        originals.convert_rarm(state, TINY)


def test_a_rarm_read_as_a_unet_is_told_what_it_is(monkeypatch):
    monkeypatch.setitem(originals.LAYOUTS, "rarm-2022", TINY)
    with pytest.raises(WeightsError, match="It is of the layout rarm-2022: give that one"):
        originals.convert_unet(random_state(OF_TINY), originals.LAYOUTS["imagenet-2022"])
