"""The networks of denoisers: initial weights by seed, and sizes as released."""

import pytest
import torch
from diffusers.models.attention_processor import Attention
from neighbor_sets import D
from torch import nn

from flows.config.presets import PRESETS
from rdm_core.families.diffusion.config import Config, DenoiserConfig
from rdm_core.families.diffusion.denoiser import build_denoiser


def parameter_count(module: nn.Module) -> int:
    """Trainable numbers."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def preset_of(name: str) -> DenoiserConfig:
    """A preset's network."""
    return Config.of(PRESETS[name]["model"]).denoiser


@pytest.mark.parametrize("how", ["global", "own"])
def test_initial_weights_follow_the_seed(how, config):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed if how == "global" else len(states))
        denoiser = build_denoiser(config, 3, 8, D, seed if how == "own" else None)
        states.append(torch.cat([p.flatten() for p in denoiser.parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


# The released 2022 configurations, and the parameters that their checkpoints hold.
RELEASED = {
    "imagenet-2022": (
        400.92,
        {"block_out_channels": [192, 384, 576, 960], "attention_head_dim": [6, 12, 18, 30]},
    ),
    "ffhq-2022": (
        414.71,
        {"block_out_channels": [224, 448, 672, 896], "attention_head_dim": [7, 14, 21, 28]},
    ),
}
RELEASED_BOTH = {
    "sample_size": 64,
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 3],
    "up_block_types": [*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "cross_attention_dim": 512,
    "layers_per_block": 2,
    "transformer_layers_per_block": 1,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "act_fn": "silu",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "downsample_padding": 1,
    "use_linear_projection": False,
    "center_input_sample": False,
    "resnet_time_scale_shift": "default",
    "num_attention_heads": None,
    "only_cross_attention": False,
    "class_embed_type": None,
}


@pytest.mark.parametrize("preset", list(RELEASED))
def test_the_2022_presets_are_the_released_networks(preset):
    millions, own = RELEASED[preset]
    with torch.device("meta"):
        denoiser = build_denoiser(preset_of(preset), 3, 64, 512)
    config = denoiser.network.config
    expected = RELEASED_BOTH | own
    for key, value in expected.items():
        found = list(config[key]) if isinstance(config[key], tuple) else config[key]
        assert found == value, key
    assert round(parameter_count(denoiser.network) / 1e6, 2) == millions
    assert parameter_count(denoiser) == parameter_count(denoiser.network) + 512, (
        "the null is all that is new"
    )
    assert denoiser.config.context_norm == "raw"
    attentions = [module for module in denoiser.network.modules() if isinstance(module, Attention)]
    assert {attention.inner_dim // attention.heads for attention in attentions} == {32}, (
        "channels of a head at every level"
    )
    assert {m.eps for m in denoiser.network.modules() if isinstance(m, nn.GroupNorm)} == {
        1e-5,
        1e-6,
    }, "1e-6 before attention"


def test_the_two_presets_of_the_built_in_world_are_equally_large():
    with torch.device("meta"):
        shapes = build_denoiser(preset_of("shapes"), 16, 8, 64)
    unet = build_denoiser(preset_of("shapes-unet"), 16, 8, 64)
    assert abs(parameter_count(unet) / parameter_count(shapes) - 1) < 0.02


def test_a_unet_of_any_widths_has_groups_that_divide_them():
    config = DenoiserConfig(
        network="unet", channels=(24, 32), attention_levels=(1,), depth=1, head_channels=8
    )
    groups = set()
    for module in build_denoiser(config, 3, 8, D).network.modules():
        if isinstance(module, nn.GroupNorm):
            groups.add(module.num_groups)
    assert groups == {2}, "24 / 4 = 6 does not divide 32"
