"""A collection in an object store."""

import pytest
from building import PLAN, build_all, stop_after
from collecting import shards, versions

from storage.artifact import check, open_artifact
from storage.collect import collect
from storage.roots import mirror_of


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """bucket("machine") -> (the root in that machine's mirror, the bucket as it lies)."""

    def seen_from(machine):
        monkeypatch.setenv("RDM_MIRROR", str(tmp_path / machine))
        return mirror_of(f"file://{tmp_path}/bucket")

    return seen_from, tmp_path / "bucket"


def test_versions_go_from_the_bucket_and_from_the_mirror_and_another_machine_sees_it(bucket):
    seen_from, stored = bucket
    for size in (1, 2, 3):
        build_all(seen_from("one"), shards(size))
    told = collect(seen_from("one"), keep=1, dry_run=True)
    assert collect(seen_from("one"), keep=1) == told and [one.version for one in told.removed] == [
        1,
        2,
    ]
    assert all(one.freed > 1000 and not one.directory.exists() for one in told.removed)
    assert [path.name for path in stored.glob("shards/paintings/*/manifest.json")] == [
        "manifest.json"
    ]
    assert not [
        path
        for path in stored.rglob("*")
        if path.is_file() and told.removed[0].directory.name in path.parts
    ]
    assert versions(seen_from("other")) == [3]
    check(open_artifact(seen_from("other"), "shards", "paintings"))


def test_in_a_bucket_only_what_is_named_is_taken_for_unfinished_or_left_over(bucket):
    seen_from, stored = bucket
    stop_after(seen_from("one"), PLAN, "00000")
    # as before the plan of a build is up
    left = stored / "shards" / "paintings" / "0123456789ab" / "01234567" / "00000.tar"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    assert collect(seen_from("other")).removed == () and left.is_file()
    done = collect(seen_from("other"), None, unfinished_of="shards/paintings")
    assert [(one.what, one.directory.name) for one in done.removed] == [
        ("unfinished", PLAN.id),
        ("leftover", "0123456789ab"),
    ]
    assert not [path for path in stored.rglob("*") if path.is_file()]
