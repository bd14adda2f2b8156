"""The checkpoints released in 2022 (arXiv 2204.11824 and 2207.13038) as diffusers networks and as
denoisers.

A file -> its tensors (`read_checkpoint`); a layout -> which tensor of the file is which of the
network (`unet_keys`, `autoencoder_keys`); both -> a filled network (`convert_*`). Nothing is
guessed: a tensor too few, too many or of another shape is refused. The layouts are those of the
released configurations.

The original's group norms compute in fp32 even in half precision, diffusers' do not and give blank
images in fp16: use the converted networks in fp32 or under bf16 autocast, and decode in fp32.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, VQModel
from safetensors.torch import load_file

from rdm_core.errors import WeightsError
from rdm_core.families.diffusion.config import Config, DenoiserConfig, NoiseConfig
from rdm_core.families.diffusion.denoiser import Denoiser
from rdm_core.families.diffusion.model import Diffusion
from rdm_core.families.diffusion.noise import process_of
from rdm_core.families.facts import Shape
from rdm_core.latents import LatentSpace

State = Mapping[str, torch.Tensor]
Keys = Mapping[str, tuple[str, torch.Size]]
"""Name in the checkpoint -> (name in the diffusers network, shape in the checkpoint)."""


@dataclass(frozen=True)
class UnetLayout:
    """A released U-Net, and what it was trained between."""

    name: str
    channels: tuple[int, ...]
    """A level, the finest first."""
    heads: tuple[int, ...]
    """Attention heads a level, of 32 channels each; a level that does not attend has no use for its
    number.
    """
    attending: tuple[int, ...]
    """Levels with attention to the context; the middle always has it."""
    latent_channels: int
    latent_side: int
    context_dimension: int
    context_norm: Literal["raw", "unit"]
    """raw: the encoder's own length; unit: length 1."""
    beta_end: float
    """Of 1000 scaled-linear betas, the first being 0.0015."""
    autoencoder: str
    """Name of its AutoencoderLayout."""
    encoder: str
    """open_clip's name of the model whose vectors are the context."""
    encoder_weights: str = "openai"
    blocks: int = 2
    """Residual blocks a level; one more on the way up."""
    groups: int = 32


@dataclass(frozen=True)
class AutoencoderLayout:
    """A released autoencoder."""

    name: str
    channels: tuple[int, ...]
    """A level, the finest first."""
    latent_channels: int
    codes: int
    """Entries of the codebook; 0 where a Gaussian posterior is in its place."""
    attending: tuple[int, ...] = ()
    """Levels with self-attention; the middle always has it."""
    scaling_factor: float = 1.0
    """Final latents are those of the autoencoder times this."""
    side: int = 256
    blocks: int = 2
    """Residual blocks a level; one more on the way up."""
    groups: int = 32


_IMAGENET = UnetLayout(
    "imagenet-2022", channels=(192, 384, 576, 960), heads=(6, 12, 18, 30), attending=(1, 2, 3),
    latent_channels=3, latent_side=64, autoencoder="vq-f4", beta_end=0.0195,
    context_dimension=512, context_norm="raw", encoder="ViT-B-32",
)  # fmt: skip
_LAION = UnetLayout(
    "laion-768-2022", channels=(448, 896, 1344, 1792), heads=(14, 28, 42, 56), attending=(0, 1, 2),
    latent_channels=16, latent_side=48, autoencoder="kl-f16", beta_end=0.015,
    context_dimension=768, context_norm="unit", encoder="ViT-L-14",
)  # fmt: skip
_FFHQ = replace(_IMAGENET, name="ffhq-2022", channels=(224, 448, 672, 896), heads=(7, 14, 21, 28))
# the same network, trained on another database
_IN_DB = replace(_IMAGENET, name="imagenet-in-db-2022")
LAYOUTS = {layout.name: layout for layout in (_IMAGENET, _IN_DB, _FFHQ, _LAION)}

_VQ_F4 = AutoencoderLayout("vq-f4", (128, 256, 512), latent_channels=3, codes=8192)
_VQ_F16 = AutoencoderLayout(
    "vq-f16", (128, 128, 256, 256, 512), latent_channels=8, codes=16384, attending=(4,)
)
_VQGAN_F16 = replace(_VQ_F16, name="vqgan-f16", latent_channels=256)
_KL_F16 = replace(_VQ_F16, name="kl-f16", latent_channels=16, codes=0, scaling_factor=0.22765929)
AUTOENCODERS = {layout.name: layout for layout in (_VQ_F4, _VQ_F16, _VQGAN_F16, _KL_F16)}


# Networks


