"""A build in an object store that is killed, and resumed on another machine."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from building import NEXT, PART_NAMES, PLAN, build_all, stop_after, writer
from s3_bucket import (
    FINGERPRINT,
    URL,
    bytes_of,
    data_objects,
    deleted,
    object_ending,
)

from storage.artifact import artifacts, check, open_artifact
from storage.build import begin
from storage.errors import ArtifactDamaged
from storage.unfinished import has_finished_work, unfinished

pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'rdm[s3]'")


@pytest.mark.parametrize("second", [False, True], ids=["first version", "next version"])
def test_a_build_killed_before_any_put_publishes_nothing_half_and_the_next_run_ends_the_same(
    second, machine, s3, tmp_path
):
    """Before each PUT bucket and mirror are copied as they lie: that is what a killed process would
    leave.
    """
    plan, contents = (NEXT, ("00000", "changed")) if second else (PLAN, PART_NAMES)
    unbroken = build_all(tmp_path / "disk", plan, contents).fingerprint
    if second:
        build_all(machine("killed"))
    left, mirror = [], tmp_path / "killed"

    def killed_here(name):
        copy = tmp_path / f"left-{len(left)}"
        shutil.copytree(mirror, copy, ignore_dangling_symlinks=True)
        left.append((name, dict(s3.objects), copy))

    root = machine("killed")
    s3.before_put = killed_here
    build_all(root, plan, contents)
    s3.before_put = None
    # 2 parts of 2 files, their records, plan, manifest and pointer
    assert len(left) == 9
    for name, stored, copy in left:
        # When the pointer is put the manifest is there already: the version is published.
        ids = [PLAN.id] if second else []
        if name.endswith("current"):
            ids.append(plan.id)
        # another machine, or the same
        for where in (f"empty-{copy.name}",) if second else (copy.name, f"empty-{copy.name}"):
            s3.objects = dict(stored)
            root = machine(where)
            published = artifacts(root)
            for artifact in published:
                check(artifact)
            assert [artifact.id for artifact in published] == ids
            assert build_all(root, plan, contents).fingerprint == unbroken, name
            check(open_artifact(root, "shards", "paintings"))


def test_a_process_killed_while_it_uploads_leaves_its_finished_part_to_another_machine(
    machine, s3, tmp_path
):
    code = """
import os, sys
sys.path.append(sys.argv[1])
from building import NEXT, PART_NAMES, PLAN, build_all, files_under, stop_after, writer
from storage.roots import mirror_of
build_all(mirror_of(sys.argv[2]))
"""
    environment = os.environ | {"RDM_MIRROR": str(tmp_path / "dead")}
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(Path(__file__).parent), URL], env=environment
    )
    # Its first part is there by then, the second is on its way.
    s3.before_put = lambda name: name.endswith("00001.tar") and child.send_signal(signal.SIGKILL)
    assert child.wait(60) == -signal.SIGKILL
    s3.before_put, written = None, []
    root = machine("b")
    assert artifacts(root) == []
    assert [directory.name for directory in unfinished(root)] == [PLAN.id]
    assert has_finished_work(unfinished(root)[0])
    assert build_all(root, written=written).fingerprint == FINGERPRINT
    assert written == ["00001"]


def test_a_build_goes_on_with_files_of_parts_that_another_machine_wrote(machine, s3):
    stop_after(machine("a"), PLAN, "00000")
    s3.log.clear()
    with begin(machine("b"), PLAN) as build:
        part = build.existing_part("00000", "00000")
        assert part is not None and data_objects(s3)
        assert ".tar" not in " ".join(s3.names("GET"))
        assert build.file("00000.tar").read_bytes() == b"images of 00000" * 50
        assert not build.file("config.json").exists()
        built = build.commit([part, build.write_part("00001", "00001", writer("00001"))], {})
    assert built.fingerprint == FINGERPRINT
    assert len({part.prefix for part in built.parts}) == 2, "each attempt has its own"
    mine = bytes_of(built)
    assert bytes_of(open_artifact(machine("c"), "shards", "paintings")) == mine


def test_workers_with_empty_mirrors_write_parts_that_the_first_machine_publishes(machine, tmp_path):
    """The machines of a cluster name their mirrors alike: an empty one is a machine that has not
    taken part yet.
    """
    with begin(machine("a"), PLAN) as build:
        parts = []
        for name in PART_NAMES:
            # What was fetched and written so far is gone, as on another machine.
            shutil.rmtree(tmp_path / "a")
            assert build.existing_part(name, name) is None
            parts.append(build.write_part(name, name, writer(name)))
            assert build.existing_part(name, name) == parts[-1]
        built = build.commit(parts, {})
    assert built.fingerprint == FINGERPRINT
    check(built)


def test_a_part_whose_objects_were_deleted_meanwhile_is_written_again(machine, s3):
    stop_after(machine("a"), PLAN, "00000")
    for name in data_objects(s3):
        del s3.objects[name]
    written = []
    assert build_all(machine("a"), written=written).fingerprint == FINGERPRINT
    assert written == ["00000", "00001"]


def test_a_part_lost_between_writing_and_publishing_is_told_and_made_again_by_the_next_run(
    machine, s3
):
    with begin(machine("a"), PLAN) as build:
        parts = [build.write_part(name, name, writer(name)) for name in PART_NAMES]
        deleted(s3, object_ending(s3, "00001.tar"))
        with pytest.raises(
            ArtifactDamaged, match=r"s3://.*00001.tar is absent. Run the same command again"
        ):
            build.commit(parts, {})
    assert artifacts(machine("a")) == []
    written = []
    assert build_all(machine("b"), written=written).fingerprint == FINGERPRINT
    assert written == ["00001"]


def test_a_part_altered_here_before_publishing_is_not_believed_in_the_bucket_either(machine, s3):
    """Nobody knows whether it was altered before it went up or after."""
    with begin(machine("a"), PLAN) as build:
        parts = [build.write_part(name, name, writer(name)) for name in PART_NAMES]
        build.file("00001.tar").write_bytes(b"x" * 750)
        with pytest.raises(
            ArtifactDamaged,
            match="00001.tar has other bytes than when it was written. Run the same command",
        ):
            build.commit(parts, {})
    written = []
    assert build_all(machine("b"), written=written).fingerprint == FINGERPRINT
    assert written == ["00001"]


def test_a_repair_that_is_killed_before_any_request_that_changes_something_ends_well(
    machine, s3, tmp_path
):
    build_all(machine("a"))
    deleted(s3, object_ending(s3, "00001.tar"))
    left, root = [], machine("b")
    s3.before_put = lambda name: left.append(dict(s3.objects))
    build_all(root)
    s3.before_put = None
    assert len(left) > 5
    for number, stored in enumerate(left):
        s3.objects, written = stored, []
        assert build_all(machine(f"c{number}"), written=written).fingerprint == FINGERPRINT
        assert "00000" not in written
        check(open_artifact(machine(f"d{number}"), "shards", "paintings"))
