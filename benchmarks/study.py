"""Is the method what it claims to be? Six tests with thresholds set beforehand, over several
training seeds.

Each seed trains the networks of `benchmarks/study_runs.py` and measures them on images that none
has seen. What the tests are and why: docs/results.md.

    make study                                    # hours on 2 cores
    python -m benchmarks.study --root data --set seeds=1 --picture docs/networks.png
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import stats

from benchmarks.study_claims import (
    NAMED,
    SCALES,
    SHARES,
    TEXT_CONTEXTS,
    share_figure,
    shares_table,
    table_of,
)
from benchmarks.study_runs import (
    Study,
    evaluation_of,
    prepare_worlds,
    rival_of,
    train_seed,
    uneven_evaluation_of,
    uneven_of,
)
from benchmarks.study_subject import Learned, Subject, learned_by, open_subject
from flows.config.arguments import configured, root_argument
from flows.judge.evaluate import evaluation_plan, write_evaluation
from flows.judge.trial import (
    database_images,
    held_out_images,
    heldout_data,
)
from flows.model.opening import OpenRun, drawn_how
from flows.model.request import text_queries, training_counts
from flows.model.sample import draw
from flows.run.progress import Clock
from flows.run.revisions import plan_of
from flows.run.stage import building, kept, published, stage_flow, stage_task
from rdm_core.context import Context
from rdm_core.images import grid
from rdm_core.judge.distances import quality
from rdm_core.judge.losses import held_out_losses
from rdm_core.retrieve import (
    Database,
    Queries,
    draw_pseudo_queries,
    neighbors_only,
    query_and_neighbors,
    query_only,
)
from rdm_core.search import Searcher
from rdm_core.shapes import world
from rdm_core.shapes.oracle import load_oracle
from storage.artifact import Artifact, open_artifact
from storage.manifest import Plan


@stage_flow("study-rdm")
def study(config: Study) -> list[Artifact]:
    """Train four networks a seed and put them through the tests.

    shapes --the demo's stages--> latents, neighbors, databases --train, seed by seed--> runs
    --T1..T6--> figures
    """
    prepare_worlds(config)
    measured = []
    for seed in range(config.seed, config.seed + config.seeds):
        train_seed(config, seed)
        measured.append(study_seed.ensured(config, seed))
    return measured


@stage_flow("study-seed")
def study_seed(config: Study, seed: int) -> Artifact:
    """The figures of one training seed."""
    clock = Clock()
    with building(config.root, study_plan(config, seed)) as build:
        if build.finished:
            return kept(build)
        subject = open_subject(config, seed)
        figures: dict[str, float] = {}
        claims = (
            claim_loss,
            claim_distance,
            claim_purity,
            claim_text,
            claim_shares,
            claim_nulls,
            claim_network,
            claim_sampler,
        )
        for claim in claims:
            figures |= claim(config, subject)
        return published(build, write_evaluation(build, figures), clock)


@study_seed.plan
def study_plan(config: Study, seed: int) -> Plan:
    """The runs, what they are compared on, and how many images are drawn."""
    plan = evaluation_plan(evaluation_of(config, seed))
    rivals = {
        "rival": open_artifact(config.root, "runs", rival_of(seed)).fingerprint,
        "uneven": open_artifact(config.root, "runs", uneven_of(seed)).fingerprint,
        "uneven_images": open_artifact(config.root, "shards", "shapes-uneven-heldout").fingerprint,
    }
    parameters = {
        "study": True,
        "images": config.images,
        "steps": config.sampler_steps,
        "guidance": config.guidance_scale,
    }
    return plan_of(plan.kind, f"study-{seed}", parameters, {**plan.inputs, **rivals})


@stage_task(name="T1 loss")
def claim_loss(config: Study, subject: Subject) -> dict[str, float]:
    """Held-out denoising loss at equal times and noise."""
    run, data = subject.run, heldout_data(subject.evaluation, subject.run, subject.database)
    measure = partial(held_out_losses, run.model, data, run.facts.k)
    right = measure().mean()
    null = measure(null=True).mean()
    shuffled = measure(shuffled=True).mean()
    return {
        "T1 gain": float(1 - right / null),
        "T1 shuffled": float((shuffled - right) / (null - right)),
    }


@stage_task(name="T2 distance")
def claim_distance(config: Study, subject: Subject) -> dict[str, float]:
    """Sets of images, unguided: drawn for held-out neighbors, and drawn by the twin that never had
    any.
    """
    near = heldout_context(config, subject)
    drawn = judged(subject, draw_all(config, subject.run, near, 1.0))
    alone = subject.twin.model.null(config.images)
    twin = judged(subject, draw_all(config, subject.twin, alone, 1.0))
    return {
        "T2 distance": drawn["fd"] / twin["fd"],
        "T2 recall": drawn["recall"] - twin["recall"],
        "T2 copies": drawn["copy_rate"],
    }


@stage_task(name="T3 purity")
def claim_purity(config: Study, subject: Subject) -> dict[str, float]:
    """The database restricted to one value of a factor, random rows of it as queries: how often is
    that value drawn?
    """
    figures = {}
    for factor in NAMED:
        shares = [purity(config, subject, factor, value) for value in world.VALUES[factor]]
        figures[f"T3 {factor}"] = float(np.mean(shares))
    return figures


def purity(config: Study, subject: Subject, factor: str, value: str) -> float:
    """Share of images that show the value that every row of the restricted database shows."""
    shows_value = [factors.get(factor) == value for factors in subject.factors]
    rows = np.flatnonzero(shows_value)
    whole_database = subject.database.retrieval
    restricted = Database(
        Searcher(whole_database.vectors(rows), None), np.asarray(whole_database.norms)[rows]
    )
    count = max(8, config.images // 16)
    picked = np.random.default_rng(0).integers(0, len(rows), count)
    queries = Queries(restricted.vectors(picked), restricted.norms[picked], texts=False)
    context = neighbors_only(queries, restricted, subject.run.facts.k).context
    images = draw_all(config, subject.run, context, config.guidance_scale)
    return float((load_oracle().predict(images)[factor] == value).mean())


@stage_task(name="T4 text")
def claim_text(config: Study, subject: Subject) -> dict[str, float]:
    """Texts that name a colour, a shape and a style, against the embeddings of held-out images that
    show the same.
    """
    run, database = subject.run, subject.database.retrieval
    images = subject.heldout[: config.images]
    wanted = load_oracle().predict(np.stack(images))
    captions = []
    for i in range(len(images)):
        factors = {name: str(wanted[name][i]) for name in world.FACTORS}
        captions.append(world.caption(world.Factors(**factors), NAMED))
    texts = text_queries(run, captions)
    own = Queries(*run.encoder.encode_images(images), texts=False)
    contexts = {
        "text alone": query_only(texts, None, 1),
        "text and neighbors": query_and_neighbors(texts, database, run.facts.k),
        "image": query_only(own, None, 1),
    }
    accuracy = {}
    for name, retrieved in contexts.items():
        drawn = draw_all(config, run, retrieved.context, config.guidance_scale)
        shown = load_oracle().predict(drawn)
        for factor in NAMED:
            accuracy[name, factor] = float((shown[factor] == wanted[factor]).mean())
    figures = {}
    for name in TEXT_CONTEXTS:
        for factor in NAMED:
            # An image's own embedding says more than a text: it is the measure of what is possible.
            possible = accuracy["image", factor] or 1.0
            values = len(world.VALUES[factor])  # chance is 1 in so many
            figures[f"T4 {factor}, {name}"] = accuracy[name, factor] * values
            figures[f"T4 {factor}, {name}, share"] = accuracy[name, factor] / possible
    return figures


@stage_task(name="T5 shares")
def claim_shares(config: Study, subject: Subject) -> dict[str, float]:
    """Unconditional samples from the most often retrieved share m of the rows: precision falls and
    recall rises with m, where rows are retrieved unevenly.
    """
    figures = {}
    for learned, name in ((subject, "T5"), (subject.uneven, "T5 uneven")):
        drawn = [drawn_from_share(config, learned, share) for share in SHARES]
        for measure in ("precision", "recall"):
            values = [quality_of_share[measure] for quality_of_share in drawn]
            figures[f"{name} {measure}"] = rank_correlation(SHARES, values)
            for share, value in zip(SHARES, values, strict=True):
                figures[share_figure(name, measure, share)] = value
    return figures


def drawn_from_share(config: Study, learned: Learned, share: float) -> dict[str, float]:
    """How good images are that are drawn from the most often retrieved share of the rows."""
    run, database = learned.run, learned.database.retrieval
    rows = rows_of_share(config, learned, share)
    queries = Queries(database.vectors(rows), database.norms[rows], texts=False)
    context = neighbors_only(queries, database, run.facts.k).context
    return judged(learned, draw_all(config, run, context, 1.0))


def rows_of_share(config: Study, learned: Learned, share: float) -> np.ndarray:
    """Rows int64 [images] drawn from the share of the database that training retrieved most."""
    counts = training_counts(learned.run, learned.database)
    return draw_pseudo_queries(
        counts, share, config.images, np.random.default_rng(0), weighted=False
    )


def rows_themselves(config: Study) -> dict[str, list[dict[str, float]]]:
    """What T5 can be at best: how good the database's own images in the rows of each share are,
    beside the same held-out images. No model is asked.
    """
    measured = {}
    of_world = {"even": evaluation_of, "uneven": uneven_evaluation_of}
    for name, evaluation in of_world.items():
        learned = learned_by(evaluation(config, config.seed))
        measured[name] = []
        for share in SHARES:
            images = database_images(learned.database, rows_of_share(config, learned, share))
            measured[name].append(judged(learned, images))
    return measured


def rank_correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Spearman's; 0 where one of them does not change, which has no ranks."""
    return float(np.nan_to_num(stats.spearmanr(xs, ys).statistic)) if len(set(ys)) > 1 else 0.0


