"""An unfinished training goes on with the versions it began with, whatever was published since.

A run is never begun anew in silence: where its checkpoint cannot be gone on from, it is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.config.train import TrainRDM
from flows.run.progress import say
from storage.artifact import (
    Artifact,
    all_with_fingerprint,
    check,
    is_current,
    open_artifact,
    with_fingerprint,
)
from storage.errors import ArtifactDamaged, BuildRefused, StorageError
from storage.manifest import Plan, read_plan
from storage.runs import latest_step
from storage.unfinished import unfinished

KINDS = {
    "latents": "latents",
    "neighbors": "neighbors",
    "database": "embeddings",
    "index": "index",
    "neighbor_images": "latents",
    "start_from": "runs",
}
"""Role of a run's input -> its kind."""
OF_INPUTS = {"runs": ("encoder", "space"), "autoencoders": ("features",)}
"""Kind of a training -> parameters in its plan that its inputs bring along."""
SETTINGS = {"runs": "training", "autoencoders": "autoencoder"}
"""Kind of a training -> the parameter that holds how many steps it is asked for."""


@dataclass(frozen=True)
class Begun:
    """An unfinished training, a run or an autoencoder, that holds a checkpoint."""

    directory: Path
    plan: Plan
    step: int

    @property
    def steps(self) -> int:
        """Steps that it was asked for."""
        return self.plan.parameters[SETTINGS[self.plan.kind]]["steps"]


def begun(directory: Path) -> Begun | None:
    """The unfinished training in a directory; None without a checkpoint or for a plan without
    steps.
    """
    plan, step = read_plan(directory), latest_step(directory)
    if plan is None or step is None:
        return None
    if "steps" not in plan.parameters.get(SETTINGS.get(plan.kind, ""), {}):
        return None
    return Begun(directory, plan, step)


def at_step(step: int, steps: int) -> str:
    """How far a run has come, in words."""
    return f"step {step:,} of {steps:,}"


def unfinished_alike(root: Path, kind: str, name: str, learned: Mapping[str, Any]) -> list[Begun]:
    """Unfinished trainings of a kind and name that learn the same, whatever their inputs are; first
    the one that has done the most steps.
    """
    wanted = _without_inputs(kind, learned)
    alike = []
    for path in unfinished(root, kind, name):
        run = begun(path)
        if run is None or _without_inputs(kind, run.plan.parameters) != wanted:
            continue
        # One of another format would not be found again under its id.
        if run.plan.id == run.directory.name:
            alike.append(run)
    return sorted(alike, key=lambda run: run.step, reverse=True)


def begun_alike(config: TrainRDM, learned: Mapping[str, Any]) -> list[Begun]:
    """Unfinished runs of this name that learn the same, whatever their inputs are.

    First come those that began with the weights that are asked for now (of a run, or fresh ones);
    among equals, the one that has done the most steps.
    """
    alike = unfinished_alike(config.root, "runs", config.name, learned)

    def nearness(run: Begun) -> tuple[bool, int]:
        begins_alike = ("start_from" in run.plan.inputs) == (config.start_from is not None)
        return begins_alike, run.step

    return sorted(alike, key=nearness, reverse=True)


