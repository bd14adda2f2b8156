"""Networks that draw emoji by a name: trained where they are missing, judged in features that none
of them has seen. A table, and a picture.

    rdm acquire emoji
    python -m benchmarks.emoji_study --root data --picture docs/emoji.png

Each network is asked for the same names out of each style's database. Beside them stand real
pictures of the same names, and the nearest picture of the database, given back as it is.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.emoji_judges import (
    Probe,
    imagenet_features,
    probe_of,
    remembered,
    shows_what_it_is_called,
)
from benchmarks.emoji_runs import (
    NEIGHBORS,
    QUERY,
    REFERENCES,
    STYLES,
    UNSEEN,
    WITHOUT,
    EmojiStudy,
    database_of,
    prepare,
    run_of,
    train,
)
from flows.config.arguments import configured, root_argument
from flows.data.database import OpenDatabase
from flows.judge.trial import database_images
from flows.model.given import given, without_neighbors
from flows.model.opening import OpenRun, drawn_how, open_database, open_run
from flows.model.request import text_queries
from flows.model.sample import draw
from rdm_core.autoencoders.measures import reconstruct
from rdm_core.context import Context
from rdm_core.emoji.pictures import Pictures, read_pictures
from rdm_core.features import Features
from rdm_core.images import fitted, grid
from rdm_core.judge.copies import copy_rate, known_beside
from rdm_core.judge.distances import quality
from rdm_core.judge.estimates import estimate
from rdm_core.latents import load_latent_space
from rdm_core.retrieve import Retrieved, neighbors_only, query_and_neighbors

SIDE = 64
HOW = {"guidance_scale": 2.0, "steps": 20}
K = {REFERENCES: 2, QUERY: 5, NEIGHBORS: 4}
"""Vectors in a context; those of a query have itself among them."""
RETURNED, REAL = "return the neighbour", "real pictures"
SHOWN = ("red apple", "cat face", "smiling face with hearts", "pizza", "penguin", "rocket")
"""What the picture shows."""


@dataclass(frozen=True)
class Bench:
    """What every figure needs."""

    config: EmojiStudy
    pictures: Pictures
    features: np.ndarray
    """Of the pictures, float32 [N, F]."""
    judge: "Judge"

    @cached_property
    def asked(self) -> dict[str, list[int]]:
        """Rows of pictures of the unseen style whose names are asked for: "known", "held out"."""
        rng = np.random.default_rng(self.config.seed)
        chosen = {}
        for part, held_out in (("known", False), ("held out", True)):
            rows = self.rows_of(UNSEEN, held_out)
            wanted = min(self.config.images, len(rows))
            chosen[part] = sorted(rng.choice(rows, wanted, replace=False).tolist())
        return chosen

    def rows_of(self, style: str, held_out: bool) -> list[int]:
        """Rows of the pictures of a style whose concepts are held out, or are not."""
        pictures = self.pictures
        rows = range(len(pictures))
        return [r for r in rows if pictures.styles[r] == style and pictures.held_out[r] == held_out]


@dataclass(frozen=True)
class Judge:
    """ImageNet features, and classifiers of them that were fitted to known concepts."""

    features: Features
    styles: Probe
    groups: Probe


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="networks that draw emoji by a name")
    parser.add_argument("--root", type=root_argument, default="data", help="where artifacts lie")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--picture", type=Path, help="also save what each network draws here")
    options = parser.parse_args()
    config = configured(options, EmojiStudy)
    prepare(config)
    train(config)
    bench = bench_of(config)
    measured = []
    for kind in (REAL, RETURNED, *config.steps):
        for style in config.databases:
            for part in bench.asked:
                found = measured_of(bench, kind, style, part)
                measured.append({"kind": kind, "database": style, "concepts": part, **found})
                print(line_of(measured[-1]), flush=True)
    Path(config.root, "emoji-study.json").write_text(json.dumps(measured, indent=1), "utf-8")
    if options.picture:
        picture(bench, [*config.steps]).save(options.picture, optimize=True)


def bench_of(config: EmojiStudy) -> Bench:
    """Pictures, their features, and the judge, which is told how good it is itself."""
    pictures = read_pictures([config.path], SIDE)
    embed = imagenet_features(Path(config.root, "imagenet"))
    kept = Path(config.root, "imagenet")
    features = remembered(embed, pictures.pixels, kept)
    known = np.flatnonzero(~pictures.held_out)
    held_out = np.flatnonzero(pictures.held_out)
    # What an autoencoder gives back is a little soft: a judge is to know that too.
    softened = known[::4]
    space = load_latent_space("rdm-emoji-kl")

    def given_back(rows: np.ndarray) -> np.ndarray:
        made, _ = reconstruct(space.autoencoder, pictures.pixels[rows])
        return remembered(embed, made, kept)

    learned = np.concatenate([features[known], given_back(softened)])
    tested = {"pictures": features[held_out], "given back": given_back(held_out)}
    probes = {}
    for name, labels in (
        ("style", pictures.styles),
        ("group", [group for group, _ in pictures.groups]),
    ):
        probes[name] = probe_of(learned, [labels[row] for row in (*known, *softened)])
        truth = [labels[row] for row in held_out]
        for what, these in tested.items():
            guessed = probes[name].predicted(these)
            right = np.mean([a == b for a, b in zip(guessed, truth, strict=True)])
            print(f"judge of the {name}, held-out concepts, {what}: {100 * right:.1f} % right")
    return Bench(config, pictures, features, Judge(embed, probes["style"], probes["group"]))


def measured_of(bench: Bench, kind: str, style: str, part: str) -> dict[str, float]:
    """What one network's pictures of some names are like, drawn from one style's database."""
    pictures, rows = bench.pictures, bench.asked[part]
    concepts = [pictures.concepts[row] for row in rows]
    if kind == REAL:
        drawn = pictures.pixels[same_concepts(pictures, style, concepts)]
    else:
        drawn = drawn_by(bench, kind, style, [pictures.texts[row][0] for row in rows])
    found = bench.judge.features(drawn)
    # Pictures of the style itself would find themselves, where they are real.
    others = [row for row, of in enumerate(pictures.styles) if of != style or kind != REAL]
    right = shows_what_it_is_called(
        found, concepts, bench.features[others], pictures.chosen(others)
    )
    guessed, groups = bench.judge.styles.predicted(found), bench.judge.groups.predicted(found)
    truth = [pictures.groups[row][0] for row in rows]
    real = bench.features[[row for row, of in enumerate(pictures.styles) if of == style]]
    trained = [
        row for row, of in enumerate(pictures.styles) if of in STYLES and not pictures.held_out[row]
    ]
    unseen = [row for row, of in enumerate(pictures.styles) if of in STYLES and row not in trained]
    known = known_beside(bench.features[trained], bench.features[unseen])
    near = quality(found, real, known)
    # Of other styles: the database's own pictures would set a threshold of nothing.
    strangers = [row for row in unseen if pictures.styles[row] != style]
    of_database = known_beside(real, bench.features[strangers])
    return {
        "name": float(right.mean()),
        "low": estimate(right).low,
        "high": estimate(right).high,
        "style": float(np.mean([one == style for one in guessed])),
        "group": float(np.mean([a == b for a, b in zip(groups, truth, strict=True)])),
        "kid": near["kid"],
        "fd": near["fd"],
        "precision": near["precision"],
        "recall": near["recall"],
        "copies_of_training": near["copy_rate"],
        "copies_of_database": copy_rate(found, of_database),
    }


def same_concepts(pictures: Pictures, style: str, concepts: Sequence[str]) -> list[int]:
    """Rows of a style's pictures of some concepts."""
    row_of = {}
    for row, concept in enumerate(pictures.concepts):
        if pictures.styles[row] == style:
            row_of[concept] = row
    return [row_of[concept] for concept in concepts]


