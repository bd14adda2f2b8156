"""Texts that ask for entities, and whether pictures show what they ask for."""

from dataclasses import dataclass
from itertools import product

import numpy as np

from rdm_core.shapes import entities as world
from rdm_core.shapes.entity_judge import recognise
from rdm_core.shapes.oracle import load_oracle


@dataclass(frozen=True)
class Asked:
    """Texts that name an entity, a place and a background, and what they name."""

    group: tuple[world.Entity, ...]
    """The entities that are told apart."""
    which: np.ndarray
    """Place in the group, int64 [N]."""
    positions: np.ndarray
    backgrounds: np.ndarray
    """str [N] each."""
    named_alone: bool = False
    """Whether the texts say nothing of place and background."""

    @classmethod
    def of(cls, group: str, count: int) -> "Asked":
        """Texts of one of world.GROUPS: its entities in turn, each time elsewhere."""
        members, numbers = world.group(group), np.arange(count)
        # Each time one combination further, so that an entity is asked for in every one.
        everywhere = list(product(world.POSITIONS, world.BACKGROUNDS))
        rounds = numbers // len(members)
        chosen = [everywhere[at % len(everywhere)] for at in (numbers + rounds).tolist()]
        positions, backgrounds = (np.array(values) for values in zip(*chosen, strict=True))
        return cls(members, numbers % len(members), positions, backgrounds)

    @property
    def texts(self) -> list[str]:
        """The captions of such images."""
        named = zip(self.which.tolist(), self.positions, self.backgrounds, strict=True)
        texts = []
        for one, place, on in named:
            where = () if self.named_alone else (place, on)
            texts.append(world.caption(self.group[one].name, *where))
        return texts

    def right(self, images: np.ndarray) -> dict[str, float]:
        """How many of images uint8 [N, H, W, 3] show what the texts name: shares."""
        seen = recognise(images, self.group)
        on = load_oracle().predict(images)["background"] == self.backgrounds
        entity, place = seen.which == self.which, seen.positions == self.positions
        figures = {"entity": entity, "place": place, "background": on, "place and background":
                   place & on, "all": entity & place & on}  # fmt: skip
        return {name: float(values.mean()) for name, values in figures.items()}
