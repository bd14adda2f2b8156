"""Are the other systems what they claim to be? Tests with thresholds set beforehand, over several
training seeds, each against the same network without neighbors.

T7: a transformer that draws code after code (RARM, arXiv 2204.11824). T8: diffusion from the
query's own vector and its neighbors (kNN-Diffusion, arXiv 2204.02849), asked by text for pairs of
shape and colour that it never saw. T9: the same over codes that are masked and found again. Every
figure is kept: a study that was stopped goes on.

    python -m benchmarks.family_study --root data                       # hours on 2 cores
    python -m benchmarks.family_study --root data --set tests='["T7"]' --set seeds=1
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.family_runs import (
    NEIGHBORS,
    SOURCES,
    TRAINED,
    WITHOUT,
    FamilyStudy,
    World,
    neighbors_of,
    prepare,
    train_seed,
)
from benchmarks.study_claims import Claim, at_least, at_most, figures_of, table_of
from flows.config.arguments import configured, root_argument
from flows.data.database import OpenDatabase
from flows.judge.evaluate import write_evaluation
from flows.judge.inputs import version_of
from flows.judge.trial import database_images, features_in
from flows.model.opening import OpenRun, drawn_how, open_database, open_run
from flows.model.request import text_queries
from flows.model.sample import draw
from flows.model.training_data import open_training_data
from flows.run.progress import Clock
from flows.run.revisions import plan_of
from flows.run.stage import building, kept, published, stage_flow, stage_task
from rdm_core.context import Context
from rdm_core.data import NO_ROW, TrainingData
from rdm_core.judge.copies import Known, known_beside
from rdm_core.judge.distances import quality
from rdm_core.judge.estimates import estimate_over_seeds
from rdm_core.judge.judges import ShapesJudge
from rdm_core.judge.losses import held_out_losses
from rdm_core.retrieve import Queries, Retrieved, query_and_neighbors, query_only
from rdm_core.shapes import world as shapes
from rdm_core.shapes.oracle import load_oracle
from storage.artifact import Artifact, open_artifact
from storage.manifest import Plan

NAMED = ("shape", "colour", "style")
"""What every prompt names; right are images that show all of it."""
KS = (1, 5, 10, 20)
"""Neighbors beside a text."""
K = 10
"""Neighbors of the images that T8 and T9 compare."""
BITS = 1 / np.log(2)
"""Bits in a nat."""
DRAWN: dict[str, dict[str, Any]] = {
    "diffusion": {"steps": 12, "sampler": "dpm++"},
    "autoregressive": {},
    "discrete": {"steps": 25},
    "references": {"steps": 12},
    "multimodal": {},
}
"""Family -> how its images are drawn."""


@dataclass(frozen=True)
class Bench:
    """What the networks of one test are measured on."""

    config: FamilyStudy
    test: str
    seed: int

    @property
    def world(self) -> World:
        """The images."""
        return TRAINED[self.test].world

    def run(self, variant: str) -> OpenRun:
        """One of the networks."""
        return open_run(self.config.root, TRAINED[self.test].run(self.test, variant, self.seed))

    def database(self, images: str, run: OpenRun) -> OpenDatabase:
        """One of the databases."""
        return open_database(self.config.root, getattr(self.world, images), run)

    def held_out(self, run: OpenRun) -> TrainingData:
        """Images that no network has seen, of the pairs that training showed."""
        index = open_artifact(self.config.root, "index", self.world.database)
        name, table = self.world.heldout, neighbors_of(TRAINED[self.test], self.world.heldout)
        references = {"latents": name, "neighbors": table, "index": version_of(index)}
        reads = run.model.reads
        encoder = run.encoder if reads.captions else None
        return open_training_data(self.config.root, references, reads, encoder)

    @cached_property
    def compared_with(self) -> tuple[np.ndarray, Known]:
        """Features [M, F] of real images of the new pairs, and every known image."""
        root, features = self.config.root, ShapesJudge().features
        fingerprints = {}
        for images in ("new", "train", "database"):
            shards = open_artifact(root, "shards", getattr(self.world, images))
            fingerprints[images] = shards.fingerprint
        real = features_in(root, [fingerprints.pop("new")], features)
        known = features_in(root, list(fingerprints.values()), features)
        return real, known_beside(known, real)


@stage_flow("family-study")
def family_study(config: FamilyStudy) -> dict[str, list[Artifact]]:
    """Train and measure, test by test and seed by seed: test -> the figures of each seed."""
    measured: dict[str, list[Artifact]] = {}
    for test in config.tests:
        prepare(config, TRAINED[test])
        for seed in range(config.seed, config.seed + config.seeds):
            train_seed(config, test, seed)
            measured.setdefault(test, []).append(measure_seed.ensured(config, test, seed))
    return measured


@stage_flow("family-seed")
def measure_seed(config: FamilyStudy, test: str, seed: int) -> Artifact:
    """The figures of one test's training seed."""
    clock = Clock()
    with building(config.root, seed_plan(config, test, seed)) as build:
        if build.finished:
            return kept(build)
        figures = MEASURES[test](Bench(config, test, seed))
        return published(build, write_evaluation(build, figures), clock)


