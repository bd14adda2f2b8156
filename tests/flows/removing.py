"""Taking samples out of a database, as several files of tests do it."""

from flows.config.database import BuildDatabase, RemoveKeys
from flows.data.build_database import embed_images
from flows.data.remove import remove_keys
from storage.artifact import open_artifact
from storage.embeddings import read_columns
from storage.shards import read_sidecar

ENCODER = {"encoder": "rdm-shapes", "weights": "built-in"}


def keys_in(root, name="shapes"):
    return read_columns(open_artifact(root, "embeddings", name), ["key"])["key"].to_pylist()


def asking(root, *keys, database="shapes", **options):
    """The request of a removal, with its file of keys."""
    lines = ["# asked for by the author", *keys]
    (root / "keys.txt").write_text("\n\n".join(lines) + "\n")
    return RemoveKeys(root=root, database=database, keys_file=root / "keys.txt", **options)


def remove(root, *keys, **options):
    return remove_keys(asking(root, *keys, **options))


def embed(root, name="shapes"):
    return embed_images(BuildDatabase(root=root, name=name, shards="shapes", **ENCODER))


def state_of(root):
    """When each file and folder under the root was changed last."""
    changed = {}
    for path in root.rglob("*"):
        if path.name != "keys.txt":
            changed[path] = path.stat().st_mtime_ns
    return changed


def no_encoder(*_):
    raise AssertionError("the encoder was asked for")


def shard_of(root, key):
    """The name of the shard that holds a key."""
    shards = open_artifact(root, "shards", "shapes")
    for part in shards.parts:
        if key in read_sidecar(shards, part.name, ["key"])["key"].to_pylist():
            return part.name
    raise AssertionError(f"no shard holds {key}")
