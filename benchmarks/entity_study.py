"""What do models take from neighbors that are more than a vector? Tests with thresholds set
beforehand, on things whose look no word tells, some of which only the database shows.

T11: a network that attends to its neighbors' latents (Re-Imagen, arXiv 2209.14491) draws entities
that it never saw, better than one that is given their vectors. T12: text and neighbors as guides in
turn, beside both at once. T13: a transformer over documents (RA-CM3, arXiv 2211.12561). Every
figure is kept: a study that was stopped goes on.

    python -m benchmarks.entity_study --root data                       # hours on 2 cores
    python -m benchmarks.entity_study --root data --set tests='["T11"]' --set seeds=1
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
import torch

from benchmarks import document_measures as measures
from benchmarks.entity_asked import Asked
from benchmarks.entity_copies import known_entities, pixels, seconds_an_image
from benchmarks.entity_runs import (
    DATABASE,
    DOCUMENTS,
    FREQUENT,
    HELD_OUT,
    REFERENCES,
    TRAINED,
    VECTORS,
    WITHOUT,
    EntityStudy,
    Trained,
    prepare,
    train_seed,
)
from benchmarks.family_study import figures_table, nearest_rows
from benchmarks.study_claims import Claim, at_least, at_most, table_of
from flows.config.arguments import configured, root_argument
from flows.config.sample import SampleRDM
from flows.judge.evaluate import write_evaluation
from flows.judge.inputs import version_of
from flows.judge.trial import database_images
from flows.model.opening import OpenRun, drawn_how, open_database, open_run
from flows.model.request import Request, request_of
from flows.model.sample import draw, open_all
from flows.model.training_data import open_training_data
from flows.run.progress import Clock
from flows.run.revisions import plan_of
from flows.run.stage import building, kept, published, stage_flow, stage_task
from rdm_core.context import Context
from rdm_core.data import TrainingData
from rdm_core.families.multimodal.config import Draw
from rdm_core.judge.copies import copy_rate
from rdm_core.shapes import entities as world
from storage.artifact import Artifact, open_artifact
from storage.manifest import Plan

K = 2
"""Neighbors of a text."""
DRAWN: dict[str, dict[str, float]] = {
    "references": {"steps": 20, "guidance_scale": 2.0},
    "multimodal": {"guidance_scale": 2.0},
}
"""Family -> how its images are drawn, but for T12."""
SHOTS = (2, 4, 8)
"""T13: examples of two classes, half of each."""
INTERLEAVED = (0.0, 0.25, 0.5, 0.75, 1.0)
"""T12: shares of the steps that are guided by the text, the others by the neighbors."""
SCALE = 3.0
"""T12: both scales where the two take turns."""
GRID = (1.0, 2.0, 4.0)
"""T12: scales of each where both guide every step."""


@dataclass(frozen=True)
class Bench:
    """What the networks of one test's seed are measured on."""

    config: EntityStudy
    test: str
    seed: int

    @property
    def trained(self) -> Trained:
        """What was trained for it."""
        return TRAINED[self.test]

    def asked_for(self, variant: str, asked: Asked) -> tuple[OpenRun, Request]:
        """A network, and the texts with the neighbors that their words find."""
        config = SampleRDM(
            root=self.config.root, name="texts", run=self.trained.run(variant, self.seed),
            database=self.trained.images(DATABASE), texts=asked.texts, context="neighbors", count=1,
            k=K, search="words",
        )  # fmt: skip
        opened = open_all(config)
        return opened.run, request_of(config, opened)

    @cached_property
    def held_out(self) -> Asked:
        """Entities that only the database shows."""
        return Asked.of("held out", self.config.images)

    @cached_property
    def frequent(self) -> Asked:
        """Entities that training showed often."""
        return Asked.of("frequent", self.config.images)


