"""The pictures that `rdm acquire emoji` leaves in a folder, as arrays, for training and judging."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rdm_core.errors import RequestError

TABLE_NAME = "emoji.json"
NO_TRAINING = frozenset({"openmoji"})
"""Styles that nothing in this package learns from: they are for databases alone."""


@dataclass(frozen=True)
class Pictures:
    """N pictures and what each shows; all lists have N entries."""

    pixels: np.ndarray
    """uint8 [N, S, S, 3], on white."""
    styles: list[str]
    concepts: list[str]
    """Code points."""
    texts: list[tuple[str, ...]]
    """The name, then the keywords."""
    groups: list[tuple[str, str]]
    """Unicode's group and subgroup."""
    held_out: np.ndarray
    """bool [N]: no training is to show it."""

    def __len__(self) -> int:
        return len(self.styles)

    def chosen(self, rows: Sequence[int] | np.ndarray) -> "Pictures":
        """Those of some rows."""
        return Pictures(
            self.pixels[rows],
            [self.styles[row] for row in rows],
            [self.concepts[row] for row in rows],
            [self.texts[row] for row in rows],
            [self.groups[row] for row in rows],
            self.held_out[rows],
        )

    def for_training(self) -> "Pictures":
        """Those that a training may show: no held-out concept, no style of NO_TRAINING."""
        allowed = []
        for row, style in enumerate(self.styles):
            if style not in NO_TRAINING and not self.held_out[row]:
                allowed.append(row)
        return self.chosen(allowed)


def read_pictures(folders: Sequence[Path], side: int) -> Pictures:
    """The pictures of some folders, on white, resized to `side` pixels, in their tables' order.

    Raises RequestError where a table is absent or of another version, and where all are empty.
    """
    pixels: list[np.ndarray] = []
    kept: list[dict[str, Any]] = []
    for folder in folders:
        for row in _rows(folder / TABLE_NAME):
            path = folder / row["style"] / f"{row['code_points']}.png"
            if row["reason"] is None and path.is_file():
                pixels.append(_on_white(path, side))
                kept.append(row)
    if not kept:
        listed = ", ".join(map(str, folders))
        raise RequestError("pictures", f"none are in {listed}", "Run `rdm acquire emoji`.")
    return Pictures(
        np.stack(pixels),
        [row["style"] for row in kept],
        [row["code_points"] for row in kept],
        [tuple(dict.fromkeys((row["name"], *row["keywords"]))) for row in kept],
        [(row["group"], row["subgroup"]) for row in kept],
        np.array([row["split"] == "held out" for row in kept]),
    )


def _rows(table: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(table.read_bytes())["pictures"]
        if all("split" in row for row in rows):
            return list(rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"cannot be read: {type(error).__name__}: {error}"
        raise RequestError(str(table), what, "Run `rdm acquire emoji`.") from error
    cure = "Run `rdm acquire emoji` again: what is drawn is kept."
    raise RequestError(str(table), "does not say what is held out", cure)


def _on_white(path: Path, side: int) -> np.ndarray:
    """uint8 [side, side, 3]."""
    with Image.open(path) as image:
        drawn = image.convert("RGBA")
    white = Image.new("RGBA", drawn.size, "white")
    flat = Image.alpha_composite(white, drawn).convert("RGB")
    return np.asarray(flat.resize((side, side), Image.Resampling.BICUBIC))
