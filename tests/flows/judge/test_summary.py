"""What a terminal says of an evaluation: six lines, and the full table where it is asked for."""

import copy
import json
import re

import pytest
from reporting import EVALUATION, around, publish_evaluation

from flows.judge.summary import full_table, in_full, summary, told
from rdm_core.errors import RequestError


def lines_of(measured):
    text = summary(measured)
    assert text.isascii() and max(map(len, text.split("\n"))) <= 100
    return {line[:14].strip(): line[14:] for line in text.split("\n")}


def test_six_lines_say_what_was_found():
    lines = lines_of(EVALUATION)
    assert list(lines) == ["neighbors", "prompts", "swap", "pictures", "clean, sharp", "copies"]
    told = "they lower the held-out loss: -20.0 % [-21.0, -19.0] against a network without"
    assert lines["neighbors"] == told
    assert lines["prompts"].startswith("colour as asked in 90.0 % (chance 12.5 %), shape as")
    assert lines["swap"].endswith("photograph 97.0 %, sketch 96.0 %")
    assert lines["pictures"] == "Frechet distance 0.50, precision 50 %, recall 50 %"
    assert lines["clean, sharp"].startswith("grain 4.50, edges 0.80 times the unseen images'")
    assert lines["copies"].startswith("2.0 % of the samples")


def test_the_lines_change_with_the_numbers():
    measured = copy.deepcopy(EVALUATION)
    measured["loss"]["relative to trained without neighbors"]["right neighbors"] = around(0.1)
    del measured["prompts"]
    score = {"text, context query+neighbors": around(0.3), "another prompt's context": around(0.2)}
    measured |= {"clip scores": score, "copies": {"held-out neighbors": 0.5}}
    measured["quality"] |= {"random database images": {"fd": around(0.1)}}
    lines = lines_of(measured)
    assert (
        "do NOT lower" in lines["neighbors"]
        and "(random database images 0.10)" in (lines["pictures"])
    )
    assert lines["prompts"].startswith("CLIP score 0.300, of samples drawn for another text 0.200")
    assert lines["copies"].startswith("50.0 %")


def test_a_line_of_what_was_not_measured_says_why():
    left = {"left out": {"swaps": "no databases of one style are named in swaps"}}
    lines = lines_of(left)
    assert lines["swap"] == "not measured: no databases of one style are named in swaps"
    others = set(lines) - {"swap"}
    assert {lines[name] for name in others} == {"not measured"} and len(others) == 5


def test_the_full_table_is_plain_and_aligned_and_ends_with_what_is_left_out():
    text = full_table(EVALUATION | {"not checked": ["runs/x was converted"]})
    lines = text.split("\n")
    assert len(lines) <= 52 and max(map(len, lines)) <= 100 and text.isascii()
    assert (
        "  right neighbors                 0.2000 [0.1900, 0.2100]     -20.0 % [-21.0, -19.0]"
        in lines
    )
    assert (
        "  held-out neighbors              4.50 [4.49, 4.51]           0.80 [0.79, 0.81]" in lines
    )
    assert (
        "  held-out neighbors              2.25 [2.24, 2.26]           0.40 [0.39, 0.41]" in lines
    )
    assert "  learned null                    0.5000 [0.4900, 0.5100]     0.50 / 0.50" in lines
    assert any(line.startswith("  sketch") and "96.0 %" in line for line in lines)
    assert len({line.index("[") for line in lines if re.search(r"\[0\.\d{4}", line)}) == 1
    assert lines[0].startswith("run shapes@1. Judge: shapes; sets of images are compared in the")
    assert lines[-2:] == [
        "left out: clip scores: no judge_clip is named",
        "it may have been trained on the held-out images: runs/x was converted",
    ]
    assert full_table({}) == "", "no heads without rows"


def test_a_terminal_is_told_where_the_rest_is(tmp_path):
    evaluation = publish_evaluation(tmp_path)
    text, value = told(evaluation)
    assert text == f"{summary(EVALUATION)}\n\nall figures: rdm show evaluations/shapes --full"
    assert value == {"evaluation": EVALUATION}
    (evaluation.directory / "grid.png").touch()
    text, value = told(evaluation)
    assert f"\ngrid: {evaluation.file('grid.png')}\nall figures" in text
    assert value["grid"] == str(evaluation.file("grid.png"))


def test_every_figure_of_an_evaluation_is_shown_in_full(tmp_path):
    publish_evaluation(tmp_path)
    text, value = in_full(tmp_path, "evaluations/shapes")
    assert text == full_table(EVALUATION) and value == json.loads(json.dumps(EVALUATION))
    for reference in ("runs/shapes", "", "evaluations/", "study"):
        with pytest.raises(RequestError, match="rdm show evaluations/NAME --full"):
            in_full(tmp_path, reference)


def test_the_figures_of_a_study_are_shown_in_full_and_so_is_that_there_are_none(tmp_path):
    publish_evaluation(tmp_path, {"T1 gain": 0.0625, "N network": 1.5})
    text, _ = in_full(tmp_path, "evaluations/shapes")
    assert [line.split() for line in text.split("\n")] == [
        ["figures"],
        ["N", "network", "1.5000"],
        ["T1", "gain", "0.0625"],
    ]
    publish_evaluation(tmp_path, {})
    text, _ = in_full(tmp_path, "evaluations/shapes")
    assert text == "evaluations/shapes: nothing was measured"
