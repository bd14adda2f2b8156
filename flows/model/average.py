"""run --snapshots of its means--> the same network with a running mean of another length."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from flows.config.train import AverageRun
from flows.model.opening import facts_of, space_of_run
from flows.run.progress import Clock
from flows.run.revisions import plan_of
from flows.run.stage import building, kept, published, single_part, stage_flow, stage_task
from rdm_core.averages import FAR, LENGTHS, mixed, mixture
from rdm_core.families import load_model
from rdm_core.families.family import set_parameters
from storage.artifact import Artifact, open_artifact
from storage.build import Build
from storage.errors import StorageError
from storage.manifest import Part, Plan
from storage.runs import METRICS_FILE, read_metrics, read_snapshot, snapshots_of


@stage_flow("average-run")
def average_run(config: AverageRun) -> Artifact:
    """Publish a run's weights as they would be with a running mean of `length`, chosen after
    training.

    snapshots --least squares--> weights (diffusers folder). Raises StorageError when the run kept
    no snapshots.
    """
    clock = Clock()
    run = open_artifact(config.root, "runs", config.run)
    with building(config.root, average_plan(config, run)) as build:
        if build.finished:
            return kept(build)
        snapshots = snapshots_of(run)
        if not snapshots:
            cure = "Train with --set training.posthoc_ema=true."
            raise StorageError(
                f"runs/{run.name}", "it kept no snapshots of its means to mix others of", cure
            )
        # Each snapshot holds one running mean of each length, in this order.
        lengths: list[float] = []
        steps: list[int] = []
        for step in snapshots:
            lengths += LENGTHS
            steps += [step] * len(LENGTHS)
        shares, distance = mixture(lengths, steps, config.length, max(snapshots))
        if distance > FAR:
            what = (
                f"its {len(snapshots)} snapshots give no mean of length {config.length} "
                f"(the profile is {distance:.2f} off)"
            )
            cure = (
                "Ask for a length between 0.05 and 0.1, or train with a smaller "
                "training.snapshot_steps."
            )
            raise StorageError(f"runs/{run.name}", what, cure)
        parts = write_average(build, run, list(snapshots.values()), shares, config)
        measured = {"profile_distance": round(distance, 4), "snapshots": len(snapshots)}
        return published(build, parts, clock, final_loss=run.measured["final_loss"], **measured)


def average_plan(config: AverageRun, run: Artifact | None = None) -> Plan:
    """The run, its parameters and the length. With the parameters of its run in its plan, an
    averaged run is read like any other.
    """
    run = run or open_artifact(config.root, "runs", config.run)
    return plan_of(
        "runs",
        config.name,
        {**run.parameters, "length": config.length},
        {**run.inputs, "run": run.fingerprint},
    )


@stage_task(name="write-average")
def write_average(
    build: Build, run: Artifact, files: list[Path], shares: np.ndarray, config: AverageRun
) -> list[Part]:
    """The weights with the mixed parameters, and the metrics of the run."""

    def write_weights(scratch: Path) -> tuple[int, dict[str, int]]:
        facts = facts_of(run)
        model = load_model(run.file("weights"), facts, space_of_run(config.root, run, facts))
        names = [name for name, _ in model.named_parameters()]
        shares_of_files = shares.reshape(-1, len(LENGTHS))
        # One snapshot is in memory at a time: each is as large as the weights.
        set_parameters(model, mixed(map(read_snapshot, files), shares_of_files, names))
        (scratch / "weights").mkdir()
        model.save(scratch / "weights", replace(facts, ema_length=config.length))
        card = (run.file("weights") / "README.md").read_text(encoding="utf-8")
        mean = (
            f"{config.name}: the same run with a running mean of length {config.length} "
            f"(arXiv 2312.02696), mixed from {len(files)} snapshots of {run.reference}. "
            f'Use: `rdm sample --run {config.name} --text "..."`.'
        )
        (scratch / "weights" / "README.md").write_text(f"{card}\n{mean}\n", encoding="utf-8")
        return 1, {}

    def write_metrics(scratch: Path) -> tuple[int, dict[str, int]]:
        shutil.copyfile(run.file(METRICS_FILE), scratch / METRICS_FILE)
        return len(read_metrics(scratch / METRICS_FILE)), {}

    return [
        *single_part(build, "weights", write_weights),
        *single_part(build, "metrics", write_metrics),
    ]
