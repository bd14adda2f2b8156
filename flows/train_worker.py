"""What one process of `accelerate launch` runs: read config.json, open the artifacts, train. No Prefect here."""

import json
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rdm_core.config import DenoiserConfig, NoiseConfig, TrainingConfig
from rdm_core.data import TrainingData
from rdm_core.denoiser import build_denoiser
from rdm_core.latents import load_latent_space
from rdm_core.noise import process_of
from rdm_core.train import Hooks, State, train
from storage.runs import append_metrics, latest_checkpoint, rewind_metrics, write_checkpoint
from storage.training import open_training_arrays


def main(run: Path) -> None:
    """Train the run whose directory this is, from its newest checkpoint if it has one."""
    settings = json.loads((run / "config.json").read_text())
    config = TrainingConfig(**settings["training"])
    arrays = open_training_arrays(Path(settings["root"]), settings["inputs"])
    space = load_latent_space(settings["autoencoder"])
    network, dimension = DenoiserConfig(**settings["denoiser"]), arrays.vectors.shape[1]
    denoiser = build_denoiser(network, space.channels, arrays.side, dimension, config.seed)
    data = TrainingData(arrays.latents, arrays.neighbor_rows, arrays.vectors, arrays.norms)
    resume = latest_checkpoint(run)
    if is_main_process():
        rewind_metrics(run, resume[0] if resume else 0)
    train(denoiser, process_of(NoiseConfig(**settings["noise"])), space, data, config, hooks_of(run), resume)


def hooks_of(run: Path) -> Hooks:
    """Metrics to the run's file and to standard output, checkpoints to the run's directory."""

    def log(record: Mapping[str, Any], images_per_second: float) -> None:
        append_metrics(run, record)
        print(json.dumps(record | {"images_per_second": images_per_second}), flush=True)

    def save(step: int, state: State) -> None:
        write_checkpoint(run, step, state)

    return Hooks(log, save)


def is_main_process() -> bool:
    """Whether this is process 0 of the run."""
    return os.environ.get("RANK", "0") == "0"


def end_with_parent() -> None:
    """End this process when the one that started it is gone: its end of our standard input closes."""

    def watch() -> None:
        while os.read(0, 1):  # the bare descriptor: a buffered reader's lock would outlive the interpreter
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_with_parent()
    main(Path(sys.argv[1]))
