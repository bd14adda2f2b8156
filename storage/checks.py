"""Do two artifacts belong together? A mismatch names both sides and the command that cures it."""

from storage.artifact import Artifact
from storage.errors import ArtifactMismatch


def encoder_text(artifact: Artifact) -> str:
    """The encoder of an artifact in a few words."""
    encoder = artifact.parameters["encoder"]
    return f"{encoder['model']} with weights {encoder['weights_sha256']} ({encoder['dimension']}-d)"


def same_encoder(one: Artifact, other: Artifact) -> None:
    """Raise ArtifactMismatch unless both were embedded by one encoder, weights and preprocessing included."""
    if one.parameters["encoder"] != other.parameters["encoder"]:
        raise ArtifactMismatch(
            f"{one.kind}/{one.name} and {other.kind}/{other.name}",
            f"they come from different encoders: {encoder_text(one)}, and {encoder_text(other)}",
            "Embed one of them again with the other's encoder: rdm build --set encoder=... --set weights=...",
        )


def made_with(artifact: Artifact, role: str, other: Artifact) -> None:
    """Raise ArtifactMismatch unless `artifact` records `other` as its input in that role."""
    if artifact.inputs.get(role) != other.fingerprint:
        raise ArtifactMismatch(
            f"{artifact.kind}/{artifact.name}",
            f"made with {role} {artifact.inputs.get(role)}, while {other.kind}/{other.name} is {other.fingerprint}",
            f"Make it again, or name the version it was made with: {other.name}@<id>.",
        )
