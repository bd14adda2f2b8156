"""The denoiser: neighbors are a set, absent ones are absent, and what is saved is what was trained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import Attention
from safetensors.torch import load_file, save_file
from torch import nn

from flows.presets import PRESETS
from rdm_core.config import DenoiserConfig
from rdm_core.denoiser import build_denoiser, load_denoiser, parameter_count
from rdm_core.errors import WeightsError

B, K, D = 3, 5, 8
KEPT = torch.zeros(B, dtype=torch.bool)
DROPPED = torch.ones(B, dtype=torch.bool)
WHOLE = torch.ones(B, K, dtype=torch.bool)


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents [B, 3, 8, 8], network times [B], context [B, K, D]."""
    generator = torch.Generator().manual_seed(0)
    x, context = torch.randn(B, 3, 8, 8, generator=generator), torch.randn(B, K, D, generator=generator)
    return x, torch.tensor([10.0, 500.0, 900.0]), context


@torch.no_grad()
def influence(denoiser, inputs, changed: torch.Tensor, mask=WHOLE, dropped=KEPT) -> list[float]:
    """How much each of the B predictions changes when the context does."""
    x, time, context = inputs
    difference = denoiser(x, time, context, mask, dropped) - denoiser(x, time, changed, mask, dropped)
    return difference.abs().amax(dim=(1, 2, 3)).tolist()


def test_the_neighbors_have_no_order(tiny_config, tiny_denoiser, inputs):
    denoiser, context = tiny_denoiser(tiny_config), inputs[2]
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        straight = denoiser(*inputs, mask, KEPT)
        mixed = denoiser(*inputs[:2], context[:, order], mask[:, order], KEPT)
    torch.testing.assert_close(mixed, straight, rtol=1e-4, atol=1e-5)
    assert min(influence(denoiser, inputs, context.roll(1, dims=0))) > 1e-3, "they do count"


def test_a_masked_neighbor_has_no_influence(tiny_config, tiny_denoiser, inputs):
    denoiser, context = tiny_denoiser(tiny_config), inputs[2]
    mask = WHOLE.clone()
    mask[:, 3:] = False
    changed = context.clone()
    changed[:, 3:] = 100
    assert influence(denoiser, inputs, changed, mask) == [0, 0, 0]
    changed[:, 2] = 100
    assert min(influence(denoiser, inputs, changed, mask)) > 1e-3
    with torch.no_grad():
        shorter = denoiser(*inputs[:2], context[:, :3], mask[:, :3], KEPT)
        torch.testing.assert_close(denoiser(*inputs, mask, KEPT), shorter, rtol=1e-4, atol=1e-5)


def test_any_number_of_neighbors_will_do(tiny_config, tiny_denoiser, inputs):
    denoiser = tiny_denoiser(tiny_config)
    for count in (1, 2, 20):
        prediction = denoiser(*inputs[:2], torch.randn(B, count, D), torch.ones(B, count, dtype=torch.bool), KEPT)
        assert prediction.shape == inputs[0].shape


def test_a_dropped_context_is_the_null_and_the_null_alone(tiny_config, tiny_denoiser, inputs):
    denoiser, context = tiny_denoiser(tiny_config), inputs[2]
    assert influence(denoiser, inputs, context + 100, dropped=DROPPED) == [0, 0, 0]
    with torch.no_grad():
        before = denoiser(*inputs, WHOLE, DROPPED)
        null_as_neighbor = denoiser(*inputs[:2], denoiser.null.expand(B, 1, D), WHOLE[:, :1], KEPT)
        torch.testing.assert_close(before, null_as_neighbor, rtol=1e-4, atol=1e-5)
        denoiser.null += 1
        after = denoiser(*inputs, WHOLE, DROPPED)
    assert (after - before).abs().amax(dim=(1, 2, 3)).min() > 1e-3


def test_contexts_are_dropped_sample_by_sample(tiny_config, tiny_denoiser, inputs):
    denoiser, context = tiny_denoiser(tiny_config), inputs[2]
    dropped = torch.tensor([False, True, False])
    found = influence(denoiser, inputs, context.roll(1, dims=0), dropped=dropped)
    assert found[1] == 0
    assert min(found[0], found[2]) > 1e-3


def test_a_dropped_context_needs_no_neighbors(tiny_config, tiny_denoiser, inputs):
    denoiser = tiny_denoiser(tiny_config)
    with torch.no_grad():
        nothing = denoiser(*inputs, ~WHOLE, DROPPED)
        torch.testing.assert_close(nothing, denoiser(*inputs, WHOLE, DROPPED))


def test_the_null_is_learned_from_dropped_contexts(tiny_config, tiny_denoiser, inputs):
    denoiser = tiny_denoiser(tiny_config)
    denoiser(*inputs, WHOLE, DROPPED).square().mean().backward()
    assert denoiser.null.grad.abs().max() > 0