@stage_task(name="T6 nulls")
def claim_nulls(config: Study, subject: Subject) -> dict[str, float]:
    """Guided away from the null of the training, and from the zero vector that the 2022 release
    guided with.
    """
    near, figures = heldout_context(config, subject), {}
    for scale in SCALES:
        learned = judged(subject, draw_all(config, subject.run, near, scale, null="learned"))
        zero = judged(subject, draw_all(config, subject.run, near, scale, null="zero"))
        figures[f"T6 scale {scale:g}"] = learned["fd"] / zero["fd"]
    return figures


@stage_task(name="N network")
def claim_network(config: Study, subject: Subject) -> dict[str, float]:
    """Two networks of as many parameters after as many steps, each drawing by its own process, with
    enough sampler steps.
    """
    near = heldout_context(config, subject)
    transformer = judged(subject, draw_all(config, subject.run, near, 1.0, steps=50))
    unet = judged(subject, draw_all(config, subject.rival, near, 1.0, steps=50))
    return {"N network": transformer["fd"] / unet["fd"]}


@stage_task(name="S sampler")
def claim_sampler(config: Study, subject: Subject) -> dict[str, float]:
    """A multistep solver with few steps against the plain sampler with many."""
    near = heldout_context(config, subject)
    few = draw_all(config, subject.run, near, 1.0, steps=20, sampler="dpm++")
    many = draw_all(config, subject.run, near, 1.0, steps=100, sampler=None)
    return {"S sampler": judged(subject, few)["fd"] / judged(subject, many)["fd"]}


