"""run + evaluation + samples -> one self-contained page: what was found, what it rests on, and who
stood behind it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flows.config.judge import WriteReport
from flows.judge.findings import finding_item, findings
from flows.judge.rows import HELD_OUT_IMAGES, SHOWN
from flows.judge.summary import SHEET_FILE
from flows.judge.tables import (
    copies_table,
    left_out_notes,
    loss_table,
    prompts_table,
    quality_table,
    sharp_table,
    swaps_table,
)
from flows.look.figures import samples_section
from flows.look.page import (
    ABSENT,
    Html,
    Point,
    as_bytes,
    bytes_text,
    contents,
    details,
    document,
    element,
    line_chart,
    note,
    percent,
    picture,
    section,
    table,
)
from flows.run.artifacts import show_link
from flows.run.progress import Clock
from flows.run.revisions import plan_of
from flows.run.stage import building, kept, published, single_part, stage_flow, stage_task
from storage.artifact import Artifact, open_artifact, with_fingerprint
from storage.build import Build
from storage.embeddings import licence_counts
from storage.manifest import Part, Plan
from storage.runs import METRICS_FILE, read_metrics

REPORT_FILE = "report.html"
PROSE = {
    "lead": (
        "A retrieval-augmented model draws an image from the CLIP vectors of its k "
        "nearest neighbors in a database of images. This page shows what one such model draws, "
        "and measures whether it uses what it is given."
    ),
    "intervals": (
        "A range in brackets, and the line through a dot, is the 95 % bootstrap interval of the "
        "number before it; it has no width where all images agree. Chance is exact."
    ),
    "recall": "Recall@k is the share of the exact k nearest neighbors that the index finds.",
    "stages": "What each took and when it was built: rdm log kind/name.",
}


@dataclass(frozen=True)
class Subject:
    """What the page is about."""

    root: Path
    run: Artifact
    baseline: Artifact | None
    evaluation: Artifact
    samples: tuple[Artifact, ...]
    others: tuple[Artifact, ...]

    @cached_property
    def measured(self) -> dict[str, Any]:
        """The evaluation's numbers; none where it holds no file of them."""
        files = self.evaluation.files(".json")
        return json.loads(files[0].read_text(encoding="utf-8")) if files else {}

    @property
    def artifacts(self) -> list[Artifact]:
        """Everything, in the order it is made."""
        return [*self.others, *self.runs, *self.samples, self.evaluation]

    @property
    def runs(self) -> list[Artifact]:
        """The run, and the network without neighbors where there is one."""
        return [self.run] if self.baseline is None else [self.run, self.baseline]

    def of_kind(self, kind: str) -> list[Artifact]:
        """Those of one kind."""
        return [artifact for artifact in self.artifacts if artifact.kind == kind]


@stage_flow("write-report")
def write_report(config: WriteReport) -> Artifact:
    """Tell of a run on one page that needs nothing but itself.

    run + baseline + evaluation + samples --> report.html

    - In `reports`: the page.
    - Made by `rdm report` and the demo.
    - Read by people.
    - Rebuilt when anything it shows is another version.
    - Resumes not at all: it is written in one piece.
    """
    clock = Clock()
    subject = open_subject(config)
    with building(config.root, report_plan(config, subject)) as build:
        if build.finished:
            return kept(build)
        report = published(build, write_page(build, subject), clock)
    show_link(f"reports/{config.name}", report.file(REPORT_FILE), f"Report on {config.run}")
    return report


def open_subject(config: WriteReport) -> Subject:
    """Open what the page is about. Raises ArtifactMissing for a name that was never built."""
    others = []
    for reference in config.artifacts:
        # Without a slash the whole is taken for a kind, and refused as there is none of that name.
        kind_and_name = reference.split("/", 1)
        others.append(open_artifact(config.root, kind_and_name[0], kind_and_name[-1]))
    return Subject(
        config.root,
        open_artifact(config.root, "runs", config.run),
        open_artifact(config.root, "runs", config.baseline) if config.baseline else None,
        open_artifact(config.root, "evaluations", config.evaluation),
        tuple(open_artifact(config.root, "samples", name) for name in config.samples),
        tuple(others),
    )


