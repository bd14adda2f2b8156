"""What is measured of a run: each task gives a table of evaluation.json.

Losses and pictures come from the model, whatever its family; what a picture shows is said by a
judge (`rdm_core.judge.judges`) that shares nothing with the CLIP the model was conditioned on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from flows.data.database import OpenDatabase
from flows.judge.rows import (
    BY_DEFINITION,
    CHANCE,
    GUIDED,
    HELD_OUT,
    HELD_OUT_IMAGES,
    NULL,
    OF_DATABASE,
    OF_HELD_OUT,
    OTHERS,
    RANDOM,
    RETURNED,
    RIGHT,
    SAMPLES,
    SHARP,
    SHOWN,
    SHUFFLED,
    TEXT,
    WITHOUT,
    relative_to,
)
from flows.judge.trial import (
    Trial,
    agreements,
    at_side,
    compared_in,
    database_images,
    draws,
    draws_of,
    estimates,
    held_out_images,
    image_seeds,
    nearest_present,
    prompted,
)
from flows.model.given import without_neighbors
from flows.model.opening import drawn_how
from flows.model.request import text_queries, usual_context
from flows.model.sample import draw
from flows.run.stage import stage_task
from rdm_core.context import Context
from rdm_core.images import fitted, grid
from rdm_core.judge.copies import copy_rate
from rdm_core.judge.distances import quality
from rdm_core.judge.estimates import estimate_over_seeds
from rdm_core.judge.judges import ShapesJudge
from rdm_core.judge.losses import held_out_losses
from rdm_core.judge.sharpness import as_shares, sharpness
from rdm_core.retrieve import STRATEGIES, Database, Queries
from rdm_core.shapes import world

COPIES = "copy_rate"
"""Of sets, among the measures of `quality`."""
LINES_SHOWN = 8
"""Of the contact sheet."""


@stage_task(name="measure-loss")
def measure_loss(trial: Trial) -> dict[str, Any]:
    """The model's own loss on held-out images; differences are paired by sample."""
    data = trial.held_out
    k = min(trial.config.k, trial.run.facts.k)
    losses = {
        RIGHT: held_out_losses(trial.run.model, data, k),
        SHUFFLED: held_out_losses(trial.run.model, data, k, shuffled=True),
        NULL: held_out_losses(trial.run.model, data, k, null=True),
    }
    reference = NULL
    if trial.baseline is not None:
        reference = WITHOUT
        losses[WITHOUT] = held_out_losses(trial.baseline.model, data, k, null=True)
    right, beside = losses[RIGHT], losses[reference]
    changes = {}
    for name, values in losses.items():
        if name != reference:
            changes[name] = (values - beside) / beside.mean()
    measured: dict[str, Any] = {
        "means": estimates(losses),
        relative_to(reference): estimates(changes),
    }
    gained = (beside - right).mean()
    if gained:
        # 0: any neighbors help as much as the right ones; 1: wrong ones help no more than none.
        lost = (losses[SHUFFLED] - right).mean() / gained
        measured["share of the gain lost when shuffled"] = float(lost)
    return measured


@dataclass(frozen=True)
class Asked:
    """What sets of images are drawn for, the same for every seed."""

    near: Context
    """The neighbors of B held-out images [B, K, D], and the images' own vectors where the model is
    given those.
    """
    images: np.ndarray
    """The held-out images themselves: uint8 [B, H, W, 3]."""
    returned: np.ndarray | None
    """The image of the nearest row of each, uint8 [B, H, W, 3]; None where the database's images
    are not under this root.
    """


@stage_task(name="measure-sets")
def measure_sets(trial: Trial) -> tuple[dict[str, Any], np.ndarray]:
    """How near the images drawn for held-out neighbors come to the held-out images, and how clean
    and sharp they are, once a seed, beside images that no model drew; and a contact sheet of some,
    uint8 [H, W, 3], with the columns SHOWN.
    """
    config = trial.config
    real, known = trial.compared_with
    data, rows = trial.held_out, np.arange(trial.images)
    nearest = nearest_present(data.neighbor_rows[rows])
    asked = Asked(
        data.neighbors(rows, min(config.k, trial.run.facts.k), trial.run.model.reads.query),
        held_out_images(config, [data.keys[row] for row in rows]),
        database_images(trial.database, nearest) if trial.has_images else None,
    )
    near: dict[str, list[dict[str, float]]] = {}
    sharp: dict[str, list[dict[str, float]]] = {}
    for seed in range(config.seeds):
        sets = sets_of(trial, asked, seed)
        if seed == 0:
            sheet = contact_sheet({HELD_OUT_IMAGES: asked.images, **sets})
        for name, images in sets.items():
            measures = quality(trial.features(images), real, known, seed)
            near.setdefault(name, []).append(measures)
        for name, measures in sharpness_of(sets, asked.images).items():
            sharp.setdefault(name, []).append(measures)
    tables = {"quality": near, SHARP: sharp}
    measured: dict[str, Any] = {}
    for table, by_name in tables.items():
        measured[table] = {name: over_seeds(measures) for name, measures in by_name.items()}
    return measured, sheet


