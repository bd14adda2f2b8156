"""A sample can be taken out again: nothing brings it back, and everybody who has seen it is
named.
"""

import json
import shutil
import sys
from types import SimpleNamespace

import pytest

from flows.cli import main
from flows.config.database import BuildDatabase, FindNeighbors, RemoveKeys
from flows.config.images import ImportImages
from flows.config.sample import SampleRDM
from flows.data.build_database import build_database, embed_images
from flows.data.find_neighbors import find_neighbors
from flows.data.import_images import import_images
from flows.data.rehearse import rehearse
from flows.data.remove import remove_keys
from flows.model.sample import sample_rdm
from storage.artifact import artifacts, check, open_artifact
from storage.build import begin
from storage.collect import collect
from storage.embeddings import read_columns
from storage.errors import ArtifactDamaged, BuildRefused, StorageError
from storage.holders import holders
from storage.index import open_index_of, open_vectors
from storage.manifest import Plan
from storage.neighbors import read_neighbors
from storage.parquet import read_table, vectors_of
from storage.removals import read_removals, removals_file
from storage.samples import read_samples
from storage.shards import read_sidecar
from storage.unfinished import unfinished

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


@pytest.fixture
def root(small_world, tmp_path):
    """Shards and embeddings of one's own: a database without an index, as queries are."""
    for kind in ("shards", "embeddings"):
        shutil.copytree(small_world.root / kind / "shapes", tmp_path / kind / "shapes")
    return tmp_path


@pytest.fixture
def searched(small_world, root):
    """With index, neighbor table and latents."""
    for kind in ("index", "neighbors", "latents"):
        shutil.copytree(small_world.root / kind / "shapes", root / kind / "shapes")
    return root


@pytest.fixture(scope="module")
def taken_out(small_world, tmp_path_factory):
    """Two images taken out of the database of a whole world: one by its source key, one by its
    key.
    """
    root = tmp_path_factory.mktemp("taken-out")
    for kind, names in {
        "shards": 2,
        "embeddings": 2,
        "index": 2,
        "neighbors": 1,
        "latents": 1,
        "runs": 1,
    }.items():
        for name in ("shapes", "sketches")[:names] if kind != "runs" else ("small",):
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
        patch.setattr("flows.data.build_database.encoder_of", no_encoder)
        removal = remove(root, *asked)
    return SimpleNamespace(
        root=root, before=before, old=old, asked=asked, gone=gone, removal=removal, samples=samples,
        rehearsal=rehearsal, untouched=untouched,
    )  # fmt: skip


# What is rehearsed


def test_a_rehearsal_names_rows_tables_runs_and_samples_and_changes_nothing(taken_out):
    text, value = taken_out.rehearsal
    assert taken_out.untouched
    assert sorted(value["rows_removed"]) == sorted(taken_out.gone)
    tables = ["neighbors/cross", "neighbors/shapes"]
    assert [name.partition("@")[0] for name in value["searched_again"]] == tables and value[
        "stale"
    ] == []
    assert value["runs"] == taken_out.removal.told()[1]["runs"] and len(value["runs"]) == 1
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


def test_a_rehearsal_is_refused_as_the_removal_would_be(root):
    with pytest.raises(StorageError, match="does not hold nobody"):
        rehearse(asking(root, "nobody"))


def test_the_dry_run_of_the_command_is_the_rehearsal(root, capsys, monkeypatch):
    monkeypatch.setattr("flows.cli.signal.signal", lambda *_: None)
    config = asking(root, "shapes-shapes-000001")
    words = [
        "--root",
        str(root),
        "--database",
        "shapes",
        "--keys",
        str(config.keys_file),
        "--dry-run",
    ]
    assert main(["remove", *words]) == 0
    told = capsys.readouterr().out
    assert told.startswith("1 rows would be taken out of the database shapes; nothing has changed")
    assert "  shapes-shapes-000001-00\n" in told and "no sample was drawn from them" in told
    assert not removals_file(root, "shapes").exists()


# What is published


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
    touched = [
        old.made_from != now.made_from
        for old, now in zip(taken_out.old.parts, new.parts, strict=True)
    ]
    for old, now, is_touched in zip(taken_out.old.parts, new.parts, touched, strict=True):
        same = new.file(f"{now.name}.parquet").samefile(taken_out.old.file(f"{old.name}.parquet"))
        assert same != is_touched and (old.rows > now.rows) == is_touched
    assert any(touched)


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
    own, cross = (open_artifact(taken_out.root, "neighbors", name) for name in ("shapes", "cross"))
    database, sketches = (
        open_artifact(taken_out.root, "embeddings", name) for name in ("shapes", "sketches")
    )
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


# What is told


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
    text, value = taken_out.removal.told()
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
    goes = {
        reference.partition("@")[0] for reference, holder in held.items() if holder["goes_with_gc"]
    }
    assert goes <= {"neighbors/cross"}, "what the run was trained on stays with it"
    for said in (
        *held,
        run,
        "rdm gc --keep 1",
        "taken out of the source and imported again",
        "2 rows taken out",
    ):
        assert said in text


