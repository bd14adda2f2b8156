"""The report of a run, over small artifacts made by hand."""

import copy
import json
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest

from flows.config.judge import WriteReport
from flows.judge import findings, report
from rdm_core.images import encode
from storage.artifact import Artifact
from storage.build import begin
from storage.embeddings import write_embeddings
from storage.errors import StorageError
from storage.manifest import Plan
from storage.runs import append_metrics
from storage.samples import write_samples
from storage.shards import SIDECAR, EncodedSample, SampleRecord, write_shard

HOSTILE = "<script>alert(1)</script>"
ENCODER = {"model": "rdm-shapes", "weights_sha256": "ab" * 32, "dimension": 4, "preprocessing": {}}
LICENCES = ("CC-BY-4.0", None, "CC0-1.0")
KEYS = [f"db-{i}" for i in range(6)]


def around(mean, half=0.01):
    return {"mean": mean, "low": mean - half, "high": mean + half, "count": 64}


def both(colour, shape):
    return {"colour": around(colour), "shape": around(shape)}


def styles(photograph, oil_painting, sketch):
    return {
        "photograph": around(photograph),
        "oil painting": around(oil_painting),
        "sketch": around(sketch),
    }


EVALUATION = {
    "loss": {
        "means": {
            "right neighbors": around(0.20), "shuffled neighbors": around(0.29),
            "learned null": around(0.26), "trained without neighbors": around(0.25),
        },
        "relative to trained without neighbors": {
            "right neighbors": around(-0.2), "shuffled neighbors": around(0.16),
            "learned null": around(0.04),
        },
        "share of the gain lost when shuffled": 0.9,
    },
    "prompts": {
        "text, context query": both(0.8, 0.7), "text, context query+neighbors": both(0.9, 0.8),
        "text, context neighbors": both(0.85, 0.75), "another prompt's context": both(0.1, 0.1),
        "learned null": both(0.125, 0.12), "trained without neighbors": both(0.13, 0.12),
        "return the neighbour": both(0.99, 0.98),
        "chance": {"colour": around(0.125, 0), "shape": around(0.125, 0)},
    },
    "swaps": {
        "photograph": {"styles": styles(0.97, 0.02, 0.01)} | both(0.9, 0.8),
        "sketch": {"styles": styles(0.03, 0.01, 0.96)} | both(0.7, 0.8),
    },
    "quality": {
        name: {
            measure: around(0.5)
            for measure in (
                "fd", "kid", "precision", "recall", "density", "coverage", "copy_rate"
            )
        }
        for name in ("held-out neighbors", "learned null", "return the neighbour")
    },
    "copies": {
        "samples": 0.02, "return the neighbour": 1.0, "held-out images, by definition": 0.01,
    },
}  # fmt: skip


def picture(seed, side=16):
    return encode(
        np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8), "png"
    )


def publish(root, kind, name, write, parameters=None, inputs=None, **measured) -> Artifact:
    with begin(root, Plan(kind, name, {"made": name} | (parameters or {}), inputs or {})) as build:
        return build.commit([build.write_part("00000", "", write)], {"seconds": 1.5, **measured})


def publish_database(root, name="db", side=16, captions=HOSTILE):
    records = [
        SampleRecord(
            key,
            key,
            width=side,
            height=side,
            sha256="0",
            captions=(captions,),
            author=HOSTILE,
            licence="CC-BY-4.0",
        )
        for key in KEYS
    ]
    rejected = SampleRecord("db-x", "db-x", status="rejected", reason="truncated")
    encoded = [EncodedSample(record, picture(i, side)) for i, record in enumerate(records)] + [
        EncodedSample(rejected)
    ]
    shards = publish(root, "shards", name, lambda scratch: write_shard(scratch, "00000", encoded))
    sidecar = pa.Table.from_pylist([record.__dict__ for record in records], schema=SIDECAR)
    vectors = np.eye(4, dtype=np.float32)[np.arange(len(KEYS)) % 4]
    norms = np.ones(len(KEYS), np.float32)
    database = publish(
        root,
        "embeddings",
        name,
        lambda scratch: (write_embeddings(scratch, "00000", sidecar, vectors, norms), {}),
        {"encoder": ENCODER},
        {"shards": shards.fingerprint},
        weights="built-in",
    )
    publish(
        root,
        "index",
        name,
        lambda scratch: ((scratch / "vectors.npy").write_bytes(b"x"), {}),
        {"recipe": "exact"},
        {"embeddings": database.fingerprint},
        recall_at_k=1.0,
        k=20,
        recall_queries=6,
        milliseconds_per_query=0.05,
    )
    return database


