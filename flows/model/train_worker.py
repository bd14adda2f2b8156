"""What one process of a training runs: read config.json, open the artifacts, train. No Prefect
here.

python -m flows.model.train_worker RUN    one of several, started by `accelerate launch`
python -m flows.run.leash flows.model.train_worker
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

from flows.data.autoencoder import load_space
from flows.data.encoders import checked
from flows.model.preview import preview_rows, write_preview
from flows.model.training_data import open_training_data
from flows.run.leash import line_from_parent
from rdm_core.clip import Encoder, load_encoder
from rdm_core.config import ContextConfig, ExecutionConfig, ReportingConfig, TrainingConfig
from rdm_core.data import TrainingData
from rdm_core.errors import TrainingStopped
from rdm_core.families import (
    FAMILIES,
    config_of,
    draw_settings,
    family_of,
    load_model,
    read_facts,
)
from rdm_core.families.facts import Shape
from rdm_core.families.family import Model
from rdm_core.importing import large_import
from rdm_core.latents import LatentSpace
from rdm_core.train import Hooks, TrainingState, train
from storage.artifact import open_artifact
from storage.errors import explaining_disk_errors
from storage.layout import training_lock_file
from storage.locks import exclusive
from storage.runs import (
    append_metrics,
    latest_checkpoint,
    rewind_metrics,
    write_checkpoint,
    write_snapshot,
)

STOPPED = 128 + signal.SIGTERM
"""Exit code of a run that was asked to stop and saved its state."""
_asked_to_stop = threading.Event()


def main(run: Path) -> None:
    """Train the run whose directory this is, from its newest checkpoint if it has one."""
    settings = json.loads((run / "config.json").read_bytes())
    if not settings["on_gpu"]:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    training = TrainingConfig.of(settings["training"])
    context = ContextConfig.of(settings["context"])
    execution = ExecutionConfig.of(settings["execution"])
    reporting = ReportingConfig.of(settings["reporting"])
    space = load_space(Path(settings["root"]), settings["autoencoder"])
    model, data = model_and_data(settings, space, training.seed)
    drawing = partial(draw_preview, run, data, context.k, settings["preview"])
    hooks = hooks_of(run, reporting, drawing if settings["preview"] else None)
    # A worker whose parent was killed may still be on its way out: two must never write one run's
    # checkpoints.
    alone = exclusive(training_lock_file(run), tell) if is_main_process() else nullcontext()
    with alone:
        resume = latest_checkpoint(run)
        if is_main_process():
            # The steps since the checkpoint are computed again, and recorded once.
            rewind_metrics(run, resume[0] if resume else 0)
        train(model, data, training, hooks, resume, context, execution, reporting)


def model_and_data(
    settings: Mapping[str, Any], space: LatentSpace, seed: int
) -> tuple[Model, TrainingData]:
    """The model as a training begins with it, and what it is trained on."""
    root, inputs = Path(settings["root"]), settings["inputs"]
    family = settings["model"]["family"]
    config = config_of(family).of(settings["model"])
    encoder = encoder_of(settings) if config.reads.captions else None
    data = open_training_data(root, inputs, config.reads, encoder)
    shape = Shape(space.channels, data.side, data.dimension)
    model = family_of(family).build(config, shape, space, seed)
    if data.means is not None:
        model.set_means(data.means)
    if encoder is not None:
        model.set_encoder(encoder)
    if "start_from" in inputs:
        # A checkpoint, where there is one, takes the place of these weights later.
        weights = open_artifact(root, "runs", inputs["start_from"]).file("weights")
        model.begin_with(load_model(weights, read_facts(weights), space))
    return model, data


def encoder_of(settings: Mapping[str, Any]) -> Encoder:
    """The encoder of the run's database, on the device that this process trains on.

    Raises ArtifactMismatch when its weights are others now.
    """
    database = open_artifact(Path(settings["root"]), "embeddings", settings["inputs"]["database"])
    wanted, weights = database.parameters["encoder"], database.measured["weights"]
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if settings["on_gpu"] else "cpu"
    encoder = load_encoder(wanted["model"], weights, device)
    return checked(encoder, wanted, weights, f"embeddings/{database.name}", "build it again")


def draw_preview(
    run: Path, data: TrainingData, k: int, count: int, step: int, model: Model
) -> None:
    """The same samples at every checkpoint, with the same neighbors and seeds."""
    context = data.neighbors(preview_rows(count, len(data)), k, model.reads.query)
    how = draw_settings(model.family).preview()
    write_preview(run, step, model.draw(context, range(len(context.vectors)), how))


def hooks_of(
    run: Path, reporting: ReportingConfig, show: Callable[[int, Model], None] | None
) -> Hooks:
    """Metrics to the run's file and to standard output, checkpoints and pictures to the run's
    directory.
    """
    # One process writes: the others compute the same numbers.
    board = event_writer(run) if reporting.tensorboard and is_main_process() else None

    def log(record: Mapping[str, Any], speed: Mapping[str, float]) -> None:
        with explaining_disk_errors(run):
            append_metrics(run, record)
        rounded = {name: float(f"{value:.4g}") for name, value in speed.items()}
        tell(json.dumps({**record, **rounded}))
        if board is not None:
            for name, value in {**record, **speed}.items():
                board.add_scalar(name, value, record["step"])
            board.flush()

    def save(step: int, state: TrainingState) -> None:
        with explaining_disk_errors(run):
            write_checkpoint(run, step, state)

    return Hooks(log, save, _asked_to_stop.is_set, partial(write_snapshot, run), show)


def tell(line: str) -> None:
    """Print a line. Where nobody reads the lines any more, the training goes on without them."""
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
            "reporting.tensorboard: not installed. Run: pip install 'rdm[tensorboard]'"
        ) from error
    return SummaryWriter(str(run / "tensorboard"))


def is_main_process() -> bool:
    """Whether this is process 0 of the run."""
    return os.environ.get("RANK", "0") == "0"


def run_from_parent() -> Path:
    """The directory named by a line of standard input. Import first what a training needs, as the
    line may come seconds later.
    """
    with large_import():
        for family in FAMILIES:
            family_of(family).import_networks()
    return Path(line_from_parent())


if __name__ == "__main__":
    # Without a freeze Python takes a million imported objects apart at the end, which takes a
    # second.
    atexit.register(gc.freeze)
    # Several processes would stop at different steps: they end at once instead.
    if os.environ.get("WORLD_SIZE", "1") == "1":
        signal.signal(signal.SIGTERM, lambda *_: _asked_to_stop.set())
    try:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else run_from_parent())
    except TrainingStopped as stopped:
        tell(str(stopped))
        sys.exit(STOPPED)
