"""The report of a run, over small artifacts made by hand."""

import re
from html.parser import HTMLParser

import pytest
from reporting import (
    ENCODER,
    EVALUATION,
    LICENCES,
    around,
    both,
    config,
    page_text,
    publish_all,
    publish_database,
    publish_evaluation,
    publish_run,
    publish_samples,
)

from flows.judge import report
from storage.build import begin
from storage.errors import StorageError


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
    assert len(targets) == 12 and all(f'id="{target}"' in text for target in targets)


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


def test_grain_and_edges_are_told_with_what_they_mean(tmp_path):
    publish_all(tmp_path)
    text = page_text(tmp_path)
    drawn = re.search(
        '<tr><th scope="row">held-out neighbors</th><td class="n">9.00(.*?)</tr>', text
    )
    shown = [cell.split(" [")[0] for cell in re.findall("<td[^>]*>(.*?)</td>", drawn[1])]
    assert shown == ["4.50", "2.25", "8.00", "0.80", "0.40"]
    assert "Are they clean and sharp?" in text and "fewer edges are blur" in text


def test_a_page_says_who_judged_what_nobody_could_check_and_why_something_is_missing(tmp_path):
    changed = {"swaps": {}, "clip scores": {"learned null": around(0.2)}}
    changed |= {"not checked": ["runs/x was converted"]}
    changed |= {"left out": {"swaps": "no databases are named"}}
    publish_all(tmp_path, evaluation=EVALUATION | changed)
    text = page_text(tmp_path)
    assert "Judge: shapes; sets of images are compared in the features of oracle." in text
    assert "Nobody knows whether the run has seen the held-out images: runs/x was conv" in text
    assert "This was not measured: no databases are named." in text
    assert "CLIP score of another CLIP" in text


def test_a_page_of_a_run_without_a_twin_shows_some_of_the_images(tmp_path):
    publish_all(tmp_path)
    alone = config(tmp_path).model_copy(update={"baseline": None})
    subject = report.open_subject(alone)
    assert subject.runs == [subject.run] and "runs/without" not in report.report_plan(alone).inputs
    (subject.evaluation.directory / "grid.png").write_bytes(b"png")
    text = str(report.page_of(subject))
    assert ">without</text>" not in text and checked(text).tags.count("img") == 1
    shown = "From left to right: held-out images, held-out neighbors, learned null, return the"
    assert shown in text


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


def test_nothing_measured_is_said_and_does_not_crash(tmp_path):
    publish_all(tmp_path, evaluation={})
    text = page_text(tmp_path, artifacts=())
    checked(text)
    assert text.count("This was not measured.") == 6 and text.count("Not measured") == 3
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


def licence_lines(root):
    subject = report.open_subject(config(root, artifacts=()))
    tables = [str(one) for one in report.licences_tables(subject)]
    return [re.findall("<caption>(.*?)</caption>|<p[^>]*>(.*?)</p>", one)[0] for one in tables]


def test_licences_are_counted_of_the_database_that_was_searched_and_of_the_runs_own(tmp_path):
    own, other = publish_database(tmp_path), publish_database(tmp_path, "other", captions="a cat")
    for name in ("shapes", "without"):
        publish_run(tmp_path, name, own)
    publish_evaluation(tmp_path, database=own)
    both = "Licences of the images in db, which the evaluation searched and the run was trained"
    ((told, _),) = licence_lines(tmp_path)
    assert told.startswith(both)
    publish_evaluation(tmp_path, EVALUATION | {"copies": {}}, other)
    assert [told for told, _ in licence_lines(tmp_path)] == [
        "Licences of the images in other, which the evaluation searched",
        "Licences of the images in db, which the run was trained with",
    ]
    (other.directory / "manifest.json").unlink()
    (_, gone), (told, _) = licence_lines(tmp_path)
    assert gone.startswith("The database that the evaluation searched is not under this root")
    assert told == "Licences of the images in db, which the run was trained with"


def test_of_a_converted_run_licences_are_counted_of_the_database_that_was_searched(tmp_path):
    database = publish_database(tmp_path)
    for name in ("shapes", "without"):
        publish_run(tmp_path, name, None)
    publish_evaluation(tmp_path, database=database)
    ((told, _),) = licence_lines(tmp_path)
    assert told == "Licences of the images in db, which the evaluation searched"
    publish_evaluation(tmp_path, EVALUATION | {"copies": {}})
    ((_, told),) = licence_lines(tmp_path)
    assert told.startswith("No database is known")


def test_pages_of_before_are_written_anew(tmp_path):
    publish_all(tmp_path)
    assert report.report_plan(config(tmp_path)).parameters["revision"] >= 2


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
