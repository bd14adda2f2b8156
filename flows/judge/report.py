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
from flows.judge.findings import (
    copies_table,
    finding_item,
    findings,
    loss_table,
    prompts_table,
    quality_table,
    swaps_table,
)
from flows.look.figures import samples_section
from flows.look.page import (
    ABSENT,
    Html,
    as_bytes,
    bytes_text,
    contents,
    details,
    document,
    element,
    line_chart,
    note,
    percent,
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
    show_link(config.name, report.file(REPORT_FILE), f"Report on {config.run}")
    return report


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


@write_report.plan
def report_plan(config: WriteReport, subject: Subject | None = None) -> Plan:
    """The names stay in the parameters: the page shows them, in their order."""
    subject = subject or open_subject(config)
    inputs = {
        f"{artifact.kind}/{artifact.name}": artifact.fingerprint for artifact in subject.artifacts
    }
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
        "quality": ("How near do they come to unseen images?", quality_table(subject.measured)),
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


def curves(subject: Subject) -> list[Html]:
    """Loss and gradient norm of both runs."""
    metrics = {
        run.name: read_metrics(run.file(METRICS_FILE)) for run in (subject.run, subject.baseline)
    }

    def chart(title: str, field: str) -> Html:
        lines = {
            name: [(r["step"], r[field]) for r in records if field in r]
            for name, records in metrics.items()
        }
        return line_chart(title, lines, "optimiser step", field.replace("_", " "))

    return [
        element(
            "div",
            chart("Training loss", "loss"),
            chart("Gradient norm", "gradient_norm"),
            class_="charts",
        )
    ]


def retrieval_table(subject: Subject) -> list[Html]:
    """Each index: recipe and measured recall."""
    rows = [
        [
            index.name, f"{index.rows:,}",
            index.parameters.get("recipe", ABSENT), index.measured.get("k", ABSENT),
            percent(index.measured.get("recall_at_k"), 2),
            index.measured.get("recall_queries", ABSENT),
        ]
        for index in subject.of_kind("index")
    ]  # fmt: skip
    if not rows:
        return [note("No index is among this report's artifacts.")]
    head = ["Index", "Rows", "Recipe", "k", "Recall@k", "Queries"]
    return [note(PROSE["recall"]), table("Search, measured when the index was built", head, rows)]


def stages_table(artifacts: Sequence[Artifact]) -> list[Html]:
    """Every artifact behind the page: rows and bytes. No seconds: equal requests give equal
    pages.
    """
    rows: list[list[object]] = [
        [f"{a.kind}/{a.name}", element("code", a.id), f"{a.rows:,}", bytes_text(a.bytes)]
        for a in artifacts
    ]
    rows.append(["Total", "", "", bytes_text(sum(a.bytes for a in artifacts))])
    head = ["Artifact", "Version", "Rows", "Bytes"]
    return [note(PROSE["stages"]), table("What was built", head, rows, total=True)]


def rejects_table(subject: Subject) -> list[Html]:
    """Of each set of images, how many are used, and why the others are not."""
    rows = []
    for shards in subject.of_kind("shards"):
        rejected = {
            reason: n for reason, n in shards.counts.items() if reason.startswith("rejected")
        }
        reasons = ", ".join(
            f"{reason.removeprefix('rejected: ')} ({n:,})" for reason, n in rejected.items()
        )
        used, refused = shards.counts.get("ok", 0), sum(rejected.values())
        rows.append([shards.name, f"{used:,}", f"{refused:,}", reasons or "none was rejected"])
    if not rows:
        return [note("No image shards are among this report's artifacts.")]
    return [table("Images by what became of them", ["Images", "Used", "Rejected", "Reasons"], rows)]


def provenance(subject: Subject) -> list[Html]:
    """Which bytes: encoder, weights, fingerprints, licences of the run's database, parameters."""
    run, encoder = subject.run, subject.run.parameters.get("encoder", {})
    files = [file for part in run.parts if part.name == "weights" for file in part.files]
    weights = [(file.path, file.sha256) for file in files if file.path.endswith(".safetensors")]
    rows = [
        [
            "Encoder",
            f"{encoder.get('model', ABSENT)}, {encoder.get('dimension', ABSENT)} dimensions",
        ]
    ]
    rows += [["Encoder weights", element("code", encoder.get("weights_sha256", ABSENT))]]
    rows += [[f"Weights: {path}", element("code", digest)] for path, digest in weights]
    facts = table("The networks, by the sha256 of their weights", ["What", "Which"], rows)
    prints = table(
        "Fingerprints: equal bytes, equal fingerprint", ["Artifact", "Fingerprint"],
        [[f"{a.kind}/{a.name}", element("code", a.fingerprint)] for a in subject.artifacts],
    )  # fmt: skip
    database = with_fingerprint(subject.root, "embeddings", run.inputs.get("database", ""))
    licences: Html = note(
        "The database of the run is not under this root, so its licences cannot be counted."
    )
    if database:
        counts = [[licence, f"{count:,}"] for licence, count in licence_counts(database).items()]
        licences = table(
            f"Licences of the images in {database.name}", ["Licence", "Images"], counts
        )
    parameters = json.dumps(dict(run.parameters), indent=2, sort_keys=True, ensure_ascii=False)
    return [
        facts,
        licences,
        details("Fingerprints", prints),
        details("Parameters of the run", element("pre", parameters)),
    ]