def sets_of(trial: Trial, asked: Asked, seed: int) -> dict[str, np.ndarray]:
    """One seed's sets of images, each uint8 [B, H, W, 3], by how they came about.

    Equal image seeds for every set: they differ in nothing but the context.
    """
    run, baseline, count = trial.run, trial.baseline, len(asked.images)
    how = drawn_how(run.facts, trial.config.draw)
    unguided = replace(how, guidance_scale=1.0)
    seeds = image_seeds(seed, count)
    sets = {
        HELD_OUT: draw(run, asked.near, seeds, unguided),
        GUIDED: draw(run, asked.near, seeds, how),
        NULL: draw(run, without_neighbors(run, asked.near), seeds, unguided),
    }
    if baseline is not None:
        without = without_neighbors(baseline, asked.near)
        sets[WITHOUT] = draw(baseline, without, seeds, unguided)
    if asked.returned is not None:
        total = trial.database.retrieval.rows
        picks = np.random.default_rng(seed).choice(total, count, replace=total < count)
        sets[RETURNED] = asked.returned
        sets[RANDOM] = database_images(trial.database, picks)
    return sets


def sharpness_of(
    sets: Mapping[str, np.ndarray], held_out: np.ndarray
) -> dict[str, dict[str, float]]:
    """Grain and edges of each set of images, uint8 [B, H, W, 3], and of the held-out images, at the
    samples' size; each also as a share of the held-out images' and of random database images'.
    """
    side = sets[HELD_OUT].shape[1]
    own = {HELD_OUT_IMAGES: sharpness(at_side(held_out, side))}
    for name, images in sets.items():
        own[name] = sharpness(at_side(images, side))
    of = {OF_HELD_OUT: own[HELD_OUT_IMAGES]}
    if RANDOM in own:
        of[OF_DATABASE] = own[RANDOM]
    measured = {}
    for name, measures in own.items():
        measured[name] = dict(measures)
        for ending, others in of.items():
            for measure, share in as_shares(measures, others).items():
                measured[name][measure + ending] = share
    return measured


def contact_sheet(sets: Mapping[str, np.ndarray]) -> np.ndarray:
    """Some held-out images, a line each, uint8 [H, W, 3]: the columns SHOWN that there are."""
    columns = [sets[name][:LINES_SHOWN] for name in SHOWN if name in sets]
    cells = []
    for line in zip(*columns, strict=True):
        cells += [fitted(image) for image in line]
    return grid(cells, columns=len(columns))


