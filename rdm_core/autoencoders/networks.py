"""The networks: diffusers' autoencoders in small, and a discriminator of patches."""

from typing import Any

import torch
from torch import nn

from rdm_core.autoencoders.config import AutoencoderConfig

GROUPS = 8
"""Of the group norms: the widths are multiples of it."""
NARROW = -6.0
"""Log-variance of the posterior at the start."""


def build_autoencoder(config: AutoencoderConfig) -> Any:
    """A new AutoencoderKL or VQModel; its weights are functions of the seed alone."""
    from diffusers import AutoencoderKL, VQModel  # two seconds

    levels = len(config.widths)
    shared: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": config.widths,
        "layers_per_block": config.layers,
        "latent_channels": config.latent_channels,
        "norm_num_groups": GROUPS,
        "scaling_factor": 1.0,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.kind == "kl":
            model: Any = AutoencoderKL(**shared)
            _ease(model)
            # Narrow at first: noise as wide as the latents would drown what they learn to say.
            torch.nn.init.constant_(model.quant_conv.bias[config.latent_channels :], NARROW)
            return model
        codes = {"num_vq_embeddings": config.codes, "vq_embed_dim": config.latent_channels}
        model = VQModel(**shared, **codes)
        _ease(model)
        return model


@torch.no_grad()
def _ease(model: nn.Module) -> None:
    """Let pictures pass the new network as they would pass a linear one of few layers.

    Residual branches begin at zero (Goyal et al., arXiv 1706.02677, section 5.1), and the layers
    between them keep the variance of what they are given.  As torch begins them, each shrinks it
    to a third, and training spends its first thousands of steps on seeing anything at all.
    """
    for name, module in model.named_modules():
        last_of_branch = name.endswith((".conv2", ".to_out.0"))
        if last_of_branch:
            nn.init.zeros_(module.weight)  # type: ignore[arg-type]  # a convolution or linear layer
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        elif isinstance(module, nn.Conv2d) and not name.endswith(".conv1"):
            module.weight.mul_(3**0.5)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]


class PatchDiscriminator(nn.Module):
    """Tells real patches from reconstructed ones (PatchGAN, arXiv 1611.07004, in small).

    Two halvings, no norms: each score sees 20x20 pixels, the scale of strokes and hatching.
    """

    def __init__(self, seed: int, width: int = 24) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Conv2d(3, width, 3, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(2 * width, 3 * width, 4, stride=2, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(3 * width, 1, 3, padding=1),
            )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images float32 [B, 3, H, W] in -1..1 -> scores [B, 1, H / 4, W / 4]."""
        scores: torch.Tensor = self.layers(images)
        return scores
