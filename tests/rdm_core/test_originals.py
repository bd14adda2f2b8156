"""The 2022 checkpoints: every tensor of every release has its place, and what is converted computes
what the original did.

What the original is made of and computes is told a second time here, on its own names, and shares
nothing with the converter. No released file is needed: weights are random, those that start at zero
included.
"""

import os
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import count
from types import ModuleType

import pytest
import torch
from diffusers import VQModel
from rdm_core.denoiser import load_denoiser
from rdm_core.noise import process_of
from rdm_core.samplers import sample_ddim_2022
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from rdm_core.config import NoiseConfig
from rdm_core.context import NEIGHBOR, Context, nothing
from rdm_core.errors import WeightsError
from rdm_core.originals import (
    AUTOENCODERS,
    LAYOUTS,
    autoencoder_keys,
    build_autoencoder,
    build_unet,
    convert_autoencoder,
    convert_denoiser,
    convert_unet,
    read_checkpoint,
    unet_keys,
)

SAME = 1e-5
"""Most relative difference between the original and the converted network."""
Shapes = dict[str, tuple[int, ...]]
State = dict[str, torch.Tensor]


# What the releases hold: names and shapes


@dataclass(frozen=True)
class Unet:
    """A released U-Net in the words of its configuration."""

    width: int
    multiples: tuple[int, ...]
    attention_rates: tuple[int, ...]
    latent: int
    context: int


@dataclass(frozen=True)
class Autoencoder:
    """A released autoencoder in the words of its configuration."""

    width: int
    multiples: tuple[int, ...]
    resolution: int
    attention_resolutions: tuple[int, ...]
    latent: int
    codes: int


IMAGENET = Unet(192, (1, 2, 3, 5), (8, 4, 2), 3, 512)
UNETS = {
    "imagenet-2022": IMAGENET,
    "imagenet-in-db-2022": IMAGENET,
    "ffhq-2022": Unet(224, (1, 2, 3, 4), (8, 4, 2), 3, 512),
    "laion-768-2022": Unet(448, (1, 2, 3, 4), (4, 2, 1), 16, 768),
}
RELEASED = {
    "vq-f4": Autoencoder(128, (1, 2, 4), 256, (), 3, 8192),
    "vq-f16": Autoencoder(128, (1, 1, 2, 2, 4), 256, (16,), 8, 16384),
    "vqgan-f16": Autoencoder(128, (1, 1, 2, 2, 4), 256, (16,), 256, 16384),
    "kl-f16": Autoencoder(128, (1, 1, 2, 2, 4), 256, (16,), 16, 0),
}
MILLIONS = {
    "imagenet-2022": 400.92,
    "imagenet-in-db-2022": 400.92,
    "ffhq-2022": 414.71,
    "laion-768-2022": 1335.48,
}
MILLIONS |= {"vq-f4": 55.32, "kl-f16": 69.61, "vqgan-f16": 76.07, "vq-f16": 69.59}


def layer(name: str, *shape: int, bias: bool = True) -> Shapes:
    """A convolution, a linear map or a norm."""
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if bias else {})


def residual_block(name: str, given: int, width: int, time: int) -> Shapes:
    shapes = layer(f"{name}.in_layers.0", given) | layer(f"{name}.in_layers.2", width, given, 3, 3)
    shapes |= layer(f"{name}.emb_layers.1", width, time)
    shapes |= layer(f"{name}.out_layers.0", width) | layer(
        f"{name}.out_layers.3", width, width, 3, 3
    )
    return shapes | (layer(f"{name}.skip_connection", width, given, 1, 1) if given != width else {})


def spatial_transformer(name: str, width: int, context: int) -> Shapes:
    shapes = layer(f"{name}.norm", width)
    shapes |= layer(f"{name}.proj_in", width, width, 1, 1) | layer(
        f"{name}.proj_out", width, width, 1, 1
    )
    block = f"{name}.transformer_blocks.0"
    for attention, source in (("attn1", width), ("attn2", context)):
        shapes |= layer(f"{block}.{attention}.to_q", width, width, bias=False)
        shapes |= layer(f"{block}.{attention}.to_k", width, source, bias=False)
        shapes |= layer(f"{block}.{attention}.to_v", width, source, bias=False)
        shapes |= layer(f"{block}.{attention}.to_out.0", width, width)
    shapes |= layer(f"{block}.ff.net.0.proj", 8 * width, width) | layer(
        f"{block}.ff.net.2", width, 4 * width
    )
    return (
        shapes
        | layer(f"{block}.norm1", width)
        | layer(f"{block}.norm2", width)
        | layer(f"{block}.norm3", width)
    )


