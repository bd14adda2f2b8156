"""Which tensor of a checkpoint is which of the network."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch

from rdm_core.originals.layouts import (
    AutoencoderLayout,
    Keys,
    ModelLayout,
    RarmLayout,
    UnetLayout,
    build_autoencoder,
    build_rarm,
    build_unet,
)

LIVE, EMA, AUTOENCODER = "model.diffusion_model.", "model_ema.", "first_stage_model."
TRANSFORMER = "transformer."
"""Of RARM, which has no running mean."""
LOSSES = ("loss.", "first_stage_model.loss.")
BUFFERS = {
    "betas", "alphas_cumprod", "alphas_cumprod_prev",
    "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod",
    "posterior_variance", "posterior_log_variance_clipped",
    "posterior_mean_coef1", "posterior_mean_coef2",
    "model_ema.decay", "model_ema.num_updates",
    "unconditional_guidance_vex", "sos_token", "mask_token",
}  # fmt: skip
"""What a checkpoint holds beside networks: the noise schedule, the count of the running mean, and
parameters that no released model has learned.
"""

_UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in", "middle_block.1": "mid_block.attentions.0",
    "out.0": "conv_norm_out", "out.2": "conv_out",
}  # fmt: skip
_UNET_MIDDLE = {"middle_block.0": "mid_block.resnets.0", "middle_block.2": "mid_block.resnets.1"}
_UNET_RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
_AUTOENCODER_RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "nin_shortcut": "conv_shortcut",
}
_AUTOENCODER_ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}


def unet_names(layout: UnetLayout) -> dict[str, str]:
    """Module of the original U-Net -> module of the diffusers one.

    What lies below a module has the same name in both.
    """
    names, resnets = dict(_UNET_ENDS), dict(_UNET_MIDDLE)
    last, stride = len(layout.channels) - 1, layout.blocks + 1
    for level in range(last + 1):
        # The original counts blocks over all levels, diffusers within each level.
        down, up, first = f"down_blocks.{level}", f"up_blocks.{level}", level * stride
        # One further on the way down: its first block is the input's convolution.
        for j in range(layout.blocks):
            resnets[f"input_blocks.{first + j + 1}.0"] = f"{down}.resnets.{j}"
            names[f"input_blocks.{first + j + 1}.1"] = f"{down}.attentions.{j}"
        names[f"input_blocks.{first + stride}.0.op"] = f"{down}.downsamplers.0.conv"
        for j in range(stride):
            resnets[f"output_blocks.{first + j}.0"] = f"{up}.resnets.{j}"
            names[f"output_blocks.{first + j}.1"] = f"{up}.attentions.{j}"
        # The upsampler stands behind the residual block, and behind the attention if there is one.
        place = 2 if last - level in layout.attending else 1
        names[f"output_blocks.{first + layout.blocks}.{place}.conv"] = f"{up}.upsamplers.0.conv"
    return names | _inside(resnets, _UNET_RESNET)


def autoencoder_names(layout: AutoencoderLayout) -> dict[str, str]:
    """Module of the original autoencoder -> module of the diffusers one.

    What lies below a module has the same name in both.
    """
    last = len(layout.channels) - 1
    names, resnets, attentions = dict[str, str](), dict[str, str](), dict[str, str]()
    for same in ("quant_conv", "post_quant_conv", "quantize.embedding"):
        names[same] = same
    for half in ("encoder", "decoder"):
        names[f"{half}.conv_in"] = f"{half}.conv_in"
        names[f"{half}.conv_out"] = f"{half}.conv_out"
        names[f"{half}.norm_out"] = f"{half}.conv_norm_out"
        resnets[f"{half}.mid.block_1"] = f"{half}.mid_block.resnets.0"
        resnets[f"{half}.mid.block_2"] = f"{half}.mid_block.resnets.1"
        attentions[f"{half}.mid.attn_1"] = f"{half}.mid_block.attentions.0"
    # The original numbers the decoder's levels as the encoder's, 0 the finest. diffusers counts
    # them in the order they are run.
    for level in range(last + 1):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{last - level}"
        names[f"encoder.down.{level}.downsample.conv"] = f"{down}.downsamplers.0.conv"
        names[f"decoder.up.{level}.upsample.conv"] = f"{up}.upsamplers.0.conv"
        for source, target in ((f"encoder.down.{level}", down), (f"decoder.up.{level}", up)):
            for j in range(layout.blocks + 1):
                resnets[f"{source}.block.{j}"] = f"{target}.resnets.{j}"
                attentions[f"{source}.attn.{j}"] = f"{target}.attentions.{j}"
    return (
        names | _inside(resnets, _AUTOENCODER_RESNET) | _inside(attentions, _AUTOENCODER_ATTENTION)
    )


def model_keys(layout: ModelLayout, ema: bool = True) -> Keys:
    """Every tensor [*] that a checkpoint holds of a layout's model."""
    return rarm_keys(layout) if isinstance(layout, RarmLayout) else unet_keys(layout, ema)