def drawn_by(bench: Bench, kind: str, style: str, names: Sequence[str]) -> np.ndarray:
    """Pictures uint8 [N, SIDE, SIDE, 3] of some names out of a style's database."""
    root = bench.config.root
    by = next(iter(bench.config.steps)) if kind == RETURNED else kind
    run = open_run(root, run_of(bench.config, by))
    database = open_database(root, database_of(by, style), run)
    retrieved = retrieved_for(run, database, kind, names)
    if kind == RETURNED:
        return database_images(database, retrieved.rows[:, 0])
    context: Context = given(run, retrieved, database, names)
    if kind == WITHOUT:
        context = without_neighbors(run, context)
    how = drawn_how(run.facts, HOW)
    return draw(run, context, range(len(names)), how)


def retrieved_for(
    run: OpenRun, database: OpenDatabase, kind: str, names: Sequence[str]
) -> Retrieved:
    """The contexts of some names out of a style's database."""
    queries = text_queries(run, [f"a {name}" for name in names], "words")
    strategy = query_and_neighbors if kind == QUERY else neighbors_only
    return strategy(queries, database.by_words, K.get(kind, 1))


def line_of(measured: dict[str, float | str]) -> str:
    """A line of the table."""
    cells = [str(measured[name]) for name in ("kind", "database", "concepts")]
    cells.append("{:.0%} [{:.0%}, {:.0%}]".format(*(measured[n] for n in ("name", "low", "high"))))
    for name in ("style", "group", "copies_of_training", "copies_of_database"):
        cells.append(f"{measured[name]:.0%}")
    cells += [f"{measured['fd']:.1f}", f"{measured['kid']:.3f}"]
    cells += [f"{measured['precision']:.2f}", f"{measured['recall']:.2f}"]
    return f"| {' | '.join(cells)} |"


def picture(bench: Bench, kinds: Sequence[str]) -> Image.Image:
    """For each style a row of each kind: what the database holds nearest, then what is drawn."""
    cells: list[np.ndarray] = []
    for style in bench.config.databases:
        for kind in (RETURNED, *kinds):
            cells += [fitted(one) for one in drawn_by(bench, kind, style, SHOWN)]
    return Image.fromarray(grid(cells, columns=len(SHOWN)))


if __name__ == "__main__":
    main()
