"""An artifact is whole or absent, whatever happens while it is built."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from building import NEXT, PART_NAMES, PLAN, build_all, files_under, stop_after, writer

from storage import build as module
from storage.artifact import artifacts, check, open_artifact
from storage.build import begin
from storage.errors import ArtifactDamaged, ArtifactMissing, CannotWrite
from storage.manifest import Plan
from storage.place import Place

HERE = str(Path(__file__).parent)


@pytest.fixture
def artifact(tmp_path):
    return build_all(tmp_path)


# One build


def test_a_finished_build_is_kept_and_not_touched(tmp_path, artifact):
    before = times_under(tmp_path)
    with begin(tmp_path, PLAN) as build:
        assert build.finished == artifact
    assert times_under(tmp_path) == before


def times_under(root):
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_a_writer_that_raises_publishes_nothing_and_leaves_nothing(tmp_path):
    def fails(scratch):
        (scratch / "00000.tar").write_bytes(b"half")
        raise RuntimeError("out of memory")

    with begin(tmp_path, PLAN) as build:
        with pytest.raises(RuntimeError, match="out of memory"):
            build.write_part("00000", "", fails)
        assert files_under(build.directory) == [".build/lock", "plan.json"], "no scratch is left"
        assert build.existing_part("00000", "") is None
    assert files_under(tmp_path) == [], "an attempt without a part leaves no directory behind"


def test_a_build_stopped_in_its_second_part_keeps_the_first_and_ends_as_if_unbroken(tmp_path):
    unbroken = build_all(tmp_path / "unbroken")
    stop_after(tmp_path, PLAN, "00000")
    directory = tmp_path / "shards" / "paintings" / PLAN.id
    assert files_under(directory) == [
        ".build/00000.part.json",
        "00000.tar",
        "more/00000.txt",
        "plan.json",
    ]
    with pytest.raises(ArtifactMissing):
        open_artifact(tmp_path, "shards", "paintings")
    written = []
    resumed = build_all(tmp_path, written=written)
    assert written == ["00001"]
    assert resumed.fingerprint == unbroken.fingerprint
    assert files_under(resumed.directory) == files_under(unbroken.directory)


def test_a_part_made_from_something_else_is_not_taken_for_this_one(tmp_path):
    stop_after(tmp_path, PLAN, "00000")
    written = []
    build_all(tmp_path, contents=("other", "00001"), written=written)
    assert written == ["00000", "00001"]


def test_a_process_that_dies_while_writing_leaves_scratch_that_the_next_run_clears(tmp_path):
    code = """
import os, sys
from pathlib import Path
from storage.manifest import Plan
from storage.build import begin
def dies(scratch):
    (scratch / "00000.tar").write_bytes(b"half")
    os._exit(9)
