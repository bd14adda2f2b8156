"""evaluation.json -> sentences, which a page says first. Every sentence follows from the
intervals.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from flows.judge.rows import (
    CHANCE,
    NULL,
    OTHERS,
    RIGHT,
    TEXT,
    WITHOUT,
    changes_of,
    reference_of,
    value_at,
    why_not,
)
from flows.look.page import Html, SavedEstimate, element, estimate_text, percent


@dataclass(frozen=True)
class Finding:
    """One sentence the numbers support or contradict, and the numbers."""

    holds: bool | None
    """None: not measured."""
    headline: str
    detail: str = ""


def agreement_text(name: str, row: Mapping[str, SavedEstimate], factor: str) -> str:
    """Prompt agreement with its interval; chance has none."""
    return percent(value_at(row, factor, "mean") if name == CHANCE else row.get(factor))


def findings(measured: Mapping[str, Any]) -> list[Finding]:
    """What the page says first. Nothing here is taken for granted: each sentence follows from the
    intervals.
    """
    return [loss_finding(measured), prompts_finding(measured), swaps_finding(measured)]


def loss_finding(measured: Mapping[str, Any]) -> Finding:
    """The run with its neighbors against the network that never had any, or where there is none
    against its own null; paired by image.
    """
    reference = reference_of(measured)
    change = changes_of(measured).get(RIGHT)
    if not change:
        return Finding(None, "Whether the right neighbors lower the loss was not measured.")
    # The whole interval lies below zero: chance alone does not explain the difference.
    holds = change["high"] < 0
    headline = "The right neighbors lower the held-out loss."
    if not holds:
        failed = (
            "they raise it" if change["low"] > 0 else "the interval of the difference includes zero"
        )
        headline = f"The right neighbors do NOT lower the held-out loss: {failed}."
    right = estimate_text(value_at(measured, "loss", "means", RIGHT))
    without = estimate_text(value_at(measured, "loss", "means", reference))
    detail = f"Loss {right}; {reference} {without}; change {percent(change, signed=True)}."
    lost = value_at(measured, "loss", "share of the gain lost when shuffled")
    if holds and lost is not None:  # without a gain there is none to lose
        detail += shuffling_text(lost)
    return Finding(holds, headline, detail)


def shuffling_text(lost: float) -> str:
    """Whether a gain comes from which neighbors are given, or from being given any."""
    text = f" Giving each image another one's neighbors loses {percent(lost, 0)} of that gain"
    if lost > 1:
        return f"{text}: wrong neighbors are worse than none."
    if lost < 0.5:
        return f"{text}: most of it does NOT depend on which neighbors are given."
    return f"{text}."


def prompts_finding(measured: Mapping[str, Any]) -> Finding:
    """Text-conditioned samples against chance and against the network without neighbors, or its
    own null where there is none, by interval; by a CLIP where no classifier knows what texts name.
    """
    prompts = value_at(measured, "prompts") or {}
    beside = WITHOUT if WITHOUT in prompts else NULL
    text, without, chance = prompts.get(TEXT), prompts.get(beside), prompts.get(CHANCE)
    if not (text and without and chance):
        return scores_finding(measured)
    shown: list[str] = []
    missed: list[str] = []
    numbers = []
    for factor in text:
        # Better than both: the intervals must not overlap. Chance is exact and has no interval.
        best_without_text = max(chance[factor]["mean"], without[factor]["high"])
        (shown if text[factor]["low"] > best_without_text else missed).append(factor)
        numbers.append(
            f"{factor.capitalize()} {percent(text[factor])}; {beside} {percent(without[factor])}; "
            f"chance {percent(chance[factor]['mean'])}."
        )
    but = f", but NOT measurably the {' and '.join(missed)}" if missed else ""
    headline = f"Samples show the {' and '.join(shown)} their text names{but}."
    if not shown:
        headline = (
            "Samples do NOT show what their text names more often than chance "
            f"and than {'without neighbors' if beside == WITHOUT else 'the null'}."
        )
    return Finding(not missed, headline, " ".join(numbers))


def scores_finding(measured: Mapping[str, Any]) -> Finding:
    """Samples for captions against samples for another image's caption, under a second CLIP."""
    scores = value_at(measured, "clip scores") or {}
    own, other = scores.get(TEXT), scores.get(OTHERS)
    if not (own and other):
        why = why_not(measured, "prompts")
        return Finding(None, f"Whether samples show what a text names was not measured{why}.")
    holds = own["low"] > other["high"]
    headline = "Samples fit their text better than samples drawn for another text."
    if not holds:
        headline = "Samples do NOT measurably fit their text better than those for another text."
    detail = f"CLIP score {estimate_text(own)}; {OTHERS} {estimate_text(other)}."
    return Finding(holds, headline, detail)


def swaps_finding(measured: Mapping[str, Any]) -> Finding:
    """For each style: drawn from its own database more often than from any other one, and more
    often than not.
    """
    swaps = value_at(measured, "swaps") or {}
    if len(swaps) < 2:
        why = why_not(measured, "swaps")
        return Finding(None, f"Whether another database changes the style was not measured{why}.")
    failed, numbers = [], []
    for style, row in swaps.items():
        own, elsewhere = row["styles"][style], best_elsewhere(swaps, style)
        if not own["low"] > max(elsewhere["high"], 0.5):
            failed.append(style)
        numbers.append(
            f"{style.capitalize()} database: {percent(own)} of the samples "
            f"are of that style, against {percent(elsewhere)} with another one."
        )
    headline = "Another database changes the style, with the same weights."
    if failed:
        headline = f"Another database does NOT reliably change the style to {' or '.join(failed)}."
    return Finding(not failed, headline, " ".join(numbers))


def best_elsewhere(swaps: Mapping[str, Any], style: str) -> SavedEstimate:
    """How often a style is drawn from the database of another style, where that is most often."""
    others = [row["styles"][style] for database, row in swaps.items() if database != style]
    return max(others, key=itemgetter("mean"))


def finding_item(finding: Finding) -> Html:
    """The verdict in words as well as in colour."""
    word, mark = {
        True: ("Holds", "yes"),
        False: ("Does not hold", "no"),
        None: ("Not measured", "open"),
    }[finding.holds]
    verdict, headline = element("span", word, class_="verdict"), element("strong", finding.headline)
    return element("li", verdict, headline, element("p", finding.detail), class_=mark)
