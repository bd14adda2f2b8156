"""Latent spaces: pixels <-> raw latents (stored) <-> final latents (what the denoiser sees).

One of three things is stored of an image. pixels: the image itself, uint8, in pixel space or to be
encoded each time it is read. moments: the output of an encoder before anything is drawn or rounded,
that is the moments of an AutoencoderKL's posterior or the un-quantised output of a VQModel. codes:
the positions of a VQModel's nearest codebook entries. N images, C channels of a final latent [C, h,
w].
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from rdm_core import emoji
from rdm_core.autoencoders.config import MOST_CODES
from rdm_core.codes import nearest_codes
from rdm_core.device import full_float32
from rdm_core.errors import RequestError, WeightsError
from rdm_core.images import centre_square
from rdm_core.shapes import folder_of_autoencoder

PIXELS, MOMENTS, CODES = "pixels", "moments", "codes"
"""What can be stored of an image; the first is also the name of pixel space."""
ENCODED_TOGETHER = 64
"""Images of a training step that are encoded at a time, for the memory that it takes."""
BUILT_IN = {
    "rdm-shapes-kl": folder_of_autoencoder("kl"),
    "rdm-shapes-vq": folder_of_autoencoder("vq"),
    "rdm-emoji-kl": emoji.AUTOENCODER,
}
"""Autoencoders that are part of this package -> their diffusers folders."""


@dataclass(frozen=True)
class LatentSpace:
    """The space in which the denoiser works: its autoencoder, or pixels."""

    name: str
    channels: int
    """Channels of a final latent, C."""
    factor: int
    """Side of the image divided by the side of the latent."""
    autoencoder: Any
    """An AutoencoderKL or a VQModel; None in pixel space."""
    weights_sha256: str
    quantises: bool = False
    """Whether it is a VQModel: no posterior, and codes when decoded."""

    @property
    def identity(self) -> dict[str, Any]:
        """What an artifact records to say which space its latents are in."""
        return {
            "autoencoder": self.name,
            "weights_sha256": self.weights_sha256,
            "channels": self.channels,
            "factor": self.factor,
        }

    def to(self, device: torch.device) -> "LatentSpace":
        """The same space, with its autoencoder on a device."""
        if self.autoencoder is not None:
            self.autoencoder.to(device)
        return self

    @property
    def stored_by_default(self) -> str:
        """What is stored of an image unless something else is asked for."""
        return PIXELS if self.autoencoder is None else MOMENTS

    def storing(self, stored: str | None) -> str:
        """What is stored of an image: `stored` if it is given, else this space's default.

        Raises RequestError for what this space does not have, or uint16 cannot number.
        """
        stored = stored or self.stored_by_default
        if refused := self._refused(stored):
            raise RequestError(f"autoencoder {self.name!r}", *refused)
        return stored

    def _refused(self, stored: str) -> tuple[str, str] | None:
        """Why that cannot be stored, and what to do instead; None if it can."""
        if self.autoencoder is None and stored != PIXELS:
            kind = "a VQModel" if stored == CODES else "an AutoencoderKL or a VQModel"
            what = f"stored={stored} is what an autoencoder says, and pixel space has none"
            return what, f"Name {kind}: autoencoder=FOLDER; or store pixels."
        if stored == CODES and not self.quantises:
            what = "stored=codes are positions in a codebook, and an AutoencoderKL has none"
            return what, "Name a VQModel: autoencoder=FOLDER; or store moments."
        if stored == CODES and len(self.codebook) > MOST_CODES:
            what = f"stored=codes can number {MOST_CODES:,} entries of a codebook, this one has"
            cure = "Name a VQModel with a smaller codebook, or store moments."
            return f"{what} {len(self.codebook):,}", cure
        return None

    def bytes_per_place(self, stored: str | None) -> int:
        """Bytes stored for one place [:, y, x] of a final latent. Raises what `storing` raises."""
        # float16; an AutoencoderKL has a mean and a variance for each channel
        of_moments = 2 * self.channels * (1 if self.quantises else 2)
        of_pixels = 3 * self.factor**2
        return {PIXELS: of_pixels, MOMENTS: of_moments, CODES: 2}[self.storing(stored)]

    @property
    def codebook(self) -> torch.Tensor:
        """The entries of a VQModel's codebook, float32 [K, C]."""
        entries: torch.Tensor = self.autoencoder.quantize.embedding.weight
        return entries

    @torch.no_grad()
    def encode(self, images: Sequence[np.ndarray], stored: str | None = None) -> np.ndarray:
        """N images uint8 [H, W, 3] of one size -> raw latents, of the kind that `storing` gives.

        pixels: uint8 [N, 3, H, W]. moments: float16, of an AutoencoderKL [N, 2C, h, w], of a
        VQModel un-quantised [N, C, h, w]. codes: uint16 [N, h, w]. Raises what `storing` raises,
        and RequestError for pixels that this space's factor does not divide.
        """
        stored = self.storing(stored)
        pixels = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))  # [N, 3, H, W]
        if stored == PIXELS:
            self._check_divides(pixels)
            return pixels
        if stored == CODES:
            return self._codes(self._inputs(torch.from_numpy(pixels)))
        return self._moments(torch.from_numpy(pixels)).cpu().numpy()

    def _check_divides(self, pixels: np.ndarray) -> None:
        """Refuse images [N, 3, H, W] whose latents would not be of the side H / factor."""
        if pixels.shape[2] % self.factor or pixels.shape[3] % self.factor:
            what = f"makes one place of {self.factor} x {self.factor} pixels, and images are "
            what += f"{pixels.shape[3]} x {pixels.shape[2]}"
            cure = f"Import them in a size that {self.factor} divides, or store moments."
            raise RequestError(f"autoencoder {self.name!r}", what, cure)

    def _inputs(self, pixels: torch.Tensor) -> torch.Tensor:
        """Images uint8 [N, 3, H, W] as the encoder takes them: float32 in -1..1, on its device."""
        return pixels.to(self.autoencoder.device).float() / 127.5 - 1

    @torch.no_grad()
    def _moments(self, pixels: torch.Tensor) -> torch.Tensor:
        """Images uint8 [N, 3, H, W] -> what the encoder says, float16, on its device: of an
        AutoencoderKL [N, 2C, h, w], of a VQModel [N, C, h, w].
        """
        encoded = self.autoencoder.encode(self._inputs(pixels))
        return (encoded.latents if self.quantises else encoded.latent_dist.parameters).half()

    def _codes(self, inputs: torch.Tensor) -> np.ndarray:
        """Inputs float32 [N, 3, H, W] in -1..1 -> codes uint16 [N, h, w]."""
        # The encoder's output stays float32: in half precision a vector that is almost as near to a
        # second entry could get that one's code.
        with full_float32():
            latents = self.autoencoder.encode(inputs).latents
        vectors = latents.permute(0, 2, 3, 1)
        codes = nearest_codes(vectors.flatten(0, 2), self.codebook)
        return codes.view(vectors.shape[:3]).cpu().numpy().astype(np.uint16)

    def final(self, raw: torch.Tensor, posterior_noise: torch.Tensor | None = None) -> torch.Tensor:
        """Raw latents, pixels or moments as `encode` gives them -> final latents float32 [N, C, h,
        w], of order 1.

        With an AutoencoderKL the result is a sample of the posterior, mean + exp(log variance / 2)
        noise with `posterior_noise` ~ N(0, I) [N, C, h, w], or without noise its mean. Pixels and a
        VQModel have no posterior, and do not use the noise. Behind an autoencoder, pixels are
        encoded here, on its device: the latents are those of the moments that would be stored.
        """
        if self.autoencoder is None:
            return raw.float() / 127.5 - 1
        if raw.dtype == torch.uint8:
            raw = torch.cat([self._moments(some) for some in raw.split(ENCODED_TOGETHER)])
            posterior_noise = None if posterior_noise is None else posterior_noise.to(raw.device)
        latents = raw.float()
        if not self.quantises:
            latents, log_variance = latents.chunk(2, dim=1)
            if posterior_noise is not None:
                latents = latents + torch.exp(0.5 * log_variance.clamp(-30, 20)) * posterior_noise
        return latents * self.autoencoder.config.scaling_factor

    @torch.no_grad()
    def decode(self, final: torch.Tensor) -> np.ndarray:
        """Final latents float [N, C, h, w] -> images uint8 [N, H, W, 3].

        A VQModel first takes the nearest entries of its codebook.
        """
        if self.autoencoder is not None:
            # In half precision other entries could be the nearest.
            final = final.to(self.autoencoder.device).float()
            final = self.autoencoder.decode(final / self.autoencoder.config.scaling_factor).sample
        return _images(final)

    def given_back(self, image: np.ndarray) -> np.ndarray:
        """An image uint8 [H, W, 3] as this space gives it back: encoded and decoded, the same
        shape.
        """
        decoded: np.ndarray = self.decode(self.final(torch.from_numpy(self.encode([image]))))
        return decoded[0]

    @torch.no_grad()
    def decode_codes(self, codes: np.ndarray) -> np.ndarray:
        """Codes uint16 [N, h, w] -> images uint8 [N, H, W, 3], from the codebook's entries.

        Raises RequestError for a code beyond the codebook, and what `storing` raises.
        """
        self.storing(CODES)
        numbers = torch.from_numpy(codes.astype(np.int64)).to(self.autoencoder.device)
        if codes.size and codes.max() >= len(self.codebook):
            what = f"there is no code {codes.max()}, its codebook has {len(self.codebook):,}"
            cure = "Name the VQModel that the codes were made with."
            raise RequestError(f"autoencoder {self.name!r}", what, cure)
        entries = self.codebook[numbers].permute(0, 3, 1, 2)
        # As VQModel.decode does after its look-up: a second look-up could find an equal entry.
        by_place = entries if self.autoencoder.config.norm_type == "spatial" else None
        return _images(
            self.autoencoder.decoder(self.autoencoder.post_quant_conv(entries), by_place)
        )


