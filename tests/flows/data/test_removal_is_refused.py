"""A removal that cannot be done as it is wanted is refused before anything has changed."""

from types import SimpleNamespace

import pytest
from removing import asking, keys_in, remove, state_of

from flows.cli import main
from flows.data.rehearse import rehearse
from storage.artifact import open_artifact
from storage.build import begin
from storage.errors import ArtifactDamaged, BuildRefused, StorageError
from storage.manifest import Plan
from storage.parquet import read_table, vectors_of
from storage.removals import read_removals, removals_file
from storage.unfinished import unfinished


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