def test_old_versions_that_no_run_needs_are_told_to_go_and_go(root):
    old, key = open_artifact(root, "embeddings", "shapes"), keys_in(root)[5]
    _, value = remove(root, key).told()
    assert value["runs"] == []
    assert [holder["reference"] for holder in value["holders"] if holder["goes_with_gc"]] == [
        old.reference
    ]
    collect(root, keep=1)
    assert not old.directory.exists()
    assert [holder.reference.partition("/")[0] for holder in holders(root, {key})] == ["shards"]


# Nothing brings them back


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
    assert (
        embedded == [part.name for part in shards.parts if part.made_from not in before]
        and len(embedded) < 3
    )
    assert len(keys_in(root)) == 98 and not set(keys_in(root)) & set(taken_out.gone)


def test_embedding_anew_gives_the_parts_the_same_origin_as_filtering_did(root):
    one, *_, other = keys_in(root)
    neighbor = next(
        key for key in keys_in(root) if key != one and shard_of(root, key) == shard_of(root, one)
    )
    remove(root, one)
    remove(root, neighbor, other)
    filtered = open_artifact(root, "embeddings", "shapes")
    shutil.copytree(root / "embeddings" / "shapes", root / "embeddings" / "fresh")
    for path in (root / "embeddings" / "fresh").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.name == "current" and path.unlink()
    fresh = embed(root, "fresh")
    assert keys_in(root, "fresh") == keys_in(root, "shapes") and len(keys_in(root)) == 93
    assert [part.made_from for part in fresh.parts] == [part.made_from for part in filtered.parts]


def shard_of(root, key):
    shards = open_artifact(root, "shards", "shapes")
    return next(
        p.name
        for p in shards.parts
        if key in read_sidecar(shards, p.name, ["key"])["key"].to_pylist()
    )


def test_a_database_whose_shards_are_gone_can_still_be_cleaned(root):
    shutil.rmtree(root / "shards")
    first, second = keys_in(root)[:2]
    remove(root, first)
    assert remove(root, second).rows == 1 and len(keys_in(root)) == 94


def test_a_removal_killed_after_the_list_is_carried_on_by_the_next_build_and_by_itself(
    searched, monkeypatch
):
    root, key = searched, keys_in(searched)[0]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            "flows.data.remove.filter_embeddings",
            lambda config: (_ for _ in ()).throw(KeyboardInterrupt()),
        )
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
    twin, shapes = (open_artifact(root, "embeddings", name) for name in ("twin", "shapes"))
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


# What is refused, before anything has changed


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            ["shapes-shapes-000001", "nobody", "no-00"],
            "does not hold nobody, no-00. Nothing was changed.*--missing-ok",
        ),
        ([], "names no key"),
        (["shapes-shapes"], "does not hold shapes-shapes"),
        ([f"shapes-shapes-{number:06d}" for number in range(96)], "nothing would be left"),
    ],
)
def test_keys_that_cannot_simply_go_are_named_and_nothing_changes(root, keys, said):
    before = state_of(root)
    with pytest.raises(StorageError, match=said):
        remove(root, *keys)
    assert state_of(root) == before and not removals_file(root, "shapes").exists()


def test_unknown_keys_go_on_the_list_when_that_is_asked_for(root):
    remove(root, "shapes-shapes-000001", "nobody", missing_ok=True)
    assert (
        read_removals(root, "shapes") == {"shapes-shapes-000001", "nobody"}
        and len(keys_in(root)) == 95
    )
    assert remove(root, "shapes-shapes-000001-00", "nobody").rows == 0, "both are known now"


def test_a_key_that_means_a_crop_of_one_image_and_all_of_another_is_refused(root, monkeypatch):
    both = [*keys_in(root), "shapes-shapes-000001-00-00"]
    column = SimpleNamespace(to_pylist=lambda: both)
    monkeypatch.setattr("flows.data.rehearse.read_columns", lambda *_: {"key": column})
    with pytest.raises(
        StorageError,
        match="both one crop of an image and another image are called shapes-shapes-000001-00",
    ):
        remove(root, "shapes-shapes-000001-00")
    assert not removals_file(root, "shapes").exists()


def test_an_unfinished_build_that_stands_in_the_way_is_told_first(root):
    with (
        pytest.raises(KeyboardInterrupt),
        begin(root, Plan("embeddings", "shapes", {"encoder": "other"})) as build,
    ):
        build.write_part(
            "00000", "", lambda scratch: ((scratch / "00000.parquet").write_bytes(b"x"), {})
        )
        raise KeyboardInterrupt
    with pytest.raises(
        BuildRefused, match="Nothing was changed.*rdm gc --unfinished embeddings/shapes"
    ):
        remove(root, "shapes-shapes-000001")
    assert not removals_file(root, "shapes").exists() and unfinished(root) == [build.directory]


def test_a_damaged_part_is_never_copied_into_a_new_version(root):
    path = open_artifact(root, "embeddings", "shapes").files(".parquet")[0]
    key, vector = keys_in(root)[0], vectors_of(read_table(path), "embedding")[3].tobytes()
    data = path.read_bytes()
    assert data.count(vector) == 1
    path.write_bytes(data.replace(vector, bytes(len(vector))))
    with pytest.raises(ArtifactDamaged, match="other bytes"):
        remove(root, key)
