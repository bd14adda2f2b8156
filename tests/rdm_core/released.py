"""What the releases of 2022 hold, in the words of their configurations: names and shapes.

It is told here a second time and shares nothing with the converter. No released file is needed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

Shapes = dict[str, tuple[int, ...]]
StateDict = dict[str, torch.Tensor]


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
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
    ),
    1000,
) | {"unconditional_guidance_vex": 512}
"""What `register_schedule` of the 2022 code keeps in every checkpoint."""


def checkpoint(unet: Unet, auto: Autoencoder, make: Callable[..., torch.Tensor]) -> StateDict:
    """All that a release's state_dict holds: live weights, their running mean, the autoencoder, its
    loss, buffers.
    """
    shapes: Shapes = {name: (length,) for name, length in BUFFERS.items()}
    shapes |= {"model_ema.decay": (), "model_ema.num_updates": ()}
    # A checkpoint has the U-Net twice: its last weights and their running mean.
    for name, shape in unet_shapes(unet).items():
        shapes[live(name)] = shape
        shapes[mean(name)] = shape
    for name, shape in autoencoder_shapes(auto).items():
        shapes[f"first_stage_model.{name}"] = shape
    shapes["first_stage_model.loss.discriminator.main.0.weight"] = (64, 3, 4, 4)
    return {name: make(shape) for name, shape in shapes.items()}


def of_no_size(shape: tuple[int, ...]) -> torch.Tensor:
    """A tensor without numbers."""
    return torch.empty(shape, device="meta")
