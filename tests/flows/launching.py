"""Trainings that tests start and stop, and what they leave."""

import socket
import sys
import threading
import time

from flows.config.train import TrainRDM
from flows.model.train_rdm import train_rdm
from storage.runs import METRICS_FILE, read_metrics

WEIGHTS = "weights/network/diffusion_pytorch_model.safetensors"


def training(root, name="x", **changes):
    inputs = {"latents": "shapes", "neighbors": "shapes", "database": "shapes"}
    return TrainRDM(root=root, name=name, **inputs, threads=1, device="cpu", **changes)


def run_directory(root, name):
    return next(path.parent for path in (root / "runs" / name).glob("*/plan.json"))


def stop_when(condition, act):
    """Watch beside a training and act once."""

    def watch():
        deadline = time.monotonic() + 120
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.05)
        act()

    threading.Thread(target=watch, daemon=True).start()


def steps_told(root, name):
    files = list((root / "runs" / name).glob(f"*/{METRICS_FILE}"))
    return len(read_metrics(files[0])) if files else 0


def launched_once(config):
    """Train as the flow does, but without its retries."""
    module = sys.modules["flows.model.train_rdm"]
    once = module.run_training.once()
    original, module.run_training = module.run_training, once
    try:
        return train_rdm(config)
    finally:
        module.run_training = original


def steps_of(run):
    """The steps whose metrics a run recorded."""
    return [record["step"] for record in read_metrics(run.file(METRICS_FILE))]


def losses_of(run):
    return [record["loss"] for record in read_metrics(run.file(METRICS_FILE))]


def checkpoints(root, name):
    return list((root / "runs" / name).glob("*/checkpoints/0*/manifest.json"))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
