"""How an autoencoder is trained.

The same class is the flow's parameter, the command line's `--set key=value`, and the manifest's
record. Importing this file loads neither Prefect nor torch.
"""

from typing import Annotated, Literal

from pydantic import Field

from flows.config.parameters import FlowConfig
from rdm_core.autoencoders.config import AutoencoderConfig, AutoencoderReporting


class TrainAutoencoder(FlowConfig):
    """shards -> an AutoencoderKL or a VQModel, as a diffusers folder."""

    shards: str
    """Shards of the images it is trained on: a name, or name@id for one version."""
    size: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Side in pixels that the images are scaled down to; unless given they stay as they are."""
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    """Network, losses and schedule."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: the networks compute in it; the weights stay fp32."""
    held_out: float = Field(0.05, gt=0, le=0.5)
    """Share of the images, chosen by their keys, that it is not trained on but measured on."""
    measured_images: int = Field(2000, ge=2, le=1_000_000)
    """Held-out images that are measured, at most."""
    features: str | None = None
    """Features in which the Frechet distance of reconstructions is measured: 'oracle',
    clip:MODEL:WEIGHTS, timm:MODEL or timm:MODEL:FILE. Unless given: the oracle for images of the
    built-in world, for others none is measured.
    """
    reporting: AutoencoderReporting = AutoencoderReporting()
    """What is told and kept on the way; can be changed in the middle of a training."""
    device: Literal["auto", "cpu"] = "auto"
    """auto: the first GPU if there is one; cpu: no GPU even if there is one."""
