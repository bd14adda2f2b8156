"""Which device to compute on, when nobody has said."""

import torch


def best_device() -> torch.device:
    """The first CUDA device if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
