"""Trainings: metrics as JSON lines, checkpoints that resume, weights that are used. A run here is
a training of a model, or of an autoencoder, which keeps no snapshots.

<run>/metrics.jsonl               one JSON object a line, `step` in each
<run>/checkpoints/00001000/       state.safetensors, then manifest.json: its existence is completion
<run>/snapshots/00001000.safetensors  means of the weights, where the run keeps them
<run>/weights/                    a diffusers folder, listed in the run's manifest

In an object store each checkpoint has a copy of the metrics up to it.
"""

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save, save_file

from storage import layout
from storage.artifact import Artifact
from storage.atomic import fsync_path, publish, sha256_file, write_bytes, write_json
from storage.errors import ArtifactDamaged, FormatError
from storage.locks import exclusive
from storage.manifest import PartFile
from storage.mirror import path_or_url
from storage.place import place_of
from storage.transfers import on_this_disk

METRICS_FILE = "metrics.jsonl"
STATE_FILE = "state.safetensors"
CHECKPOINTS_KEPT = 2
"""Of an unfinished run: the newest, and the one before it."""
_STEP = re.compile(r"([0-9]{8,})/manifest\.json")  # a whole checkpoint, from checkpoints/


def write_checkpoint(
    run: Path, step: int, arrays: Mapping[str, np.ndarray], keep: int = CHECKPOINTS_KEPT
) -> Path:
    """Publish the state after `step` optimiser steps and drop all but the newest `keep`
    checkpoints.
    """
    target = _checkpoint_directory(run, step)
    scratch = target.with_name(f".{target.name}")
    for leftover in (scratch, target):
        shutil.rmtree(leftover, ignore_errors=True)
    scratch.mkdir(parents=True)
    state = scratch / STATE_FILE
    try:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, state)
    except SafetensorError as error:
        # safetensors puts the number of the system's error into its text: a full disk is an OSError
        # here as everywhere else.
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
    state.chmod(0o644)  # safetensors makes it private
    fsync_path(state)
    write_json(scratch / "manifest.json", {"step": step, "sha256": sha256_file(state)})
    publish(scratch, target)
    _store(target, keep)
    # Older ones go only now, so that there is a whole checkpoint at every moment.
    for old in _whole_checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return target


def write_snapshot(run: Path, step: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Keep means of the weights as float16, with their hash beside; all of them stay until the run
    is published, and in it.
    """
    half = {name: np.ascontiguousarray(array, dtype=np.float16) for name, array in arrays.items()}
    path = _snapshot_file(run, step)
    write_bytes(path, save(half))
    write_json(
        path.with_suffix(".json"), {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    )
    place_of(run).store(path, path.with_suffix(".json"))


def whole_snapshots(run: Path, steps: Iterable[int]) -> list[Path]:
    """The files of the snapshots after these steps, fetched where only a bucket has them.

    Raises ArtifactDamaged for one that is absent or has other bytes than were written.
    """
    paths = [_snapshot_file(run, step) for step in steps]
    for path in paths:
        if not _is_whole(path):
            what = "this snapshot of the weights' means is absent or damaged"
            cure = f"It cannot be made again: delete {layout.checkpoints_directory(run)} "
            raise ArtifactDamaged(path, what, cure + "and train from the start.")
    return paths


def snapshots_of(run: Artifact) -> dict[int, Path]:
    """The files that `write_snapshot` left in a published run, by step, in their order."""
    folder = layout.snapshots_directory(run.directory).name
    snapshots = {}
    for path in sorted(run.files(".safetensors")):
        if path.parent.name == folder:  # not the weights' own file
            snapshots[int(path.stem)] = path
    return snapshots


def read_snapshot(path: Path) -> dict[str, np.ndarray]:
    """The means in one file, float16. Raises FormatError when it is not one."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise FormatError(
            path, f"cannot be read ({error})", "Run `rdm check` on the run."
        ) from error


def latest_checkpoint(run: Path) -> tuple[int, dict[str, np.ndarray]] | None:
    """(step, arrays) of the newest whole checkpoint, or None. In an object store it is fetched,
    with the metrics up to it.

    Raises FormatError, or ArtifactDamaged for one that is fetched, when its bytes are not those
    that were written.
    """
    _fetch_newest(run)
    whole = _whole_checkpoints(run)
    if not whole:
        return None
    path = whole[-1] / STATE_FILE
    cure = f"Delete {whole[-1]} to resume from the checkpoint before it."
    try:
        manifest = json.loads((whole[-1] / "manifest.json").read_bytes())
        if sha256_file(path) != manifest["sha256"]:
            raise FormatError(path, "other bytes than were written", cure)
        return manifest["step"], load_file(path)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise FormatError(path, f"cannot be read ({error})", cure) from error


def latest_step(run: Path) -> int | None:
    """Step of the checkpoint that `latest_checkpoint` gives, without reading or fetching it.

    None when there is none.
    """
    newest = max([_newest_here(run), *_steps_stored(run)])
    return int(newest) if newest else None


