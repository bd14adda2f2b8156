"""A database without some images is published, and all that is made from it; who has seen them is
named.
"""

import json
import shutil
import sys
from types import SimpleNamespace

import pytest
from removing import ENCODER, asking, embed, keys_in, no_encoder, remove, state_of

from flows.config.database import BuildDatabase, FindNeighbors
from flows.config.images import ImportImages
from flows.config.sample import SampleRDM
from flows.data.build_database import build_database
from flows.data.find_neighbors import find_neighbors
from flows.data.import_images import import_images
from flows.data.rehearse import rehearse
from flows.model.sample import sample_rdm
from storage.artifact import artifacts, check, open_artifact
from storage.embeddings import read_columns
from storage.index import open_index_of, open_vectors
from storage.neighbors import read_neighbors
from storage.samples import read_samples


@pytest.fixture(scope="module")
def taken_out(small_world, tmp_path_factory):
    """Two images taken out of the database of a whole world: one by its source key, one by its
    key.
    """
    root = tmp_path_factory.mktemp("taken-out")
    names_of = dict.fromkeys(("shards", "embeddings", "index"), ("shapes", "sketches"))
    names_of |= {"neighbors": ("shapes",), "latents": ("shapes",), "runs": ("small",)}
    for kind, names in names_of.items():
        for name in names:
            shutil.copytree(small_world.root / kind / name, root / kind / name)
    asked = {
        "queries": "sketches",
        "database": "shapes",
        "k": 5,
        "group": "style",
        "score_cap": 0.9,
    }
    find_neighbors(FindNeighbors(root=root, name="cross", **asked))
    few = {"draw": {"steps": 2}, "count": 2, "k": 3}
    samples = sample_rdm(SampleRDM(root=root, name="drawn", run="small", **few))
    before, old = keys_in(root), open_artifact(root, "embeddings", "shapes")
    drawn = read_samples(samples)[0]["neighbor_keys"][0]
    gone = [drawn, next(key for key in before if key != drawn)]
    asked = [drawn.rpartition("-")[0], gone[1]]
    state = state_of(root)
    rehearsal = rehearse(asking(root, *asked))
    untouched = state_of(root) == state
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.data.encoders.encoder_of", no_encoder)
        removal = remove(root, *asked)
    return SimpleNamespace(
        root=root, before=before, old=old, asked=asked, gone=gone, removal=removal, samples=samples,
        rehearsal=rehearsal, untouched=untouched,
    )  # fmt: skip


def test_a_rehearsal_names_rows_tables_runs_and_samples_and_changes_nothing(taken_out):
    text, value = taken_out.rehearsal
    assert taken_out.untouched
    assert sorted(value["rows_removed"]) == sorted(taken_out.gone)
    tables = ["neighbors/cross", "neighbors/shapes"]
    assert [name.partition("@")[0] for name in value["searched_again"]] == tables and value[
        "stale"
    ] == []
    assert value["runs"] == taken_out.removal.answer()[1]["runs"] and len(value["runs"]) == 1
    assert taken_out.samples.reference in {one["reference"] for one in value["holders"]}
    for told in (
        "2 rows would be taken out",
        *taken_out.gone,
        "runs/small@",
        "nothing has changed",
    ):
        assert told in text
    drawn = text.index("drawn from them:")
    assert drawn < text.index(taken_out.samples.reference) < text.index("hold them today:")


def test_the_database_is_published_without_them_every_other_row_as_it_was(taken_out):
    new = open_artifact(taken_out.root, "embeddings", "shapes")
    columns = ["key", "embedding", "norm", "licence"]
    rest = [row for row, key in enumerate(taken_out.before) if key not in taken_out.gone]
    assert (
        new == taken_out.removal.published[0] and new.version == 2 and taken_out.removal.rows == 2
    )
    assert read_columns(new, columns).equals(read_columns(taken_out.old, columns).take(rest))
    check(new)


def test_a_part_that_held_none_of_them_stays_the_same_file(taken_out):
    new = open_artifact(taken_out.root, "embeddings", "shapes")
    touched = 0
    for old, now in zip(taken_out.old.parts, new.parts, strict=True):
        is_touched = old.made_from != now.made_from
        same = new.file(f"{now.name}.parquet").samefile(taken_out.old.file(f"{old.name}.parquet"))
        assert same != is_touched and (old.rows > now.rows) == is_touched
        touched += is_touched
    assert touched


def test_the_index_is_over_the_new_rows_by_the_recipe_it_had(taken_out):
    new = open_artifact(taken_out.root, "embeddings", "shapes")
    index = open_index_of(taken_out.root, new)
    assert (
        index == open_artifact(taken_out.root, "index", "shapes") and len(open_vectors(index)) == 94
    )
    assert index.parameters["recipe"] == "exact" and index.measured["recall_queries"] == 94


