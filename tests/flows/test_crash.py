"""Twelve kills over all stages and the demo; `make crash-test` does two hundred. RDM_CRASH_SEED
repeats one.
"""

import os
import random
import sys
from pathlib import Path

import pytest

from storage import layout
from storage.build import begin
from storage.manifest import Plan

sys.path.insert(0, str(Path(__file__).parent))
import crash  # noqa: E402

KILLS = 12


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What twelve kills left; a difference from the unbroken run fails here, with the seed and the
    place.
    """
    seed = int(os.environ.get("RDM_CRASH_SEED") or random.SystemRandom().randrange(1_000_000))
    work = tmp_path_factory.mktemp("crash")
    nursery = crash.Nursery(crash.environment())
    print(f"RDM_CRASH_SEED={seed}")
    try:
        return crash.CrashTest(KILLS, seed, work / "test", nursery).run()
    finally:
        nursery.close()


def test_every_stage_and_the_demo_end_with_the_bytes_of_an_unbroken_run_however_often_killed(
    killed,
):
    assert len(killed.kills) == KILLS
    assert {stage: len(killed.of(stage)) for stage in crash.STAGES} == crash.quotas(KILLS)
    assert killed.equal.keys() == set(crash.STAGES), (
        "the harness fails at the first root that is not equal"
    )


def test_kills_land_in_the_middle_of_work(killed):
    assert any(kill.in_the_middle for kill in killed.kills)
    assert any(0 < kill.done < 1 for kill in killed.kills), "some find finished parts to keep"


def test_a_training_ends_by_itself_when_its_parent_is_killed(killed):
    assert all(seconds < crash.SECONDS_TO_DIE for seconds in killed.outlived)


def built(root, data=b"abc"):
    """A root with one artifact."""
    with begin(root, Plan("shards", "mine", {"size": 32})) as build:
        part = build.write_part(
            "00000", "", lambda scratch: ((scratch / "a").write_bytes(data), {})
        )
        return build.commit([part], {"seconds": random.random()})


def test_equal_work_at_another_place_and_time_is_no_difference(tmp_path):
    built(tmp_path / "one")
    built(tmp_path / "other")
    assert crash.differences(tmp_path / "one", tmp_path / "other") == []


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda made: made.file("a").write_bytes(b"abd"), "a has other bytes"),
        (lambda made: made.file("a").unlink(), "a is absent"),
        (lambda made: made.file(".a-x1").write_bytes(b""), ".a-x1: is left over"),
        (
            lambda made: (
                layout.build_directory(made.directory).mkdir() or made.file(".build/lock").touch()
            ),
            "lock: is left over",
        ),
        (lambda made: layout.manifest_file(made.directory).unlink(), "unfinished: "),
        (lambda made: layout.manifest_file(made.directory).write_text("{"), "unreadable: "),
        (lambda made: made.directory.with_name("current").unlink(), "current: is missing"),
        (
            lambda made: made.directory.with_name("current").write_text("0" * 12),
            "current: has other content",
        ),
    ],
)
def test_whatever_a_kill_could_leave_is_told(tmp_path, harm, told):
    built(tmp_path / "one")
    harm(built(tmp_path / "other"))
    assert any(told in found for found in crash.differences(tmp_path / "one", tmp_path / "other"))


def test_other_bytes_in_a_whole_artifact_are_told(tmp_path):
    built(tmp_path / "one")
    built(tmp_path / "other", b"xyz")
    assert any(
        "fingerprint" in found for found in crash.differences(tmp_path / "one", tmp_path / "other")
    )


def test_the_phase_of_a_kill_is_read_off_what_it_left(tmp_path):
    made = built(tmp_path / "unbroken")
    root, pid = tmp_path / "root", os.getpid()

    def phase():
        return crash.landed("import", [made], root, pid, 0, 0.5).phase

    root.mkdir()
    assert phase() == "before the build"
    with begin(root, Plan("shards", "mine", {"size": 32})) as build:
        assert phase() == "in its parts"
        part = build.write_part(
            "00000", "", lambda scratch: ((scratch / "a").write_bytes(b"abc"), {})
        )
        assert phase() == "in a commit"
        build.commit([part], {})
    assert phase() == "after the last"


def test_the_kills_are_shared_by_all_stages():
    for kills in (12, 20, 60, 200):
        assert sum(crash.quotas(kills).values()) == kills and min(crash.quotas(kills).values()) >= 1


def test_the_table_is_written_between_its_marks_and_nothing_else_is_touched():
    first = crash.written_into("# Reliability\n", "one")
    assert first == f"# Reliability\n\n{crash.HEAD}\none\n{crash.FOOT}\n"
    page = first + "\nMore.\n"
    assert crash.written_into(page, "two") == page.replace("one", "two")
