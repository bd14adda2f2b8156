"""The network: a causal transformer over the words and codes of documents.

Each token is shown with its own place in its document and with the place of the token that is to be
predicted from it, so that a document can be read in any order. A place says whether it holds a word
or a code: logits are those of words or of codes alone. B samples, n tokens.
"""

import torch
from torch import nn
from torch.nn import functional

from rdm_core.families.autoregressive.decoder import Cache, causal_blocks, through
from rdm_core.families.multimodal.config import TransformerConfig
from rdm_core.families.multimodal.layout import Layout, Sequence


class DocumentTransformer(nn.Module):
    """p(next word or code | everything before it) (CM3, arXiv 2201.07520)."""

    def __init__(self, layout: Layout, config: TransformerConfig) -> None:
        """For documents of a layout."""
        super().__init__()
        self.layout = layout
        self.config = config
        width = config.width
        self.embedding = nn.Embedding(layout.all_tokens, width)
        self.own_place = nn.Embedding(layout.all_places, width)
        self.next_place = nn.Embedding(layout.all_places, width)
        self.mark = nn.Embedding(2, width)
        for table in (self.embedding, self.own_place, self.next_place, self.mark):
            nn.init.normal_(table.weight, std=0.02)
        self.blocks = causal_blocks(width, config.depth, config.head_channels)
        self.norm = nn.LayerNorm(width)
        self.code_head = nn.Linear(width, layout.codes)
        self.word_head = nn.Linear(width, layout.words + 1)  # and <pad>
        self.keeps_activations = True

    def forward(self, sequence: Sequence) -> torch.Tensor:
        """-log p of each token but the first, in nats, float32 [B, n - 1], of sequences [B, n] of
        whole documents; of tokens that are neither words nor codes it is 0.
        """
        layout = self.layout
        count = sequence.tokens.shape[1] // (layout.document + 1)
        hidden = self.hidden(sequence[:-1], sequence.places[:, 1:])
        tokens, places = sequence.tokens[:, 1:], sequence.places[:, 1:]
        losses = hidden.new_zeros(tokens.shape, dtype=torch.float32)
        of_codes = (places > layout.length) & (places <= layout.document)
        of_words = (places > 0) & (places <= layout.length)
        kinds = (
            (of_codes, count * layout.positions, self.code_logits, tokens),
            (of_words, count * layout.length, self.word_logits, tokens - layout.codes),
        )
        for chosen, size, logits_of, targets in kinds:
            # As many in every sample; they are computed alone, for the memory that logits take.
            at = (~chosen).long().argsort(dim=1, stable=True)[:, :size]
            logits = logits_of(hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[2])))
            # Where no caption is, nothing is counted and any target serves.
            target = targets.gather(1, at).clamp(0, logits.shape[2] - 1)
            each = functional.cross_entropy(logits.transpose(1, 2), target, reduction="none")
            losses = losses.scatter(1, at, each)
        return losses

    def hidden(
        self, sequence: Sequence, following: torch.Tensor, cache: Cache | None = None
    ) -> torch.Tensor:
        """What is known at each token of sequences [B, n] of the one after it, whose place is
        `following` int64 [B, n]: [B, n, width]; with a cache, after the tokens that it keeps.
        """
        x = self.embedding(sequence.tokens) + self.mark(sequence.marks)
        x = x + self.own_place(sequence.places) + self.next_place(following)
        x = through(self.blocks, x, cache=cache, keeps_activations=self.keeps_activations)
        out: torch.Tensor = self.norm(x)
        return out

    def code_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits float32 [*, codes] from [*, width]."""
        out: torch.Tensor = self.code_head(hidden).float()
        return out

    def word_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of words and of <pad>, float32 [*, words + 1], from [*, width]."""
        out: torch.Tensor = self.word_head(hidden).float()
        return out
