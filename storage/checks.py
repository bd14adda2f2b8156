"""Do two artifacts belong together? A mismatch names both sides and the command that cures it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.artifact import Artifact, all_with_fingerprint
from storage.errors import ArtifactMismatch


def encoder_text(artifact: Artifact) -> str:
    """The encoder of an artifact in a few words."""
    encoder = artifact.parameters["encoder"]
    return f"{encoder['model']} with weights {encoder['weights_sha256']} ({encoder['dimension']}-d)"


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
