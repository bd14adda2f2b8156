"""What the networks of 2022 compute, on their own names. It shares nothing with the converter."""

from collections.abc import Callable
from itertools import count

import torch
from released import StateDict
from torch.nn import functional

HEAD = 8
"""Channels of a head in the reduced networks; 32 in the released ones."""
GROUPS = 8


def normed(state: StateDict, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
    return functional.group_norm(x, GROUPS, state[f"{name}.weight"], state[f"{name}.bias"], eps)


def convolved(
    state: StateDict, name: str, x: torch.Tensor, stride: int = 1, padding: int | None = None
) -> torch.Tensor:
    weight = state[f"{name}.weight"]
    return functional.conv2d(
        x,
        weight,
        state[f"{name}.bias"],
        stride,
        weight.shape[-1] // 2 if padding is None else padding,
    )


def mapped(state: StateDict, name: str, x: torch.Tensor) -> torch.Tensor:
    return functional.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def layer_normed(state: StateDict, name: str, x: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(
        x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5
    )


def resblock(state: StateDict, name: str, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    h = convolved(
        state, f"{name}.in_layers.2", functional.silu(normed(state, f"{name}.in_layers.0", x, 1e-5))
    )
    # The time shifts every channel by one number.
    h = h + mapped(state, f"{name}.emb_layers.1", functional.silu(time))[:, :, None, None]
    h = convolved(
        state,
        f"{name}.out_layers.3",
        functional.silu(normed(state, f"{name}.out_layers.0", h, 1e-5)),
    )
    return h + (
        convolved(state, f"{name}.skip_connection", x)
        if f"{name}.skip_connection.weight" in state
        else x
    )


def attended(state: StateDict, name: str, x: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Heads are next to each other in the channels."""

    def heads(part: str, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [B, N, C] -> [B, heads, N, HEAD]."""
        return mapped(state, f"{name}.to_{part}", tokens).unflatten(-1, (-1, HEAD)).transpose(1, 2)

    query, key, value = heads("q", x), heads("k", source), heads("v", source)
    weights = (query @ key.transpose(-1, -2) / HEAD**0.5).softmax(dim=-1)
    return mapped(state, f"{name}.to_out.0", (weights @ value).transpose(1, 2).flatten(2))


def transformed(
    state: StateDict, name: str, x: torch.Tensor, context: torch.Tensor
) -> torch.Tensor:
    h = convolved(state, f"{name}.proj_in", normed(state, f"{name}.norm", x, 1e-6))
    h, block = h.flatten(2).transpose(1, 2), f"{name}.transformer_blocks.0"  # [B, h w, C]
    # Attention to itself, attention to the context, and a gated feed-forward network (GEGLU).
    own = layer_normed(state, f"{block}.norm1", h)
    h = h + attended(state, f"{block}.attn1", own, own)
    h = h + attended(state, f"{block}.attn2", layer_normed(state, f"{block}.norm2", h), context)
    value, gate = mapped(
        state, f"{block}.ff.net.0.proj", layer_normed(state, f"{block}.norm3", h)
    ).chunk(2, dim=-1)
    h = h + mapped(state, f"{block}.ff.net.2", value * functional.gelu(gate))
    return x + convolved(state, f"{name}.proj_out", h.transpose(1, 2).unflatten(2, x.shape[2:]))


def doubled(state: StateDict, name: str, x: torch.Tensor) -> torch.Tensor:
    return convolved(
        state, f"{name}.conv", x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    )


def block_applied(
    state: StateDict, name: str, x: torch.Tensor, time: torch.Tensor, context: torch.Tensor
) -> torch.Tensor:
    """A block's parts one after the other; each part's names say what it is."""
    for place in count():
        part = f"{name}.{place}"
        if f"{part}.in_layers.0.weight" in state:
            x = resblock(state, part, x, time)
        elif f"{part}.proj_in.weight" in state:
            x = transformed(state, part, x, context)
        elif f"{part}.op.weight" in state:
            x = convolved(state, f"{part}.op", x, stride=2)
        elif f"{part}.conv.weight" in state:
            x = doubled(state, part, x)
        elif f"{part}.weight" in state:
            x = convolved(state, part, x)
        else:
            return x
    raise AssertionError("a block ends")


def original_unet(
    state: StateDict, x: torch.Tensor, steps: torch.Tensor, context: torch.Tensor
) -> torch.Tensor:
    """Noise predicted for x [B, C, h, w] at steps [B] with context [B, K, D]; `state` as in
    `unet_shapes`.
    """
    half = state["time_embed.0.weight"].shape[1] // 2
    angles = steps[:, None] * torch.exp(
        -torch.log(torch.tensor(10000.0)) * torch.arange(half) / half
    )
    time = mapped(state, "time_embed.0", torch.cat([angles.cos(), angles.sin()], dim=1))
    time = mapped(state, "time_embed.2", functional.silu(time))
    kept = []
    for i in range(9):
        x = block_applied(state, f"input_blocks.{i}", x, time, context)
        kept.append(x)
    x = block_applied(state, "middle_block", x, time, context)
    for i in range(9):
        x = block_applied(
            state, f"output_blocks.{i}", torch.cat([x, kept.pop()], dim=1), time, context
        )
    return convolved(state, "out.2", functional.silu(normed(state, "out.0", x, 1e-5)))


def plain_resblock(state: StateDict, name: str, x: torch.Tensor) -> torch.Tensor:
    h = convolved(state, f"{name}.conv1", functional.silu(normed(state, f"{name}.norm1", x, 1e-6)))
    h = convolved(state, f"{name}.conv2", functional.silu(normed(state, f"{name}.norm2", h, 1e-6)))
    return h + (
        convolved(state, f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in state else x
    )


def plainly_attended(state: StateDict, name: str, x: torch.Tensor) -> torch.Tensor:
    if f"{name}.norm.weight" not in state:
        return x
    h = normed(state, f"{name}.norm", x, 1e-6)
    query, key, value = (convolved(state, f"{name}.{part}", h).flatten(2) for part in "qkv")
    weights = (query.transpose(1, 2) @ key / x.shape[1] ** 0.5).softmax(dim=-1)
    return x + convolved(
        state, f"{name}.proj_out", (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
    )


def middle_applied(state: StateDict, half: str, x: torch.Tensor) -> torch.Tensor:
    x = plainly_attended(
        state, f"{half}.mid.attn_1", plain_resblock(state, f"{half}.mid.block_1", x)
    )
    return plain_resblock(state, f"{half}.mid.block_2", x)


def original_encode(state: StateDict, levels: int, x: torch.Tensor) -> torch.Tensor:
    """Images in -1..1 -> moments, or vectors that are not yet quantised."""
    x = convolved(state, "encoder.conv_in", x)
    for level in range(levels):
        for j in range(2):
            x = plain_resblock(state, f"encoder.down.{level}.block.{j}", x)
            x = plainly_attended(state, f"encoder.down.{level}.attn.{j}", x)
        if level != levels - 1:  # padded on the right and below only
            x = convolved(
                state,
                f"encoder.down.{level}.downsample.conv",
                functional.pad(x, (0, 1, 0, 1)),
                2,
                0,
            )
    x = functional.silu(
        normed(state, "encoder.norm_out", middle_applied(state, "encoder", x), 1e-6)
    )
    return convolved(state, "quant_conv", convolved(state, "encoder.conv_out", x))


def original_codes(state: StateDict, z: torch.Tensor) -> torch.Tensor:
    """The nearest code of each vector, [B, h, w]."""
    codes = state["quantize.embedding.weight"]
    return (z.movedim(1, -1)[..., None, :] - codes).square().sum(dim=-1).argmin(dim=-1)


def original_decode(state: StateDict, levels: int, z: torch.Tensor) -> torch.Tensor:
    """Latents -> images; where there is a codebook, they are quantised first."""
    if "quantize.embedding.weight" in state:
        z = state["quantize.embedding.weight"][original_codes(state, z)].movedim(-1, 1)
    x = middle_applied(
        state,
        "decoder",
        convolved(state, "decoder.conv_in", convolved(state, "post_quant_conv", z)),
    )
    for level in reversed(range(levels)):
        for j in range(3):
            x = plain_resblock(state, f"decoder.up.{level}.block.{j}", x)
            x = plainly_attended(state, f"decoder.up.{level}.attn.{j}", x)
        x = doubled(state, f"decoder.up.{level}.upsample", x) if level != 0 else x
    return convolved(
        state, "decoder.conv_out", functional.silu(normed(state, "decoder.norm_out", x, 1e-6))
    )


def original_ddim(predict: Callable, x: torch.Tensor, steps: int, beta_end: float) -> torch.Tensor:
    """DDIM without noise: steps 1, 1 + 1000/S, ... in falling order, the last one towards step
    0.
    """
    betas = torch.linspace(0.0015**0.5, beta_end**0.5, 1000, dtype=torch.float64) ** 2
    kept = (1 - betas).cumprod(dim=0).tolist()
    indices = list(range(1, 1000, 1000 // steps))
    for place in reversed(range(steps)):
        now, following = kept[indices[place]], kept[indices[place - 1]] if place else kept[0]
        noise = predict(x, torch.full((len(x),), indices[place]))
        x = (
            following**0.5 * (x - (1 - now) ** 0.5 * noise) / now**0.5
            + (1 - following) ** 0.5 * noise
        )
    return x
