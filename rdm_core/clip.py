"""CLIP through open_clip: images | texts -> unit vectors [N, D] and the norms they had."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from os import sched_getaffinity
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image

from rdm_core.errors import EncoderError, RequestError
from rdm_core.preparation import Preparation, ahead, preparation_of
from rdm_core.shapes import encoder as shapes_encoder

RANDOM = "random"
"""As weights: a seeded random initialisation, for tests and for machines that can fetch no weights."""
BUILT_IN = "built-in"
"""As weights: the file in the package; only the shapes encoder has one."""
CONFIG_FILE = "open_clip_config.json"
PREPARING = ("mean", "std", "interpolation", "resize_mode")
BATCH = 64
"""Images that are embedded at once, at most."""
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Encoder:
    """A frozen CLIP in evaluation mode."""

    name: str
    weights_sha256: str
    """Over every tensor of the state, in name order: says which weights, wherever they came from."""
    dimension: int
    model: Any
    """open_clip's own: a CLIP, or a CustomTextCLIP."""
    transform: Any
    """open_clip's own: resize, centre crop, to [0, 1], CLIP mean and standard deviation."""
    preparation: Preparation | None
    """The same, faster; None where it asks for what `rdm_core.preparation` does not do."""
    tokenizer: Any
    device: torch.device
    precision: str = "float32"
    """Of the image tower's weights, one of PRECISIONS; the text tower's is float32."""

    @property
    def identity(self) -> dict[str, Any]:
        """What an artifact records to say which encoder made it."""
        preprocessing: dict[str, Any] = {
            key: list(v) if isinstance(v, tuple) else v for key, v in self.model.visual.preprocess_cfg.items()
        }
        preprocessing["resized_as"] = "uint8" if self.preparation else "float"
        return {
            "model": self.name,
            "weights_sha256": self.weights_sha256,
            "dimension": self.dimension,
            "preprocessing": preprocessing,
        }

    def preprocess(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """uint8 images [H, W, 3] of any sizes -> the tower's input [N, 3, S, S] float32, on its device."""
        return self._input(self._prepared(images))

    def encode_images(self, images: Iterable[np.ndarray], batch: int = BATCH) -> tuple[np.ndarray, np.ndarray]:
        """uint8 images [H, W, 3] of any sizes -> unit vectors [N, D] and raw norms [N], float32.

        Raises EncoderError when a vector has no direction.
        """
        return joined(self.encode_stream(_batches(images, batch)), self.dimension)

    def encode_stream(
        self, batches: Iterable[Sequence[Any]], decode: Callable[[Any], np.ndarray] | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The same batch after batch, for images without end: vectors [B, D], norms [B]. `decode` makes an image of each value.

        While one batch is encoded the next is read, decoded and resized: by one thread where the encoder needs the cores
        itself, by one a core where it has a GPU.
        """

        def prepared(values: Sequence[Any]) -> torch.Tensor:
            return self._prepared([decode(value) for value in values] if decode else values)

        on_gpu = self.device.type == "cuda"
        last: Callable[[], torch.Tensor] | None = None
        for images in ahead(prepared, batches, len(sched_getaffinity(0)) if on_gpu else 1):
            with torch.inference_mode():
                output = self.model.encode_image(self._input(images.pin_memory() if on_gpu else images))
                following = _on_its_way(output.float())
            if last is not None:
                yield self._unit(last())  # one batch late: a GPU has the next to do by then
            last = following
        if last is not None:
            yield self._unit(last())

    def encode_prompts(self, texts: Sequence[str], templates: Sequence[str] = ("{}",)) -> np.ndarray:
        """Texts put into each template's {} -> unit vectors [N, D]: the mean over templates, as CLIP's zero-shot classifiers
        are made (arXiv 2103.00020, section 3.1.4). Raises RequestError for a template without exactly one {}."""
        for template in templates:
            if template.count("{}") != 1:
                raise RequestError(
                    "templates", f"{template!r} has not exactly one {{}}", "Write, for example: a photo of a {}."
                )
        filled = [template.replace("{}", text) for text in texts for template in templates]
        vectors, _ = self.encode_texts(filled)
        means = vectors.reshape(len(texts), len(templates), self.dimension).mean(axis=1)
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def _prepared(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        if self.preparation:
            return self.preparation.resized(images)
        return torch.stack([self.transform(Image.fromarray(image)) for image in images])

    def _input(self, prepared: torch.Tensor) -> torch.Tensor:
        on_device = prepared.to(self.device, non_blocking=True)
        return (self.preparation.normalised(on_device) if self.preparation else on_device).to(PRECISIONS[self.precision])

    def encode_texts(self, texts: Sequence[str], batch: int = 256) -> tuple[np.ndarray, np.ndarray]:
        """Texts -> unit vectors [N, D] and raw norms [N], float32."""
        with torch.no_grad():
            outputs = [self.model.encode_text(self.tokenizer(list(b)).to(self.device)) for b in _batches(texts, batch)]
            return self._unit(torch.cat(outputs).float().cpu() if outputs else torch.empty(0, self.dimension))

    def _unit(self, raw: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        norms = raw.norm(dim=1, keepdim=True)
        if wrong := int((~(norms.isfinite() & (norms > 0))).sum()):
            what = f"{wrong} of {len(raw)} vectors are zero or not finite in {self.precision}"
            cure = "Its weights are damaged, or too large for this precision: --set precision=float32."
            raise EncoderError(f"encoder {self.name!r}", what, cure)
        return (raw / norms).numpy(), norms[:, 0].numpy()


def _on_its_way(output: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Start to copy a result to the host; what is returned waits for it alone, and gives it."""
    if output.device.type != "cuda":
        return lambda: output
    host = torch.empty(output.shape, pin_memory=True)
    host.copy_(output, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def result() -> torch.Tensor:
        arrived.synchronize()
        return host

    return result


def joined(batches: Iterable[tuple[np.ndarray, np.ndarray]], dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Batches of vectors and norms -> one of each: [N, D], [N]; N may be 0."""
    nothing = (np.empty((0, dimension), np.float32), np.empty(0, np.float32))
    vectors, norms = zip(nothing, *batches, strict=True)
    return np.concatenate(vectors), np.concatenate(norms)


def load_encoder(name: str, weights: str, device: torch.device | str = "cpu", precision: str = "float32") -> Encoder:
    """Load an encoder by open_clip model name and weights: a tag ("openai"), a local file or directory, 'built-in' or 'random'.

    A directory is one as the hub gives it: weights, tokenizer and open_clip_config.json, which says how images are prepared.
    A file is prepared for as the model's tags are. A hub id is given as name ("hf-hub:org/repo") with empty weights. A tag
    that was trained with QuickGELU is loaded, and named, as the model's QuickGELU layout: open_clip would only warn. Raises
    EncoderError when the name is unknown, the file is absent or is not of that model, or the weights cannot be fetched.
    """
    shapes_encoder.register()
    pretrained = _pretrained(name, weights)
    is_file = pretrained is not None and pretrained not in open_clip.list_pretrained_tags_by_model(name)
    preparing = _preparing_for_file(name) if is_file else {}
    name = _layout(name, weights)
    from_where = f"local-dir:{weights}" if pretrained is None and weights not in (RANDOM, "") else name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what is not loaded is the same on every machine
        try:
            model, _, transform = open_clip.create_model_and_transforms(
                from_where, pretrained=pretrained, device=device, require_pretrained=weights != RANDOM, **preparing
            )
            tokenizer = open_clip.get_tokenizer(from_where)
        except Exception as error:  # open_clip and the hub raise many kinds; all mean the same to the user
            cure = "Give a tag that `open_clip.list_pretrained()` shows for this model, the path of a local file or directory "
            cure += "of it, or 'random'; tags and hub ids need the network once."
            if getattr(error, "name", "") == "transformers" or "pip install transformers" in str(error):
                cure = "Install what its text tower needs: pip install 'rdm[transformers]'."
            what = f"weights {weights!r} cannot be loaded ({_first_line(error)})"
            raise EncoderError(f"encoder {name!r}", what, cure) from error
    model.eval().requires_grad_(False)
    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    with torch.no_grad():
        dimension = model.encode_text(tokenizer(["a"]).to(device)).shape[1]
    model.visual.to(PRECISIONS[precision])
    return Encoder(
        name=name, weights_sha256=digest.hexdigest()[:16], dimension=dimension, model=model, transform=transform,
        preparation=preparation_of(model.visual.preprocess_cfg), tokenizer=tokenizer, device=torch.device(device),
        precision=precision,
    )  # fmt: skip


def _pretrained(name: str, weights: str) -> str | None:
    if ":" in name:  # open_clip takes the repository's own weights and ignores any other
        if weights:
            cure = "Give empty weights: a repository brings its own."
            raise EncoderError(f"encoder {name!r}", f"weights {weights!r} cannot be put into a repository's model", cure)
        return None
    known = open_clip.list_models()
    if name not in known:
        raise EncoderError(
            f"encoder {name!r}", "open_clip knows no model of that name", f"Known are, among others: {_like(name, known)}."
        )
    if weights == BUILT_IN:
        if name != shapes_encoder.MODEL_NAME:
            cure = f"Use the model {shapes_encoder.MODEL_NAME!r}, or give weights."
            raise EncoderError(f"encoder {name!r}", "the package holds no weights of it", cure)
        return str(shapes_encoder.WEIGHTS)
    if weights == RANDOM:
        return None
    tags = open_clip.list_pretrained_tags_by_model(name)
    if weights in tags:
        return weights
    if weights and Path(weights).is_dir():
        _require_directory_of(name, Path(weights))
        return None
    if not Path(weights).is_file():
        cure = f"Tags of this model: {', '.join(tags) or 'none'}. Or give the path of a local file or directory, or 'random'."
        raise EncoderError(f"encoder {name!r}", f"weights {weights!r} are neither a tag nor a file", cure)
    return weights


def _require_directory_of(name: str, directory: Path) -> None:
    where = directory / CONFIG_FILE
    try:
        held: dict[str, Any] = json.loads(where.read_text())["model_cfg"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        cure = f"Give a directory as the hub gives it: {CONFIG_FILE}, weights, and the tokenizer if the model has its own."
        raise EncoderError(where, f"it says no model ({_first_line(error)})", cure) from error
    known = open_clip.get_model_config(name)
    parts = ("embed_dim", "vision_cfg", "quick_gelu")
    if other := [part for part in parts if held.get(part, False) != known.get(part, False)]:
        what = f"its {' and '.join(other)} differ from those of {name!r}"
        raise EncoderError(where, what, f"Name the model that it is, or take it as it is: encoder='local-dir:{directory}'.")


def _preparing_for_file(name: str) -> dict[str, Any]:
    """A file of weights does not say how images are to be prepared. As for the model's tags, then, if they all agree."""
    ways: dict[tuple[Any, ...], list[str]] = {}
    for tag in open_clip.list_pretrained_tags_by_model(name):
        told = open_clip.get_pretrained_cfg(name, tag)
        ways.setdefault(tuple(told.get(key) for key in PREPARING), []).append(tag)
    if len(ways) > 1:
        told = "; ".join(f"{', '.join(tags[:2])}{' ...' if tags[2:] else ''}: {way}" for way, tags in ways.items())
        cure = f"Give a directory that holds the file and an {CONFIG_FILE} with model_cfg and preprocess_cfg."
        raise EncoderError(
            f"encoder {name!r}",
            f"a file does not say how its images are prepared, and tags differ in {PREPARING} ({told})",
            cure,
        )
    only = next(iter(ways), ())
    return {f"image_{key}": value for key, value in zip(PREPARING, only, strict=False) if value is not None}


def _layout(name: str, tag: str) -> str:
    trained = open_clip.get_pretrained_cfg(name, tag) if ":" not in name else {}
    quick = f"{name}-quickgelu"
    wanted = trained.get("quick_gelu", False) and not open_clip.get_model_config(name).get("quick_gelu", False)
    return quick if wanted and quick in open_clip.list_models() else name


def _like(name: str, known: Sequence[str]) -> str:
    shared = sorted(known, key=lambda other: (-len(set(name.lower()) & set(other.lower())), other))
    return ", ".join(shared[:6])


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__


def even_batches(values: Iterable[Any], count: int) -> Iterator[list[Any]]:
    """`count` values in `batches_of` batches whose sizes differ by one at most: none runs half empty."""
    remaining, batches = iter(values), batches_of(count)
    for number in range(batches):
        yield list(islice(remaining, count * (number + 1) // batches - count * number // batches))


def batches_of(count: int) -> int:
    """The fewest batches of at most BATCH that hold so many images."""
    return -(-count // BATCH)


def _batches(values: Iterable[Any], size: int) -> Iterator[Sequence[Any]]:
    remaining = iter(values)
    while batch := list(islice(remaining, size)):
        yield batch
