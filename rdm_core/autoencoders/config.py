"""What can be chosen about training an autoencoder."""

from dataclasses import dataclass
from typing import Literal

from rdm_core.config import LARGEST_SEED, MOST, Config, require, require_between

LEAST_SIDE = 4
"""Of the latent: a narrower one leaves the middle's attention nothing to attend to."""
MOST_CODES = 65_536
"""Entries of a codebook that uint16 can number."""
MOST_LEVELS, WIDEST = 12, 8192
"""Levels of a network, and channels of one. This and the limits below are far beyond what anybody
trains: a typo is refused by its name, before it takes all memory.
"""
MOST_BATCH = 10_000
"""Images a step."""


@dataclass(frozen=True)
class AutoencoderConfig(Config):
    """Network, losses and schedule; the images come apart from it."""

    kind: Literal["kl", "vq"] = "kl"
    """kl: an AutoencoderKL, whose latents are numbers. vq: a VQModel, whose latents are codes."""
    widths: tuple[int, ...] = (16, 32, 64, 96)
    """Channels of each level, multiples of 8; each level after the first halves the side."""
    layers: int = 1
    """Residual blocks of each level of the encoder; the decoder has one more."""
    latent_channels: int = 8
    """Numbers that a place of the latent holds."""
    codes: int = 1024
    """Entries of the codebook (vq)."""

    l1: float = 1.0
    """Weight of mean |x - y|."""
    l2: float = 0.0
    """Weight of mean (x - y)^2."""
    gradient: float = 1.0
    """Weight of the differences of neighboring pixels' differences: sharp edges."""
    low_frequencies: float = 1.0
    """Weight of the differences of the pictures averaged over 4x4 and 8x8 pixels: large areas."""
    chroma: float = 1.0
    """Weight of the differences of pixels minus their channel mean: the colour of small things."""
    texture: float = 0.0
    """Weight of the differences of local means of gradients' sizes: as much texture as there is,
    though not stroke for stroke the same.
    """
    grain: float = 0.0
    """Weight of the differences of how strongly chroma changes from pixel to pixel, locally:
    outlines of colours as sharp as they are.
    """
    details_from: int = 0
    """Steps before the terms l1, gradient, texture and grain count (if l2 does): until areas and
    objects are right, texture that cannot be right yet only pulls at random.
    """
    commitment: float = 0.25
    """Weight of how far the encoder is from its codes (vq)."""
    kl: float = 3e-4
    """Weight of the posterior's divergence from N(0, 1), mean over the latents (kl)."""
    adversarial: float = 0.0
    """Strength of a patch discriminator's pull, as a share of the other losses'; 0: there is none.
    """
    adversarial_from: int = 0
    """Steps before the discriminator's."""

    latent_noise: float = 0.0
    """Noise on what the decoder is given in the last part of the training, up to so many deviations
    of the latents, a draw for each image (arXiv 2510.11690): what a model draws is never as clean
    as what the encoder gives. The encoder stays as it is then. 0: there is no such part (kl).
    """
    decoder_from: int = 0
    """Steps before that part (latent_noise)."""

    codebook_from: int = 500
    """Steps before anything is rounded to codes, fewer than all; then k-means makes the codebook
    (vq).
    """
    codebook_decay: float = 0.98
    """Of the running means that the entries are (vq)."""
    revive_steps: int = 50
    """Every so many steps, codes that are hardly used are put where vectors are (vq)."""

    learning_rate: float = 1e-3
    """The highest: it rises over 100 steps, and falls to nothing as a half cosine."""
    batch: int = 8
    """Images a step."""
    flips: bool = False
    """Turn each image of a step over, left for right, with chance a half."""
    steps: int = 10_000
    """Optimiser steps."""
    ema_decay: float = 0.998
    """Of the running mean of the weights, which is what is kept in the end."""
    seed: int = 0
    """Of the first weights, the images of each step, and noise."""

    @property
    def factor(self) -> int:
        """Side of an image divided by the side of its latent."""
        return int(2 ** (len(self.widths) - 1))

    def check(self) -> None:
        """Raise ValueError naming what cannot be."""
        if self.kind not in ("kl", "vq"):
            raise ValueError(f"kind: is {self.kind!r}, must be 'kl' or 'vq'")
        self._check_widths()
        require_between(self, ("layers",), 1, 100)
        require_between(self, ("latent_channels",), 1, 4096)
        require_between(self, ("batch",), 1, MOST_BATCH)
        require_between(self, ("steps", "revive_steps"), 1, MOST)
        beginnings = ("adversarial_from", "codebook_from", "decoder_from", "details_from")
        require_between(self, beginnings, 0, MOST)
        pictures = ("l1", "l2", "gradient", "low_frequencies", "chroma", "texture", "grain")
        require_between(
            self, (*pictures, "commitment", "kl", "adversarial", "latent_noise"), 0, MOST
        )
        if self.details_from and not self.l2:
            raise ValueError("details_from: is above 0, so l2 must be above 0 too")
        if self.l1 + self.l2 == 0:
            raise ValueError("l1, l2: are both 0; one of them must be above 0")
        for name in ("codebook_decay", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: is {getattr(self, name)}, must be from 0 to below 1")
        if self.kind == "vq" and self.codebook_from >= self.steps:
            text = (
                f"is {self.codebook_from}, and a vq with steps={self.steps} never rounds to codes"
            )
            raise ValueError(f"codebook_from: {text}; give fewer than the steps")
        if self.latent_noise and (self.kind != "kl" or self.decoder_from >= self.steps):
            text = f"is {self.latent_noise}; it is for kind=kl, from a decoder_from below the steps"
            raise ValueError(f"latent_noise: {text}")
        require_between(self, ("codes",), 2, MOST_CODES)
        require_between(self, ("seed",), 0, LARGEST_SEED)
        require(self, ("learning_rate",), lambda value: 0 < value <= 1, "above 0, and 1 at most")

    def _check_widths(self) -> None:
        widths = self.widths
        if not widths or any(width % 8 or not 8 <= width <= WIDEST for width in widths):
            raise ValueError(f"widths: are {widths}, must be multiples of 8, {WIDEST} at most")
        if len(widths) > MOST_LEVELS:
            raise ValueError(f"widths: are {len(widths)}, must be {MOST_LEVELS} at most")


@dataclass(frozen=True)
class AutoencoderReporting(Config):
    """What a training tells and keeps on its way; it changes nothing that is learned."""

    log_steps: int = 50
    """A line of metrics every so many steps."""
    checkpoint_steps: int = 500
    """A state that it can go on from, every so many steps."""

    def check(self) -> None:
        """As in `Config`."""
        require_between(self, ("log_steps", "checkpoint_steps"), 1, MOST)
