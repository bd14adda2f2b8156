"""Samples beside their neighbors, and the credit of every image behind them, as pieces of a
page.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.look.page import ABSENT, Html, details, element, note, number, picture, table
from rdm_core.decode import decode
from rdm_core.images import encode, resize_shorter_side
from storage.artifact import Artifact, with_fingerprint
from storage.embeddings import read_columns
from storage.samples import read_samples
from storage.shards import read_some_images

THUMBNAIL, MAGNIFIED_BELOW = 128, 65
"""Pixels: sides of the pictures on the page, and of those that are shown without smoothing."""
MOST_PICTURES, MOST_SAMPLES, MOST_NEIGHBORS = 400, 12, 8
"""On the page, of one sampled set, and beside one sample: together they keep the file below 5
MB.
"""
PROSE = (
    "The first picture of a row is the sample. The others are its neighbors: the database images "
    "whose vectors the model was given, nearest first, each with its score, the cosine with the "
    "query."
)


def samples_section(root: Path, sampled: Sequence[Artifact]) -> list[Html]:
    """Every sampled set; the room for pictures is shared between them."""
    if not sampled:
        return [note("No samples were given to this report.")]
    most = max(1, min(MOST_SAMPLES, MOST_PICTURES // (len(sampled) * (1 + MOST_NEIGHBORS))))
    return [note(PROSE), *[sampled_set(root, samples, most) for samples in sampled]]


def sampled_set(root: Path, samples: Artifact, most: int) -> Html:
    """What was asked, one row of pictures a sample, and who stood behind them."""
    records, asked = read_samples(samples), samples.parameters
    database = with_fingerprint(root, "embeddings", samples.inputs.get("database", ""))
    name = (
        f"{database.name} ({database.rows:,} rows)"
        if database
        else samples.measured.get("database") or "none"
    )
    kind = next((field for field in ("texts", "images", "classes") if asked.get(field)), None)
    context = asked.get("context") or (
        "query+neighbors" if kind in ("texts", "images") else "neighbors"
    )
    what = kind or "nothing: pseudo-queries, rows of the database itself"
    facts = (
        f"Asked with {what}. Database {name}; context {context}, k = {asked.get('k', ABSENT)}, "
        f"guidance scale {asked.get('guidance_scale', ABSENT)}, "
        f"{asked.get('steps', ABSENT)} steps; {len(records):,} samples"
    )
    facts += f", the first {most} of them shown." if len(records) > most else "."
    shown = records[:most]
    neighbors = neighbor_pictures(
        root, database, {key for record in shown for key in record["neighbor_keys"]}
    )
    rows = [sample_row(samples, record, neighbors) for record in shown]
    behind = element("p", who(records), class_="soft")
    pictures = element("div", *rows, class_="sets")
    return element(
        "div", element("h3", samples.name), note(facts), pictures, behind, credits_of(shown)
    )


def neighbor_pictures(
    root: Path, database: Artifact | None, keys: set[str]
) -> dict[str, tuple[bytes, str]]:
    """key -> (image, what it shows), for those whose shards are still under this root."""
    shards = (
        with_fingerprint(root, "shards", database.inputs["shards"]) if database and keys else None
    )
    if database is None or shards is None:
        return {}
    columns = read_columns(database, ["key", "captions"])
    places = [i for i, key in enumerate(columns["key"].to_pylist()) if key in keys]
    captions = {
        row["key"]: (row["captions"] or [row["key"]])[0] for row in columns.take(places).to_pylist()
    }
    return {
        key: (data, captions.get(key, key)) for key, data in read_some_images(shards, keys).items()
    }


def sample_row(
    samples: Artifact, record: Mapping[str, Any], neighbors: Mapping[str, tuple[bytes, str]]
) -> Html:
    """The sample, a rule, its neighbors with their scores."""
    drawn = thumbnail(samples.file(record["file"]).read_bytes(), f"sample for “{record['query']}”")
    cells = [element("div", drawn, "sample", class_="drawn")]
    for place, (key, score) in enumerate(
        zip(record["neighbor_keys"], record["neighbor_scores"], strict=True), 1
    ):
        if place > MOST_NEIGHBORS:
            cells.append(
                element("div", f"and {len(record['neighbor_keys']) - MOST_NEIGHBORS} more")
            )
            break
        data, caption = neighbors.get(key, (None, ""))
        shown = (
            thumbnail(data, f"neighbor {place}: {caption}")
            if data
            else element("span", "not at hand", class_="none")
        )
        cells.append(element("div", shown, number(score, 2)))
    caption = element("figcaption", element("bdi", record["query"]), f" · seed {record['seed']}")
    return element("figure", caption, element("div", *cells, class_="row"))


def thumbnail(data: bytes, alt: str) -> Html:
    """A picture small enough for the page; its records stay in the artifact."""
    image = decode(data)
    if min(image.shape[:2]) < MAGNIFIED_BELOW:
        return picture(encode(image, "png"), "image/png", alt, small=True)
    return picture(
        encode(resize_shorter_side(image, THUMBNAIL), "jpg", 85), "image/jpeg", alt, small=False
    )


def who(records: Sequence[Mapping[str, Any]]) -> str:
    """Licences and authors of every neighbor behind these samples, counted."""

    def counted(field: str, most: int = 6) -> str:
        counts = Counter(
            value or "not stated" for record in records for value in record[field]
        ).most_common()
        more = f" and {len(counts) - most} more" if len(counts) > most else ""
        return ", ".join(f"{value} ({count:,})" for value, count in counts[:most]) + more

    total = sum(len(record["neighbor_keys"]) for record in records)
    credit = f"{total:,} neighbors. Licences: {counted('licences')}. Authors: {counted('authors')}"
    return f"Who stood behind these samples: {credit if total else 'no database image'}."


def credits_of(records: Sequence[Mapping[str, Any]]) -> Html:
    """Every neighbor behind the samples that are shown, folded away."""
    fields = ("neighbor_keys", "authors", "licences", "source_urls")
    rows = [
        [record["query"], record["seed"], key, *(value or "not stated" for value in credit)]
        for record in records
        for key, *credit in zip(*(record[field] for field in fields), strict=True)
    ]
    head = ["Query", "Seed", "Neighbor", "Author", "Licence", "Source"]
    return (
        details("Each neighbor and its credit", table("Neighbors of the samples shown", head, rows))
        if rows
        else Html("")
    )