@stage_flow("entity-study")
def entity_study(config: EntityStudy) -> dict[str, list[Artifact]]:
    """Train and measure, test by test and seed by seed: test -> the figures of each seed."""
    measured: dict[str, list[Artifact]] = {}
    for test in config.tests:
        prepare(config, TRAINED[test])
        for seed in range(config.seed, config.seed + config.seeds):
            train_seed(config, TRAINED[test], seed)
            measured.setdefault(test, []).append(measure_seed.ensured(config, test, seed))
    return measured


@stage_flow("entity-seed")
def measure_seed(config: EntityStudy, test: str, seed: int) -> Artifact:
    """The figures of one test's training seed."""
    clock = Clock()
    with building(config.root, seed_plan(config, test, seed)) as build:
        if build.finished:
            return kept(build)
        figures = MEASURES[test](Bench(config, test, seed))
        return published(build, write_evaluation(build, figures), clock)


@measure_seed.plan
def seed_plan(config: EntityStudy, test: str, seed: int) -> Plan:
    """The runs, their database, and how many images are drawn."""
    trained, inputs = TRAINED[test], {}
    for variant in trained.variants:
        run = open_artifact(config.root, "runs", trained.run(variant.name, seed))
        inputs[variant.name] = run.fingerprint
    database = open_artifact(config.root, "embeddings", trained.images(DATABASE))
    inputs["database"] = database.fingerprint
    parameters: dict[str, object] = {"test": test, "images": config.images}
    if test == "T11":
        parameters["copies"] = "pixels"
    return plan_of("evaluations", f"{test.lower()}-{seed}", parameters, inputs)


def drawn(run: OpenRun, context: Context, **how: float) -> np.ndarray:
    """A network's images uint8 [B, H, W, 3] of some contexts, equal seeds in every call."""
    seeds = range(30_000, 30_000 + len(context.slots))
    return draw(run, context, seeds, drawn_how(run.facts, DRAWN[run.facts.family] | how))


def of_others(context: Context) -> Context:
    """The same texts, each with the neighbors of another entity's, [B, K, D]."""
    other = torch.arange(len(context.slots)).roll(7)
    return replace(context.rows(other), text=context.text)


@stage_task(name="T11 entities")
def measure_entities(bench: Bench) -> dict[str, float]:
    """How often the entity that a text names is drawn, and where and on what: by each network, with
    neighbors and without.
    """
    figures: dict[str, float] = {}
    known = known_entities(bench.config, bench.trained)
    for group, asked in (("held out", bench.held_out), ("frequent", bench.frequent)):
        for variant in bench.trained.variants:
            run, request = bench.asked_for(variant.name, asked)
            context, name = request.context, f"T11 {variant.name}, {group}"
            if variant.name != WITHOUT:
                images = drawn(run, context)
                figures |= named(name, asked.right(images))
                figures[f"{name}: copies"] = copy_rate(pixels(images), known)
                how = drawn_how(run.facts, DRAWN[run.facts.family])
                figures |= named(f"{name}: seconds", seconds_an_image(run, context, how))
            alone = asked.right(drawn(run, context.without_neighbors()))
            figures |= named(f"{name}, neighbors left out", alone)
            if variant.name == REFERENCES:
                others = asked.right(drawn(run, of_others(context)))
                figures |= named(f"{name}, neighbors of others", others)
                nearest = nearest_images(bench, request, REFERENCES)
                figures |= named(f"T11 return the neighbour, {group}", asked.right(nearest))
    held_out = "T11 {}, held out: entity"
    best = figures[held_out.format(REFERENCES)]
    twin = figures[f"T11 {WITHOUT}, frequent, neighbors left out: entity"]
    return figures | {
        "T11 entities": best,
        "T11 alone": figures[f"T11 {WITHOUT}, held out, neighbors left out: entity"],
        "T11 frequent": figures[f"T11 {REFERENCES}, frequent: entity"] - twin,
        "T11 vectors": best - figures[held_out.format(VECTORS)],
    }


def named(name: str, figures: dict[str, float]) -> dict[str, float]:
    """The figures with a name before each."""
    return {f"{name}: {key}": value for key, value in figures.items()}


