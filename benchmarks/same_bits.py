"""Does another tree of this repository learn and draw the same, to the last bit?

    git worktree add /tmp/before HEAD~1
    python -m benchmarks.same_bits /tmp/before .

A change of structure must not change what is learned. In each tree, with one thread, small runs of
every kind are trained and drawn from; printed and compared are the losses and gradients of every
step, the hash of every tensor of the weights, and the pixels of the samples. Exits with 1 where two
trees differ. One of the runs is stopped half way and resumed.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

STEPS = 20
RUNS: dict[str, dict[str, Any]] = {
    "transformer": {"preset": "shapes", "denoiser": {"patch": 4}},
    "unet": {"preset": "shapes-unet"},
    "release": {
        "preset": "shapes-unet",
        "denoiser": {"context_norm": "raw", "remove_means": False},
        "draw": {"sampler": "ddim-2022", "eta": 1.0, "null": "zero"},
    },
    "everything": {
        "preset": "shapes",
        "denoiser": {"patch": 4, "query_token": True, "set_layers": 1},
        "training": {"posthoc_ema": True, "weight_decay": 0.1, "precision": "bf16"},
        "context": {"from_top": 8, "each_neighbor_dropout": 0.2, "query_dropout": 0.3},
        "draw": {"sampler": "dpm++", "guidance_interval": [0.2, 0.9]},
    },
    "resumed": {
        "preset": "shapes-unet",
        "noise": {"process": "velocity", "zero_terminal_snr": True, "min_snr_gamma": 5},
        "context": {"random_k": True, "score_cap": 0.99},
    },
}
"""What is trained: a preset, and what is changed of it; and how it is drawn from."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="same bits in two trees")
    parser.add_argument("trees", nargs="+", type=Path, help="directories of this repository")
    trees = [tree.resolve() for tree in parser.parse_args().trees]
    measured = [measure(tree) for tree in trees]
    print(json.dumps(measured[0], indent=2))
    differing = [
        f"{name}: {what}"
        for name, first in measured[0].items()
        for what in first
        if any(other[name][what] != first[what] for other in measured[1:])
    ]
    print("\n".join(f"differs: {one}" for one in differing) or "equal to the last bit")
    sys.exit(1 if differing else 0)


def measure(tree: Path) -> dict[str, dict[str, Any]]:
    """Losses, and hashes of weights and samples, of every run of RUNS."""
    with tempfile.TemporaryDirectory(prefix="same-bits-") as folder:
        root = Path(folder)
        images = (
            "import",
            "shapes",
            "--set",
            "count=96",
            "--set",
            "size=32",
            "--set",
            "encoding=png",
        )
        _rdm(tree, root, *images, "--name", "images")
        encoder = ("--set", "encoder=rdm-shapes", "--set", "weights=built-in")
        _rdm(tree, root, "build", "--name", "images", "--shards", "images", *encoder)
        _rdm(tree, root, "neighbors", *_named("images", "queries", "database"))
        _rdm(tree, root, "encode", *_named("images", "shards"))
        return {name: measure_run(tree, root, name) for name in RUNS}


def measure_run(tree: Path, root: Path, name: str) -> dict[str, Any]:
    """Losses, and hashes of weights and samples, of one run."""
    wanted = RUNS[name]
    inputs = [
        word for role in ("latents", "neighbors", "database") for word in (f"--{role}", "images")
    ]
    how = ["--name", name, *inputs, "--preset", wanted["preset"], *_training(tree, wanted)]
    if name == "resumed":  # the time is up after the first state that resumes
        _stopped_half_way(tree, root, how, root / "runs" / name)
    _rdm(tree, root, "train", *how)
    run = next((root / "runs" / name).glob("*/manifest.json")).parent
    lines = (run / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    draw = wanted.get("draw", {}) | {"steps": 7}
    words = [word for key, value in draw.items() for word in _set(tree, "draw", key, value)]
    _rdm(tree, root, "sample", "--run", name, "--name", name, "--text", "a red circle", *words)
    samples = sorted(next((root / "samples" / name).glob("*/manifest.json")).parent.glob("0*.png"))
    pixels = [np.asarray(Image.open(sample)).tobytes() for sample in samples]
    return {
        "losses": [(record["step"], record["loss"], record["gradient_norm"]) for record in records],
        "weights": _hash_of(run / "weights"),
        "samples": [hashlib.sha256(one).hexdigest()[:16] for one in pixels],
    }


def _hash_of(weights: Path) -> dict[str, str]:
    """Of every tensor, by its name."""
    hashes = {}
    for file in sorted(weights.rglob("*.safetensors")):
        for name, tensor in load_file(file).items():
            told = f"{tensor.dtype} {tensor.shape}".encode() + tensor.tobytes()
            hashes[f"{file.stem}/{name}"] = hashlib.sha256(told).hexdigest()[:16]
    whole = json.dumps(hashes, sort_keys=True).encode()
    return {"tensors": str(len(hashes)), "sha256": hashlib.sha256(whole).hexdigest()}


def _training(tree: Path, wanted: dict[str, Any]) -> list[str]:
    """The words that change a preset: few steps, told one by one, and what the run wants."""
    every = {"steps": STEPS, "batch": 16, "warmup_steps": 5} | wanted.get("training", {})
    parts = {"training": every, "reporting": {"log_steps": 1, "checkpoint_steps": STEPS // 2}}
    parts |= {part: wanted.get(part, {}) for part in ("denoiser", "noise", "context")}
    return [
        word
        for part, values in parts.items()
        for key, value in values.items()
        for word in _set(tree, part, key, value)
    ]


def _set(tree: Path, part: str, key: str, value: object) -> tuple[str, str]:
    """--set and its assignment, in the words of that tree."""
    if (tree / "rdm_core" / "families").is_dir():
        place = {"denoiser": "model.denoiser.", "noise": "model.noise."}.get(part, f"{part}.")
    else:
        place = {"context": "training.", "reporting": "training.", "draw": ""}.get(part, f"{part}.")
    return "--set", f"{place}{key}={json.dumps(value)}"


def _named(name: str, *roles: str) -> list[str]:
    return ["--name", name, *(word for role in roles for word in (f"--{role}", name))]


def _stopped_half_way(tree: Path, root: Path, how: list[str], run: Path) -> None:
    """Start a training and end it, as kill -9 does, once its first state is there."""
    with _started(tree, root, "train", *how) as process:
        while process.poll() is None and not list(run.glob("*/checkpoints/*/manifest.json")):
            pass
        process.kill()


def _rdm(tree: Path, root: Path, *words: str) -> None:
    with _started(tree, root, *words) as process:
        _, complaint = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{tree}: rdm {' '.join(words)}\n{complaint}")


def _started(tree: Path, root: Path, *words: str) -> subprocess.Popen[str]:
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *words, "--root", str(root)],
        cwd=tree,
        env=os.environ | one_thread,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


if __name__ == "__main__":
    main()
