"""Encoders by name, and the one that something was made with."""

from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

from flows.config.database import BuildDatabase
from flows.run.stage import download
from rdm_core.clip import Encoder, is_local, load_encoder
from rdm_core.device import best_device, fastest_precision
from storage.artifact import open_artifact
from storage.checks import encoder_difference
from storage.errors import ArtifactMismatch, StorageError
from storage.manifest import read_plan
from storage.unfinished import unfinished


def encoder_of(name: str, weights: str, precision: str = "float32") -> Encoder:
    """The encoder, loaded once a process."""
    return _loaded(name, weights, precision)


@lru_cache(maxsize=2)
def _loaded(name: str, weights: str, precision: str) -> Encoder:
    # Weights on this disk need no place in the queue of downloads.
    if is_local(weights):
        return load_encoder(name, weights, best_device(), precision)
    with download():
        return load_encoder(name, weights, best_device(), precision)


def forget_encoders() -> None:
    """Let go of those that are loaded, and of the memory they hold."""
    _loaded.cache_clear()


def the_encoder(wanted: Mapping[str, Any], weights: str, whose: str, again: str) -> Encoder:
    """The encoder with the identity `wanted`, from weights of that name, for one who was made with
    it. Raises what `checked` raises.
    """
    return checked(encoder_of(wanted["model"], weights), wanted, weights, whose, again)


def checked(
    encoder: Encoder, wanted: Mapping[str, Any], weights: str, whose: str, again: str
) -> Encoder:
    """An encoder that was loaded from weights of that name.

    Raises ArtifactMismatch when it has other weights than that with the identity `wanted`, or
    prepares images in another way.
    """
    if encoder.identity == wanted:
        return encoder
    where = f"encoder {wanted['model']!r}"
    # Either the weights are others, or the same weights are used in another way.
    if encoder.weights_sha256 != wanted["weights_sha256"]:
        what = (
            f"weights {weights!r} are {encoder.weights_sha256} now, "
            f"{whose} was made with {wanted['weights_sha256']}"
        )
        raise ArtifactMismatch(where, what, f"Put the original weights back, or {again}.")
    what = (
        f"its weights are those {whose} was made with, "
        f"but its {encoder_difference(wanted, encoder.identity)} is not"
    )
    raise ArtifactMismatch(
        where, what, f"{again[0].upper()}{again[1:]}, or use the version of rdm that made it."
    )


def encoder_for(config: BuildDatabase) -> Encoder:
    """The encoder in the precision that a database is embedded in."""
    return encoder_of(config.encoder, config.weights, precision_for(config))


def precision_for(config: BuildDatabase) -> str:
    """The precision asked for; auto: that of the database's last version or unfinished build, so
    that no other machine embeds it anew, and for a new name what this machine is fastest with.
    Captions alone are embedded in float32, as every text is.
    """
    if config.of == "text":
        return "float32"
    if config.precision != "auto":
        return config.precision
    earlier = []
    with suppress(StorageError):
        earlier.append(open_artifact(config.root, "embeddings", config.name).parameters)
    for directory in unfinished(config.root, "embeddings", config.name):
        plan = read_plan(directory)
        if plan:
            earlier.append(plan.parameters)
    for parameters in earlier:
        # Of captions alone the precision is float32, which says nothing about images.
        if parameters.get("of") != "text" and parameters.get("precision"):
            return str(parameters["precision"])
    return fastest_precision(str(best_device()))
