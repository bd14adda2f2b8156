"""evaluation.json -> sentences, tables, and a summary for a terminal. Every sentence follows from
the intervals.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from flows.look.page import (
    ABSENT,
    Html,
    SavedEstimate,
    element,
    estimate_text,
    interval_bar,
    note,
    number,
    percent,
    table,
)

RIGHT, WITHOUT = "right neighbors", "trained without neighbors"
TEXT, CHANCE = "text, context query+neighbors", "chance"
ROWS = {
    "loss": (RIGHT, "shuffled neighbors", "learned null", WITHOUT),
    "prompts": (
        "text, context query", TEXT, "text, context neighbors", "another prompt's context",
        "learned null", WITHOUT, "return the neighbour", CHANCE,
    ),
    "quality": (
        "held-out neighbors", "held-out neighbors, guided", "learned null", WITHOUT,
        "return the neighbour", "random database images",
    ),
    "copies": ("samples", "return the neighbour", "held-out images, by definition"),
}  # fmt: skip
"""The order of rows: evaluation.json is sorted by name. What is not listed comes last."""
PROSE = {
    "loss": (
        "The loss that the model is trained with, on images it has never seen; lower is "
        "better. Shuffled: each image is given the neighbors of another one. Learned null: the "
        "same weights, given nothing. Changes are paired by image."
    ),
    "prompts": (
        "How often a classifier that shares nothing with the model sees in an image the colour "
        "and the shape its prompt names. “Return the neighbour” draws nothing and hands over the "
        "nearest database image: what retrieval alone achieves. The dashed mark is chance."
    ),
    "swaps": (
        "The same weights and the same prompts, which name no style, with databases that hold one "
        "style each. The style drawn should be the database's, and the colour and shape should "
        "still be the prompt's."
    ),
    "quality": (
        "Sets of images drawn for the neighbors of unseen images, compared with those unseen "
        "images in the features of a network that the model was not conditioned on. Distances: "
        "lower is better. Precision: do samples look real; recall: is everything real reached. "
        "The last rows draw nothing. Intervals are over sampling seeds."
    ),
    "copies": (
        "The share of samples that lie nearer to a training or database image than 1 % of unseen "
        "images do: about 1 % is what chance gives, more means that the model repeats what it was "
        "shown. These are shares without an interval."
    ),
}
QUALITY_COLUMNS = {
    "fd": "Fréchet", "kid": "KID", "precision": "Precision", "recall": "Recall",
    "density": "Density", "coverage": "Coverage", "copy_rate": "Copy rate",
}  # fmt: skip
NOT_MEASURED = note("This was not measured.")


@dataclass(frozen=True)
class Finding:
    """One sentence the numbers support or contradict, and the numbers."""

    holds: bool | None
    """None: not measured."""
    headline: str
    detail: str = ""


def value_at(measured: Mapping[str, Any], *path: str) -> Any:
    """The value at a path of keys, or None when a key is absent."""
    value: Any = measured
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def ordered(measured: Mapping[str, Any], table_name: str, *path: str) -> dict[str, Any]:
    """The rows of one measurement, in reading order; empty when it was not made."""
    rows = value_at(measured, table_name, *path) or {}
    in_order = {}
    for name in [*ROWS[table_name], *rows]:
        if name in rows:
            in_order[name] = rows[name]
    return in_order


def agreement_text(name: str, row: Mapping[str, SavedEstimate], factor: str) -> str:
    """Prompt agreement with its interval; chance has none."""
    return percent(value_at(row, factor, "mean") if name == CHANCE else row.get(factor))


def findings(measured: Mapping[str, Any]) -> list[Finding]:
    """What the page says first. Nothing here is taken for granted: each sentence follows from the
    intervals.
    """
    return [loss_finding(measured), prompts_finding(measured), swaps_finding(measured)]


def loss_finding(measured: Mapping[str, Any]) -> Finding:
    """The run with its neighbors against the network that never had any, paired by image."""
    change = value_at(measured, "loss", f"relative to {WITHOUT}", RIGHT)
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
    without = estimate_text(value_at(measured, "loss", "means", WITHOUT))
    detail = f"Loss {right}; {WITHOUT} {without}; change {percent(change, signed=True)}."
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
    """Text-conditioned samples against chance and against the network without neighbors, by
    interval.
    """
    prompts = value_at(measured, "prompts") or {}
    text, without, chance = prompts.get(TEXT), prompts.get(WITHOUT), prompts.get(CHANCE)
    if not (text and without and chance):
        return Finding(
            None, "Whether samples show the colour and shape a text names was not measured."
        )
    shown: list[str] = []
    missed: list[str] = []
    numbers = []
    for factor in text:
        # Better than both: the intervals must not overlap. Chance is exact and has no interval.
        best_without_text = max(chance[factor]["mean"], without[factor]["high"])
        (shown if text[factor]["low"] > best_without_text else missed).append(factor)
        numbers.append(
            f"{factor.capitalize()} {percent(text[factor])}; {WITHOUT} {percent(without[factor])}; "
            f"chance {percent(chance[factor]['mean'])}."
        )
    but = f", but NOT measurably the {' and '.join(missed)}" if missed else ""
    headline = f"Samples show the {' and '.join(shown)} their text names{but}."
    if not shown:
        headline = (
            "Samples do NOT show what their text names more often than chance "
            "and than without neighbors."
        )
    return Finding(not missed, headline, " ".join(numbers))


def swaps_finding(measured: Mapping[str, Any]) -> Finding:
    """For each style: drawn from its own database more often than from any other one, and more
    often than not.
    """
    swaps = value_at(measured, "swaps") or {}
    if len(swaps) < 2:
        return Finding(None, "Whether another database changes the style was not measured.")
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


def loss_table(measured: Mapping[str, Any]) -> list[Html]:
    """Held-out loss by what the network was given."""
    means = ordered(measured, "loss", "means")
    changes = value_at(measured, "loss", f"relative to {WITHOUT}") or {}
    if not means:
        return [NOT_MEASURED]
    low, high = span(means.values())
    reference = value_at(means, WITHOUT, "mean")
    rows = []
    for name, mean in means.items():
        change = percent(changes.get(name), signed=True)
        rows.append([name, estimate_text(mean), change, interval_bar(mean, low, high, reference)])
    head = ["Given to the network", "Loss", "Change", f"{number(low, 3)} to {number(high, 3)}"]
    lost = percent(value_at(measured, "loss", "share of the gain lost when shuffled"), 0)
    caption = f"Held-out loss; change relative to {WITHOUT} (dashed)"
    return [
        note(PROSE["loss"]),
        table(caption, head, rows),
        element("p", f"Share of the gain lost when shuffled: {lost}."),
    ]


def span(estimates: Collection[SavedEstimate]) -> tuple[float, float]:
    """A scale that holds every interval, with a margin of 5 % on both sides."""
    low = min(estimates, key=itemgetter("low"))["low"]
    high = max(estimates, key=itemgetter("high"))["high"]
    margin = 0.05 * (high - low)
    return low - margin, high + margin


def prompts_table(measured: Mapping[str, Any]) -> list[Html]:
    """Prompt agreement, one row for each thing the network was given."""
    prompts = ordered(measured, "prompts")
    if not prompts:
        return [NOT_MEASURED]
    rows = []
    for name, row in prompts.items():
        cells: list[object] = [name]
        for factor in ("colour", "shape"):
            chance = value_at(prompts, CHANCE, factor, "mean")
            cells.append(agreement_text(name, row, factor))
            cells.append(interval_bar(row.get(factor), 0, 1, chance))
        rows.append(cells)
    head = ["What was given", "Colour", "0 to 100 %", "Shape", "0 to 100 %"]
    return [
        note(PROSE["prompts"]),
        table("Share of images that show what the prompt names", head, rows),
    ]


def swaps_table(measured: Mapping[str, Any]) -> list[Html]:
    """Style drawn by style of the database, and what the prompt still decides."""
    swaps = value_at(measured, "swaps")
    if not swaps:
        return [NOT_MEASURED]
    # Every row tells of the same styles, those that no database holds among them.
    styles = list(next(iter(swaps.values()))["styles"])
    head = ["Database"]
    for style in styles:
        head.append(f"Drawn as {style}")
    head += ["Colour as asked", "Shape as asked"]
    rows = []
    for database, row in swaps.items():
        shares = [percent(row["styles"].get(style)) for style in styles]
        rows.append([database, *shares, percent(row.get("colour")), percent(row.get("shape"))])
    return [
        note(PROSE["swaps"]),
        table("Share of samples, by the style of the database", head, rows),
    ]


def quality_table(measured: Mapping[str, Any]) -> list[Html]:
    """Distances, fidelity and diversity of sets of images, one row for each way they came about."""
    rows = []
    for name, row in ordered(measured, "quality").items():
        rows.append([name, *(estimate_text(row.get(measure)) for measure in QUALITY_COLUMNS)])
    if not rows:
        return [NOT_MEASURED]
    return [
        note(PROSE["quality"]),
        table("Drawn for unseen images' neighbors", ["Images", *QUALITY_COLUMNS.values()], rows),
    ]


def copies_table(measured: Mapping[str, Any]) -> list[Html]:
    """Copy rate and its references."""
    copies = ordered(measured, "copies")
    if not copies:
        return [NOT_MEASURED]
    rows = []
    for name, rate in copies.items():
        rows.append([name, percent(rate)])
    return [note(PROSE["copies"]), table("Copy rate", ["Images", "Rate"], rows)]


def summary(evaluation: Mapping[str, Any]) -> str:
    """The evaluation as a short plain table for a terminal."""
    lines = [summary_line("held-out loss", "mean [95 % interval]", "change")]
    changes = value_at(evaluation, "loss", f"relative to {WITHOUT}") or {}
    for name, mean in ordered(evaluation, "loss", "means").items():
        change = percent(changes.get(name), signed=True)
        lines.append(summary_line(f"  {name}", estimate_text(mean), change))

    lines.append(summary_line("prompt agreement", "colour", "shape"))
    for name, row in ordered(evaluation, "prompts").items():
        colour, shape = agreement_text(name, row, "colour"), agreement_text(name, row, "shape")
        lines.append(summary_line(f"  {name}", colour, shape))

    lines.append(summary_line("database swap", "share drawn in its style"))
    for style, row in (value_at(evaluation, "swaps") or {}).items():
        lines.append(summary_line(f"  {style}", percent(row["styles"].get(style))))

    scores = value_at(evaluation, "clip scores")
    if scores:
        lines.append("CLIP score of another CLIP")
        for name, score in scores.items():
            lines.append(summary_line(f"  {name}", estimate_text(score)))

    lines.append(
        summary_line("drawn for held-out neighbors", "Frechet distance", "precision / recall")
    )
    for name, row in ordered(evaluation, "quality").items():
        precision = percent(value_at(row, "precision", "mean"))
        recall = percent(value_at(row, "recall", "mean"))
        distance = estimate_text(row.get("fd"))
        lines.append(summary_line(f"  {name}", distance, f"{precision} / {recall}"))

    lines.append("copy rate")
    for name, rate in ordered(evaluation, "copies").items():
        lines.append(summary_line(f"  {name}", percent(rate)))
    # Plain letters, for terminals that have no others.
    return "\n".join(lines).replace("−", "-").replace(ABSENT, "-")


def summary_line(name: str, first: str, second: str = "") -> str:
    """A line of the summary: a name and one or two columns."""
    return f"{name:<34}{first:<28}{second}".rstrip()
