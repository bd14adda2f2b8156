"""What a collection removes, and what it never touches."""

import fcntl
import os
from contextlib import ExitStack, contextmanager

import pytest
from building import PLAN, build_all, files_under, stop_after, writer
from collecting import shards, versions

from storage import collect as module
from storage.artifact import artifacts, check, current_id, open_artifact
from storage.build import begin
from storage.collect import builder_of, collect
from storage.errors import ArtifactMissing, StorageError
from storage.manifest import Plan
from storage.unfinished import unfinished


def everything_under(root):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in root.rglob("*")}


def kinds_of(done):
    """What each thing was that a collection removed, in order."""
    return [removed.what for removed in done.removed]


# What stays


def test_the_current_version_and_the_newest_stay_and_the_others_go(tmp_path):
    made = [build_all(tmp_path, shards(size)) for size in (1, 2, 3, 4)]
    build_all(tmp_path, shards(1))  # asked for again: the oldest is current
    done = collect(tmp_path, keep=1)
    assert versions(tmp_path) == [1, 4]
    second, third = done.removed
    assert (second.reference, second.version) == (made[1].reference, 2)
    assert (third.reference, third.version) == (made[2].reference, 3)
    assert not made[1].directory.exists() and not made[2].directory.exists()
    assert done.kept == {made[0].reference: "current", made[3].reference: "one of the newest 1"}
    assert open_artifact(tmp_path, "shards", "paintings") == made[0]


def trained(root, name, steps=2, kind="runs"):
    """A published run or autoencoder with the states it would have resumed from."""
    run = build_all(root, Plan(kind, name, {"steps": steps}))
    state = run.directory / "checkpoints" / f"{steps:08d}" / "state.safetensors"
    state.parent.mkdir(parents=True)
    # Of a round size, to be seen in what is freed.
    state.write_bytes(bytes(1000))
    return run


@pytest.mark.parametrize("kind", ["runs", "autoencoders"])
def test_training_states_of_a_published_run_go_and_nothing_else_of_it(tmp_path, kind):
    run = trained(tmp_path, "r", kind=kind)
    before = files_under(run.directory)
    announced = collect(tmp_path, keep=1, dry_run=True)
    assert files_under(run.directory) == before
    done = collect(tmp_path, keep=1)
    assert done == announced
    (states,) = done.removed
    assert (states.reference, states.what, states.freed) == (run.reference, "states", 1000)
    assert run.reference in done.kept
    before.remove("checkpoints/00000002/state.safetensors")
    assert files_under(run.directory) == before
    check(open_artifact(tmp_path, kind, "r"), hashes=True)
    assert collect(tmp_path, keep=1).removed == ()


def test_training_states_stay_with_an_unfinished_run_and_where_only_unfinished_builds_are_to_go(
    tmp_path,
):
    run, left = trained(tmp_path, "r"), stop_after(tmp_path, Plan("runs", "x", {}), "00000")
    state = left / "checkpoints" / "00000001" / "state.safetensors"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"state")
    collect(tmp_path, keep=None)
    assert (run.directory / "checkpoints").is_dir() and state.is_file()
    collect(tmp_path, keep=1)
    assert not (run.directory / "checkpoints").exists() and state.is_file()


def test_training_states_of_a_run_that_somebody_works_on_stay(tmp_path):
    run = trained(tmp_path, "r")
    lock = run.directory / ".build" / "lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        done = collect(tmp_path, keep=1)
    assert done.removed == () and "is working on it" in done.untouched[run.reference]
    assert (run.directory / "checkpoints").is_dir()


def test_every_name_keeps_its_own(tmp_path):
    for name in ("a", "b"):
        for size in (1, 2, 3):
            build_all(tmp_path, shards(size, name))
    collect(tmp_path, keep=2)
    assert versions(tmp_path, name="a") == versions(tmp_path, name="b") == [2, 3]