def rarm_keys(layout: RarmLayout) -> Keys:
    """Every tensor [*] that a checkpoint holds of a RARM; its learned null is ours alone."""
    names = {"embedding": "proj_in", "positions": "positional_encoding", "head": "proj_out"}
    for number in range(layout.depth):
        names[f"blocks.{number}"] = f"transformer_blocks.{number}"
    with torch.device("meta"):
        network = build_rarm(layout)
    keys = {}
    for key, tensor in network.state_dict().items():
        if key != "null":
            # The original's last layer is a convolution of width 1: [V, C, 1] in place of [V, C].
            shape = torch.Size((*tensor.shape, 1)) if key == "head.weight" else tensor.shape
            keys[TRANSFORMER + _renamed(key, names)] = key, shape
    return keys


def unet_keys(layout: UnetLayout, ema: bool = True) -> Keys:
    """Every tensor [*] that a checkpoint holds of a U-Net: of its running mean, or of its live
    weights.
    """
    keys = {}
    for name, key in _original_shapes(layout, build_unet, unet_names).items():
        # A running mean has the live weights' names without dots.
        in_checkpoint = f"{EMA}diffusion_model{name.replace('.', '')}" if ema else LIVE + name
        keys[in_checkpoint] = key
    return keys


def autoencoder_keys(layout: AutoencoderLayout, prefix: str = "") -> Keys:
    """Every tensor [*] that a checkpoint holds of an autoencoder, below `prefix`."""
    keys = {}
    shapes = _original_shapes(layout, build_autoencoder, autoencoder_names)
    for name, (target, shape) in shapes.items():
        # The original's attention is made of convolutions 1 x 1: [C, C, 1, 1] in place of [C, C].
        was_convolution = ".attentions." in target and len(shape) == 2
        keys[prefix + name] = target, torch.Size((*shape, 1, 1)) if was_convolution else shape
    return keys


def _inside(blocks: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """The modules inside each of the blocks, which have the same names in every block."""
    modules = {}
    for old_block, new_block in blocks.items():
        for old, new in names.items():
            modules[f"{old_block}.{old}"] = f"{new_block}.{new}"
    return modules


@cache
def _original_shapes(
    layout: Any, build: Callable[[Any], Any], names_of: Callable[[Any], dict[str, str]]
) -> Keys:
    """The tensors [*] of a layout's network by their original names, before any prefix."""
    with torch.device("meta"):
        network = build(layout)
    originals = {target: source for source, target in names_of(layout).items()}
    shapes = {}
    for key, tensor in network.state_dict().items():
        shapes[_renamed(key, originals)] = key, tensor.shape
    return shapes


def _renamed(key: str, names: Mapping[str, str]) -> str:
    """A tensor's name with the longest part that `names` knows replaced by what it stands for."""
    module = key
    while module not in names:
        module, dot, _ = module.rpartition(".")
        assert dot, f"{key} belongs to no module of the table"
    return names[module] + key.removeprefix(module)
