"""The 2022 checkpoints: what is converted computes what the original did.

Weights are random, those that start at zero included; networks are reduced.
"""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, replace

import pytest
import torch
from diffusers import VQModel
from original import (
    GROUPS,
    original_codes,
    original_ddim,
    original_decode,
    original_encode,
    original_unet,
)
from released import (
    Autoencoder,
    StateDict,
    Unet,
    autoencoder_shapes,
    checkpoint,
    live,
    mean,
    unet_shapes,
)
from torch import nn
from torch.nn import functional
from training import assert_equal

from flows.config.presets import PRESETS
from rdm_core.context import NEIGHBOR, Context, nothing
from rdm_core.families import config_of
from rdm_core.families.diffusion.config import Config, NoiseConfig
from rdm_core.families.diffusion.denoiser import load_denoiser
from rdm_core.families.diffusion.noise import process_of
from rdm_core.families.diffusion.samplers import sample_ddim_2022
from rdm_core.families.facts import Shape
from rdm_core.latents import LatentSpace
from rdm_core.originals import (
    AUTOENCODERS,
    LAYOUTS,
    build_autoencoder,
    build_unet,
    convert_autoencoder,
    convert_denoiser,
    convert_model,
    convert_unet,
    model_config,
)

SAME = 1e-5
"""Most relative difference between the original and the converted network."""
UNET = {
    "imagenet-2022": Unet(16, (1, 2, 3), (4, 2), 3, 12),
    "laion-768-2022": Unet(16, (1, 2, 3), (2, 1), 5, 20),
}
ATTENDING = {"imagenet-2022": (1, 2), "laion-768-2022": (0, 1)}
LAYOUT = {}
for _name, _unet in UNET.items():
    LAYOUT[_name] = replace(
        LAYOUTS[_name],
        channels=(16, 32, 48),
        heads=(2, 4, 6),
        groups=GROUPS,
        attending=ATTENDING[_name],
        latent_channels=_unet.latent,
        latent_side=16,
        context_dimension=_unet.context,
    )
AUTO = {
    "vq-f4": Autoencoder(8, (1, 2, 4), 32, (), 3, 40),
    "vqgan-f16": Autoencoder(8, (1, 1, 2, 2, 4), 32, (2,), 6, 40),
    "kl-f16": Autoencoder(8, (1, 1, 2, 2, 4), 32, (2,), 5, 0),
}
AUTO_LAYOUT = {}
for _name, _auto in AUTO.items():
    AUTO_LAYOUT[_name] = replace(
        AUTOENCODERS[_name],
        channels=tuple(_auto.width * multiple for multiple in _auto.multiples),
        groups=GROUPS,
        latent_channels=_auto.latent,
        codes=_auto.codes,
        side=_auto.resolution,
    )
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
def state(name) -> StateDict:
    """A random checkpoint of it."""
    torch.manual_seed(0)
    return checkpoint(UNET[name], AUTO[LAYOUT[name].autoencoder], random_tensor)


def random_autoencoder(kind: str) -> StateDict:
    """Random tensors for all of an autoencoder's own checkpoint."""
    return {key: random_tensor(shape) for key, shape in autoencoder_shapes(AUTO[kind]).items()}


def part_of(state: StateDict, unet: Unet, called: Callable[[str], str]) -> StateDict:
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
        process_of(model_config(layout).noise),
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
    differences = {}
    for what, network in wrong.items():
        differences[what] = difference(network(*inputs).sample, expected)
    assert min(differences.values()) > 10 * SAME, differences


@torch.no_grad()
def test_the_running_mean_and_the_live_weights_are_told_apart(name, state):
    unet, layout = UNET[name], LAYOUT[name]
    inputs = (
        torch.randn(B, unet.latent, 16, 16),
        torch.tensor([1, 801]),
        torch.randn(B, K, unet.context),
    )
    of_mean = convert_unet(state, layout, ema=True)(*inputs).sample
    of_live = convert_unet(state, layout, ema=False)(*inputs).sample
    assert difference(of_mean, original_unet(part_of(state, unet, mean), *inputs)) < SAME
    assert difference(of_live, original_unet(part_of(state, unet, live), *inputs)) < SAME
    assert difference(of_mean, of_live) > 0.1


@torch.no_grad()
@pytest.mark.parametrize("kind", list(AUTO))
def test_an_autoencoder_encodes_and_decodes_as_the_original(kind):
    torch.manual_seed(0)
    state = random_autoencoder(kind)
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
    of_both = convert_autoencoder(state, AUTO_LAYOUT[kind]).state_dict()
    of_own = convert_autoencoder(own, AUTO_LAYOUT[kind]).state_dict()
    assert_equal(of_both, of_own)


def test_a_converted_denoiser_is_saved_and_loaded_as_any_other(name, state, tmp_path):
    before = {key: tensor.clone() for key, tensor in state.items()}
    denoiser = convert_denoiser(state, LAYOUT[name])
    assert denoiser.null.shape == (UNET[name].context,)
    assert not denoiser.null.any()
    assert not denoiser.training
    denoiser.save(tmp_path)
    config = model_config(LAYOUT[name]).denoiser
    assert denoiser.config == config
    assert config.context_norm == LAYOUT[name].context_norm
    loaded = load_denoiser(tmp_path, config, UNET[name].context)
    assert_equal(loaded.state_dict(), denoiser.state_dict())
    assert_equal(state, before)  # the checkpoint is as it was


def test_a_converted_model_is_the_denoiser_with_its_process_in_its_space(name, state, tmp_path):
    layout, unet = LAYOUT[name], UNET[name]
    space = LatentSpace(layout.autoencoder, unet.latent, 4, None, "0123")
    model = convert_model(state, layout, space)
    assert not model.training
    assert model.space is space
    assert model.shape == Shape(unet.latent, layout.latent_side, unet.context)
    assert model.process == process_of(
        NoiseConfig("epsilon", beta_start=0.0015, beta_end=layout.beta_end)
    )
    expected = convert_denoiser(state, layout).state_dict()
    assert_equal(model.denoiser.state_dict(), expected)
    live_one = convert_model(state, layout, space, ema=False).denoiser.state_dict()
    assert any(not torch.equal(live_one[key], expected[key]) for key in expected)
    assert Config.of(json.loads(json.dumps(asdict(model_config(layout))))) == model_config(layout)


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_a_release_is_what_a_training_of_its_preset_would_be(name):
    preset = "imagenet-2022" if name == "imagenet-in-db-2022" else name
    model = PRESETS[preset]["model"]
    assert model_config(LAYOUTS[name]) == config_of(model["family"]).of(model)


def test_half_a_checkpoints_precision_gives_a_network_of_full_precision():
    state = {key: tensor.half() for key, tensor in random_autoencoder("kl-f16").items()}
    autoencoder = convert_autoencoder(state, AUTO_LAYOUT["kl-f16"])
    assert {tensor.dtype for tensor in autoencoder.state_dict().values()} == {torch.float32}
    assert torch.equal(autoencoder.quant_conv.weight, state["quant_conv.weight"].float())


def test_fresh_networks_can_be_built():
    assert {p.device.type for p in build_unet(LAYOUT["imagenet-2022"]).parameters()} == {"cpu"}
    assert {p.device.type for p in build_autoencoder(AUTO_LAYOUT["kl-f16"]).parameters()} == {"cpu"}
