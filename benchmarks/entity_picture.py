"""The picture of docs/families.md: entities that only the database shows, by the networks of T11.

    python -m benchmarks.entity_picture --root data --out docs/references.png

From the top: the two neighbors of each text, what the network draws that attends to their latents,
what the one draws that is given their vectors, and the latter without neighbors.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.entity_runs import DATABASE, REFERENCES, VECTORS, EntityStudy
from benchmarks.entity_study import Bench, K, drawn
from flows.config.arguments import configured, root_argument
from flows.judge.trial import database_images
from flows.model.opening import open_database
from rdm_core.images import grid

COLUMNS = 12
"""Texts, a column each."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="entities by references, by vectors, by neither")
    parser.add_argument("--root", type=root_argument, default="data", help="where artifacts lie")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, required=True, help="the picture (.png)")
    options = parser.parse_args()
    config = configured(options, EntityStudy).model_copy(update={"images": COLUMNS})
    bench = Bench(config, "T11", config.seed)
    run, request = bench.asked_for(REFERENCES, bench.held_out)
    database = open_database(config.root, bench.trained.images(DATABASE), run)
    rows = [database_images(database, request.retrieved.rows[:, slot]) for slot in range(K)]
    rows.append(drawn(run, request.context))
    run, request = bench.asked_for(VECTORS, bench.held_out)
    rows.append(drawn(run, request.context))
    rows.append(drawn(run, request.context.without_neighbors()))
    sheet = Image.fromarray(grid(list(np.concatenate(rows)), columns=COLUMNS))
    sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST).save(options.out)


if __name__ == "__main__":
    main()
