"""What one process of a training runs: read config.json, open the artifacts, train. No Prefect
here.

python -m flows.train_worker RUN    one of several, started by `accelerate launch`
python -m flows.leash flows.train_worker
                                    alone: the run's directory comes as a line of standard input
"""

import atexit
import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from flows.leash import line_from_parent
from flows.preview import SAMPLER_STEPS, preview_rows, write_preview
from rdm_core.config import DenoiserConfig, ExecutionConfig, NoiseConfig, TrainingConfig
from rdm_core.data import TrainingData
from rdm_core.denoiser import NETWORKS, Denoiser, build_denoiser
from rdm_core.generate import Guidance, generate
from rdm_core.importing import large_import
from rdm_core.latents import LatentSpace, load_latent_space
from rdm_core.noise import Process, process_of
from rdm_core.train import Hooks, State, TrainingStopped, train
from storage.errors import told_by_cause
from storage.layout import training_lock_file
from storage.locks import exclusive
from storage.runs import (
    append_metrics,
    latest_checkpoint,
    rewind_metrics,
    write_checkpoint,
    write_snapshot,
)
from storage.training import TrainingArrays, open_training_arrays

STOPPED = 128 + signal.SIGTERM
"""Exit code of a run that was asked to stop and saved its state."""
_asked_to_stop = threading.Event()


def main(run: Path) -> None:
    """Train the run whose directory this is, from its newest checkpoint if it has one."""
    settings = json.loads((run / "config.json").read_bytes())
    if not settings["on_gpu"]:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    config = TrainingConfig(**settings["training"])
    network, execution = (
        DenoiserConfig(**settings["denoiser"]),
        ExecutionConfig(**settings["execution"]),
    )
    arrays = open_training_arrays(Path(settings["root"]), settings["inputs"], network.query_token)
    space = load_latent_space(settings["autoencoder"])
    denoiser = build_denoiser(
        network, space.channels, arrays.side, arrays.vectors.shape[1], config.seed
    )
    if network.remove_means:
        denoiser.set_means(arrays.means)
    data = data_of(arrays)
    process = process_of(NoiseConfig(**settings["noise"]))
    count = settings["preview"]
    drawing = (
        partial(draw_preview, run, process, space, data, config, arrays.side, count)
        if count
        else None
    )
    # A worker whose parent was killed may still be on its way out: two must never write one run's
    # checkpoints.
    alone = exclusive(training_lock_file(run), tell) if is_main_process() else nullcontext()
    with alone:
        resume = latest_checkpoint(run)
        if is_main_process():
            rewind_metrics(run, resume[0] if resume else 0)
        train(
            denoiser,
            process,
            space,
            data,
            config,
            hooks_of(run, execution, drawing),
            resume,
            execution,
        )


def data_of(arrays: TrainingArrays) -> TrainingData:
    """Training data as the core knows it."""
    return TrainingData(
        arrays.latents, arrays.neighbor_rows, arrays.neighbor_scores, arrays.vectors, arrays.norms,
        arrays.query_vectors, arrays.query_norms,
    )  # fmt: skip


def draw_preview(
    run: Path, process: Process, space: LatentSpace, data: TrainingData, config: TrainingConfig, side: int, count: int,
    step: int, denoiser: Denoiser,
) -> None:  # fmt: skip
    """The same samples at every checkpoint, for the same neighbors and noise."""
    context = data.neighbors(preview_rows(count, len(data)), config.k)
    seeds = range(len(context.vectors))
    images = generate(
        denoiser,
        process,
        space,
        context,
        seeds,
        side=side,
        steps=SAMPLER_STEPS,
        guidance=Guidance(1.0),
    )
    write_preview(run, step, images)


def hooks_of(
    run: Path, execution: ExecutionConfig, show: Callable[[int, Denoiser], None] | None
) -> Hooks:
    """Metrics to the run's file and to standard output, checkpoints and pictures to the run's
    directory.
    """
    board = event_writer(run) if execution.tensorboard and is_main_process() else None

    def log(record: Mapping[str, Any], speed: Mapping[str, float]) -> None:
        with told_by_cause(run):
            append_metrics(run, record)
        tell(
            json.dumps({**record, **{name: float(f"{value:.4g}") for name, value in speed.items()}})
        )
        if board is not None:
            for name, value in {**record, **speed}.items():
                board.add_scalar(name, value, record["step"])
            board.flush()

    def save(step: int, state: State) -> None:
        with told_by_cause(run):
            write_checkpoint(run, step, state)

    return Hooks(log, save, _asked_to_stop.is_set, partial(write_snapshot, run), show)


def tell(line: str) -> None:
    """Print a line; where nobody reads them any more, the training goes on without."""
    try:
        print(line, flush=True)
    except (OSError, ValueError):
        nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - open to the end
        sys.stdout = nowhere


def event_writer(run: Path) -> Any:
    """TensorBoard's writer. Raises ImportError with the cure when it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "execution.tensorboard: not installed. Run: pip install 'rdm[tensorboard]'"
        ) from error
    return SummaryWriter(str(run / "tensorboard"))


def is_main_process() -> bool:
    """Whether this is process 0 of the run."""
    return os.environ.get("RANK", "0") == "0"


def run_told() -> Path:
    """The directory named by a line of standard input; what will be needed is imported before."""
    with large_import():
        import diffusers

        assert all(hasattr(diffusers, network) for network in NETWORKS), (
            "imported now, as it is used"
        )
    return Path(line_from_parent())


if __name__ == "__main__":
    atexit.register(gc.freeze)  # to take a million imported objects apart takes a second
    if (
        os.environ.get("WORLD_SIZE", "1") == "1"
    ):  # several would stop at different steps: they end at once
        signal.signal(signal.SIGTERM, lambda *_: _asked_to_stop.set())
    try:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else run_told())
    except TrainingStopped as stopped:
        tell(str(stopped))
        sys.exit(STOPPED)