@write_report.plan
def report_plan(config: WriteReport, subject: Subject | None = None) -> Plan:
    """The names stay in the parameters: the page shows them, in their order."""
    subject = subject or open_subject(config)
    inputs = {}
    for artifact in subject.artifacts:
        inputs[f"{artifact.kind}/{artifact.name}"] = artifact.fingerprint
    return plan_of("reports", config.name, config.parameters(), inputs)


@stage_task(name="write-page")
def write_page(build: Build, subject: Subject) -> list[Part]:
    """The only part: report.html."""

    def write(scratch: Path) -> tuple[int, dict[str, int]]:
        (scratch / REPORT_FILE).write_bytes(as_bytes(page_of(subject)))
        return 1, {}

    return single_part(build, "report", write)


def page_of(subject: Subject) -> Html:
    """The page, from what was found to what it was found on."""
    sections = {
        "samples": ("Samples and their neighbors", samples_section(subject.root, subject.samples)),
        "curves": ("Training", curves(subject)),
        "loss": ("Does the loss need the right neighbors?", loss_table(subject.measured)),
        "prompts": ("Do the samples show what the prompt names?", prompts_table(subject.measured)),
        "swaps": ("What does another database change?", swaps_table(subject.measured)),
        "quality": ("How near do they come to unseen images?", sets_compared(subject)),
        "sharp": ("Are they clean and sharp?", sharp_table(subject.measured)),
        "copies": ("Does it copy?", copies_table(subject.measured)),
        "retrieval": ("Retrieval", retrieval_table(subject)),
        "stages": ("Stages", stages_table(subject.artifacts)),
        "rejects": ("Rejected images", rejects_table(subject)),
        "provenance": ("Provenance", provenance(subject)),
    }
    headings, content = {}, []
    for name, (heading, elements) in sections.items():
        headings[name] = heading
        content.append(section(name, heading, *elements))
    return document(
        f"Report: {subject.run.name}",
        element("h1", f"What the run “{subject.run.name}” does with its neighbors"),
        element("p", PROSE["lead"], class_="lead"),
        element("ol", *map(finding_item, findings(subject.measured)), class_="findings"),
        note(PROSE["intervals"]),
        *left_out_notes(subject.measured),
        contents(headings),
        *content,
    )


def sets_compared(subject: Subject) -> list[Html]:
    """Distances between sets of images, and some of these images."""
    tables = quality_table(subject.measured)
    sheet = subject.evaluation.file(SHEET_FILE)
    if not sheet.is_file():
        return tables
    columns = [name for name in SHOWN if name in (HELD_OUT_IMAGES, *subject.measured["quality"])]
    alt = f"some held-out images, a line each: {', '.join(columns)}"
    shown = picture(sheet.read_bytes(), "image/png", alt, small=False)
    return [*tables, note(f"From left to right: {', '.join(columns)}."), element("div", shown)]


def curves(subject: Subject) -> list[Html]:
    """Loss and gradient norm of the run, and of the network without neighbors."""
    charts = []
    for title, field in {"Training loss": "loss", "Gradient norm": "gradient_norm"}.items():
        lines = {run.name: curve(run, field) for run in subject.runs}
        charts.append(line_chart(title, lines, "optimiser step", field.replace("_", " ")))
    return [element("div", *charts, class_="charts")]


def curve(run: Artifact, field: str) -> list[Point]:
    """(step, value) of one field of a run's metrics, where a step has it."""
    points = []
    for record in read_metrics(run.file(METRICS_FILE)):
        if field in record:
            points.append((record["step"], record[field]))
    return points


def retrieval_table(subject: Subject) -> list[Html]:
    """Each index: recipe and measured recall."""
    rows = []
    for index in subject.of_kind("index"):
        measured = index.measured
        recipe, recall = index.parameters.get("recipe", ABSENT), measured.get("recall_at_k")
        row = [index.name, f"{index.rows:,}", recipe, measured.get("k", ABSENT)]
        rows.append([*row, percent(recall, 2), measured.get("recall_queries", ABSENT)])
    if not rows:
        return [note("No index is among this report's artifacts.")]
    head = ["Index", "Rows", "Recipe", "k", "Recall@k", "Queries"]
    return [note(PROSE["recall"]), table("Search, measured when the index was built", head, rows)]


