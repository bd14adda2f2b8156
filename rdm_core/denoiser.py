"""The denoiser: a diffusers network whose cross-attention context is the neighbors' embeddings [B, K, D].

The neighbors form a set: no positions, no order. A whole context can be replaced by one learned null vector, which is
what guidance is trained with; the 2022 model used a zero vector it had never seen.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import PixArtTransformer2DModel, UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rdm_core.config import DenoiserConfig
from rdm_core.errors import WeightsError

NETWORKS = {"PixArtTransformer2DModel": PixArtTransformer2DModel, "UNet2DConditionModel": UNet2DConditionModel}


class Denoiser(nn.Module):
    """Predicts the process's target from noisy latents and neighbors."""

    def __init__(self, network: nn.Module, dimension: int, context_norm: str) -> None:
        super().__init__()
        self.network = network
        self.dimension = dimension
        self.context_norm = context_norm
        self.null = nn.Parameter(torch.zeros(dimension))

    def context(self, vectors: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
        """Unit vectors [B, K, D] and their raw norms [B, K] -> context [B, K, D] on the scale the network is trained with."""
        if self.context_norm == "raw":
            return vectors * norms[..., None]
        return vectors * self.dimension**0.5

    def forward(
        self, x: torch.Tensor, time: torch.Tensor, context: torch.Tensor, mask: torch.Tensor, dropped: torch.Tensor
    ) -> torch.Tensor:
        """Prediction [B, C, h, w].

        x [B, C, h, w]; time [B] on the network's scale; context [B, K, D]; mask [B, K] bool, True where a neighbor is;
        dropped [B] bool, True where the whole context is replaced by the learned null.
        """
        context = torch.where(dropped[:, None, None], self.null.to(context.dtype), context)
        first = torch.zeros_like(mask)
        first[:, 0] = True
        mask = torch.where(dropped[:, None], first, mask)
        prediction = self.network(x, timestep=time, encoder_hidden_states=context, encoder_attention_mask=mask)
        return prediction.sample

    def save(self, directory: Path, facts: Mapping[str, Any]) -> None:
        """Write `network/` (a diffusers folder), `context.safetensors` (the null) and `context.json` (what `facts` say)."""
        self.network.save_pretrained(directory / "network", safe_serialization=True)
        save_file({"null": self.null.detach().contiguous().cpu()}, directory / "context.safetensors")
        settings = {"dimension": self.dimension, "context_norm": self.context_norm, **facts}
        (directory / "context.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def build_denoiser(config: DenoiserConfig, channels: int, side: int, dimension: int, seed: int | None = None) -> Denoiser:
    """A freshly initialised denoiser for final latents [*, channels, side, side] and context vectors of `dimension`.

    Initial weights follow `seed`, or torch's global generator without one.
    """
    if seed is not None:
        torch.manual_seed(seed)
    build = _transformer if config.network == "transformer" else _unet
    return Denoiser(build(config, channels, side, dimension), dimension, config.context_norm)


def load_denoiser(directory: Path) -> tuple[Denoiser, dict[str, Any]]:
    """The denoiser in a weights folder and the facts saved with it.

    Raises WeightsError when the folder is not one that `Denoiser.save` wrote.
    """
    try:
        facts = json.loads((directory / "context.json").read_text())
        kind = json.loads((directory / "network" / "config.json").read_text())["_class_name"]
        network, loaded = NETWORKS[kind].from_pretrained(directory / "network", use_safetensors=True, output_loading_info=True)
        if wrong := sorted([*loaded["missing_keys"], *loaded["unexpected_keys"]]):
            raise ValueError(f"{len(wrong)} tensors are absent or too many, {wrong[0]} among them")
        denoiser = Denoiser(network, facts["dimension"], facts["context_norm"])
        denoiser.load_state_dict({"null": load_file(directory / "context.safetensors")["null"]}, strict=False)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().split("\n")[0][:200]
        raise WeightsError(
            directory, f"not a weights folder of this project ({first})", "Give a run's name or its weights folder."
        ) from error
    return denoiser.eval(), facts


def parameter_count(module: nn.Module) -> int:
    """Trainable numbers."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _transformer(config: DenoiserConfig, channels: int, side: int, dimension: int) -> nn.Module:
    width = config.channels[0]
    return PixArtTransformer2DModel(
        num_attention_heads=width // config.head_channels,
        attention_head_dim=config.head_channels,
        cross_attention_dim=width,
        caption_channels=dimension,
        num_layers=config.depth,
        in_channels=channels,
        out_channels=channels,
        sample_size=side,
        patch_size=config.patch,
        norm_num_groups=1,
        use_additional_conditions=False,
    )


def _unet(config: DenoiserConfig, channels: int, side: int, dimension: int) -> nn.Module:
    last = len(config.channels) - 1
    attends = [level in config.attention_levels for level in range(last + 1)]
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=config.depth,
        block_out_channels=config.channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        # diffusers' misnomer: the number of heads a level, not their width
        attention_head_dim=tuple(max(1, width // config.head_channels) for width in config.channels),
        cross_attention_dim=dimension,
        norm_num_groups=min(32, config.channels[0] // 4),
    )