def build_unet(layout: UnetLayout) -> UNet2DConditionModel:
    """A freshly initialised network of a layout: [B, latent_channels, side, side] -> the same; also
    on the meta device.
    """
    attends = [level in layout.attending for level in range(len(layout.channels))]
    return UNet2DConditionModel(
        sample_size=layout.latent_side,
        in_channels=layout.latent_channels,
        out_channels=layout.latent_channels,
        block_out_channels=layout.channels,
        layers_per_block=layout.blocks,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        attention_head_dim=layout.heads,  # diffusers' misnomer: the number of heads a level
        cross_attention_dim=layout.context_dimension,
        norm_num_groups=layout.groups,
        norm_eps=1e-5,
        act_fn="silu",
        flip_sin_to_cos=True,
        freq_shift=0,
    )


def build_autoencoder(layout: AutoencoderLayout) -> AutoencoderKL | VQModel:
    """A freshly initialised autoencoder of a layout, a VQModel where it has codes; also on the meta
    device.
    """
    attends = [level in layout.attending for level in range(len(layout.channels))]
    settings: dict[str, Any] = {
        "block_out_channels": layout.channels,
        "down_block_types": tuple(
            "AttnDownEncoderBlock2D" if a else "DownEncoderBlock2D" for a in attends
        ),
        "up_block_types": tuple(
            "AttnUpDecoderBlock2D" if a else "UpDecoderBlock2D" for a in reversed(attends)
        ),
        "layers_per_block": layout.blocks,
        "latent_channels": layout.latent_channels,
        "norm_num_groups": layout.groups,
        "scaling_factor": layout.scaling_factor,
        "sample_size": layout.side,
    }
    if not layout.codes:
        return AutoencoderKL(**settings)
    return VQModel(num_vq_embeddings=layout.codes, vq_embed_dim=layout.latent_channels, **settings)


# Names

_UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in", "middle_block.1": "mid_block.attentions.0",
    "out.0": "conv_norm_out", "out.2": "conv_out",
}  # fmt: skip
_UNET_MIDDLE = {"middle_block.0": "mid_block.resnets.0", "middle_block.2": "mid_block.resnets.1"}
_UNET_RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
_AUTOENCODER_RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2": "conv2",
    "nin_shortcut": "conv_shortcut",
}
_AUTOENCODER_ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}


def unet_names(layout: UnetLayout) -> dict[str, str]:
    """Module of the original U-Net -> module of the diffusers one; what lies below has the same
    name in both.
    """
    names, resnets = dict(_UNET_ENDS), dict(_UNET_MIDDLE)
    last, stride = len(layout.channels) - 1, layout.blocks + 1
    for level in range(last + 1):
        down, up, first = f"down_blocks.{level}", f"up_blocks.{level}", level * stride
        # one further, since the first block is the input's convolution
        for j in range(layout.blocks):
            resnets[f"input_blocks.{first + j + 1}.0"] = f"{down}.resnets.{j}"
            names[f"input_blocks.{first + j + 1}.1"] = f"{down}.attentions.{j}"
        names[f"input_blocks.{first + stride}.0.op"] = f"{down}.downsamplers.0.conv"
        for j in range(stride):
            resnets[f"output_blocks.{first + j}.0"] = f"{up}.resnets.{j}"
            names[f"output_blocks.{first + j}.1"] = f"{up}.attentions.{j}"
        # behind the attention, where there is one
        place = 2 if last - level in layout.attending else 1
        names[f"output_blocks.{first + layout.blocks}.{place}.conv"] = f"{up}.upsamplers.0.conv"
    return names | _inside(resnets, _UNET_RESNET)


def autoencoder_names(layout: AutoencoderLayout) -> dict[str, str]:
    """Module of the original autoencoder -> module of the diffusers one; what lies below has the
    same name in both.
    """
    last = len(layout.channels) - 1
    names: dict[str, str] = {
        name: name for name in ("quant_conv", "post_quant_conv", "quantize.embedding")
    }
    resnets, attentions = dict[str, str](), dict[str, str]()
    for half in ("encoder", "decoder"):
        names |= {f"{half}.{name}": f"{half}.{name}" for name in ("conv_in", "conv_out")}
        names[f"{half}.norm_out"] = f"{half}.conv_norm_out"
        resnets |= {f"{half}.mid.block_{j + 1}": f"{half}.mid_block.resnets.{j}" for j in (0, 1)}
        attentions[f"{half}.mid.attn_1"] = f"{half}.mid_block.attentions.0"
    # the decoder's levels are numbered as the encoder's; diffusers counts them as they come
    for level in range(last + 1):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{last - level}"
        names[f"encoder.down.{level}.downsample.conv"] = f"{down}.downsamplers.0.conv"
        names[f"decoder.up.{level}.upsample.conv"] = f"{up}.upsamplers.0.conv"
        for source, target in ((f"encoder.down.{level}", down), (f"decoder.up.{level}", up)):
            resnets |= {
                f"{source}.block.{j}": f"{target}.resnets.{j}" for j in range(layout.blocks + 1)
            }
            attentions |= {
                f"{source}.attn.{j}": f"{target}.attentions.{j}" for j in range(layout.blocks + 1)
            }
    return (
        names | _inside(resnets, _AUTOENCODER_RESNET) | _inside(attentions, _AUTOENCODER_ATTENTION)
    )


