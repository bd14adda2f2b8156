"""Attention to the features of references, added beside a diffusers network's attention to text.

    references [B * K, C, h, w] --first half of the network, at time 0--> features of each layer
    target [B, C, h, w]         --the whole network--> each layer attends to the text, and, by what
                                is added here, to the features of a layer of its own resolution

The network itself stays what it is: its weights are those of a plain one. B samples, K slots, T
tokens of a layer, W its width.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import nn
from torch.nn import functional


@dataclass
class Features:
    """What a network's first half sees of references, by layer."""

    of_layer: dict[str, torch.Tensor] = field(default_factory=dict)
    """Layer -> [B, K * T, W]; empty where no sample has a reference."""
    mask: torch.Tensor | None = None
    """Which slots hold a reference, bool [B, K]; None while the features are being collected."""

    @property
    def collected(self) -> bool:
        """Whether they are complete, and attended to from now on."""
        return self.mask is not None

    def ready(self, mask: torch.Tensor) -> "Features":
        """The features [B * K, T, W] of each layer as [B, K * T, W], with the slots' mask."""
        count, slots = mask.shape
        by_sample = {}
        for layer, seen in self.of_layer.items():
            by_sample[layer] = seen.reshape(count, slots * seen.shape[1], seen.shape[2])
        return Features(by_sample, mask)

    def without(self) -> "Features":
        """With no reference in any slot [B, K]: nothing is left to attend to but the null."""
        assert self.mask is not None, "they are complete"
        return Features({}, torch.zeros_like(self.mask))