def publish_run(root, name, database, metrics=True):
    def write(scratch):
        (scratch / "weights").mkdir()
        (scratch / "weights" / "model.safetensors").write_bytes(name.encode())
        (scratch / "metrics.jsonl").touch()
        for step in range(25, 1525, 25) if metrics else ():
            append_metrics(scratch, {"step": step, "loss": 1 / step + 0.1, "gradient_norm": 0.5})
        return 1, {}

    return publish(
        root,
        "runs",
        name,
        write,
        {"encoder": ENCODER, "training": {"k": 4}},
        {"database": database.fingerprint},
    )


def publish_samples(root, name, database, side=16, count=2, neighbors=3):
    records = [
        {
            "file": f"{i:05d}.png", "query": f"a red circle {HOSTILE}", "seed": i,
            "guidance_scale": 2.0, "weights": "w",
            "database": database.fingerprint if database else None,
            "neighbor_keys": (KEYS * 5)[:neighbors],
            "neighbor_scores": [0.9 - place / 100 for place in range(neighbors)],
            "licences": [LICENCES[place % 3] for place in range(neighbors)],
            "authors": [HOSTILE if place == 0 else f"author {place}" for place in range(neighbors)],
            "source_urls": [f"https://example.org/{place}.jpg" for place in range(neighbors)],
            "style_database": None, "given_images": [], "attributions": None,
        }
        for i in range(count)
    ]  # fmt: skip
    asked = {"texts": ["a red circle"], "k": 4, "guidance_scale": 2.0, "steps": 30, "context": None}
    images = [picture(100 + i, side) for i in range(count)]
    return publish(
        root,
        "samples",
        name,
        lambda scratch: (write_samples(scratch, images, records, picture(0)), {}),
        asked,
        {"database": database.fingerprint} if database else {},
    )


def publish_evaluation(root, measured=EVALUATION):
    def write(scratch):
        (scratch / "evaluation.json").write_text(json.dumps(measured, sort_keys=True))
        return 1, {}

    return publish(
        root, "evaluations", "shapes", write, {"measured": json.dumps(measured, sort_keys=True)}
    )


def publish_all(root, evaluation=EVALUATION, **database):
    opened = publish_database(root, **database)
    for name in ("shapes", "without"):
        publish_run(root, name, opened)
    publish_evaluation(root, evaluation)
    return opened


def config(root, samples=(), artifacts=("shards/db", "embeddings/db", "index/db")):
    return WriteReport(
        root=root,
        name="demo",
        run="shapes",
        baseline="without",
        evaluation="shapes",
        samples=samples,
        artifacts=artifacts,
    )


def page_text(root, **changes):
    return str(report.page_of(report.open_subject(config(root, **changes))))


class Checker(HTMLParser):
    """Collects references, and checks that every tag is closed where it was opened."""

    def __init__(self):
        super().__init__()
        self.open, self.references, self.tags = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [
            value
            for name, value in attributes
            if name in ("src", "href", "srcset", "xlink:href", "action")
        ]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def checked(text):
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    return checker


def test_page_is_whole_and_refers_to_nothing_outside(tmp_path):
    database = publish_all(tmp_path)
    publish_samples(tmp_path, "demo-text", database)
    text = page_text(tmp_path, samples=("demo-text",))
    checker = checked(text)
    assert checker.references and all(
        reference.startswith(("data:", "#")) for reference in checker.references
    )
    assert "script" not in checker.tags and not re.search(r"url\(|@import", text)
    assert checker.tags.count("img") == 2 * (1 + 3) and checker.tags.count("h1") == 1
    targets = [reference[1:] for reference in checker.references if reference.startswith("#")]
    assert len(targets) == 11 and all(f'id="{target}"' in text for target in targets)


def test_hostile_text_is_text(tmp_path):
    database = publish_all(tmp_path)
    publish_samples(tmp_path, "demo-text", database)
    text = page_text(tmp_path, samples=("demo-text",))
    assert "<script" not in text and text.count("&lt;script&gt;alert(1)") > 8


