"""How long somebody waits for a command, as a multiple of `python -c "import torch"` in the same
minute.

    python -m benchmarks.start_up [--rounds 3]

Every command runs on the root that the README's six commands make. Before each one torch is
imported in a process of its own, so that a busy machine slows both; the median ratio is told.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

RDM = [str(Path(sys.executable).parent / "rdm")]
ENCODER = ["--set", "encoder=rdm-shapes", "--set", "weights=built-in"]
SIX = {
    "import": [
        "import",
        "shapes",
        "--set",
        "count=64",
        "--set",
        "size=64",
        "--set",
        "encoding=png",
    ],
    "build": ["build", "--shards", "mine", *ENCODER],
    "neighbors": ["neighbors", "--queries", "mine", "--database", "mine"],
    "encode": ["encode", "--shards", "mine", "--set", "autoencoder=rdm-shapes-kl"],
    "train": [
        "train",
        "--latents",
        "mine",
        "--neighbors",
        "mine",
        "--database",
        "mine",
        "--preset",
        "shapes",
    ],
    "sample": ["sample", "--run", "mine", "--text", "a red circle", "--set", "count=1"],
}
LOOKS = {
    "search": ["search", "--database", "mine", "--text", "a red circle"],
    "show": ["show"],
    "check": ["check"],
    "query": ["query", "SELECT count(*) FROM embeddings"],
}
AT_MOST = {
    "train": 4.0,
    "sample": 4.0,
    "search": 2.5,
    "show": 0.4,
    "check": 0.4,
    "query": 0.4,
    "all six": 40.0,
}
"""What was asked for."""


def seconds(command: Sequence[str]) -> float:
    """Of one run; its output is shown only where it fails."""
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return time.monotonic() - began


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description="How long somebody waits for a command.")
    options.add_argument("--rounds", type=int, default=3)
    rounds = options.parse_args().rounds
    ratios: dict[str, list[float]] = {}
    taken: dict[str, list[float]] = {}
    torch_seconds: list[float] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            six = 0.0
            for name, arguments in (SIX | LOOKS).items():
                named = ["--name", "mine"] if name in SIX and name != "sample" else []
                steps = ["--set", "training.steps=1"] if name == "train" else []
                torch_seconds.append(seconds([sys.executable, "-c", "import torch"]))
                took = seconds([*RDM, *arguments, *named, *steps, "--root", folder])
                ratios.setdefault(name, []).append(took / torch_seconds[-1])
                taken.setdefault(name, []).append(took)
                six += ratios[name][-1] if name in SIX else 0.0
            ratios.setdefault("all six", []).append(six)
    print(f"import torch: {statistics.median(torch_seconds):.2f} s, {rounds} rounds\n")
    print("| command | seconds | times import torch | at most |\n|---|---|---|---|")
    for name, found in ratios.items():
        took_text = f"{statistics.median(taken[name]):.2f}" if name in taken else ""
        print(
            f"| {name} | {took_text} | {statistics.median(found):.2f} | {AT_MOST.get(name, '')} |"
        )


if __name__ == "__main__":
    main()
