"""What an image stood behind: samples, runs, tables, evaluations; and whose images stood behind
some samples.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.run.terminal import Answer
from rdm_core.errors import RequestError
from storage.artifact import Artifact, artifacts, open_artifact
from storage.behind import Stood, shares, stood_behind
from storage.embeddings import read_columns
from storage.holders import Holder, TrainedRun, holders, trained_on
from storage.removals import on_list
from storage.shards import CREDIT_COLUMNS
from storage.text import on_one_line

SHOWN = 20
"""Lines of a kind that are printed; --json has all."""


def who(root: Path, asked: Sequence[str]) -> Answer:
    """For keys of images: what they stood behind. For samples/NAME: the shares of authors and
    licences over all of these samples.

    Raises RequestError for both at once, and for a key that nothing under the root knows.
    """
    samples = [name for name in asked if name.startswith("samples/")]
    if not samples:
        return who_stood_behind_what(root, asked)
    if len(samples) < len(asked):
        what = "keys of images and samples/NAME are two questions"
        raise RequestError("who", what, "Ask one after the other.")
    return whose_images(root, samples)


def whose_images(root: Path, samples: Sequence[str]) -> Answer:
    """Shares by author and licence over some samples."""
    opened = [open_artifact(root, *name.split("/", 1)) for name in samples]
    found = shares(opened)
    value: dict[str, Any] = {"samples": [artifact.reference for artifact in opened], **found}
    lines = [f"{sum(artifact.rows for artifact in opened):,} images of {', '.join(samples)}"]
    for column, names in found.items():
        lines += ["", f"{column}:"]
        for name, share in list(names.items())[:SHOWN]:
            lines.append(f"  {100 * share:6.2f} %  {on_one_line(name)}")
        if len(names) > SHOWN:
            lines.append(f"  and {len(names) - SHOWN:,} more (all of them: --json)")
    return "\n".join(lines), value


def who_stood_behind_what(root: Path, keys: Sequence[str]) -> Answer:
    """Everything under a root that some images had a part in."""
    names = set(keys)
    holding = holders(root, names)
    if not any(holder.keys for holder in holding):
        cure = "Keys: rdm query 'SELECT key FROM embeddings LIMIT 10'"
        raise RequestError(f"{root}", f"nothing here knows {', '.join(keys)}", cure)
    runs = [run for run in trained_on(root, holding) if run.held]
    stood = stood_behind(root, names)
    judged = evaluations_of(root, holding, runs)
    value = {
        "keys": list(keys),
        "credits": credits_of(root, holding, names),
        "holders": [asdict(holder) for holder in holding],
        "runs": [asdict(run) for run in runs],
        "samples": [asdict(one) for one in stood],
        "evaluations": judged,
    }
    return "\n".join(_lines(value, holding, runs, stood)), value


def credits_of(root: Path, holding: Sequence[Holder], names: set[str]) -> list[dict[str, Any]]:
    """What is known of the images, each from the first database that holds it."""
    known: dict[str, dict[str, Any]] = {}
    for holder in holding:
        kind, _, reference = holder.reference.partition("/")
        # Only finished ones are opened, and those that hold an image of which nothing is known yet.
        if kind != "embeddings" or not holder.fingerprint or not set(holder.keys) - set(known):
            continue
        rows = read_columns(open_artifact(root, kind, reference), ["key", *CREDIT_COLUMNS])
        wanted = set(on_list(rows["key"].to_pylist(), names))
        for row in rows.to_pylist():
            if row["key"] in wanted:
                known.setdefault(row["key"], row)
    return list(known.values())


def evaluations_of(root: Path, holding: Sequence[Holder], runs: Sequence[TrainedRun]) -> list[str]:
    """References of evaluations with one of these among their inputs."""
    known = {holder.fingerprint for holder in holding if holder.fingerprint}
    trained = {run.reference for run in runs}
    for artifact in artifacts(root, "runs"):
        if artifact.reference in trained:
            known.add(artifact.fingerprint)

    def is_of_them(artifact: Artifact) -> bool:
        return bool(known & set(artifact.inputs.values()))

    return [one.reference for one in artifacts(root, "evaluations") if is_of_them(one)]


def _lines(
    value: dict[str, Any],
    holding: Sequence[Holder],
    runs: Sequence[TrainedRun],
    stood: Sequence[Stood],
) -> list[str]:
    lines = []
    for credit in value["credits"]:
        licence = credit["licence"] or "licence not stated"
        author = credit["author"] or "author not stated"
        told = " · ".join(filter(None, (licence, author, credit["source_url"])))
        lines.append(on_one_line(f"{credit['key']}  {told}"))
    tables = [f"{holder.reference:<44} {holder.what}" for holder in holding]
    lines += _section("held by", "nothing holds it any more", tables)
    trained = []
    for run in runs:
        roles = ", ".join(sorted(run.held))
        unfinished = "" if run.finished else ", unfinished"
        trained.append(f"{run.reference:<44} {roles}{unfinished}")
    lines += _section("trained with it", "no run was trained with it", trained)
    drawn = []
    for one in stood:
        place = f"neighbor {one.rank}, score {one.score:.3f}, of {one.query!r}"
        drawn.append(on_one_line(f"{one.reference}/{one.file}  {place}"))
    lines += _section("stood behind", "no sample was drawn from it", drawn)
    nothing = "no evaluation is of these"
    return lines + _section("evaluations of these", nothing, value["evaluations"])


def _section(title: str, nothing: str, entries: Sequence[str]) -> list[str]:
    if not entries:
        return ["", nothing]
    lines = ["", f"{title}:"] + [f"  {entry}" for entry in entries[:SHOWN]]
    if len(entries) > SHOWN:
        lines.append(f"  and {len(entries) - SHOWN:,} more (all of them: --json)")
    return lines
