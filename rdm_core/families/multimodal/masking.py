"""What of each main document is moved to its end in a step of the training. B samples, N places of
a document.
"""

import torch

from rdm_core.families.multimodal.config import MaskingConfig
from rdm_core.families.multimodal.layout import Layout

NUMBERS = 5
"""Random numbers of a sample."""


def moved_places(layout: Layout, config: MaskingConfig, numbers: torch.Tensor) -> torch.Tensor:
    """Places bool [B, N] that are moved, by NUMBERS numbers float64 [B, 5] in 0..1 of each sample:
    one for what is moved, the others for where it begins and how far it goes.
    """
    what = numbers[:, :1]
    whole = what < config.caption
    some = ~whole & (what < config.caption + config.words)
    a_box = ~whole & ~some & (what < config.caption + config.words + config.box)
    words = whole | (some & _span(numbers[:, 1], numbers[:, 2], layout.length))
    rows = _span(numbers[:, 1], numbers[:, 2], layout.side)
    columns = _span(numbers[:, 3], numbers[:, 4], layout.side)
    box = (rows[:, :, None] & columns[:, None, :]).flatten(1)
    return torch.cat([words.expand(-1, layout.length), a_box & box], dim=1)


def _span(at: torch.Tensor, share: torch.Tensor, size: int) -> torch.Tensor:
    """Some of `size` places in a row, bool [B, size]: 1 to all of them, each number as likely, and
    everywhere where so many fit.
    """
    length = (share * size).long() + 1
    first = (at * (size - length + 1)).long()
    places = torch.arange(size, device=at.device)
    return (places >= first[:, None]) & (places < (first + length)[:, None])
