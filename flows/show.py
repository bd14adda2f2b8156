"""What is under a root: list it, explain one thing, check it. Prints nothing itself."""

from pathlib import Path
from typing import Any

from flows.launch import TrainingFailed
from rdm_core.errors import CoreError
from rdm_core.provenance import read_record
from storage.artifact import Artifact, artifacts, check, is_current, open_artifact
from storage.errors import ArtifactMissing, StorageError

Result = tuple[str, dict[str, Any]]


def is_ours(error: Exception) -> bool:
    """Whether an error already says where, what and the cure."""
    return isinstance(error, StorageError | CoreError | TrainingFailed)


def table_of_artifacts(root: Path) -> Result:
    """Every artifact: kind, name, id (* = current), rows, bytes."""
    rows = [_row(root, artifact) for artifact in artifacts(root)]
    lines = [
        f"{r['kind']:<12} {r['name']:<28} {r['id']}{'*' if r['current'] else ' '} {r['rows']:>9,} rows {r['bytes']:>14,} bytes"
        for r in rows
    ]
    return "\n".join(lines) or f"nothing has been built under {root} yet; try: rdm demo", {"artifacts": rows}


def one_artifact(root: Path, reference: str) -> Result:
    """One artifact's parameters, inputs, counts and measurements."""
    artifact = _opened(root, reference)
    value = _row(root, artifact) | {"fingerprint": artifact.fingerprint, "inputs": dict(artifact.inputs)}
    value |= {"parameters": dict(artifact.parameters), "counts": artifact.counts, "measured": dict(artifact.measured)}
    return "\n".join(_lines(value)), value


def image_record(path: Path) -> Result:
    """How an image that `rdm sample` wrote was made, and who stood behind it."""
    if not path.is_file():
        raise ArtifactMissing(path, "there is no such file", "Give the path of a PNG that `rdm sample` wrote.")
    record = read_record(path.read_bytes(), str(path))
    return "\n".join(_lines(record)), record


def checked_artifacts(root: Path, reference: str | None) -> Result:
    """Compare sizes and hashes with the manifests. Raises ArtifactDamaged for the first that differs."""
    found = [_opened(root, reference)] if reference else artifacts(root)
    for artifact in found:
        check(artifact, hashes=True)
    files = sum(len(part.files) for artifact in found for part in artifact.parts)
    return f"{len(found)} artifacts, {files} files: every size and hash is as written", {
        "artifacts": len(found),
        "files": files,
    }


def _opened(root: Path, reference: str) -> Artifact:
    kind, slash, name = reference.partition("/")
    if not slash:
        raise ArtifactMissing(reference, "this names no artifact", "Write kind/name, as `rdm show` lists them.")
    return open_artifact(root, kind, name)


def _row(root: Path, artifact: Artifact) -> dict[str, Any]:
    size = sum(f.bytes for part in artifact.parts for f in part.files)
    row = {"kind": artifact.kind, "name": artifact.name, "id": artifact.id, "current": is_current(root, artifact)}
    return row | {"rows": artifact.rows, "bytes": size, "directory": str(artifact.directory)}


def _lines(value: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for key, item in value.items():
        if isinstance(item, dict) and item:
            lines += [f"{indent}{key}:", *_lines(item, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {item}")
    return lines
