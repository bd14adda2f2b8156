"""Training runs: metrics as JSON lines, checkpoints that resume, weights that are used.

<run>/metrics.jsonl                one JSON object a line, `step` in each
<run>/checkpoints/00001000/        state.safetensors, then manifest.json: its existence is completion
<run>/weights/                     a diffusers folder, listed in the run's manifest
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from storage.atomic import fsync_path, publish, sha256_file, write_bytes, write_json
from storage.errors import FormatError

METRICS_FILE = "metrics.jsonl"


def write_checkpoint(run: Path, step: int, arrays: Mapping[str, np.ndarray], keep: int = 2) -> Path:
    """Publish the state after `step` optimiser steps and drop all but the newest `keep` checkpoints."""
    target = _checkpoint_directory(run, step)
    scratch = target.with_name(f".{target.name}")
    for leftover in (scratch, target):
        shutil.rmtree(leftover, ignore_errors=True)
    scratch.mkdir(parents=True)
    state = scratch / "state.safetensors"
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, state)
    state.chmod(0o644)  # safetensors makes it private
    fsync_path(state)
    write_json(scratch / "manifest.json", {"step": step, "sha256": sha256_file(state)})
    publish(scratch, target)
    for old in _whole_checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return target


def latest_checkpoint(run: Path) -> tuple[int, dict[str, np.ndarray]] | None:
    """(step, arrays) of the newest whole checkpoint, or None.

    Raises FormatError when its bytes are not those that were written.
    """
    whole = _whole_checkpoints(run)
    if not whole:
        return None
    path = whole[-1] / "state.safetensors"
    cure = f"Delete {whole[-1]} to resume from the checkpoint before it."
    try:
        manifest = json.loads((whole[-1] / "manifest.json").read_text())
        if sha256_file(path) != manifest["sha256"]:
            raise FormatError(path, "other bytes than were written", cure)
        return manifest["step"], load_file(path)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise FormatError(path, f"cannot be read ({error})", cure) from error


def append_metrics(run: Path, record: Mapping[str, Any]) -> None:
    """Add one line; readers may follow the file while it grows."""
    with (run / METRICS_FILE).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record, sort_keys=True) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Every whole line; a line cut by a crash is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def rewind_metrics(run: Path, step: int) -> None:
    """Drop the lines after `step`, so that a resumed run does not tell a step twice."""
    kept = [record for record in read_metrics(run / METRICS_FILE) if record["step"] <= step]
    write_bytes(run / METRICS_FILE, "".join(json.dumps(r, sort_keys=True) + "\n" for r in kept).encode())


def _checkpoint_directory(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"{step:08d}"


def _whole_checkpoints(run: Path) -> list[Path]:
    return sorted(path.parent for path in (run / "checkpoints").glob("[0-9]*/manifest.json"))
