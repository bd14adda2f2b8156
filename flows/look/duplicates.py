"""Which images stand in a database more than once; which of another set are in it already."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from flows.config.look import TABLES, FindDuplicates
from flows.data.calibration import calibrated_cap_of, doubt_of
from flows.data.database import OpenDatabase, keys_of, searchable
from flows.look.search import hit_of, write_sheet
from flows.run.progress import say
from flows.run.terminal import Answer
from rdm_core.duplicates import groups_of
from rdm_core.errors import RequestError
from rdm_core.neighbors import search_neighbors
from rdm_core.search import NO_ROW
from storage.artifact import Artifact, open_artifact
from storage.atomic import write_bytes
from storage.checks import same_encoder, vectors_of_images
from storage.conditions import satisfying
from storage.embeddings import read_vectors
from storage.saved import COPIES, save_rows

SHOWN = 10
"""Pairs that the answer lists, and lines of the contact sheet, at most."""
MOST_SURPLUS = 0.2
"""Share of a database above which its rows are hardly all copies: the cap is too low, or the
encoder knows too little of such images.
"""


def duplicates(config: FindDuplicates) -> Answer:
    """Pairs of different images above the cap, calibrated unless given; raises RequestError or a
    StorageError.

    With `other`, the pairs of a row there and a row of the database: what of an evaluation set a
    training has seen.
    """
    embeddings = open_artifact(config.root, "embeddings", config.database)
    other = embeddings
    if config.other:
        other = open_artifact(config.root, "embeddings", config.other)
    same_encoder(other, embeddings)
    for artifact in (embeddings, other):
        vectors_of_images(artifact, "copies of a picture are found by the vectors of pictures")
    database = searchable(config.root, embeddings)
    cap, images, doubts = cap_of(config, database)
    size = f"{other.rows:,} x {embeddings.rows:,} rows"
    say("duplicates", config.database, f"{size}, cosine above {cap:.4f}")
    keys, sources = keys_of(other, ("source_key",))
    own_keys, own_sources = keys_of(embeddings, ("source_key",))
    # Crops of one image are no copies; of two sets with a key in common they may well be.
    no_group = np.full_like(sources, None) if config.other else sources
    asked, among = taking_part(config, other, embeddings)
    # 1. For every row its nearest rows of another image, and of these the ones above the cap.
    k = min(config.k, most := embeddings.rows if among is None else len(among))
    rows, scores = search_neighbors(
        read_vectors(other)[0][asked], no_group[asked], database.retrieval.searcher.vectors,
        own_sources, k, candidates=among,
    )  # fmt: skip
    above = (rows != NO_ROW) & (scores > cap)
    # A row with k copies may have more; k was too small to see them.
    full = int(above.all(axis=1).sum()) if k < most else 0
    # 2. The pairs, those with the highest cosine first.
    pairs, cosines = falling_pairs(asked, rows, scores, above, within_one=not config.other)
    listed = []
    for (query, row), cosine in zip(pairs, cosines, strict=True):
        listed.append({"key": keys[query], "of": own_keys[row], "score": round(float(cosine), 5)})
    value: dict[str, Any] = {
        "database": embeddings.reference, "other": other.reference,
        "cap": cap, "calibrated_with": images, "pairs": listed,
        "rows": len(np.unique(pairs[:, 0] if config.other else pairs)), "of_rows": len(asked),
        "rows_with_k_copies": full,
    }  # fmt: skip
    # 3. The rows that could be removed, and whether to believe that they are copies.
    surplus = [] if config.other else surplus_keys(pairs, keys)
    if not config.other:
        value |= {"surplus": len(surplus)}
        doubts += doubts_of_share(len(surplus), len(asked))
    value |= {"doubts": doubts}
    # 4. The files that were asked for.
    if config.keys or config.out:
        refuse_in_doubt(config, doubts)
    if config.keys:
        write_bytes(config.keys, "".join(f"{key}\n" for key in surplus).encode())
    if config.out and config.out.suffix in TABLES:
        save_rows(config.out, listed, COPIES)
    elif config.out and listed:
        lines = sheet_of(config, database, keys, pairs[:SHOWN], cosines[:SHOWN])
        write_sheet(config.out, database, lines, "Copies")
    return "\n".join(_lines(config, value)), value


def taking_part(
    config: FindDuplicates, other: Artifact, embeddings: Artifact
) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows that are asked with, of the one, and rows that may be found, of the other (None: all); a
    condition is one on what may be found.
    """
    every = np.arange(other.rows)
    if config.where is None:
        return every, None
    among = np.flatnonzero(satisfying(embeddings, config.where))
    return every if config.other else among, among


