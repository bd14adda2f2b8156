"""What one process of `accelerate launch` runs: read config.json, open the artifacts, train. No Prefect here."""

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rdm_core.config import DenoiserConfig, NoiseConfig, TrainingConfig
from rdm_core.data import TrainingData
from rdm_core.denoiser import build_denoiser
from rdm_core.latents import load_latent_space
from rdm_core.noise import process_of
from rdm_core.train import Hooks, State, TrainingStopped, train
from storage.layout import training_lock_file
from storage.locks import exclusive
from storage.runs import append_metrics, latest_checkpoint, rewind_metrics, write_checkpoint
from storage.training import open_training_arrays

STOPPED = 128 + signal.SIGTERM
"""Exit code of a run that was asked to stop and saved its state."""
_asked_to_stop = threading.Event()


def main(run: Path) -> None:
    """Train the run whose directory this is, from its newest checkpoint if it has one."""
    settings = json.loads((run / "config.json").read_text())
    config = TrainingConfig(**settings["training"])
    arrays = open_training_arrays(Path(settings["root"]), settings["inputs"])
    space = load_latent_space(settings["autoencoder"])
    network, dimension = DenoiserConfig(**settings["denoiser"]), arrays.vectors.shape[1]
    denoiser = build_denoiser(network, space.channels, arrays.side, dimension, config.seed)
    data = TrainingData(arrays.latents, arrays.neighbor_rows, arrays.vectors, arrays.norms)
    # A worker whose parent was killed may still be on its way out: two must never write one run's checkpoints.
    alone = exclusive(training_lock_file(run), print) if is_main_process() else nullcontext()
    with alone:
        resume = latest_checkpoint(run)
        if is_main_process():
            rewind_metrics(run, resume[0] if resume else 0)
        train(denoiser, process_of(NoiseConfig(**settings["noise"])), space, data, config, hooks_of(run), resume)


def hooks_of(run: Path) -> Hooks:
    """Metrics to the run's file and to standard output, checkpoints to the run's directory."""

    def log(record: Mapping[str, Any], images_per_second: float) -> None:
        append_metrics(run, record)
        print(json.dumps({**record, "images_per_second": images_per_second}), flush=True)

    def save(step: int, state: State) -> None:
        write_checkpoint(run, step, state)

    return Hooks(log, save, _asked_to_stop.is_set)


def is_main_process() -> bool:
    """Whether this is process 0 of the run."""
    return os.environ.get("RANK", "0") == "0"


if __name__ == "__main__":
    if os.environ.get("WORLD_SIZE", "1") == "1":  # several would stop at different steps: they end at once
        signal.signal(signal.SIGTERM, lambda *_: _asked_to_stop.set())
    try:
        main(Path(sys.argv[1]))
    except TrainingStopped as stopped:
        print(stopped, flush=True)
        sys.exit(STOPPED)
