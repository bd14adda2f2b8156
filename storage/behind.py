"""Which samples an image stood behind, and who stood behind some samples."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from storage.artifact import Artifact, artifacts
from storage.removals import on_list
from storage.samples import read_samples

NOT_STATED = "not stated"
NOBODY = "no image of a database"
"""Behind a sample that was drawn from no neighbor."""


@dataclass(frozen=True)
class Stood:
    """An image behind a sample."""

    reference: str
    """samples/name@id."""
    file: str
    """The sample, among the files of these samples."""
    query: str
    """What was asked for."""
    key: str
    """The image's."""
    rank: int
    """1: the nearest neighbor."""
    score: float


def stood_behind(root: Path, names: Set[str]) -> list[Stood]:
    """Every place of some images among the neighbors of a sample, in every version of all samples
    under a root. Names are keys, or keys without crop: every crop of that image.
    """
    found = []
    for samples in artifacts(root, "samples"):
        for record in read_samples(samples):
            keys = record["neighbor_keys"]
            for key in sorted(set(on_list(keys, names))):
                place = keys.index(key)
                found.append(
                    Stood(
                        samples.reference, record["file"], record["query"], key, place + 1,
                        record["neighbor_scores"][place],
                    )
                )  # fmt: skip
    return found


def shares(samples: Sequence[Artifact]) -> dict[str, dict[str, float]]:
    """Whose images stood behind some samples: "authors" and "licences" -> name -> share, 0..1, the
    largest first.

    Every sample counts the same, and so does every neighbor of one; shares of all names sum to 1.
    What a neighbor changed in the picture is not known from that (`attributions` says it).
    """
    counted: dict[str, dict[str, float]] = {"authors": {}, "licences": {}}
    count = 0
    for artifact in samples:
        for record in read_samples(artifact):
            count += 1
            for column, names in counted.items():
                stated = record[column]
                for name in stated or [NOBODY]:
                    shown = name or NOT_STATED
                    names[shown] = names.get(shown, 0) + 1 / max(1, len(stated))
    found = {}
    for column, names in counted.items():
        largest_first = sorted(names.items(), key=lambda item: -item[1])
        found[column] = {name: part / count for name, part in largest_first}
    return found
