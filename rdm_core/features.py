"""Features in which images are compared: images uint8 [N, H, W, 3] -> float32 [N, F], by a named
network.

oracle                       the classifier of the built-in world; needs no file
clip:MODEL:WEIGHTS           an open_clip image tower, as `rdm_core.clip.load_encoder` takes it
timm:MODEL or timm:MODEL:FILE   any network of timm, such as vit_base_patch14_dinov2 or
                                inception_v3, from the hub or a file
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from rdm_core.clip import load_encoder
from rdm_core.device import best_device
from rdm_core.errors import EncoderError
from rdm_core.shapes.oracle import load_oracle

Features = Callable[[np.ndarray], np.ndarray]
"""Images uint8 [N, H, W, 3] -> features float32 [N, F]."""
ORACLE = "oracle"
BATCH = 64
"""Images that go through a network of timm at once."""
CURE = "Give 'oracle', clip:MODEL:WEIGHTS, timm:MODEL, or timm:MODEL:FILE."


def load_features(name: str, device: torch.device | None = None) -> Features:
    """The features of that name, uint8 [N, H, W, 3] -> float32 [N, F], computed on the device, or
    the best one unless given; the oracle's always on the CPU.

    Raises EncoderError when there are none, or their weights cannot be loaded.
    """
    check_features(name)
    kind, _, rest = name.partition(":")
    device = device or best_device()
    if name == ORACLE:
        return load_oracle().features
    if kind == "clip":
        model, _, weights = rest.partition(":")
        encoder = load_encoder(model, weights, device)
        return lambda images: encoder.encode_images(list(images))[0]
    model, _, file = rest.partition(":")
    return _timm(model, file or None, device)


def check_features(name: str) -> None:
    """Raise EncoderError for a name of no kind of features; nothing is loaded."""
    kind, _, rest = name.partition(":")
    if name != ORACLE and not (kind in ("clip", "timm") and rest):
        raise EncoderError(f"features {name!r}", "there is no such kind", CURE)


def _timm(name: str, file: str | None, device: torch.device) -> Features:
    """The pooled features of a network of timm, with the hub's weights or those in a file."""
    import timm
    from PIL import Image

    if file is not None and not (file.endswith(".safetensors") and Path(file).is_file()):
        raise EncoderError(f"features 'timm:{name}'", f"{file} is no safetensors file", CURE)
    try:
        model = timm.create_model(name, pretrained=file is None, num_classes=0)
        if file is not None:
            model.load_state_dict(_without_head(load_file(file), model))
    except Exception as error:  # timm and the hub raise many kinds; all mean the same to the user
        first_line = str(error).strip().split("\n")[0][:200]
        cure = f"{CURE} A model without a file needs the network once."
        raise EncoderError(
            f"features 'timm:{name}'", f"cannot be loaded ({first_line})", cure
        ) from error
    model.eval().to(device)
    transform = timm.data.create_transform(
        **timm.data.resolve_model_data_config(model), is_training=False
    )

    @torch.no_grad()
    def features(images: np.ndarray) -> np.ndarray:
        outputs = []
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            inputs = torch.stack([transform(Image.fromarray(image)) for image in batch])
            outputs.append(model(inputs.to(device)).float().cpu().numpy())
        return np.concatenate(outputs)

    return features


def _without_head(state: dict[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """The tensors of a file without those of the classifier, which released files mostly hold."""
    named = (model.pretrained_cfg or {}).get("classifier") or ()
    heads = tuple(f"{name}." for name in ([named] if isinstance(named, str) else named))
    return {name: value for name, value in state.items() if not name.startswith(heads)}
