"""The checkpoints released in 2022 (arXiv 2204.11824 and 2207.13038) as diffusers networks and as
denoisers.

A file -> its tensors (`read_checkpoint`); a layout -> which tensor of the file is which of the
network (`unet_keys`, `autoencoder_keys`); both -> a filled network (`convert_*`). Nothing is
guessed: a tensor too few, too many or of another shape is refused. The layouts are those of the
released configurations.

The original's group norms compute in fp32 even in half precision, diffusers' do not and give blank
images in fp16: use the converted networks in fp32 or under bf16 autocast, and decode in fp32.
"""

from rdm_core.originals.convert import (
    convert_autoencoder,
    convert_denoiser,
    convert_model,
    convert_rarm,
    convert_unet,
    model_config,
)
from rdm_core.originals.files import read_checkpoint
from rdm_core.originals.layouts import (
    AUTOENCODERS,
    LAYOUTS,
    AutoencoderLayout,
    ModelLayout,
    RarmLayout,
    UnetLayout,
    build_autoencoder,
    build_rarm,
    build_unet,
)
from rdm_core.originals.names import autoencoder_keys, rarm_keys, unet_keys

__all__ = [
    "AUTOENCODERS",
    "LAYOUTS",
    "AutoencoderLayout",
    "ModelLayout",
    "RarmLayout",
    "UnetLayout",
    "autoencoder_keys",
    "build_autoencoder",
    "build_rarm",
    "build_unet",
    "convert_autoencoder",
    "convert_denoiser",
    "convert_model",
    "convert_rarm",
    "convert_unet",
    "model_config",
    "rarm_keys",
    "read_checkpoint",
    "unet_keys",
]