def falling_pairs(
    asked: np.ndarray, rows: np.ndarray, scores: np.ndarray, above: np.ndarray, within_one: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a row that was asked with, of those int64 [Q], and one that was found [P, 2], with
    their falling cosines [P], of the rows [Q, K] and scores [Q, K] that are `above` the cap; within
    one database a pair counts once.
    """
    queries, slots = np.nonzero(above)
    pairs = np.stack([asked[queries], rows[queries, slots]], axis=1)
    cosines = scores[queries, slots]
    if within_one:
        # Each pair is found from both of its rows.
        pairs, kept = np.unique(np.sort(pairs, axis=1), axis=0, return_index=True)
        cosines = cosines[kept]
    falling = np.argsort(-cosines, kind="stable")
    return pairs[falling], cosines[falling]


def cap_of(config: FindDuplicates, database: OpenDatabase) -> tuple[float, int, list[str]]:
    """The cap, the images it was calibrated with (0: it was given), and why to doubt it."""
    if config.cap is not None:
        return config.cap, 0, []
    cap, images = calibrated_cap_of(database, config.calibrate_with, config.seed)
    doubt = doubt_of(cap, images)
    return cap.cosine, images, [doubt] if doubt else []


def doubts_of_share(surplus: int, rows: int) -> list[str]:
    """Why to doubt that so many rows are copies."""
    share = surplus / max(1, rows)
    if share <= MOST_SURPLUS:
        return []
    return [f"{surplus:,} of {rows:,} rows ({100 * share:.0f} %) would be copies of another one"]


def refuse_in_doubt(config: FindDuplicates, doubts: Sequence[str]) -> None:
    """Raise RequestError where a file is asked for that would say more than is known."""
    if doubts and not config.force:
        cure = (
            "Nothing was written. Look at the pairs without --keys and --out, give a higher --cap, "
        )
        cure += "or write them all the same: --force."
        raise RequestError(f"duplicates in {config.database}", "; ".join(doubts), cure)


def surplus_keys(pairs: np.ndarray, keys: np.ndarray) -> list[str]:
    """All but the first row of every group of duplicates: what `rdm remove --keys` could take
    out.
    """
    # A copy of a copy belongs to the same group, also where no pair joins it with the first.
    groups = groups_of(pairs, len(keys))
    first = np.unique(groups, return_index=True)[1]
    return keys[np.setdiff1d(np.arange(len(keys)), first)].tolist()


def sheet_of(
    config: FindDuplicates,
    database: OpenDatabase,
    keys: np.ndarray,
    pairs: np.ndarray,
    scores: np.ndarray,
) -> list[dict[str, Any]]:
    """Pairs as a contact sheet's lines: a row and what of the database it equals; within one
    database both are shown.
    """
    # Of another set the row is only named: its credit lies in a database that is not open.
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
    lines.append(
        f"{len(value['pairs']):,} pairs; "
        f"{value['rows']:,} of {value['of_rows']:,} rows ({100 * share:.2f} %)"
    )
    if value["rows_with_k_copies"]:
        more = f"{value['rows_with_k_copies']:,} rows have {config.k} copies, and perhaps more"
        lines.append(f"{more}: ask again with --set k={4 * config.k}")
    for doubt in value["doubts"]:
        lines.append(f"doubtful: {doubt}")
    for pair in value["pairs"][:SHOWN]:
        lines.append(f"  {pair['score']:.4f}  {pair['key']}  {pair['of']}")
    if "surplus" in value:
        lines.append(f"{value['surplus']:,} rows are copies of an earlier one")
    if config.keys:
        lines.append(f"their keys: {config.keys}")
    if config.out and config.out.suffix in TABLES:
        lines.append(f"table: {config.out}")
    elif config.out:
        lines.append(
            f"contact sheet: {config.out}"
            if value["pairs"]
            else "no contact sheet: there is no pair to show"
        )
    return lines