@measure_seed.plan
def seed_plan(config: FamilyStudy, test: str, seed: int) -> Plan:
    """The runs, what they are compared on, and how many images are drawn."""
    trained, inputs = TRAINED[test], {}
    for variant in trained.variants:
        run = open_artifact(config.root, "runs", trained.run(test, variant.name, seed))
        inputs[variant.name] = run.fingerprint
    for images in SOURCES:
        shards = open_artifact(config.root, "shards", getattr(trained.world, images))
        inputs[f"images {images}"] = shards.fingerprint
    parameters = {"test": test, "images": config.images, "guidance": config.guidance_scale}
    return plan_of("evaluations", f"{test.lower()}-{seed}", parameters, inputs)


@stage_task(name="T7 bits")
def measure_bits(bench: Bench) -> dict[str, float]:
    """Bits a code on held-out images: right neighbors, those of others, the learned null, and the
    twin that never had any.
    """
    run, twin = bench.run(NEIGHBORS), bench.run(WITHOUT)
    data, k = bench.held_out(run), run.facts.k
    bits = {
        "right": held_out_losses(run.model, data, k).mean() * BITS,
        "shuffled": held_out_losses(run.model, data, k, shuffled=True).mean() * BITS,
        "null": held_out_losses(run.model, data, k, null=True).mean() * BITS,
        "twin": held_out_losses(twin.model, data, k, null=True).mean() * BITS,
    }
    figures = {f"T7 bits, {name}": float(value) for name, value in bits.items()}
    gained = bits["twin"] - bits["right"]
    lost = (bits["shuffled"] - bits["right"]) / gained if gained > 0 else 0.0
    return figures | {"T7 gain": float(gained / bits["twin"]), "T7 shuffled": float(lost)}


@stage_task(name="T8 new pairs")
def measure_new_pairs(bench: Bench) -> dict[str, float]:
    """Texts that name a new pair and a style: how often all of it is drawn, and how near the images
    are to real ones of these pairs.
    """
    figures: dict[str, float] = {}
    for variant in TRAINED[bench.test].variants:
        run = bench.run(variant.name)
        if variant.context.get("each_neighbor_dropout") == 1:  # it was never given a neighbor
            figures |= drawn_for_texts(bench, run, None, 0, variant.name)
            continue
        for k in KS if (bench.test, variant.name) == ("T8", NEIGHBORS) else (K,):
            name = variant.name if k == K else f"{variant.name} k={k}"
            figures |= drawn_for_texts(bench, run, "database", k, name)
        figures |= drawn_for_texts(bench, run, "poorer", K, f"{variant.name}, pairs not retrieved")
    test = bench.test
    right, wrong = f"{test} {NEIGHBORS}", f"{test} {WITHOUT}"
    figures[f"{test} all"] = figures[f"{right}: all"] - figures[f"{wrong}: all"]
    figures[f"{test} distance"] = figures[f"{right}: fd"] / figures[f"{wrong}: fd"]
    return figures