def test_every_neighbor_table_that_named_the_database_is_made_again_with_its_own_k_and_queries(
    taken_out,
):
    own = open_artifact(taken_out.root, "neighbors", "shapes")
    cross = open_artifact(taken_out.root, "neighbors", "cross")
    database = open_artifact(taken_out.root, "embeddings", "shapes")
    sketches = open_artifact(taken_out.root, "embeddings", "sketches")
    assert own.inputs == {"queries": database.fingerprint, "database": database.fingerprint}
    assert cross.inputs == {"queries": sketches.fingerprint, "database": database.fingerprint}
    assert own.parameters == {"k": 20, "exclusion": "source_key", "search": "exact"}
    assert cross.parameters == own.parameters | {"k": 5, "group": "style", "score_cap": 0.9}
    queries, rows, _ = read_neighbors(own)
    assert queries == keys_in(taken_out.root) and rows.max() < 94
    assert {artifact.reference for artifact in taken_out.removal.published} >= {
        own.reference,
        cross.reference,
    }
    assert taken_out.removal.stale == ()


def test_the_runs_that_were_trained_on_them_are_named_with_what_held_them(taken_out):
    (run,) = taken_out.removal.runs
    assert (
        run.reference == open_artifact(taken_out.root, "runs", "small").reference and run.finished
    )
    assert (
        set(run.held) == {"database", "index", "latents", "neighbors"}
        and run.held["database"] == taken_out.old.reference
    )


def test_everything_that_still_holds_them_is_named_and_whether_a_collection_takes_it(taken_out):
    text, value = taken_out.removal.answer()
    json.dumps(value)
    held = {holder["reference"]: holder for holder in value["holders"]}
    kinds = {reference.partition("@")[0] for reference in held}
    wanted = {
        "shards/shapes",
        "latents/shapes",
        "embeddings/shapes",
        "index/shapes",
        "neighbors/shapes",
        "samples/drawn",
    }
    assert kinds - {"neighbors/cross"} == wanted
    assert taken_out.removal.published[0].reference not in held, "the new versions hold none"
    assert set(held[taken_out.old.reference]["keys"]) == set(taken_out.gone)
    run = open_artifact(taken_out.root, "runs", "small").reference
    assert held[taken_out.old.reference]["stays_because"] == f"input of {run} (current)"
    for reference, holder in held.items():
        if holder["goes_with_gc"]:
            assert reference.startswith("neighbors/cross@"), "what the run was trained on stays"
    for said in (
        *held,
        run,
        "rdm gc --keep 1",
        "taken out of the source and imported again",
        "2 rows taken out",
    ):
        assert said in text


def test_a_rebuild_of_the_same_shards_does_nothing_and_loads_nothing_anew(taken_out, capfd):
    build_database(BuildDatabase(root=taken_out.root, name="shapes", shards="shapes", **ENCODER))
    find_neighbors(
        FindNeighbors(root=taken_out.root, name="shapes", queries="shapes", database="shapes")
    )
    said = capfd.readouterr().err
    assert said.count(" kept ") == 3 and " built " not in said
    assert (
        open_artifact(taken_out.root, "embeddings", "shapes") == taken_out.removal.published[0]
    ), "not the version before"


def test_the_same_removal_again_changes_nothing(taken_out):
    before = {artifact.reference for artifact in artifacts(taken_out.root)}
    again = remove(taken_out.root, *taken_out.asked)
    assert (
        again.rows == 0 and {artifact.reference for artifact in artifacts(taken_out.root)} == before
    )


def test_new_images_come_in_and_the_removed_stay_out(taken_out, tmp_path, monkeypatch):
    root = shutil.copytree(taken_out.root, tmp_path / "root")
    before = {part.made_from for part in open_artifact(root, "shards", "shapes").parts}
    drawn = {"size": 32, "encoding": "png", "split": "shapes", "images_per_part": 40}
    shards = import_images(
        ImportImages(root=root, name="shapes", source="shapes", count=100, **drawn)
    )
    module, embedded = sys.modules["flows.data.build_database"], []
    real = module.embed_parts
    monkeypatch.setattr(
        module, "embed_parts", lambda *all_: embedded.extend(all_[2]) or real(*all_)
    )
    embed(root)
    changed = [part.name for part in shards.parts if part.made_from not in before]
    assert embedded == changed and len(embedded) < 3
    assert len(keys_in(root)) == 98 and not set(keys_in(root)) & set(taken_out.gone)