def places_kept(mask: np.ndarray, side: int, factor: int) -> torch.Tensor:
    """Which places of a latent stay where a mask uint8 [H, W, 3], cut to its centred square, is not
    white (above 127): bool [side, side]. The mask must be black at all pixels of a place, `factor`
    along a side.
    """
    square = centre_square(mask, side * factor)
    is_white = torch.from_numpy(square.max(axis=2) > 127)[None, None].float()
    return functional.max_pool2d(is_white, factor)[0, 0] == 0


def _images(decoded: torch.Tensor) -> np.ndarray:
    """Pixels float [N, 3, H, W] in -1..1 -> images uint8 [N, H, W, 3]."""
    pixels = ((decoded.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


def load_latent_space(name: str) -> LatentSpace:
    """Pixel space ('pixels'), one of BUILT_IN, or the autoencoder in a local diffusers folder or on
    the hub.

    Raises WeightsError when the folder or hub id holds neither an AutoencoderKL nor a VQModel.
    """
    if name == PIXELS:
        return LatentSpace(PIXELS, 3, 1, None, "")
    from diffusers import AutoencoderKL, VQModel  # takes two seconds, which pixels do not need

    kinds: dict[str, Any] = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}
    source = str(BUILT_IN.get(name, name))
    try:
        kind = AutoencoderKL.load_config(source)["_class_name"]
        if kind not in kinds:
            raise ValueError(f"it is a {kind}")
        autoencoder, loaded = kinds[kind].from_pretrained(
            source, use_safetensors=True, output_loading_info=True
        )
        if absent := sorted(loaded["missing_keys"]):
            raise ValueError(f"{len(absent)} tensors are absent, {absent[0]} among them")
    except (OSError, ValueError, KeyError, TypeError) as error:
        first_line = str(error).strip().split("\n")[0][:200]
        cure = (
            f"Give 'pixels', {', '.join(BUILT_IN)}, a folder that AutoencoderKL.save_pretrained or "
            "VQModel.save_pretrained wrote, autoencoders/NAME of one that `rdm autoencoder` trained"
            " on your images, or a hub id (the network is needed once)."
        )
        what = f"cannot be loaded ({first_line})"
        raise WeightsError(f"autoencoder {name!r}", what, cure) from error
    autoencoder.eval().requires_grad_(False)
    digest = hashlib.sha256()
    for key, tensor in sorted(autoencoder.state_dict().items()):
        digest.update(key.encode() + tensor.contiguous().numpy().tobytes())
    # Each level but the last halves the side.
    factor = 2 ** (len(autoencoder.config.block_out_channels) - 1)
    # The path of a local folder means nothing elsewhere: the hash says which autoencoder it is.
    label = Path(name).name if Path(name).exists() else name
    channels = autoencoder.config.get("vq_embed_dim") or autoencoder.config.latent_channels
    quantises = isinstance(autoencoder, VQModel)
    return LatentSpace(label, channels, factor, autoencoder, digest.hexdigest()[:16], quantises)
