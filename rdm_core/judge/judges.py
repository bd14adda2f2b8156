"""Judges: networks other than the model that say whether a picture shows what was asked for.

A judge names wishes, says which pictures fulfil them, and compares sets of pictures in features of
its own. N pictures, F features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Protocol

import numpy as np

from rdm_core.features import Features
from rdm_core.judge.estimates import agreement
from rdm_core.shapes import world
from rdm_core.shapes.entities import Entity
from rdm_core.shapes.entity_judge import recognise
from rdm_core.shapes.oracle import ShapesOracle, load_oracle


@dataclass(frozen=True)
class Wish:
    """A prompt, and what a picture should show."""

    prompt: str
    shows: Mapping[str, str] = field(default_factory=dict)
    """Factor -> value; empty where no classifier knows the factors."""


class Judge(Protocol):
    """What an evaluation needs of a judge."""

    def wishes(self, count: int) -> list[Wish]:
        """`count` wishes, the same in every call; none where the judge has no words."""

    def fulfilled(self, images: np.ndarray, wishes: Sequence[Wish]) -> dict[str, np.ndarray]:
        """Pictures uint8 [N, H, W, 3] and their N wishes -> for each factor float64 [N]: 1 where a
        picture shows what its wish names, else 0. Nothing where the judge knows no factors.
        """

    def chance(self) -> dict[str, float]:
        """Factor -> share of wishes in 0..1 that a guess fulfils."""

    def features(self, images: np.ndarray) -> np.ndarray:
        """Pictures uint8 [N, H, W, 3] -> features float32 [N, F], to compare sets of pictures."""


class ShapesJudge:
    """The classifier of the built-in world, which shares nothing with its CLIP."""

    factors = ("colour", "shape")
    """Factors that its wishes name."""

    def wishes(self, count: int) -> list[Wish]:
        """Prompts that name a colour and a shape; every pair comes once before any comes twice."""
        pairs = list(product(world.SHAPES, world.COLOURS))
        order = np.random.default_rng(0).permutation(len(pairs))
        wishes = []
        for number in range(count):
            shape, colour = pairs[order[number % len(pairs)]]
            wishes.append(Wish(f"a {colour} {shape}", {"colour": colour, "shape": shape}))
        return wishes

    def fulfilled(self, images: np.ndarray, wishes: Sequence[Wish]) -> dict[str, np.ndarray]:
        """Pictures uint8 [N, H, W, 3] -> float64 [N] for each factor, as in `Judge`."""
        predicted = self._oracle.predict(images)
        agreements = {}
        for factor in self.factors:
            wanted = [wish.shows[factor] for wish in wishes]
            agreements[factor] = agreement(predicted[factor], wanted)
        return agreements

    def chance(self) -> dict[str, float]:
        """As in `Judge`."""
        return {factor: 1 / len(world.VALUES[factor]) for factor in self.factors}

    def features(self, images: np.ndarray) -> np.ndarray:
        """Pictures uint8 [N, H, W, 3] -> the classifier's features float32 [N, F]."""
        return self._oracle.features(images)

    def styles(self, images: np.ndarray) -> np.ndarray:
        """Pictures uint8 [N, H, W, 3] -> their styles, str [N]: values of `world.STYLES`."""
        return self._oracle.predict(images)["style"]

    @cached_property
    def _oracle(self) -> ShapesOracle:
        return load_oracle()


class EntitiesJudge:
    """Tells which entity of the built-in world a picture shows and where, by its pixels, and by the
    classifier on what. It shares nothing with the world's CLIP.
    """

    factors = ("entity", "position", "background")
    """Factors that its wishes name."""

    def __init__(self, wished: Sequence[Wish], candidates: Sequence[Entity]) -> None:
        """The wishes that there are, each naming all factors, and the entities that a picture is
        one of.
        """
        self.wished, self.candidates = wished, candidates

    def wishes(self, count: int) -> list[Wish]:
        """The first `count` wishes."""
        return list(self.wished[:count])

    def fulfilled(self, images: np.ndarray, wishes: Sequence[Wish]) -> dict[str, np.ndarray]:
        """Pictures uint8 [N, H, W, 3] -> float64 [N] for each factor, as in `Judge`."""
        seen = recognise(images, self.candidates)
        names = np.array([entity.name for entity in self.candidates])
        predicted = {
            "entity": names[seen.which],
            "position": seen.positions,
            "background": self._oracle.predict(images)["background"],
        }
        agreements = {}
        for factor in self.factors:
            wanted = [wish.shows[factor] for wish in wishes]
            agreements[factor] = agreement(predicted[factor], wanted)
        return agreements

    def chance(self) -> dict[str, float]:
        """As in `Judge`."""
        return {
            "entity": 1 / len(self.candidates),
            "position": 1 / len(world.POSITIONS),
            "background": 1 / len(world.BACKGROUNDS),
        }

    def features(self, images: np.ndarray) -> np.ndarray:
        """Pictures uint8 [N, H, W, 3] -> the classifier's features float32 [N, F]."""
        return self._oracle.features(images)

    @cached_property
    def _oracle(self) -> ShapesOracle:
        return load_oracle()


class CaptionsJudge:
    """Its wishes are captions of images that the model was not trained on.

    No classifier knows what they name: a CLIP compares pictures with them (`clip_scores`).
    """

    def __init__(self, captions: Sequence[str], features: Features) -> None:
        self.captions, self.features = captions, features

    def wishes(self, count: int) -> list[Wish]:
        """The first `count` captions."""
        return [Wish(caption) for caption in self.captions[:count]]

    def fulfilled(self, images: np.ndarray, wishes: Sequence[Wish]) -> dict[str, np.ndarray]:
        """Nothing for pictures uint8 [N, H, W, 3]: no factors are known."""
        return {}

    def chance(self) -> dict[str, float]:
        """Nothing: no factors are known."""
        return {}


class FeaturesJudge:
    """Compares sets of pictures, and has no wishes: for images without words."""

    def __init__(self, features: Features) -> None:
        self.features = features

    def wishes(self, count: int) -> list[Wish]:
        """None."""
        return []

    def fulfilled(self, images: np.ndarray, wishes: Sequence[Wish]) -> dict[str, np.ndarray]:
        """Nothing for pictures uint8 [N, H, W, 3]: there are no wishes."""
        return {}

    def chance(self) -> dict[str, float]:
        """Nothing: there are no wishes."""
        return {}
