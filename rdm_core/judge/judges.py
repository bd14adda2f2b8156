"""Who says whether a picture shows what was asked for: another network than the one asked.

A judge names wishes, tells which pictures fulfil them, and compares sets of pictures in features of
its own. N pictures, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from rdm_core.features import Features
from rdm_core.judge.estimates import agreement
from rdm_core.shapes import world
from rdm_core.shapes.oracle import ShapesOracle, load_oracle


@dataclass(frozen=True)
class Wish:
    """A prompt, and what a picture of it shows."""

    prompt: str
    shows: Mapping[str, str] = field(default_factory=dict)
    """Factor -> value; empty where no classifier knows the factors."""


class Judge(Protocol):
    """What an evaluation asks of a judge."""

    def wishes(self, count: int) -> list[Wish]:
        """So many wishes, the same in every call; none where the judge can tell of none."""

    def fulfilled(self, images: np.ndarray, wishes: Sequence[Wish]) -> dict[str, np.ndarray]:
        """Factor -> 1.0 where a picture uint8 [N, H, W, 3] shows what its wish names, else 0.0:
        float64 [N]. Nothing where the judge knows no factors.
        """

    def chance(self) -> dict[str, float]:
        """Factor -> share of wishes that a guess fulfils."""

    def features(self, images: np.ndarray) -> np.ndarray:
        """Pictures uint8 [N, H, W, 3] -> features float32 [N, F] to compare sets of them in."""


class ShapesJudge:
    """The classifier of the built-in world, which shares nothing with its CLIP."""

    factors = ("colour", "shape")
    """What its wishes name."""

    def wishes(self, count: int) -> list[Wish]:
        """Prompts that name a colour and a shape, every pair once before any comes twice."""
        pairs = [(colour, shape) for shape in world.SHAPES for colour in world.COLOURS]
        order = np.random.default_rng(0).permutation(len(pairs))
        wishes = []
        for number in range(count):
            colour, shape = pairs[order[number % len(pairs)]]
            wishes.append(Wish(f"a {colour} {shape}", {"colour": colour, "shape": shape}))
        return wishes

    def fulfilled(self, images: np.ndarray, wishes: Sequence[Wish]) -> dict[str, np.ndarray]:
        """As in `Judge`."""
        shown = self._oracle.predict(images)
        return {
            factor: agreement(shown[factor], [wish.shows[factor] for wish in wishes])
            for factor in self.factors
        }

    def chance(self) -> dict[str, float]:
        """As in `Judge`."""
        return {factor: 1 / len(world.VALUES[factor]) for factor in self.factors}

    def features(self, images: np.ndarray) -> np.ndarray:
        """The classifier's features."""
        return self._oracle.features(images)

    def styles(self, images: np.ndarray) -> np.ndarray:
        """The style of each picture: str [N], values of `world.STYLES`."""
        return self._oracle.predict(images)["style"]

    @cached_property
    def _oracle(self) -> ShapesOracle:
        return load_oracle()


class CaptionsJudge:
    """Wishes are captions of images that were not trained on. No classifier knows what they name:
    pictures are compared with them by a CLIP (`clip_scores`).
    """

    def __init__(self, captions: Sequence[str], features: Features) -> None:
        self.captions, self.features = captions, features

    def wishes(self, count: int) -> list[Wish]:
        """The first so many captions."""
        return [Wish(caption) for caption in self.captions[:count]]

    def fulfilled(self, images: np.ndarray, wishes: Sequence[Wish]) -> dict[str, np.ndarray]:
        """Nothing: no factors are known."""
        return {}

    def chance(self) -> dict[str, float]:
        """Nothing: no factors are known."""
        return {}


class FeaturesJudge:
    """Compares sets of pictures, and can tell of no wish: for images without words."""

    def __init__(self, features: Features) -> None:
        self.features = features

    def wishes(self, count: int) -> list[Wish]:
        """None."""
        return []

    def fulfilled(self, images: np.ndarray, wishes: Sequence[Wish]) -> dict[str, np.ndarray]:
        """Nothing: there are no wishes."""
        return {}

    def chance(self) -> dict[str, float]:
        """Nothing: there are no wishes."""
        return {}
