"""Where an encoder's weights come from, and how images and texts are prepared for them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import hf_hub_download

from rdm_core.clip import ACCESSORIES, BUILT_IN, RANDOM
from rdm_core.emoji import encoder as emoji_encoder
from rdm_core.errors import EncoderError
from rdm_core.shapes import encoder as shapes_encoder

CONFIG_FILE = "open_clip_config.json"
"""File of a repository or directory with its architecture, preprocessing and tokenizer."""
OF_THIS_PACKAGE = {
    shapes_encoder.MODEL_NAME: {
        BUILT_IN: shapes_encoder.WEIGHTS,
        ACCESSORIES: shapes_encoder.ACCESSORIES_WEIGHTS,
    },
    emoji_encoder.MODEL_NAME: {BUILT_IN: emoji_encoder.WEIGHTS},
}
"""Model -> its weights by name -> where they lie."""
PREPARING = ("mean", "std", "interpolation", "resize_mode")
"""How images are prepared for a tag: the names that open_clip uses."""


@dataclass(frozen=True)
class Source:
    """The arguments with which open_clip loads a model."""

    name: str
    """The model, as an artifact records it."""
    model: str
    """The model as open_clip names it: a name, hf-hub:org/repo or local-dir:PATH."""
    pretrained: str | None = None
    """A tag or a file. None: the weights of the repository or directory, or random ones."""
    preparing: dict[str, Any] = field(default_factory=dict)
    """How images are prepared, where open_clip cannot know it."""


def source_of(name: str, weights: str) -> Source:
    """Where an encoder is loaded from; `name` and `weights` are those of `load_encoder`.

    Raises EncoderError for an unknown name, and for weights that do not say how they are used.
    """
    shapes_encoder.register()
    emoji_encoder.register()
    if ":" in name:  # hf-hub:...: open_clip takes the repository's own weights and no other
        if weights:
            cure = "Give empty weights: a repository brings its own."
            raise EncoderError(
                f"encoder {name!r}",
                f"weights {weights!r} cannot be put into a repository's model",
                cure,
            )
        return Source(name, name)
    known = open_clip.list_models()
    if name not in known:
        raise EncoderError(
            f"encoder {name!r}",
            "open_clip knows no model of that name",
            f"Known are, among others: {_like(name, known)}.",
        )
    if weights == RANDOM:
        return Source(name, name)
    if weights in (BUILT_IN, ACCESSORIES):
        held = OF_THIS_PACKAGE.get(name, {})
        if weights not in held:
            models = " or ".join(repr(model) for model in OF_THIS_PACKAGE)
            cure = f"Use {weights} of the model {models}, or give weights."
            if held:
                cure = f"Use {' or '.join(held)}, or give weights."
            raise EncoderError(f"encoder {name!r}", "the package holds no such weights of it", cure)
        return Source(name, name, str(held[weights]))
    tags = open_clip.list_pretrained_tags_by_model(name)
    if weights in tags:
        layout = _layout(name, open_clip.get_pretrained_cfg(name, weights).get("quick_gelu", False))
        return Source(layout, layout, weights)
    if weights and Path(weights).is_dir():
        _require_directory_of(name, Path(weights))
        return Source(name, f"local-dir:{weights}")
    return _source_of_file(name, weights, tags)


def tokenizer_of(source: Source) -> Any:
    """open_clip's tokenizer. It runs no code from a repository or a directory."""
    kind, _, place = source.model.partition(":")
    if not place:
        config = open_clip.get_model_config(source.model)
    else:
        is_on_hub = kind == "hf-hub"
        path = hf_hub_download(place, CONFIG_FILE) if is_on_hub else Path(place) / CONFIG_FILE
        config = json.loads(Path(path).read_bytes())["model_cfg"]
    # Only a tokenizer of Hugging Face's knows this option, and only such a one might run code.
    is_huggingface = config.get("text_cfg", {}).get("hf_tokenizer_name")
    options = {"trust_remote_code": False} if is_huggingface else {}
    return open_clip.get_tokenizer(source.model, **options)


