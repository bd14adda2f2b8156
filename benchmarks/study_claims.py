"""What the study claims of the method, with thresholds set beforehand, and the table of how it
went.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from flows.judge.evaluate import EVALUATION_FILE
from rdm_core.judge.estimates import estimate_over_seeds
from storage.artifact import Artifact

NAMED = ("colour", "shape", "style")
"""Factors that T3 restricts the database to, and that T4's texts name."""
TEXT_CONTEXTS = ("text alone", "text and neighbors")
"""What T4's images are drawn from."""
SCALES = (1.5, 2.0)
"""T6: guidance scales at which the two nulls are compared; at 1 neither is used, so that they are
equal by construction.
"""

SHARES = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""T5: shares of the retrieved rows that pseudo-queries are drawn from."""


@dataclass(frozen=True)
class Claim:
    """One figure that is compared with a threshold fixed beforehand."""

    name: str
    asks: str
    threshold: float
    at_least: bool
    percent: bool = False
    """Whether it is written as a percentage."""

    def holds(self, figure: float) -> bool:
        """Whether the figure is on the right side of the threshold."""
        return figure >= self.threshold if self.at_least else figure <= self.threshold

    def text(self, figure: float) -> str:
        """The figure as it is written in the table."""
        return f"{100 * figure:.1f} %" if self.percent else f"{figure:.3f}"


def at_least(name: str, asks: str, threshold: float, percent: bool = False) -> Claim:
    """A claim that a figure is not below a threshold."""
    return Claim(name, asks, threshold, True, percent)


def at_most(name: str, asks: str, threshold: float, percent: bool = False) -> Claim:
    """A claim that a figure is not above a threshold."""
    return Claim(name, asks, threshold, False, percent)


def all_claims() -> Iterator[Claim]:
    """Every claim, in the order of the table."""
    asks = "held-out loss: right neighbors below the learned null by"
    yield at_least("T1 gain", asks, 0.05, percent=True)
    asks = "share of that gain that shuffled neighbors lose"
    yield at_least("T1 shuffled", asks, 0.8, percent=True)

    asks = "Fréchet distance, as a share of the twin's without neighbors"
    yield at_most("T2 distance", asks, 0.7)
    yield at_least("T2 recall", "recall minus the twin's", -0.05)
    asks = "copy rate (real held-out images: 1 % by definition)"
    yield at_most("T2 copies", asks, 0.02, percent=True)

    asks = "purity with the database restricted to one colour, mean over colours"
    yield at_least("T3 colour", asks, 0.9, percent=True)
    yield at_least("T3 shape", "the same for one shape", 0.9, percent=True)
    yield at_least("T3 style", "the same for one style", 0.9, percent=True)

    for context in TEXT_CONTEXTS:
        for factor in NAMED:
            asks = f"{factor} named by a text, in multiples of chance"
            yield at_least(f"T4 {factor}, {context}", asks, 3.0)
    for context in TEXT_CONTEXTS:
        for factor in NAMED:
            asks = "the same accuracy as a share of that with the image's own embedding"
            yield at_least(f"T4 {factor}, {context}, share", asks, 0.8, percent=True)

    yield at_most("T5 precision", "rank correlation of precision with the share m", -0.9)
    yield at_least("T5 recall", "rank correlation of recall with the share m", 0.9)
    asks = "the same of precision, where rows are retrieved unevenly"
    yield at_most("T5 uneven precision", asks, -0.9)
    asks = "the same of recall, where rows are retrieved unevenly"
    yield at_least("T5 uneven recall", asks, 0.9)

    for scale in SCALES:
        asks = "Fréchet distance guided by the learned null, as a share of the zero null's"
        yield at_most(f"T6 scale {scale:g}", asks, 1.0)

    asks = "Fréchet distance of transformer and flow, as a share of a U-Net's of as many parameters"
    yield at_most("N network", asks, 1.0)
    asks = "Fréchet distance of DPM-Solver++ at 20 steps, as a share of 100 plain steps'"
    yield at_most("S sampler", asks, 1.02)


CLAIMS = tuple(all_claims())


def table_of(measured: Sequence[Artifact], claims: Sequence[Claim] = CLAIMS) -> str:
    """The tests with their figures, in Markdown: mean over training seeds, Student's 95 % interval,
    verdict.
    """
    by_seed = figures_of(measured)
    lines = ["| test | asks | wanted | measured | holds |", "|---|---|---|---|---|"]
    for claim in claims:
        estimate = estimate_over_seeds([figures[claim.name] for figures in by_seed])
        interval = "(one seed)"
        if estimate.count > 1:
            interval = f"[{claim.text(estimate.low)}, {claim.text(estimate.high)}]"
        wanted = f"{'≥' if claim.at_least else '≤'} {claim.text(claim.threshold)}"
        verdict = "yes" if claim.holds(estimate.mean) else "**no**"
        lines.append(
            f"| {claim.name} | {claim.asks} | {wanted} | {claim.text(estimate.mean)} {interval} "
            f"| {verdict} |"
        )
    return "\n".join(lines)


def figures_of(measured: Sequence[Artifact]) -> list[dict[str, float]]:
    """The figures of each seed."""
    return [json.loads(artifact.file(EVALUATION_FILE).read_bytes()) for artifact in measured]


def share_figure(test: str, measure: str, share: float) -> str:
    """The name of T5's figure for one share of the rows."""
    return f"{test} {measure}, {share:g} of the rows"


def shares_table(
    measured: Sequence[Artifact], rows_themselves: Mapping[str, Sequence[Mapping[str, float]]]
) -> str:
    """T5 behind its correlations, in Markdown: precision and recall of samples for each share of
    the rows, means over training seeds, and of the images in these rows themselves.
    """
    by_seed = figures_of(measured)
    lines = ["| most retrieved share m of the rows | " + " | ".join(map(str, SHARES)) + " |"]
    lines.append("|---" * (len(SHARES) + 1) + "|")
    for test, world in (("T5", "even"), ("T5 uneven", "uneven")):
        for measure in ("precision", "recall"):
            means = []
            for share in SHARES:
                name = share_figure(test, measure, share)
                means.append(sum(figures[name] for figures in by_seed) / len(by_seed))
            lines.append(_shares_line(f"{measure} of samples, {world}", means))
            own = [of_share[measure] for of_share in rows_themselves[world]]
            lines.append(_shares_line(f"{measure} of the rows themselves, {world}", own))
    return "\n".join(lines)


def _shares_line(name: str, shares: Sequence[float]) -> str:
    """A line of the table: percentages."""
    return f"| {name} | " + " | ".join(f"{100 * share:.1f} %" for share in shares) + " |"