def unet_keys(layout: UnetLayout, ema: bool = True) -> Keys:
    """Every tensor that a checkpoint holds of a U-Net: of its running mean, or of its live
    weights.
    """
    shapes = _original_shapes(layout, build_unet, unet_names)
    if ema:  # a running mean has the live weights' names without dots
        return {
            f"{_EMA}diffusion_model{name.replace('.', '')}": found for name, found in shapes.items()
        }
    return {_LIVE + name: found for name, found in shapes.items()}


def autoencoder_keys(layout: AutoencoderLayout, prefix: str = "") -> Keys:
    """Every tensor that a checkpoint holds of an autoencoder, below `prefix`."""
    keys = {}
    for name, (target, shape) in _original_shapes(
        layout, build_autoencoder, autoencoder_names
    ).items():
        was_convolution = ".attentions." in target and len(shape) == 2
        keys[prefix + name] = target, torch.Size((*shape, 1, 1)) if was_convolution else shape
    return keys


def _inside(blocks: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    return {f"{old}.{a}": f"{new}.{b}" for old, new in blocks.items() for a, b in names.items()}


@cache
def _original_shapes(
    layout: Any, build: Callable[[Any], Any], names_of: Callable[[Any], dict[str, str]]
) -> Keys:
    with torch.device("meta"):
        network = build(layout)
    originals = {target: source for source, target in names_of(layout).items()}
    return {
        _renamed(key, originals): (key, tensor.shape)
        for key, tensor in network.state_dict().items()
    }


def _renamed(key: str, names: Mapping[str, str]) -> str:
    parts = key.split(".")
    module = next(
        m for cut in range(len(parts) - 1, 0, -1) if (m := ".".join(parts[:cut])) in names
    )
    return names[module] + key.removeprefix(module)


# Conversion

_LIVE, _EMA, _AUTOENCODER = "model.diffusion_model.", "model_ema.", "first_stage_model."
_LOSSES = ("loss.", "first_stage_model.loss.")
_BUFFERS = {
    "betas", "alphas_cumprod", "alphas_cumprod_prev",
    "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod",
    "posterior_variance", "posterior_log_variance_clipped",
    "posterior_mean_coef1", "posterior_mean_coef2",
    "model_ema.decay", "model_ema.num_updates",
    "unconditional_guidance_vex", "sos_token", "mask_token",
}  # fmt: skip
"""What a checkpoint holds beside networks: the noise schedule, the running mean's count, what no
released model learned.
"""


def convert_unet(state: State, layout: UnetLayout, ema: bool = True) -> UNet2DConditionModel:
    """The U-Net of a checkpoint, float32, in evaluation mode; `ema` takes the running mean, as the
    2022 samplers did.

    A float32 `state` shares its memory with the network. Raises WeightsError when the checkpoint
    does not hold exactly this layout's tensors beside its other parts, and names the layout of
    LAYOUTS that it does hold.
    """
    own = _EMA if ema else _LIVE
    return _converted(state, own, layout, build_unet, lambda other: unet_keys(other, ema), LAYOUTS)


def convert_autoencoder(state: State, layout: AutoencoderLayout) -> AutoencoderKL | VQModel:
    """The autoencoder of its own checkpoint or of a denoiser's, float32, in evaluation mode; losses
    are left out.

    Memory and errors are as of `convert_unet`; layouts are looked up in AUTOENCODERS.
    """
    own = _AUTOENCODER if any(name.startswith(_AUTOENCODER) for name in state) else ""
    return _converted(
        state,
        own,
        layout,
        build_autoencoder,
        lambda other: autoencoder_keys(other, own),
        AUTOENCODERS,
    )


def convert_denoiser(state: State, layout: UnetLayout, ema: bool = True) -> Denoiser:
    """A checkpoint's network with the zero vector as its null, in evaluation mode, float32.

    Raises WeightsError as `convert_unet` does.
    """
    network: Any = convert_unet(state, layout, ema)
    if layout.context_norm == "unit":
        # It was trained with vectors of length 1, a Denoiser gives it length sqrt(D). Only the keys
        # and values of the cross-attention see them, linearly and without bias, so that the factor
        # can go into their weights.
        for name, parameter in network.named_parameters():
            if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
                parameter.data = parameter.data / layout.context_dimension**0.5
    config = model_config(layout).denoiser
    return Denoiser(network, layout.context_dimension, config).eval()


def convert_model(
    state: State, layout: UnetLayout, space: LatentSpace, ema: bool = True
) -> Diffusion:
    """A checkpoint's denoiser as a model of ours, in a latent space.

    Raises WeightsError as `convert_unet` does.
    """
    denoiser = convert_denoiser(state, layout, ema)
    noise = process_of(model_config(layout).noise)
    shape = Shape(layout.latent_channels, layout.latent_side, layout.context_dimension)
    return Diffusion(denoiser, noise, shape, space).eval()


def model_config(layout: UnetLayout) -> Config:
    """What training such a model here would be asked for."""
    denoiser = DenoiserConfig(
        channels=layout.channels,
        depth=layout.blocks,
        attention_levels=layout.attending,
        context_norm=layout.context_norm,
    )
    return Config(denoiser=denoiser, noise=NoiseConfig(beta_end=layout.beta_end))


def _converted(
    state: State,
    own: str,
    layout: Any,
    build: Callable[[Any], Any],
    keys_of: Callable[[Any], Keys],
    known: Mapping[str, Any],
) -> Any:
    keys = keys_of(layout)
    if misfit := _misfit(state, own, keys):
        cure = "Give the layout that it has, or fetch the file again."
        if own == _EMA and not any(name.startswith(_EMA) for name in state):
            cure = "It holds no running mean: convert with ema=False."
        if fitting := [
            name for name, other in known.items() if not _misfit(state, own, keys_of(other))
        ]:
            cure = f"It is of the layout {' or '.join(fitting)}: give that one."
        raise WeightsError(f"checkpoint read as {layout.name!r}", misfit, cure)
    with torch.device("meta"):  # every weight is replaced
        network = build(layout)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    tensors = {
        target: state[name].float().reshape(shapes[target]) for name, (target, _) in keys.items()
    }
    network.load_state_dict(tensors, assign=True)
    return network.eval()


def _misfit(state: State, own: str, keys: Keys) -> str:
    beside = (*(part for part in (_LIVE, _EMA, _AUTOENCODER) if part != own), *_LOSSES)
    both = [
        (name, list(state[name].shape), list(shape))
        for name, (_, shape) in keys.items()
        if name in state
    ]
    found = {
        "absent": [name for name in keys if name not in state],
        "of another shape": [
            f"{name}, {shape} instead of {wanted}"
            for name, shape, wanted in both
            if shape != wanted
        ],
        "too many": [
            n for n in state if n not in keys and n not in _BUFFERS and not n.startswith(beside)
        ],
    }
    return "; ".join(
        f"{what}: {len(names)}, the first {names[0]}" for what, names in found.items() if names
    )


# Files


def read_checkpoint(path: Path | str) -> dict[str, torch.Tensor]:
    """The tensors of a .ckpt, .pt or .safetensors file by name, on the CPU; of its "state_dict"
    where it has one.

    No code in the file is run. Raises WeightsError when the file is absent, cut short, not a table
    of tensors, or a pickle that asks for more than tensors.
    """
    path = Path(path)
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except FileNotFoundError as error:
        raise WeightsError(
            path, "there is no such file", "Give the path of a released checkpoint."
        ) from error
    except Exception as error:  # a damaged file raises anything, from EOFError to KeyError
        raise _unreadable(path, str(error) or type(error).__name__) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(tensor, torch.Tensor) for tensor in state.values())
    ):
        raise WeightsError(
            path, "holds no table of tensors", "Give a file that holds a state_dict."
        )
    return dict(state)


def _unpickled(path: Path) -> Any:
    with path.open("rb") as file:
        # a zip; the oldest format is a bare pickle, which has to be read whole
        mappable = file.read(2) == b"PK"
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mappable)


def _unreadable(path: Path, message: str) -> WeightsError:
    if wanted := re.search(r"GLOBAL ([\w.]+)", message):
        safe = path.with_name(f"{path.stem}-tensors.pt")
        load = f"torch.load({str(path)!r}, map_location='cpu', weights_only=False)['state_dict']"
        return WeightsError(
            path,
            f"its pickle asks for {wanted[1]}, and only tensors are unpickled here",
            "Only if you trust its maker, since this runs any code in it, "
            f"make {safe} where that class is installed, and "
            f'give that: python -c "import torch; torch.save({load}, {str(safe)!r})"',
        )
    first = message.rpartition("WeightsUnpickler error: ")[2].strip().split("\n")[0][:200]
    cure = "Fetch the file again; .ckpt, .pt and .safetensors are read."
    return WeightsError(path, f"is no whole checkpoint ({first})", cure)
