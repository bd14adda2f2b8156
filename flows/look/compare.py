"""What changed between two databases: versions of one, or one set of images embedded by two
encoders.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from flows.config.look import CompareDatabases
from flows.run.terminal import Answer
from rdm_core.drift import neighbor_recall, shift
from storage.artifact import Artifact, open_artifact
from storage.checks import VECTORS
from storage.embeddings import licence_counts, of_what, read_columns, read_vectors
from storage.text import on_one_line

SHOWN = 5
"""Keys of added and of removed rows that the answer lists, at most."""


def compare(config: CompareDatabases) -> Answer:
    """Rows that were added and removed, the shift of the vectors, and how many neighbors stayed the
    same. Raises a StorageError.

    Vectors are compared where one encoder made both, of the same (images, captions or documents);
    neighbors where there are shared keys enough.
    """
    one = open_artifact(config.root, "embeddings", config.one)
    other = open_artifact(config.root, "embeddings", config.other)
    same_encoder = one.parameters["encoder"] == other.parameters["encoder"]
    comparable = same_encoder and of_what(one) == of_what(other)
    pairs, added, removed = matched(_column(one, "key"), _column(other, "key"))
    value: dict[str, Any] = {
        "one": _described(one), "other": _described(other), "same_encoder": same_encoder,
        "rows_kept": len(pairs), "rows_added": len(added), "rows_removed": len(removed),
        "added": added[:SHOWN], "removed": removed[:SHOWN],
    }  # fmt: skip
    # Vectors are compared row by row over the pairs, and as two clouds over all rows.
    vectors, other_vectors = read_vectors(one)[0], read_vectors(other)[0]
    if comparable:
        value |= {"shift": shift(vectors, other_vectors)}
        cosines = np.einsum("nd,nd->n", vectors[pairs[:, 0]], other_vectors[pairs[:, 1]])
        value["rows_changed"] = int((cosines < config.same_above).sum())
    # Neighbors are compared among the kept rows alone: only these stand in both databases.
    if len(pairs) > config.k:
        sources = np.asarray(_column(one, "source_key"), dtype=object)
        recall = neighbor_recall(
            vectors[pairs[:, 0]],
            other_vectors[pairs[:, 1]],
            sources[pairs[:, 0]],
            config.k,
            config.queries,
            config.seed,
        )
        value |= {
            "neighbor_recall": recall,
            "k": config.k,
            "queries": min(config.queries, len(pairs)),
        }
    return "\n".join(_lines(value)), value


def matched(
    keys: Sequence[str], other_keys: Sequence[str]
) -> tuple[np.ndarray, list[str], list[str]]:
    """Rows of one database and of another that have the same key [N, 2], the keys that only the
    other has, and those that only the first has.
    """
    places = {key: row for row, key in enumerate(other_keys)}
    pairs, removed = [], []
    for row, key in enumerate(keys):
        if key in places:
            pairs.append((row, places[key]))
        else:
            removed.append(key)
    present = set(keys)
    added = [key for key in other_keys if key not in present]
    # The shape is given for the case of no pair.
    return np.asarray(pairs, dtype=np.int64).reshape(-1, 2), added, removed


def _column(embeddings: Artifact, name: str) -> list[str]:
    return read_columns(embeddings, [name])[name].to_pylist()


def _described(embeddings: Artifact) -> dict[str, Any]:
    encoder = embeddings.parameters["encoder"]
    named = {"artifact": embeddings.reference, "rows": embeddings.rows, "encoder": encoder["model"]}
    named |= {"of": of_what(embeddings)}
    return named | {"dimension": encoder["dimension"], "licences": licence_counts(embeddings)}


def _lines(value: dict[str, Any]) -> list[str]:
    one, other = value["one"], value["other"]
    lines = []
    for name in ("one", "other"):
        side = value[name]
        vectors = f"{side['encoder']} of {VECTORS[side['of']]}"
        lines.append(f"{name}: {side['artifact']}, {side['rows']:,} rows, {vectors}")
    lines.append(
        f"rows kept {value['rows_kept']:,}, added {value['rows_added']:,}, "
        f"removed {value['rows_removed']:,}"
    )
    for what in ("added", "removed"):
        if value[what]:
            more = ", ..." if value[f"rows_{what}"] > SHOWN else ""
            lines.append(f"  {what}: {', '.join(value[what])}{more}")
    for licence in sorted(one["licences"].keys() | other["licences"].keys()):
        before, after = one["licences"].get(licence, 0), other["licences"].get(licence, 0)
        if before != after:
            lines.append(f"  licence {on_one_line(licence)}: {before:,} -> {after:,}")
    if "shift" in value:
        lines.append(f"kept rows whose vector changed: {value['rows_changed']:,}")
        for name, amount in value["shift"].items():
            lines.append(f"{name.replace('_', ' ')}: {amount:.5f}")
    else:
        why = "of something else" if value["same_encoder"] else "other encoder"
        lines.append(f"{why}: vectors are not compared")
    if "neighbor_recall" in value:
        recall = (
            f"{100 * value['neighbor_recall']:.1f} % "
            f"of the {value['k']} nearest kept rows are the same"
        )
        lines.append(f"{recall} ({value['queries']:,} rows asked)")
    else:
        lines.append("too few kept rows to compare neighbors")
    return lines
