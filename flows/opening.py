"""From names to things that compute: a run's weights, and a database that can be searched."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flows.build_database import encoder_of
from rdm_core.clip import Encoder
from rdm_core.config import NoiseConfig
from rdm_core.denoiser import Denoiser, load_denoiser
from rdm_core.device import best_device
from rdm_core.latents import LatentSpace, load_latent_space
from rdm_core.noise import Process, process_of
from rdm_core.retrieve import Database
from rdm_core.search import Searcher
from storage.artifact import Artifact, open_artifact, with_fingerprint
from storage.checks import encoder_difference, encoder_text
from storage.embeddings import read_columns
from storage.errors import ArtifactMismatch
from storage.index import faiss_file, open_index_of, open_norms, open_vectors
from storage.shards import CREDIT_COLUMNS, read_some_images


@dataclass(frozen=True)
class OpenRun:
    """A run's weights, ready to draw."""

    artifact: Artifact
    denoiser: Denoiser
    process: Process
    space: LatentSpace
    facts: dict[str, Any]

    @property
    def encoder(self) -> Encoder:
        """The encoder of its contexts; raises what `the_encoder` raises."""
        return the_encoder(self.facts["encoder"], self.facts["encoder_weights"], f"runs/{self.artifact.name}", "train again")


@dataclass(frozen=True)
class OpenDatabase:
    """A database, ready to be searched and asked who made its images."""

    embeddings: Artifact
    database: Database
    root: Path
    index: Artifact

    @property
    def encoder(self) -> Encoder:
        """The encoder that embedded it; raises what `the_encoder` raises."""
        made, weights = self.embeddings, self.embeddings.measured["weights"]
        return the_encoder(made.parameters["encoder"], weights, f"embeddings/{made.name}", "build the database again")

    def credits(self, rows: list[int]) -> list[dict[str, Any]]:
        """key, source_key, captions, labels, style, author, licence and source url of some rows."""
        table = read_columns(self.embeddings, ["key", "source_key", *CREDIT_COLUMNS])
        return table.take(np.asarray(rows, dtype=np.int64)).to_pylist()

    def images(self, keys: list[str]) -> dict[str, bytes]:
        """Encoded images by key; none when the shards are no longer under this root."""
        shards = with_fingerprint(self.root, "shards", self.embeddings.inputs["shards"])
        return read_some_images(shards, keys) if shards else {}


def open_run(root: Path, reference: str) -> OpenRun:
    """Load a run's weights onto the best device."""
    artifact = open_artifact(root, "runs", reference)
    denoiser, facts = load_denoiser(artifact.file("weights"))
    inside = artifact.file("weights") / facts["space"]["path"]  # a converted run brings its autoencoder
    space = load_latent_space(str(inside if inside.is_dir() else facts["space"]["path"])).to(best_device())
    wanted = {key: value for key, value in facts["space"].items() if key != "path"}
    if space.identity != wanted:
        raise ArtifactMismatch(
            f"autoencoder {facts['space']['path']!r}",
            f"its weights are {space.weights_sha256} now, {artifact.name!r} was trained with {wanted['weights_sha256']}",
            "Put the original autoencoder back, or train again.",
        )
    return OpenRun(artifact, denoiser.to(best_device()), process_of(NoiseConfig(**facts["noise"])), space, facts)


def the_encoder(wanted: dict[str, Any], weights: str, whose: str, again: str) -> Encoder:
    """The encoder with the identity `wanted`, from weights of that name, for one who was made with it.

    Raises ArtifactMismatch when what loads now has other weights, or prepares images in another way.
    """
    encoder = encoder_of(wanted["model"], weights)
    if encoder.identity == wanted:
        return encoder
    where = f"encoder {wanted['model']!r}"
    if encoder.weights_sha256 != wanted["weights_sha256"]:
        what = f"weights {weights!r} are {encoder.weights_sha256} now, {whose} was made with {wanted['weights_sha256']}"
        raise ArtifactMismatch(where, what, f"Put the original weights back, or {again}.")
    what = f"its weights are those {whose} was made with, but its {encoder_difference(wanted, encoder.identity)} is not"
    raise ArtifactMismatch(where, what, f"{again[0].upper()}{again[1:]}, or use the version of rdm that made it.")


def open_database(root: Path, reference: str, run: OpenRun) -> OpenDatabase:
    """Open a database for a run. Any database of the run's encoder will do.

    Raises ArtifactMismatch when it was embedded by another encoder, and what `searchable` raises.
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
    return searchable(root, embeddings)


def searchable(root: Path, embeddings: Artifact) -> OpenDatabase:
    """Open the index over some embeddings. Raises ArtifactMismatch when its rows are not theirs."""
    index = open_index_of(root, embeddings)
    vectors, norms = open_vectors(index), np.asarray(open_norms(index))
    expected = (embeddings.rows, embeddings.parameters["encoder"]["dimension"])
    if vectors.shape != expected or norms.shape != expected[:1]:
        raise ArtifactMismatch(
            f"index/{index.name}",
            f"it holds {len(norms)} norms and vectors {list(vectors.shape)}, the embeddings are {list(expected)}",
            f"Remove {index.directory} and build the database again: rdm build --name {index.name} ...",
        )
    return OpenDatabase(embeddings, Database(Searcher(vectors, faiss_file(index)), norms), root, index)
