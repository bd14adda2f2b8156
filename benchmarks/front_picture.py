"""The picture on the first page: what the demo's run draws for a text, from two other databases,
for a class, for an image, and over a part of an image.

    rdm demo --root ROOT
    python -m benchmarks.front_picture --root ROOT --out docs/demo.png

Each sample is twice as large as it was drawn; the small pictures beside it are the database images
whose vectors it was drawn from, nearest first. Nothing is picked: every request has seed 0.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flows.config.sample import SampleRDM
from flows.judge.demo import SWAPS
from flows.model.opening import open_database, open_run
from flows.model.sample import database_of, sample_rdm
from rdm_core.decode import decode
from rdm_core.images import fitted, resize_shorter_side
from storage.artifact import Artifact, open_artifact
from storage.samples import read_samples
from storage.shards import read_images

TEXTS = (
    "a red circle", "a blue star", "a green heart", "a yellow cross", "a purple crescent",
    "a pink triangle",
)  # fmt: skip
SAMPLE, NEIGHBOR, BESIDE = 128, 42, 3
"""Sides in pixels; neighbors beside each sample."""
GAP, LINE = 12, 20
"""Between pictures of two samples, and the height of a line of text, pixels."""
Cell = tuple[np.ndarray, list[np.ndarray], str]
"""A picture, its neighbors, and what it was asked for."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(options.root, Path(folder))
    sheet(rows).save(options.out, optimize=True)
    print(options.out)


def rows_of(root: Path, folder: Path) -> dict[str, list[Cell]]:
    """Heading -> the cells below it."""
    queries = query_images(root, folder)
    by_image = asked(root, "image", images=(queries[0],), count=2)
    mask = folder / "mask.png"
    white = np.zeros((64, 64), np.uint8)
    white[8:56, 8:56] = 255
    Image.fromarray(white).save(mask)
    painted = asked(
        root, "painted", texts=("a yellow star", "a blue heart"), count=1, inpaint=queries[1],
        mask=mask,
    )  # fmt: skip
    swapped: dict[str, Any] = {"texts": TEXTS, "count": 1, "context": "neighbors"}
    return {
        "a text, and the database of everything": asked(root, "text", texts=TEXTS, count=1),
        "the same texts, the same weights, a database of photographs": asked(
            root, "photographs", **swapped, database=SWAPS["photograph"]
        ),
        "the same again, a database of sketches": asked(
            root, "sketches", **swapped, database=SWAPS["sketch"]
        ),
        "a class": asked(root, "class", classes=("ring", "crescent"), count=3),
        "an image it has never seen, and two for it; another one, its middle painted over": [
            (decode(queries[0].read_bytes()), [], "given"),
            *by_image,
            (decode(queries[1].read_bytes()), [], "given"),
            *painted,
        ],
    }


def query_images(root: Path, folder: Path) -> list[Path]:
    """Two held-out images as files."""
    shards = open_artifact(root, "shards", "shapes-heldout")
    images = read_images(shards, shards.parts[0].name)
    paths = []
    for number in range(2):
        _, data = next(images)
        paths.append(folder / f"given-{number}.png")
        paths[-1].write_bytes(data)
    return paths


def asked(root: Path, name: str, **request: Any) -> list[Cell]:
    """The samples of one request, with their neighbors."""
    how = {"guidance_scale": 2.0, "steps": 30}
    config = SampleRDM(root=root, name=f"front-{name}", run="shapes", draw=how, **request)
    samples = sample_rdm(config)
    return cells_of(root, samples, config)


def cells_of(root: Path, samples: Artifact, config: SampleRDM) -> list[Cell]:
    """Every sample, its nearest neighbors and its prompt."""
    run = open_run(root, config.run)
    opened = open_database(root, config.database or database_of(run), run)
    cells = []
    for record in read_samples(samples):
        keys = record["neighbor_keys"][:BESIDE]
        files = opened.images(keys)
        near = [fitted(decode(files[key]), NEIGHBOR) for key in keys]
        image = decode(samples.file(record["file"]).read_bytes())
        cells.append((image, near, "for it" if config.images else record["query"]))
    return cells


def sheet(rows: dict[str, list[Cell]]) -> Image.Image:
    """All rows below each other, each with its heading."""
    wide = SAMPLE + NEIGHBOR + GAP
    high = SAMPLE + 2 * LINE + GAP
    most = max(len(cells) for cells in rows.values())
    page = Image.new("RGB", (GAP + most * wide, GAP + len(rows) * high), "white")
    draw, font, small = ImageDraw.Draw(page), ImageFont.load_default(14), ImageFont.load_default(11)
    for number, (heading, cells) in enumerate(rows.items()):
        top = GAP + number * high
        draw.text((GAP, top), heading, "#000", font)
        for place, (image, near, asked_for) in enumerate(cells):
            left = GAP + place * wide
            page.paste(Image.fromarray(resize_shorter_side(image, SAMPLE)), (left, top + LINE))
            for line, picture in enumerate(near):
                page.paste(Image.fromarray(picture), (left + SAMPLE + 1, top + LINE + line * 43))
            draw.text((left, top + LINE + SAMPLE + 2), asked_for, "#444", small)
    return page


if __name__ == "__main__":
    main()