@stage_task(name="T9 discrete")
def measure_discrete(bench: Bench) -> dict[str, float]:
    """The same, and the bound in bits a code on held-out images: with neighbors, and by the network
    that was given the images' own vectors alone.
    """
    run, twin = bench.run(NEIGHBORS), bench.run(WITHOUT)
    data, k = bench.held_out(run), run.facts.k
    bits = {
        "right": held_out_losses(run.model, data, k).mean() * BITS,
        "shuffled": held_out_losses(run.model, data, k, shuffled=True).mean() * BITS,
        "null": held_out_losses(run.model, data, k, null=True).mean() * BITS,
        "query alone": held_out_losses(twin.model, data, 0).mean() * BITS,
    }
    figures = {f"T9 bound, {name}": float(value) for name, value in bits.items()}
    figures["T9 gain"] = float(1 - bits["right"] / bits["query alone"])
    return figures | measure_new_pairs.fn(bench)


def drawn_for_texts(
    bench: Bench, run: OpenRun, images: str | None, k: int, name: str
) -> dict[str, float]:
    """How good the images of a network are that are drawn for the texts, with k neighbors out of a
    database, or with none.
    """
    wanted = new_factors(bench.config.images)
    queries = text_queries(run, [shapes.caption(factors, NAMED) for factors in wanted])
    drawn = drawn_from(bench, run, context_of(bench, run, queries, images, k))
    return {f"{bench.test} {name}: {key}": value for key, value in told(bench, drawn).items()}


def drawn_from(bench: Bench, run: OpenRun, context: Context) -> np.ndarray:
    """A network's images uint8 [B, H, W, 3] of some contexts, equal seeds in every call."""
    settings = DRAWN[run.facts.family] | {"guidance_scale": bench.config.guidance_scale}
    seeds = range(30_000, 30_000 + len(context.vectors))
    return draw(run, context, seeds, drawn_how(run.facts, settings))


def context_of(bench: Bench, run: OpenRun, queries: Queries, images: str | None, k: int) -> Context:
    """The texts' own vectors, and k neighbors of each out of a database, if one is named."""
    if images is None:
        return query_only(queries, None, 1).context
    database = bench.database(images, run).retrieval
    return query_and_neighbors(queries, database, k + 1).context


def controls(config: FamilyStudy, test: str) -> dict[str, list[float]]:
    """Share of images that are right in everything, for each training seed: of the nearest
    database images themselves, and of those drawn with the neighbors of other texts.
    """
    found: dict[str, list[float]] = {"return the neighbour": [], "neighbors of other texts": []}
    for seed in range(config.seed, config.seed + config.seeds):
        bench = Bench(config, test, seed)
        run, wanted = bench.run(NEIGHBORS), new_factors(config.images)
        queries = text_queries(run, [shapes.caption(factors, NAMED) for factors in wanted])
        database = bench.database("database", run)
        retrieved = query_and_neighbors(queries, database.retrieval, K + 1)
        nearest = database_images(database, nearest_rows(retrieved.rows))
        found["return the neighbour"].append(float(rightness(nearest, wanted)["all"].mean()))
        # Half the list on: another pair in another style.
        other = np.roll(np.arange(len(wanted)), len(shapes.SHAPES) + 3)
        own, wrong = vars(retrieved), vars(retrieved.take(other))
        mixed = {}
        for name in own:
            mixed[name] = np.concatenate([own[name][:, :1], wrong[name][:, 1:]], axis=1)
        drawn = drawn_from(bench, run, Retrieved(**mixed).context)
        found["neighbors of other texts"].append(float(rightness(drawn, wanted)["all"].mean()))
    return found


