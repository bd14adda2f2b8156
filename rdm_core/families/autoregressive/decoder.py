"""Causal transformers: their blocks, what is kept of earlier positions while one draws, and the one
over codes that attends to a set of vectors in every block.

The blocks are diffusers' own. While an image is drawn, what a block has computed of earlier
positions is kept: the work then grows linearly with the positions. B samples, T positions, M
tokens of a context, D dimensions, V codes.
"""

from typing import Self

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from rdm_core.families.autoregressive.config import TransformerConfig
from rdm_core.families.tokens import VectorTokens

SPECIAL = 2
"""Tokens beyond the codes: a mask, which the release of 2022 had and never used, and the start."""


class Cache:
    """Keys and values [B, heads, T, d] of every attention, of the positions drawn so far."""

    def __init__(self, positions: int) -> None:
        self.positions = positions
        """The most that are kept."""
        self._of: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._drawn: dict[int, int] = {}

    def appended(
        self, attention: Attention, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep keys and values [B, heads, t, d] of the next t positions; gives those of all."""
        at = self._drawn.get(id(attention), 0)
        end = at + keys.shape[2]
        if at == 0:
            shape = (*keys.shape[:2], self.positions, keys.shape[3])
            self._of[id(attention)] = (keys.new_empty(shape), values.new_empty(shape))
        kept_keys, kept_values = self._of[id(attention)]
        kept_keys[:, :, at:end], kept_values[:, :, at:end] = keys, values
        self._drawn[id(attention)] = end
        return kept_keys[:, :, :end], kept_values[:, :, :end]

    def of_context(self, attention: Attention) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Keys and values [B, heads, M, d] of the context, once they were kept."""
        return self._of.get(id(attention))

    def keep_context(self, attention: Attention, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Keep the context's keys and values [B, heads, M, d]: they are the same at every step."""
        self._of[id(attention)] = (keys, values)

    def repeated(self, times: int) -> Self:
        """A copy in which each sample stands `times` times, one after another: [B * times, ...].
        What several continuations begin with is computed once.
        """
        copy = type(self)(self.positions)
        copy._drawn = dict(self._drawn)
        for attention, (keys, values) in self._of.items():
            each = [tensor.repeat_interleave(times, dim=0) for tensor in (keys, values)]
            copy._of[attention] = (each[0], each[1])
        return copy


class CausalAttention:
    """How diffusers' attention is computed here: over own and earlier positions, or over the
    context; with a cache, over what it keeps too.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        cache: Cache | None = None,
    ) -> torch.Tensor:
        """Attention [B, t, width] of hidden states [B, t, width]; `attention_mask` is bool [B, 1,
        1, M], True for tokens of the context that are seen.
        """
        to_itself = encoder_hidden_states is None
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = _heads(attn, attn.to_q(hidden_states))
        kept = None if cache is None or to_itself else cache.of_context(attn)
        if kept is None:
            keys, values = _heads(attn, attn.to_k(source)), _heads(attn, attn.to_v(source))
        else:
            keys, values = kept
        if cache is not None and to_itself:
            keys, values = cache.appended(attn, keys, values)
        elif cache is not None and kept is None:
            cache.keep_context(attn, keys, values)
        # A single new position sees everything that is kept; several see what is before each.
        several = to_itself and query.shape[2] > 1
        before = keys.shape[2] - query.shape[2]
        if several and before:
            shape = (query.shape[2], keys.shape[2])
            attention_mask = torch.ones(shape, dtype=torch.bool, device=keys.device).tril(before)
        seen = functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=attention_mask, is_causal=several and not before
        )
        out: torch.Tensor = attn.to_out[0](seen.transpose(1, 2).flatten(2))
        return out


def causal_blocks(
    width: int, depth: int, head_channels: int, dimension: int | None = None
) -> nn.ModuleList:
    """Blocks over [B, T, width] whose positions see themselves and those before; with a dimension
    they attend to a context's tokens [B, M, dimension] too.
    """
    blocks = nn.ModuleList()
    for _ in range(depth):
        block = BasicTransformerBlock(
            width,
            width // head_channels,
            head_channels,
            cross_attention_dim=dimension,
            activation_fn="geglu",
            attention_bias=False,
        )
        for attention in (block.attn1, block.attn2):
            if attention is not None:
                # Its type names one class of diffusers, and any callable of this kind serves.
                attention.set_processor(CausalAttention())  # type: ignore[arg-type]
        blocks.append(block)
    return blocks


def through(
    blocks: nn.ModuleList,
    x: torch.Tensor,
    tokens: torch.Tensor | None = None,
    seen: torch.Tensor | None = None,
    cache: Cache | None = None,
    keeps_activations: bool = True,
) -> torch.Tensor:
    """x [B, t, width] after all blocks; with a cache, after the positions that it keeps. `seen`
    bool [B, 1, 1, M] says which of the context's tokens [B, M, D] are attended to.
    """
    beside = {"cache": cache} if cache is not None else None
    for block in blocks:
        if keeps_activations or not torch.is_grad_enabled():
            x = block(x, None, tokens, seen, cross_attention_kwargs=beside)
        else:
            x = checkpoint(block, x, None, tokens, seen, use_reentrant=False)
    return x


class CausalTransformer(VectorTokens):
    """Logits of each code from those before it and a context (RARM, arXiv 2204.11824, section
    3.2).
    """

    config: TransformerConfig

    def __init__(
        self, codes: int, positions: int, dimension: int, config: TransformerConfig
    ) -> None:
        """For sequences of `positions` codes out of `codes`, and vectors [B, K, dimension]."""
        super().__init__(dimension, config)
        width = config.width
        self.codes = codes
        self.embedding = nn.Embedding(codes + SPECIAL, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.positions = nn.Parameter(torch.randn(width, positions) * 0.02)
        self.blocks = causal_blocks(width, config.depth, config.head_channels, dimension)
        self.norm = nn.LayerNorm(width) if config.final_norm else nn.Identity()
        self.head = nn.Linear(width, codes)
        self.keeps_activations = True

    def forward(
        self, codes: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Logits float [B, T, V] of every code int64 [B, T], from those before it and the tokens
        [B, M, D] of a context, of which `mask` bool [B, M] are seen.
        """
        return self.logits(self.after_start(codes), tokens, mask)

    def after_start(self, codes: torch.Tensor) -> torch.Tensor:
        """What stands before each code int64 [B, T]: the start, then the codes but the last."""
        start = codes.new_full((len(codes), 1), self.codes + SPECIAL - 1)
        return torch.cat([start, codes[:, :-1]], dim=1)

    def logits(
        self,
        before: torch.Tensor,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        first: int = 0,
        cache: Cache | None = None,
    ) -> torch.Tensor:
        """Logits float [B, t, V] of the codes at positions `first` to first + t - 1, where `before`
        int64 [B, t] stands before each; with a cache, after the positions that it keeps.
        """
        x = self.embedding(before) + self.positions[:, first : first + before.shape[1]].T
        seen = mask[:, None, None, :]
        x = through(self.blocks, x, tokens, seen, cache, self.keeps_activations)
        out: torch.Tensor = self.head(self.norm(x))
        return out


def _heads(attention: Attention, x: torch.Tensor) -> torch.Tensor:
    """[B, T, width] -> [B, heads, T, d]."""
    return x.unflatten(2, (attention.heads, -1)).transpose(1, 2)
