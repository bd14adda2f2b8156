"""run + evaluation + samples -> one self-contained page: what was found, what it rests on, and who stood behind it."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from prefect import flow

from flows.config import WriteReport
from flows.page import (
    ABSENT,
    Estimate,
    Html,
    bytes_text,
    contents,
    details,
    document,
    element,
    estimate_text,
    interval_bar,
    line_chart,
    note,
    number,
    percent,
    picture,
    section,
    table,
)  # fmt: skip
from flows.progress import Clock
from flows.stage import kept, published, single_part, stage_task
from rdm_core.images import decode, encode, resize_shorter_side
from storage.artifact import Artifact, Build, Part, Plan, begin, open_artifact, with_fingerprint
from storage.embeddings import licence_counts, read_columns
from storage.runs import METRICS_FILE, read_metrics
from storage.samples import read_samples
from storage.shards import read_some_images

REPORT_FILE = "report.html"
RIGHT, WITHOUT = "right neighbors", "trained without neighbors"
TEXT, CHANCE = "text, context query+neighbors", "chance"
ROWS = {
    "loss": (RIGHT, "shuffled neighbors", "learned null", WITHOUT),
    "prompts": (
        "text, context query", TEXT, "text, context neighbors", "another prompt's context", "learned null", WITHOUT,
        "return the neighbour", CHANCE,
    ),
    "copies": ("samples", "return the neighbour", "held-out images, by definition"),
}  # fmt: skip
"""The order of rows: evaluation.json is sorted by name. What is not listed comes last."""
THUMBNAIL, MAGNIFIED_BELOW = 128, 65
"""Pixels: sides of the pictures on the page, and of those that are shown without smoothing."""
MOST_PICTURES, MOST_SAMPLES, MOST_NEIGHBORS = 400, 12, 8
"""On the page, of one sampled set, and beside one sample: together they keep the file below 5 MB."""
PROSE = {
    "lead": "A retrieval-augmented diffusion model draws an image from the CLIP vectors of its k nearest neighbors in a "
    "database of images. This page shows what one such model draws, and measures whether it uses what it is given.",
    "intervals": "A range in brackets, and the line through a dot, is the 95 % bootstrap interval of the number before it; it "
    "has no width where all images agree. Chance is exact.",
    "samples": "The first picture of a row is the sample. The others are its neighbors: the database images whose vectors the "
    "model was given, nearest first, each with its score, the cosine with the query.",
    "loss": "The mean squared error of the network's prediction on images it has never seen; lower is better. Shuffled: each "
    "image is given the neighbors of another one. Learned null: the same weights, given nothing. Changes are paired by image.",
    "prompts": "How often a classifier that shares nothing with the model sees in an image the colour and the shape its prompt "
    "names. “Return the neighbour” draws nothing and hands over the nearest database image: what retrieval alone achieves. "
    "The dashed mark is chance.",
    "swaps": "The same weights and the same prompts, which name no style, with databases that hold one style each. The style "
    "drawn should be the database's, and the colour and shape should still be the prompt's.",
    "copies": "The share of samples that lie nearer to a training or database image than 1 % of unseen images do: about 1 % "
    "is what chance gives, more means that the model repeats what it was shown. These are shares without an interval.",
    "recall": "Recall@k is the share of the exact k nearest neighbors that the index finds.",
    "stages": "Seconds are those of the run that finished the artifact, without what an earlier, interrupted run had done.",
}
NOT_MEASURED = note("This was not measured.")


@dataclass(frozen=True)
class Subject:
    """What the page is about."""

    root: Path
    run: Artifact
    baseline: Artifact
    evaluation: Artifact
    samples: tuple[Artifact, ...]
    others: tuple[Artifact, ...]

    @cached_property
    def measured(self) -> dict[str, Any]:
        """The evaluation's numbers."""
        files = self.evaluation.files(".json")
        return json.loads(files[0].read_text(encoding="utf-8")) if files else {}

    @property
    def artifacts(self) -> list[Artifact]:
        """Everything, in the order it is made."""
        return [*self.others, self.run, self.baseline, *self.samples, self.evaluation]

    def of_kind(self, kind: str) -> list[Artifact]:
        """Those of one kind."""
        return [artifact for artifact in self.artifacts if artifact.kind == kind]


