"""A run's weights, ready to compute, and the database it draws from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.database import OpenDatabase, searchable
from flows.encoders import the_encoder
from rdm_core.clip import Encoder
from rdm_core.config import NoiseConfig
from rdm_core.denoiser import Denoiser, load_denoiser
from rdm_core.device import best_device
from rdm_core.latents import LatentSpace, load_latent_space
from rdm_core.noise import Process, process_of
from storage.artifact import Artifact, open_artifact
from storage.checks import encoder_difference, encoder_text, same_vectors
from storage.errors import ArtifactMismatch


@dataclass(frozen=True)
class OpenRun:
    """A run's weights, ready to draw."""

    artifact: Artifact
    denoiser: Denoiser
    process: Process
    space: LatentSpace
    facts: dict[str, Any]

    @property
    def sampler(self) -> str | None:
        """What to draw with unless something is asked for: a run of 2022 as it was then; None: the
        process's plain one.
        """
        return "ddim-2022" if self.facts.get("converted_from") else None

    @property
    def encoder(self) -> Encoder:
        """The encoder of its contexts; raises what `the_encoder` raises."""
        return the_encoder(
            self.facts["encoder"],
            self.facts["encoder_weights"],
            f"runs/{self.artifact.name}",
            "train again",
        )


def open_run(root: Path, reference: str) -> OpenRun:
    """Load a run's weights onto the best device."""
    artifact = open_artifact(root, "runs", reference)
    denoiser, facts = load_denoiser(artifact.file("weights"))
    inside = (
        artifact.file("weights") / facts["space"]["path"]
    )  # a converted run brings its autoencoder
    space = load_latent_space(str(inside if inside.is_dir() else facts["space"]["path"])).to(
        best_device()
    )
    wanted = {key: value for key, value in facts["space"].items() if key != "path"}
    if space.identity != wanted:
        raise ArtifactMismatch(
            f"autoencoder {facts['space']['path']!r}",
            f"its weights are {space.weights_sha256} now, {artifact.name!r} was trained with {wanted['weights_sha256']}",
            "Put the original autoencoder back, or train again.",
        )
    return OpenRun(
        artifact,
        denoiser.to(best_device()),
        process_of(NoiseConfig(**facts["noise"])),
        space,
        facts,
    )


def open_database(root: Path, reference: str, run: OpenRun) -> OpenDatabase:
    """Open a database for a run. Any database of the run's encoder will do.

    Raises ArtifactMismatch when it was embedded by another encoder, or its vectors are of something
    else than those the run was trained with, and what `searchable` raises.
    """
    embeddings = open_artifact(root, "embeddings", reference)
    if embeddings.parameters["encoder"] != run.facts["encoder"]:
        model = run.facts["encoder"]
        raise ArtifactMismatch(
            f"database {reference!r}",
            f"embedded by {encoder_text(embeddings)}, while the run {run.artifact.name!r} was trained with "
            f"{model['model']} with weights {model['weights_sha256']} ({model['dimension']}-d); these differ in "
            + encoder_difference(embeddings.parameters["encoder"], model),
            f"Build it again with the run's encoder: rdm build --name {embeddings.name} --set encoder={model['model']} ...",
        )
    same_vectors(embeddings, run.facts.get("of", "image"), f"the run {run.artifact.name!r}")
    return searchable(root, embeddings)