def over_seeds(by_seed: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Each measure's mean over the seeds, with its interval; of those that every seed has."""
    means = {}
    for measure in by_seed[0]:
        values = [measures[measure] for measures in by_seed if measure in measures]
        if len(values) == len(by_seed):
            means[measure] = asdict(estimate_over_seeds(values))
    return means


@stage_task(name="draw-prompts")
def draw_prompts(trial: Trial) -> dict[str, list[np.ndarray]]:
    """The wishes' images by what the model was given: once a seed, equal seeds for every row.

    Nothing where the judge can tell of no wish.
    """
    wishes, run, database, k = trial.wishes, trial.run, trial.database, trial.k
    if not wishes:
        return {}
    queries, searched = prompts_in(trial, database)
    table = {}
    for name, strategy in STRATEGIES.items():
        table[f"text, context {name}"] = draws(trial, strategy(queries, searched, k))
    others = others_of(trial.prompts)
    wrong = STRATEGIES[usual_context(run)](queries.take(others), searched, k)
    table[OTHERS] = draws(trial, wrong)
    nearest = STRATEGIES["neighbors"](queries, searched, k)
    own = prompted(trial, nearest)
    table[NULL] = draws_of(trial.config, run, without_neighbors(run, own), 1.0)
    if trial.baseline is not None:
        null = without_neighbors(trial.baseline, own)
        table[WITHOUT] = draws_of(trial.config, trial.baseline, null, 1.0)
    if trial.has_images:
        table[RETURNED] = [database_images(database, nearest.rows[:, 0])]
    return table


def prompts_in(trial: Trial, database: OpenDatabase) -> tuple[Queries, Database]:
    """The prompts as queries, and a database to look them up in, as the run's training did."""
    if trial.run.facts.search == "words":
        return text_queries(trial.run, trial.prompts, "words"), database.by_words
    return text_queries(trial.run, trial.prompts), database.retrieval


def others_of(prompts: Sequence[str]) -> np.ndarray:
    """For each prompt the place of another one: int64 [N]. Where all prompts are the same there is
    none, and the place is its own.

    The first that differs from half the list on: neighboring prompts may name the same colour or
    shape, and in a long list prompts come again.
    """
    count = len(prompts)
    others = np.arange(count)
    for place, prompt in enumerate(prompts):
        for step in range(count):
            other = (place - count // 2 + step) % count
            if prompts[other] != prompt:
                others[place] = other
                break
    return others


@stage_task(name="measure-agreement")
def measure_agreement(trial: Trial, drawn: dict[str, list[np.ndarray]]) -> dict[str, Any]:
    """How often an image shows what its wish names, by what the model was given; and by chance.

    Nothing where the judge knows no factors.
    """
    shares = trial.judge.chance()
    if not shares:
        return {}
    table = {name: agreements(trial, images) for name, images in drawn.items()}
    # two equal values: an interval without width
    chance = {factor: np.full(2, share) for factor, share in shares.items()}
    return table | {CHANCE: estimates(chance)}


@stage_task(name="measure-clip-scores")
def measure_clip_scores(trial: Trial, drawn: dict[str, list[np.ndarray]]) -> dict[str, Any]:
    """Mean cosine of prompts and their images under a CLIP that the run was not conditioned on
    (arXiv 2104.08718, unscaled).

    Nothing when no such CLIP is named.
    """
    clip = trial.clip
    if clip is None or not drawn:
        return {}
    texts, _ = clip.encode_texts(trial.prompts)
    scores = {}
    for name, seeds in drawn.items():
        by_seed = []
        for images in seeds:
            vectors, _ = clip.encode_images(list(images))
            by_seed.append((vectors * texts).sum(axis=1))
        # Over the seeds first, so that prompts are the unit of the interval.
        scores[name] = np.mean(by_seed, axis=0)
    return estimates(scores)


@stage_task(name="measure-swaps")
def measure_swaps(trial: Trial) -> dict[str, Any]:
    """One set of prompts that name no style, one set of weights, a database of one style each: what
    style is drawn?

    Nothing where the judge knows no styles.
    """
    judge = trial.judge
    if not isinstance(judge, ShapesJudge):
        return {}
    table: dict[str, Any] = {}
    for style, database in trial.swaps.items():
        queries, searched = prompts_in(trial, database)
        nearest = STRATEGIES["neighbors"](queries, searched, trial.k)
        drawn = draws(trial, nearest, database)
        shown = np.concatenate([judge.styles(images) for images in drawn])
        shares = estimates({shown_style: shown == shown_style for shown_style in world.STYLES})
        table[style] = {"styles": shares} | agreements(trial, drawn)
    return table


@stage_task(name="measure-copies")
def measure_copies(
    trial: Trial, drawn: dict[str, list[np.ndarray]], sets: Mapping[str, Any]
) -> dict[str, float]:
    """Share of samples nearer to a training or database image than 1 % of held-out images are: of
    prompted samples, or, where the judge has no prompts, of the sets drawn for held-out neighbors.

    Nothing where no such image is known.
    """
    rates = prompted_copies(trial, drawn)
    if not drawn:
        rates = {name: row[COPIES]["mean"] for name, row in sets.items() if COPIES in row}
    # The distance that counts as a copy is the one below which 1 % of held-out images lie.
    return rates | {BY_DEFINITION: 0.01} if rates else {}


def prompted_copies(trial: Trial, drawn: dict[str, list[np.ndarray]]) -> dict[str, float]:
    """The copy rate of prompted samples, and of neighbors returned for prompts; nothing where there
    are no prompts or no image is known that could be copied.
    """
    rates: dict[str, float] = {}
    if not drawn:
        return rates
    features = trial.judge.features
    _, known = trial.compared_with
    if features != trial.features:
        _, known = compared_in(trial, features)
    if known is None:
        return rates
    for name, row in {SAMPLES: TEXT, RETURNED: RETURNED}.items():
        if row in drawn:
            drawn_features = np.concatenate([features(images) for images in drawn[row]])
            rates[name] = copy_rate(drawn_features, known)
    return rates
