"""What was taken out of a database stays out, whatever is built later or ends a removal."""

import shutil
import sys

import pytest
from removing import ENCODER, embed, keys_in, remove, shard_of

from flows.config.database import BuildDatabase, FindNeighbors
from flows.config.images import ImportImages
from flows.data.build_database import build_database
from flows.data.find_neighbors import find_neighbors
from flows.data.import_images import import_images
from storage.artifact import open_artifact
from storage.collect import collect
from storage.errors import BuildRefused
from storage.holders import holders
from storage.index import open_index_of, open_vectors
from storage.neighbors import NO_ROW, read_neighbors
from storage.removals import read_removals


def test_old_versions_that_no_run_needs_are_told_to_go_and_go(root):
    old, key = open_artifact(root, "embeddings", "shapes"), keys_in(root)[5]
    _, value = remove(root, key).answer()
    assert value["runs"] == []
    assert [holder["reference"] for holder in value["holders"] if holder["goes_with_gc"]] == [
        old.reference
    ]
    collect(root, keep=1)
    assert not old.directory.exists()
    assert [holder.reference.partition("/")[0] for holder in holders(root, {key})] == ["shards"]


def test_embedding_anew_gives_the_parts_the_same_origin_as_filtering_did(root):
    one, *_, other = keys_in(root)
    neighbor = keys_in(root)[1]
    assert shard_of(root, neighbor) == shard_of(root, one)
    remove(root, one)
    remove(root, neighbor, other)
    filtered = open_artifact(root, "embeddings", "shapes")
    shutil.copytree(root / "embeddings" / "shapes", root / "embeddings" / "fresh")
    for path in (root / "embeddings" / "fresh").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.name == "current" and path.unlink()
    fresh = embed(root, "fresh")
    assert keys_in(root, "fresh") == keys_in(root, "shapes") and len(keys_in(root)) == 93
    assert [part.made_from for part in fresh.parts] == [part.made_from for part in filtered.parts]


def test_a_database_whose_shards_are_gone_can_still_be_cleaned(root):
    shutil.rmtree(root / "shards")
    first, second = keys_in(root)[:2]
    remove(root, first)
    assert remove(root, second).rows == 1 and len(keys_in(root)) == 94


def test_a_removal_killed_after_the_list_is_carried_on_by_the_next_build_and_by_itself(
    searched, monkeypatch
):
    root, key = searched, keys_in(searched)[0]

    def killed(config):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("flows.data.remove.filter_embeddings", killed)
        remove(root, key)
    assert key in keys_in(root) and read_removals(root, "shapes") == {key}
    embed(root)
    assert key not in keys_in(root) and len(keys_in(root)) == 95
    remove(root, key)
    database = open_artifact(root, "embeddings", "shapes")
    assert len(open_vectors(open_index_of(root, database))) == 95
    assert open_artifact(root, "neighbors", "shapes").inputs["database"] == database.fingerprint


def test_the_table_of_another_database_with_the_same_bytes_stays_as_it_is(searched):
    root, key = searched, keys_in(searched)[0]
    build_database(BuildDatabase(root=root, name="twin", shards="shapes", **ENCODER))
    table = find_neighbors(FindNeighbors(root=root, name="twin", queries="twin", database="twin"))
    twin = open_artifact(root, "embeddings", "twin")
    shapes = open_artifact(root, "embeddings", "shapes")
    assert twin.fingerprint == shapes.fingerprint
    removal = remove(root, key)
    assert "neighbors/twin" not in {one.reference.partition("@")[0] for one in removal.published}
    assert open_artifact(root, "neighbors", "twin") == table
    own = open_artifact(root, "neighbors", "shapes")
    assert own.inputs["database"] == open_artifact(root, "embeddings", "shapes").fingerprint
    assert removal.stale == () and key in keys_in(root, "twin")


def test_a_build_that_was_embedding_while_keys_were_removed_is_not_published(root, monkeypatch):
    key = keys_in(root)[0]
    drawn = {"size": 32, "encoding": "png", "split": "shapes", "images_per_part": 40}
    import_images(ImportImages(root=root, name="shapes", source="shapes", count=97, **drawn))
    module = sys.modules["flows.data.build_database"]
    real = module.embed_parts

    def removed_meanwhile(*arguments):
        remove(root, key)
        return real(*arguments)

    monkeypatch.setattr(module, "embed_parts", removed_meanwhile)
    with pytest.raises(
        BuildRefused, match="keys were removed from it.*rdm gc --unfinished embeddings/shapes"
    ):
        embed(root)
    assert key not in keys_in(root)
    collect(root, None, unfinished_of="embeddings/shapes")
    monkeypatch.undo()
    embed(root)
    assert key not in keys_in(root) and len(keys_in(root)) == 96


def test_a_table_under_a_condition_is_made_again_under_it_and_not_where_no_row_is_left(searched):
    root = searched
    first, second, *_ = keys_in(root)
    for name, kept in {"two": (first, second), "one": (first,)}.items():
        listed = ", ".join(f"'{key}'" for key in kept)
        find_neighbors(
            FindNeighbors(
                root=root, name=name, queries="shapes", database="shapes", k=2,
                where=f"key IN ({listed})",
            )
        )  # fmt: skip
    removal = remove(root, first)
    assert [reference.partition("@")[0] for reference in removal.stale] == ["neighbors/one"]
    table = open_artifact(root, "neighbors", "two")
    assert table.parameters["where_rows"] == 1
    _, rows, _ = read_neighbors(table)
    assert set(rows.ravel().tolist()) == {NO_ROW, keys_in(root).index(second)}
