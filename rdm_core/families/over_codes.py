"""What the families whose images are codes of a VQModel have in common: they are for one codebook,
decode what they draw with it, and lie in one file.
"""

from pathlib import Path
from typing import Any, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rdm_core.config import ExecutionConfig
from rdm_core.errors import RequestError, WeightsError
from rdm_core.families.facts import ModelConfig, Shape
from rdm_core.families.family import Model
from rdm_core.latents import LatentSpace

WEIGHTS_FILE = "transformer.safetensors"
DECODED_TOGETHER = 64
"""Images that are decoded at once."""


class OverCodes(Model):
    """A transformer over codes. What it learns, and how it draws, is its family's."""

    transformer: Any
    """The family's network."""

    def __init__(
        self, transformer: Any, config: ModelConfig, shape: Shape, space: LatentSpace | None
    ) -> None:
        """Raises RequestError where the space has another number of codes than the configuration,
        or none.
        """
        super().__init__()
        self.transformer = transformer
        self.shape = shape
        self.space = space
        self.reads = config.reads
        codes = config.codebook
        if space is not None and (not space.quantises or len(space.codebook) != codes):
            entries = f"{len(space.codebook):,}" if space.quantises else "no"
            what = f"is {codes:,}, and the codebook of {space.name!r} has {entries} entries"
            raise RequestError("model.codes", what, "Give the number of that codebook's entries.")

    def decoded(self, codes: np.ndarray) -> np.ndarray:
        """The images uint8 [B, H, W, 3] of codes uint16 [B, T] in reading order."""
        places = codes.reshape(-1, self.shape.side, self.shape.side)
        images = []
        for start in range(0, len(places), DECODED_TOGETHER):
            images.append(self.works_in.decode_codes(places[start : start + DECODED_TOGETHER]))
        return np.concatenate(images)

    def execute(self, execution: ExecutionConfig) -> None:
        """As in `Model`. There are no convolutions for `channels_last`."""
        self.transformer.keeps_activations = not execution.gradient_checkpointing
        if execution.compile:
            self.transformer.compile()

    def save_weights(self, directory: Path) -> None:
        """All weights, and the means where there are some, in one file."""
        state = {}
        for name, tensor in self.transformer.state_dict().items():
            state[name] = tensor.detach().contiguous().cpu()
        save_file(state, directory / WEIGHTS_FILE)

    def with_weights(self, directory: Path) -> Self:
        """The model with the weights of a folder, in evaluation mode.

        Raises WeightsError when the folder is not one that `save` wrote.
        """
        try:
            self.transformer.load_state_dict(load_file(directory / WEIGHTS_FILE))
        except (OSError, RuntimeError, SafetensorError) as error:
            first_line = str(error).strip().split("\n")[0][:200]
            what = f"not a weights folder of this project ({first_line})"
            cure = "Give a run's name or its weights folder."
            raise WeightsError(directory, what, cure) from error
        return self.eval()
