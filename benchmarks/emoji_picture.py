"""The same names drawn out of four databases, with the neighbors beside and the licences below.

    rdm acquire emoji
    python -m benchmarks.emoji_picture --root data --out docs/emoji.png

Nothing is picked but the names: every request has seed 0.
"""

import argparse
from collections import Counter
from pathlib import Path

from benchmarks.front_picture import Cell, cells_of, sheet
from flows.config.arguments import root_argument
from flows.config.sample import SampleRDM
from flows.model.sample import sample_rdm
from storage.samples import read_samples

KNOWN = ("a cat face", "a smiling face with hearts", "a penguin", "a blue heart", "a hot dog")
HELD_OUT = ("a red apple", "a goose", "a cactus", "a peach", "a crown")
"""What is asked for; no training has shown the second five, in any style."""
DATABASES = {
    "noto": "Noto, trained on",
    "twemoji": "Twemoji, trained on",
    "fluent": "Fluent, trained on",
    "openmoji": "OpenMoji, seen by no training",
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=root_argument, default="data")
    parser.add_argument("--run", default="emoji")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    sheet(rows_of(options.root, options.run)).save(options.out, optimize=True)
    print(options.out)


def rows_of(root: Path, run: str) -> dict[str, list[Cell]]:
    """Heading, with the licence and who stands behind it -> the cells below it."""
    rows = {}
    for database, title in DATABASES.items():
        config = SampleRDM(
            root=root, name=f"emoji-{database}", run=run, texts=KNOWN + HELD_OUT, count=1,
            database=database, draw={"guidance_scale": 2.0, "steps": 30},
        )  # fmt: skip
        samples = sample_rdm(config)
        licences: Counter[str] = Counter()
        authors: Counter[str] = Counter()
        for record in read_samples(samples):
            licences.update(record["licences"])
            authors.update(record["authors"])
        first, *others = [author for author, _ in authors.most_common()]
        by = f"{first} and {len(others)} others" if others else first
        cells = []
        for image, near, text in cells_of(root, samples, config):
            cells.append((image, near, f"{text} (held out)" if text in HELD_OUT else text))
        rows[f"{title}; {', '.join(licences)}, by {by}"] = cells
    return rows


if __name__ == "__main__":
    main()