@dataclass(frozen=True)
class Finding:
    """One sentence the numbers support or contradict, and the numbers."""

    holds: bool | None
    """None: not measured."""
    headline: str
    detail: str = ""


@flow(name="write-report")
def write_report(config: WriteReport) -> Artifact:
    """run + baseline + evaluation + samples --> report.html, a page that needs nothing but itself."""
    clock = Clock()
    subject = open_subject(config)
    build = begin(config.root, report_plan(config, subject))
    if build.finished:
        return kept(build)
    return published(build, write_page(build, subject), clock)


def open_subject(config: WriteReport) -> Subject:
    """Open what the page is about. Raises ArtifactMissing for a name that was never built."""
    references = [reference.split("/", 1) for reference in config.artifacts]
    return Subject(
        config.root,
        open_artifact(config.root, "runs", config.run),
        open_artifact(config.root, "runs", config.baseline),
        open_artifact(config.root, "evaluations", config.evaluation),
        tuple(open_artifact(config.root, "samples", name) for name in config.samples),
        tuple(open_artifact(config.root, reference[0], reference[-1]) for reference in references),
    )


def report_plan(config: WriteReport, subject: Subject) -> Plan:
    """The names stay in the parameters: the page shows them, in their order."""
    inputs = {f"{artifact.kind}/{artifact.name}": artifact.fingerprint for artifact in subject.artifacts}
    return Plan("reports", config.name, config.parameters(), inputs)


@stage_task(name="write-page")
def write_page(build: Build, subject: Subject) -> list[Part]:
    """The only part: report.html."""

    def write(scratch: Path) -> tuple[int, dict[str, int]]:
        (scratch / REPORT_FILE).write_text(page_of(subject), encoding="utf-8", errors="replace")
        return 1, {}

    return single_part(build, "report", write)


def page_of(subject: Subject) -> Html:
    """The page, from what was found to what it was found on."""
    sections = {
        "samples": ("Samples and their neighbors", samples_section(subject)),
        "curves": ("Training", curves(subject)),
        "loss": ("Does the loss need the right neighbors?", loss_table(subject.measured)),
        "prompts": ("Do the samples show what the prompt names?", prompts_table(subject.measured)),
        "swaps": ("What does another database change?", swaps_table(subject.measured)),
        "copies": ("Does it copy?", copies_table(subject.measured)),
        "retrieval": ("Retrieval", retrieval_table(subject)),
        "stages": ("Stages", stages_table(subject.artifacts)),
        "rejects": ("Rejected images", rejects_table(subject)),
        "provenance": ("Provenance", provenance(subject)),
    }
    return document(
        f"Report: {subject.run.name}",
        element("h1", f"What the run “{subject.run.name}” does with its neighbors"),
        element("p", PROSE["lead"], class_="lead"),
        element("ol", *map(finding_item, findings(subject.measured)), class_="findings"),
        note(PROSE["intervals"]),
        contents({name: heading for name, (heading, _) in sections.items()}),
        *[section(name, heading, *content) for name, (heading, content) in sections.items()],
    )


def found(measured: Mapping[str, Any], *path: str) -> Any:
    """The value at a path of keys, or None when a key is absent."""
    value: Any = measured
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def ordered(measured: Mapping[str, Any], table_name: str, *path: str) -> dict[str, Any]:
    """The rows of one measurement, in reading order; empty when it was not made."""
    rows = found(measured, table_name, *path) or {}
    return {name: rows[name] for name in [*ROWS[table_name], *rows] if name in rows}


def agreement_text(name: str, row: Mapping[str, Estimate], factor: str) -> str:
    """Prompt agreement with its interval; chance has none."""
    return percent(found(row, factor, "mean") if name == CHANCE else row.get(factor))


def findings(measured: Mapping[str, Any]) -> list[Finding]:
    """What the page says first. Nothing here is taken for granted: each sentence follows from the intervals."""
    return [loss_finding(measured), prompts_finding(measured), swaps_finding(measured)]


