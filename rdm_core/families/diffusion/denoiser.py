"""The denoiser: a diffusers network that attends to a set of CLIP vectors, turned into tokens
[B, K, D].

B samples, K slots, D dimensions; x is [B, C, h, w].
"""

import json
from collections.abc import Sequence
from math import gcd
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from rdm_core.context import Context
from rdm_core.errors import WeightsError
from rdm_core.families.diffusion.config import DenoiserConfig
from rdm_core.families.tokens import VectorTokens
from rdm_core.importing import large_import

NETWORKS = ("PixArtTransformer2DModel", "UNet2DConditionModel")
"""Classes of diffusers. It is imported only when a network is built, as that takes two seconds."""


class Denoiser(VectorTokens):
    """Predicts the process's target from noisy latents and a context."""

    config: DenoiserConfig

    def __init__(self, network: Any, dimension: int, config: DenoiserConfig) -> None:
        """A network, and what its configuration asks for beside it."""
        super().__init__(dimension, config)
        self.network = network
        if config.detail_channels:
            self.detail = DetailHead(config.detail_channels, network.config.in_channels)

    def forward(self, x: torch.Tensor, time: torch.Tensor, context: Context) -> torch.Tensor:
        """Prediction float [B, C, h, w] for x [B, C, h, w] at time [B] in 0..1000 and a context of
        [B, K, D].

        This is epsilon_theta(z_t, t, {phi(y)}) of RDM (arXiv 2204.11824), or another target. A
        sample whose slots are all absent gets the learned null.
        """
        tokens, mask = self.seen(context)
        output = self.network(
            x, timestep=time, encoder_hidden_states=tokens, encoder_attention_mask=mask
        ).sample
        return self.detail(output, x) if self.config.detail_channels else output

    def save(self, directory: Path) -> None:
        """Write `network/`, a diffusers folder, and `context.safetensors`, all other weights."""
        self.network.save_pretrained(directory / "network", safe_serialization=True)
        save_file(self._own_state(), directory / "context.safetensors")

    def _own_state(self) -> dict[str, torch.Tensor]:
        """Copies on the CPU of all tensors [*] that are not of the network."""
        own = {}
        for name, tensor in self.state_dict().items():
            if not name.startswith("network."):
                own[name] = tensor.detach().contiguous().cpu()
        return own


class DetailHead(nn.Module):
    """Redraws what a transformer's patches give, in sight of their neighbors and of the input: each
    patch is drawn alone before, which shows as blocks.
    """

    def __init__(self, channels: int, latent_channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels + latent_channels, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, latent_channels, 3, padding=1)

    def forward(self, patches: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """What the patches give [B, E, h, w] and the network's input [B, C, h, w] -> [B, C, h,
        w].
        """
        return self.last(functional.silu(self.first(torch.cat([patches, x], dim=1))))


def build_denoiser(
    config: DenoiserConfig, channels: int, side: int, dimension: int, seed: int | None = None
) -> Denoiser:
    """Make a new denoiser for final latents [B, channels, side, side] and vectors [B, K,
    dimension].

    Its weights follow `seed`, or torch's global generator without one.
    """
    if seed is not None:
        torch.manual_seed(seed)
    build = _transformer if config.network == "transformer" else _unet
    network = build(config, channels, side, dimension)
    return Denoiser(network, dimension, config)


def load_denoiser(directory: Path, config: DenoiserConfig, dimension: int) -> Denoiser:
    """The denoiser in a weights folder, for context vectors of `dimension`.

    Raises WeightsError when the folder is not one that `Denoiser.save` wrote.
    """
    with large_import():
        import diffusers

    try:
        kind = json.loads((directory / "network" / "config.json").read_bytes())["_class_name"]
        if kind not in NETWORKS:
            raise ValueError(f"{kind} is none of {', '.join(NETWORKS)}")
        with large_import():
            network_class = getattr(diffusers, kind)
        network, loaded = network_class.from_pretrained(
            directory / "network", use_safetensors=True, output_loading_info=True
        )
        if wrong := sorted([*loaded["missing_keys"], *loaded["unexpected_keys"]]):
            raise ValueError(f"{len(wrong)} tensors are absent or too many, {wrong[0]} among them")
        denoiser = Denoiser(network, dimension, config)
        own = load_file(directory / "context.safetensors")
        if wrong := sorted(own.keys() ^ denoiser._own_state().keys()):
            what = "tensors of the context are absent or too many"
            raise ValueError(f"{len(wrong)} {what}, {wrong[0]} among them")
        denoiser.load_state_dict(own, strict=False)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        first_line = str(error).strip().split("\n")[0][:200]
        raise WeightsError(
            directory,
            f"not a weights folder of this project ({first_line})",
            "Give a run's name or its weights folder.",
        ) from error
    return denoiser.eval()


def _transformer(config: DenoiserConfig, channels: int, side: int, dimension: int) -> Any:
    """diffusers' PixArt transformer: [B, channels, side, side] -> the same shape."""
    with large_import():
        from diffusers import PixArtTransformer2DModel

    width = config.channels[0]
    return PixArtTransformer2DModel(
        num_attention_heads=width // config.head_channels,
        attention_head_dim=config.head_channels,
        cross_attention_dim=width,
        caption_channels=dimension,
        num_layers=config.depth,
        in_channels=channels,
        out_channels=config.detail_channels or channels,
        sample_size=side,
        patch_size=config.patch,
        norm_num_groups=1,
        use_additional_conditions=False,
    )


def _unet(config: DenoiserConfig, channels: int, side: int, dimension: int) -> Any:
    """diffusers' U-Net, as in 2022: [B, channels, side, side] -> the same shape."""
    with large_import():
        from diffusers import UNet2DConditionModel

    heads = [max(1, width // config.head_channels) for width in config.channels]
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=config.depth,
        block_out_channels=config.channels,
        **unet_block_types(len(config.channels), config.attention_levels),
        attention_head_dim=tuple(heads),  # diffusers' misnomer: heads a level, not their width
        cross_attention_dim=dimension,
        # Groups of norms must divide the channels of every level.
        norm_num_groups=gcd(max(1, min(32, config.channels[0] // 4)), *config.channels),
    )


def unet_block_types(levels: int, attending: Sequence[int]) -> dict[str, Any]:
    """Settings of diffusers' U-Net that say which of its levels attend to the context.

    Level 0 is the finest. The way up is the way down mirrored; the middle always attends.
    """
    down: list[str] = []
    up: list[str] = []
    for level in range(levels):
        attention = "CrossAttn" if level in attending else ""
        down.append(f"{attention}DownBlock2D")
        up.insert(0, f"{attention}UpBlock2D")  # the way up begins with the coarsest level
    return {
        "down_block_types": tuple(down),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": tuple(up),
    }
