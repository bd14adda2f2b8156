"""The demo in small: every stage, a page, and nothing to do the second time."""

import json

from flows.config import Demo
from flows.demo import demo
from flows.evaluate import EVALUATION_FILE
from flows.findings import ROWS, summary


def test_the_demo_ends_with_a_report_and_does_nothing_the_second_time(tmp_path, capfd):
    small = Demo(root=tmp_path, scale=0.02, steps=4)
    evaluation, report = demo(small)
    measured = json.loads(evaluation.file(EVALUATION_FILE).read_text())
    assert set(measured["prompts"]) == set(ROWS["prompts"]), "the page's rows are the evaluation's"
    assert set(measured["loss"]["means"]) == set(ROWS["loss"]) and set(measured["copies"]) == set(ROWS["copies"])
    assert measured["prompts"]["return the neighbour"]["colour"]["mean"] > 0.8, "retrieval by text works"
    assert measured["copies"]["return the neighbour"] == 1.0, "a returned image is a copy"
    assert "return the neighbour" in summary(measured)
    assert "was not measured" not in report.file("report.html").read_text()
    capfd.readouterr()
    again = demo(small)
    said = capfd.readouterr().err
    assert " built " not in said and said.count(" kept ") >= 25
    assert [artifact.fingerprint for artifact in again] == [evaluation.fingerprint, report.fingerprint]