def test_what_kept_versions_are_made_from_stays_through_any_number_of_steps(tmp_path):
    old = build_all(tmp_path, shards(1))
    build_all(tmp_path, shards(2), contents=("other",))
    build_all(tmp_path, shards(3), contents=("another",))
    embeddings = build_all(
        tmp_path, Plan("embeddings", "x", {}, {"shards": old.fingerprint}), contents=("vectors",)
    )
    # The version that the run was trained with is not current any more.
    build_all(tmp_path, Plan("embeddings", "x", {"later": 1}))
    run = build_all(tmp_path, Plan("runs", "r", {}, {"database": embeddings.fingerprint}))
    done = collect(tmp_path, keep=1)
    assert versions(tmp_path) == [1, 3] and versions(tmp_path, "embeddings", "x") == [1, 2]
    assert (
        done.kept[old.reference]
        == f"input of {embeddings.reference} (input of {run.reference} (current))"
    )


def test_what_an_unfinished_build_is_made_from_stays_until_the_build_is_dropped(tmp_path):
    old = build_all(tmp_path, shards(1))
    build_all(tmp_path, shards(2), contents=("other",))
    stop_after(tmp_path, Plan("latents", "x", {}, {"shards": old.fingerprint}), "00000")
    assert collect(tmp_path, keep=1).removed == ()
    done = collect(tmp_path, keep=1, unfinished_of="latents/x")
    assert kinds_of(done) == ["unfinished", "version"]
    assert versions(tmp_path) == [2] and unfinished(tmp_path) == []


def test_what_a_damaged_version_is_made_from_stays_as_it_can_still_be_repaired(tmp_path):
    old = build_all(tmp_path, shards(1))
    build_all(tmp_path, shards(2), contents=("other",))
    damaged = build_all(tmp_path, Plan("latents", "x", {}, {"shards": old.fingerprint}))
    # Its plan is still there: the same command repairs it.
    (damaged.directory / "manifest.json").write_text("{")
    assert collect(tmp_path, keep=1).removed == ()
    assert files_under(damaged.directory)


def test_no_version_is_kept_for_a_number_below_one(tmp_path):
    with pytest.raises(StorageError, match="Keep 1 or more"):
        collect(tmp_path, keep=0)


# What is told


def test_a_dry_run_tells_what_a_real_one_does_and_changes_nothing(tmp_path):
    for size in (1, 2, 3):
        build_all(tmp_path, shards(size))
    left = stop_after(tmp_path, shards(9, "unfinished"), "00000")
    (left / ".build" / "lock").touch()  # as a killed run leaves it
    before = everything_under(tmp_path)
    announced = collect(tmp_path, keep=1, unfinished_of="all", dry_run=True)
    assert everything_under(tmp_path) == before
    assert len(announced.removed) == 3
    assert collect(tmp_path, keep=1, unfinished_of="all") == announced


def bytes_of_part(part):
    return sum(file.bytes for file in part.files)


def bytes_of_plan_and_manifest(artifact):
    total = 0
    for name in ("plan.json", "manifest.json"):
        total += (artifact.directory / name).stat().st_size
    return total


def test_bytes_are_freed_with_the_last_name_of_a_file(tmp_path):
    build_all(tmp_path, shards(7, source="aa"), contents=("one", "two"))
    # shares all of the first
    build_all(tmp_path, shards(7, source="bb"), contents=("one", "two", "three"))
    build_all(tmp_path, shards(7, source="cc"), contents=("one", "four"))  # shares one part of it
    first, second, third = artifacts(tmp_path)
    assert third.file("00000.tar").stat().st_nlink == 3
    _, part_two, part_three = second.parts
    freed_parts = bytes_of_part(part_two) + bytes_of_part(part_three)
    plain = [bytes_of_plan_and_manifest(first), bytes_of_plan_and_manifest(second)]
    done = collect(tmp_path, keep=1)
    assert done.removed[0].freed == plain[0], "the second version has all of its parts"
    assert done.removed[1].freed == plain[1] + freed_parts
    check(open_artifact(tmp_path, "shards", "paintings"))


# Who is working


def test_a_build_that_somebody_works_on_is_never_touched(tmp_path):
    with begin(tmp_path, PLAN) as build:
        build.write_part("00000", "00000", writer("00000"))
        before = everything_under(tmp_path)
        for dry_run in (True, False):
            done = collect(tmp_path, keep=1, unfinished_of="all", dry_run=dry_run)
            assert (
                done.removed == ()
                and f"process {os.getpid()}" in done.untouched[f"shards/paintings@{PLAN.id}"]
            )
        assert everything_under(tmp_path) == before


