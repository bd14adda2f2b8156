"""Views that no artifact is one of: where each picture lies, what each run was trained with, what
was removed.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from storage.artifact import Artifact, artifacts, with_fingerprint
from storage.removals import read_removals
from storage.stored_images import IMAGES, members

PICTURES = pa.schema(
    [
        ("artifact", pa.string()),
        ("key", pa.string()),
        ("format", pa.string()),
        ("tar", pa.string()),
        ("position", pa.int64()),
        ("bytes", pa.int64()),
    ]
)
"""The stored image of a key: `bytes` bytes of the file `tar`, from `position` on."""
REMOVED = pa.schema([("database", pa.string()), ("key", pa.string())])
"""A line of a database's removal list: a key, or a source key for every crop of an image."""
_NAMED_BY = {"database": "embeddings", "latents": "latents", "neighbors": "neighbors"}
"""Input of a run -> its kind; an index holds no other rows than its embeddings."""
_NO_SEEN = (
    "SELECT NULL::TEXT AS run, NULL::TEXT AS id, NULL::BIGINT AS version, NULL::TEXT AS role, "
    "NULL::TEXT AS artifact, NULL::TEXT AS key WHERE false"
)


def pictures(shards: Sequence[Artifact]) -> pa.Table:
    """Where the image of every key lies, by the heads of the tars; no image is read."""
    rows: dict[str, list] = {name: [] for name in PICTURES.names}
    for artifact in shards:
        for path in artifact.files(".tar"):
            for name, position, size in members(path):
                key, _, ending = name.rpartition(".")
                if ending in IMAGES:
                    row = (artifact.name, key, ending, str(path), position, size)
                    for column, value in zip(rows.values(), row, strict=True):
                        column.append(value)
    return pa.table(rows, schema=PICTURES)


def removed(root: Path) -> pa.Table:
    """What was taken out of each database."""
    names = sorted({artifact.name for artifact in artifacts(root, "embeddings")})
    rows = []
    for name in names:
        for key in sorted(read_removals(root, name)):
            rows.append({"database": name, "key": key})
    return pa.Table.from_pylist(rows, schema=REMOVED)


def seen(root: Path) -> tuple[str, list[Path]]:
    """SQL for every sample that each version of each run was trained with, and the files it reads.

    A row a run, role and sample: `latents` it learned to draw, `neighbors` it was given while it
    learned, `database` these were retrieved from; those of a run whose weights it began with, too.
    Where what a run was trained with is not under this root, nobody knows its samples: `artifact`
    and `key` are null.
    """
    selects, files = [_NO_SEEN], []
    for run in artifacts(root, "runs"):
        for inputs in _learned_from(root, run):
            for role, kind in _NAMED_BY.items():
                if role in inputs:
                    select, read = _seen_as(root, run, inputs[role], role, kind)
                    selects.append(select)
                    files += read
    return " UNION ALL ".join(selects), files


def _learned_from(root: Path, run: Artifact) -> Iterator[Mapping[str, str]]:
    """The inputs of a run, and those of the runs whose weights it began with, one after another."""
    earlier: Artifact | None = run
    while earlier is not None:
        yield earlier.inputs
        weights = earlier.inputs.get("start_from")
        if weights is None:
            return
        earlier = with_fingerprint(root, "runs", weights)
    # The run of these weights is gone. No artifact has an empty fingerprint, so that every role
    # becomes a row of nulls.
    yield dict.fromkeys(_NAMED_BY, "")


def _seen_as(
    root: Path, run: Artifact, fingerprint: str, role: str, kind: str
) -> tuple[str, list[Path]]:
    """SQL for the samples of one input of a run, and the files it reads."""
    columns = (
        f"'{run.name}' AS run, '{run.id}' AS id, {run.version}::BIGINT AS version, '{role}' AS role"
    )
    artifact = with_fingerprint(root, kind, fingerprint)
    if artifact is None:
        return f"SELECT {columns}, NULL::TEXT AS artifact, NULL::TEXT AS key", []
    files = artifact.files(".parquet")
    keys = "unnest(keys)" if kind == "neighbors" else "key"
    # A query with fewer than k neighbors has empty keys at the end of its list.
    table = f"(SELECT DISTINCT {keys} AS key FROM read_parquet({sql_list(files)})) WHERE key <> ''"
    return f"SELECT {columns}, '{artifact.reference}' AS artifact, key FROM {table}", files


def sql_list(paths: Sequence[Path]) -> str:
    """The paths as an SQL literal: a list of texts, in which two quotes stand for one."""
    texts = []
    for path in paths:
        text = str(path).replace("'", "''")
        texts.append(f"'{text}'")
    return f"[{', '.join(texts)}]"
