"""What a waiting person reads: the words of bars and lines, and what of them Prefect's UI shows."""

import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from flows.config.sample import SampleRDM
from flows.model import launch
from flows.model.sample import draw, sample_rdm
from flows.run import artifacts, progress


@pytest.fixture
def at_once(monkeypatch, capsys):
    """Lines of a bar are printed at each step, not every half minute: answers with them."""
    monkeypatch.delenv("PREFECT__FLOW_RUN_ID", raising=False)
    quick = progress.PLAIN_LINES | {"mininterval": 0.0, "delay": 0.0}
    monkeypatch.setattr(progress, "PLAIN_LINES", quick)
    return lambda: [line for line in capsys.readouterr().err.splitlines() if line.strip()]


class Terminal(StringIO):
    """A standard error that is one."""

    encoding = "utf-8"

    def isatty(self):
        return True


# On the screen


def test_a_line_is_the_stage_how_many_of_how_many_and_of_what(at_once):
    with progress.bar(3, "count", "sheep") as shown:
        shown.update(2)
        shown.set_postfix_str("all white")
    told = at_once()
    lines = [line.partition(" [")[0].strip() for line in told]
    assert lines[0] == "count: 0/3 sheep" and "count: 2/3 sheep" in lines
    assert told[-1].endswith("all white")


def test_lines_come_every_half_minute_and_none_before():
    assert (progress.PLAIN_LINES["mininterval"], progress.PLAIN_LINES["delay"]) == (30.0, 30.0)


def test_on_a_terminal_a_bar_is_drawn_and_goes_away(monkeypatch):
    monkeypatch.delenv("PREFECT__FLOW_RUN_ID", raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress.track(iter("abc"), 3, "embeddings", "group")) == ["a", "b", "c"]
    with progress.bar(2, "sample", "image") as shown:
        shown.update(2)
    drawn = sys.stderr.getvalue()
    assert "embeddings:   0%|" in drawn and "0/3" in drawn and "group/s" in drawn
    assert "sample:   0%|" in drawn and "0/2" in drawn and "image/s" in drawn
    assert drawn.endswith("\r") and "\n" not in drawn


def test_where_nobody_looks_nothing_is_drawn(monkeypatch, at_once):
    assert list(progress.track(iter("abc"), 3, "embeddings", "group")) == ["a", "b", "c"]
    assert at_once() == [], "groups are told by the run's log"
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "1")
    with progress.bar(1, "sample", "image") as shown:
        shown.update(1)
    progress.say("shards", "cats", "built 3 rows")
    assert at_once() == []


def test_what_happened_is_said_in_three_columns(at_once):
    progress.say("shards", "cats", "built\n3 rows")
    assert at_once() == [f"{'shards':<10} {'cats':<28} built\\n3 rows"]


def test_a_screen_that_is_closed_ends_no_work(monkeypatch):
    closed = StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    assert progress.SCREEN.write("three") == 5
    progress.SCREEN.flush()


def test_drawing_is_counted_in_images(small_world, at_once):
    at_once()
    asked = {"texts": ("a red circle",), "count": 3, "draw": {"steps": 2}}
    sample_rdm(SampleRDM(root=small_world.root, name="counted", run="small", **asked))
    told = [line.partition(" [")[0].strip() for line in at_once()]
    assert "sample: 0/3 image" in told and {line.split("/")[0] for line in told} >= {"sample: 3"}


def test_each_image_is_counted_once(monkeypatch):
    counted = []

    def drawn(context, seeds, how, beside, progress):
        for done in (1, 3):
            progress(done)
        counted.append((context, seeds, how, beside))
        return "images"

    run = SimpleNamespace(model=SimpleNamespace(draw=drawn))
    shown = []

    class Bar:
        n = 0

        def __init__(self, *words):
            shown.append(words)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            shown.append(self.n)

        def update(self, more):
            self.n += more

    monkeypatch.setattr("flows.model.sample.bar", Bar)
    assert draw(run, "context", [5, 6, 7], "how", "beside") == "images"
    draw(run, "context", [8, 9, 10], "how", "beside")
    assert counted == [("context", seeds, "how", "beside") for seeds in ([5, 6, 7], [8, 9, 10])]
    assert shown == [(3, "sample", "image"), 3] * 2


def test_a_training_is_told_step_by_step_with_its_loss_and_its_speed(at_once):
    records = [{"step": step, "loss": 0.5 / step, "images_per_second": 12.4} for step in (1, 2)]
    lines = [*map(launch.json.dumps, records), "something else"]
    child = SimpleNamespace(stdout=[f"{line}\n" for line in lines], wait=lambda: None)
    watched = []
    assert list(launch._follow(child, 2, watched.append)) == ["something else"]
    assert watched == records
    told = [line.strip() for line in at_once()]
    assert told[0].startswith("train: 0/2 step [") and told[-1].startswith("train: 2/2 step [")
    assert told[-1].endswith("loss 0.2500, 12 images/s")


