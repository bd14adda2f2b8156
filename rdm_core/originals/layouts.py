"""The released networks: their layouts, and as diffusers builds them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, VQModel

from rdm_core.families.autoregressive import config as autoregressive
from rdm_core.families.autoregressive.decoder import CausalTransformer
from rdm_core.families.diffusion.denoiser import unet_block_types

StateDict = Mapping[str, torch.Tensor]
"""A checkpoint's tensors of any shapes, by name."""
Keys = Mapping[str, tuple[str, torch.Size]]
"""Name in the checkpoint -> (name in the diffusers network, shape in the checkpoint)."""


@dataclass(frozen=True)
class UnetLayout:
    """A released U-Net, and what it was trained between."""

    name: str
    channels: tuple[int, ...]
    """A level, the finest first."""
    heads: tuple[int, ...]
    """Attention heads a level, of 32 channels each; a level that does not attend has no use for its
    number.
    """
    attending: tuple[int, ...]
    """Levels with attention to the context; the middle always has it."""
    latent_channels: int
    latent_side: int
    context_dimension: int
    context_norm: Literal["raw", "unit"]
    """raw: the encoder's own length; unit: length 1."""
    beta_end: float
    """Of 1000 scaled-linear betas, the first being 0.0015."""
    autoencoder: str
    """Name of its AutoencoderLayout."""
    encoder: str
    """open_clip's name of the model whose vectors are the context."""
    encoder_weights: str = "openai"
    blocks: int = 2
    """Residual blocks a level; one more on the way up."""
    groups: int = 32


@dataclass(frozen=True)
class RarmLayout:
    """A released autoregressive transformer (RARM), and what it was trained between."""

    name: str
    width: int = 768
    depth: int = 18
    head_channels: int = 64
    codes: int = 16_384
    latent_side: int = 16
    context_dimension: int = 512
    autoencoder: str = "vqgan-f16"
    """Name of its AutoencoderLayout."""
    encoder: str = "ViT-B-32"
    """open_clip's name of the model whose vectors are the context, of the encoder's own length."""
    encoder_weights: str = "openai"


@dataclass(frozen=True)
class AutoencoderLayout:
    """A released autoencoder."""

    name: str
    channels: tuple[int, ...]
    """A level, the finest first."""
    latent_channels: int
    codes: int
    """Entries of the codebook; 0 where a Gaussian posterior is in its place."""
    attending: tuple[int, ...] = ()
    """Levels with self-attention; the middle always has it."""
    scaling_factor: float = 1.0
    """Final latents are those of the autoencoder times this."""
    side: int = 256
    blocks: int = 2
    """Residual blocks a level; one more on the way up."""
    groups: int = 32


_IMAGENET = UnetLayout(
    "imagenet-2022", channels=(192, 384, 576, 960), heads=(6, 12, 18, 30), attending=(1, 2, 3),
    latent_channels=3, latent_side=64, autoencoder="vq-f4", beta_end=0.0195,
    context_dimension=512, context_norm="raw", encoder="ViT-B-32",
)  # fmt: skip
_LAION = UnetLayout(
    "laion-768-2022", channels=(448, 896, 1344, 1792), heads=(14, 28, 42, 56), attending=(0, 1, 2),
    latent_channels=16, latent_side=48, autoencoder="kl-f16", beta_end=0.015,
    context_dimension=768, context_norm="unit", encoder="ViT-L-14",
)  # fmt: skip
_FFHQ = replace(_IMAGENET, name="ffhq-2022", channels=(224, 448, 672, 896), heads=(7, 14, 21, 28))
# the same network, trained with another database
_IN_DB = replace(_IMAGENET, name="imagenet-in-db-2022")
ModelLayout = UnetLayout | RarmLayout
LAYOUTS: dict[str, ModelLayout] = {
    layout.name: layout for layout in (_IMAGENET, _IN_DB, _FFHQ, _LAION, RarmLayout("rarm-2022"))
}

_VQ_F4 = AutoencoderLayout("vq-f4", (128, 256, 512), latent_channels=3, codes=8192)
_VQ_F16 = AutoencoderLayout(
    "vq-f16", (128, 128, 256, 256, 512), latent_channels=8, codes=16384, attending=(4,)
)
_VQGAN_F16 = replace(_VQ_F16, name="vqgan-f16", latent_channels=256)
_KL_F16 = replace(_VQ_F16, name="kl-f16", latent_channels=16, codes=0, scaling_factor=0.22765929)
AUTOENCODERS = {layout.name: layout for layout in (_VQ_F4, _VQ_F16, _VQGAN_F16, _KL_F16)}


def build_unet(layout: UnetLayout) -> UNet2DConditionModel:
    """Make a new network of a layout: float [B, latent_channels, side, side] -> the same shape.

    It also works on the meta device.
    """
    return UNet2DConditionModel(
        sample_size=layout.latent_side,
        in_channels=layout.latent_channels,
        out_channels=layout.latent_channels,
        block_out_channels=layout.channels,
        layers_per_block=layout.blocks,
        **unet_block_types(len(layout.channels), layout.attending),
        attention_head_dim=layout.heads,  # diffusers' misnomer: the number of heads a level
        cross_attention_dim=layout.context_dimension,
        norm_num_groups=layout.groups,
        norm_eps=1e-5,
        act_fn="silu",
        flip_sin_to_cos=True,
        freq_shift=0,
    )


def rarm_config(layout: RarmLayout) -> autoregressive.Config:
    """The configuration with which this project would train such a transformer."""
    transformer = autoregressive.TransformerConfig(
        width=layout.width,
        depth=layout.depth,
        head_channels=layout.head_channels,
        final_norm=False,
        context_norm="raw",
    )
    return autoregressive.Config(codes=layout.codes, transformer=transformer)


def build_rarm(layout: RarmLayout) -> CausalTransformer:
    """Make a new transformer of a layout: logits of codes int64 [B, side * side].

    It also works on the meta device.
    """
    config = rarm_config(layout)
    return CausalTransformer(
        layout.codes, layout.latent_side**2, layout.context_dimension, config.transformer
    )


def build_autoencoder(layout: AutoencoderLayout) -> AutoencoderKL | VQModel:
    """Make a new autoencoder of a layout, a VQModel where it has codes: float [B, 3, H, W] -> the
    same shape, in -1..1.

    It also works on the meta device.
    """
    down: list[str] = []
    up: list[str] = []
    for level in range(len(layout.channels)):
        attention = "Attn" if level in layout.attending else ""
        down.append(f"{attention}DownEncoderBlock2D")
        up.insert(0, f"{attention}UpDecoderBlock2D")  # the way up begins with the coarsest level
    settings: dict[str, Any] = {
        "block_out_channels": layout.channels,
        "down_block_types": tuple(down),
        "up_block_types": tuple(up),
        "layers_per_block": layout.blocks,
        "latent_channels": layout.latent_channels,
        "norm_num_groups": layout.groups,
        "scaling_factor": layout.scaling_factor,
        "sample_size": layout.side,
    }
    if not layout.codes:
        return AutoencoderKL(**settings)
    return VQModel(num_vq_embeddings=layout.codes, vq_embed_dim=layout.latent_channels, **settings)