def test_the_time_matters(tiny_config, tiny_denoiser, inputs):
    denoiser, (x, time, context) = tiny_denoiser(tiny_config), inputs
    with torch.no_grad():
        difference = denoiser(x, time, context, WHOLE, KEPT) - denoiser(x, time + 50, context, WHOLE, KEPT)
    assert difference.abs().amax(dim=(1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize(("context_norm", "length"), [("raw", 11.0), ("unit", D**0.5)])
def test_a_context_has_the_length_the_network_is_trained_with(context_norm, length):
    config = DenoiserConfig(network="transformer", channels=(32,), depth=1, head_channels=16, context_norm=context_norm)
    unit = nn.functional.normalize(torch.randn(B, K, D), dim=-1)
    context = build_denoiser(config, 3, 8, D).context(unit, torch.full((B, K), 11.0))
    torch.testing.assert_close(context.norm(dim=-1), torch.full((B, K), length))
    torch.testing.assert_close(nn.functional.cosine_similarity(context, unit, dim=-1), torch.ones(B, K))


def test_initial_weights_follow_the_global_seed(tiny_config):
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        states.append(torch.cat([p.flatten() for p in build_denoiser(tiny_config, 3, 8, D).parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.fixture
def folder(tiny_denoiser, tmp_path):
    """A saved transformer."""
    tiny_denoiser().save(tmp_path / "weights", {"k": 4})
    return tmp_path / "weights"


def test_what_is_loaded_predicts_what_was_saved(tiny_config, tiny_denoiser, inputs, tmp_path):
    denoiser = tiny_denoiser(tiny_config)
    denoiser.save(tmp_path, {"k": 4, "encoder": {"model": "ViT-B-32"}})
    loaded, facts = load_denoiser(tmp_path)
    with torch.no_grad():
        for dropped in (KEPT, DROPPED):
            assert torch.equal(loaded(*inputs, WHOLE, dropped), denoiser(*inputs, WHOLE, dropped))
    assert not loaded.training
    assert loaded.context_norm == denoiser.context_norm
    assert facts == {"k": 4, "encoder": {"model": "ViT-B-32"}, "dimension": D, "context_norm": denoiser.context_norm}
    assert parameter_count(loaded) == parameter_count(denoiser)


def test_only_safetensors_and_json_are_written(folder):
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    expected = ["context.json", "context.safetensors", "network/config.json", "network/diffusion_pytorch_model.safetensors"]
    assert files == expected


NETWORK = "network/diffusion_pytorch_model.safetensors"
NETWORK_CONFIG = "network/config.json"


def without_a_tensor(folder: Path) -> None:
    """The network's file lacks one of its tensors."""
    state = load_file(folder / NETWORK)
    del state["pos_embed.proj.weight"]
    save_file(state, folder / NETWORK)


def only_a_pickle(folder: Path) -> None:
    """The same tensors in the format that runs code."""
    torch.save(load_file(folder / NETWORK), (folder / NETWORK).with_suffix(".bin"))
    (folder / NETWORK).unlink()


def with_config(folder: Path, **changed) -> None:
    """The network's file is untouched, what it is said to be is not."""
    config = json.loads((folder / NETWORK_CONFIG).read_text())
    (folder / NETWORK_CONFIG).write_text(json.dumps(config | changed))


SPOILED: dict[str, Callable[[Path], object]] = {
    "no such folder": shutil.rmtree,
    "only the network": lambda folder: (folder / "context.json").unlink(),
    "truncated": lambda folder: (folder / NETWORK).write_bytes((folder / NETWORK).read_bytes()[:1000]),
    "only a pickle": only_a_pickle,
    "a tensor too few": without_a_tensor,
    "a block too many": lambda folder: with_config(folder, num_layers=0),
    "another class": lambda folder: with_config(folder, _class_name="AutoencoderKL"),
    "a word for a number": lambda folder: with_config(folder, num_layers="two"),
    "no JSON": lambda folder: (folder / "context.json").write_text("{"),
    "other JSON": lambda folder: (folder / "context.json").write_text("[]"),
    "null of another dimension": lambda folder: save_file({"null": torch.zeros(D + 1)}, folder / "context.safetensors"),
    "no null": lambda folder: save_file({"nil": torch.zeros(D)}, folder / "context.safetensors"),
}


@pytest.mark.parametrize("how", list(SPOILED))
def test_a_folder_that_is_not_whole_is_refused(how, folder):
    SPOILED[how](folder)
    with pytest.raises(WeightsError, match=r"weights: not a weights folder of this project \(.+\).*Give a run's name"):
        load_denoiser(folder)


# The released 2022 configurations, and the parameters that their checkpoints hold.
RELEASED = {
    "imagenet-2022": (400.92, {"block_out_channels": [192, 384, 576, 960], "attention_head_dim": [6, 12, 18, 30]}),
    "ffhq-2022": (414.71, {"block_out_channels": [224, 448, 672, 896], "attention_head_dim": [7, 14, 21, 28]}),
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
        denoiser = build_denoiser(DenoiserConfig(**PRESETS[preset]["denoiser"]), 3, 64, 512)
    config = denoiser.network.config
    listed = {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}
    assert {key: listed[key] for key in RELEASED_BOTH | own} == RELEASED_BOTH | own
    assert round(parameter_count(denoiser.network) / 1e6, 2) == millions
    assert parameter_count(denoiser) == parameter_count(denoiser.network) + 512, "the null is all that is new"
    assert denoiser.context_norm == "raw"
    attentions = [module for module in denoiser.network.modules() if isinstance(module, Attention)]
    assert {attention.inner_dim // attention.heads for attention in attentions} == {32}, "channels of a head at every level"
    assert {m.eps for m in denoiser.network.modules() if isinstance(m, nn.GroupNorm)} == {1e-5, 1e-6}, "1e-6 before attention"
