"""evaluation.json -> the tables of a page."""

from collections.abc import Collection, Mapping
from operator import itemgetter
from typing import Any

from flows.judge.findings import agreement_text
from flows.judge.rows import (
    CHANCE,
    COPIES_OF_TRAINING,
    JUDGED,
    OF_DATABASE,
    OF_HELD_OUT,
    OTHERS,
    SHARP,
    UNCHECKED,
    changes_of,
    factors_of,
    ordered,
    reference_of,
    value_at,
    why_not,
)
from flows.look.page import (
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

PROSE = {
    "loss": (
        "The loss that the model is trained with, on images it has never seen; lower is "
        "better. Shuffled: each image is given the neighbors of another one. Learned null: the "
        "same weights, given nothing. Changes are paired by image."
    ),
    "prompts": (
        "How often a classifier that shares nothing with the model sees in an image what its "
        "prompt names. “Return the neighbour” draws nothing and hands over the "
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
    "scores": (
        "The cosine of each text with the picture drawn for it, under a CLIP that the model was "
        "not conditioned on; higher is better. “another prompt's context” (dashed) is what "
        "pictures of something else score: only the distance to it says anything."
    ),
    "sharp": (
        "Grain is coloured speckle that is left over; edges are differences in brightness between "
        "neighboring pixels. 1.0 of the held-out images is as clean, and as sharp, as they are: "
        "more grain is speckle, fewer edges are blur. Blur lowers both, so only the two together "
        "say that a picture is clean. Images are compared at the samples' size; the database is "
        "told by random images of it. Intervals are over sampling seeds."
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
SHARP_COLUMNS = {
    "grain": "Grain", f"grain{OF_HELD_OUT}": "Grain / held-out",
    f"grain{OF_DATABASE}": "Grain / database", "edges": "Edges",
    f"edges{OF_HELD_OUT}": "Edges / held-out", f"edges{OF_DATABASE}": "Edges / database",
}  # fmt: skip


def loss_table(measured: Mapping[str, Any]) -> list[Html]:
    """Held-out loss by what the network was given."""
    means = ordered(measured, "loss", "means")
    changes, reference = changes_of(measured), reference_of(measured)
    if not means:
        return [not_measured(measured, "loss")]
    low, high = span(means.values())
    dashed = value_at(means, reference, "mean")
    rows = []
    for name, mean in means.items():
        change = percent(changes.get(name), signed=True)
        rows.append([name, estimate_text(mean), change, interval_bar(mean, low, high, dashed)])
    head = ["Given to the network", "Loss", "Change", f"{number(low, 3)} to {number(high, 3)}"]
    lost = percent(value_at(measured, "loss", "share of the gain lost when shuffled"), 0)
    caption = f"Held-out loss; change relative to {reference} (dashed)"
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
    """Prompt agreement, one row for each thing the network was given; and CLIP scores, if any."""
    prompts, scores = ordered(measured, "prompts"), scores_table(measured)
    if not prompts:
        return scores or [not_measured(measured, "prompts")]
    rows = []
    for name, row in prompts.items():
        cells: list[object] = [name]
        for factor in factors_of(measured):
            chance = value_at(prompts, CHANCE, factor, "mean")
            cells.append(agreement_text(name, row, factor))
            cells.append(interval_bar(row.get(factor), 0, 1, chance))
        rows.append(cells)
    head = ["What was given"]
    for factor in factors_of(measured):
        head += [factor.capitalize(), "0 to 100 %"]
    return [
        note(PROSE["prompts"]),
        table("Share of images that show what the prompt names", head, rows),
        *scores,
    ]


def scores_table(measured: Mapping[str, Any]) -> list[Html]:
    """The cosine of prompts and samples under a second CLIP; nothing where there is none."""
    scores = ordered(measured, "clip scores")
    if not scores:
        return []
    low, high = span(scores.values())
    beside = value_at(scores, OTHERS, "mean")
    rows = []
    for name, score in scores.items():
        rows.append([name, estimate_text(score), interval_bar(score, low, high, beside)])
    head = ["What was given", "Score", f"{number(low, 3)} to {number(high, 3)}"]
    return [note(PROSE["scores"]), table("CLIP score of another CLIP", head, rows)]


def swaps_table(measured: Mapping[str, Any]) -> list[Html]:
    """Style drawn by style of the database, and what the prompt still decides."""
    swaps = value_at(measured, "swaps")
    if not swaps:
        return [not_measured(measured, "swaps")]
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
        return [not_measured(measured, "quality")]
    return [
        note(PROSE["quality"]),
        table("Drawn for unseen images' neighbors", ["Images", *QUALITY_COLUMNS.values()], rows),
    ]


def sharp_table(measured: Mapping[str, Any]) -> list[Html]:
    """Grain and edges of each set of images, beside the held-out images' and the database's."""
    rows = []
    for name, row in ordered(measured, SHARP).items():
        rows.append([name, *(estimate_text(row.get(key), 2) for key in SHARP_COLUMNS)])
    if not rows:
        return [not_measured(measured, SHARP)]
    caption = "Grain and edges, in 8-bit levels and as shares"
    return [note(PROSE["sharp"]), table(caption, ["Images", *SHARP_COLUMNS.values()], rows)]


def left_out_notes(measured: Mapping[str, Any]) -> list[Html]:
    """Who judged, and what could not be checked: to stand near the top of a page."""
    judged = value_at(measured, JUDGED) or {}
    notes = []
    if judged:
        notes.append(note(judged_text(judged)))
    for why in value_at(measured, UNCHECKED) or ():
        text = f"Nobody knows whether the run has seen the held-out images: {why}."
        notes.append(element("p", element("strong", text)))
    return notes


def judged_text(judged: Mapping[str, Any]) -> str:
    """Who judged what, in a sentence."""
    text = (
        f"Judge: {judged['judge']}; sets of images are compared in the features of "
        f"{judged['extractor']}"
    )
    if judged.get("judge_clip"):
        text += f", samples with their texts by the CLIP {judged['judge_clip']}"
    return f"{text}. {judged['images']:,} held-out images, {judged['seeds']} sampling seeds."


def not_measured(measured: Mapping[str, Any], name: str) -> Html:
    """What stands in place of a table."""
    return note(f"This was not measured{why_not(measured, name)}.")


def copies_table(measured: Mapping[str, Any]) -> list[Html]:
    """Copy rate and its references."""
    copies = ordered(measured, "copies")
    if not copies:
        return [not_measured(measured, "copies")]
    rows = []
    for name, rate in copies.items():
        rows.append([name, percent(rate)])
    elements = [note(PROSE["copies"]), table("Copy rate", ["Images", "Rate"], rows)]
    if why := why_not(measured, COPIES_OF_TRAINING):
        elements.append(note(f"Copies of training images are not counted{why}."))
    return elements
