"""What is under a root: list it, explain one thing, check it, tell its history, drop the old.
Prints nothing itself.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.model.resume import Begun, at_step, begun
from rdm_core.provenance import read_record
from storage import layout
from storage.artifact import Artifact, artifacts, check, is_current, open_artifact, unreadable
from storage.collect import Removed, builder_of, collect
from storage.errors import ArtifactDamaged, ArtifactMissing
from storage.mirror import path_or_url
from storage.text import on_one_line
from storage.unfinished import follow_records, unfinished
from storage.versions import Change, Version, history

Result = tuple[str, dict[str, Any]]
Unfinished = tuple[list[str], dict[str, Any]]
"""Lines, and the same for a machine."""
WORDS = {
    "version": "",
    "unfinished": "unfinished build",
    "leftover": "left by a removal that was killed",
    "states": "training states; the run is finished",
}
"""Kind of a removed directory -> its name in the answer."""


def table_of_artifacts(root: Path) -> Result:
    """Every artifact: kind, name, id (* = current), rows, bytes; then what cannot be read and what
    is not finished.
    """
    rows, lines = [], []
    for artifact in artifacts(root):
        row = _row(root, artifact)
        rows.append(row)
        lines.append(
            f"{row['kind']:<12} {row['name']:<28} {row['id']}{'*' if row['current'] else ' '} "
            f"{row['rows']:>9,} rows {row['bytes']:>14,} bytes"
        )
    more, value = _not_whole(root)
    nothing = f"nothing has been built under {path_or_url(root)} yet; try: rdm demo"
    return "\n".join(lines + more) or nothing, {"artifacts": rows} | value


def one_artifact(root: Path, reference: str) -> Result:
    """One artifact's parameters, inputs, counts, measurements, and what is unfinished of its name.

    Where nothing is finished that alone. Raises ArtifactMissing where there is neither.
    """
    lines, more = _unfinished_of(root, reference)
    try:
        artifact = _opened(root, reference)
    except ArtifactMissing:
        if not lines:
            raise
        return "\n".join(lines), more
    value = _row(root, artifact) | {
        "fingerprint": artifact.fingerprint,
        "inputs": dict(artifact.inputs),
    }
    value |= {
        "parameters": dict(artifact.parameters),
        "counts": artifact.counts,
        "measured": dict(artifact.measured),
    }
    return "\n".join(_lines(value) + lines), value | more


def image_record(path: Path) -> Result:
    """How an image that `rdm sample` wrote was made, and who stood behind it."""
    if not path.is_file():
        raise ArtifactMissing(
            path, "there is no such file", "Give the path of a PNG that `rdm sample` wrote."
        )
    record = read_record(path.read_bytes(), str(path))
    return "\n".join(_lines(record)), record


def checked_artifacts(root: Path, reference: str | None) -> Result:
    """Compare sizes and hashes with the manifests. Raises ArtifactDamaged for everything that
    differs, all in one message.
    """
    # Manifests that cannot be read are damage too, but belong to no named artifact.
    if reference:
        checked, errors = [_opened(root, reference)], []
    else:
        checked, errors = artifacts(root), list(unreadable(root))
    # All damage goes into one message: one run of the command is enough to see it.
    count = len(checked) + len(errors)
    files = 0
    for artifact in checked:
        try:
            check(artifact, hashes=True)
        except ArtifactDamaged as error:
            errors.append(error)
        files += sum(len(part.files) for part in artifact.parts)
    if errors:
        damage = "".join(f"\n  {error.where}: {error.what}" for error in errors)
        cure = (
            "\nRun the command that builds it again: what is whole is kept. "
            "Old versions go with rdm gc --keep 1."
        )
        raise ArtifactDamaged(root, f"damaged: {len(errors)} of {count}{damage}", cure)
    value = {"artifacts": len(checked), "files": files}
    return f"{len(checked)} artifacts, {files} files: every size and hash is as written", value


def log_of(root: Path, reference: str) -> Result:
    """Which versions there are of kind/name, or of a name in every kind: when, from what, how many
    rows, what changed.
    """
    # Without a slash the reference is a name, which every kind may have.
    kind, slash, name = reference.partition("/")
    kinds, name = ([kind], name) if slash else (list(layout.KINDS), kind)
    versions: list[dict[str, Any]] = []
    lines: list[str] = []
    for kind in kinds:
        for version in history(root, kind, name):
            versions.append(_version_value(version))
            lines += _version_lines(version)
    more, value = _not_whole(root, kinds, name)
    if not versions and not more:
        names = sorted({artifact.name for artifact in artifacts(root)})
        present = f"Names: {', '.join(names)}." if names else "Nothing has been built there."
        raise ArtifactMissing(root, f"there is no version of {reference}", present)
    return "\n".join(lines + more), {"versions": versions} | value


def collected(root: Path, keep: int | None, unfinished_of: str, dry_run: bool) -> Result:
    """Drop what nothing needs; in a dry run only say what that is."""
    done = collect(root, keep, unfinished_of, dry_run)
    lines, removed, total = [], [], 0
    for gone in done.removed:
        lines.append(f"{gone.reference:<44} {gone.freed:>14,} bytes  {_what_went(gone)}".rstrip())
        removed.append(
            {
                "artifact": gone.reference,
                "what": gone.what,
                "version": gone.version,
                "freed": gone.freed,
            }
        )
        total += gone.freed
    for reference, why in done.untouched.items():
        lines.append(f"{reference:<44} not touched: {why}")
    would = "would be" if dry_run else "were"
    lines.append(
        f"{len(done.removed)} {would} removed, {total:,} bytes freed; "
        f"{len(done.kept)} versions stay"
    )
    value = {"dry_run": dry_run, "removed": removed, "freed": total, "kept": dict(done.kept)}
    return "\n".join(lines), value | {"untouched": dict(done.untouched)}


def _what_went(gone: Removed) -> str:
    return f"version {gone.version}" if gone.what == "version" else WORDS[gone.what]


def _unfinished_of(root: Path, reference: str) -> Unfinished:
    """The unfinished builds of kind/name, or the one of kind/name@id."""
    kind, _, name = reference.partition("/")
    name, _, identity = name.partition("@")
    if kind not in layout.KINDS or not name:
        return [], {"unfinished": []}
    builds = unfinished(root, kind, layout.checked_name(name))
    return _describe_unfinished([path for path in builds if identity in ("", path.name)])


def _not_whole(root: Path, kinds: Sequence[str] = ("*",), name: str = "*") -> Unfinished:
    """Lines and values for what cannot be read and what is not finished."""
    lines: list[str] = []
    errors: list[dict[str, Any]] = []
    builds: list[Path] = []
    for kind in kinds:
        for error in unreadable(root, kind, name):
            lines.append(f"cannot be read: {error}")
            errors.append({"where": error.where, "what": error.what, "cure": error.cure})
        builds += unfinished(root, kind, name)
    lines_of_builds, value = _describe_unfinished(builds)
    return lines + lines_of_builds, {"unreadable": errors} | value


def _describe_unfinished(directories: Sequence[Path]) -> Unfinished:
    """Each build's line, and the same for a machine: how far it is, and which process builds it."""
    lines, values = [], []
    for directory in directories:
        builder, run = builder_of(directory), begun(directory)
        lines.append(_unfinished_line(directory, builder, run))
        steps = {"step": run.step, "steps": run.steps} if run else {"step": None, "steps": None}
        values.append({"directory": str(directory), "built_by": builder} | steps)
    return lines, {"unfinished": values}