def nearest_images(bench: Bench, request: Request, variant: str) -> np.ndarray:
    """The nearest database image of each text: uint8 [N, H, W, 3]."""
    run = open_run(bench.config.root, bench.trained.run(variant, bench.seed))
    database = open_database(bench.config.root, bench.trained.images(DATABASE), run)
    return database_images(database, nearest_rows(request.retrieved.rows))


@stage_task(name="T12 guidance")
def measure_guidance(bench: Bench) -> dict[str, float]:
    """Entity against place and background, for shares of the steps that each guides, and for scales
    of both at once.
    """
    asked = bench.held_out
    run, request = bench.asked_for(REFERENCES, replace(asked, named_alone=True))
    # The neighbors were found by the name alone: they are elsewhere, and on other backgrounds.
    texts = torch.from_numpy(run.encoder.tokens(asked.texts))
    context = replace(request.context, text=texts)
    figures: dict[str, float] = {}
    points = {}
    for share in INTERLEAVED:
        how = {"guidance_scale": SCALE, "neighbor_scale": SCALE, "interleave": share}
        points[share] = asked.right(drawn(run, context, **how))
        figures |= named(f"T12 in turn, text {share:g}", points[share])
    both = []
    for text, neighbors in product(GRID, GRID):
        how = {"guidance_scale": text, "neighbor_scale": neighbors}
        right = asked.right(drawn(run, context, **how))
        figures |= named(f"T12 at once, text {text:g}, neighbors {neighbors:g}", right)
        both.append(right)
    by_neighbors, by_text = points[0.0], points[1.0]
    most_entities, most_attributes = by_neighbors["entity"], by_text["place and background"]

    def worse_share(right: dict[str, float]) -> float:
        """Of the two shares of the single guidances' best, the lower one."""
        attributes = right["place and background"]
        return min(
            right["entity"] / max(most_entities, 1e-6), attributes / max(most_attributes, 1e-6)
        )

    return figures | {
        "T12 best in turn": max(worse_share(right) for right in points.values()),
        "T12 best at once": max(worse_share(right) for right in both),
        "T12 neighbors miss": most_attributes - by_neighbors["place and background"],
        "T12 text misses": most_entities - by_text["entity"],
    }


@stage_task(name="T13 documents")
def measure_documents(bench: Bench) -> dict[str, float]:
    """What documents give: bits of images, entities drawn from texts, captions, parts filled in,
    and classes told by examples. Beside each, the network without documents and the nearest
    document itself.
    """
    figures: dict[str, float] = {}
    for of in (FREQUENT, HELD_OUT):
        for variant, counts in ((DOCUMENTS, (0, 1, 2)), (WITHOUT, (0,))):
            run = open_run(bench.config.root, bench.trained.run(variant, bench.seed))
            data = held_out_data(bench, run, of)
            for count in counts:
                name = f"T13 bits, {of}, {variant}, {count} documents"
                figures[name] = measures.bits(run, data, count)
            if variant == DOCUMENTS:
                figures[f"T13 bits, {of}, documents of others"] = measures.bits(run, data, 2, True)
    for group, asked in (("held out", bench.held_out), ("frequent", bench.frequent)):
        for variant in (DOCUMENTS, WITHOUT):
            run, request = bench.asked_for(variant, asked)
            context, name = request.context, f"T13 {variant}, {group}"
            if variant == DOCUMENTS:
                figures |= named(name, asked.right(drawn(run, context)))
                figures |= named(
                    f"T13 return the neighbour, {group}",
                    asked.right(nearest_images(bench, request, DOCUMENTS)),
                )
            alone = asked.right(drawn(run, context.without_neighbors()))
            figures |= named(f"{name}, documents left out", alone)
        figures |= told_of_images(bench, group)
    run = open_run(bench.config.root, bench.trained.run(DOCUMENTS, bench.seed))
    for shots in SHOTS:
        share = measures.classified(run, shots, bench.config.images, bench.trained.size)
        figures[f"T13 classified, {shots} shots"] = share
    by_count = [figures[f"T13 bits, {FREQUENT}, {DOCUMENTS}, {count} documents"] for count in
                (0, 1, 2)]  # fmt: skip
    return figures | {
        "T13 bits": 1 - by_count[2] / by_count[0],
        "T13 each document": min(by_count[0] - by_count[1], by_count[1] - by_count[2]),
        "T13 entities": figures[f"T13 {DOCUMENTS}, held out: entity"],
    }