def test_page_says_who_stood_behind_the_samples(tmp_path):
    database = publish_all(tmp_path, captions="a red circle")
    publish_samples(tmp_path, "demo-text", database)
    text = page_text(tmp_path, samples=("demo-text",))
    assert "6 neighbors. Licences: CC-BY-4.0 (2), not stated (2), CC0-1.0 (2). Authors: " in text
    assert "&lt;/script&gt; (2), author 1 (2), author 2 (2)." in text
    rows = re.findall("<tr>(?:(?!<tr>).)*https://example.org/(?:(?!<tr>).)*</tr>", text)
    cells = [re.findall("<t[dh][^>]*>(.*?)</t[dh]>", row) for row in rows]
    told = [cell[1:] for cell in cells if "author" in cell[3]]
    credits = [(f"db-{n}", f"author {n}", LICENCES[n] or "not stated") for n in (1, 2)] * 2
    wanted = [
        [*credit, f"https://example.org/{n}.jpg"]
        for credit, n in zip(credits, (1, 2, 1, 2), strict=True)
    ]
    assert [row[1:] for row in told] == wanted and [row[0] for row in told] == ["0", "0", "1", "1"]
    assert (
        "context query+neighbors, k = 4, guidance scale 2.0, 30 steps" in text
        and "Database db (6 rows)" in text
    )
    assert 'alt="neighbor 1: a red circle"' in text and "https://example.org/0.jpg" in text


def test_charts_and_tables_hold_the_measurements(tmp_path):
    publish_all(tmp_path)
    text = page_text(tmp_path)
    assert (
        text.count("<figure") == 2
        and 'x="253.0" y="258" text-anchor="middle">optimiser step' in text
    )
    assert text.count('class="reference"') == 4 + 2 * 8, (
        "loss without neighbors, and chance of two factors"
    )
    assert text.count('<line x1="23.8" x2="23.8" y1="1"') == 2 * 8, "chance is at 12.5 %"
    assert (
        text.count("<polyline") == 8
        and ">without</text>" in text
        and "Training loss" in text
        and "Gradient norm" in text
    )
    assert (
        "0.2000 [0.1900, 0.2100]" in text
        and "−20.0 % [−21.0, −19.0]" in text
        and "return the neighbour" in text
    )
    assert "+16.0 % [+15.0, +17.0]" in text and '<td class="n">12.5 %</td>' in text, (
        "chance is exact"
    )
    swapped = re.search('<tr><th scope="row">sketch</th>(.*?)</tr>', text)[1]
    shown = ["1.0 %", "3.0 %", "96.0 %", "70.0 %", "80.0 %"]  # oil, photograph, sketch
    assert [cell.split(" [")[0] for cell in re.findall("<td[^>]*>(.*?)</td>", swapped)] == shown
    assert "Drawn as oil painting" in text and "100.00 %" in text and "truncated (1)" in text
    assert (
        ENCODER["weights_sha256"] in text
        and "CC-BY-4.0" in text
        and "Total" in text
        and "&quot;training&quot;" in text
    )


def test_rows_come_in_reading_order_whatever_the_order_of_the_file(tmp_path):
    publish_all(
        tmp_path,
        evaluation=EVALUATION | {"prompts": EVALUATION["prompts"] | {"a new row": both(0, 0)}},
    )
    text = page_text(tmp_path)
    names = re.findall(r'<th scope="row">([^<]*)</th>', text)
    losses, prompts = names.index("right neighbors"), names.index("text, context query")
    assert names[losses : losses + 4] == list(EVALUATION["loss"]["means"])
    assert names[prompts : prompts + 9] == [
        *(name.replace("'", "&#x27;") for name in EVALUATION["prompts"]),
        "a new row",
    ]


def test_headlines_hold_when_the_numbers_do():
    found = findings.findings(EVALUATION)
    assert [finding.holds for finding in found] == [True, True, True]
    assert (
        "right neighbors lower the held-out loss" in found[0].headline
        and "loses 90 % of that gain." in found[0].detail
    )
    assert "colour and shape" in found[1].headline and "chance 12.5 %" in found[1].detail
    assert "97.0 % [96.0, 98.0]" in found[2].detail and "NOT" not in "".join(
        finding.headline for finding in found
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (0.2, "they raise it"),
        (0.0, "includes zero"),
        (-0.005, "includes zero"),
        (0.005, "includes zero"),
    ],
)
def test_loss_headline_flips_with_the_numbers(change, reason):
    measured = copy.deepcopy(EVALUATION)
    measured["loss"]["relative to trained without neighbors"]["right neighbors"] = around(change)
    finding = findings.findings(measured)[0]
    assert (
        finding.holds is False and "do NOT lower" in finding.headline and reason in finding.headline
    )
    assert "that gain" not in finding.detail, "without a gain there is none to lose"
    assert 'class="no"' in findings.finding_item(
        finding
    ) and "Does not hold" in findings.finding_item(finding)


