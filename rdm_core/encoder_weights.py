"""Which weights an encoder is loaded from, and what they say of how images and texts are
prepared.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import hf_hub_download

from rdm_core.clip import BUILT_IN, RANDOM
from rdm_core.errors import EncoderError
from rdm_core.shapes import encoder as shapes_encoder

CONFIG_FILE = "open_clip_config.json"
"""Of a repository or a directory: its architecture, preprocessing and tokenizer."""
PREPARING = ("mean", "std", "interpolation", "resize_mode")
"""What open_clip knows of a tag's images, in its words."""


@dataclass(frozen=True)
class Source:
    """What open_clip is asked for."""

    name: str
    """The model, as an artifact records it."""
    model: str
    """The same in open_clip's words: a name, hf-hub:org/repo or local-dir:PATH."""
    pretrained: str | None = None
    """A tag or a file; None: the repository's own, the directory's own, or random ones."""
    preparing: dict[str, Any] = field(default_factory=dict)
    """How images are prepared, where open_clip would not know."""


def source_of(name: str, weights: str) -> Source:
    """Where an encoder is loaded from: `name` and `weights` are those of
    `rdm_core.clip.load_encoder`.

    Raises EncoderError for names that say nothing, and for weights that do not say how they are
    used.
    """
    shapes_encoder.register()
    if ":" in name:  # open_clip takes the repository's own weights and ignores any other
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
    if weights == BUILT_IN:
        if name != shapes_encoder.MODEL_NAME:
            cure = f"Use the model {shapes_encoder.MODEL_NAME!r}, or give weights."
            raise EncoderError(f"encoder {name!r}", "the package holds no weights of it", cure)
        return Source(name, name, str(shapes_encoder.WEIGHTS))
    tags = open_clip.list_pretrained_tags_by_model(name)
    if weights in tags:
        layout = _layout(name, open_clip.get_pretrained_cfg(name, weights).get("quick_gelu", False))
        return Source(layout, layout, weights)
    if weights and Path(weights).is_dir():
        _require_directory_of(name, Path(weights))
        return Source(name, f"local-dir:{weights}")
    return _source_of_file(name, weights, tags)


def tokenizer_of(source: Source) -> Any:
    """open_clip's tokenizer; one that a repository or a directory brings runs no code of theirs,
    whatever it asks for.
    """
    kind, _, place = source.model.partition(":")
    if not place:
        told = open_clip.get_model_config(source.model)
    else:
        path = (
            hf_hub_download(place, CONFIG_FILE) if kind == "hf-hub" else Path(place) / CONFIG_FILE
        )
        told = json.loads(Path(path).read_bytes())["model_cfg"]
    is_huggingface = told.get("text_cfg", {}).get("hf_tokenizer_name")
    return open_clip.get_tokenizer(
        source.model, **({"trust_remote_code": False} if is_huggingface else {})
    )


def _source_of_file(name: str, weights: str, tags: Sequence[str]) -> Source:
    """A file of weights says neither its activation nor how images are prepared: as for the tag
    that is named before it (TAG@FILE), or for all of the model's tags, if these agree.
    """
    tag, _, path = weights.partition("@")
    tags, path = ([tag], path) if tag in tags and path else (tags, weights)
    if not Path(path).is_file():
        cure = (
            f"Tags of this model: {', '.join(tags) or 'none'}. "
            "Or give the path of a local file or directory, or 'random'."
        )
        raise EncoderError(
            f"encoder {name!r}", f"weights {weights!r} are neither a tag nor a file", cure
        )
    if name == shapes_encoder.MODEL_NAME:
        return Source(name, name, path)
    ways: dict[tuple[Any, ...], list[str]] = {}
    for tag in tags:
        told = open_clip.get_pretrained_cfg(name, tag)
        ways.setdefault(
            (told.get("quick_gelu", False), *(told.get(key) for key in PREPARING)), []
        ).append(tag)
    if len(ways) != 1:
        groups = "; ".join(
            f"{', '.join(alike[:2])}{' ...' if alike[2:] else ''}: {way}"
            for way, alike in ways.items()
        )
        why = (
            f"the model's tags differ in quick_gelu, {', '.join(PREPARING)} ({groups})"
            if ways
            else "the model has no tags"
        )
        what = f"the file {path!r} does not say how it is used, and {why}"
        cure = f"weights=TAG@{path} says which tag it is of; or" if ways else "Instead"
        raise EncoderError(
            f"encoder {name!r}",
            what,
            f"{cure} give a directory that holds it and an {CONFIG_FILE}.",
        )
    quick, *prepared = next(iter(ways))
    layout = _layout(name, quick)
    told = zip(PREPARING, prepared, strict=True)
    return Source(
        layout, layout, path, {f"image_{key}": value for key, value in told if value is not None}
    )


def _require_directory_of(name: str, directory: Path) -> None:
    where = directory / CONFIG_FILE
    try:
        held: dict[str, Any] = json.loads(where.read_bytes())["model_cfg"]
        known = open_clip.get_model_config(name)
        other = [
            part
            for part in ("embed_dim", "vision_cfg", "quick_gelu")
            if held.get(part, False) != known.get(part, False)
        ]
        other += ["text_cfg"] * (_text_tower(held) != _text_tower(known))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        cure = (
            f"Give a directory as the hub gives it: {CONFIG_FILE}, weights, "
            "and the tokenizer if the model has its own."
        )
        raise EncoderError(
            where, f"it says no model ({type(error).__name__}: {error})", cure
        ) from error
    if other:
        what = f"its {' and '.join(other)} differ from those of {name!r}"
        raise EncoderError(
            where,
            what,
            f"Name the model that it is, or take it as it is: encoder='local-dir:{directory}'.",
        )


def _text_tower(config: dict[str, Any]) -> dict[str, Any]:
    """What must agree of a text tower: all but where its tokenizer lies."""
    told = config.get("text_cfg", {})
    kept = {
        key: value
        for key, value in told.items()
        if key not in ("hf_tokenizer_name", "tokenizer_kwargs")
    }
    return kept | {"hf_tokenizer": bool(told.get("hf_tokenizer_name"))}


def _layout(name: str, quick_gelu: bool) -> str:
    """The model's layout with the activation that weights were trained with: open_clip would only
    warn.
    """
    quick = f"{name}-quickgelu"
    wanted = quick_gelu and not open_clip.get_model_config(name).get("quick_gelu", False)
    return quick if wanted and quick in open_clip.list_models() else name


def _like(name: str, known: Sequence[str]) -> str:
    shared = sorted(known, key=lambda other: (-len(set(name.lower()) & set(other.lower())), other))
    return ", ".join(shared[:6])
