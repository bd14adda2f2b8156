"""What a kill left in a root, and whether the end equals that of an unbroken run."""

import contextlib
import hashlib
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.model.resume import SETTINGS
from storage import layout
from storage.artifact import Artifact, artifacts, check, current_id, unreadable
from storage.errors import StorageError
from storage.unfinished import unfinished

PHASES = ("before the build", "in its parts", "between two builds", "in a commit", "after the last")
TIMINGS = (
    "seconds",
    "milliseconds_per_query",
    "p50_milliseconds",
    "p95_milliseconds",
    "targets_met",
)
"""What two runs measure differently."""


@dataclass(frozen=True)
class Kill:
    """One SIGKILL and where it landed."""

    stage: str
    moment: float
    """Share of the unbroken run's duration."""
    phase: str
    done: float
    """Share of the work that the next attempt finds finished: parts, or steps up to the newest
    checkpoint.
    """

    @property
    def in_the_middle(self) -> bool:
        """Whether a build was open, or some of several were done."""
        return self.phase in PHASES[1:4]


def made_by(inputs: Path, reference: Path) -> list[Artifact]:
    """The artifacts that the stage adds."""
    before = {artifact.reference for artifact in artifacts(inputs)}
    return [artifact for artifact in artifacts(reference) if artifact.reference not in before]


def share_done(made: Artifact, root: Path) -> float:
    """How much of this artifact a resumed run finds; 1.0 once every part is there."""
    directory = layout.artifact_directory(root, made.kind, made.name, made.id)
    if layout.manifest_file(directory).is_file():
        return 1.0
    parts = sum(layout.part_record_file(directory, part.name).is_file() for part in made.parts)
    if parts < len(made.parts) and made.kind in SETTINGS:
        steps = [
            int(path.parent.name)
            for path in layout.checkpoints_directory(directory).glob("[0-9]*/manifest.json")
        ]
        return min(0.99, max(steps, default=0) / made.parameters[SETTINGS[made.kind]]["steps"])
    return parts / len(made.parts)


def is_published(made: Artifact, root: Path) -> bool:
    """Whether nothing is left to do for it, not even to clear up."""
    directory = layout.artifact_directory(root, made.kind, made.name, made.id)
    whole = (
        layout.manifest_file(directory).is_file() and not layout.build_directory(directory).exists()
    )
    return whole and current_id(root, made.kind, made.name) == made.id


def landed(
    stage: str, made: list[Artifact], root: Path, pid: int, before: int, moment: float
) -> Kill:
    """Where the kill of that process landed; `before`: how many artifacts were published when the
    attempt began.
    """
    shares = [share_done(artifact, root) for artifact in made]
    done = sum(is_published(artifact, root) for artifact in made)
    # A build's lock file says which process holds it.
    held = []
    for lock in root.glob("*/*/*/.build/lock"):
        if f"process {pid} " in lock.read_text():
            held.append(lock.parent.parent)
    if done == len(made):
        phase = "after the last"
    elif held:
        phase = "in its parts"
        for artifact, share in zip(made, shares, strict=True):
            directory = layout.artifact_directory(root, artifact.kind, artifact.name, artifact.id)
            if share == 1.0 and directory in held:
                phase = "in a commit"
    elif done > before or (before and len(made) > 1):
        phase = "between two builds"
    else:
        phase = "before the build"
    return Kill(stage, moment, phase, statistics.mean(shares))


def differences(reference: Path, root: Path) -> list[str]:
    """What is not as the unbroken run left it; empty: nothing."""
    problems = [f"unreadable: {error}" for error in unreadable(root)]
    problems += [f"unfinished: {path}" for path in unfinished(root)]
    wanted, present = _fingerprints(reference), _fingerprints(root)
    for name in sorted(wanted.keys() | present.keys()):
        if wanted.get(name) != present.get(name):
            what = f"fingerprint {present.get(name)} instead of {wanted.get(name)}"
            problems.append(f"{name}: {what}")
    for artifact in artifacts(root):
        try:
            check(artifact, hashes=True)
        except StorageError as error:
            problems.append(str(error))
    wanted, present = _contents(reference), _contents(root)
    problems += [f"{path}: is left over" for path in sorted(present.keys() - wanted.keys())]
    problems += [f"{path}: is missing" for path in sorted(wanted.keys() - present.keys())]
    for path in sorted(wanted.keys() & present.keys()):
        if wanted[path] != present[path]:
            problems.append(f"{path}: has other content")
    return problems


def _fingerprints(root: Path) -> dict[str, str]:
    return {artifact.reference: artifact.fingerprint for artifact in artifacts(root)}


def _contents(root: Path) -> dict[str, str]:
    """Relative path -> hash of the content, without what says when, how fast and where it was
    made.
    """
    hashes = {}
    for path in sorted(root.rglob("*")):
        if not path.is_dir():
            content = _content(path, root)
            hashes[path.relative_to(root).as_posix()] = hashlib.sha256(content).hexdigest()
    return hashes


def _content(path: Path, root: Path) -> bytes:
    data = path.read_bytes()
    if path.name == "manifest.json" and path.parents[3] == root:
        with contextlib.suppress(ValueError):  # one that cannot be read is compared as it is
            value = json.loads(data)
            value["measured"] = _without_timings(value["measured"])
            return json.dumps(value | {"created_at": ""}, sort_keys=True).encode()
    return data.replace(str(root.resolve()).encode(), b"") if path.suffix == ".json" else data


def _without_timings(facts: Any) -> Any:
    if isinstance(facts, list):
        return [_without_timings(fact) for fact in facts]
    if isinstance(facts, dict):
        return {key: _without_timings(fact) for key, fact in facts.items() if key not in TIMINGS}
    return facts
