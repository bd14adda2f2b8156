"""The command in a process of its own, asked to end and then killed: the weights are those of an
unbroken run.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.config.images import ImportImages
from flows.data.import_images import import_images
from storage.artifact import open_artifact
from storage.runs import latest_step, read_metrics

REPOSITORY = Path(__file__).resolve().parents[3]
SETTINGS = (
    "autoencoder.kind=vq", "autoencoder.widths=[8,16]", "autoencoder.codes=32",
    "autoencoder.codebook_from=10", "autoencoder.revive_steps=5", "autoencoder.batch=4",
    "autoencoder.flips=true", "autoencoder.steps=200",
    "held_out=0.2", "device=cpu",
    "reporting.log_steps=5", "reporting.checkpoint_steps=20",
)  # fmt: skip
SECONDS = 300


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Forty drawn images."""
    root = tmp_path_factory.mktemp("root")
    drawn = {"source": "shapes", "size": 32, "encoding": "png", "images_per_part": 25}
    import_images(ImportImages(root=root, name="a", count=40, **drawn))
    return root


@pytest.fixture
def processes():
    """Those that the test has started; none outlives it."""
    running = []
    yield running
    for process in running:
        process.kill()
        process.wait()


def started(root, name, processes):
    words = [sys.executable, "-m", "flows.cli", "autoencoder", "--root", str(root)]
    words += ["--name", name, "--shards", "a"]
    for setting in SETTINGS:
        words += ["--set", setting]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PREFECT_API_URL": ""}
    process = subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    processes.append(process)
    return process


def step_of(root, name):
    plans = list((root / "autoencoders" / name).glob("*/plan.json"))
    return (latest_step(plans[0].parent) if plans else None) or 0


def ended_after(root, name, step, sign, processes):
    """Exit code and standard error of a training that gets a signal once it has kept that step."""
    process, deadline = started(root, name, processes), time.monotonic() + SECONDS
    while step_of(root, name) < step and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(sign)
    _, told = process.communicate(timeout=SECONDS)
    return process.returncode, told


@pytest.mark.long
def test_ended_and_killed_it_goes_on_to_the_bytes_of_an_unbroken_run(root, processes):
    code, told = ended_after(root, "e", 40, signal.SIGTERM, processes)
    assert code == 130 and "interrupted; the same command continues where it stopped" in told
    assert "Traceback" not in told
    first = step_of(root, "e")
    assert 40 <= first < 200
    # The last of the steps that were taken, which only by chance is one that is kept anyway.
    assert f"stopped after step {first}, whose state is kept" in told
    code, told = ended_after(root, "e", first + 40, signal.SIGKILL, processes)
    assert code == -signal.SIGKILL and f"continues from step {first} of 200" in told
    second = step_of(root, "e")
    assert first + 40 <= second < 200
    last = started(root, "e", processes)
    told = last.communicate(timeout=SECONDS)[1]
    assert last.returncode == 0 and f"continues from step {second} of 200" in told
    unbroken = started(root, "unbroken", processes)
    unbroken.communicate(timeout=SECONDS)
    made, whole = (open_artifact(root, "autoencoders", name) for name in ("e", "unbroken"))
    assert made.fingerprint == whole.fingerprint and made.id == whole.id
    steps = [record["step"] for record in read_metrics(made.file("metrics.jsonl"))]
    assert steps == list(range(5, 201, 5))