def loss_finding(measured: Mapping[str, Any]) -> Finding:
    """The run with its neighbors against the network that never had any, paired by image."""
    change = found(measured, "loss", f"relative to {WITHOUT}", RIGHT)
    if not change:
        return Finding(None, "Whether the right neighbors lower the loss was not measured.")
    holds = change["high"] < 0
    headline = "The right neighbors lower the held-out loss."
    if not holds:
        failed = "they raise it" if change["low"] > 0 else "the interval of the difference includes zero"
        headline = f"The right neighbors do NOT lower the held-out loss: {failed}."
    right, without = (estimate_text(found(measured, "loss", "means", name)) for name in (RIGHT, WITHOUT))
    lost = found(measured, "loss", "share of the gain lost when shuffled")
    shuffling = shuffling_text(lost) if holds and lost is not None else ""
    return Finding(holds, headline, f"Loss {right}; {WITHOUT} {without}; change {percent(change, signed=True)}.{shuffling}")


def shuffling_text(lost: float) -> str:
    """Whether a gain comes from which neighbors are given, or from being given any."""
    text = f" Giving each image another one's neighbors loses {percent(lost, 0)} of that gain"
    if lost > 1:
        return f"{text}: wrong neighbors are worse than none."
    return f"{text}: most of it does NOT depend on which neighbors are given." if lost < 0.5 else f"{text}."


def prompts_finding(measured: Mapping[str, Any]) -> Finding:
    """Text-conditioned samples against chance and against the network without neighbors, by interval."""
    rows = [found(measured, "prompts", name) for name in (TEXT, WITHOUT, CHANCE)]
    if not all(rows):
        return Finding(None, "Whether samples show the colour and shape a text names was not measured.")
    text, without, chance = rows
    works = {factor: text[factor]["low"] > max(chance[factor]["mean"], without[factor]["high"]) for factor in text}
    shown, missed = (" and ".join(f for f in works if works[f] is flag) for flag in (True, False))
    headline = f"Samples show the {shown} their text names{f', but NOT measurably the {missed}' if missed else ''}."
    if not shown:
        headline = "Samples do NOT show what their text names more often than chance and than without neighbors."
    numbers = [
        f"{factor.capitalize()} {percent(text[factor])}; {WITHOUT} {percent(without[factor])}; "
        f"chance {percent(chance[factor]['mean'])}."
        for factor in text
    ]
    return Finding(not missed, headline, " ".join(numbers))


def swaps_finding(measured: Mapping[str, Any]) -> Finding:
    """For each style: drawn from its own database more often than from any other one, and more often than not."""
    shares = {style: row["styles"] for style, row in (found(measured, "swaps") or {}).items()}
    if len(shares) < 2:
        return Finding(None, "Whether another database changes the style was not measured.")
    elsewhere = {style: [row[style] for other, row in shares.items() if other != style] for style in shares}
    best = {style: max(estimates, key=lambda estimate: estimate["mean"]) for style, estimates in elsewhere.items()}
    failed = [style for style, row in shares.items() if not row[style]["low"] > max(best[style]["high"], 0.5)]
    headline = "Another database changes the style, with the same weights."
    if failed:
        headline = f"Another database does NOT reliably change the style to {' or '.join(failed)}."
    numbers = [
        f"{style.capitalize()} database: {percent(shares[style][style])} of the samples are of that style, "
        f"against {percent(best[style])} with another one."
        for style in shares
    ]
    return Finding(not failed, headline, " ".join(numbers))


def finding_item(finding: Finding) -> Html:
    """The verdict in words as well as in colour."""
    word, mark = {True: ("Holds", "yes"), False: ("Does not hold", "no"), None: ("Not measured", "open")}[finding.holds]
    verdict, headline = element("span", word, class_="verdict"), element("strong", finding.headline)
    return element("li", verdict, headline, element("p", finding.detail), class_=mark)


