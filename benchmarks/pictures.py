"""What makes the pictures of the built-in world clean, one change at a time, at equal budget.

    python -m benchmarks.pictures --out FOLDER [--steps 1800] [--seeds 3] [--only VARIANT ...]

The demo's images, neighbors, network and budget of training; each variant of VARIANTS changes what
it names. Those in latents are of pictures of 64 pixels, through the built-in AutoencoderKL: 64
tokens of a place each, where the pictures of 32 pixels have 64 tokens of 4x4. Drawn are prompts
with their neighbors, in every way of DRAWN; measured are the shares of samples whose shape and
colour the oracle reads as asked for, the share that takes the style of another database, and grain
and edge energy beside held-out images. A seed of a variant that FOLDER has is not trained again.
Prints a table: means over seeds, with the lowest and the highest.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.gpu_demo import prompts, rendered, text_context, training_data
from flows.config.presets import DEMO_SOURCES, PRESETS
from rdm_core.clip import load_encoder
from rdm_core.config import ContextConfig, ReportingConfig, TrainingConfig
from rdm_core.families import config_of, draw_settings, family_of
from rdm_core.families.facts import Shape
from rdm_core.images import grid
from rdm_core.judge.sharpness import edge_energy, grain
from rdm_core.latents import load_latent_space
from rdm_core.shapes.encoder import register
from rdm_core.shapes.oracle import load_oracle
from rdm_core.train import Hooks, train

VELOCITY = {"process": "flow", "time_mean": 0.0}
IMAGE = {"process": "flow", "predicts": "image", "time_mean": 0.0}
HEAD = {"patch": 4, "detail_channels": 24}
BEHIND = {"denoiser": {"patch": 1}, "space": "rdm-shapes-kl"}
MUON = {"optimizer": "muon", "learning_rate": 4e-3}
VARIANTS: dict[str, dict[str, Any]] = {
    "velocity, noisy times": {"noise": {"process": "flow", "time_mean": 1.0}},
    "velocity": {"noise": VELOCITY},
    "image": {"noise": IMAGE},
    "velocity, head": {"noise": VELOCITY, "denoiser": HEAD},
    "image, head": {"noise": IMAGE, "denoiser": HEAD},
    "image, head, Muon": {"noise": IMAGE, "denoiser": HEAD, "training": MUON},
    "latents, velocity": {"noise": VELOCITY, **BEHIND},
    "latents, image": {"noise": IMAGE, **BEHIND},
    "latents, velocity, Muon": {"noise": VELOCITY, **BEHIND, "training": MUON},
}
"""What the network answers with, how times are drawn, whether a head hides its patches, the latent
space, and the optimiser. The first is how the demo was trained before, the last how it is.
"""
BEFORE: dict[str, Any] = {
    "denoiser": {"patch": 4}, "training": {"optimizer": "adamw", "learning_rate": 2e-3}
}  # fmt: skip
"""What a variant has where it says nothing."""
DRAWN: dict[str, dict[str, Any]] = {
    "not guided": {"guidance_scale": 1.0},
    "guided always": {"guidance_scale": 2.0, "guidance_interval": (0.0, 1.0)},
    "guided above 0.3": {"guidance_scale": 2.0, "guidance_interval": (0.3, 1.0)},
}
PROMPTS, STEPS = 192, 30
SWAPPED = {"photograph": "shapes-photographs", "sketch": "shapes-sketches"}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=PRESETS["shapes"]["training"]["steps"])
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    worlds: dict[str, World] = {}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for name in options.only:
            file = options.out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}.json"
            if not file.exists():
                space = VARIANTS[name].get("space", "pixels")
                if space not in worlds:
                    worlds[space] = World(space)
                rows = measured(worlds[space], name, seed, options.steps, file.with_suffix(".png"))
                file.write_text(json.dumps(rows, indent=2) + "\n", "utf-8")
                print(name, seed, json.dumps(rows), flush=True)
    print(table([json.loads(file.read_text()) for file in sorted(options.out.glob("*.json"))]))


class World:
    """The demo's images, vectors and training data, in a latent space."""

    def __init__(self, space: str) -> None:
        register()
        self.space = load_latent_space(space)
        side = 32 if space == "pixels" else 64
        self.encoder = load_encoder("rdm-shapes", "built-in")
        self.oracle = load_oracle()
        self.images = {name: rendered(name, False, side) for name in DEMO_SOURCES}
        self.vectors = {
            name: self.encoder.encode_images(list(images)) for name, images in self.images.items()
        }
        self.data = training_data(self.images["shapes-train"], self.vectors, "cpu", self.space)