def told_of_images(bench: Bench, group: str) -> dict[str, float]:
    """Captions of images, and parts of both filled in, with the documents nearest to the images and
    without.
    """
    run = open_run(bench.config.root, bench.trained.run(DOCUMENTS, bench.seed))
    database = open_database(bench.config.root, bench.trained.images(DATABASE), run)
    samples = [
        world.sample("asked", number, bench.trained.size, entities=group)
        for number in range(bench.config.images)
    ]
    images = np.stack([sample.pixels for sample in samples])
    context = measures.documents_of(run, database, images, K)
    texts = torch.from_numpy(run.encoder.tokens([sample.caption for sample in samples]))
    how = drawn_how(run.facts, DRAWN[run.facts.family])
    assert isinstance(how, Draw), "this family's"
    figures: dict[str, float] = {}
    for name, seen in (("", context), (", documents left out", context.without_neighbors())):
        captioned = measures.captioned(run, seen, samples)
        figures |= named(f"T13 captions, {group}{name}", captioned)
        filled = measures.filled_in(run, replace(seen, text=texts), samples, how)
        figures |= named(f"T13 filled in, {group}{name}", filled)
    return figures


def held_out_data(bench: Bench, run: OpenRun, of: str) -> TrainingData:
    """One of the sets of images that no network has seen."""
    name, root = bench.trained.images(of), bench.config.root
    index = open_artifact(root, "index", bench.trained.images(DATABASE))
    inputs = {"latents": name, "neighbors": name, "index": version_of(index)}
    return open_training_data(root, inputs, run.model.reads, run.encoder)


MEASURES: dict[str, Callable[[Bench], dict[str, float]]] = {
    "T11": measure_entities,
    "T12": measure_guidance,
    "T13": measure_documents,
}
CLAIMS: dict[str, tuple[Claim, ...]] = {
    "T11": (
        at_least("T11 entities", "entities that only the database shows, drawn right", 0.6, True),
        at_most("T11 alone", "the same by the network without neighbors (chance 2 %)", 0.07, True),
        at_least("T11 frequent", "frequent entities: above the network without, by", -0.02, True),
        at_least("T11 vectors", "entities above the network that is given vectors, by", 1e-9, True),
    ),
    "T12": (
        at_least("T12 best in turn", "the lower share of both single guides' best", 0.9, True),
        at_least("T12 neighbors miss", "place and background: neighbors below text, by", 0.1, True),
        at_least("T12 text misses", "entities: text below neighbors, by", 0.1, True),
    ),
    "T13": (
        at_least(
            "T13 bits", "bits a code with two documents below those with none, by", 0.03, True
        ),
        at_least("T13 each document", "bits that the first and the second document save", 0.0),
        at_least("T13 entities", "entities that only the database shows, drawn right", 0.5, True),
        at_least("T13 classified, 4 shots", "images labelled by four examples", 0.75, True),
    ),
}
"""Test -> what it asks, fixed beforehand."""


def report_of(measured: dict[str, Sequence[Artifact]]) -> str:
    """The claims and all figures of the tests, in Markdown."""
    parts = []
    for test, artifacts in measured.items():
        parts += [table_of(artifacts, CLAIMS[test]), figures_table(artifacts)]
    return "\n\n".join(parts)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="tests of references and documents")
    parser.add_argument("--root", type=root_argument, default="data", help="where artifacts lie")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    print(report_of(dict(entity_study(configured(options, EntityStudy)))))


if __name__ == "__main__":
    main()
