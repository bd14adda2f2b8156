"""Do two artifacts belong together? A mismatch names both sides and the command that cures it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.artifact import Artifact, all_with_fingerprint, with_fingerprint
from storage.embeddings import of_what
from storage.errors import ArtifactMismatch

VECTORS = {"image": "images", "text": "captions", "document": "images with their captions"}
"""What is embedded -> what a person is told the vectors are of."""


def encoder_text(artifact: Artifact) -> str:
    """The encoder of an artifact in a few words, and what was embedded if it was no image."""
    encoder, of = artifact.parameters["encoder"], of_what(artifact)
    text = f"{encoder['model']} with weights {encoder['weights_sha256']} ({encoder['dimension']}-d)"
    return text if of == "image" else f"{text} of {VECTORS[of]}"


def encoder_difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Which entries of two encoders' records differ, those of their preprocessing by name:
    "dimension, resized_as".
    """
    # One level: an entry of the preprocessing is named as any other.
    first = {**first, **first["preprocessing"]}
    second = {**second, **second["preprocessing"]}
    differing = []
    for name in sorted(first.keys() | second.keys()):
        if name != "preprocessing" and first.get(name) != second.get(name):
            differing.append(name)
    return ", ".join(differing)


def same_encoder(first: Artifact, second: Artifact) -> None:
    """Raise ArtifactMismatch unless both were embedded by one encoder, weights and preprocessing
    included.
    """
    encoder, second_encoder = first.parameters["encoder"], second.parameters["encoder"]
    if encoder != second_encoder:
        raise ArtifactMismatch(
            f"{first.kind}/{first.name} and {second.kind}/{second.name}",
            f"they come from different encoders: {encoder_text(first)}, and "
            f"{encoder_text(second)}; these differ in "
            + encoder_difference(encoder, second_encoder),
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
    # Of the queries: their neighbors may come from any database.
    of_neighbors = shards_behind(root, "embeddings", neighbors.inputs["queries"])
    of_latents = shards_behind(root, "latents", latents.fingerprint)
    if not of_neighbors & of_latents:
        origin = f"shards {' or '.join(sorted(of_neighbors))}"
        if not of_neighbors:
            origin = "embeddings that are no longer under this root"
        raise ArtifactMismatch(
            f"latents/{latents.name} and neighbors/{neighbors.name}",
            f"the latents come from shards {' or '.join(sorted(of_latents))}, "
            f"the neighbors from {origin}",
            "Embed, find neighbors and encode again from one version of the shards.",
        )


def shards_behind(root: Path, kind: str, fingerprint: str) -> frozenset[str]:
    """Fingerprints of all shards that gave these bytes; none where no such artifact is left.

    There may be several: an image that is rejected is a row of its shards, and of nothing else.
    """
    equal = all_with_fingerprint(root, kind, fingerprint)
    return frozenset(artifact.inputs["shards"] for artifact in equal if "shards" in artifact.inputs)


def shards_of(root: Path, artifact: Artifact) -> Artifact | None:
    """The images that an artifact was made of; None where they are not under this root, as those
    of a database whose vectors alone were published never are.
    """
    fingerprint = artifact.inputs.get("shards")
    return with_fingerprint(root, "shards", fingerprint) if fingerprint else None


def images_missing(artifact: Artifact) -> tuple[str, str]:
    """What to say where an artifact's images are needed and `shards_of` gives none: what, cure."""
    fingerprint = artifact.inputs.get("shards")
    if fingerprint is None:
        what = "it was made of published vectors; their images were never published"
        return what, "Use a database that was built from images: rdm import, then rdm build."
    return f"no shards have the fingerprint {fingerprint}", "Import its images again."
