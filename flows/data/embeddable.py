"""What keeps a database from being embedded as it was asked for."""

from collections.abc import Set

from flows.config.database import BuildDatabase
from storage.artifact import Artifact
from storage.embeddings import without_keys
from storage.errors import BuildRefused, StorageError
from storage.removals import read_removals, removed_from_shard
from storage.shards import accepted, read_sidecar


def refuse_without_captions(config: BuildDatabase, shards: Artifact, removed: Set[str]) -> None:
    """Raise StorageError where an image that is to be embedded has no caption."""
    count, without = 0, []
    for part in shards.parts:
        sidecar = accepted(read_sidecar(shards, part.name, ["key", "status", "captions"]))
        sidecar = without_keys(sidecar, set(removed_from_shard(shards, part.name, removed)))
        count += len(sidecar)
        for row in sidecar.to_pylist():
            if not row["captions"]:
                without.append(row["key"])
    if without:
        what = f"{len(without):,} of {count:,} images have no caption, the first is {without[0]!r}"
        cure = "Embed the images alone (--set of=image), or import them again with captions."
        raise StorageError(f"shards/{shards.name}", f"{what}; of={config.of} embeds captions", cure)


def refuse_if_removed_meanwhile(config: BuildDatabase, removed: Set[str]) -> None:
    """Raise BuildRefused when the removal list grew while the database was embedded: no key may
    come back.
    """
    if read_removals(config.root, config.name) != removed:
        raise BuildRefused(
            f"embeddings/{config.name}",
            "keys were removed from it while this build was embedding them",
            "Drop this build and run the same command again: "
            f"rdm gc --unfinished embeddings/{config.name}",
        )
