"""The sentences that a report begins with: each follows from the numbers."""

import copy

import pytest
from reporting import (
    EVALUATION,
    around,
)

from flows.judge import findings


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


def without_a_twin():
    """The same evaluation without a network that never had neighbors."""
    measured = copy.deepcopy(EVALUATION)
    loss = measured["loss"]
    del loss["means"]["trained without neighbors"]
    del loss["relative to trained without neighbors"]
    loss["relative to learned null"] = {"right neighbors": around(-0.23)}
    del measured["prompts"]["trained without neighbors"]
    return measured


def test_without_a_twin_the_null_is_what_is_compared_with_and_named():
    loss, prompts, _ = findings.findings(without_a_twin())
    assert loss.holds and "learned null 0.2600" in loss.detail and "−23.0 %" in loss.detail
    assert prompts.holds and "Colour 90.0 % [89.0, 91.0]; learned null 12.5 %" in prompts.detail
    assert "trained without" not in loss.detail + prompts.detail
    weak = without_a_twin()
    weak["prompts"]["learned null"] = {"colour": around(0.99), "shape": around(0.99)}
    assert "than the null" in findings.findings(weak)[1].headline


@pytest.mark.parametrize(("own", "holds"), [(0.3, True), (0.21, False)])
def test_captions_are_judged_by_the_second_clip(own, holds):
    scores = {"text, context query+neighbors": around(own), "another prompt's context": around(0.2)}
    finding = findings.findings({"clip scores": scores})[1]
    assert finding.holds is holds and ("NOT" in finding.headline) is not holds
    assert "another prompt's context 0.2000" in finding.detail


def test_what_was_not_measured_says_why():
    left = {"left out": {"swaps": "no databases are named", "prompts": "there are no prompts"}}
    _, prompts, swaps = findings.findings(left)
    assert prompts.headline.endswith("was not measured: there are no prompts.")
    assert swaps.headline.endswith("was not measured: no databases are named.")