def test_a_worker_that_outlives_its_build_is_respected(tmp_path):
    left = stop_after(tmp_path, Plan("runs", "r", {}), "00000")
    with (left / ".build" / "training.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert builder_of(left) and collect(tmp_path, unfinished_of="runs/r").removed == ()
    assert builder_of(left) is None
    assert kinds_of(collect(tmp_path, unfinished_of="runs/r")) == ["unfinished"]


@contextmanager
def training(root, plan):
    """The worker of a run holds its own lock, whoever started it."""
    directory = root / plan.kind / plan.name / plan.id
    with (directory / ".build" / "training.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize("resumed", [begin, training])
def test_a_build_resumed_after_it_was_chosen_stays_with_what_it_is_made_from(
    resumed, tmp_path, monkeypatch
):
    old = build_all(tmp_path, shards(1))
    build_all(tmp_path, shards(2), contents=("other",))
    plan = Plan("runs", "x", {}, {"shards": old.fingerprint})
    stop_after(tmp_path, plan, "00000")
    count, held = module._with_freed_bytes, ExitStack()

    def resumed_meanwhile(doomed):
        held.enter_context(resumed(tmp_path, plan))
        return count(doomed)

    monkeypatch.setattr(module, "_with_freed_bytes", resumed_meanwhile)
    with held:
        done = collect(tmp_path, keep=1, unfinished_of="all")
    assert done.removed == () and "is working on it" in done.untouched[f"runs/x@{plan.id}"]
    assert versions(tmp_path) == [1, 2] and unfinished(tmp_path)


def test_a_version_that_became_current_after_it_was_chosen_stays(tmp_path, monkeypatch):
    old = build_all(tmp_path, shards(1))
    build_all(tmp_path, shards(2))
    count = module._with_freed_bytes

    def current_meanwhile(doomed):
        build_all(tmp_path, shards(1))
        return count(doomed)

    # Called after the choice and before the first removal.
    monkeypatch.setattr(module, "_with_freed_bytes", current_meanwhile)
    done = collect(tmp_path, keep=1)
    assert done.removed == () and done.untouched == {old.reference: "it has just become current"}
    assert open_artifact(tmp_path, "shards", "paintings") == old
    assert not (old.directory / ".build").exists()


# Unfinished builds


def test_a_dropped_build_stands_in_nobodys_way(tmp_path):
    stop_after(tmp_path, shards(1), "00000")
    kept = stop_after(tmp_path, shards(1, "other"), "00000")
    for size in (2, 3, 4):
        build_all(tmp_path, shards(size, "third"))
    done = collect(tmp_path, None, unfinished_of="shards/paintings")
    assert done.removed[0].reference == f"shards/paintings@{shards(1).id}"
    assert len(done.removed) == 1
    assert unfinished(tmp_path) == [kept] and versions(tmp_path, name="third") == [1, 2, 3]
    build_all(tmp_path, shards(2))


def test_dropping_a_damaged_version_that_was_being_repaired_leaves_no_pointer_to_it(tmp_path):
    made = build_all(tmp_path)
    made.file("00000.tar").write_bytes(b"short")
    stop_after(tmp_path, PLAN)
    assert (
        unfinished(tmp_path) == [made.directory]
        and current_id(tmp_path, "shards", "paintings") == made.id
    )
    collect(tmp_path, unfinished_of="shards/paintings")
    with pytest.raises(ArtifactMissing, match="there is no artifact shards/paintings"):
        open_artifact(tmp_path, "shards", "paintings")


def test_a_name_under_which_nothing_was_begun_is_told(tmp_path):
    build_all(tmp_path)
    for wrong in ("shards/painting", "paintings", "shrads/paintings", "shards/*"):
        with pytest.raises(StorageError, match="paint|shrads|\\*"):
            collect(tmp_path, unfinished_of=wrong)
    assert versions(tmp_path) == [1]