def unet_shapes(unet: Unet) -> Shapes:
    """Original name -> shape."""
    width, time, rate = unet.width, 4 * unet.width, 1
    shapes = layer("time_embed.0", time, width) | layer("time_embed.2", time, time)
    shapes |= layer("input_blocks.0.0", width, unet.latent, 3, 3)
    kept, block = [width], 1
    for level, multiple in enumerate(unet.multiples):
        for _ in range(2):
            shapes |= residual_block(f"input_blocks.{block}.0", width, unet.width * multiple, time)
            width = unet.width * multiple
            if rate in unet.attention_rates:
                shapes |= spatial_transformer(f"input_blocks.{block}.1", width, unet.context)
            kept, block = [*kept, width], block + 1
        if level != len(unet.multiples) - 1:
            shapes |= layer(f"input_blocks.{block}.0.op", width, width, 3, 3)
            kept, block, rate = [*kept, width], block + 1, 2 * rate
    shapes |= residual_block("middle_block.0", width, width, time) | residual_block(
        "middle_block.2", width, width, time
    )
    shapes |= spatial_transformer("middle_block.1", width, unet.context)
    block = 0
    for level, multiple in reversed(list(enumerate(unet.multiples))):
        for place in range(3):
            shapes |= residual_block(
                f"output_blocks.{block}.0", width + kept.pop(), unet.width * multiple, time
            )
            width, following = unet.width * multiple, 1
            if rate in unet.attention_rates:
                shapes |= spatial_transformer(f"output_blocks.{block}.1", width, unet.context)
                following = 2
            if place == 2 and level != 0:
                shapes |= layer(f"output_blocks.{block}.{following}.conv", width, width, 3, 3)
            block += 1
        rate //= 2
    assert not kept
    return shapes | layer("out.0", width) | layer("out.2", unet.latent, width, 3, 3)


def plain_block(name: str, given: int, width: int) -> Shapes:
    shapes = layer(f"{name}.norm1", given) | layer(f"{name}.conv1", width, given, 3, 3)
    shapes |= layer(f"{name}.norm2", width) | layer(f"{name}.conv2", width, width, 3, 3)
    return shapes | (layer(f"{name}.nin_shortcut", width, given, 1, 1) if given != width else {})