def stages_table(artifacts: Sequence[Artifact]) -> list[Html]:
    """Every artifact behind the page: rows and bytes. No seconds: equal requests give equal
    pages.
    """
    rows: list[list[object]] = []
    total = 0
    for artifact in artifacts:
        total += artifact.bytes
        identity, size = element("code", artifact.id), bytes_text(artifact.bytes)
        rows.append([f"{artifact.kind}/{artifact.name}", identity, f"{artifact.rows:,}", size])
    rows.append(["Total", "", "", bytes_text(total)])
    head = ["Artifact", "Version", "Rows", "Bytes"]
    return [note(PROSE["stages"]), table("What was built", head, rows, total=True)]


def rejects_table(subject: Subject) -> list[Html]:
    """Of each set of images, how many are used, and why the others are not."""
    rows = []
    for shards in subject.of_kind("shards"):
        rejected, reasons = 0, []
        for outcome, count in shards.counts.items():
            if outcome.startswith("rejected"):
                rejected += count
                reasons.append(f"{outcome.removeprefix('rejected: ')} ({count:,})")
        told = ", ".join(reasons) or "none was rejected"
        rows.append([shards.name, f"{shards.counts.get('ok', 0):,}", f"{rejected:,}", told])
    if not rows:
        return [note("No image shards are among this report's artifacts.")]
    return [table("Images by what became of them", ["Images", "Used", "Rejected", "Reasons"], rows)]


def provenance(subject: Subject) -> list[Html]:
    """Which bytes: encoder, weights, fingerprints, licences of databases, parameters."""
    fingerprints = []
    for artifact in subject.artifacts:
        row = [f"{artifact.kind}/{artifact.name}", element("code", artifact.fingerprint)]
        fingerprints.append(row)
    head = ["Artifact", "Fingerprint"]
    prints = table("Fingerprints: equal bytes, equal fingerprint", head, fingerprints)
    parameters = dict(subject.run.parameters)
    text = json.dumps(parameters, indent=2, sort_keys=True, ensure_ascii=False)
    return [
        networks_table(subject.run),
        *licences_tables(subject),
        details("Fingerprints", prints),
        details("Parameters of the run", element("pre", text)),
    ]


def networks_table(run: Artifact) -> Html:
    """The encoder of a run, and every file of its weights with its hash."""
    encoder = run.parameters.get("encoder", {})
    described = f"{encoder.get('model', ABSENT)}, {encoder.get('dimension', ABSENT)} dimensions"
    rows = [
        ["Encoder", described],
        ["Encoder weights", element("code", encoder.get("weights_sha256", ABSENT))],
    ]
    for part in run.parts:
        if part.name != "weights":
            continue
        for file in part.files:
            if file.path.endswith(".safetensors"):
                rows.append([f"Weights: {file.path}", element("code", file.sha256)])
    return table("The networks, by the sha256 of their weights", ["What", "Which"], rows)


def licences_tables(subject: Subject) -> list[Html]:
    """How many images have which licence: of the database that the evaluation searched, and of the
    one that the run was trained with where that is another.
    """
    whose = {
        "the evaluation searched": subject.evaluation.inputs.get("database"),
        "the run was trained with": subject.run.inputs.get("database"),
    }
    roles: dict[str, list[str]] = {}
    for role, fingerprint in whose.items():
        if fingerprint:
            roles.setdefault(fingerprint, []).append(role)
    if not roles:
        return [note("No database is known, of whose images licences could be counted.")]
    tables = []
    for fingerprint, of_database in roles.items():
        told = " and ".join(of_database)
        database = with_fingerprint(subject.root, "embeddings", fingerprint)
        if database is None:
            text = f"The database that {told} is not under this root, so its licences"
            tables.append(note(f"{text} cannot be counted."))
            continue
        counts = [[licence, f"{count:,}"] for licence, count in licence_counts(database).items()]
        caption = f"Licences of the images in {database.name}, which {told}"
        tables.append(table(caption, ["Licence", "Images"], counts))
    return tables
