"""The vectors of a context as the tokens [B, K, D] that a network attends to.

The vectors form a set: no positions, no order. A whole set can be replaced by one learned null
vector; that trains the network for guidance. The 2022 model (RDM, arXiv 2204.11824) guided with a
zero vector that it had never seen. B samples, K slots, D dimensions.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from rdm_core.context import QUERY, TEXT, Context
from rdm_core.families.vectors import VectorsConfig

SCORE_FREQUENCIES = 8
"""Frequencies of the sines and cosines that a score is shown to the set encoder with."""


class VectorTokens(nn.Module):
    """Turns contexts into tokens. A network that attends to them is added by a class below this
    one.
    """

    means: torch.Tensor
    """With `remove_means`: the mean unit vectors of images and of texts, float32 [2, D]."""

    def __init__(self, dimension: int, config: VectorsConfig) -> None:
        """What a configuration asks for, all float32 [D] or [2, D].

        The means are zero until `set_means` fills them.
        """
        super().__init__()
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

    def seen(self, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
        """Context of [B, K, D] -> tokens float32 [B, M, D] and which of them are attended to, bool
        [B, M]; M is K, or with a query token one more. A sample whose slots are all absent gets
        the learned null.
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
        return tokens, mask | (empty[:, None] & first)

    def set_means(self, means: np.ndarray) -> None:
        """Fill the means float [2, D] that a network with `remove_means` subtracts: the mean of
        image vectors, then that of text vectors.
        """
        self.means.copy_(torch.from_numpy(np.array(means)))


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


def side_by_side(
    seen: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [B, M, D] and masks [B, M] of several kinds of contexts as one batch, the shorter ones
    filled up with tokens that are not seen.
    """
    longest = max(tokens.shape[1] for tokens, _ in seen)
    all_tokens, all_masks = [], []
    for tokens, mask in seen:
        missing = longest - tokens.shape[1]
        all_tokens.append(functional.pad(tokens, (0, 0, 0, missing)))
        all_masks.append(functional.pad(mask, (0, missing)))
    return torch.cat(all_tokens), torch.cat(all_masks)