plan = Plan("shards", "paintings", {"size": 64, "crop": "center"}, {"source": "aa"})
held = begin(Path(sys.argv[1]), plan)
held.__enter__().write_part("00000", "", dies)
"""
    # A process of its own: os._exit ends it without clearing up, as a kill does.
    dead = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60)
    assert dead.returncode == 9
    directory = tmp_path / "shards" / "paintings" / PLAN.id
    assert list(directory.rglob("00000.tar")), "the dead run left scratch"
    with begin(tmp_path, PLAN):
        assert files_under(directory) == [".build/lock", "plan.json"]


WAYS = {
    "rename": (Path, "replace"),
    "fsync": (os, "fsync"),
    "new file or directory": (os, "open"),
    "new directory": (os, "mkdir"),
    "removal": (os, "unlink"),
    "link": (os, "link"),
}
"""Everything a build does to the disk, by what it calls."""


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("second", [False, True], ids=["first version", "next version"])
def test_a_build_killed_at_any_step_shows_nothing_half_and_resumes_to_the_same_bytes(
    way, second, tmp_path, monkeypatch
):
    """Before each call of each kind the root is copied as it lies: that copy is what a killed
    process would leave.
    """
    plan = NEXT if second else PLAN
    contents = ("00000", "changed") if second else ("00000", "00001")

    def root_of(name):
        root = tmp_path / name
        if second:
            build_all(root)
        return root

    unbroken_root = root_of("unbroken")
    unbroken = build_all(unbroken_root, plan, contents)
    place, name = WAYS[way]
    real, left = getattr(place, name), []

    def killed_here(*arguments, **options):
        with monkeypatch.context() as undone:
            # The copy itself must not be stopped.
            undone.setattr(place, name, real)
            if root.exists():
                left.append(shutil.copytree(root, tmp_path / f"left-{len(left)}"))
        return real(*arguments, **options)

    root = root_of("killed")
    with monkeypatch.context() as patch:
        patch.setattr(place, name, killed_here)
        build_all(root, plan, contents)
    assert left or way == "link" and not second, "no such step was met"
    for copy in left:
        for seen in artifacts(copy):
            check(seen)  # whatever is published is whole
        resumed = build_all(copy, plan, contents)
        check(resumed)
        assert resumed.fingerprint == unbroken.fingerprint
        assert open_artifact(copy, "shards", "paintings") == resumed
        assert files_under(copy) == files_under(unbroken_root), "nothing temporary is left"


def test_a_part_whose_file_changed_size_since_is_written_again(tmp_path):
    stop_after(tmp_path, PLAN, "00000")
    with begin(tmp_path, PLAN) as build:
        assert build.existing_part("00000", "00000")
        build.file("00000.tar").write_bytes(b"short")
        assert build.existing_part("00000", "00000") is None


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b'{"name": "00000"}'])
def test_a_part_record_cut_by_a_power_failure_is_not_believed(record, tmp_path):
    stop_after(tmp_path, PLAN, "00000")
    with begin(tmp_path, PLAN) as build:
        # Such a record is written without fsync: a power cut may leave any piece of it.
        (build.directory / ".build" / "00000.part.json").write_bytes(record)
        assert build.existing_part("00000", "00000") is None


def test_a_part_whose_bytes_changed_is_found_before_publishing_and_made_again_by_the_next_run(
    tmp_path,
):
    unbroken = build_all(tmp_path / "unbroken")
    stop_after(tmp_path, PLAN, "00000")
    path = tmp_path / "shards" / "paintings" / PLAN.id / "00000.tar"
    path.write_bytes(path.read_bytes().replace(b"images", b"imagez"))
    with pytest.raises(
        ArtifactDamaged, match=r"00000.tar has other bytes.*Run the same command again"
    ):
        build_all(tmp_path)
    assert artifacts(tmp_path) == []
    written = []
    assert build_all(tmp_path, written=written).fingerprint == unbroken.fingerprint
    assert written == ["00000"]


def test_a_build_that_lost_a_file_cannot_be_committed(tmp_path):
    with begin(tmp_path, PLAN) as build:
        part = build.write_part("00000", "", writer("00000"))
        build.file("00000.tar").unlink()
        with pytest.raises(
            ArtifactDamaged, match=r"00000.tar is absent.*Run the same command again"
        ):
            build.commit([part], {})
        assert not build.file("manifest.json").exists()


def test_every_folder_of_a_part_is_forced_to_the_disk_before_the_manifest_says_it_is_there(
    tmp_path, monkeypatch
):
    steps = []
    fsync_path, commit = module.fsync_path, Place.commit

    def forced(path):
        steps.append(path.relative_to(tmp_path).as_posix())
        fsync_path(path)

    def manifest(place, path, value):
        steps.append("manifest")
        commit(place, path, value)

    def in_a_folder(scratch):
        (scratch / "more").mkdir()
        (scratch / "more" / "00000.txt").write_text("x")
        return 1, {}

    with begin(tmp_path, PLAN) as build:
        parts = [build.write_part("00000", "", in_a_folder)]
        monkeypatch.setattr(module, "fsync_path", forced)
        monkeypatch.setattr(Place, "commit", manifest)
        build.commit(parts, {})
    here = build.directory.relative_to(tmp_path).as_posix()
    # What comes after the manifest does not count.
    assert set(steps[: steps.index("manifest")]) == {here, f"{here}/more"}


# Two at once


def test_of_two_runs_of_the_same_build_one_builds_and_the_other_waits_and_uses_it(tmp_path):
    entered, told, written, found = threading.Event(), [], [], []

    def first():
        with begin(tmp_path, PLAN) as build:
            entered.set()
            # The second one says so when it waits.
            while not told:
                pass
            parts = [build.write_part(name, name, writer(name)) for name in PART_NAMES]
            written.append(build.commit(parts, {}))

    def second():
        entered.wait(10)
        with begin(tmp_path, PLAN, told.append) as build:
            found.append(build.finished)

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert found == written
    assert len(told) == 1 and f"process {os.getpid()}" in told[0]
    assert not (written[0].directory / ".build").exists()


def test_different_builds_of_one_name_never_wait_for_each_other(tmp_path):
    with (
        begin(tmp_path, PLAN) as first,
        begin(tmp_path, Plan("shards", "paintings", {"size": 1}), pytest.fail) as second,
    ):
        first_part = first.write_part("00000", "", writer("00000"))
        second_part = second.write_part("00000", "", writer("00000"))
        assert first.commit([first_part], {}).version == 1
        assert second.commit([second_part], {}).version == 2


def test_the_lock_of_a_killed_run_is_free(tmp_path):
    code = (
        "import sys, time; sys.path.append(sys.argv[2]); "
        "from pathlib import Path; from building import PLAN; "
        "from storage.build import begin; held = begin(Path(sys.argv[1]), PLAN); "
        "held.__enter__(); print('in', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), HERE], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "in\n"
    # The kernel frees the lock when its holder dies.
    threading.Timer(0.5, holder.kill).start()
    told = []
    with begin(tmp_path, PLAN, told.append) as build:
        assert build.finished is None
    assert told == [f"process {holder.pid} on {os.uname().nodename}"]
    holder.wait(10)
    holder.stdout.close()


# What the disk refuses


@pytest.mark.parametrize(
    ("number", "cure"), [(errno.ENOSPC, "Free some space"), (errno.EACCES, "the right to write")]
)
def test_what_the_disk_refuses_is_told_with_the_cure_and_costs_no_finished_part(
    number, cure, tmp_path
):
    def fails(scratch):
        raise OSError(number, os.strerror(number))

    with (
        pytest.raises(
            CannotWrite, match=f"{os.strerror(number)}.*{cure}.*continues where it stopped"
        ),
        begin(tmp_path, PLAN) as build,
    ):
        build.write_part("00000", "00000", writer("00000"))
        build.write_part("00001", "00001", fails)
    written = []
    check(build_all(tmp_path, written=written))
    assert written == ["00001"]


def test_a_finished_artifact_is_kept_on_a_root_that_cannot_be_written(
    tmp_path, artifact, monkeypatch
):
    def refuses(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for place, name in ((os, "mkdir"), (os, "open"), (os, "unlink"), (Path, "replace")):
        monkeypatch.setattr(place, name, refuses)
    with begin(tmp_path, PLAN) as build:
        assert build.finished == artifact
    with (
        pytest.raises(CannotWrite, match="Read-only file system.*choose another root"),
        begin(tmp_path, NEXT),
    ):
        pass


def test_the_plan_of_a_build_is_readable_while_it_runs(tmp_path):
    with begin(tmp_path, PLAN) as build:
        assert json.loads(build.file("plan.json").read_text())["parameters"] == PLAN.parameters
