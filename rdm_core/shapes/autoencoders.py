"""The autoencoders of the built-in world at 64 pixels, which train_autoencoders.py made.

Each is a diffusers folder beside this file, as `AutoencoderKL.save_pretrained` or
`VQModel.save_pretrained` writes it, so its path is what `rdm_core.latents` loads.
"""

from typing import Any

import numpy as np

from rdm_core.autoencoders.measures import (
    mean_absolute_error,
    psnr,
    reconstruct,
    use_of_codes,
)
from rdm_core.judge.sharpness import edge_energy, grain
from rdm_core.shapes import folder_of_autoencoder, world
from rdm_core.shapes.oracle import load_oracle

SIDE = 64
GATES = {
    "colour": (0.99, 1.0),
    "shape": (0.97, 1.0),
    "style": (0.97, 1.0),
    "grain": (0.8, 1.2),
    "edge_energy": (0.85, float("inf")),
    "codes_in_use": (0.8, 1.0),
}
"""What reconstructions of held-out pictures must measure: at least, at most."""


def load_autoencoder(name: str) -> Any:
    """The AutoencoderKL "kl" or the VQModel "vq", float32, on the CPU, in evaluation mode."""
    from diffusers import AutoencoderKL, VQModel  # two seconds

    path = folder_of_autoencoder(name)
    kind: Any = AutoencoderKL if name == "kl" else VQModel
    model = kind.from_pretrained(path, use_safetensors=True)
    return model.float().eval().requires_grad_(False)


def heldout(count: int, side: int = SIDE) -> tuple[np.ndarray, list[world.Factors]]:
    """Pictures uint8 [count, side, side, 3] of the whole world that no training saw, and what they
    show.
    """
    samples = [world.sample("heldout", index, side) for index in range(count)]
    return np.stack([one.pixels for one in samples]), [one.factors for one in samples]


def measure(model: Any, images: np.ndarray, factors: list[world.Factors]) -> dict[str, float]:
    """What the gates ask of pictures uint8 [N, H, W, 3] given back by an autoencoder.

    The oracle's accuracy for each factor off the reconstructions; grain and edge energy as
    shares of the pictures' own; the error; and of a VQModel the use of its codes.
    """
    made, codes = reconstruct(model, images)
    told = load_oracle().predict(made)
    measured = {}
    for name, values in told.items():
        truth = np.array([getattr(one, name) for one in factors])
        measured[name] = float((values == truth).mean())
    measured["grain"] = grain(made) / grain(images)
    measured["edge_energy"] = edge_energy(made) / edge_energy(images)
    measured["mean_absolute_error"] = mean_absolute_error(images, made)
    measured["psnr"] = psnr(images, made)
    if codes is not None:
        measured |= use_of_codes(codes, len(model.quantize.embedding.weight))
    return measured


def missed(measured: dict[str, float]) -> list[str]:
    """The gates that measured values do not pass, with the values."""
    found = []
    for name, (least, most) in GATES.items():
        if name in measured and not least <= measured[name] <= most:
            found.append(f"{name} is {measured[name]:.3f}, must be {least} to {most}")
    return found