def heldout_context(config: Study, subject: Subject) -> Context:
    """The neighbors of as many held-out images as are drawn."""
    data = heldout_data(subject.evaluation, subject.run, subject.database)
    return data.neighbors(np.arange(config.images) % len(data), subject.run.facts.k)


def draw_all(
    config: Study,
    run: OpenRun,
    context: Context,
    guidance_scale: float,
    **settings: Any,
) -> np.ndarray:
    """One image a context, equal seeds in every call."""
    chosen = {"steps": config.sampler_steps, "guidance_scale": guidance_scale} | settings
    seeds = range(20_000, 20_000 + len(context.vectors))
    return draw(run, context, seeds, drawn_how(run.facts, chosen))


def judged(subject: Learned, images: np.ndarray) -> dict[str, float]:
    """How the images compare with the held-out ones, in the oracle's features."""
    return quality(load_oracle().features(images), subject.real, subject.known)


def networks_picture(config: Study, columns: int = 12) -> Image.Image:
    """The same contexts drawn by the transformer, then by the U-Net, and the images whose
    neighbors they are; of the first seed, not guided.
    """
    subject = open_subject(config, config.seed)
    few = config.model_copy(update={"images": columns})
    near = heldout_context(few, subject)
    rows = []
    for run in (subject.run, subject.rival):
        rows += list(draw_all(few, run, near, 1.0, steps=50))
    keys = heldout_data(subject.evaluation, subject.run, subject.database).keys[:columns]
    rows += list(held_out_images(subject.evaluation, keys))
    return Image.fromarray(grid(rows, columns=columns))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="six tests of the method, over training seeds")
    parser.add_argument("--root", type=root_argument, default="data", help="where artifacts lie")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--picture", type=Path, help="also save what the networks draw here")
    options = parser.parse_args()
    config = configured(options, Study)
    measured = study(config)
    print(table_of(measured), shares_table(measured, rows_themselves(config)), sep="\n\n")
    if options.picture:
        networks_picture(config).save(options.picture, optimize=True)


if __name__ == "__main__":
    main()