def inputs_begun_with(config: TrainRDM, run: Begun) -> dict[str, Artifact]:
    """The versions that an unfinished run was begun with, under the names asked for now; says so,
    and whether there are newer ones.

    Raises BuildRefused when one of them is gone, damaged, or not what is asked for.
    """
    from_weights = config.start_from or "start_from" in run.plan.inputs
    inputs, descriptions, newer = {}, [], False
    for role in KINDS:
        if role == "start_from" and not from_weights:
            continue
        fingerprint = run.plan.inputs.get(role, "")
        if role == "neighbor_images":  # found by what is in it: no parameter names it
            if not fingerprint:
                continue
            found = with_fingerprint(config.root, KINDS[role], fingerprint)
            reference = found.name if found else "the database's images"
        else:
            reference = getattr(config, "database" if role == "index" else role) or "none"
        if role == "index":
            # The reference is the database's, and its id is not the index's.
            reference = reference.partition("@")[0]
        version = _version_or_reason(config.root, KINDS[role], reference, fingerprint)
        if isinstance(version, Artifact):
            inputs[role] = version
            descriptions.append(f"{role} {version.name}@{version.id}")
            of_one_version = role == "index" and "@" in config.database
            if not of_one_version and is_there_newer(config.root, version, reference):
                newer = True
        else:
            descriptions.append(f"{role} {version}")
    versions = ", ".join(descriptions)
    if len(inputs) < len(descriptions):
        what = f"the unfinished run {run.directory.name}, {at_step(run.step, run.steps)}, "
        raise BuildRefused(f"runs/{config.name}", what + f"was begun on {versions}", _cure(run))
    text = f"continues on the versions it began with: {versions}"
    if newer:
        text += f"; newer ones are there. To train on those instead: {drop(run)}"
    say("train", config.name, text)
    return inputs


def shards_begun_with(root: Path, training: Begun, reference: str) -> Artifact:
    """The version of the shards that an unfinished autoencoder was begun with, under the name asked
    for now. Raises BuildRefused when it is gone, damaged, or not what is asked for.
    """
    plan, fingerprint = training.plan, training.plan.inputs.get("shards", "")
    version = _version_or_reason(root, "shards", reference, fingerprint)
    if not isinstance(version, Artifact):
        where = at_step(training.step, training.steps)
        what = f"the unfinished training {training.directory.name}, {where}, was begun on shards "
        raise BuildRefused(f"{plan.kind}/{plan.name}", what + version, _cure(training))
    return version


def say_shards_begun_with(root: Path, training: Begun, shards: Artifact, reference: str) -> None:
    """Say which shards an unfinished autoencoder goes on with, and whether there are newer ones."""
    text = f"continues on the version it began with: shards {shards.name}@{shards.id}"
    if is_there_newer(root, shards, reference):
        text += f"; a newer one is there. To train on that: {drop(training)}"
    say("autoencoder", training.plan.name, text)


def is_there_newer(root: Path, version: Artifact, reference: str) -> bool:
    """Whether the reference means other bytes by now; not where what it means cannot be read."""
    try:
        current = open_artifact(root, version.kind, reference)
    except StorageError:  # deleted, or half rebuilt
        return False
    return current.fingerprint != version.fingerprint


def _without_inputs(kind: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in parameters.items() if key not in OF_INPUTS[kind]}


def _version_or_reason(root: Path, kind: str, reference: str, fingerprint: str) -> Artifact | str:
    """The version with these bytes that the reference means, or why there is none."""
    if not fingerprint:
        return f"none, while {reference} is asked for"
    name, _, identity = reference.partition("@")
    same_bytes = all_with_fingerprint(root, kind, fingerprint)
    candidates = []
    for version in same_bytes:
        if version.name == name and identity in ("", version.id):
            candidates.append(version)
    if not candidates and same_bytes:
        newest = same_bytes[-1]
        return f"{newest.name}@{newest.id}, while {reference} is asked for"
    if not candidates:
        return f"{fingerprint}, which is no longer under this root"
    damaged = ""
    # Of versions with the same bytes the current one first, then the newest.
    candidates.sort(key=lambda version: is_current(root, version))
    for version in reversed(candidates):
        try:
            check(version, hashes=False)
        except ArtifactDamaged as error:
            damaged = f"{version.name}@{version.id}, which is damaged ({error.what})"
        else:
            return version
    return damaged


def drop(run: Begun) -> str:
    """The command that drops an unfinished training."""
    return f"rdm gc --unfinished {run.plan.kind}/{run.plan.name}"


def _cure(run: Begun) -> str:
    return (
        "Name or restore what it was begun on to finish it, take another --name, "
        f"or drop it and begin on what is asked for: {drop(run)}"
    )
