"""The oracle: a classifier of factors that judges generated pictures.

It shares nothing with the CLIP that steers generation (other network, other
training renders), so a sample cannot win by pleasing the encoder alone.

    uint8 [N, H, W, 3] --resize to 32--> convolutions --mean over places--> features [N, 96] --> one
    head a factor
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from rdm_core.shapes import world

WEIGHTS = Path(__file__).with_name("oracle.safetensors")
SIDE = 32
FEATURES = 96
_CHUNK = 512  # pictures at a time, to bound memory


class ShapesOracle(nn.Module):
    """A fully convolutional classifier with one linear head for each factor."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _block(5, 32),
            _block(32, 32),
            nn.AvgPool2d(2),  # 16 x 16
            _block(32, 64),
            _block(64, 64),
            nn.AvgPool2d(2),  # 8 x 8
            _block(64, FEATURES),
            _block(FEATURES, FEATURES),
        )
        self.heads = nn.ModuleDict(
            {name: nn.Linear(FEATURES, len(values)) for name, values in world.VALUES.items()}
        )

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images float32 [N, 3, SIDE, SIDE] in -1..1 -> logits [N, values] of each factor."""
        return self.classify(self.pool(images))

    def pool(self, images: torch.Tensor) -> torch.Tensor:
        """Images float32 [N, 3, SIDE, SIDE] in -1..1 -> features [N, FEATURES]."""
        # The mean forgets where the shape stands, unless the pixels carry their place.
        axis = torch.linspace(-1, 1, SIDE, device=images.device).expand(len(images), 1, SIDE, SIDE)
        placed = torch.cat([images, axis, axis.transpose(2, 3)], dim=1)
        return self.body(placed).mean(dim=(2, 3))

    def classify(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Features [N, FEATURES] -> logits [N, values] of each factor."""
        return {name: head(features) for name, head in self.heads.items()}

    @torch.inference_mode()
    def features(self, images: np.ndarray) -> np.ndarray:
        """Penultimate features float32 [N, FEATURES] of uint8 images [N, H, W, 3]."""
        device = next(self.parameters()).device
        chunks = [images[start : start + _CHUNK] for start in range(0, len(images), _CHUNK)]
        pooled = [self.pool(to_input(chunk).to(device)).cpu().numpy() for chunk in chunks]
        return np.concatenate(pooled) if pooled else np.zeros((0, FEATURES), np.float32)

    @torch.inference_mode()
    def predict(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The value of each factor, as arrays of str [N], for uint8 images [N, H, W, 3]."""
        device = next(self.parameters()).device
        logits = self.classify(torch.from_numpy(self.features(images)).to(device))
        return {
            name: np.array(world.VALUES[name])[scores.argmax(dim=1).cpu().numpy()]
            for name, scores in logits.items()
        }


def load_oracle(weights: Path = WEIGHTS) -> ShapesOracle:
    """The trained oracle, on the CPU, in evaluation mode."""
    oracle = ShapesOracle()
    oracle.load_state_dict(load_file(weights))
    return oracle.eval()


def to_input(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, SIDE, SIDE] in -1..1, averaged down or interpolated up.

    Raises ValueError for arrays of another type or shape.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(
            f"images are {images.dtype} {images.shape}; the oracle wants uint8 [N, H, W, 3]"
        )
    floats = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    if floats.shape[-2:] == (SIDE, SIDE):
        return floats
    return F.interpolate(floats, size=(SIDE, SIDE), mode="bilinear", antialias=True)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
