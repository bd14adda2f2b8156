"""A collection in an object store."""

import pytest
from building import PLAN, build_all, files_under, stop_after
from collecting import shards, versions

from storage.artifact import check, open_artifact
from storage.collect import collect
from storage.roots import mirror_of


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """bucket("machine") -> (the root in that machine's mirror, the bucket as it lies)."""

    def seen_from(machine):
        monkeypatch.setenv("RDM_MIRROR", str(tmp_path / machine))
        # A bucket of fsspec's own: a folder, but used through a mirror.
        return mirror_of(f"file://{tmp_path}/bucket")

    return seen_from, tmp_path / "bucket"


def test_versions_go_from_the_bucket_and_from_the_mirror_and_another_machine_sees_it(bucket):
    seen_from, stored = bucket
    for size in (1, 2, 3):
        build_all(seen_from("one"), shards(size))
    announced = collect(seen_from("one"), keep=1, dry_run=True)
    assert collect(seen_from("one"), keep=1) == announced
    first, second = announced.removed
    assert (first.version, second.version) == (1, 2)
    for removed in (first, second):
        assert removed.freed > 1000 and not removed.directory.exists()
        assert removed.directory.name not in " ".join(files_under(stored))
    assert len(list(stored.glob("shards/paintings/*/manifest.json"))) == 1
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
    build, leftover = done.removed
    assert (build.what, build.directory.name) == ("unfinished", PLAN.id)
    assert (leftover.what, leftover.directory.name) == ("leftover", "0123456789ab")
    assert files_under(stored) == []
