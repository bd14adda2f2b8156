"""The 2022 checkpoints: every tensor of every release has its place, and what does not fit is
refused.
"""

from operator import attrgetter

import pytest
from released import (
    MILLIONS,
    RELEASED,
    UNETS,
    StateDict,
    autoencoder_shapes,
    checkpoint,
    live,
    mean,
    of_no_size,
    unet_shapes,
)

from rdm_core.errors import WeightsError
from rdm_core.originals import (
    AUTOENCODERS,
    LAYOUTS,
    autoencoder_keys,
    convert_autoencoder,
    convert_denoiser,
    convert_unet,
    unet_keys,
)

COMMON = {
    "layers_per_block": 2,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
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
}
SMALL = {
    "sample_size": 64,
    "in_channels": 3,
    "out_channels": 3,
    "cross_attention_dim": 512,
    "up_block_types": (
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "UpBlock2D",
    ),
    "down_block_types": (
        "DownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
    ),
}
CONFIGURED = {
    "imagenet-2022": SMALL
    | {"block_out_channels": (192, 384, 576, 960), "attention_head_dim": (6, 12, 18, 30)},
    "ffhq-2022": SMALL
    | {"block_out_channels": (224, 448, 672, 896), "attention_head_dim": (7, 14, 21, 28)},
    "laion-768-2022": {
        "sample_size": 48,
        "in_channels": 16,
        "out_channels": 16,
        "cross_attention_dim": 768,
        "block_out_channels": (448, 896, 1344, 1792),
        "attention_head_dim": (14, 28, 42, 56),
        "down_block_types": (
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ),
        "up_block_types": (
            "UpBlock2D",
            "CrossAttnUpBlock2D",
            "CrossAttnUpBlock2D",
            "CrossAttnUpBlock2D",
        ),
    },
}
CONFIGURED["imagenet-in-db-2022"] = CONFIGURED["imagenet-2022"]


def shapes_of(keys):
    """The shapes of a checkpoint's tensors by name."""
    return {key: tuple(shape) for key, (_, shape) in keys.items()}


def millions(network):
    """How many million parameters a network has."""
    count = sum(parameter.numel() for parameter in network.parameters())
    return round(count / 1e6, 2)


@pytest.mark.parametrize("name", list(UNETS))
@pytest.mark.parametrize(("ema", "called"), [(False, live), (True, mean)])
def test_every_tensor_of_a_released_unet_has_its_place(name, ema, called):
    assert LAYOUTS.keys() - UNETS.keys() == {"rarm-2022"}, "tests/rdm_core/test_rarm_of_2022.py"
    layout = LAYOUTS[name]
    expected = {called(key): shape for key, shape in unet_shapes(UNETS[name]).items()}
    assert shapes_of(unet_keys(layout, ema)) == expected
    network = convert_unet(
        checkpoint(UNETS[name], RELEASED[layout.autoencoder], of_no_size), layout, ema
    )
    assert millions(network) == MILLIONS[name]
    configured = COMMON | CONFIGURED[name]
    assert {key: network.config[key] for key in configured} == configured


@pytest.mark.parametrize("name", list(AUTOENCODERS))
@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_every_tensor_of_a_released_autoencoder_has_its_place(name, prefix):
    assert RELEASED.keys() == AUTOENCODERS.keys()
    expected = {prefix + key: shape for key, shape in autoencoder_shapes(RELEASED[name]).items()}
    assert shapes_of(autoencoder_keys(AUTOENCODERS[name], prefix)) == expected
    state = {key: of_no_size(shape) for key, shape in expected.items()}
    state[f"{prefix}loss.logvar"] = of_no_size(())
    assert millions(convert_autoencoder(state, AUTOENCODERS[name])) == MILLIONS[name]


def test_what_a_network_was_trained_between_is_the_released_one():
    wanted = ("beta_end", "context_norm", "autoencoder", "encoder", "encoder_weights")
    facts = {name: attrgetter(*wanted)(LAYOUTS[name]) for name in UNETS}
    small = (0.0195, "raw", "vq-f4", "ViT-B-32", "openai")
    assert facts == dict.fromkeys(list(UNETS)[:3], small) | {
        "laion-768-2022": (0.015, "unit", "kl-f16", "ViT-L-14", "openai")
    }
    assert {name: layout.scaling_factor for name, layout in AUTOENCODERS.items()} == {
        "vq-f4": 1.0, "vq-f16": 1.0, "vqgan-f16": 1.0, "kl-f16": 0.22765929
    }  # fmt: skip


# What is refused


def released(name: str) -> StateDict:
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
    shapes = autoencoder_shapes(RELEASED["vq-f4"])
    state = {prefix + name: of_no_size(shape) for name, shape in shapes.items()}
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
    # Without its running mean, as a training without one would have left it.
    state = released("ffhq-2022")
    for name in list(state):
        if name.startswith("model_ema."):
            del state[name]
    with pytest.raises(
        WeightsError, match="absent: 688, the first model_ema.diffusion_model.*ema=False"
    ):
        convert_unet(state, LAYOUTS["ffhq-2022"])