def _unfinished_line(directory: Path, builder: str | None, run: Begun | None) -> str:
    kind, name, identity = directory.parts[-3:]
    state = f"unfinished, {at_step(run.step, run.steps)}" if run else _parts_so_far(directory)
    left = f"left; run its command again, or: rdm gc --unfinished {kind}/{name}"
    state += f", being built by {builder}" if builder else f", {left}"
    return f"{kind:<12} {name:<28} {identity}  {state}"


def _parts_so_far(directory: Path) -> str:
    follow_records(directory)  # of a root in a bucket, the records are fetched first
    return f"{len(layout.parts_on_record(directory)):,} parts so far"


def _version_value(version: Version) -> dict[str, Any]:
    artifact, change = version.artifact, version.change
    value = {
        "kind": artifact.kind,
        "name": artifact.name,
        "version": artifact.version,
        "id": artifact.id,
    }
    value |= {
        "created_at": artifact.created_at,
        "seconds": artifact.measured.get("seconds"),
        "current": version.current,
    }
    inputs = {}
    for role, (fingerprint, reference) in version.inputs.items():
        inputs[role] = {"fingerprint": fingerprint, "artifact": reference}
    value |= {"rows": artifact.rows, "bytes": artifact.bytes, "inputs": inputs}
    return value | {"change": asdict(change) if change else None}


def _version_lines(version: Version) -> list[str]:
    artifact, seconds = version.artifact, version.artifact.measured.get("seconds")
    took = f"  {seconds:,.1f} s" if isinstance(seconds, int | float) else ""
    size = f"{artifact.rows:,} rows  {artifact.bytes:,} bytes"
    current = " (current)" if version.current else ""
    head = f"{artifact.kind}/{artifact.name} version {artifact.version}{current}"
    lines = [f"{head}  {artifact.id}  {artifact.created_at}{took}  {size}"]
    for role, (fingerprint, reference) in version.inputs.items():
        source = reference or f"{fingerprint} (no artifact under this root)"
        lines.append(f"    from {role} {source}")
    return lines + (_change_lines(version.change) if version.change else [])


def _change_lines(change: Change) -> list[str]:
    lines = []
    for key, before, now in change.parameters:
        lines.append(f"    {key}: {json.dumps(before)} -> {json.dumps(now)}")
    for role, before, now in change.inputs:
        lines.append(f"    input {role}: {before} -> {now}")
    parts = (
        f"{len(change.taken_over):,} taken over, {len(change.made):,} made, "
        f"{len(change.dropped):,} dropped"
    )
    rows = f"{change.rows_added:,} added, {change.rows_removed:,} removed"
    return [*lines, f"    against version {change.against}: parts {parts}; rows {rows}"]


def _opened(root: Path, reference: str) -> Artifact:
    kind, slash, name = reference.partition("/")
    if not slash:
        raise ArtifactMissing(
            reference, "this names no artifact", "Write kind/name, as `rdm show` lists them."
        )
    return open_artifact(root, kind, name)


def _row(root: Path, artifact: Artifact) -> dict[str, Any]:
    row = {
        "kind": artifact.kind,
        "name": artifact.name,
        "id": artifact.id,
        "current": is_current(root, artifact),
    }
    row |= {"version": artifact.version, "rows": artifact.rows, "bytes": artifact.bytes}
    return row | {"directory": str(artifact.directory)}


def _lines(value: dict[str, Any], indent: str = "") -> list[str]:
    lines = []
    for key, item in value.items():
        if isinstance(item, dict) and item:
            lines += [f"{indent}{on_one_line(key)}:", *_lines(item, indent + "  ")]
        else:
            lines.append(f"{indent}{on_one_line(key)}: {on_one_line(item)}")
    return lines
