"""An unfinished training goes on with the versions it began with, whatever was published since.

A run is never begun anew in silence: where its checkpoint cannot be gone on from, it is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.config.train import TrainRDM
from flows.run.progress import say
from storage.artifact import Artifact, all_with_fingerprint, check, is_current
from storage.errors import ArtifactDamaged, BuildRefused
from storage.manifest import Plan, read_plan
from storage.runs import latest_step
from storage.unfinished import unfinished

KINDS = {
    "latents": "latents",
    "neighbors": "neighbors",
    "database": "embeddings",
    "index": "index",
    "start_from": "runs",
}
"""Role of a run's input -> its kind."""
OF_INPUTS = ("encoder", "space")
"""Parameters in a run's plan that its inputs bring along."""


@dataclass(frozen=True)
class Begun:
    """An unfinished run that holds a checkpoint."""

    directory: Path
    plan: Plan
    step: int

    @property
    def steps(self) -> int:
        """Steps that it was asked for."""
        return self.plan.parameters["training"]["steps"]


def begun(directory: Path) -> Begun | None:
    """The unfinished run in a directory; None without a checkpoint or for a plan without steps."""
    plan, step = read_plan(directory), latest_step(directory)
    if plan is None or step is None or "steps" not in plan.parameters.get("training", {}):
        return None
    return Begun(directory, plan, step)


def at_step(step: int, steps: int) -> str:
    """How far a run has come, in words."""
    return f"step {step:,} of {steps:,}"


def begun_alike(config: TrainRDM, learned: Mapping[str, Any]) -> list[Begun]:
    """Unfinished runs of this name that learn the same, on whatever inputs; those that began with
    another run's weights, or none, as is asked for now first, and of these the furthest.
    """
    found = [run for path in unfinished(config.root, "runs", config.name) if (run := begun(path))]
    alike = [run for run in found if _without(run.plan.parameters) == _without(learned)]
    # One of another format would not be found again under its id.
    alike = [run for run in alike if run.plan.id == run.directory.name]
    started = config.start_from is not None
    nearest = [(("start_from" in run.plan.inputs) == started, run.step) for run in alike]
    return [alike[i] for i in sorted(range(len(alike)), key=nearest.__getitem__, reverse=True)]


def inputs_begun_with(config: TrainRDM, run: Begun) -> dict[str, Artifact]:
    """The versions that an unfinished run was begun with, under the names asked for now; says so.

    Raises BuildRefused when one of them is gone, damaged, or not what is asked for.
    """
    began = config.start_from or "start_from" in run.plan.inputs
    roles = [role for role in KINDS if role != "start_from" or began]
    found = {role: _version(config, role, run.plan.inputs.get(role, "")) for role in roles}
    inputs = {role: one for role, one in found.items() if isinstance(one, Artifact)}
    if len(inputs) < len(roles):
        told = ", ".join(f"{role} {_named(one)}" for role, one in found.items())
        what = f"the unfinished run {run.directory.name}, {at_step(run.step, run.steps)}, "
        raise BuildRefused(f"runs/{config.name}", what + f"was begun on {told}", _cure(config))
    told = ", ".join(f"{role} {_named(one)}" for role, one in inputs.items())
    text = f"continues on the versions it began with: {told}; newer ones are there. "
    say("train", config.name, text + f"To train on those instead: {_drop(config)}")
    return inputs


def _without(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in parameters.items() if key not in OF_INPUTS}


def _version(config: TrainRDM, role: str, fingerprint: str) -> Artifact | str:
    """The version with these bytes that the reference in this role means, or why there is none."""
    reference = getattr(config, "database" if role == "index" else role) or "none"
    if not fingerprint:
        return f"none, while {reference} is asked for"
    name, _, identity = reference.partition("@")
    same = all_with_fingerprint(config.root, KINDS[role], fingerprint)
    named = [one for one in same if one.name == name]
    if identity and role != "index":
        named = [one for one in named if one.id == identity]
    if not named:
        other = f"{same[-1].name}@{same[-1].id}, while {reference} is asked for" if same else ""
        return other or f"{fingerprint}, which is no longer under this root"
    damaged = ""
    # Of versions with the same bytes the current one first, then the newest.
    for version in sorted(reversed(named), key=lambda one: not is_current(config.root, one)):
        try:
            check(version, hashes=False)
        except ArtifactDamaged as error:
            damaged = f"{_named(version)}, which is damaged ({error.what})"
        else:
            return version
    return damaged


def _named(one: Artifact | str) -> str:
    return one if isinstance(one, str) else f"{one.name}@{one.id}"


def _drop(config: TrainRDM) -> str:
    return f"rdm gc --unfinished runs/{config.name}"


def _cure(config: TrainRDM) -> str:
    return (
        "Name or restore what it was begun on to finish it, take another --name, "
        f"or drop it and begin on what is asked for: {_drop(config)}"
    )
