"""A transformer over all codes of an image at once, that knows the time and attends to a set of
vectors in every block.

Its blocks, norms and positions are diffusers' own. B samples, N positions, M tokens of a context, D
dimensions, K codes; the mask is K.
"""

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import ImagePositionalEmbeddings
from diffusers.models.normalization import AdaLayerNorm
from torch import nn
from torch.utils.checkpoint import checkpoint

from rdm_core.families.discrete.config import TransformerConfig
from rdm_core.families.tokens import VectorTokens


class TimeNorm(AdaLayerNorm):
    """A LayerNorm whose scale and shift follow from each sample's own time; diffusers' takes one
    time for all.
    """

    def forward(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[B, N, width] and times int64 [B], from 0 on -> [B, N, width]."""
        scale, shift = self.linear(self.silu(self.emb(timestep)))[:, None].chunk(2, dim=2)
        return self.norm(x) * (1 + scale) + shift


class CodesTransformer(VectorTokens):
    """Logits of the codes of an image from what is left of them, the time and a context
    (VQ-Diffusion, arXiv 2111.14822, section 4.2).
    """

    config: TransformerConfig

    def __init__(
        self, codes: int, side: int, times: int, dimension: int, config: TransformerConfig
    ) -> None:
        """For side * side codes out of `codes`, times from 1 to `times`, and vectors [B, K,
        dimension].
        """
        super().__init__(dimension, config)
        width = config.width
        self.codes = codes
        self.positions = side**2
        self.embedding = ImagePositionalEmbeddings(codes + 1, side, side, width)
        for weight in self.embedding.parameters():
            nn.init.normal_(weight, std=0.02)
        self.blocks = nn.ModuleList()
        for _ in range(config.depth):
            block = BasicTransformerBlock(
                width,
                width // config.head_channels,
                config.head_channels,
                cross_attention_dim=dimension,
                activation_fn="geglu-approximate",  # diffusers' name of x sigmoid(1.702 x)
                num_embeds_ada_norm=times,
                attention_bias=False,  # the norms' shifts before them do the same
                norm_type="ada_norm",
            )
            block.norm1, block.norm2 = TimeNorm(width, times), TimeNorm(width, times)
            self.blocks.append(block)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, codes)
        self.keeps_activations = True
        """False: they are computed again on the way back."""

    def forward(
        self, noisy: torch.Tensor, times: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Logits float [B, N, K] of the image's codes from x_t int64 [B, N] at times int64 [B], and
        the tokens [B, M, D] of a context, of which `mask` bool [B, M] are seen.
        """
        x = self.embedding(noisy)
        seen, time = mask[:, None], times - 1
        for block in self.blocks:
            if self.keeps_activations or not torch.is_grad_enabled():
                x = block(x, None, tokens, seen, time)
            else:
                x = checkpoint(block, x, None, tokens, seen, time, use_reentrant=False)
        logits: torch.Tensor = self.head(self.norm(x))
        return logits