def nearest_rows(rows: np.ndarray) -> np.ndarray:
    """The first database row of each context int64 [B, K], whose other places may hold none."""
    first = (rows != NO_ROW).argmax(axis=1)
    return rows[np.arange(len(rows)), first]


def new_factors(count: int) -> list[shapes.Factors]:
    """What images of new pairs show, every pair in every style equally often."""
    asked = []
    for number in range(count):
        shape = shapes.SHAPES[number % len(shapes.SHAPES)]
        colour = next(each for each in shapes.COLOURS if shapes.is_new_pair(shape, each))
        style = shapes.STYLES[number // len(shapes.SHAPES) % len(shapes.STYLES)]
        asked.append(shapes.Factors(shape, colour, style, "light", "centre", "large"))
    return asked


def told(bench: Bench, drawn: np.ndarray) -> dict[str, float]:
    """What the oracle says of images uint8 [N, H, W, 3] drawn for `new_factors`."""
    right = rightness(drawn, new_factors(len(drawn)))
    figures = {factor: float(values.mean()) for factor, values in right.items()}
    near = quality(ShapesJudge().features(drawn), *bench.compared_with)
    return figures | {"fd": near["fd"], "copies": near["copy_rate"]}


def rightness(drawn: np.ndarray, wanted: Sequence[shapes.Factors]) -> dict[str, np.ndarray]:
    """Whether images uint8 [N, H, W, 3] show each named factor as it is wanted, and all of them:
    bool [N] each.
    """
    shown = load_oracle().predict(drawn)
    right = {"all": np.ones(len(drawn), bool)}
    for factor in NAMED:
        right[factor] = shown[factor] == np.array([getattr(each, factor) for each in wanted])
        right["all"] = right["all"] & right[factor]
    return right


MEASURES: dict[str, Callable[[Bench], dict[str, float]]] = {
    "T7": measure_bits,
    "T8": measure_new_pairs,
    "T9": measure_discrete,
}
CLAIMS: dict[str, tuple[Claim, ...]] = {
    "T7": (
        at_least("T7 gain", "bits a code below the twin without neighbors, by", 0.03, True),
        at_least("T7 shuffled", "share of that gain that shuffled neighbors lose", 0.8, True),
    ),
    "T8": (
        at_least("T8 all", "texts of new pairs: all named right, points above query alone", 0.1),
        at_most("T8 distance", "Fréchet distance, as a share of that of query alone", 0.8),
    ),
    "T9": (
        at_least("T9 gain", "bits of the bound below query alone, by", 0.02, True),
        at_least("T9 all", "texts of new pairs: all named right, points above query alone", 0.1),
    ),
}
"""Test -> what it asks, fixed beforehand."""


def figures_table(measured: Sequence[Artifact]) -> str:
    """Every figure of a test, in Markdown: means over training seeds, Student's 95 % intervals."""
    by_seed = figures_of(measured)
    lines = ["| figure | mean | 95 % interval |", "|---|---:|---|"]
    for name in by_seed[0]:
        estimate = estimate_over_seeds([figures[name] for figures in by_seed])
        interval = (
            f"{estimate.low:.3f} to {estimate.high:.3f}" if estimate.count > 1 else "one seed"
        )
        lines.append(f"| {name} | {estimate.mean:.3f} | {interval} |")
    return "\n".join(lines)


def report_of(measured: Mapping[str, Sequence[Artifact]]) -> str:
    """The claims and all figures of the tests, in Markdown."""
    parts = []
    for test, artifacts in measured.items():
        parts += [table_of(artifacts, CLAIMS[test]), figures_table(artifacts)]
    return "\n\n".join(parts)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="tests of the model families, over training seeds")
    parser.add_argument("--root", type=root_argument, default="data", help="where artifacts lie")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    config = configured(options, FamilyStudy)
    print(report_of(family_study(config)))
    for test in set(config.tests) & {"T8", "T9"}:
        for name, shares in controls(config, test).items():
            print(f"{test}, {name}: all right {[round(share, 3) for share in shares]}")


if __name__ == "__main__":
    main()
