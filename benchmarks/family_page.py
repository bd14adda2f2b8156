"""The same prompts drawn by a network of each family, over several training seeds: a table, and a
picture with a line a family.

    python -m benchmarks.family_page --root data --picture docs/families.png

The networks are those of `benchmarks.family_study`, which are trained where they are missing. Two
of the four pairs in the picture (red circle, blue star) none of them has seen; the table is of
pairs that all have seen.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.family_runs import NEIGHBORS, TRAINED, FamilyStudy, prepare, train_seed
from benchmarks.family_study import BITS, DRAWN, NAMED, Bench, K, context_of, rightness
from flows.config.arguments import configured, root_argument
from flows.judge.trial import features_in
from flows.model.given import given
from flows.model.opening import OpenRun, drawn_how
from flows.model.request import text_queries
from flows.model.sample import draw
from rdm_core.config import DrawConfig
from rdm_core.images import fitted, grid
from rdm_core.judge.copies import known_beside
from rdm_core.judge.distances import quality
from rdm_core.judge.estimates import estimate_over_seeds
from rdm_core.judge.judges import ShapesJudge
from rdm_core.judge.losses import held_out_losses
from rdm_core.retrieve import neighbors_only
from rdm_core.shapes import world as shapes
from storage.artifact import open_artifact

PROMPTS = ("a red circle", "a blue star", "a green heart", "a yellow cross")
SYSTEMS = {
    "RDM": "RDM",
    "T7": "RARM",
    "T8": "kNN-Diffusion",
    "T9": "kNN-Diffusion, discrete",
    "T11": "Re-Imagen",
    "T13": "RA-CM3",
}
"""Test -> the system whose networks it trains."""
KS = {"RDM": 4, "T7": 4}
"""Vectors in a context, where these are not a query and K neighbors."""
TIMED = 32
"""Images that are drawn together where seconds are measured."""


class FamilyPage(FamilyStudy):
    """The same prompts drawn by each family, over several training seeds."""

    tests: tuple[str, ...] = tuple(SYSTEMS)
    """Which systems, by the test that trains them."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="the same prompts drawn by each family")
    parser.add_argument("--root", type=root_argument, default="data", help="where artifacts lie")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--picture", type=Path, help="also save what each family draws here")
    options = parser.parse_args()
    config = configured(options, FamilyPage)
    seeds = range(config.seed, config.seed + config.seeds)
    tests = config.tests
    for test in tests:
        prepare(config, TRAINED[test])
        for seed in seeds:
            train_seed(config, test, seed)
    print(
        "| | all named is right | Fréchet distance | copies | loss, held-out images | "
        "seconds an image | seconds of training |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|")
    for test in tests:
        measured = [measured_of(Bench(config, test, seed)) for seed in seeds]
        print(line_of(test, measured), flush=True)
    if options.picture:
        picture(config, tests, seeds).save(options.picture, optimize=True)


def how_of(run: OpenRun, guidance_scale: float) -> DrawConfig:
    """How a run's images are drawn."""
    return drawn_how(run.facts, DRAWN[run.facts.family] | {"guidance_scale": guidance_scale})


def context_for(bench: Bench, run: OpenRun, texts: Sequence[str]) -> Any:
    """The texts' own vectors and their neighbors; neighbors alone where they are read whole."""
    if run.model.reads.captions:
        database = bench.database("database", run)
        queries = text_queries(run, texts, "words")
        return given(run, neighbors_only(queries, database.by_words, run.facts.k), database, texts)
    k = KS[bench.test] - 1 if bench.test in KS else K
    return context_of(bench, run, text_queries(run, texts), "database", k)


def measured_of(bench: Bench) -> dict[str, float]:
    """How good one network's images are, what its loss is, and how long an image takes."""
    run, scale = bench.run(NEIGHBORS), bench.config.guidance_scale
    wanted = [sample_factors(number) for number in range(bench.config.images)]
    context = context_for(bench, run, [shapes.caption(factors, NAMED) for factors in wanted])
    how = how_of(run, scale)
    drawn = draw(run, context, range(30_000, 30_000 + len(wanted)), how)
    judge = ShapesJudge()
    root, shards = bench.config.root, {}
    for images in ("heldout", "train", "database"):
        made = open_artifact(root, "shards", getattr(bench.world, images))
        shards[images] = made.fingerprint
    real = features_in(root, [shards.pop("heldout")], judge.features)
    known = known_beside(features_in(root, list(shards.values()), judge.features), real)
    near = quality(judge.features(drawn), real, known)
    few = context.rows(slice(0, TIMED))
    began = time.perf_counter()
    run.model.draw(few, list(range(len(few.vectors))), how)
    seconds = (time.perf_counter() - began) / len(few.vectors)
    losses = held_out_losses(run.model, bench.held_out(run), run.facts.k)
    return {
        "all": float(rightness(drawn, wanted)["all"].mean()),
        "fd": near["fd"],
        "copies": near["copy_rate"],
        "loss": float(losses.mean()) * (BITS if "codes" in run.model.reads.stored else 1),
        "seconds": seconds,
        "training": run.artifact.measured["seconds"],
    }


def sample_factors(number: int) -> shapes.Factors:
    """What the images show that are asked for: pairs that every network has seen."""
    return shapes.draw_factors(
        "asked", number, pairs="known", positions=("centre",), sizes=("large",),
        accessories=("none",),
    )  # fmt: skip


def line_of(test: str, measured: Sequence[dict[str, float]]) -> str:
    """A system's line of the table: means over training seeds with Student's 95 % intervals."""
    unit = " bits a code" if TRAINED[test].world.stored == "codes" else ""
    cells = []
    for key, text in (
        ("all", lambda value: f"{100 * value:.1f} %"),
        ("fd", lambda value: f"{value:.2f}"),
        ("copies", lambda value: f"{100 * value:.1f} %"),
        ("loss", lambda value: f"{value:.3f}"),
        ("seconds", lambda value: f"{value:.3f}"),
        ("training", lambda value: f"{value:.0f}"),
    ):
        estimate = estimate_over_seeds([figures[key] for figures in measured])
        interval = f" [{text(estimate.low)}, {text(estimate.high)}]" if estimate.count > 1 else ""
        cells.append(f"{text(estimate.mean)}{interval}{unit if key == 'loss' else ''}")
    return f"| {SYSTEMS[test]}, {TRAINED[test].world.size} px | {' | '.join(cells)} |"


def picture(config: FamilyStudy, tests: Sequence[str], seeds: Sequence[int]) -> Image.Image:
    """A line a system: each prompt, drawn by the networks of all training seeds side by side."""
    cells: list[np.ndarray] = []
    for test in tests:
        drawn = []
        for seed in seeds:
            bench = Bench(config, test, seed)
            run = bench.run(NEIGHBORS)
            context = context_for(bench, run, PROMPTS)
            drawn.append(draw(run, context, range(4), how_of(run, config.guidance_scale)))
        for prompt in range(len(PROMPTS)):
            cells += [fitted(of_seed[prompt]) for of_seed in drawn]
    return Image.fromarray(grid(cells, columns=len(PROMPTS) * len(seeds)))


if __name__ == "__main__":
    main()