def _source_of_file(name: str, weights: str, tags: Sequence[str]) -> Source:
    """Where weights in a file come from: PATH or TAG@PATH.

    A file says neither its activation nor how images are prepared for it. Both are those of the tag
    before the @; without one they are those of the model's tags, if all tags agree.
    """
    tag, _, path = weights.partition("@")
    if tag in tags and path:
        tags = [tag]
    else:
        path = weights
    if not Path(path).is_file():
        cure = (
            f"Tags of this model: {', '.join(tags) or 'none'}. "
            "Or give the path of a local file or directory, or 'random'."
        )
        raise EncoderError(
            f"encoder {name!r}", f"weights {weights!r} are neither a tag nor a file", cure
        )
    if name in OF_THIS_PACKAGE:
        return Source(name, name, path)
    tags_of_way = _tags_by_way(name, tags)
    if len(tags_of_way) != 1:
        raise _ambiguous_file(name, path, tags_of_way)
    quick_gelu, *prepared = next(iter(tags_of_way))
    layout = _layout(name, quick_gelu)
    preparing = {}
    for key, value in zip(PREPARING, prepared, strict=True):
        if value is not None:
            preparing[f"image_{key}"] = value
    return Source(layout, layout, path, preparing)


def _tags_by_way(name: str, tags: Sequence[str]) -> dict[tuple[Any, ...], list[str]]:
    """The tags of a model by the way in which they are used: quick_gelu, then PREPARING."""
    tags_of_way: dict[tuple[Any, ...], list[str]] = {}
    for tag in tags:
        config = open_clip.get_pretrained_cfg(name, tag)
        way = [config.get("quick_gelu", False)]
        way += [config.get(key) for key in PREPARING]
        tags_of_way.setdefault(tuple(way), []).append(tag)
    return tags_of_way


def _ambiguous_file(
    name: str, path: str, tags_of_way: dict[tuple[Any, ...], list[str]]
) -> EncoderError:
    """The error for a file of weights when the model's tags are used in no way or in several."""
    why, cure = "the model has no tags", "Instead"
    if tags_of_way:
        groups = []
        for way, tags in tags_of_way.items():
            more = " ..." if len(tags) > 2 else ""
            groups.append(f"{', '.join(tags[:2])}{more}: {way}")
        names = ", ".join(PREPARING)
        why = f"the model's tags differ in quick_gelu, {names} ({'; '.join(groups)})"
        cure = f"weights=TAG@{path} says which tag it is of; or"
    return EncoderError(
        f"encoder {name!r}",
        f"the file {path!r} does not say how it is used, and {why}",
        f"{cure} give a directory that holds it and an {CONFIG_FILE}.",
    )


def _require_directory_of(name: str, directory: Path) -> None:
    """Raise EncoderError unless a directory says that it holds the model `name`."""
    where = directory / CONFIG_FILE
    try:
        config: dict[str, Any] = json.loads(where.read_bytes())["model_cfg"]
        known = open_clip.get_model_config(name)
        differing = []
        for part in ("embed_dim", "vision_cfg", "quick_gelu"):
            if config.get(part, False) != known.get(part, False):
                differing.append(part)
        if _text_tower(config) != _text_tower(known):
            differing.append("text_cfg")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        cure = (
            f"Give a directory as the hub gives it: {CONFIG_FILE}, weights, "
            "and the tokenizer if the model has its own."
        )
        raise EncoderError(
            where, f"it says no model ({type(error).__name__}: {error})", cure
        ) from error
    if differing:
        what = f"its {' and '.join(differing)} differ from those of {name!r}"
        raise EncoderError(
            where,
            what,
            f"Name the model that it is, or take it as it is: encoder='local-dir:{directory}'.",
        )


def _text_tower(config: dict[str, Any]) -> dict[str, Any]:
    """A model's text tower without the place of its tokenizer, which may differ."""
    tower = config.get("text_cfg", {}).copy()
    tower.pop("tokenizer_kwargs", None)
    tower["hf_tokenizer"] = bool(tower.pop("hf_tokenizer_name", None))
    return tower


def _layout(name: str, quick_gelu: bool) -> str:
    """The model's layout with the activation that its weights were trained with.

    open_clip would only warn of the wrong one.
    """
    quick = f"{name}-quickgelu"
    wanted = quick_gelu and not open_clip.get_model_config(name).get("quick_gelu", False)
    return quick if wanted and quick in open_clip.list_models() else name


def _like(name: str, known: Sequence[str]) -> str:
    """The six known names that share the most letters with `name`."""

    def order(known_name: str) -> tuple[int, str]:
        shared_letters = set(name.lower()) & set(known_name.lower())
        return -len(shared_letters), known_name

    return ", ".join(sorted(known, key=order)[:6])