def samples_section(subject: Subject) -> list[Html]:
    """Every sampled set; the room for pictures is shared between them."""
    if not subject.samples:
        return [note("No samples were given to this report.")]
    most = max(1, min(MOST_SAMPLES, MOST_PICTURES // (len(subject.samples) * (1 + MOST_NEIGHBORS))))
    return [note(PROSE["samples"]), *[sampled_set(subject.root, samples, most) for samples in subject.samples]]


def sampled_set(root: Path, samples: Artifact, most: int) -> Html:
    """What was asked, one row of pictures a sample, and who stood behind them."""
    records, asked = read_samples(samples), samples.parameters
    database = with_fingerprint(root, "embeddings", samples.inputs.get("database", ""))
    name = f"{database.name} ({database.rows:,} rows)" if database else samples.measured.get("database") or "none"
    kind = next((field for field in ("texts", "images", "classes") if asked.get(field)), None)
    context = asked.get("context") or ("query+neighbors" if kind in ("texts", "images") else "neighbors")
    what = kind or "nothing: pseudo-queries, rows of the database itself"
    facts = f"Asked with {what}. Database {name}; context {context}, k = {asked.get('k', ABSENT)}, guidance scale "
    facts += f"{asked.get('guidance_scale', ABSENT)}, {asked.get('steps', ABSENT)} steps; {len(records):,} samples"
    facts += f", the first {most} of them shown." if len(records) > most else "."
    shown = records[:most]
    neighbors = neighbor_pictures(root, database, {key for record in shown for key in record["neighbor_keys"]})
    rows = [sample_row(samples, record, neighbors) for record in shown]
    behind = element("p", who(records), class_="soft")
    pictures = element("div", *rows, class_="sets")
    return element("div", element("h3", samples.name), note(facts), pictures, behind, credits_of(shown))


def neighbor_pictures(root: Path, database: Artifact | None, keys: set[str]) -> dict[str, tuple[bytes, str]]:
    """key -> (image, what it shows), for those whose shards are still under this root."""
    shards = with_fingerprint(root, "shards", database.inputs["shards"]) if database and keys else None
    if database is None or shards is None:
        return {}
    columns = read_columns(database, ["key", "captions"])
    places = [i for i, key in enumerate(columns["key"].to_pylist()) if key in keys]
    captions = {row["key"]: (row["captions"] or [row["key"]])[0] for row in columns.take(places).to_pylist()}
    return {key: (data, captions.get(key, key)) for key, data in read_some_images(shards, keys).items()}


def sample_row(samples: Artifact, record: Mapping[str, Any], neighbors: Mapping[str, tuple[bytes, str]]) -> Html:
    """The sample, a rule, its neighbors with their scores."""
    drawn = thumbnail(samples.file(record["file"]).read_bytes(), f"sample for “{record['query']}”")
    cells = [element("div", drawn, "sample", class_="drawn")]
    for place, (key, score) in enumerate(zip(record["neighbor_keys"], record["neighbor_scores"], strict=True), 1):
        if place > MOST_NEIGHBORS:
            cells.append(element("div", f"and {len(record['neighbor_keys']) - MOST_NEIGHBORS} more"))
            break
        data, caption = neighbors.get(key, (None, ""))
        shown = thumbnail(data, f"neighbor {place}: {caption}") if data else element("span", "not at hand", class_="none")
        cells.append(element("div", shown, number(score, 2)))
    caption = element("figcaption", element("bdi", record["query"]), f" · seed {record['seed']}")
    return element("figure", caption, element("div", *cells, class_="row"))


def thumbnail(data: bytes, alt: str) -> Html:
    """A picture small enough for the page; its records stay in the artifact."""
    image = decode(data)
    if min(image.shape[:2]) < MAGNIFIED_BELOW:
        return picture(encode(image, "png"), "image/png", alt, small=True)
    return picture(encode(resize_shorter_side(image, THUMBNAIL), "jpg", 85), "image/jpeg", alt, small=False)


def who(records: Sequence[Mapping[str, Any]]) -> str:
    """Licences and authors of every neighbor behind these samples, counted."""

    def counted(field: str, most: int = 6) -> str:
        counts = Counter(value or "not stated" for record in records for value in record[field]).most_common()
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
    return details("Each neighbor and its credit", table("Neighbors of the samples shown", head, rows)) if rows else Html("")


def curves(subject: Subject) -> list[Html]:
    """Loss and gradient norm of both runs."""
    metrics = {run.name: read_metrics(run.file(METRICS_FILE)) for run in (subject.run, subject.baseline)}

    def chart(title: str, field: str) -> Html:
        lines = {name: [(r["step"], r[field]) for r in records if field in r] for name, records in metrics.items()}
        return line_chart(title, lines, "optimiser step", field.replace("_", " "))

    return [element("div", chart("Training loss", "loss"), chart("Gradient norm", "gradient_norm"), class_="charts")]


def loss_table(measured: Mapping[str, Any]) -> list[Html]:
    """Denoising loss by what the network was given."""
    means, changes = ordered(measured, "loss", "means"), found(measured, "loss", f"relative to {WITHOUT}") or {}
    if not means:
        return [NOT_MEASURED]
    low, high = span(means.values())
    reference = found(means, WITHOUT, "mean")
    rows = [
        [name, estimate_text(mean), percent(changes.get(name), signed=True), interval_bar(mean, low, high, reference)]
        for name, mean in means.items()
    ]
    head = ["Given to the network", "Loss", "Change", f"{number(low, 3)} to {number(high, 3)}"]
    lost = percent(found(measured, "loss", "share of the gain lost when shuffled"), 0)
    caption = f"Held-out denoising loss; change relative to {WITHOUT} (dashed)"
    return [note(PROSE["loss"]), table(caption, head, rows), element("p", f"Share of the gain lost when shuffled: {lost}.")]


def span(estimates: Iterable[Estimate]) -> tuple[float, float]:
    """A scale that holds every interval, with a margin."""
    listed = list(estimates)
    low, high = min(e["low"] for e in listed), max(e["high"] for e in listed)
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def prompts_table(measured: Mapping[str, Any]) -> list[Html]:
    """Prompt agreement, one row for each thing the network was given."""
    prompts = ordered(measured, "prompts")
    if not prompts:
        return [NOT_MEASURED]

    def cells(name: str, factor: str) -> list[object]:
        row, chance = prompts[name], found(prompts, CHANCE, factor, "mean")
        return [agreement_text(name, row, factor), interval_bar(row.get(factor), 0, 1, chance)]

    rows = [[name, *cells(name, "colour"), *cells(name, "shape")] for name in prompts]
    head = ["What was given", "Colour", "0 to 100 %", "Shape", "0 to 100 %"]
    return [note(PROSE["prompts"]), table("Share of images that show what the prompt names", head, rows)]


def swaps_table(measured: Mapping[str, Any]) -> list[Html]:
    """Style drawn by style of the database, and what the prompt still decides."""
    swaps = found(measured, "swaps")
    if not swaps:
        return [NOT_MEASURED]
    styles = list(next(iter(swaps.values()))["styles"])
    rows = [
        [style, *(percent(row["styles"].get(other)) for other in styles), percent(row.get("colour")), percent(row.get("shape"))]
        for style, row in swaps.items()
    ]
    head = ["Database", *(f"Drawn as {style}" for style in styles), "Colour as asked", "Shape as asked"]
    return [note(PROSE["swaps"]), table("Share of samples, by the style of the database", head, rows)]


def copies_table(measured: Mapping[str, Any]) -> list[Html]:
    """Copy rate and its references."""
    copies = ordered(measured, "copies")
    if not copies:
        return [NOT_MEASURED]
    rows = [[name, percent(rate)] for name, rate in copies.items()]
    return [note(PROSE["copies"]), table("Copy rate", ["Images", "Rate"], rows)]


def retrieval_table(subject: Subject) -> list[Html]:
    """Each index: recipe, measured recall and speed."""
    rows = [
        [
            index.name, f"{index.rows:,}", index.parameters.get("recipe", ABSENT), index.measured.get("k", ABSENT),
            percent(index.measured.get("recall_at_k"), 2), number(index.measured.get("milliseconds_per_query"), 3),
            index.measured.get("recall_queries", ABSENT),
        ]
        for index in subject.of_kind("index")
    ]  # fmt: skip
    if not rows:
        return [note("No index is among this report's artifacts.")]
    head = ["Index", "Rows", "Recipe", "k", "Recall@k", "ms per query", "Queries"]
    return [note(PROSE["recall"]), table("Search, measured when the index was built", head, rows)]


def size_of(artifact: Artifact) -> int:
    """Bytes of its files."""
    return sum(file.bytes for part in artifact.parts for file in part.files)


def seconds_of(artifact: Artifact) -> float | None:
    """What its build took, where that was recorded."""
    return artifact.measured.get("seconds")


def stages_table(artifacts: Sequence[Artifact]) -> list[Html]:
    """Every artifact behind the page: rows, bytes, seconds."""
    rows: list[list[object]] = [
        [f"{a.kind}/{a.name}", element("code", a.id), f"{a.rows:,}", bytes_text(size_of(a)), number(seconds_of(a), 1)]
        for a in artifacts
    ]
    size, seconds = sum(map(size_of, artifacts)), sum(seconds_of(a) or 0 for a in artifacts)
    rows.append(["Total", "", "", bytes_text(size), number(seconds, 1)])
    head = ["Artifact", "Version", "Rows", "Bytes", "Seconds"]
    return [note(PROSE["stages"]), table("What was built", head, rows, total=True)]


def rejects_table(subject: Subject) -> list[Html]:
    """Of each set of images, how many are used, and why the others are not."""
    rows = []
    for shards in subject.of_kind("shards"):
        rejected = {reason: n for reason, n in shards.counts.items() if reason.startswith("rejected")}
        reasons = ", ".join(f"{reason.removeprefix('rejected: ')} ({n:,})" for reason, n in rejected.items())
        used, refused = shards.counts.get("ok", 0), sum(rejected.values())
        rows.append([shards.name, f"{used:,}", f"{refused:,}", reasons or "none was rejected"])
    if not rows:
        return [note("No image shards are among this report's artifacts.")]
    return [table("Images by what became of them", ["Images", "Used", "Rejected", "Reasons"], rows)]


def provenance(subject: Subject) -> list[Html]:
    """Which bytes: encoder, weights, fingerprints, licences of the run's database, parameters."""
    run, encoder = subject.run, subject.run.parameters.get("encoder", {})
    weights = [(file.path, file.sha256) for part in run.parts for file in part.files if file.path.endswith(".safetensors")]
    rows = [["Encoder", f"{encoder.get('model', ABSENT)}, {encoder.get('dimension', ABSENT)} dimensions"]]
    rows += [["Encoder weights", element("code", encoder.get("weights_sha256", ABSENT))]]
    rows += [[f"Weights: {path}", element("code", digest)] for path, digest in weights]
    facts = table("The networks, by the sha256 of their weights", ["What", "Which"], rows)
    prints = table(
        "Fingerprints: equal bytes, equal fingerprint", ["Artifact", "Fingerprint"],
        [[f"{a.kind}/{a.name}", element("code", a.fingerprint)] for a in subject.artifacts],
    )  # fmt: skip
    database = with_fingerprint(subject.root, "embeddings", run.inputs.get("database", ""))
    licences: Html = note("The database of the run is not under this root, so its licences cannot be counted.")
    if database:
        counts = [[licence, f"{count:,}"] for licence, count in licence_counts(database).items()]
        licences = table(f"Licences of the images in {database.name}", ["Licence", "Images"], counts)
    parameters = json.dumps(dict(run.parameters), indent=2, sort_keys=True, ensure_ascii=False)
    return [facts, licences, details("Fingerprints", prints), details("Parameters of the run", element("pre", parameters))]


def summary(evaluation: Mapping[str, Any]) -> str:
    """The evaluation as a short plain table for a terminal."""
    lines = [f"{'held-out loss':<34}{'mean [95 % interval]':<28}change"]
    changes = found(evaluation, "loss", f"relative to {WITHOUT}") or {}
    for name, mean in ordered(evaluation, "loss", "means").items():
        lines.append(f"  {name:<32}{estimate_text(mean):<28}{percent(changes.get(name), signed=True)}")
    lines.append(f"{'prompt agreement':<34}{'colour':<28}shape")
    for name, row in ordered(evaluation, "prompts").items():
        lines.append(f"  {name:<32}{agreement_text(name, row, 'colour'):<28}{agreement_text(name, row, 'shape')}")
    lines.append(f"{'database swap':<34}share drawn in its style")
    for style, row in (found(evaluation, "swaps") or {}).items():
        lines.append(f"  {style:<32}{percent(row['styles'].get(style))}")
    lines.append("copy rate")
    lines += [f"  {name:<32}{percent(rate)}" for name, rate in ordered(evaluation, "copies").items()]
    return "\n".join(line.rstrip() for line in lines).replace("−", "-").replace(ABSENT, "-")
