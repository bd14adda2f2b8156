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
    (root / "keys.txt").write_text(
        "# asked for by the author\n" + "".join(f"{key}\n\n" for key in keys)
    )
    return RemoveKeys(root=root, database=database, keys_file=root / "keys.txt", **options)


def remove(root, *keys, **options):
    return remove_keys(asking(root, *keys, **options))


def embed(root, name="shapes"):
    return embed_images(BuildDatabase(root=root, name=name, shards="shapes", **ENCODER))


def state_of(root):
    return {
        path: path.stat().st_mtime_ns
        for path in root.rglob("*")
        if path.name != "keys.txt" and path != root
    }


def no_encoder(*_):
    raise AssertionError("the encoder was asked for")


def shard_of(root, key):
    shards = open_artifact(root, "shards", "shapes")
    return next(
        p.name
        for p in shards.parts
        if key in read_sidecar(shards, p.name, ["key"])["key"].to_pylist()
    )
