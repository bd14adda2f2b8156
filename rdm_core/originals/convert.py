"""Checkpoints -> filled networks. A tensor too few, too many or of another shape is refused."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, VQModel

from rdm_core.errors import WeightsError
from rdm_core.families.diffusion.config import Config, DenoiserConfig, NoiseConfig
from rdm_core.families.diffusion.denoiser import Denoiser
from rdm_core.families.diffusion.model import Diffusion
from rdm_core.families.diffusion.noise import process_of
from rdm_core.families.facts import Shape
from rdm_core.latents import LatentSpace
from rdm_core.originals.layouts import (
    AUTOENCODERS,
    LAYOUTS,
    AutoencoderLayout,
    Keys,
    StateDict,
    UnetLayout,
    build_autoencoder,
    build_unet,
)
from rdm_core.originals.names import (
    AUTOENCODER,
    BUFFERS,
    EMA,
    LIVE,
    LOSSES,
    autoencoder_keys,
    unet_keys,
)


def convert_unet(state: StateDict, layout: UnetLayout, ema: bool = True) -> UNet2DConditionModel:
    """The U-Net of a checkpoint, float32, in evaluation mode; `ema` takes the running mean, as the
    2022 samplers did.

    A float32 `state` shares its memory with the network. Raises WeightsError when the checkpoint
    does not hold exactly this layout's tensors beside its other parts, and names the layout of
    LAYOUTS that it does hold.
    """
    own = EMA if ema else LIVE
    return _converted(state, own, layout, build_unet, lambda other: unet_keys(other, ema), LAYOUTS)


def convert_autoencoder(state: StateDict, layout: AutoencoderLayout) -> AutoencoderKL | VQModel:
    """The autoencoder of its own checkpoint or of a denoiser's, float32, in evaluation mode; losses
    are left out.

    Memory and errors are as of `convert_unet`; layouts are looked up in AUTOENCODERS.
    """
    own = AUTOENCODER if any(name.startswith(AUTOENCODER) for name in state) else ""
    return _converted(
        state,
        own,
        layout,
        build_autoencoder,
        lambda other: autoencoder_keys(other, own),
        AUTOENCODERS,
    )


def convert_denoiser(state: StateDict, layout: UnetLayout, ema: bool = True) -> Denoiser:
    """A checkpoint's network with the zero vector as its null, in evaluation mode, float32.

    Raises WeightsError as `convert_unet` does.
    """
    network: Any = convert_unet(state, layout, ema)
    if layout.context_norm == "unit":
        # It was trained with vectors of length 1, a Denoiser gives it length sqrt(D). Only the keys
        # and values of the cross-attention see them, linearly and without bias, so that the factor
        # can go into their weights.
        for name, parameter in network.named_parameters():
            if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
                parameter.data = parameter.data / layout.context_dimension**0.5
    config = model_config(layout).denoiser
    return Denoiser(network, layout.context_dimension, config).eval()


def convert_model(
    state: StateDict, layout: UnetLayout, space: LatentSpace, ema: bool = True
) -> Diffusion:
    """A checkpoint's denoiser as a model of ours, in a latent space.

    Raises WeightsError as `convert_unet` does.
    """
    denoiser = convert_denoiser(state, layout, ema)
    noise = process_of(model_config(layout).noise)
    shape = Shape(layout.latent_channels, layout.latent_side, layout.context_dimension)
    return Diffusion(denoiser, noise, shape, space).eval()


def model_config(layout: UnetLayout) -> Config:
    """What training such a model here would be asked for."""
    denoiser = DenoiserConfig(
        channels=layout.channels,
        depth=layout.blocks,
        attention_levels=layout.attending,
        context_norm=layout.context_norm,
    )
    return Config(denoiser=denoiser, noise=NoiseConfig(beta_end=layout.beta_end))


def _converted(
    state: StateDict,
    own: str,
    layout: Any,
    build: Callable[[Any], Any],
    keys_of: Callable[[Any], Keys],
    known: Mapping[str, Any],
) -> Any:
    keys = keys_of(layout)
    if misfit := _misfit(state, own, keys):
        cure = "Give the layout that it has, or fetch the file again."
        if own == EMA and not any(name.startswith(EMA) for name in state):
            cure = "It holds no running mean: convert with ema=False."
        if fitting := [
            name for name, other in known.items() if not _misfit(state, own, keys_of(other))
        ]:
            cure = f"It is of the layout {' or '.join(fitting)}: give that one."
        raise WeightsError(f"checkpoint read as {layout.name!r}", misfit, cure)
    with torch.device("meta"):  # every weight is replaced
        network = build(layout)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    tensors = {
        target: state[name].float().reshape(shapes[target]) for name, (target, _) in keys.items()
    }
    network.load_state_dict(tensors, assign=True)
    return network.eval()


def _misfit(state: StateDict, own: str, keys: Keys) -> str:
    beside = (*(part for part in (LIVE, EMA, AUTOENCODER) if part != own), *LOSSES)
    both = [
        (name, list(state[name].shape), list(shape))
        for name, (_, shape) in keys.items()
        if name in state
    ]
    found = {
        "absent": [name for name in keys if name not in state],
        "of another shape": [
            f"{name}, {shape} instead of {wanted}"
            for name, shape, wanted in both
            if shape != wanted
        ],
        "too many": [
            n for n in state if n not in keys and n not in BUFFERS and not n.startswith(beside)
        ],
    }
    return "; ".join(
        f"{what}: {len(names)}, the first {names[0]}" for what, names in found.items() if names
    )