@pytest.mark.parametrize(
    "lost, said", [(0.2, "does NOT depend"), (1.2, "worse than none"), (0.8, "80 % of that gain.")]
)
def test_shuffling_is_told_as_it_is(lost, said):
    assert said in findings.shuffling_text(lost)


def test_prompt_headline_flips_with_the_numbers():
    measured = copy.deepcopy(EVALUATION)
    measured["prompts"]["text, context query+neighbors"]["shape"] = around(0.135)
    finding = findings.findings(measured)[1]
    assert (
        finding.holds is False
        and "show the colour their text names, but NOT measurably the shape" in finding.headline
    )
    measured["prompts"]["trained without neighbors"]["colour"] = around(0.95)
    assert findings.findings(measured)[1].headline.startswith(
        "Samples do NOT show what their text names"
    )


def test_swap_headline_flips_with_the_numbers():
    measured = copy.deepcopy(EVALUATION)
    # no more than elsewhere; more than elsewhere, but still not what most samples are
    for share in (0.02, 0.4):
        measured["swaps"]["sketch"]["styles"]["sketch"] = around(share)
        finding = findings.findings(measured)[2]
        assert (
            finding.holds is False
            and "does NOT reliably change the style to sketch." in finding.headline
        )


def test_nothing_measured_is_said_and_does_not_crash(tmp_path):
    publish_all(tmp_path, evaluation={})
    text = page_text(tmp_path, artifacts=())
    checked(text)
    assert text.count("This was not measured.") == 5 and text.count("Not measured") == 3
    for missing in ("No samples were given", "No index is among", "No image shards are among"):
        assert missing in text


def test_absent_shards_and_metrics_are_said(tmp_path):
    database = publish_database(tmp_path)
    for name in ("shapes", "without"):
        publish_run(tmp_path, name, database, metrics=False)
    publish_evaluation(tmp_path)
    publish_samples(tmp_path, "demo-text", database)
    (next((tmp_path / "shards").glob("db/*/manifest.json"))).unlink()
    text = page_text(tmp_path, samples=("demo-text",), artifacts=())
    checked(text)
    assert text.count("not at hand") == 6 and "Training loss: nothing was recorded." in text


def test_samples_without_a_database(tmp_path):
    publish_all(tmp_path)
    publish_samples(tmp_path, "query-only", None, neighbors=0)
    text = page_text(tmp_path, samples=("query-only",))
    assert "no database image." in text and "Database none" in text and "Each neighbor" not in text


def test_large_sets_stay_small(tmp_path):
    database = publish_all(tmp_path, side=256)
    publish_samples(tmp_path, "many", database, side=256, count=40, neighbors=20)
    text = page_text(tmp_path, samples=("many",))
    assert "the first 12 of them shown" in text and "and 12 more" in text
    assert text.count("data:image/jpeg") == 12 * 9 and len(text) < 5_000_000


def test_unknown_artifact_is_refused_by_name(tmp_path):
    publish_all(tmp_path)
    with pytest.raises(StorageError, match="nothing-here"):
        report.open_subject(config(tmp_path, artifacts=("index/nothing-here",)))
    with pytest.raises(StorageError, match="kind of artifact"):
        report.open_subject(config(tmp_path, artifacts=("oops",)))


def test_second_run_is_kept_and_a_new_input_is_not(tmp_path):
    publish_all(tmp_path)
    subject = report.open_subject(config(tmp_path))
    with begin(tmp_path, report.report_plan(config(tmp_path), subject)) as build:
        artifact = build.commit(report.write_page.fn(build, subject), {"seconds": 0.1})
    assert [part.name for part in artifact.parts] == ["report"] and artifact.files(".html") == [
        artifact.file("report.html")
    ]
    with begin(tmp_path, report.report_plan(config(tmp_path), subject)) as again:
        assert again.finished == artifact
    publish_evaluation(tmp_path, EVALUATION | {"copies": {}})
    assert (
        report.report_plan(config(tmp_path), report.open_subject(config(tmp_path))).id
        != artifact.id
    )


def test_summary_is_short_plain_and_aligned():
    text = findings.summary(EVALUATION)
    lines = text.split("\n")
    assert len(lines) <= 32 and max(map(len, lines)) <= 100 and text.isascii()
    assert (
        "  right neighbors                 0.2000 [0.1900, 0.2100]     -20.0 % [-21.0, -19.0]"
        in lines
    )
    assert any(line.startswith("  sketch") and "96.0 %" in line for line in lines)
    assert len({line.index("[") for line in lines if "[0." in line}) == 1
    assert findings.summary({}).count("\n") == 4
