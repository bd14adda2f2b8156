"""Checkpoints -> filled networks. A tensor too few, too many or of another shape is refused."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, VQModel

from rdm_core.errors import WeightsError
from rdm_core.families.autoregressive.decoder import CausalTransformer
from rdm_core.families.autoregressive.model import Autoregressive
from rdm_core.families.diffusion.config import Config, DenoiserConfig, NoiseConfig
from rdm_core.families.diffusion.denoiser import Denoiser
from rdm_core.families.diffusion.model import Diffusion
from rdm_core.families.diffusion.noise import process_of
from rdm_core.families.facts import ModelConfig, Shape
from rdm_core.families.family import Model
from rdm_core.latents import LatentSpace
from rdm_core.originals.layouts import (
    AUTOENCODERS,
    LAYOUTS,
    AutoencoderLayout,
    Keys,
    ModelLayout,
    RarmLayout,
    StateDict,
    UnetLayout,
    build_autoencoder,
    build_rarm,
    build_unet,
    rarm_config,
)
from rdm_core.originals.names import (
    AUTOENCODER,
    BUFFERS,
    EMA,
    LIVE,
    LOSSES,
    TRANSFORMER,
    autoencoder_keys,
    model_keys,
)


def convert_unet(state: StateDict, layout: UnetLayout, ema: bool = True) -> UNet2DConditionModel:
    """The U-Net of a checkpoint, float32 [*], in evaluation mode.

    `ema` takes the running mean of the weights, as the 2022 samplers did. A float32 `state` shares
    its memory with the network. Raises WeightsError when the checkpoint does not hold exactly this
    layout's tensors beside its other parts, and names the layout of LAYOUTS that it does hold.
    """
    own = EMA if ema else LIVE
    return _converted(state, own, layout, build_unet, lambda other: model_keys(other, ema), LAYOUTS)


def convert_rarm(state: StateDict, layout: RarmLayout) -> CausalTransformer:
    """The transformer of a RARM's checkpoint, float32 [*], in evaluation mode, with the zero vector
    as its null.

    Memory and errors are as in `convert_unet`.
    """
    null = {"null": torch.zeros(layout.context_dimension)}
    return _converted(state, TRANSFORMER, layout, build_rarm, model_keys, LAYOUTS, null)


def convert_autoencoder(state: StateDict, layout: AutoencoderLayout) -> AutoencoderKL | VQModel:
    """The autoencoder of its own checkpoint or of a denoiser's, float32 [*], in evaluation mode.

    The networks of its losses are left out. Memory and errors are as in `convert_unet`; layouts
    are looked up in AUTOENCODERS.
    """
    own = AUTOENCODER if _holds(state, AUTOENCODER) else ""
    return _converted(
        state,
        own,
        layout,
        build_autoencoder,
        lambda other: autoencoder_keys(other, own),
        AUTOENCODERS,
    )


def convert_denoiser(state: StateDict, layout: UnetLayout, ema: bool = True) -> Denoiser:
    """A checkpoint's network with the zero vector [D] as its null, in evaluation mode, float32.

    Raises WeightsError as `convert_unet` does.
    """
    network: Any = convert_unet(state, layout, ema)
    if layout.context_norm == "unit":
        # The network was trained with vectors of length 1; a Denoiser gives it length sqrt(D).
        # Only the keys and values of the cross-attention see them, linearly and without bias, so
        # the factor can go into their weights [C, D].
        for name, parameter in network.named_parameters():
            if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
                parameter.data = parameter.data / layout.context_dimension**0.5
    config = unet_config(layout).denoiser
    return Denoiser(network, layout.context_dimension, config).eval()


def convert_model(
    state: StateDict, layout: ModelLayout, space: LatentSpace, ema: bool = True
) -> Model:
    """A checkpoint's network as a model of this project, in a latent space: latents [B, C, h, w].

    `ema` is as in `convert_unet`; a RARM has no running mean. Raises WeightsError as `convert_unet`
    does.
    """
    side, dimension = layout.latent_side, layout.context_dimension
    if isinstance(layout, RarmLayout):
        transformer, shape = convert_rarm(state, layout), Shape(space.channels, side, dimension)
        return Autoregressive(transformer, rarm_config(layout), shape, space).eval()
    shape = Shape(layout.latent_channels, side, dimension)
    noise = process_of(unet_config(layout).noise)
    return Diffusion(convert_denoiser(state, layout, ema), noise, shape, space).eval()


def model_config(layout: ModelLayout) -> ModelConfig:
    """The configuration with which this project would train such a model."""
    return rarm_config(layout) if isinstance(layout, RarmLayout) else unet_config(layout)


def unet_config(layout: UnetLayout) -> Config:
    """The configuration with which this project would train such a U-Net."""
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
    ours: StateDict | None = None,
) -> Any:
    """The network of a layout, filled with a checkpoint's tensors float32 [*].

    `own` begins the names of the network's tensors; `known` are all layouts, to name the right one
    when this one does not fit; `ours` are tensors that no checkpoint has.
    """
    keys = keys_of(layout)
    if misfit := _misfit(state, own, keys):
        cure = "Give the layout that it has, or fetch the file again."
        if own == EMA and not _holds(state, EMA):
            cure = "It holds no running mean: convert with ema=False."
        fitting = []
        for name, known_layout in known.items():
            if not _misfit(state, own, keys_of(known_layout)):
                fitting.append(name)
        if fitting:
            cure = f"It is of the layout {' or '.join(fitting)}: give that one."
        raise WeightsError(f"checkpoint read as {layout.name!r}", misfit, cure)
    with torch.device("meta"):  # every weight is replaced
        network = build(layout)
    empty = network.state_dict()
    tensors = dict(ours or {})
    for name, (target, _) in keys.items():
        # The originals store some linear layers as convolutions: [C, D, 1, 1] in place of [C, D].
        tensors[target] = state[name].float().reshape(empty[target].shape)
    network.load_state_dict(tensors, assign=True)
    return network.eval()


def _holds(state: StateDict, part: str) -> bool:
    """Whether a checkpoint holds any tensor [*] of a part."""
    return any(name.startswith(part) for name in state)


def _misfit(state: StateDict, own: str, keys: Keys) -> str:
    """How a checkpoint differs from the tensors [*] of `keys`, in words; "" where it fits.

    Its other parts, those that do not begin with `own`, do not count.
    """
    absent, of_another_shape, too_many = [], [], []
    for name, (_, wanted) in keys.items():
        if name not in state:
            absent.append(name)
        elif list(state[name].shape) != list(wanted):
            shapes = f"{list(state[name].shape)} instead of {list(wanted)}"
            of_another_shape.append(f"{name}, {shapes}")
    other_parts = [part for part in (LIVE, EMA, AUTOENCODER, TRANSFORMER) if part != own]
    beside = (*other_parts, *LOSSES)
    for name in state:
        if name not in keys and name not in BUFFERS and not name.startswith(beside):
            too_many.append(name)
    differences = []
    for what, names in (
        ("absent", absent),
        ("of another shape", of_another_shape),
        ("too many", too_many),
    ):
        if names:
            differences.append(f"{what}: {len(names)}, the first {names[0]}")
    return "; ".join(differences)
