"""What came out of a stage, as `rdm` prints it and as JSON."""

from pathlib import Path
from typing import Any

from flows.run.terminal import Answer


def facts(artifact: Any) -> Answer:
    """Where an artifact lies, and all that a machine wants to know of it."""
    value = {
        "kind": artifact.kind,
        "name": artifact.name,
        "id": artifact.id,
        "fingerprint": artifact.fingerprint,
        "rows": artifact.rows,
        "counts": artifact.counts,
        "directory": str(artifact.directory),
        "measured": dict(artifact.measured),
    }
    return f"{artifact.directory}", value


def counts(artifact: Any) -> Answer:
    """The same with what was counted, a line each."""
    text, value = facts(artifact)
    lines = [text]
    for outcome, count in artifact.counts.items():
        lines.append(f"  {count:>8,}  {outcome}")
    return "\n".join(lines), value


def sampled(artifact: Any) -> Answer:
    """The contact sheet of samples."""
    _, value = facts(artifact)
    value["grid"] = str(artifact.file("grid.png"))
    return f"{artifact.rows} images, each beside its neighbors: {value['grid']}", value


def edited(artifact: Any) -> Answer:
    """The sheet of edits, and how much was changed."""
    text, value = sampled(artifact)
    value["edits"] = str(artifact.file("edits.png"))
    measured = value["measured"]
    share = f"{measured['changed_pixels']:.1%} of the pixels"
    lines = [
        f"{artifact.rows} edits, each between the original and what changed: {value['edits']}",
        f"changed: {share}, by {measured['mean_change']:.4f} on average over all (0..1)",
        text,
    ]
    return "\n".join(lines), value


def acquired(record: Any) -> Answer:
    """What came of fetching a data set."""
    from flows.config.acquire import EMOJI_RUN

    lines = []
    for file in record.get("files", []):
        lines.append(f"{file['name']}: {file['status']}, {file['bytes']:,} bytes")
    for what, count in record.get("images", {}).items():
        lines.append(f"{count:,} {what}")
    styles = [name for name in record.get("databases", {}) if name != EMOJI_RUN]
    if styles:
        lines.append(
            f"databases: {', '.join(styles)}; draw from one: rdm sample --run {EMOJI_RUN} "
            f'--text "a red apple" --database {styles[-1]}'
        )
    return "\n".join(lines), record


CREDITS = ("neighbor_keys", "neighbor_scores", "licences", "authors", "source_urls")
"""Columns that say who stood behind a sample."""


def captioned(artifact: Any) -> Answer:
    """The texts that were written, each with the images that stood behind it."""
    from storage.samples import SAMPLES_FILE, read_samples

    _, value = sampled(artifact)
    value["texts"] = []
    lines = []
    for row in read_samples(artifact):
        value["texts"].append({name: row[name] for name in ("text", *CREDITS)})
        behind = ", ".join(row["neighbor_keys"]) or "nothing"
        lines.append(f"{row['text']!r}, behind it: {behind}")
    lines.append(f"{artifact.file(SAMPLES_FILE)}")
    return "\n".join(lines), value


def evaluated(artifact: Any) -> Answer:
    """The figures of an evaluation."""
    from flows.judge.summary import told

    text, value = told(artifact)
    return text, facts(artifact)[1] | value


def autoencoder(artifact: Any) -> Answer:
    """The folder of an autoencoder, the picture of what it gives back, and how well it does."""
    _, value = facts(artifact)
    value["weights"] = str(artifact.file("weights"))
    value["reconstructions"] = str(artifact.file("reconstructions.png"))
    lines = [value["weights"], f"reconstructions: {value['reconstructions']}"]
    for name, number in value["measured"].items():
        lines.append(f"  {name:<20} {number:,.4g}")
    return "\n".join(lines), value


def converted(made: Any) -> Answer:
    """A run, or the folder of an autoencoder alone."""
    if isinstance(made, Path):  # an autoencoder alone is a plain folder
        return str(made), {"directory": str(made)}
    return facts(made)


def report(artifact: Any) -> Answer:
    """The page of a report."""
    value = facts(artifact)[1] | {"report": str(artifact.file("report.html"))}
    return f"report: {value['report']}", value


def demo_result(pair: Any) -> Answer:
    """The figures and the page that a demo ends with."""
    text, value = evaluated(pair[0])
    page, more = report(pair[1])
    return f"{text}\n{page}", value | {"report": more["report"]}
