"""Which images are imported, and how they are stored.

The same class is the flow's parameter, the command line's `--set key=value`, and the manifest's
record. Importing this file loads neither Prefect nor torch.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from flows.config.idle import refuse_idle
from flows.config.parameters import (
    Count,
    FlowConfig,
    Parameters,
    Seed,
)

SourceName = Literal["shapes", "coco", "openimages", "wikiart", "folder"]
SPLITS = {
    "coco": ("all", "train", "val"),
    "openimages": ("all", "train", "validation", "test"),
    "wikiart": ("all",),
    "folder": ("all",),
}
"""What each dataset can be restricted to."""
VOCABULARY = {
    "shapes": ("circle", "square", "triangle", "star", "heart", "cross", "ring", "crescent"),
    "colours": ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"),
    "styles": ("photograph", "oil painting", "sketch"),
    "backgrounds": ("light", "dark", "striped", "checkered"),
    "positions": ("centre", "top left", "top right", "bottom left", "bottom right"),
    "sizes": ("small", "medium", "large"),
}
"""The shapes world's factors; a test holds them equal to rdm_core.shapes.world, which is too heavy
to import here.
"""


class Images(Parameters):
    """Which images, and how they are stored."""

    source: SourceName = "folder"
    """Which reader: the layout the dataset has on disk, or the built-in shapes."""
    path: Path | None = None
    """Where the dataset lies; not for shapes."""
    split: str = Field("all", pattern=r"^[A-Za-z0-9_]{1,32}$")
    """all, or one split of the dataset (coco: train, val; openimages: train, validation, test);
    shapes: any word.
    """
    size: int = Field(256, ge=16, le=16_384)
    """Side of a stored crop in pixels."""
    crop: Literal["centre", "random"] = "centre"
    """centre: shorter side to `size`, central square. random: windows of a square frame, as the
    2022 database.
    """
    crops_per_image: int = Field(1, ge=1, le=10_000)
    """random: windows an image."""
    frame: int = Field(1200, ge=1, le=20_000)
    """random: side in pixels of the square the windows are cut from."""
    encoding: Literal["jpg", "png"] = "jpg"
    """How a crop is stored."""
    quality: int = Field(95, ge=1, le=100)
    """jpg quality."""
    seed: Seed = 0
    """Of random crops, and of the shapes world."""
    images_per_part: Count | Literal["auto"] = "auto"
    """Source images a part, about: the unit of resume, and what a changed image makes anew. auto:
    as the last version of the name was cut; a new name 100, and up to 1,000 from 8,000 images on.
    """
    max_pixels: Count = 100_000_000
    """Images with more pixels are rejected before any pixel is decoded."""
    max_bytes: int = Field(268_435_456, ge=1, le=10**12)
    """Files with more bytes are rejected unread."""
    min_side: int = Field(16, ge=1, le=100_000)
    """Images with a shorter side, in pixels, are rejected."""
    dataset: str = Field("folder", pattern=r"^[a-z0-9_]{1,32}$")
    """folder: name of the dataset, the first part of every key; give each folder its own."""
    licence: str | None = None
    """folder: licence of every image in it."""
    author: str | None = None
    """folder: author of every image in it."""
    count: Count = 1000
    """shapes: how many images."""
    styles: tuple[str, ...] = ()
    """shapes: only these styles; empty means all."""
    colours: tuple[str, ...] = ()
    """shapes: only these colours; empty means all."""
    shapes: tuple[str, ...] = ()
    """shapes: only these shapes; empty means all."""
    backgrounds: tuple[str, ...] = ()
    """shapes: only these backgrounds; empty means all."""
    positions: tuple[str, ...] = ()
    """shapes: only these positions; empty means all."""
    sizes: tuple[str, ...] = ()
    """shapes: only these sizes; empty means all."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Images":
        if self.source != "shapes" and self.path is None:
            raise ValueError(f"path: the source {self.source!r} needs the directory it lies in")
        splits = SPLITS.get(self.source, (self.split,))
        if self.split not in splits:
            raise ValueError(f"split: {self.split!r} is not one of {', '.join(splits)}")
        for factor, values in VOCABULARY.items():
            for value in getattr(self, factor):
                if value not in values:
                    raise ValueError(f"{factor}: {value!r} is not one of {', '.join(values)}")
        if self.crop == "random" and self.frame < self.size:
            raise ValueError(
                f"frame: {self.frame} px is smaller than the crops of {self.size} px cut from it"
            )
        if self.crop == "centre" and self.crops_per_image > 1:
            raise ValueError(
                f"crops_per_image: {self.crops_per_image} central crops would be equal; "
                "use crop=random"
            )
        return self

    @model_validator(mode="after")
    def _says_nothing_idle(self) -> "Images":
        refuse_idle(self)
        return self


class ImportImages(FlowConfig, Images):
    """images -> shards: tars of crops and a sidecar that says of every image what became of it."""
