"""How a network sees the vectors of its context: what all families that attend to them can choose.

Importing this costs nothing; the module that does it is `rdm_core.families.tokens`.
"""

from dataclasses import dataclass
from typing import Any, Literal

from rdm_core.config import Config, require_between
from rdm_core.families.facts import ImageVectorsOnly


@dataclass(frozen=True, kw_only=True)
class VectorsConfig(Config):
    """How a network sees its neighbors."""

    context_norm: Literal["unit", "raw"] = "unit"
    """unit: vectors of length sqrt(D), so that each entry is of order 1; raw: the encoder's own
    length, as in 2022.
    """
    query_token: bool = False
    """The training image's own vector is in the context too, with a learned mark; False, as in
    2022: neighbors alone.
    """
    set_layers: int = 0
    """Layers of a transformer that lets the vectors see each other and their scores first; 0, as in
    2022: none.
    """
    remove_means: bool = False
    """Subtract the database's mean image vector, or mean text vector, which closes most of the gap
    between the two.
    """

    def check(self) -> None:
        """As in `Config`."""
        require_between(self, ("set_layers",), 0, 1000)
        if self.remove_means and self.context_norm == "raw":
            raise ValueError("remove_means: means are those of unit vectors; use context_norm=unit")

    def beside_weights(self, where: str) -> dict[str, Any]:
        """Of these, what weights mean something else with: `ModelConfig.beside_weights`. `where` is
        this configuration's name under `model`.
        """
        return {
            f"{where}.context_norm": self.context_norm,
            f"{where}.remove_means": self.remove_means,
        }

    def image_vectors_only(self, where: str) -> tuple[ImageVectorsOnly, ...]:
        """The choices made here that only work with vectors of images. `where` is this
        configuration's name under `model`.
        """
        choices = []
        if self.remove_means:
            why = "the model subtracts the mean of image vectors from them"
            choices.append(ImageVectorsOnly(f"{where}.remove_means", "database", why))
        if self.query_token:
            why = "the model is given the training images' own vectors"
            choices.append(ImageVectorsOnly(f"{where}.query_token", "queries", why))
        return tuple(choices)
