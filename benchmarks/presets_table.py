"""What each preset of a model asks of a machine: a table in Markdown.

    python -m benchmarks.presets_table [--only PRESET ...]

Parameters, memory and operations are followed on tensors without bytes, as `rdm train --dry-run`
does it; seconds are measured here, on one thread, for presets that a CPU can train.
"""

import argparse

import torch

from flows.config.presets import PRESETS
from flows.config.train import TrainRDM
from rdm_core.families.facts import Shape
from rdm_core.needs import measured_rate, memory_needed, operations_of_step

IMAGES: dict[str, tuple[int, int, int]] = {
    "shapes": (16, 8, 64),
    "shapes-unet": (16, 8, 64),
    "shapes-pixels": (3, 32, 64),
    "knn-shapes": (16, 8, 64),
    "edit-shapes": (16, 8, 64),
    "rarm-shapes": (16, 16, 64),
    "knn-discrete-shapes": (16, 16, 64),
    "cm3-shapes": (16, 10, 64),
    "transformer-256": (4, 32, 512),
    "knn-64": (3, 64, 512),
    "knn-256": (4, 32, 512),
    "reimagen-shapes": (16, 6, 64),
    "reimagen-64": (3, 64, 512),
    "reimagen-256": (4, 32, 512),
    "imagenet-2022": (3, 64, 512),
    "ffhq-2022": (3, 64, 512),
    "laion-768-2022": (16, 48, 768),
    "rarm-2022": (256, 16, 512),
    "knn-discrete-256": (256, 32, 512),
    "ra-cm3-256": (256, 32, 512),
    "ra-cm3-small-256": (256, 32, 512),
}
"""Preset -> channels and side of its latents (codes: of their entries), width of its vectors."""
SMALL = 10**7
"""Parameters up to which a preset's seconds are measured on a CPU."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="what each preset asks of a machine")
    parser.add_argument("--only", nargs="+", choices=list(PRESETS), help="these presets alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| preset | parameters | batch | GPU memory | TFLOP a step | seconds a step, one core |")
    print("|---|---:|---:|---:|---:|---:|")
    for preset in options.only or PRESETS:
        print(line_of(preset), flush=True)


def line_of(preset: str) -> str:
    """A preset's line of the table."""
    names = dict.fromkeys(("name", "latents", "neighbors", "database"), "a")
    config = TrainRDM(**names, **PRESETS[preset])  # type: ignore[arg-type]
    shape = Shape(*IMAGES[preset])
    training, execution, k = config.training, config.execution, config.context.k
    asked = (config.model, training, execution, k, shape)
    needed = memory_needed(*asked, torch.device("cuda"))
    operations = operations_of_step(config.model, training, k, shape)
    seconds = ""
    if needed.parameters < SMALL:
        rate = measured_rate(*asked, torch.device("cpu"))
        seconds = f"{training.batch / rate:.2f}"
    return (
        f"| `{preset}` | {needed.parameters / 1e6:.1f} M | {training.batch} "
        f"| {needed.peak_bytes / 1e9:.1f} GB | {operations / 1e12:.3g} | {seconds} |"
    )


if __name__ == "__main__":
    main()
