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
from storage.checks import shards_of
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
    # Each sample takes a picture of its own and one for each neighbor.
    most = max(1, min(MOST_SAMPLES, MOST_PICTURES // (len(sampled) * (1 + MOST_NEIGHBORS))))
    return [note(PROSE), *[sampled_set(root, samples, most) for samples in sampled]]


def sampled_set(root: Path, samples: Artifact, most: int) -> Html:
    """What was asked, one row of pictures a sample, and who stood behind them."""
    records, request = read_samples(samples), samples.parameters
    database = with_fingerprint(root, "embeddings", samples.inputs.get("database", ""))
    # What is not here any more is known by the name that the samples were made with.
    name = samples.measured.get("database") or "none"
    if database:
        name = f"{database.name} ({database.rows:,} rows)"
    what, context = "nothing: pseudo-queries, rows of the database itself", "neighbors"
    for field in ("texts", "images", "classes"):
        if request.get(field):
            what = field
            context = "neighbors" if field == "classes" else "query+neighbors"
            break
    context = request.get("context") or context
    how = request.get("draw", {})  # settings of the family: not every one has all of them
    facts = (
        f"Asked with {what}. Database {name}; context {context}, k = {request.get('k', ABSENT)}, "
        f"guidance scale {how.get('guidance_scale', ABSENT)}, "
        f"{how.get('steps', ABSENT)} steps; {len(records):,} samples"
    )
    facts += f", the first {most} of them shown." if len(records) > most else "."
    shown = records[:most]
    keys: set[str] = set()
    for record in shown:
        keys.update(record["neighbor_keys"])
    neighbors = neighbor_pictures(root, database, keys)
    rows = [sample_row(samples, record, neighbors) for record in shown]
    behind = element("p", credit_summary(records), class_="soft")
    pictures = element("div", *rows, class_="sets")
    return element(
        "div", element("h3", samples.name), note(facts), pictures, behind, credits_of(shown)
    )


def neighbor_pictures(
    root: Path, database: Artifact | None, keys: set[str]
) -> dict[str, tuple[bytes, str]]:
    """key -> (image, what it shows), for those whose shards are still under this root."""
    if database is None or not keys:
        return {}
    shards = shards_of(root, database)
    if shards is None:
        return {}
    columns = read_columns(database, ["key", "captions"])
    # Only the rows that are wanted become Python objects: a database may have millions.
    places = [place for place, key in enumerate(columns["key"].to_pylist()) if key in keys]
    captions = {}
    for row in columns.take(places).to_pylist():
        captions[row["key"]] = row["captions"][0] if row["captions"] else row["key"]
    pictures = {}
    for key, data in read_some_images(shards, keys).items():
        pictures[key] = (data, captions.get(key, key))
    return pictures


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
        if data:
            shown = thumbnail(data, f"neighbor {place}: {caption}")
        else:
            shown = element("span", "not at hand", class_="none")
        cells.append(element("div", shown, number(score, 2)))
    caption = element("figcaption", element("bdi", record["query"]), f" · seed {record['seed']}")
    return element("figure", caption, element("div", *cells, class_="row"))


def thumbnail(data: bytes, alt: str) -> Html:
    """A picture small enough for the page; its records stay in the artifact."""
    # A small image is kept as it is, pixel by pixel; a large one is made smaller, as JPEG.
    image = decode(data)
    if min(image.shape[:2]) < MAGNIFIED_BELOW:
        return picture(encode(image, "png"), "image/png", alt, small=True)
    return picture(
        encode(resize_shorter_side(image, THUMBNAIL), "jpg", 85), "image/jpeg", alt, small=False
    )


def credit_summary(records: Sequence[Mapping[str, Any]]) -> str:
    """Licences and authors of every neighbor behind these samples, counted."""

    def counted(field: str, most: int = 6) -> str:
        counter: Counter[str] = Counter()
        for record in records:
            for value in record[field]:
                counter[value or "not stated"] += 1
        counts = counter.most_common()
        more = f" and {len(counts) - most} more" if len(counts) > most else ""
        return ", ".join(f"{value} ({count:,})" for value, count in counts[:most]) + more

    total = 0
    for record in records:
        total += len(record["neighbor_keys"])
    credit = f"{total:,} neighbors. Licences: {counted('licences')}. Authors: {counted('authors')}"
    return f"Who stood behind these samples: {credit if total else 'no database image'}."


def credits_of(records: Sequence[Mapping[str, Any]]) -> Html:
    """Every neighbor behind the samples that are shown, folded away."""
    rows = []
    for record in records:
        credits = zip(record["authors"], record["licences"], record["source_urls"], strict=True)
        for key, credit in zip(record["neighbor_keys"], credits, strict=True):
            stated = [value or "not stated" for value in credit]
            rows.append([record["query"], record["seed"], key, *stated])
    if not rows:
        return Html("")
    head = ["Query", "Seed", "Neighbor", "Author", "Licence", "Source"]
    return details(
        "Each neighbor and its credit", table("Neighbors of the samples shown", head, rows)
    )
