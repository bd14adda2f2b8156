"""Versions to collect."""

from storage.artifact import artifacts
from storage.manifest import Plan


def shards(size, name="paintings", **inputs):
    return Plan("shards", name, {"size": size}, inputs)


def versions(root, kind="shards", name="paintings"):
    return [artifact.version for artifact in artifacts(root, kind, name)]