def plain_attention(name: str, width: int) -> Shapes:
    shapes = layer(f"{name}.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        shapes |= layer(f"{name}.{part}", width, width, 1, 1)
    return shapes


def middle(half: str, width: int) -> Shapes:
    shapes = plain_block(f"{half}.mid.block_1", width, width) | plain_attention(
        f"{half}.mid.attn_1", width
    )
    return shapes | plain_block(f"{half}.mid.block_2", width, width)


def autoencoder_shapes(auto: Autoencoder) -> Shapes:
    """Original name -> shape."""
    z, moments, last = auto.latent, auto.latent * (1 if auto.codes else 2), len(auto.multiples) - 1
    shapes, width, resolution = (
        layer("encoder.conv_in", auto.width, 3, 3, 3),
        auto.width,
        auto.resolution,
    )
    for level, multiple in enumerate(auto.multiples):
        for j in range(2):
            shapes |= plain_block(f"encoder.down.{level}.block.{j}", width, auto.width * multiple)
            width = auto.width * multiple
            if resolution in auto.attention_resolutions:
                shapes |= plain_attention(f"encoder.down.{level}.attn.{j}", width)
        if level != last:
            shapes |= layer(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
            resolution //= 2
    shapes |= (
        middle("encoder", width)
        | layer("encoder.norm_out", width)
        | layer("encoder.conv_out", moments, width, 3, 3)
    )
    shapes |= layer("quant_conv", moments, moments, 1, 1) | layer("post_quant_conv", z, z, 1, 1)
    if auto.codes:
        shapes |= layer("quantize.embedding", auto.codes, z, bias=False)
    shapes |= layer("decoder.conv_in", width, z, 3, 3) | middle("decoder", width)
    for level in range(last, -1, -1):
        for j in range(3):
            shapes |= plain_block(
                f"decoder.up.{level}.block.{j}", width, auto.width * auto.multiples[level]
            )
            width = auto.width * auto.multiples[level]
            if resolution in auto.attention_resolutions:
                shapes |= plain_attention(f"decoder.up.{level}.attn.{j}", width)
        if level != 0:
            shapes |= layer(f"decoder.up.{level}.upsample.conv", width, width, 3, 3)
            resolution *= 2
    return shapes | layer("decoder.norm_out", width) | layer("decoder.conv_out", 3, width, 3, 3)


def live(name: str) -> str:
    """A live weight's name in a checkpoint."""
    return f"model.diffusion_model.{name}"


def mean(name: str) -> str:
    """The name of its running mean."""
    return "model_ema." + f"diffusion_model.{name}".replace(".", "")


BUFFERS = dict.fromkeys(
    (
        "betas", "alphas_cumprod", "alphas_cumprod_prev",
        "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod",
        "posterior_variance", "posterior_log_variance_clipped",
        "posterior_mean_coef1", "posterior_mean_coef2",
    ),
    1000,
) | {"unconditional_guidance_vex": 512}  # fmt: skip
"""What `register_schedule` of the 2022 code keeps in every checkpoint."""


def checkpoint(unet: Unet, auto: Autoencoder, make: Callable[..., torch.Tensor]) -> State:
    """All that a release's state_dict holds: live weights, their running mean, the autoencoder, its
    loss, buffers.
    """
    shapes: Shapes = {name: (length,) for name, length in BUFFERS.items()} | {
        "model_ema.decay": (),
        "model_ema.num_updates": (),
    }
    shapes |= {
        called(name): shape for name, shape in unet_shapes(unet).items() for called in (live, mean)
    }
    shapes |= {
        f"first_stage_model.{name}": shape for name, shape in autoencoder_shapes(auto).items()
    }
    shapes["first_stage_model.loss.discriminator.main.0.weight"] = (64, 3, 4, 4)
    return {name: make(shape) for name, shape in shapes.items()}


def of_no_size(shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor without numbers."""
    return torch.empty(shape, device="meta")


COMMON = {
    "layers_per_block": 2, "mid_block_type": "UNetMidBlock2DCrossAttn",
    "transformer_layers_per_block": 1, "norm_num_groups": 32, "norm_eps": 1e-5, "act_fn": "silu",
    "flip_sin_to_cos": True, "freq_shift": 0,
    "downsample_padding": 1, "use_linear_projection": False, "center_input_sample": False,
    "resnet_time_scale_shift": "default", "num_attention_heads": None,
}  # fmt: skip
SMALL = {
    "sample_size": 64, "in_channels": 3, "out_channels": 3, "cross_attention_dim": 512,
    "up_block_types": (*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"),
    "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 3),
}  # fmt: skip
CONFIGURED = {
    "imagenet-2022": SMALL | {
        "block_out_channels": (192, 384, 576, 960), "attention_head_dim": (6, 12, 18, 30),
    },
    "ffhq-2022": SMALL | {
        "block_out_channels": (224, 448, 672, 896), "attention_head_dim": (7, 14, 21, 28),
    },
    "laion-768-2022": {
        "sample_size": 48, "in_channels": 16, "out_channels": 16, "cross_attention_dim": 768,
        "block_out_channels": (448, 896, 1344, 1792), "attention_head_dim": (14, 28, 42, 56),
        "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
    },
}  # fmt: skip
CONFIGURED["imagenet-in-db-2022"] = CONFIGURED["imagenet-2022"]


@pytest.mark.parametrize("name", list(LAYOUTS))
@pytest.mark.parametrize(("ema", "called"), [(False, live), (True, mean)])
def test_every_tensor_of_a_released_unet_has_its_place(name, ema, called):
    assert UNETS.keys() == LAYOUTS.keys()
    layout, expected = (
        LAYOUTS[name],
        {called(key): shape for key, shape in unet_shapes(UNETS[name]).items()},
    )
    assert {key: tuple(shape) for key, (_, shape) in unet_keys(layout, ema).items()} == expected
    network = convert_unet(
        checkpoint(UNETS[name], RELEASED[layout.autoencoder], of_no_size), layout, ema
    )
    assert (
        round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 2)
        == MILLIONS[name]
    )
    configured = COMMON | CONFIGURED[name]
    assert {key: network.config[key] for key in configured} == configured


@pytest.mark.parametrize("name", list(AUTOENCODERS))
@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_every_tensor_of_a_released_autoencoder_has_its_place(name, prefix):
    assert RELEASED.keys() == AUTOENCODERS.keys()
    expected = {prefix + key: shape for key, shape in autoencoder_shapes(RELEASED[name]).items()}
    assert {
        key: tuple(shape)
        for key, (_, shape) in autoencoder_keys(AUTOENCODERS[name], prefix).items()
    } == expected
    state = {key: of_no_size(shape) for key, shape in expected.items()} | {
        f"{prefix}loss.logvar": of_no_size(())
    }
    parameters = list(convert_autoencoder(state, AUTOENCODERS[name]).parameters())
    assert round(sum(parameter.numel() for parameter in parameters) / 1e6, 2) == MILLIONS[name]


def test_what_a_network_was_trained_between_is_the_released_one():
    wanted = ("beta_end", "context_norm", "autoencoder", "encoder", "encoder_weights")
    facts = {
        name: tuple(getattr(layout, key) for key in wanted) for name, layout in LAYOUTS.items()
    }
    small = (0.0195, "raw", "vq-f4", "ViT-B-32", "openai")
    assert facts == dict.fromkeys(list(LAYOUTS)[:3], small) | {
        "laion-768-2022": (0.015, "unit", "kl-f16", "ViT-L-14", "openai")
    }
    assert {name: layout.scaling_factor for name, layout in AUTOENCODERS.items()} == {
        "vq-f4": 1.0, "vq-f16": 1.0, "vqgan-f16": 1.0, "kl-f16": 0.22765929
    }  # fmt: skip


# What the original computes, on its own names


HEAD = 8
"""Channels of a head in the reduced networks; 32 in the released ones."""
GROUPS = 8


def normed(state: State, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
    return functional.group_norm(x, GROUPS, state[f"{name}.weight"], state[f"{name}.bias"], eps)


def convolved(
    state: State, name: str, x: torch.Tensor, stride: int = 1, padding: int | None = None
) -> torch.Tensor:
    weight = state[f"{name}.weight"]
    return functional.conv2d(
        x,
        weight,
        state[f"{name}.bias"],
        stride,
        weight.shape[-1] // 2 if padding is None else padding,
    )


def mapped(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return functional.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def layer_normed(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(
        x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5
    )


def resblock(state: State, name: str, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    h = convolved(
        state, f"{name}.in_layers.2", functional.silu(normed(state, f"{name}.in_layers.0", x, 1e-5))
    )
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


def attended(state: State, name: str, x: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Heads are next to each other in the channels."""
    query, key, value = (
        mapped(state, f"{name}.to_{part}", given).unflatten(-1, (-1, HEAD)).transpose(1, 2)
        for part, given in (("q", x), ("k", source), ("v", source))
    )
    weights = (query @ key.transpose(-1, -2) / HEAD**0.5).softmax(dim=-1)
    return mapped(state, f"{name}.to_out.0", (weights @ value).transpose(1, 2).flatten(2))


def transformed(state: State, name: str, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    h = convolved(state, f"{name}.proj_in", normed(state, f"{name}.norm", x, 1e-6))
    h, block = h.flatten(2).transpose(1, 2), f"{name}.transformer_blocks.0"
    own = layer_normed(state, f"{block}.norm1", h)
    h = h + attended(state, f"{block}.attn1", own, own)
    h = h + attended(state, f"{block}.attn2", layer_normed(state, f"{block}.norm2", h), context)
    value, gate = mapped(
        state, f"{block}.ff.net.0.proj", layer_normed(state, f"{block}.norm3", h)
    ).chunk(2, dim=-1)
    h = h + mapped(state, f"{block}.ff.net.2", value * functional.gelu(gate))
    return x + convolved(state, f"{name}.proj_out", h.transpose(1, 2).unflatten(2, x.shape[2:]))


def doubled(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return convolved(
        state, f"{name}.conv", x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    )


def block_applied(
    state: State, name: str, x: torch.Tensor, time: torch.Tensor, context: torch.Tensor
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
    state: State, x: torch.Tensor, steps: torch.Tensor, context: torch.Tensor
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


def plain_resblock(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    h = convolved(state, f"{name}.conv1", functional.silu(normed(state, f"{name}.norm1", x, 1e-6)))
    h = convolved(state, f"{name}.conv2", functional.silu(normed(state, f"{name}.norm2", h, 1e-6)))
    return h + (
        convolved(state, f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in state else x
    )


def plainly_attended(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    if f"{name}.norm.weight" not in state:
        return x
    h = normed(state, f"{name}.norm", x, 1e-6)
    query, key, value = (convolved(state, f"{name}.{part}", h).flatten(2) for part in "qkv")
    weights = (query.transpose(1, 2) @ key / x.shape[1] ** 0.5).softmax(dim=-1)
    return x + convolved(
        state, f"{name}.proj_out", (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
    )


def middle_applied(state: State, half: str, x: torch.Tensor) -> torch.Tensor:
    x = plainly_attended(
        state, f"{half}.mid.attn_1", plain_resblock(state, f"{half}.mid.block_1", x)
    )
    return plain_resblock(state, f"{half}.mid.block_2", x)


def original_encode(state: State, levels: int, x: torch.Tensor) -> torch.Tensor:
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


def original_codes(state: State, z: torch.Tensor) -> torch.Tensor:
    """The nearest code of each vector, [B, h, w]."""
    codes = state["quantize.embedding.weight"]
    return (z.movedim(1, -1)[..., None, :] - codes).square().sum(dim=-1).argmin(dim=-1)


def original_decode(state: State, levels: int, z: torch.Tensor) -> torch.Tensor:
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


# The same, converted

UNET = {
    "imagenet-2022": Unet(16, (1, 2, 3), (4, 2), 3, 12),
    "laion-768-2022": Unet(16, (1, 2, 3), (2, 1), 5, 20),
}
ATTENDING = {"imagenet-2022": (1, 2), "laion-768-2022": (0, 1)}
LAYOUT = {
    name: replace(
        LAYOUTS[name],
        channels=(16, 32, 48), heads=(2, 4, 6), groups=GROUPS, attending=ATTENDING[name],
        latent_channels=unet.latent, latent_side=16, context_dimension=unet.context,
    )
    for name, unet in UNET.items()
}  # fmt: skip
AUTO = {
    "vq-f4": Autoencoder(8, (1, 2, 4), 32, (), 3, 40),
    "vqgan-f16": Autoencoder(8, (1, 1, 2, 2, 4), 32, (2,), 6, 40),
    "kl-f16": Autoencoder(8, (1, 1, 2, 2, 4), 32, (2,), 5, 0),
}
AUTO_LAYOUT = {
    name: replace(
        AUTOENCODERS[name],
        channels=tuple(auto.width * multiple for multiple in auto.multiples), groups=GROUPS,
        latent_channels=auto.latent, codes=auto.codes, side=auto.resolution,
    )
    for name, auto in AUTO.items()
}  # fmt: skip
B, K = 2, 4


def random_tensor(shape: tuple[int, ...]) -> torch.Tensor:
    """Weights that keep the size of what passes through; those of norms around 1."""
    inputs = torch.Size(shape[1:]).numel()
    return torch.randn(shape) / inputs**0.5 if len(shape) > 1 else 1 + 0.3 * torch.randn(shape)


@pytest.fixture(params=list(LAYOUT))
def name(request) -> str:
    """Each kind of released U-Net, reduced."""
    return request.param


@pytest.fixture
def state(name) -> State:
    """A random checkpoint of it."""
    torch.manual_seed(0)
    return checkpoint(UNET[name], AUTO[LAYOUT[name].autoencoder], random_tensor)


def part_of(state: State, unet: Unet, called: Callable[[str], str]) -> State:
    """The U-Net's tensors by their original names."""
    return {key: state[called(key)] for key in unet_shapes(unet)}


def context_of(name: str) -> tuple[Context, torch.Tensor]:
    """Random neighbors, and the tensor [B, K, D] that the original was given for them."""
    vectors = functional.normalize(torch.randn(B, K, UNET[name].context), dim=-1)
    norms = 10 + torch.randn(B, K)
    given = vectors * norms[..., None] if name == "imagenet-2022" else vectors
    return Context(
        vectors, norms, torch.ones(B, K), torch.full((B, K), NEIGHBOR, dtype=torch.int8)
    ), given


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative to the largest expected number."""
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


@torch.no_grad()
def test_a_guided_sampling_run_ends_where_the_originals_does(name, state):
    unet, layout, original = UNET[name], LAYOUT[name], part_of(state, UNET[name], mean)
    x, (context, given) = torch.randn(B, unet.latent, 16, 16), context_of(name)

    def original_predict(x: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        null = original_unet(original, x, steps, torch.zeros_like(given))
        return null + 2 * (original_unet(original, x, steps, given) - null)

    denoiser, process = (
        convert_denoiser(state, layout),
        process_of(NoiseConfig(beta_end=layout.beta_end)),
    )

    def predict(x: torch.Tensor, t: float) -> torch.Tensor:
        time = process.network_time(torch.full((B,), t))
        null = denoiser(x, time, nothing(B, unet.context))
        return null + 2 * (denoiser(x, time, context) - null)

    found = sample_ddim_2022(process, predict, x, 5, lambda: torch.randn_like(x))
    expected = original_ddim(
        original_predict, x, 5, {"imagenet-2022": 0.0195, "laion-768-2022": 0.015}[name]
    )
    assert difference(found, expected) < SAME
    assert difference(x, expected) > 0.1, "it has gone somewhere"


@torch.no_grad()
def test_a_prediction_is_the_originals_with_any_number_of_neighbors(name, state):
    unet, network, original = (
        UNET[name],
        convert_unet(state, LAYOUT[name]),
        part_of(state, UNET[name], mean),
    )
    for k in (1, 4, 20):
        inputs = (
            torch.randn(B, unet.latent, 16, 16),
            torch.tensor([1, 801]),
            torch.randn(B, k, unet.context),
        )
        assert difference(network(*inputs).sample, original_unet(original, *inputs)) < SAME


def other_order(network: nn.Module) -> None:
    network.time_proj.flip_sin_to_cos = False


def other_frequencies(network: nn.Module) -> None:
    network.time_proj.downscale_freq_shift = 1


def other_eps(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.GroupNorm) and module.eps == 1e-5:
            module.eps = 1e-6


def other_eps_before_attention(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.GroupNorm) and module.eps == 1e-6:
            module.eps = 1e-5


@torch.no_grad()
def test_another_network_would_be_noticed(name, state):
    """What comes to the norms is faint, so that the epsilons count."""
    unet, layout = UNET[name], LAYOUT[name]
    for key in unet_shapes(unet):
        if any(part in key for part in ("input_blocks.0.0", "out_layers.3", "skip_connection")):
            state[mean(key)] *= 0.01
    inputs = (
        torch.randn(B, unet.latent, 16, 16),
        torch.tensor([1, 801]),
        torch.randn(B, K, unet.context),
    )
    expected, right = (
        original_unet(part_of(state, unet, mean), *inputs),
        convert_unet(state, layout),
    )
    assert difference(right(*inputs).sample, expected) < SAME
    wrong = {"other_heads": convert_unet(state, replace(layout, heads=(1, 2, 3)))}
    for change in (other_order, other_frequencies, other_eps, other_eps_before_attention):
        wrong[change.__name__] = deepcopy(right)
        change(wrong[change.__name__])
    differences = {
        what: difference(network(*inputs).sample, expected) for what, network in wrong.items()
    }
    assert min(differences.values()) > 10 * SAME, differences


@torch.no_grad()
def test_the_running_mean_and_the_live_weights_are_told_apart(name, state):
    unet, layout = UNET[name], LAYOUT[name]
    inputs = (
        torch.randn(B, unet.latent, 16, 16),
        torch.tensor([1, 801]),
        torch.randn(B, K, unet.context),
    )
    of_mean, of_live = (convert_unet(state, layout, ema)(*inputs).sample for ema in (True, False))
    assert difference(of_mean, original_unet(part_of(state, unet, mean), *inputs)) < SAME
    assert difference(of_live, original_unet(part_of(state, unet, live), *inputs)) < SAME
    assert difference(of_mean, of_live) > 0.1


@torch.no_grad()
@pytest.mark.parametrize("kind", list(AUTO))
def test_an_autoencoder_encodes_and_decodes_as_the_original(kind):
    torch.manual_seed(0)
    state = {key: random_tensor(shape) for key, shape in autoencoder_shapes(AUTO[kind]).items()}
    levels, images = len(AUTO[kind].multiples), torch.rand(B, 3, 32, 32) * 2 - 1
    autoencoder = convert_autoencoder(state, AUTO_LAYOUT[kind])
    encoded, expected = autoencoder.encode(images), original_encode(state, levels, images)
    found = encoded.latents if isinstance(autoencoder, VQModel) else encoded.latent_dist.parameters
    assert difference(found, expected) < SAME
    latents = expected[:, : AUTO[kind].latent]
    assert (
        difference(autoencoder.decode(latents).sample, original_decode(state, levels, latents))
        < SAME
    )
    if AUTO[kind].codes:
        codes = autoencoder.quantize(latents)[2][2].view(B, *latents.shape[2:])
        assert torch.equal(codes, original_codes(state, latents))
        assert len(codes.unique()) > 1, "more than one code is used"


def test_a_denoisers_checkpoint_holds_its_autoencoder(name, state):
    kind = LAYOUT[name].autoencoder
    own = {key: state[f"first_stage_model.{key}"] for key in autoencoder_shapes(AUTO[kind])}
    of_both, of_own = (
        convert_autoencoder(given, AUTO_LAYOUT[kind]).state_dict() for given in (state, own)
    )
    assert of_both.keys() == of_own.keys()
    assert all(torch.equal(of_both[key], of_own[key]) for key in of_own)


def test_a_converted_denoiser_is_saved_and_loaded_as_any_other(name, state, tmp_path):
    before = {key: tensor.clone() for key, tensor in state.items()}
    denoiser = convert_denoiser(state, LAYOUT[name])
    assert denoiser.null.shape == (UNET[name].context,)
    assert not denoiser.null.any()
    assert not denoiser.training
    denoiser.save(tmp_path, {})
    loaded, facts = load_denoiser(tmp_path)
    assert facts["context_norm"] == LAYOUT[name].context_norm
    saved = loaded.state_dict()
    assert all(torch.equal(tensor, saved[key]) for key, tensor in denoiser.state_dict().items())
    assert all(torch.equal(state[key], before[key]) for key in before), (
        "the checkpoint is as it was"
    )


def test_half_a_checkpoints_precision_gives_a_network_of_full_precision():
    state = {
        key: random_tensor(shape).half()
        for key, shape in autoencoder_shapes(AUTO["kl-f16"]).items()
    }
    autoencoder = convert_autoencoder(state, AUTO_LAYOUT["kl-f16"])
    assert {tensor.dtype for tensor in autoencoder.state_dict().values()} == {torch.float32}
    assert torch.equal(autoencoder.quant_conv.weight, state["quant_conv.weight"].float())


def test_fresh_networks_can_be_built():
    assert {p.device.type for p in build_unet(LAYOUT["imagenet-2022"]).parameters()} == {"cpu"}
    assert {p.device.type for p in build_autoencoder(AUTO_LAYOUT["kl-f16"]).parameters()} == {"cpu"}


# What is refused


def released(name: str) -> State:
    """A release at its full size, without numbers."""
    return checkpoint(UNETS[name], RELEASED[LAYOUTS[name].autoencoder], of_no_size)


@pytest.mark.parametrize("called", [live, mean])
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda state, key: state.pop(key), "absent: 1, the first {key}"),
        (
            lambda state, key: state.update({key: of_no_size((4, 4))}),
            r"of another shape: 1, the first {key}, \[4, 4\] instead",
        ),
        (
            lambda state, key: state.update({f"{key}x": of_no_size((4,))}),
            "too many: 1, the first {key}x",
        ),
        (
            lambda state, key: state.update({"cond_stage_model.w": of_no_size((4,))}),
            "too many: 1, the first cond_stage_model.w",
        ),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(called, spoil, told):
    state, key = released("ffhq-2022"), called("middle_block.1.proj_in.weight")
    spoil(state, key)
    with pytest.raises(
        WeightsError,
        match="checkpoint read as 'ffhq-2022': " + told.format(key=key.replace(".", r"\.")),
    ) as error:
        convert_unet(state, LAYOUTS["ffhq-2022"], ema=called is mean)
    assert "fetch the file again" in str(error.value)


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
@pytest.mark.parametrize(
    ("key", "shape", "told"),
    [
        ("decoder.mid.attn_1.q.weight", None, "absent: 1, the first {}decoder.mid.attn_1.q.weight"),
        (
            "decoder.mid.attn_1.q.weight",
            (512, 512),
            "of another shape: 1, the first {}decoder.mid.attn_1.q.weight",
        ),
        ("encoder.more.weight", (2,), "too many: 1, the first {}encoder.more.weight"),
    ],
)
def test_a_tensor_that_does_not_fit_an_autoencoder_is_named(prefix, key, shape, told):
    state = {
        prefix + name: of_no_size(shape)
        for name, shape in autoencoder_shapes(RELEASED["vq-f4"]).items()
    }
    state.pop(prefix + key, None)
    state |= {prefix + key: of_no_size(shape)} if shape else {}
    with pytest.raises(WeightsError, match="checkpoint read as 'vq-f4': " + told.format(prefix)):
        convert_autoencoder(state, AUTOENCODERS["vq-f4"])


@pytest.mark.parametrize(
    ("given", "asked", "told"),
    [
        ("ffhq-2022", "imagenet-2022", "of the layout ffhq-2022: give that one"),
        (
            "imagenet-2022",
            "laion-768-2022",
            "of the layout imagenet-2022 or imagenet-in-db-2022: give that one",
        ),
        ("laion-768-2022", "ffhq-2022", "of the layout laion-768-2022: give that one"),
    ],
)
def test_the_layout_that_a_checkpoint_has_is_named(given, asked, told):
    with pytest.raises(WeightsError, match=told):
        convert_denoiser(released(given), LAYOUTS[asked])


@pytest.mark.parametrize(
    ("given", "asked"), [("vqgan-f16", "vq-f16"), ("kl-f16", "vq-f4"), ("vq-f4", "kl-f16")]
)
def test_the_layout_that_an_autoencoder_has_is_named(given, asked):
    state = {name: of_no_size(shape) for name, shape in autoencoder_shapes(RELEASED[given]).items()}
    with pytest.raises(WeightsError, match=f"of the layout {given}: give that one"):
        convert_autoencoder(state, AUTOENCODERS[asked])


def test_a_checkpoint_without_a_running_mean_says_so():
    state = {
        name: tensor
        for name, tensor in released("ffhq-2022").items()
        if not name.startswith("model_ema.")
    }
    with pytest.raises(
        WeightsError, match="absent: 688, the first model_ema.diffusion_model.*ema=False"
    ):
        convert_unet(state, LAYOUTS["ffhq-2022"])


# Files


TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(1)}
LIGHTNING = {"state_dict": TENSORS, "epoch": 3, "optimizer_states": [{"lr": 1e-4}]}
READABLE = {
    "whole.ckpt": lambda path: torch.save(LIGHTNING, path),
    "oldest.ckpt": lambda path: torch.save(LIGHTNING, path, _use_new_zipfile_serialization=False),
    "bare.pt": lambda path: torch.save(TENSORS, path),
    "bare.safetensors": lambda path: save_file(TENSORS, path),
}


@pytest.mark.parametrize("file", list(READABLE))
def test_a_checkpoints_tensors_are_read(file, tmp_path):
    READABLE[file](tmp_path / file)
    state = read_checkpoint(tmp_path / file)
    assert state.keys() == TENSORS.keys()
    assert all(torch.equal(state[key], TENSORS[key]) for key in TENSORS)
    assert read_checkpoint(str(tmp_path / file)).keys() == state.keys()


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_named_and_not_run(zipped, tmp_path):
    trace = tmp_path / "it-ran"
    torch.save(
        {"state_dict": TENSORS, "x": Touch(trace)},
        tmp_path / "a.ckpt",
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(
        WeightsError,
        match=rf"a.ckpt: its pickle asks for {os.system.__module__}.system, and only tensors",
    ):
        read_checkpoint(tmp_path / "a.ckpt")
    assert not trace.exists()


def test_a_harmless_class_in_a_pickle_is_named_with_a_cure(tmp_path, monkeypatch):
    module = ModuleType("lightning_of_2022")
    monkeypatch.setitem(sys.modules, "lightning_of_2022", module)
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": "lightning_of_2022"})
    torch.save(
        LIGHTNING | {"callbacks": {module.ModelCheckpoint: {"best": 1}}}, tmp_path / "model.ckpt"
    )
    with pytest.raises(
        WeightsError,
        match=r"asks for lightning_of_2022.ModelCheckpoint, .*Only if you trust its maker",
    ) as told:
        read_checkpoint(tmp_path / "model.ckpt")
    command = str(told.value).split('python -c "')[1].removesuffix('"')
    exec(compile(command, "the cure", "exec"), {})
    assert read_checkpoint(tmp_path / "model-tensors.pt").keys() == TENSORS.keys()


def cut(path, write: Callable) -> None:
    """The first half of a file."""
    write(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


REFUSED = {
    "half.ckpt": (lambda path: cut(path, READABLE["whole.ckpt"]), "is no whole checkpoint"),
    "half-oldest.ckpt": (lambda path: cut(path, READABLE["oldest.ckpt"]), "is no whole checkpoint"),
    "half.safetensors": (
        lambda path: cut(path, READABLE["bare.safetensors"]),
        "is no whole checkpoint",
    ),
    "empty.ckpt": (lambda path: path.write_bytes(b""), "is no whole checkpoint"),
    "page.ckpt": (lambda path: path.write_text("<html>404</html>"), "is no whole checkpoint"),
    "page.safetensors": (
        lambda path: path.write_text("<html>404</html>"),
        "is no whole checkpoint",
    ),
    "folder.ckpt": (lambda path: path.mkdir(), "is no whole checkpoint"),
    "absent.ckpt": (lambda path: None, "there is no such file"),
    "absent.safetensors": (lambda path: None, "there is no such file"),
    "list.pt": (lambda path: torch.save([torch.zeros(2)], path), "holds no table of tensors"),
    "nothing.pt": (lambda path: torch.save({"state_dict": {}}, path), "holds no table of tensors"),
    "numbers.pt": (lambda path: torch.save({"epoch": 3}, path), "holds no table of tensors"),
}


@pytest.mark.parametrize("file", list(REFUSED))
def test_what_is_no_checkpoint_is_refused(file, tmp_path):
    write, told = REFUSED[file]
    write(tmp_path / file)
    with pytest.raises(WeightsError, match=f"{file}: {told}") as error:
        read_checkpoint(tmp_path / file)
    assert "weights_only" not in str(error.value), "no advice to open it all the same"
