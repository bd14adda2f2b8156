"""Do two artifacts belong together? A mismatch names both sides and the command that cures it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.artifact import Artifact, all_with_fingerprint
from storage.embeddings import of_what
from storage.errors import ArtifactMismatch

VECTORS = {"image": "images", "text": "captions", "document": "images with their captions"}
"""What is embedded -> what a person is told the vectors are of."""


def encoder_text(artifact: Artifact) -> str:
    """The encoder of an artifact in a few words, and what was embedded if it was no image."""
    encoder, of = artifact.parameters["encoder"], of_what(artifact)
    told = f"{encoder['model']} with weights {encoder['weights_sha256']} ({encoder['dimension']}-d)"
    return told if of == "image" else f"{told} of {VECTORS[of]}"


def encoder_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Which entries of two encoders' records differ, those of their preprocessing by name:
    "dimension, resized_as".
    """
    flat, other_flat = ({**record, **record["preprocessing"]} for record in (one, other))
    names = (flat.keys() | other_flat.keys()) - {"preprocessing"}
    return ", ".join(sorted(name for name in names if flat.get(name) != other_flat.get(name)))


def same_encoder(one: Artifact, other: Artifact) -> None:
    """Raise ArtifactMismatch unless both were embedded by one encoder, weights and preprocessing
    included.
    """
    if one.parameters["encoder"] != other.parameters["encoder"]:
        raise ArtifactMismatch(
            f"{one.kind}/{one.name} and {other.kind}/{other.name}",
            f"they come from different encoders: {encoder_text(one)}, and {encoder_text(other)}; "
            "these differ in "
            + encoder_difference(one.parameters["encoder"], other.parameters["encoder"]),
            "Embed one of them again with the other's encoder: "
            "rdm build --set encoder=... --set weights=...",
        )


def same_vectors(embeddings: Artifact, of: str, whose: str) -> None:
    """Raise ArtifactMismatch unless the vectors are of what `whose` vectors are of."""
    if of_what(embeddings) != of:
        raise ArtifactMismatch(
            f"embeddings/{embeddings.name}",
            f"its vectors are of {VECTORS[of_what(embeddings)]}, those of {whose} of {VECTORS[of]}",
            f"Name a database built with of={of}: rdm build --name ... --set of={of}",
        )


def vectors_of_images(embeddings: Artifact, why: str, instead: str = "") -> None:
    """Raise ArtifactMismatch unless the vectors are of images alone: `why` they must be, and what
    can be done `instead` of embedding them.
    """
    if of_what(embeddings) != "image":
        cure = "Embed the images under another name: rdm build --name ... --set of=image"
        raise ArtifactMismatch(
            f"embeddings/{embeddings.name}",
            f"its vectors are of {VECTORS[of_what(embeddings)]}; {why}",
            f"{cure}; or {instead}." if instead else f"{cure}",
        )


def made_with(artifact: Artifact, role: str, other: Artifact) -> None:
    """Raise ArtifactMismatch unless `artifact` records `other` as its input in that role."""
    if artifact.inputs.get(role) != other.fingerprint:
        raise ArtifactMismatch(
            f"{artifact.kind}/{artifact.name}",
            f"made with {role} {artifact.inputs.get(role)}, "
            f"while {other.kind}/{other.name} is {other.fingerprint}",
            f"Make it again, or name the version it was made with: {other.name}@<id>.",
        )


def same_shards(root: Path, latents: Artifact, neighbors: Artifact) -> None:
    """Raise ArtifactMismatch unless latents and the table's queries go back to the same shards.

    Their keys may agree all the same: a new crop of an image keeps its key.
    """
    searched_for = shards_behind(root, "embeddings", neighbors.inputs["queries"])
    encoded = shards_behind(root, "latents", latents.fingerprint)
    if not searched_for & encoded:
        shards, others = (" or ".join(sorted(found)) for found in (encoded, searched_for))
        gone = "embeddings that are no longer under this root"
        whence = f"shards {others}" if others else gone
        raise ArtifactMismatch(
            f"latents/{latents.name} and neighbors/{neighbors.name}",
            f"the latents come from shards {shards}, the neighbors from {whence}",
            "Embed, find neighbors and encode again from one version of the shards.",
        )


def shards_behind(root: Path, kind: str, fingerprint: str) -> frozenset[str]:
    """Fingerprints of all shards that gave these bytes; none where no such artifact is left.

    There may be several: an image that is rejected is a row of its shards, and of nothing else.
    """
    found = all_with_fingerprint(root, kind, fingerprint)
    return frozenset(artifact.inputs["shards"] for artifact in found if "shards" in artifact.inputs)
