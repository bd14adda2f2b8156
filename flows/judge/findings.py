"""evaluation.json -> sentences, tables, and a summary for a terminal. Every sentence follows from
the intervals.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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


def found(measured: Mapping[str, Any], *path: str) -> Any:
    """The value at a path of keys, or None when a key is absent."""
    value: Any = measured
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def ordered(measured: Mapping[str, Any], table_name: str, *path: str) -> dict[str, Any]:
    """The rows of one measurement, in reading order; empty when it was not made."""
    rows = found(measured, table_name, *path) or {}
    return {name: rows[name] for name in [*ROWS[table_name], *rows] if name in rows}


def agreement_text(name: str, row: Mapping[str, SavedEstimate], factor: str) -> str:
    """Prompt agreement with its interval; chance has none."""
    return percent(found(row, factor, "mean") if name == CHANCE else row.get(factor))


def findings(measured: Mapping[str, Any]) -> list[Finding]:
    """What the page says first. Nothing here is taken for granted: each sentence follows from the
    intervals.
    """
    return [loss_finding(measured), prompts_finding(measured), swaps_finding(measured)]


def loss_finding(measured: Mapping[str, Any]) -> Finding:
    """The run with its neighbors against the network that never had any, paired by image."""
    change = found(measured, "loss", f"relative to {WITHOUT}", RIGHT)
    if not change:
        return Finding(None, "Whether the right neighbors lower the loss was not measured.")
    holds = change["high"] < 0
    headline = "The right neighbors lower the held-out loss."
    if not holds:
        failed = (
            "they raise it" if change["low"] > 0 else "the interval of the difference includes zero"
        )
        headline = f"The right neighbors do NOT lower the held-out loss: {failed}."
    right, without = (
        estimate_text(found(measured, "loss", "means", name)) for name in (RIGHT, WITHOUT)
    )
    lost = found(measured, "loss", "share of the gain lost when shuffled")
    shuffling = shuffling_text(lost) if holds and lost is not None else ""
    return Finding(
        holds,
        headline,
        f"Loss {right}; {WITHOUT} {without}; change {percent(change, signed=True)}.{shuffling}",
    )


def shuffling_text(lost: float) -> str:
    """Whether a gain comes from which neighbors are given, or from being given any."""
    text = f" Giving each image another one's neighbors loses {percent(lost, 0)} of that gain"
    if lost > 1:
        return f"{text}: wrong neighbors are worse than none."
    return (
        f"{text}: most of it does NOT depend on which neighbors are given."
        if lost < 0.5
        else f"{text}."
    )


def prompts_finding(measured: Mapping[str, Any]) -> Finding:
    """Text-conditioned samples against chance and against the network without neighbors, by
    interval.
    """
    rows = [found(measured, "prompts", name) for name in (TEXT, WITHOUT, CHANCE)]
    if not all(rows):
        return Finding(
            None, "Whether samples show the colour and shape a text names was not measured."
        )
    text, without, chance = rows
    works = {
        factor: text[factor]["low"] > max(chance[factor]["mean"], without[factor]["high"])
        for factor in text
    }
    shown, missed = (" and ".join(f for f in works if works[f] is flag) for flag in (True, False))
    but = f", but NOT measurably the {missed}" if missed else ""
    headline = f"Samples show the {shown} their text names{but}."
    if not shown:
        headline = (
            "Samples do NOT show what their text names more often than chance "
            "and than without neighbors."
        )
    numbers = [
        f"{factor.capitalize()} {percent(text[factor])}; {WITHOUT} {percent(without[factor])}; "
        f"chance {percent(chance[factor]['mean'])}."
        for factor in text
    ]
    return Finding(not missed, headline, " ".join(numbers))


def swaps_finding(measured: Mapping[str, Any]) -> Finding:
    """For each style: drawn from its own database more often than from any other one, and more
    often than not.
    """
    shares = {style: row["styles"] for style, row in (found(measured, "swaps") or {}).items()}
    if len(shares) < 2:
        return Finding(None, "Whether another database changes the style was not measured.")
    elsewhere = {
        style: [row[style] for other, row in shares.items() if other != style] for style in shares
    }
    best = {
        style: max(estimates, key=lambda estimate: estimate["mean"])
        for style, estimates in elsewhere.items()
    }
    failed = [
        style
        for style, row in shares.items()
        if not row[style]["low"] > max(best[style]["high"], 0.5)
    ]
    headline = "Another database changes the style, with the same weights."
    if failed:
        headline = f"Another database does NOT reliably change the style to {' or '.join(failed)}."
    numbers = [
        f"{style.capitalize()} database: {percent(shares[style][style])} of the samples "
        f"are of that style, against {percent(best[style])} with another one."
        for style in shares
    ]
    return Finding(not failed, headline, " ".join(numbers))


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
    means, changes = (
        ordered(measured, "loss", "means"),
        found(measured, "loss", f"relative to {WITHOUT}") or {},
    )
    if not means:
        return [NOT_MEASURED]
    low, high = span(means.values())
    reference = found(means, WITHOUT, "mean")
    rows = [
        [
            name,
            estimate_text(mean),
            percent(changes.get(name), signed=True),
            interval_bar(mean, low, high, reference),
        ]
        for name, mean in means.items()
    ]
    head = ["Given to the network", "Loss", "Change", f"{number(low, 3)} to {number(high, 3)}"]
    lost = percent(found(measured, "loss", "share of the gain lost when shuffled"), 0)
    caption = f"Held-out loss; change relative to {WITHOUT} (dashed)"
    return [
        note(PROSE["loss"]),
        table(caption, head, rows),
        element("p", f"Share of the gain lost when shuffled: {lost}."),
    ]


def span(estimates: Iterable[SavedEstimate]) -> tuple[float, float]:
    """A scale that holds every interval, with a margin."""
    listed = list(estimates)
    low, high = min(e["low"] for e in listed), max(e["high"] for e in listed)
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def prompts_table(measured: Mapping[str, Any]) -> list[Html]:
    """Prompt agreement, one row for each thing the network was given."""
    prompts = ordered(measured, "prompts")
    if not prompts:
        return [NOT_MEASURED]

    def cells(name: str, factor: str) -> list[object]:
        row, chance = prompts[name], found(prompts, CHANCE, factor, "mean")
        return [agreement_text(name, row, factor), interval_bar(row.get(factor), 0, 1, chance)]

    rows = [[name, *cells(name, "colour"), *cells(name, "shape")] for name in prompts]
    head = ["What was given", "Colour", "0 to 100 %", "Shape", "0 to 100 %"]
    return [
        note(PROSE["prompts"]),
        table("Share of images that show what the prompt names", head, rows),
    ]


def swaps_table(measured: Mapping[str, Any]) -> list[Html]:
    """Style drawn by style of the database, and what the prompt still decides."""
    swaps = found(measured, "swaps")
    if not swaps:
        return [NOT_MEASURED]
    styles = list(next(iter(swaps.values()))["styles"])
    rows = [
        [
            style,
            *(percent(row["styles"].get(other)) for other in styles),
            percent(row.get("colour")),
            percent(row.get("shape")),
        ]
        for style, row in swaps.items()
    ]
    head = [
        "Database",
        *(f"Drawn as {style}" for style in styles),
        "Colour as asked",
        "Shape as asked",
    ]
    return [
        note(PROSE["swaps"]),
        table("Share of samples, by the style of the database", head, rows),
    ]


def quality_table(measured: Mapping[str, Any]) -> list[Html]:
    """Distances, fidelity and diversity of sets of images, one row for each way they came about."""
    rows = [
        [name, *(estimate_text(row.get(measure)) for measure in QUALITY_COLUMNS)]
        for name, row in ordered(measured, "quality").items()
    ]
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
    rows = [[name, percent(rate)] for name, rate in copies.items()]
    return [note(PROSE["copies"]), table("Copy rate", ["Images", "Rate"], rows)]


def summary(evaluation: Mapping[str, Any]) -> str:
    """The evaluation as a short plain table for a terminal."""
    lines = [f"{'held-out loss':<34}{'mean [95 % interval]':<28}change"]
    changes = found(evaluation, "loss", f"relative to {WITHOUT}") or {}
    for name, mean in ordered(evaluation, "loss", "means").items():
        lines.append(
            f"  {name:<32}{estimate_text(mean):<28}{percent(changes.get(name), signed=True)}"
        )
    lines.append(f"{'prompt agreement':<34}{'colour':<28}shape")
    for name, row in ordered(evaluation, "prompts").items():
        colour, shape = (agreement_text(name, row, factor) for factor in ("colour", "shape"))
        lines.append(f"  {name:<32}{colour:<28}{shape}")
    lines.append(f"{'database swap':<34}share drawn in its style")
    for style, row in (found(evaluation, "swaps") or {}).items():
        lines.append(f"  {style:<32}{percent(row['styles'].get(style))}")
    if scores := found(evaluation, "clip scores"):
        lines.append("CLIP score of another CLIP")
        lines += [f"  {name:<32}{estimate_text(score)}" for name, score in scores.items()]
    lines.append(f"{'drawn for held-out neighbors':<34}{'Frechet distance':<28}precision / recall")
    for name, row in ordered(evaluation, "quality").items():
        both = " / ".join(
            percent(found(row, measure, "mean")) for measure in ("precision", "recall")
        )
        lines.append(f"  {name:<32}{estimate_text(row.get('fd')):<28}{both}")
    lines.append("copy rate")
    lines += [
        f"  {name:<32}{percent(rate)}" for name, rate in ordered(evaluation, "copies").items()
    ]
    return "\n".join(line.rstrip() for line in lines).replace("−", "-").replace(ABSENT, "-")