def test_a_line_of_a_training_says_where_it_is_how_well_and_how_fast():
    record = {"step": 1350, "loss": 0.123456, "images_per_second": 56.78}
    told = "step 1,350 of 10,000 (14 %): loss 0.1235, 56.8 images a second"
    assert launch._progress(record, 10_000) == told


# In Prefect's UI


@pytest.fixture
def shown(monkeypatch):
    """What Prefect was asked to show: (what, its arguments), in a flow run."""
    asked = []
    monkeypatch.setattr(artifacts, "in_a_flow", lambda: True)
    kinds = ("create_progress", "update_progress", "create_table", "create_image", "create_link")
    for kind in kinds:

        def show(*given, kind=kind, **named):
            asked.append((kind, given, named))
            return f"{kind} {len(asked)}"

        monkeypatch.setattr(f"prefect.artifacts.{kind}_artifact", show)
    return asked


def test_a_table_is_shown_with_its_rows_and_its_title(shown):
    artifacts.show_table("Small loss", [{"step": 1}], "Training of Small")
    named = {"key": "small-loss", "description": "Training of Small"}
    assert shown == [("create_table", ([{"step": 1}],), named)]


def test_a_link_leads_to_the_file_and_names_it(shown, tmp_path):
    path = tmp_path / "report.html"
    artifacts.show_link("reports/demo", path, "the report")
    named = {"key": "reports-demo", "description": str(path)}
    assert shown == [("create_link", (f"file://{path}", "the report"), named)]


def test_a_picture_is_shown_as_data_under_the_name_of_what_it_is_of(shown, tmp_path):
    Image.fromarray(np.zeros((16, 20, 3), np.uint8)).save(tmp_path / "a.png")
    assert (
        artifacts.show_image("samples/Cats", tmp_path / "a.png", "two samples") == "create_image 1"
    )
    ((kind, (url,), named),) = shown
    assert kind == "create_image" and url.startswith("data:image/jpeg;base64,")
    assert named == {"key": "samples-cats-images", "description": "two samples"}


def test_a_training_is_one_bar_that_moves_and_at_its_end_a_table_of_its_losses(
    shown, tmp_path, monkeypatch
):
    monkeypatch.setattr(artifacts, "SECONDS_BETWEEN_UPDATES", 0.0)
    watched = artifacts.TrainingProgress("runs/cats", 4)
    records = [{"step": step, "loss": 1.0 / step} for step in (1, 3, 4)]
    for record in records:
        watched.watch(record)
    texts = [f"step {r['step']} of 4, loss {r['loss']:.4f}" for r in records]
    assert shown[0] == (
        "create_progress",
        (25.0,),
        {"key": "runs-cats-progress", "description": texts[0]},
    )
    bar = "create_progress 1"
    assert shown[1] == ("update_progress", (bar, 75.0), {"description": texts[1]})
    assert shown[2] == ("update_progress", (bar, 100.0), {"description": texts[2]})
    named = {"key": "runs-cats-loss", "description": "Training of runs/cats"}
    assert shown[3:] == [("create_table", ([*records, records[-1]],), named)]


def test_between_two_updates_a_training_is_not_shown_and_its_last_step_always_is(shown, tmp_path):
    watched = artifacts.TrainingProgress("runs/cats", 3)
    watched._told_at = artifacts.time.monotonic()
    for step in (1, 2, 3):
        watched.watch({"step": step, "loss": 1.0})
    assert [kind for kind, *_ in shown] == ["create_progress", "create_table"]
    assert shown[0][1] == (100.0,)


def test_outside_of_a_flow_run_and_where_prefect_fails_nothing_is_shown_and_nothing_ends(
    shown, tmp_path, monkeypatch
):
    said = []
    monkeypatch.setattr(artifacts, "detail", said.append)

    def away(*_, **__):
        raise ConnectionError("refused")

    monkeypatch.setattr("prefect.artifacts.create_table_artifact", away)
    artifacts.show_table("a", [], "b")
    assert said == ["not shown in Prefect: ConnectionError: refused"]
    monkeypatch.setattr(artifacts, "in_a_flow", lambda: False)
    artifacts.show_table("a", [], "b")
    artifacts.show_link("a", Path("b"), "c")
    assert artifacts.show_image("a", tmp_path / "absent.png", "c") is None
    assert shown == [] and len(said) == 1


def test_a_run_and_an_autoencoder_of_one_name_are_shown_beside_each_other(shown):
    for kind in ("runs", "autoencoders"):
        artifacts.TrainingProgress(f"{kind}/coco", 1).watch({"step": 1, "loss": 0.5})
    keys = [named["key"] for _, _, named in shown]
    wanted = ["runs-coco-progress", "runs-coco-loss"]
    assert keys == wanted + ["autoencoders-coco-progress", "autoencoders-coco-loss"]
