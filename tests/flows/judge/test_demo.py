"""The demo in small: every stage, a page, and nothing to do the second time."""

import json

import pytest

from flows.config.judge import Demo
from flows.judge.demo import demo, evaluation_of
from flows.judge.evaluate import CARD_FILE, SHEET_FILE, evaluate_rdm, evaluation_plan
from flows.judge.rows import ORDER, SHARP, WITHOUT
from flows.judge.summary import EVALUATION_FILE, full_table
from storage.errors import ArtifactMismatch, ArtifactMissing


def test_the_demo_ends_with_a_report_and_does_nothing_the_second_time(small_demo, capfd):
    evaluation, report = small_demo.made
    measured = json.loads(evaluation.file(EVALUATION_FILE).read_text())
    # The demo has no network without neighbors to compare with; the page's rows are these.
    for table, rows in (("prompts", measured["prompts"]), ("loss", measured["loss"]["means"])):
        assert set(rows) == set(ORDER[table]) - {WITHOUT}, table
    of_prompts = {"samples", "return the neighbour", "held-out images, by definition"}
    assert set(measured["copies"]) == of_prompts
    assert set(measured["quality"]) == set(ORDER["quality"]) - {WITHOUT}
    assert set(measured[SHARP]) == set(ORDER[SHARP]) - {WITHOUT}
    held = measured[SHARP]["held-out images"]
    assert held["grain / held-out"]["mean"] == held["edges / held-out"]["mean"] == 1.0
    near = measured[SHARP]["random database images"]["edges / held-out"]["mean"]
    assert 0.5 < near < 2, "drawn in the same way"
    judged = measured["judged"]
    assert (judged["judge"], judged["extractor"]) == ("shapes", "oracle")
    assert set(measured["left out"]) == {"clip scores", WITHOUT} and measured["not checked"] == []
    assert evaluation.file(SHEET_FILE).is_file()
    assert measured["prompts"]["return the neighbour"]["colour"]["mean"] > 0.8, (
        "retrieval by text works"
    )
    assert measured["copies"]["return the neighbour"] == 1.0, "a returned image is a copy"
    assert measured["quality"]["return the neighbour"]["copy_rate"]["mean"] == 1.0
    assert (
        measured["quality"]["random database images"]["fd"]["mean"]
        < measured["quality"]["learned null"]["fd"]["mean"]
    )
    card = evaluation.file(CARD_FILE).read_text()
    assert "return the neighbour" in full_table(measured) and card.endswith(
        f"## Measured\n\n```text\n{full_table(measured)}\n```\n"
    )
    assert "licence of a database image" in card, "it is the run's model card"
    assert "was not measured" not in report.file("report.html").read_text()
    capfd.readouterr()
    again = demo(small_demo.config)
    said = capfd.readouterr().err
    assert " built " not in said and said.count(" kept ") >= 24
    assert [artifact.fingerprint for artifact in again] == [
        evaluation.fingerprint,
        report.fingerprint,
    ]


@pytest.mark.long
def test_a_clip_other_than_the_conditioner_scores_the_prompts_and_the_conditioner_may_not(
    small_demo,
):
    quick = {"name": "judged", "seeds": 1, "draw": {"steps": 2}, "quality_images": 11}
    config = evaluation_of(small_demo.config).model_copy(
        update=quick | {"judge_clip": "rdm-shapes:random"}
    )
    measured = json.loads(evaluate_rdm(config).file(EVALUATION_FILE).read_text())
    assert set(measured["clip scores"]) == set(ORDER["prompts"]) - {"chance", WITHOUT}
    assert all(-1 <= score["mean"] <= 1 for score in measured["clip scores"].values())
    assert "CLIP score of another CLIP" in full_table(measured)
    with pytest.raises(ArtifactMismatch, match="it is the encoder the run was conditioned on"):
        evaluate_rdm(config.model_copy(update={"name": "own", "judge_clip": "rdm-shapes:built-in"}))
    with pytest.raises(ArtifactMismatch, match="it is the encoder the run was conditioned on"):
        evaluate_rdm(
            config.model_copy(update={"name": "own", "extractor": "clip:rdm-shapes:built-in"})
        )


def test_an_evaluation_of_what_is_not_there_says_what_makes_it(tmp_path):
    with pytest.raises(
        ArtifactMissing, match="no artifact runs/shapes.*`rdm demo` makes everything"
    ):
        evaluation_plan(evaluation_of(Demo(root=tmp_path)))
