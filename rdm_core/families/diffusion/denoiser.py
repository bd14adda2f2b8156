"""The denoiser: a diffusers network that attends to a set of CLIP vectors, turned into tokens
[B, K, D].

The vectors form a set: no positions, no order. A whole set can be replaced by one learned null
vector; that trains the network for guidance. The 2022 model (RDM, arXiv 2204.11824) guided with a
zero vector that it had never seen. B samples, K slots, D dimensions; x is [B, C, h, w].
"""

import json
from collections.abc import Sequence
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from rdm_core.context import QUERY, TEXT, Context
from rdm_core.errors import WeightsError
from rdm_core.families.diffusion.config import DenoiserConfig
from rdm_core.importing import large_import

NETWORKS = ("PixArtTransformer2DModel", "UNet2DConditionModel")
"""Classes of diffusers. It is imported only when a network is built, as that takes two seconds."""
SCORE_FREQUENCIES = 8
"""Frequencies of the sines and cosines that a score is shown to the set encoder with."""


class Denoiser(nn.Module):
    """Predicts the process's target from noisy latents and a context."""

    means: torch.Tensor
    """With `remove_means`: the mean unit vectors of images and of texts, float32 [2, D]."""

    def __init__(self, network: Any, dimension: int, config: DenoiserConfig) -> None:
        """A network, and what its configuration asks for beside it, all float32 [D] or [2, D].

        The means are zero until `set_means` fills them.
        """
        super().__init__()
        self.network = network
        self.dimension = dimension
        self.config = config
        self.null = nn.Parameter(torch.zeros(dimension))
        if config.query_token:
            self.query_null = nn.Parameter(torch.zeros(dimension))
            self.query_kind = nn.Parameter(torch.zeros(dimension))
        if config.set_layers:
            self.set_encoder = SetEncoder(dimension, config.set_layers)
        if config.remove_means:
            self.register_buffer("means", torch.zeros(2, dimension))  # of images, of texts
        if config.detail_channels:
            self.detail = DetailHead(config.detail_channels, network.config.in_channels)

    def tokens(self, context: Context) -> torch.Tensor:
        """Context of [B, K, D] -> tokens float32 [B, K, D] on the scale that the network is trained
        with.

        An absent slot gives any token; it is masked later.
        """
        vectors, slots = context.vectors, context.slots[..., None]
        if self.config.remove_means:
            means = torch.where(slots == TEXT, self.means[1], self.means[0])
            centred = functional.normalize(vectors - means, dim=-1)
            # The zero null of 2022 stays zero.
            vectors = torch.where(vectors.any(dim=-1, keepdim=True), centred, vectors)
        raw = self.config.context_norm == "raw"
        tokens = vectors * (context.norms[..., None] if raw else self.dimension**0.5)
        if self.config.query_token:
            is_query = (slots == QUERY) | (slots == TEXT)
            tokens = torch.where(is_query, tokens + self.query_kind, tokens)
        if self.config.set_layers:
            tokens = self.set_encoder(tokens, context.scores, context.mask)
        return tokens

    def forward(self, x: torch.Tensor, time: torch.Tensor, context: Context) -> torch.Tensor:
        """Prediction float [B, C, h, w] for x [B, C, h, w] at time [B] in 0..1000 and a context of
        [B, K, D].

        This is epsilon_theta(z_t, t, {phi(y)}) of RDM (arXiv 2204.11824), or another target. A
        sample whose slots are all absent gets the learned null.
        """
        mask, tokens = context.mask, self.tokens(context)
        empty = ~mask.any(dim=1)
        if self.config.query_token:
            # One more slot: the learned null of the query, for samples that have neighbors alone.
            is_query = (context.slots == QUERY) | (context.slots == TEXT)
            without = ~is_query.any(dim=1) & ~empty
            tokens = torch.cat([tokens, self.query_null.expand(len(tokens), 1, -1)], dim=1)
            mask = torch.cat([mask, without[:, None]], dim=1)
        # An empty set becomes the learned null in its first slot.
        tokens = torch.where(empty[:, None, None], self.null, tokens)
        first = torch.arange(mask.shape[1], device=mask.device) == 0
        mask = mask | (empty[:, None] & first)
        output = self.network(
            x, timestep=time, encoder_hidden_states=tokens, encoder_attention_mask=mask
        ).sample
        return self.detail(output, x) if self.config.detail_channels else output

    def set_means(self, means: np.ndarray) -> None:
        """Fill the means float [2, D] that a network with `remove_means` subtracts: the mean of
        image vectors, then that of text vectors.
        """
        self.means.copy_(torch.from_numpy(np.array(means)))

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


class SetEncoder(nn.Module):
    """Lets the vectors of a set see each other and their scores, by a pre-norm transformer without
    positions.

    It starts as the identity: a gate that starts at zero multiplies what it adds.
    """

    def __init__(self, dimension: int, layers: int) -> None:
        super().__init__()
        heads = max(1, dimension // 64)
        layer = nn.TransformerEncoderLayer(
            dimension, heads, 2 * dimension, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.score = nn.Linear(2 * SCORE_FREQUENCIES, dimension)
        self.layers = nn.TransformerEncoder(
            layer, layers, nn.LayerNorm(dimension), enable_nested_tensor=False
        )
        self.gate = nn.Parameter(torch.zeros(dimension))

    def forward(
        self, tokens: torch.Tensor, scores: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Tokens float32 [B, K, D], scores float32 [B, K] in -1..1 and mask bool [B, K] -> tokens
        float32 [B, K, D].
        """
        # A score becomes sines and cosines of pi s, 2 pi s, 4 pi s, ...: small differences count.
        frequencies = torch.pi * 2.0 ** torch.arange(SCORE_FREQUENCIES, device=scores.device)
        phases = scores[..., None].clamp(-1, 1) * frequencies
        seen = tokens + self.score(torch.cat([phases.sin(), phases.cos()], dim=-1))
        # In an empty set nothing is hidden: attention over nothing would be NaN.
        hidden = ~mask & mask.any(dim=1, keepdim=True)
        return tokens + self.gate * self.layers(seen, src_key_padding_mask=hidden)


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
