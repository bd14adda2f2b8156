"""The denoiser: a diffusers network that attends to a set of CLIP vectors, turned into tokens
[B, K, D].

B samples, K slots, D dimensions; x is [B, C, h, w].
"""

import json
from collections.abc import Callable, Sequence
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

    def __init__(
        self, network: Any, dimension: int, config: DenoiserConfig, picture: bool = False
    ) -> None:
        """A network, with input channels for a picture or without, and what its configuration asks
        for beside it.
        """
        super().__init__(dimension, config)
        self.network = network
        self.picture_channels = network.config.in_channels // 2 + 1 if picture else 0
        if config.detail_channels:
            channels = network.config.in_channels - self.picture_channels
            self.detail = DetailHead(config.detail_channels, channels)

    def forward(
        self,
        x: torch.Tensor,
        time: torch.Tensor,
        context: Context,
        picture: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Prediction float [B, C, h, w] for x [B, C, h, w] at time [B] in 0..1000, a context of
        [B, K, D] and a picture [B, C + 1, h, w], as `channels_of` gives it, or none.

        This is epsilon_theta(z_t, t, {phi(y)}) of RDM (arXiv 2204.11824), or another target. A
        sample whose slots are all absent gets the learned null.
        """
        tokens, mask = self.seen(context)
        given = x
        if self.picture_channels:
            if picture is None:
                picture = x.new_zeros(len(x), self.picture_channels, *x.shape[2:])
            given = torch.cat([x, picture], dim=1)
        output = self.network(
            given, timestep=time, encoder_hidden_states=tokens, encoder_attention_mask=mask
        ).sample
        return self.detail(output, x) if self.config.detail_channels else output

    @property
    def entry(self) -> nn.Conv2d:
        """The layer that the latents, and a picture, enter by."""
        transformer = self.config.network == "transformer"
        layer: nn.Conv2d = self.network.pos_embed.proj if transformer else self.network.conv_in
        return layer

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


def channels_of(final: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """A picture's final latents float32 [B, C, h, w] as a denoiser is given them: with one more
    channel that is 1, and all of it 0 where there is none, bool [B]: [B, C + 1, h, w].
    """
    ones = torch.ones_like(final[:, :1])
    return torch.cat([final, ones], dim=1) * there.to(final.device)[:, None, None, None]


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
    config: DenoiserConfig, channels: int, side: int, dimension: int, seed: int | None = None,
    picture: bool = False, made: Callable[[Any], Denoiser] | None = None,
) -> Denoiser:  # fmt: skip
    """Make a new denoiser for final latents [B, channels, side, side] and vectors [B, K,
    dimension]; with a `picture`, one that is given another latent too, whose weights are zero.

    Its weights follow `seed`, or torch's global generator without one. `made` turns the network
    into a denoiser of another kind.
    """
    if seed is not None:
        torch.manual_seed(seed)
    build = _transformer if config.network == "transformer" else _unet
    network = build(config, channels, side, dimension, channels + 1 if picture else 0)
    denoiser = made(network) if made else Denoiser(network, dimension, config, picture)
    if picture:
        nn.init.zeros_(denoiser.entry.weight[:, channels:])
    return denoiser


def load_denoiser(
    directory: Path,
    config: DenoiserConfig,
    dimension: int,
    picture: bool = False,
    made: Callable[[Any], Denoiser] | None = None,
) -> Denoiser:
    """The denoiser in a weights folder, for context vectors of `dimension`; `made` as in
    `build_denoiser`.

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
        denoiser = made(network) if made else Denoiser(network, dimension, config, picture)
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


def _transformer(
    config: DenoiserConfig, channels: int, side: int, dimension: int, beside: int
) -> Any:
    """diffusers' PixArt transformer: [B, channels + beside, side, side] -> [B, channels, side,
    side].
    """
    with large_import():
        from diffusers import PixArtTransformer2DModel

    width = config.channels[0]
    return PixArtTransformer2DModel(
        num_attention_heads=width // config.head_channels,
        attention_head_dim=config.head_channels,
        cross_attention_dim=width,
        caption_channels=dimension,
        num_layers=config.depth,
        in_channels=channels + beside,
        out_channels=config.detail_channels or channels,
        sample_size=side,
        patch_size=config.patch,
        norm_num_groups=1,
        use_additional_conditions=False,
    )


def _unet(config: DenoiserConfig, channels: int, side: int, dimension: int, beside: int) -> Any:
    """diffusers' U-Net, as in 2022: [B, channels + beside, side, side] -> [B, channels, side,
    side].
    """
    with large_import():
        from diffusers import UNet2DConditionModel

    heads = [max(1, width // config.head_channels) for width in config.channels]
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=channels + beside,
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
