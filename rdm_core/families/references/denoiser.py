"""The denoiser: the network of the family diffusion, given a text's token states and references.

B samples, K slots, L tokens of a text, D dimensions; latents are [C, h, w].
"""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from rdm_core.clip import Encoder
from rdm_core.context import NEIGHBOR, NO_TOKEN, Context
from rdm_core.errors import RequestError
from rdm_core.families.diffusion.denoiser import Denoiser
from rdm_core.families.references.attention import Features, attend_to_references, collect
from rdm_core.families.references.config import Config


class ReferenceDenoiser(Denoiser):
    """Predicts the process's target from noisy latents, a text, and neighbors (Re-Imagen, arXiv
    2209.14491, section 3).
    """

    def __init__(self, network: Any, dimension: int, config: Config) -> None:
        super().__init__(network, dimension, config.denoiser)
        self.by_latents = config.neighbors == "latents"
        self.text_width = config.text_width
        self.text = nn.Sequential(
            nn.LayerNorm(config.text_width), nn.Linear(config.text_width, dimension)
        )
        if self.by_latents:
            self.references = attend_to_references(network)
        self._encoder: list[Encoder] = []  # in a list, so that it is no part of the weights

    def read_texts_with(self, encoder: Encoder) -> None:
        """Take the encoder whose text tower reads texts. Raises RequestError for a tower of another
        width.
        """
        if encoder.text_width != self.text_width:
            what = f"is {self.text_width}, and the states of {encoder.name}'s texts are"
            cure = f"Use --set model.text_width={encoder.text_width}."
            raise RequestError("model.text_width", f"{what} {encoder.text_width} wide", cure)
        self._encoder = [encoder]

    def forward(
        self,
        x: torch.Tensor,
        time: torch.Tensor,
        context: Context,
        picture: torch.Tensor | None = None,
        features: Features | None = None,
        text: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Prediction float [B, C, h, w] for x [B, C, h, w] at time [B] in 0..1000 and a context of
        [B, K, D], whose references are final latents. `features` and `text` are what `features_of`
        and `seen` give, if they were asked already. A sample without text gets the learned null.
        """
        tokens, mask = text or self.seen(context)
        beside = None
        if self.by_latents:
            if features is None:
                features = self.features_of(context)
            beside = {"references": features}
        output = self.network(
            x, timestep=time, encoder_hidden_states=tokens, encoder_attention_mask=mask,
            cross_attention_kwargs=beside,
        ).sample  # fmt: skip
        return self.detail(output, x) if self.config.detail_channels else output

    def features_of(self, context: Context) -> Features:
        """What the network sees of the references of a context, final latents [B, K, C, h, w]: the
        same at every step of a drawing.
        """
        there = context.slots == NEIGHBOR
        if context.references is None or context.neighbor_texts is None:
            if there.any():
                what = "neighbors have no latents or no captions, and this model reads both"
                raise RequestError("database", what, "Name one whose images are at hand.")
            return Features(mask=there)
        tokens, mask = self._or_null(*self._states(context.neighbor_texts.flatten(0, 1)))
        features = collect(self.network, context.references.flatten(0, 1), tokens, mask)
        return features.ready(there)

    def seen(self, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
        """Context of [B, K, D] -> tokens float32 [B, M, D] and which of them are attended to, bool
        [B, M]: those of the text, and where neighbors are vectors, those too. A sample with
        neither gets the learned null.
        """
        assert context.text is not None, "this model reads texts"
        tokens, mask = self._states(context.text)
        if not self.by_latents:
            is_neighbor = context.slots == NEIGHBOR
            tokens = torch.cat([tokens, self.tokens(context)], dim=1)
            mask = torch.cat([mask, is_neighbor], dim=1)
        return self._or_null(tokens, mask)

    def _states(self, texts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Texts int64 [N, L], or their states float [N, L, W] where these are known already ->
        tokens float32 [N, L, D], and which of them there are, bool [N, L].
        """
        if texts.is_floating_point():
            return self.text(texts), torch.ones_like(texts[..., 0], dtype=torch.bool)
        if not self._encoder:
            what = "was not given the encoder whose text tower it reads texts with"
            raise RequestError("model", what, "Call set_encoder.")
        if bool((texts == NO_TOKEN).all()):
            # They go through the layer all the same: processes of a training wait for gradients.
            empty = torch.zeros(*texts.shape, self.text_width, device=self.null.device)
            return self.text(empty), empty.new_zeros(texts.shape, dtype=torch.bool)
        # Equal texts, as references often have, are read once.
        different, which = torch.unique(texts, dim=0, return_inverse=True)
        states, there = self._encoder[0].text_states(different.clamp(min=0))
        there = there & (different != NO_TOKEN)
        tokens = self.text(states.to(self.null.device).float())
        return tokens[which], there.to(tokens.device)[which]

    def _or_null(
        self, tokens: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [N, M, D] and mask [N, M], with the learned null first where nothing is seen."""
        empty = ~mask.any(dim=1)
        first = torch.arange(mask.shape[1], device=mask.device) == 0
        is_null = empty[:, None] & first
        return torch.where(is_null[..., None], self.null, tokens), mask | is_null


def without_text(context: Context) -> Context:
    """The same neighbors [B, K, D], and no text."""
    assert context.text is not None, "this model reads texts"
    return replace(context, text=torch.full_like(context.text, NO_TOKEN))
