"""The denoiser: a diffusers network whose cross-attention context is a set of CLIP vectors, turned
into tokens [B, K, D].

The vectors form a set: no positions, no order. A whole set can be replaced by one learned null
vector, which is what guidance is trained with; the 2022 model used a zero vector it had never seen.
"""

import json
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
"""Of diffusers, which is imported when one is built: two seconds that a refusal need not wait
for.
"""
SCORE_FREQUENCIES = 8


class Denoiser(nn.Module):
    """Predicts the process's target from noisy latents and a context."""

    means: torch.Tensor
    """With `remove_means`: the mean unit vectors of images and of texts [2, D]."""

    def __init__(self, network: Any, dimension: int, config: DenoiserConfig) -> None:
        """A network, and the context that its configuration asks for; the means are zero until
        `set_means` fills them.
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
        """Context -> tokens [B, K, D] on the scale the network is trained with; what an absent slot
        gives is masked later.
        """
        vectors, slots = context.vectors, context.slots[..., None]
        if self.config.remove_means:
            centred = functional.normalize(
                vectors - torch.where(slots == TEXT, self.means[1], self.means[0]), dim=-1
            )
            # the zero null of 2022 stays zero
            vectors = torch.where(vectors.any(dim=-1, keepdim=True), centred, vectors)
        raw = self.config.context_norm == "raw"
        tokens = vectors * (context.norms[..., None] if raw else self.dimension**0.5)
        if self.config.query_token:
            tokens = torch.where(
                (slots == QUERY) | (slots == TEXT), tokens + self.query_kind, tokens
            )
        if self.config.set_layers:
            tokens = self.set_encoder(tokens, context.scores, context.mask)
        return tokens

    def forward(self, x: torch.Tensor, time: torch.Tensor, context: Context) -> torch.Tensor:
        """Prediction [B, C, h, w] for x [B, C, h, w] at time [B] on the network's scale.

        A sample whose slots are all absent gets the learned null.
        """
        mask, tokens = context.mask, self.tokens(context)
        empty = ~mask.any(dim=1)
        if self.config.query_token:  # where no query is given its learned null stands for it
            without = ~((context.slots == QUERY) | (context.slots == TEXT)).any(dim=1) & ~empty
            tokens = torch.cat([tokens, self.query_null.expand(len(tokens), 1, -1)], dim=1)
            mask = torch.cat([mask, without[:, None]], dim=1)
        tokens = torch.where(empty[:, None, None], self.null, tokens)
        first = torch.arange(mask.shape[1], device=mask.device) == 0
        mask = mask | (empty[:, None] & first)
        output = self.network(
            x, timestep=time, encoder_hidden_states=tokens, encoder_attention_mask=mask
        ).sample
        return self.detail(output, x) if self.config.detail_channels else output

    def set_means(self, means: np.ndarray) -> None:
        """Fill the means [2, D] that a network with `remove_means` subtracts: of image vectors, of
        text vectors.
        """
        self.means.copy_(torch.from_numpy(np.array(means)))

    def save(self, directory: Path) -> None:
        """Write `network/` (a diffusers folder) and `context.safetensors` (all else that was
        learned).
        """
        self.network.save_pretrained(directory / "network", safe_serialization=True)
        save_file(self._own_state(), directory / "context.safetensors")

    def _own_state(self) -> dict[str, torch.Tensor]:
        own = {
            name: tensor
            for name, tensor in self.state_dict().items()
            if not name.startswith("network.")
        }
        return {name: tensor.detach().contiguous().cpu() for name, tensor in own.items()}


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
    """Lets the vectors of a set see each other and their scores: a pre-norm transformer without
    positions.

    It starts as the identity, because what it adds is multiplied by a gate that starts at zero.
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
        """Tokens [B, K, D], scores [B, K] and mask [B, K] -> tokens [B, K, D]."""
        frequencies = torch.pi * 2.0 ** torch.arange(SCORE_FREQUENCIES, device=scores.device)
        phases = scores[..., None].clamp(-1, 1) * frequencies
        seen = tokens + self.score(torch.cat([phases.sin(), phases.cos()], dim=-1))
        hidden = ~mask & mask.any(dim=1, keepdim=True)  # attention over nothing would be NaN
        return tokens + self.gate * self.layers(seen, src_key_padding_mask=hidden)


def build_denoiser(
    config: DenoiserConfig, channels: int, side: int, dimension: int, seed: int | None = None
) -> Denoiser:
    """A freshly initialised denoiser for final latents [*, channels, side, side] and context
    vectors of `dimension`.

    Initial weights follow `seed`, or torch's global generator without one.
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
        first = str(error).strip().split("\n")[0][:200]
        raise WeightsError(
            directory,
            f"not a weights folder of this project ({first})",
            "Give a run's name or its weights folder.",
        ) from error
    return denoiser.eval()


def _transformer(config: DenoiserConfig, channels: int, side: int, dimension: int) -> Any:
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
    with large_import():
        from diffusers import UNet2DConditionModel

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
        attention_head_dim=tuple(
            max(1, width // config.head_channels) for width in config.channels
        ),
        cross_attention_dim=dimension,
        norm_num_groups=gcd(max(1, min(32, config.channels[0] // 4)), *config.channels),
    )
