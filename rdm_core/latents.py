"""Latent spaces: pixels <-> raw latents (stored) <-> final latents (what the denoiser sees).

Pixel space stores uint8 images; an AutoencoderKL the posterior's moments; a VQModel what its
encoder says before that is rounded to the nearest codes. All are read through one class.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rdm_core.errors import WeightsError

PIXELS = "pixels"


@dataclass(frozen=True)
class LatentSpace:
    """Where the denoiser works."""

    name: str
    channels: int
    factor: int
    """Side of the image divided by the side of the latent."""
    autoencoder: Any
    """An AutoencoderKL or a VQModel; None in pixel space."""
    weights_sha256: str
    quantises: bool = False
    """Whether it is a VQModel: no posterior, and codes when decoded."""

    @property
    def identity(self) -> dict[str, Any]:
        """What an artifact records to say which space its latents live in."""
        return {
            "autoencoder": self.name,
            "weights_sha256": self.weights_sha256,
            "channels": self.channels,
            "factor": self.factor,
        }

    def to(self, device: torch.device) -> "LatentSpace":
        """Itself, with the autoencoder on a device; pixel space has nothing to move."""
        if self.autoencoder is not None:
            self.autoencoder.to(device)
        return self

    @torch.no_grad()
    def encode(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 images [H, W, 3] of one size -> raw latents.

        Pixel space: uint8 [N, 3, H, W]. AutoencoderKL: moments float16 [N, 2C, h, w]. VQModel:
        un-quantised float16 [N, C, h, w].
        """
        pixels = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
        if self.autoencoder is None:
            return pixels
        inputs = torch.from_numpy(pixels).to(self.autoencoder.device).float() / 127.5 - 1
        encoded = self.autoencoder.encode(inputs)
        raw = encoded.latents if self.quantises else encoded.latent_dist.parameters
        return raw.half().cpu().numpy()

    def final(self, raw: torch.Tensor, posterior_noise: torch.Tensor | None = None) -> torch.Tensor:
        """Raw latents -> final latents [N, C, h, w] float32, of order 1.

        Behind an AutoencoderKL a sample of the posterior is made with `posterior_noise` [N, C, h,
        w] ~ N(0, I), or its mean taken without; in pixel space and behind a VQModel there is no
        posterior and the noise is not used.
        """
        if self.autoencoder is None:
            return raw.float() / 127.5 - 1
        latents = raw.float()
        if not self.quantises:
            latents, log_variance = latents.chunk(2, dim=1)
            if posterior_noise is not None:
                latents = latents + torch.exp(0.5 * log_variance.clamp(-30, 20)) * posterior_noise
        return latents * self.autoencoder.config.scaling_factor

    @torch.no_grad()
    def decode(self, final: torch.Tensor) -> np.ndarray:
        """Final latents [N, C, h, w] -> uint8 images [N, H, W, 3]; a VQModel first takes the
        nearest codes.
        """
        if self.autoencoder is not None:
            # near-ties between codes fall otherwise in half precision
            final = final.to(self.autoencoder.device).float()
            final = self.autoencoder.decode(final / self.autoencoder.config.scaling_factor).sample
        pixels = ((final.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu().numpy()


def load_latent_space(name: str) -> LatentSpace:
    """Pixel space ('pixels'), or the autoencoder in a local diffusers folder or on the hub.

    Raises WeightsError when the folder or hub id holds neither an AutoencoderKL nor a VQModel.
    """
    if name == PIXELS:
        return LatentSpace(PIXELS, 3, 1, None, "")
    from diffusers import AutoencoderKL, VQModel  # two seconds, which pixels do without

    kinds: dict[str, Any] = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}
    try:
        kind = AutoencoderKL.load_config(name)["_class_name"]
        if kind not in kinds:
            raise ValueError(f"it is a {kind}")
        autoencoder, loaded = kinds[kind].from_pretrained(
            name, use_safetensors=True, output_loading_info=True
        )
        if absent := sorted(loaded["missing_keys"]):
            raise ValueError(f"{len(absent)} tensors are absent, {absent[0]} among them")
    except (OSError, ValueError, KeyError, TypeError) as error:
        first = str(error).strip().split("\n")[0][:200]
        cure = (
            "Give 'pixels', a folder that AutoencoderKL.save_pretrained or VQModel.save_pretrained "
            "wrote, or a hub id (the network is needed once)."
        )
        raise WeightsError(f"autoencoder {name!r}", f"cannot be loaded ({first})", cure) from error
    autoencoder.eval().requires_grad_(False)
    digest = hashlib.sha256()
    for key, tensor in sorted(autoencoder.state_dict().items()):
        digest.update(key.encode() + tensor.contiguous().numpy().tobytes())
    factor = 2 ** (len(autoencoder.config.block_out_channels) - 1)
    # A local folder's path is this machine's; the weights' hash says which autoencoder it is.
    label = Path(name).name if Path(name).exists() else name
    channels = autoencoder.config.get("vq_embed_dim") or autoencoder.config.latent_channels
    quantises = isinstance(autoencoder, VQModel)
    return LatentSpace(label, channels, factor, autoencoder, digest.hexdigest()[:16], quantises)