def measured(
    world: World, variant: str, seed: int, steps: int, picture: Path
) -> list[dict[str, Any]]:
    """Train one variant with one seed; a row of figures for each way of drawing. A sheet of every
    way is saved.
    """
    began = time.monotonic()
    model = trained(world, variant, seed, steps)
    seconds = time.monotonic() - began
    rows, sheets = [], []
    for name, how in DRAWN.items():
        figures, samples = judged(world, model, how, seed)
        rows.append({"variant": variant, "seed": seed, "drawn": name} | figures)
        rows[-1]["training_seconds"] = seconds
        sheets.append(samples[:32])
    sheets.append(world.images["shapes-heldout"][:16])
    sheet = Image.fromarray(grid(list(np.concatenate(sheets)), columns=16))
    sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST).save(picture)
    return rows


def trained(world: World, variant: str, seed: int, steps: int) -> Any:
    """The demo's network after so many of its steps, with the changes of a variant."""
    preset = PRESETS["shapes"]
    settings = dict(preset["model"])
    chosen = BEFORE | VARIANTS[variant]
    settings["noise"] = chosen["noise"]
    settings["denoiser"] = settings["denoiser"] | chosen["denoiser"]
    config = config_of("diffusion").of(settings)
    shape = Shape(world.space.channels, world.data.side, world.data.dimension)
    model = family_of("diffusion").build(config, shape, world.space, seed=seed)
    model.set_means(world.data.means)
    return train(
        model,
        world.data,
        TrainingConfig(**preset["training"] | chosen["training"] | {"seed": seed, "steps": steps}),
        Hooks(lambda record, speed: None, lambda step, state: None),
        context=ContextConfig(**preset["context"]),
        reporting=ReportingConfig(log_steps=100, checkpoint_steps=10**9),
    )


def judged(
    world: World, model: Any, changes: dict[str, Any], seed: int
) -> tuple[dict[str, float], np.ndarray]:
    """Figures of one way of drawing, and its samples uint8 [N, S, S, 3] by prompts."""
    how = draw_settings("diffusion")(**{"steps": STEPS} | changes)
    texts = prompts(PROMPTS)
    seeds = [seed * 10_000 + number for number in range(PROMPTS)]
    context = text_context(world.encoder, texts, world.vectors["shapes-database"], "cpu")
    samples = model.draw(context, seeds, how)
    shown = world.oracle.predict(samples)
    figures = {}
    for place, factor in ((2, "shape"), (1, "colour")):
        wanted = np.array([text.split()[place] for text in texts])
        figures[factor] = float((shown[factor] == wanted).mean())
    hits = []
    for style, name in SWAPPED.items():
        context = text_context(world.encoder, texts, world.vectors[name], "cpu", own=False)
        swapped = model.draw(context.rows(slice(0, 64)), seeds[:64], how)
        hits.append(world.oracle.predict(swapped)["style"] == style)
    figures["style"] = float(np.mean(hits))
    held_out = world.images["shapes-heldout"]
    figures["grain"] = grain(samples)
    figures["grain_of_held_out"] = grain(held_out)
    figures["edges"] = edge_energy(samples) / edge_energy(held_out)
    return figures, samples


def table(files: list[list[dict[str, Any]]]) -> str:
    """A line a variant and way of drawing: means over seeds, lowest and highest in brackets."""
    by_way: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for rows in files:
        for row in rows:
            by_way.setdefault((row["variant"], row["drawn"]), []).append(row)
    lines = ["| network answers with | drawn | seeds | shape | colour | style | grain | edges |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for (variant, drawn), rows in by_way.items():
        cells = [variant, drawn, str(len(rows))]
        for name in ("shape", "colour", "style"):
            cells.append(spread([100 * row[name] for row in rows], 1) + " %")
        for name in ("grain", "edges"):
            cells.append(spread([row[name] for row in rows], 2))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float], digits: int) -> str:
    """Mean, and the lowest and highest."""
    mean, low, high = (f"{f(values):.{digits}f}" for f in (np.mean, min, max))
    return f"{mean} [{low}, {high}]"


if __name__ == "__main__":
    main()
