"""Which images stand in a database more than once; which of another set are in it already."""

from typing import Any

import numpy as np

from flows.calibration import calibrated_cap_of
from flows.database import OpenDatabase, searchable
from flows.find_neighbors import keys_of
from flows.look_config import FindDuplicates
from flows.progress import say
from flows.search import hit_of, write_sheet
from rdm_core.duplicates import groups_of
from rdm_core.search import NO_ROW, search_neighbors
from storage.artifact import open_artifact
from storage.atomic import write_bytes
from storage.checks import same_encoder
from storage.embeddings import read_vectors

Result = tuple[str, dict[str, Any]]
SHOWN = 10
"""Pairs that are told, and lines of the contact sheet."""


def duplicates(config: FindDuplicates) -> Result:
    """Pairs of different images above the cap, calibrated unless given; raises RequestError or a StorageError.

    With `other`, the pairs of a row there and a row of the database: what of an evaluation set a training has seen.
    """
    embeddings = open_artifact(config.root, "embeddings", config.database)
    other = open_artifact(config.root, "embeddings", config.other) if config.other else embeddings
    same_encoder(other, embeddings)
    database = searchable(config.root, embeddings)
    cap, images = (config.cap, 0) if config.cap is not None else calibrated_cap_of(database, config.calibrate_with, config.seed)
    say("duplicates", config.database, f"{other.rows:,} x {embeddings.rows:,} rows, cosine above {cap:.4f}")
    (keys, sources), (own_keys, own_sources) = (keys_of(artifact, ("source_key",)) for artifact in (other, embeddings))
    no_group = np.full_like(sources, None) if config.other else sources
    k = min(config.k, embeddings.rows)
    rows, scores = search_neighbors(read_vectors(other)[0], no_group, database.database.searcher.vectors, own_sources, k)
    above = (rows != NO_ROW) & (scores > cap)
    queries, slots = np.nonzero(above)
    pairs = np.stack([queries, rows[queries, slots]], axis=1)
    full = int(above.all(axis=1).sum()) if k < embeddings.rows else 0
    if not config.other:
        pairs, kept = np.unique(np.sort(pairs, axis=1), axis=0, return_index=True)
        queries, slots = queries[kept], slots[kept]
    found = scores[queries, slots]
    worst = np.argsort(-found, kind="stable")
    listed = [
        {"key": keys[q], "of": own_keys[r], "score": round(float(s), 5)}
        for (q, r), s in zip(pairs[worst], found[worst], strict=True)
    ]
    value: dict[str, Any] = {
        "database": embeddings.reference, "other": other.reference, "cap": cap, "calibrated_with": images,
        "pairs": listed, "rows": len(np.unique(pairs[:, 0] if config.other else pairs)), "of_rows": other.rows,
        "rows_with_k_copies": full,
    }  # fmt: skip
    if not config.other:
        surplus = surplus_keys(pairs, keys)
        value |= {"surplus": len(surplus)}
        if config.keys:
            write_bytes(config.keys, "".join(f"{key}\n" for key in surplus).encode())
    if config.out and listed:
        write_sheet(config.out, database, sheet_of(config, database, keys, pairs[worst][:SHOWN], found[worst][:SHOWN]))
    return "\n".join(_lines(config, value)), value


def surplus_keys(pairs: np.ndarray, keys: np.ndarray) -> list[str]:
    """All but the first row of every group of duplicates: what `rdm remove --keys` could take out."""
    groups = groups_of(pairs, len(keys))
    first = np.unique(groups, return_index=True)[1]
    return keys[np.setdiff1d(np.arange(len(keys)), first)].tolist()


def sheet_of(
    config: FindDuplicates, database: OpenDatabase, keys: np.ndarray, pairs: np.ndarray, scores: np.ndarray
) -> list[dict[str, Any]]:
    """Pairs as a contact sheet's lines: a row and what of the database it equals; within one database both are shown."""
    rows = np.unique(pairs[:, 1] if config.other else pairs).tolist()
    credits = dict(zip(rows, database.credits(rows), strict=True))
    lines = []
    for (query, row), score in zip(pairs.tolist(), scores.tolist(), strict=True):
        own = [] if config.other else [hit_of(query, 1.0, credits[query])]
        lines.append({"query": str(keys[query]), "found": [*own, hit_of(row, score, credits[row])]})
    return lines


def _lines(config: FindDuplicates, value: dict[str, Any]) -> list[str]:
    images = value["calibrated_with"]
    how = f"calibrated with altered copies of {images} of its images" if images else "as given"
    lines = [f"cosine above {value['cap']:.4f} ({how})"]
    share = value["rows"] / max(1, value["of_rows"])
    lines.append(f"{len(value['pairs']):,} pairs; {value['rows']:,} of {value['of_rows']:,} rows ({100 * share:.2f} %)")
    if value["rows_with_k_copies"]:
        told = f"{value['rows_with_k_copies']:,} rows have {config.k} copies, and perhaps more"
        lines.append(f"{told}: ask again with --set k={4 * config.k}")
    lines += [f"  {pair['score']:.4f}  {pair['key']}  {pair['of']}" for pair in value["pairs"][:SHOWN]]
    if "surplus" in value:
        lines.append(f"{value['surplus']:,} rows are copies of an earlier one")
    if config.keys:
        lines.append(f"their keys: {config.keys}")
    if config.out:
        lines.append(f"contact sheet: {config.out}" if value["pairs"] else "no contact sheet: there is no pair to show")
    return lines
