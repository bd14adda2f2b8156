"""The built-in world of captioned shapes, its small CLIP, its oracle and its autoencoders."""

from pathlib import Path

AUTOENCODERS = ("kl", "vq")
"""An AutoencoderKL f8 and a VQModel f4, both for pictures of 64 pixels."""


def folder_of_autoencoder(name: str) -> Path:
    """Where the autoencoder "kl" or "vq" lies, a diffusers folder. Raises ValueError for another
    name.
    """
    if name not in AUTOENCODERS:
        raise ValueError(f"autoencoder {name!r}: choose one of {', '.join(AUTOENCODERS)}")
    return Path(__file__).with_name(f"autoencoder-{name}")
