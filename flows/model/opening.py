"""A run's weights, ready to compute, and the database it draws from."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from flows.config.drawing import no_number
from flows.data.autoencoder import load_space
from flows.data.database import OpenDatabase, searchable
from flows.data.encoders import the_encoder
from rdm_core.clip import Encoder
from rdm_core.config import DrawConfig
from rdm_core.device import best_device
from rdm_core.errors import RequestError
from rdm_core.families import FACTS_FILE, draw_settings, load_model, read_facts
from rdm_core.families.facts import RunFacts
from rdm_core.families.family import Model
from rdm_core.latents import LatentSpace
from storage.artifact import Artifact, open_artifact
from storage.checks import encoder_difference, encoder_text, same_vectors
from storage.errors import ArtifactMismatch


@dataclass(frozen=True)
class OpenRun:
    """A run's weights, ready to draw."""

    artifact: Artifact
    model: Model
    facts: RunFacts

    @property
    def encoder(self) -> Encoder:
        """The encoder of its contexts; raises what `the_encoder` raises."""
        where = f"runs/{self.artifact.name}"
        return the_encoder(self.facts.encoder, self.facts.encoder_weights, where, "train again")


def facts_of(run: Artifact) -> RunFacts:
    """What a run says of itself, without loading its weights. Raises what `read_facts` raises."""
    return read_facts(run.file(f"weights/{FACTS_FILE}").parent)


def drawn_how(facts: RunFacts, settings: Mapping[str, Any]) -> DrawConfig:
    """The settings of a run's family, with what was asked for in place of its defaults.

    Raises RequestError naming a setting that the family does not have, or that is out of range.
    """
    kind = draw_settings(facts.family)
    released = kind.as_released() if facts.converted_from else {}
    type_of_setting = {setting.name: setting.type for setting in fields(kind)}
    problems, valid = [], {}
    for name, value in settings.items():
        if name not in type_of_setting:
            problems.append(f"{name} is no setting of the family {facts.family}")
        elif wrong := no_number(type_of_setting[name], value):
            problems.append(f"{name}: {wrong}")
        else:
            valid[name] = value
    # Their ranges are checked too where a name is wrong: all problems are told at once.
    try:
        how = TypeAdapter(kind).validate_python({**released, **valid})
    except ValidationError as error:
        problems += map(_problem, error.errors())
    if problems:
        cure = f"Settings of {facts.family}: {', '.join(type_of_setting)}."
        raise RequestError("draw", "; ".join(problems), cure)
    return how


def _problem(error: Any) -> str:
    """One error of pydantic's in our words. Numbers in its path are places in a list."""
    name = ".".join(str(step) for step in error["loc"] if not isinstance(step, int))
    message = error["msg"].removeprefix("Value error, ")
    return f"{name}: {message}" if name else message


def open_run(root: Path, reference: str) -> OpenRun:
    """Load a run's weights onto the best device.

    Raises ArtifactMismatch when its autoencoder is another one now, or, where it reads captions,
    its encoder; and WeightsError when its weights are not those of a run of this version.
    """
    artifact = open_artifact(root, "runs", reference)
    facts = facts_of(artifact)
    space = space_of_run(root, artifact, facts).to(best_device())
    model = load_model(artifact.file("weights"), facts, space).to(best_device())
    run = OpenRun(artifact, model, facts)
    if model.reads.captions:
        model.set_encoder(run.encoder)
    return run


def same_space(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two records of a latent space mean the same: their autoencoders may go by different
    names, such as folders; the hash of the weights says which it is.
    """
    nameless = {"autoencoder": None}
    return {**first, **nameless} == {**second, **nameless}


def space_of_run(root: Path, artifact: Artifact, facts: RunFacts) -> LatentSpace:
    """The latent space of a run. Raises ArtifactMismatch when its weights are others now."""
    inside = artifact.file("weights") / facts.space_path  # a converted run brings its autoencoder
    space = load_space(root, str(inside) if inside.is_dir() else facts.space_path)
    if space.identity != facts.space:
        was = facts.space["weights_sha256"]
        raise ArtifactMismatch(
            f"autoencoder {facts.space_path!r}",
            f"its weights are {space.weights_sha256} now, {artifact.name!r} was trained with {was}",
            "Put the original autoencoder back, or train again.",
        )
    return space


def open_database(root: Path, reference: str, run: OpenRun) -> OpenDatabase:
    """Open a database for a run. Any database of the run's encoder will do.

    Raises ArtifactMismatch when it was embedded by another encoder, or its vectors are of something
    else than those the run was trained with, and what `searchable` raises.
    """
    embeddings = open_artifact(root, "embeddings", reference)
    model = run.facts.encoder
    if embeddings.parameters["encoder"] != model:
        difference = encoder_difference(embeddings.parameters["encoder"], model)
        raise ArtifactMismatch(
            f"database {reference!r}",
            f"embedded by {encoder_text(embeddings)}, while the run {run.artifact.name!r} was "
            f"trained with {model['model']} with weights {model['weights_sha256']} "
            f"({model['dimension']}-d); these differ in {difference}",
            f"Build it again with the run's encoder: rdm build --name {embeddings.name} "
            f"--set encoder={model['model']} ...",
        )
    same_vectors(embeddings, run.facts.vectors_of, f"the run {run.artifact.name!r}")
    return searchable(root, embeddings)
