"""evaluation.json as text: six lines that a person understands, and the full table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from flows.judge.findings import agreement_text
from flows.judge.rows import (
    CHANCE,
    HELD_OUT,
    JUDGED,
    LEFT_OUT,
    NULL,
    OF_DATABASE,
    OF_HELD_OUT,
    OTHERS,
    RANDOM,
    RIGHT,
    SAMPLES,
    SHARP,
    TEXT,
    UNCHECKED,
    changes_of,
    factors_of,
    ordered,
    reference_of,
    value_at,
    why_not,
)
from flows.judge.tables import judged_text
from flows.look.page import ABSENT, estimate_text, number, percent
from rdm_core.errors import RequestError
from storage.artifact import Artifact, open_artifact

EVALUATION_FILE = "evaluation.json"
SHEET_FILE = "grid.png"


def measured_in(evaluation: Artifact) -> dict[str, Any]:
    """The numbers of an evaluation."""
    measured: dict[str, Any] = json.loads(evaluation.file(EVALUATION_FILE).read_bytes())
    return measured


def told(evaluation: Artifact) -> tuple[str, dict[str, Any]]:
    """What a terminal says of an evaluation: six lines and where the rest is; the same for a
    machine.
    """
    measured, sheet = measured_in(evaluation), evaluation.file(SHEET_FILE)
    value: dict[str, Any] = {"evaluation": measured}
    lines = [summary(measured), ""]
    if sheet.is_file():
        value["grid"] = str(sheet)
        lines.append(f"grid: {sheet}")
    lines.append(f"all figures: rdm show evaluations/{evaluation.name} --full")
    return "\n".join(lines), value


def in_full(root: Path, reference: str) -> tuple[str, dict[str, Any]]:
    """Every figure of an evaluation, as a table. Raises RequestError for another kind of
    artifact.
    """
    kind, _, name = reference.partition("/")
    if kind != "evaluations" or not name:
        cure = "rdm show evaluations/NAME --full; of other kinds rdm show tells all there is."
        raise RequestError(reference or "--full", "only an evaluation has a full table", cure)
    measured = measured_in(open_artifact(root, kind, name))
    return full_table(measured) or f"{reference}: nothing was measured", measured


def summary(measured: Mapping[str, Any]) -> str:
    """Six lines: what each measurement says, in words and its most telling numbers."""
    lines = {
        "neighbors": _neighbors(measured),
        "prompts": _prompts(measured),
        "swap": _swaps(measured),
        "pictures": _pictures(measured),
        "clean, sharp": _sharp(measured),
        "copies": _copies(measured),
    }
    return _plain("\n".join(f"{name:<14}{text}" for name, text in lines.items()))


def _neighbors(measured: Mapping[str, Any]) -> str:
    change = changes_of(measured).get(RIGHT)
    if not change:
        return f"not measured{why_not(measured, 'loss')}"
    lower = "lower" if change["high"] < 0 else "do NOT lower"
    beside = "the learned null" if reference_of(measured) == NULL else "a network without"
    return f"they {lower} the held-out loss: {percent(change, signed=True)} against {beside}"


def _prompts(measured: Mapping[str, Any]) -> str:
    prompts, scores = value_at(measured, "prompts"), value_at(measured, "clip scores")
    if prompts and TEXT in prompts:
        shown = []
        for factor in prompts[TEXT]:
            chance = percent(value_at(prompts, CHANCE, factor, "mean"))
            share = percent(prompts[TEXT][factor]["mean"])
            shown.append(f"{factor} as asked in {share} (chance {chance})")
        return ", ".join(shown)
    if scores and TEXT in scores:
        own, other = number(scores[TEXT]["mean"], 3), number(scores[OTHERS]["mean"], 3)
        return f"CLIP score {own}, of samples drawn for another text {other} (higher is better)"
    return f"not measured{why_not(measured, 'prompts')}"


def _swaps(measured: Mapping[str, Any]) -> str:
    swaps = value_at(measured, "swaps") or {}
    shares = []
    for style, row in swaps.items():
        shares.append(f"{style} {percent(value_at(row, 'styles', style, 'mean'))}")
    if not shares:
        return f"not measured{why_not(measured, 'swaps')}"
    return f"samples take the database's style: {', '.join(shares)}"


def _pictures(measured: Mapping[str, Any]) -> str:
    row, random = value_at(measured, "quality", HELD_OUT), value_at(measured, "quality", RANDOM)
    if not row:
        return f"not measured{why_not(measured, 'quality')}"
    text = f"Frechet distance {number(row['fd']['mean'], 2)}"
    if random:
        text += f" (random database images {number(random['fd']['mean'], 2)})"
    precision, recall = percent(row["precision"]["mean"], 0), percent(row["recall"]["mean"], 0)
    return f"{text}, precision {precision}, recall {recall}"


def _sharp(measured: Mapping[str, Any]) -> str:
    row = value_at(measured, SHARP, HELD_OUT)
    if not row:
        return f"not measured{why_not(measured, SHARP)}"
    grain = number(value_at(row, f"grain{OF_HELD_OUT}", "mean"), 2)
    edges = number(value_at(row, f"edges{OF_HELD_OUT}", "mean"), 2)
    return f"grain {grain}, edges {edges} times the unseen images' (1: as clean, as sharp)"


def _copies(measured: Mapping[str, Any]) -> str:
    copies = value_at(measured, "copies") or {}
    for name in (SAMPLES, HELD_OUT):
        if name in copies:
            share = percent(copies[name])
            return f"{share} of the samples lie as near to a known image as 1 % of unseen ones do"
    return f"not measured{why_not(measured, 'copies')}"


def full_table(measured: Mapping[str, Any]) -> str:
    """Every table of an evaluation, as plain text; the figures of a study's."""
    lines, changes = _about(measured) + _figures(measured), changes_of(measured)
    rows = []
    for name, mean in ordered(measured, "loss", "means").items():
        rows.append((name, estimate_text(mean), percent(changes.get(name), signed=True)))
    lines += _block("held-out loss", "mean [95 % interval]", "change", rows)

    lines += _lines_of_prompts(measured)

    rows = []
    for style, row in (value_at(measured, "swaps") or {}).items():
        rows.append((style, percent(row["styles"].get(style)), ""))
    lines += _block("database swap", "share drawn in its style", "", rows)

    rows = []
    for name, score in ordered(measured, "clip scores").items():
        rows.append((name, estimate_text(score), ""))
    lines += _block("CLIP score of another CLIP", "", "", rows)
    return _plain("\n".join([*lines, *_lines_of_sets(measured), *_why(measured)]))