def append_metrics(run: Path, record: Mapping[str, Any]) -> None:
    """Add one line; readers may follow the file while it grows."""
    with (run / METRICS_FILE).open("a", encoding="utf-8") as stream:
        stream.write(_metrics_line(record))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Every whole line; a line cut by a crash is left out."""
    if not path.is_file():
        return []
    # What stands after the last line end is empty, or a line that a crash cut.
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def rewind_metrics(run: Path, step: int) -> None:
    """Drop the lines after `step`, so that a resumed run does not log a step twice."""
    kept = ""
    for record in read_metrics(run / METRICS_FILE):
        if record["step"] <= step:
            kept += _metrics_line(record)
    write_bytes(run / METRICS_FILE, kept.encode())


def _metrics_line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, sort_keys=True) + "\n"


def _snapshot_file(run: Path, step: int) -> Path:
    return layout.snapshots_directory(run) / f"{step:08d}.safetensors"


def _is_whole(snapshot: Path) -> bool:
    """Whether a snapshot has the bytes that were written; it is fetched where only a bucket has
    it.
    """
    place, record_file = place_of(snapshot), snapshot.with_suffix(".json")
    try:
        if not snapshot.is_file():
            stored = place.read(record_file)
            if stored is not None:
                write_bytes(record_file, stored)
            record = json.loads(record_file.read_bytes())
            place.fetch([(snapshot, PartFile(snapshot.name, record["bytes"], record["sha256"]))])
        return sha256_file(snapshot) == json.loads(record_file.read_bytes())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _checkpoint_directory(run: Path, step: int) -> Path:
    return layout.checkpoints_directory(run) / f"{step:08d}"


def _whole_checkpoints(run: Path) -> list[Path]:
    """The whole checkpoints on this disk, oldest first."""
    # Their names have leading zeros, so that they sort as numbers do.
    manifests = sorted(layout.checkpoints_directory(run).glob("[0-9]*/manifest.json"))
    return [manifest.parent for manifest in manifests]


# What others see: storage.place


def _store(target: Path, keep: int) -> None:
    """Let others see a checkpoint, its manifest last, and of the others only the newest `keep`."""
    place, run = place_of(target), target.parent.parent
    place.withdraw(target)  # of an earlier attempt: its state is about to be replaced
    if layout.plan_file(run).is_file():
        place.store(layout.plan_file(run))
    if (run / METRICS_FILE).is_file():
        place.store_as(run / METRICS_FILE, target / METRICS_FILE)
    place.store(target / STATE_FILE)
    place.store(target / "manifest.json")
    for step in _steps_stored(run)[:-keep]:
        place.withdraw(target.parent / step)


def _fetch_newest(run: Path) -> None:
    """Fetch the newest checkpoint in the bucket and the metrics up to it, unless this disk has one
    as new.
    """
    checkpoints = layout.checkpoints_directory(run)
    newest = max(_steps_stored(run), default="")
    if _newest_here(run) >= newest:  # steps as texts of equal length; "" where there is none
        return
    with on_this_disk(checkpoints), exclusive(checkpoints / ".fetching", lambda _: None):
        if _newest_here(run) < newest:  # else another process of this run has fetched it
            _fetch(checkpoints / newest)


def _fetch(checkpoint: Path) -> None:
    """Its manifest last: a checkpoint without one does not count."""
    shutil.rmtree(checkpoint, ignore_errors=True)
    place, state = place_of(checkpoint), checkpoint / STATE_FILE
    manifest = place.read(checkpoint / "manifest.json") or b""
    try:
        sha256, size = json.loads(manifest)["sha256"], place.listing(checkpoint)[STATE_FILE].bytes
    except (ValueError, KeyError, TypeError) as error:
        what = f"not a whole checkpoint ({type(error).__name__})"
        cure = "Delete it in the bucket to resume from the checkpoint before it."
        raise ArtifactDamaged(path_or_url(checkpoint), what, cure) from error
    place.fetch([(state, PartFile(STATE_FILE, size, sha256))])
    metrics = place.read(checkpoint / METRICS_FILE)
    if metrics is not None:
        write_bytes(checkpoint.parent.parent / METRICS_FILE, metrics)
    write_bytes(checkpoint / "manifest.json", manifest)


def _steps_stored(run: Path) -> list[str]:
    """Steps of the whole checkpoints that others see, oldest first."""
    checkpoints = layout.checkpoints_directory(run)
    steps = []
    for name in place_of(checkpoints).listing(checkpoints):
        match = _STEP.fullmatch(name)
        if match:
            steps.append(match[1])
    return sorted(steps)


def _newest_here(run: Path) -> str:
    """The step of the newest whole checkpoint on this disk, as its folder is called, or ""."""
    whole = _whole_checkpoints(run)
    return whole[-1].name if whole else ""
