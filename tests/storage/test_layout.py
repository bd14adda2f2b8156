"""Where everything lives, and that no name leads anywhere else."""

import pytest

from storage.artifact import artifacts, open_artifact
from storage.build import begin
from storage.errors import StorageError
from storage.layout import (
    KINDS,
    artifact_directory,
    checked_name,
    manifest_file,
    part_record_file,
    plan_file,
    pointer_file,
)
from storage.manifest import Plan

ID = "0123456789ab"
BAD_NAMES = [
    "../x",
    "..",
    ".",
    ".x",
    "-x",
    "_x",
    "",
    "a/b",
    "a\\b",
    "/etc",
    "a b",
    "a\n",
    "a.b",
    "a@b",
    "a*",
    "é",
    "x" * 65,
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_not_just_a_directory_is_refused(name, tmp_path):
    with pytest.raises(StorageError, match="not a valid artifact name.*Use 1 to 64 letters"):
        checked_name(name)
    with pytest.raises(StorageError, match="not a valid artifact name"):
        begin(tmp_path / "root", Plan("shards", name, {})).__enter__()
    assert list(tmp_path.iterdir()) == [], "nothing was written"


@pytest.mark.parametrize("name", ["a", "A9", "coco-256_v2", "x" * 64])
def test_an_ordinary_name_is_taken_as_it_is(name):
    assert checked_name(name) == name


@pytest.mark.parametrize("reference", ["../x", "a/../../b", "../x@" + ID])
def test_a_reference_cannot_leave_the_root(reference, tmp_path):
    with pytest.raises(StorageError, match="not a valid artifact name"):
        open_artifact(tmp_path, "shards", reference)


@pytest.mark.parametrize(
    "identity", ["..", "0123", ID + "0", ID.upper(), "../../../etc", "g" * 12, ID + "\n"]
)
def test_an_id_is_12_hex_digits_and_nothing_else(identity, tmp_path):
    with pytest.raises(StorageError, match="not an artifact id"):
        artifact_directory(tmp_path, "shards", "a", identity)
    with pytest.raises(StorageError, match="not an artifact id"):
        open_artifact(tmp_path, "shards", f"a@{identity}")


def test_an_unknown_kind_names_the_kinds(tmp_path):
    with pytest.raises(
        StorageError, match="'shard' is not a kind of artifact.*shards, embeddings, index"
    ):
        open_artifact(tmp_path, "shard", "a")


def test_every_path_is_as_the_format_says(tmp_path):
    directory = artifact_directory(tmp_path, "index", "coco", ID)
    assert directory == tmp_path / "index" / "coco" / ID
    assert pointer_file(tmp_path, "index", "coco") == tmp_path / "index" / "coco" / "current"
    assert plan_file(directory) == directory / "plan.json"
    assert manifest_file(directory) == directory / "manifest.json"
    assert part_record_file(directory, "00000") == directory / ".build" / "00000.part.json"


def test_an_artifact_of_each_kind_can_be_built_and_listed(tmp_path):
    for kind in KINDS:
        with begin(tmp_path, Plan(kind, "a", {})) as build:
            build.commit([], {})
    (tmp_path / "other" / "a" / ID).mkdir(parents=True)
    (tmp_path / "other" / "a" / ID / "manifest.json").write_text("not ours")
    assert [artifact.kind for artifact in artifacts(tmp_path)] == sorted(KINDS)