def _lines_of_prompts(measured: Mapping[str, Any]) -> list[str]:
    """Prompt agreement, two factors a table."""
    factors, lines = factors_of(measured), []
    for start in range(0, len(factors), 2):
        shown, rows = factors[start : start + 2], []
        for name, row in ordered(measured, "prompts").items():
            texts = [agreement_text(name, row, factor) for factor in shown]
            rows.append((name, texts[0], "".join(texts[1:])))
        title = "the same" if start else "prompt agreement"
        lines += _block(title, shown[0], "".join(shown[1:]), rows)
    return lines


def _about(measured: Mapping[str, Any]) -> list[str]:
    judged = value_at(measured, JUDGED)
    return wrap(f"run {judged['run']}. {judged_text(judged)}", 100) if judged else []


def _figures(measured: Mapping[str, Any]) -> list[str]:
    """The numbers that belong to no table: `make study` keeps its figures so."""
    rows = []
    for name, value in measured.items():
        if isinstance(value, int | float):
            rows.append((name, number(value, 4), ""))
    return _block("figures", "", "", rows)


def _lines_of_sets(measured: Mapping[str, Any]) -> list[str]:
    """The tables of sets of images: distances, grain and edges, copies."""
    rows = []
    for name, row in ordered(measured, "quality").items():
        precision = percent(value_at(row, "precision", "mean"))
        recall = percent(value_at(row, "recall", "mean"))
        rows.append((name, estimate_text(row.get("fd")), f"{precision} / {recall}"))
    head = ("drawn for held-out neighbors", "Frechet distance", "precision / recall")
    lines = _block(*head, rows)

    rows = []
    for name, row in ordered(measured, "quality").items():
        density, coverage = (number(value_at(row, of, "mean"), 2) for of in ("density", "coverage"))
        rows.append((name, estimate_text(row.get("kid")), f"{density} / {coverage}"))
    lines += _block("the same", "KID", "density / coverage", rows)

    for whose, ending in {"held-out images'": OF_HELD_OUT, "database's": OF_DATABASE}.items():
        rows = []
        for name, row in ordered(measured, SHARP).items():
            if f"edges{ending}" in row:
                grain, edges = row.get(f"grain{ending}"), row[f"edges{ending}"]
                rows.append((name, estimate_text(grain, 2), estimate_text(edges, 2)))
        head = (f"times the {whose}", "grain (1: as clean)", "edges (1: as sharp)")
        lines += _block(*head, rows)

    rates = [(name, percent(rate), "") for name, rate in ordered(measured, "copies").items()]
    return lines + _block("copy rate", "", "", rates)


def _why(measured: Mapping[str, Any]) -> list[str]:
    """What is left out and what could not be checked, each with its reason."""
    lines = []
    for name, why in sorted((value_at(measured, LEFT_OUT) or {}).items()):
        lines.append(f"left out: {name}: {why}")
    for why in value_at(measured, UNCHECKED) or ():
        lines.append(f"it may have been trained on the held-out images: {why}")
    return lines


def _block(name: str, first: str, second: str, rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """A table with its head, as lines; none where it has no rows."""
    lines = []
    for cells in ((name, first, second), *((f"  {row[0]}", *row[1:]) for row in rows)):
        lines.append(f"{cells[0]:<34}{cells[1]:<28}{cells[2]}".rstrip())
    return lines if rows else []


def _plain(text: str) -> str:
    """In plain letters, for terminals that have no others."""
    return text.replace("−", "-").replace(ABSENT, "-")