class ReferenceAttention(nn.Module):
    """What one layer adds: attention of the target's tokens to the features of references.

    It adds nothing at first. Without references all attention goes to a learned null token.
    """

    def __init__(self, width: int, heads: int, of_features: int) -> None:
        """For tokens of `width`, and features of a width of their own."""
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.norm_features = nn.LayerNorm(of_features)
        self.null = nn.Parameter(torch.zeros(of_features))
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(of_features, width, bias=False)
        self.to_v = nn.Linear(of_features, width, bias=False)
        self.to_out = nn.Linear(width, width)
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)

    def forward(
        self, tokens: torch.Tensor, features: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Tokens [B, T, W], features [B, K * T', W'], slots bool [B, K] -> what is added, [B, T,
        W].
        """
        null = self.null.expand(len(features), 1, -1)
        seen = self.norm_features(torch.cat([null, features], dim=1))
        query, keys, values = self.to_q(self.norm(tokens)), self.to_k(seen), self.to_v(seen)
        each = features.shape[1] // mask.shape[1]
        is_seen = functional.pad(mask.repeat_interleave(each, dim=1), (1, 0), value=True)
        attended = functional.scaled_dot_product_attention(
            self._heads(query), self._heads(keys), self._heads(values), is_seen[:, None, None, :]
        )
        out: torch.Tensor = self.to_out(attended.transpose(1, 2).flatten(2))
        return out

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, W] -> [B, heads, T, W / heads]."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class BesideText(AttnProcessor2_0):
    """How a layer of a diffusers network attends: as ever, and to references if some are given."""

    def __init__(
        self, layer: str, collects: bool, reads: str | None, added: ReferenceAttention | None
    ) -> None:
        """A layer by its name; whether its features are collected; the layer whose features it
        reads, by what is `added`.
        """
        super().__init__()
        self.layer, self.collects, self.reads = layer, collects, reads
        self._added = [added]  # in a list, so that it is no part of the diffusers network

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        *args: Any,
        references: Features | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Hidden states [B, T, W] -> [B, T, W]."""
        out: torch.Tensor = super().__call__(attn, hidden_states, *args, **kwargs)
        if references is None:
            return out
        if not references.collected:
            if self.collects:
                # With what its caption says of it, as what comes after this layer sees it.
                references.of_layer[self.layer] = hidden_states + out
            return out
        added = self._added[0]
        if added is None or self.reads is None:
            return out
        assert references.mask is not None, "they are complete"
        features = references.of_layer.get(self.reads)
        if features is None:  # no sample has a reference
            features = added.null.new_zeros(len(hidden_states), 0, len(added.null))
        return out + added(hidden_states, features, references.mask)


def attend_to_references(network: Any) -> nn.ModuleDict:
    """Let a diffusers transformer or U-Net attend to references: gives the layers that are added,
    by the names of the layers that they are beside, with _ for every dot.

    Self-attention stays as it is.
    """
    layers = {}
    for name, module in network.named_modules():
        if isinstance(module, Attention):
            layers[name] = module
    collected = [
        name for name in layers if name.endswith("attn2") and _in_first_half(network, name)
    ]
    added = nn.ModuleDict()
    for name, attention in layers.items():
        reads = _read_by(network, name, collected) if name.endswith("attn2") else None
        beside = None
        if reads is not None:
            width, heads = attention.query_dim, attention.heads
            beside = ReferenceAttention(width, heads, layers[reads].query_dim)
            added[name.replace(".", "_")] = beside
        # Its type names one class of diffusers, and any callable of this kind serves.
        processor = BesideText(name, name in collected, reads, beside)
        attention.set_processor(processor)  # type: ignore[arg-type]
    return added


def _in_first_half(network: Any, layer: str) -> bool:
    """Whether references go through a layer: the way down of a U-Net, the first half of a
    transformer's blocks.
    """
    kind, block = layer.split(".")[:2]
    if kind == "transformer_blocks":
        return int(block) < half_of(network)
    return kind == "down_blocks"


def _read_by(network: Any, layer: str, collected: list[str]) -> str | None:
    """The layer whose features a layer reads: itself if it collects, else the last collected one of
    its resolution; None where there is none.
    """
    if layer in collected:
        return layer
    if layer.startswith("transformer_blocks"):
        return collected[-1]
    levels = len(network.down_blocks)
    level = levels - 1  # of the middle
    if layer.startswith("up_blocks"):
        level = levels - 1 - int(layer.split(".")[1])
    alike = [name for name in collected if int(name.split(".")[1]) == level]
    return alike[-1] if alike else None


def half_of(network: Any) -> int:
    """How many of a transformer's blocks references go through: half of them, at least one."""
    return max(1, len(network.transformer_blocks) // 2)


def collect(
    network: Any, references: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor
) -> Features:
    """Features of references [N, C, h, w], with the tokens [N, M, D] of their captions, of which
    `mask` bool [N, M] are seen: the network's first half at time 0.
    """
    features = Features()
    time = torch.zeros(len(references), device=references.device)
    # As diffusers itself turns a mask into what is added to attention's logits.
    bias = ((1 - mask.to(references.dtype)) * -10_000.0)[:, None]
    beside = {"references": features}
    if hasattr(network, "transformer_blocks"):
        x = network.pos_embed(references)
        nothing = {"resolution": None, "aspect_ratio": None}
        embedded, _ = network.adaln_single(time, nothing, batch_size=len(x), hidden_dtype=x.dtype)
        captions = network.caption_projection(tokens)
        for block in network.transformer_blocks[: half_of(network)]:
            x = block(
                x, encoder_hidden_states=captions, encoder_attention_mask=bias,
                timestep=embedded, cross_attention_kwargs=beside,
            )  # fmt: skip
        return features
    x = network.conv_in(references)
    embedded = network.time_embedding(network.time_proj(time).to(x.dtype))
    for block in network.down_blocks:
        if getattr(block, "has_cross_attention", False):
            x, _ = block(
                x, temb=embedded, encoder_hidden_states=tokens, encoder_attention_mask=bias,
                cross_attention_kwargs=beside,
            )  # fmt: skip
        else:
            x, _ = block(x, temb=embedded)
    return features
