"""A root in an object store: whole or absent there too, whatever the network does. Against real
HTTP that speaks S3.
"""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from building import PART_NAMES, PLAN, build_all, files_under, writer
from s3_server import Switches, serving

from storage import objects
from storage.artifact import (
    artifacts,
    check,
    current_id,
    open_artifact,
    unreadable,
    with_fingerprint,
)
from storage.atomic import sha256_file, write_bytes
from storage.build import begin
from storage.errors import (
    ArtifactDamaged,
    ArtifactMissing,
    BuildRefused,
    CannotWrite,
    StorageError,
    Unreachable,
)
from storage.manifest import PartFile, Plan, fingerprint_of
from storage.mirror import url_of
from storage.place import place_of
from storage.roots import mirror_of, root_of
from storage.runs import (
    append_metrics,
    latest_checkpoint,
    latest_step,
    read_metrics,
    read_snapshot,
    whole_snapshots,
    write_checkpoint,
    write_snapshot,
)
from storage.unfinished import has_finished_work, unfinished

pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'rdm[s3]'")

URL = "s3://bucket/some/root"
HERE = f"bucket/some/root/shards/paintings/{PLAN.id}"
NEXT = Plan("shards", "paintings", PLAN.parameters, {"source": "bb"})
SECRET = "c2VjcmV0IGtleQ"
FINGERPRINT = "33efaa9cd2e7c89f"
"""Of the same build on a disk: tests/storage/test_artifact.py."""


@pytest.fixture(scope="module")
def server():
    with serving() as state:
        yield state


@pytest.fixture
def s3(server, monkeypatch):
    """The server, empty and well, with the environment that leads to it."""
    server.objects, server.log, server.buckets, server.uploads = {}, [], {"bucket"}, {}
    server.switches, server.before_put, server.page, server.knows_if_none_match = (
        Switches(),
        None,
        1000,
        True,
    )
    environment = {
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    environment |= {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nowhere",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(objects, "SECONDS_BEFORE_RETRY", 0.01)
    # botocore's own waits are up to a second and more
    monkeypatch.setattr(objects, "ATTEMPTS_OF_A_PART", 1)
    return server


@pytest.fixture
def machine(s3, tmp_path, monkeypatch):
    """machine("a") makes this process machine a, with its own mirror, and gives the root there."""

    def on(name, url=URL):
        monkeypatch.setenv("RDM_MIRROR", str(tmp_path / name))
        return mirror_of(url)

    return on


@pytest.fixture
def impatient(monkeypatch):
    """impatient() is a block with few attempts; impatient(0.5) also with so many seconds to connect
    and to answer.
    """

    @contextmanager
    def block(seconds=None):
        with monkeypatch.context() as patch:
            patch.setattr(objects, "ATTEMPTS", 3)
            if seconds:
                patch.setattr(objects, "SECONDS_TO_CONNECT", seconds)
                patch.setattr(objects, "SECONDS_TO_ANSWER", seconds)
            yield

    return block


def data_objects(s3):
    return [name for name in s3.objects if name.endswith((".tar", ".txt"))]


def stop_after(root, plan, *names):
    with pytest.raises(KeyboardInterrupt), begin(root, plan) as build:
        for name in names:
            build.write_part(name, name, writer(name))
        raise KeyboardInterrupt


def bytes_of(artifact):
    return {
        f.path: artifact.file(f.path).read_bytes() for part in artifact.parts for f in part.files
    }


# One build


def test_an_artifact_opens_from_an_empty_mirror_with_the_same_fingerprint_and_bytes(
    machine, tmp_path
):
    on_disk = build_all(tmp_path / "disk")
    built = build_all(machine("a"))
    root = machine("b")
    opened = open_artifact(root, "shards", "paintings")
    assert opened.fingerprint == built.fingerprint == on_disk.fingerprint == FINGERPRINT
    assert bytes_of(opened) == bytes_of(on_disk)
    assert opened.directory.is_relative_to(tmp_path / "b")
    assert artifacts(root) == [opened] == [with_fingerprint(root, "shards", FINGERPRINT)]
    check(opened)
    assert sorted(path.name for path in opened.file("more").iterdir()) == ["00000.txt", "00001.txt"]


def test_nothing_is_downloaded_before_it_is_asked_for_and_nothing_twice(machine, s3):
    build_all(machine("a"))
    root = machine("b")
    s3.log.clear()
    opened = open_artifact(root, "shards", "paintings")
    assert s3.log == [
        ("GET", f"{HERE[:-13]}/current"),
        ("GET", f"{HERE}/manifest.json"),
        ("LIST", f"{HERE}/"),
    ]
    s3.log.clear()
    for _ in range(2):
        assert opened.file("00001.tar").read_bytes() == b"images of 00001" * 50
        assert len(opened.files(".tar")) == 2
    asked = s3.names("GET")
    assert sorted(name.rpartition("/")[2] for name in asked) == ["00000.tar", "00001.tar"]
    assert files_under(opened.directory) == sorted(
        [*(name.removeprefix(f"{HERE}/") for name in asked), "manifest.json"]
    )


def test_the_manifest_is_put_after_every_other_object_of_its_version_and_the_pointer_after_it(
    machine, s3
):
    build_all(machine("a"))
    puts = [name.rpartition("/")[2] for name in s3.names("PUT")]
    assert puts[-2:] == ["manifest.json", "current"]
    assert set(Counter(puts).values()) == {1}, "no object is written twice"
    for part in PART_NAMES:
        assert puts.index(f"{part}.part.json") > max(
            puts.index(f"{part}.tar"), puts.index(f"{part}.txt")
        )
    assert puts.index("plan.json") < puts.index("00000.part.json")
    assert not [name for name in s3.objects if ".build" in name], "the part records are gone"


def test_a_finished_build_is_kept_with_three_requests_however_many_files_it_has(machine, s3):
    built = build_all(machine("a"))
    s3.log.clear()
    assert build_all(machine("a")) == built
    assert Counter(method for method, _ in s3.log) == {"GET": 2, "LIST": 1}


def test_listings_of_many_pages_are_read_to_the_end(machine, s3):
    s3.page = 2
    build_all(machine("a"))
    build_all(machine("a"), NEXT, ("new", "00000", "00001"))
    assert [a.version for a in artifacts(machine("b"))] == [1, 2]
    check(open_artifact(machine("b"), "shards", "paintings"))


def test_two_that_ask_for_the_same_file_at_once_fetch_it_once(machine, s3):
    build_all(machine("a"))
    opened = open_artifact(machine("b"), "shards", "paintings")
    s3.log.clear()
    s3.switches.seconds = 0.2
    with ThreadPoolExecutor(2) as pool:
        found = [
            future.result() for future in [pool.submit(opened.file, "00000.tar") for _ in range(2)]
        ]
    assert found[0] == found[1] and found[0].read_bytes() == b"images of 00000" * 50
    assert len(s3.names("GET")) == 1


def test_a_pointer_is_never_taken_from_the_mirror(machine):
    here, old = machine("a"), build_all(machine("a"))
    newer = build_all(machine("b"), NEXT, ("new", "00001"))
    root = machine("a")
    assert here == root
    assert (root / "shards/paintings/current").read_text().strip() == old.id
    assert current_id(root, "shards", "paintings") == newer.id
    assert open_artifact(root, "shards", "paintings").fingerprint == newer.fingerprint
    assert [a.id for a in artifacts(root)] == [old.id, newer.id]


def test_what_is_missing_is_told_by_its_url_with_what_is_there(machine):
    build_all(machine("a"))
    with pytest.raises(
        ArtifactMissing,
        match=rf"{URL}/shards: there is no artifact shards/photos. Present: paintings.",
    ):
        open_artifact(machine("b"), "shards", "photos")
    with pytest.raises(
        ArtifactMissing, match=rf"{URL}/shards/paintings/0123456789ab: it has no manifest"
    ):
        open_artifact(machine("b"), "shards", "paintings@0123456789ab")


def test_a_bucket_copied_to_a_disk_is_a_root_as_it_stands(machine, s3, tmp_path):
    built = build_all(machine("a"))
    for name, data in s3.objects.items():
        path = tmp_path / "copied" / name.removeprefix("bucket/some/root/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    s3.log.clear()
    opened = open_artifact(tmp_path / "copied", "shards", "paintings")
    check(opened)
    assert bytes_of(opened) == bytes_of(built)
    assert build_all(tmp_path / "copied").parts == built.parts
    assert build_all(tmp_path / "copied", NEXT, ("00000", "new")).parts[0].prefix == ""
    assert s3.log == []


def test_a_root_on_a_disk_that_was_copied_into_a_bucket_is_a_root_as_it_stands(
    machine, s3, tmp_path
):
    built = build_all(tmp_path / "disk")
    for name in files_under(tmp_path / "disk"):
        s3.objects[f"bucket/some/root/{name}"] = (tmp_path / "disk" / name).read_bytes()
    opened = open_artifact(machine("a"), "shards", "paintings")
    assert bytes_of(opened) == bytes_of(built)
    check(opened)


@pytest.mark.parametrize("far", [False, True], ids=["disk", "bucket"])
def test_disk_and_bucket_answer_alike(far, machine, tmp_path):
    root = machine("a", f"file://{tmp_path}/far") if far else tmp_path / "disk"
    place, family = place_of(root), root / "shards" / "mine"
    pointer, copy, absent = family / "current", family / "copy", family / "absent"
    assert place.far == far and place.read(pointer) is None
    assert place.listing(family) == {} and place.names(root, "shards") == []
    write_bytes(pointer, b"0123456789ab\n")
    place.store(pointer)
    place.share(pointer, copy, 13)
    assert place.read(copy) == place.read(pointer) == b"0123456789ab\n"
    assert {name: stored.bytes for name, stored in place.listing(family).items()} == {
        "copy": 13,
        "current": 13,
    }
    assert place.sizes(family, [pointer, absent, copy]) == [13, None, 13]
    assert place.names(root, "shards") == ["mine"]
    place.fetch([(pointer, PartFile("current", 13, sha256_file(pointer)))])
    assert not place.has_other_bytes(pointer, sha256_file(copy))
    assert place.has_other_bytes(copy, "0" * 64)
    place.follow(pointer)
    place.drop(pointer)
    place.drop(absent)
    assert place.read(pointer) is None and not pointer.exists()
    assert list(place.listing(family)) == ["copy"]


# Killed, and resumed somewhere else


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
        left.append(
            (name, dict(s3.objects), shutil.copytree(mirror, copy, ignore_dangling_symlinks=True))
        )

    root = machine("killed")
    s3.before_put = killed_here
    build_all(root, plan, contents)
    s3.before_put = None
    assert len(left) == 9
    for name, stored, copy in left:
        # another machine, or the same
        for where in (f"empty-{copy.name}",) if second else (copy.name, f"empty-{copy.name}"):
            s3.objects = dict(stored)
            root = machine(where)
            found = artifacts(root)
            for seen in found:
                check(seen)
            assert [a.id for a in found] == [PLAN.id] * second + [plan.id] * (
                name.endswith("current")
            )
            assert build_all(root, plan, contents).fingerprint == unbroken, name
            check(open_artifact(root, "shards", "paintings"))


def test_a_process_killed_while_it_uploads_leaves_its_finished_part_to_another_machine(
    machine, s3, tmp_path
):
    code = """
import os, sys
sys.path.append(sys.argv[1])
from building import build_all
from storage.roots import mirror_of
build_all(mirror_of(sys.argv[2]))
"""
    environment = os.environ | {"RDM_MIRROR": str(tmp_path / "dead")}
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(Path(__file__).parent), URL], env=environment
    )
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
        assert not [name for name in s3.names("GET") if name.endswith(".tar")]
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
        del s3.objects[next(name for name in s3.objects if name.endswith("00001.tar"))]
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


# Versions


def test_changed_input_copies_unchanged_parts_inside_the_bucket(machine, s3):
    old = build_all(machine("a"))
    root = machine("b")
    s3.log.clear()
    written = []
    newer = build_all(root, NEXT, ("new", "00000", "00001"), written)
    assert (written, newer.version) == (["00000"], 2)
    assert [name.rpartition("/")[2] for name in s3.names("COPY")] == [
        "00001.tar",
        "00001.txt",
        "00002.tar",
        "00002.txt",
    ]
    assert not [name for name in s3.names("GET") if name.endswith((".tar", ".txt"))], (
        "nothing came down"
    )
    check(newer)
    assert newer.file("more/00002.txt").read_text() == "00001"
    for part in old.parts:
        assert part.prefix not in {p.prefix for p in newer.parts}
    check(open_artifact(machine("a"), "shards", f"paintings@{old.id}"))


@pytest.mark.parametrize("harm", ["absent", "short", "altered in the mirror"])
def test_a_damaged_version_gives_nothing_to_the_next(harm, machine, s3):
    old = build_all(machine("a"))
    name = next(name for name in s3.objects if name.endswith("00000.tar"))
    if harm == "absent":
        del s3.objects[name]
    elif harm == "short":
        s3.objects[name] = s3.objects[name][:-1]
    else:
        old.file("00000.tar").write_bytes(b"x" * 750)
    written = []
    check(build_all(machine("a"), NEXT, PART_NAMES, written))
    assert written == ["00000"]


def test_another_machines_unfinished_build_gives_its_parts_and_refuses_other_parameters(machine):
    stop_after(machine("a"), PLAN, "00000")
    with (
        pytest.raises(BuildRefused, match=r"size=64 \(now 32\)"),
        begin(machine("b"), Plan("shards", "paintings", {"size": 32})),
    ):
        pass
    written = []
    check(build_all(machine("c"), NEXT, ("00000", "changed"), written))
    assert written == ["00001"]


def test_removing_takes_plan_and_manifest_first(machine, s3):
    built = build_all(machine("a"))
    s3.log.clear()
    place_of(built.directory).withdraw(built.directory)
    assert [name.rpartition("/")[2] for name in s3.names("DELETE")][:2] == [
        "plan.json",
        "manifest.json",
    ]
    assert [name for name in s3.objects if PLAN.id in name] == []
    assert artifacts(machine("a")) == []


# Two at once


def test_two_machines_that_build_the_same_at_once_end_with_one_whole_artifact(
    machine, s3, tmp_path
):
    """Their bytes differ, as those of two GPUs do; the files are of equal size."""
    code = """
import sys, time
from pathlib import Path
sys.path.append(sys.argv[1])
from building import PLAN
from storage.build import begin
from storage.roots import mirror_of
def write(scratch):
    (scratch / f"{name}.tar").write_bytes(sys.argv[3].encode() * 1000)
    return 1, {}
with begin(mirror_of(sys.argv[2]), PLAN) as build:
    assert not build.finished
    print("in", flush=True)
    sys.stdin.readline()
    parts = []
    for name in ("00000", "00001"):
        parts.append(build.existing_part(name, "") or build.write_part(name, "", write))
    print(build.commit(parts, {}).fingerprint)
"""
    children = []
    for letter in "xy":
        command = [sys.executable, "-c", code, str(Path(__file__).parent), URL, letter]
        environment = os.environ | {"RDM_MIRROR": str(tmp_path / letter)}
        children.append(
            subprocess.Popen(command, env=environment, stdin=-1, stdout=-1, stderr=-1, text=True)
        )
    for child in children:
        assert child.stdout.readline() == "in\n"
    told = []
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        out, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
        told.append(out.strip())
    opened = open_artifact(machine("reader"), "shards", "paintings")
    check(opened)
    assert set(told) == {opened.fingerprint}, "both saw the one that was first"
    assert len({name.split("/")[6] for name in data_objects(s3)}) == 2, (
        "both wrote all of their parts"
    )
    published = bytes_of(opened)
    for letter in "xy":  # and each mirror gives the bytes of that one
        assert bytes_of(open_artifact(machine(letter), "shards", "paintings")) == published


@pytest.mark.parametrize(
    ("moment", "knows_if_none_match"),
    [("part.json", True), ("manifest.json", True), ("part.json", False)],
)
def test_who_comes_second_adopts_what_was_published_and_leaves_it_alone(
    moment, knows_if_none_match, machine, s3
):
    s3.knows_if_none_match = knows_if_none_match
    first = build_all(machine("a"), contents=("first", "00001"))
    published, s3.objects = s3.objects, {}

    def overtaken(name):
        if name.endswith(moment):
            s3.objects |= published

    s3.before_put = overtaken
    second = build_all(machine("b"))
    assert (second.fingerprint, second.parts) == (first.fingerprint, first.parts)
    assert s3.objects[f"{HERE}/manifest.json"] == published[f"{HERE}/manifest.json"]
    check(second)
    assert second.file("more/00000.txt").read_text() == "first"


def test_a_store_that_ignores_if_none_match_still_gets_whole_artifacts(machine, s3):
    s3.knows_if_none_match = False
    assert build_all(machine("a")).fingerprint == FINGERPRINT
    check(open_artifact(machine("b"), "shards", "paintings"))


# What the network does


TROUBLES = {
    "every third request is refused as too many": {"busy_every": 3},
    "five requests in a row are refused as too many": {"busy": 5},
    "connections are cut in the middle of what comes down": {"cut_get": 4},
    "connections are cut in the middle of what goes up": {"cut_put": 4},
    "answers are lost": {"lost_answers": 4},
    "answers are slow": {"seconds": 0.03},
    "the wrong bytes come twice": {"wrong": 2},
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_that_passes_costs_time_only(trouble, machine, s3):
    before = Switches(**TROUBLES[trouble])
    s3.switches = replace(before)
    assert build_all(machine("a")).fingerprint == FINGERPRINT
    met, s3.switches = s3.switches, replace(before)
    opened = open_artifact(machine("b"), "shards", "paintings")
    assert opened.fingerprint == FINGERPRINT
    assert bytes_of(opened)["00001.tar"] == b"images of 00001" * 50
    check(opened)
    assert (
        {"busy_every", "seconds"} & set(TROUBLES[trouble]) or before != met or before != s3.switches
    ), "it was met"
    assert [a.version for a in artifacts(machine("c"))] == [1]


def test_a_lost_answer_to_the_commit_itself_is_a_commit(machine, s3):
    s3.before_put = lambda name: (
        name.endswith("manifest.json") and setattr(s3.switches, "lost_answers", 1)
    )
    assert build_all(machine("a")).fingerprint == FINGERPRINT
    assert s3.names("PUT").count(f"{HERE}/manifest.json") == 2
    check(open_artifact(machine("b"), "shards", "paintings"))


LASTING = {
    "always too busy": ({"busy": 10**6}, "SlowDown, HTTP 503"),
    "always cut on the way up": ({"cut_put": 10**6}, r"\w+Error"),
    "never an answer in time": ({"seconds": 1.2}, r"\w+Error"),
}


@pytest.mark.parametrize("trouble", LASTING)
def test_trouble_that_stays_ends_in_bounded_time_with_one_told_error_and_nothing_published(
    trouble, machine, s3, impatient
):
    switches, reason = LASTING[trouble]
    s3.switches, started = Switches(**switches), time.monotonic()
    with impatient(0.5 if "seconds" in switches else None), pytest.raises(Unreachable) as caught:
        build_all(machine("a"))
    assert time.monotonic() - started < 20
    told = (
        rf"{URL}/.*: no usable answer at 127.0.0.1:\d+ in 3 attempts and \d s "
        rf"\({reason}\). Check the network"
    )
    assert re.match(told, str(caught.value)), str(caught.value)
    assert "run the same command again: it continues where it stopped" in str(caught.value)
    s3.switches = Switches()
    assert artifacts(machine("a")) == []
    assert build_all(machine("a")).fingerprint == FINGERPRINT


@pytest.mark.parametrize(
    "switches", [{"cut_get": 10**6}, {"trickle": 0.1}], ids=["always cut", "a byte at a time"]
)
def test_a_download_that_never_ends_is_given_up_and_leaves_nothing_half(
    switches, machine, s3, impatient
):
    build_all(machine("a"))
    root = machine("b")
    opened, started = open_artifact(root, "shards", "paintings"), time.monotonic()
    s3.switches = Switches(**switches)
    with impatient(0.5), pytest.raises(Unreachable, match=r"s3://.*00000.tar: no usable answer"):
        opened.file("00000.tar")
    assert time.monotonic() - started < 20
    assert files_under(opened.directory) == ["manifest.json"]
    s3.switches = Switches()
    assert opened.file("00000.tar").read_bytes() == b"images of 00000" * 50


def test_bytes_that_are_always_wrong_are_never_served_and_told_with_the_cure(machine, s3):
    build_all(machine("a"))
    opened = open_artifact(machine("b"), "shards", "paintings")
    s3.switches.wrong = 10**6
    with pytest.raises(
        ArtifactDamaged,
        match=r"s3://.*00000.tar: it has other bytes than its manifest says. Delete that obj",
    ):
        opened.file("00000.tar")
    assert files_under(opened.directory) == ["manifest.json"]


def test_a_large_object_comes_in_pieces_and_a_cut_costs_one_of_them(machine, s3, monkeypatch):
    monkeypatch.setattr(objects, "PIECE", 100)
    build_all(machine("a"))
    opened = open_artifact(machine("b"), "shards", "paintings")
    s3.log.clear()
    s3.switches.cut_get = 1
    assert opened.file("00000.tar").read_bytes() == b"images of 00000" * 50
    assert len(s3.names("GET")) == 8 + 1


def test_a_large_file_goes_up_in_parts_each_of_which_may_be_repeated(machine, s3, monkeypatch):
    monkeypatch.setattr(objects, "ATTEMPTS_OF_A_PART", 3)
    monkeypatch.setattr(
        "s3fs.core.calculate_chunksize", lambda size, chunksize=None: 1000 if size > 2000 else 10**6
    )

    def write(scratch):
        (scratch / "large.tar").write_bytes(bytes(range(250)) * 20)
        return 1, {}

    s3.before_put = lambda name: (
        s3.uploads.get("1", {}).keys() == {1, 2} and setattr(s3.switches, "busy", 1)
    )
    with begin(machine("a"), PLAN) as build:
        build.commit([build.write_part("00000", "", write)], {})
    assert (
        s3.log.count(("PUT", next(name for name in s3.objects if name.endswith("large.tar"))))
        == 5 + 1
    )
    opened = open_artifact(machine("b"), "shards", "paintings")
    assert opened.file("large.tar").read_bytes() == bytes(range(250)) * 20
    assert s3.uploads == {}, "no upload was left open"


def test_a_full_disk_under_the_mirror_is_told_with_the_cure(machine, monkeypatch):
    build_all(machine("a"))
    opened = open_artifact(machine("b"), "shards", "paintings")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.mkstemp", full)
    with pytest.raises(CannotWrite, match="No space left on device.*RDM_MIRROR"):
        opened.file("00000.tar")


# Damage


def deleted(s3, name):
    del s3.objects[name]


def truncated(s3, name):
    s3.objects[name] = s3.objects[name][:-1]


@pytest.mark.parametrize("harm", [deleted, truncated])
@pytest.mark.parametrize("where", ["a", "b"], ids=["where it was built", "elsewhere"])
def test_a_deleted_or_truncated_object_is_never_served_and_rebuilt(harm, where, machine, s3):
    built = build_all(machine("a"))
    root = machine(where)
    harm(s3, next(name for name in data_objects(s3) if name.endswith("00001.tar")))
    with pytest.raises(
        ArtifactDamaged,
        match=f"{URL}/shards/paintings/{PLAN.id}: 00001.tar .*Run the command that builds",
    ):
        open_artifact(root, "shards", "paintings")
    written = []
    again = build_all(root, written=written)
    assert written == ["00001"], "only the damaged part is written again"
    assert again.fingerprint == FINGERPRINT
    assert again.parts[0] == built.parts[0]
    check(open_artifact(machine("reader"), "shards", "paintings"))


def test_a_repair_that_is_killed_before_any_request_that_changes_something_ends_well(
    machine, s3, tmp_path
):
    build_all(machine("a"))
    deleted(s3, next(name for name in data_objects(s3) if name.endswith("00001.tar")))
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


def test_a_flipped_object_is_found_by_check_and_when_it_is_fetched_and_healed_as_told(machine, s3):
    build_all(machine("a"))
    name = next(name for name in data_objects(s3) if name.endswith("00001.tar"))
    s3.objects[name] = b"J" + s3.objects[name][1:]
    opened = open_artifact(machine("b"), "shards", "paintings")
    with pytest.raises(
        ArtifactDamaged, match="/00001.tar has other bytes .*; delete that object first"
    ) as caught:
        check(opened)
    assert "00000.tar" not in str(caught.value)
    with pytest.raises(
        ArtifactDamaged, match=rf"s3://{name}: it has other bytes .* Delete that object, then run"
    ):
        opened.file("00001.tar")
    deleted(s3, name)
    assert build_all(machine("b")).fingerprint == FINGERPRINT
    check(open_artifact(machine("a"), "shards", "paintings"))


def test_a_copy_that_was_altered_in_the_mirror_is_found_and_fetched_again(machine):
    built = build_all(machine("a"))
    built.file("00000.tar").write_bytes(b"x" * 750)
    with pytest.raises(ArtifactDamaged, match="00000.tar has other bytes"):
        check(built)
    check(built)
    assert built.file("00000.tar").read_bytes() == b"images of 00000" * 50
    built.file("00000.tar").write_bytes(b"cut")
    assert built.file("00000.tar").read_bytes() == b"images of 00000" * 50


def test_an_artifact_deleted_in_the_bucket_is_not_served_from_the_mirror(machine, s3):
    built = build_all(machine("a"))
    s3.objects.clear()
    root = machine("a")
    assert built.file("manifest.json").exists()
    assert artifacts(root) == []
    with pytest.raises(ArtifactMissing):
        open_artifact(root, "shards", f"paintings@{PLAN.id}")
    written = []
    build_all(root, written=written)
    assert written == ["00000", "00001"]


@pytest.mark.parametrize(
    "lie",
    [
        "../../../../../../../outside.tar",
        "/tmp/outside.tar",
        "a/../../outside.tar",
        "",
        "more//x",
        "more/./x",
        "a\\..\\b",
    ],
)
@pytest.mark.parametrize("where", ["path", "prefix", "name"])
def test_a_manifest_that_leads_out_of_its_directory_is_refused_and_nothing_is_written_there(
    lie, where, machine, s3, tmp_path
):
    build_all(machine("a"))
    value = json.loads(s3.objects[f"{HERE}/manifest.json"])
    part = value["parts"][0]
    if where == "prefix" and not lie:
        pytest.skip("no prefix is what a disk has")
    (part["files"][0] if where == "path" else part)[where] = lie
    s3.objects[f"{HERE}/manifest.json"] = json.dumps(value).encode()
    root = machine("b")
    with pytest.raises(ArtifactDamaged, match="manifest"):
        open_artifact(root, "shards", "paintings")
    assert len(unreadable(root)) == 1
    assert build_all(root).fingerprint == FINGERPRINT
    assert not list(tmp_path.parent.glob("outside*")) and not Path("/tmp/outside.tar").exists()


def test_names_in_a_bucket_that_are_not_ours_are_left_alone(machine, s3):
    build_all(machine("a"))
    for name in (
        "other/x/y/manifest.json",
        "shards/a b/0123456789ab/manifest.json",
        f"shards/..x/{PLAN.id}/manifest.json",
    ):
        s3.objects[f"bucket/some/root/{name}"] = b"{}"
    assert [a.name for a in artifacts(machine("b"))] == ["paintings"]
    assert unreadable(machine("b")) == []


# Told


def test_wrong_credentials_missing_bucket_and_unreachable_endpoint_are_told(
    machine, s3, impatient, monkeypatch
):
    root, told = machine("a"), []

    def refused(match):
        for act in (lambda: build_all(root), lambda: artifacts(root)):
            with impatient(), pytest.raises(Unreachable, match=match) as caught:
                act()
            told.append(str(caught.value))

    s3.buckets.clear()
    refused(
        rf"^{URL}.*: there is no such bucket at 127.0.0.1:\d+. Create it, or correct the root.$"
    )
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    fresh_clients()
    refused(
        f"^{URL}.*: access is refused at 127.*InvalidAccessKeyId, HTTP 403.*. "
        "Check the credentials and that they may list"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    fresh_clients()
    refused(rf"^{URL}.*: there are no credentials for it \(NoCredentialsError\). Set AWS_PROFILE")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    fresh_clients()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:1")
    refused(
        rf"^{URL}.*: no usable answer at 127.0.0.1:1 in 3 attempts and \d s \(\w+\). "
        "Check the network and AWS_ENDPOINT_URL"
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"not a url {SECRET}")
    refused(rf"^{URL}.*: AWS_ENDPOINT_URL is not the url of an endpoint")
    assert not [text for text in told if SECRET in text]
    assert s3.objects == {}
    fresh_clients()


def fresh_clients():
    """Forget clients that were made with other credentials."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()


def test_no_credential_gets_into_the_bucket_or_the_mirror(machine, s3, tmp_path):
    build_all(machine("a"))
    texts = [
        *s3.objects.values(),
        *(path.read_bytes() for path in (tmp_path / "a").rglob("*") if path.is_file()),
    ]
    assert texts and not [text for text in texts if SECRET.encode() in text or b"127.0.0.1" in text]


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///a",
        "s3://bucket//a",
        "s3://bucket/../other",
        "s3://bucket/a/..",
        "s3://bucket/./a",
        "s3://../a",
        "s3://bucket/a b",
        "s3://bucket/a?versionId=1",
        "s3://bucket/a#b",
        "s3://bucket/a%2e%2e/b",
        "s3://bucket/a\\b",
        "s3://bucket/a\n",
        "s3://bucket/.hidden",
        "s3://bucket/*",
        "s3://bucket/é",
        "://bucket/a",
        "../s3://bucket/a",
        "S3://bucket/a",
        "s3:/bucket/a",
        "bucket/a",
        "",
        "zip::s3://bucket/a",
        "file://",
        "file:///../etc",
        "s3://b:x/a",
        "s3://bucket/" + "x" * 256,
    ],
)
def test_a_url_that_is_no_plain_folder_is_refused(url, tmp_path, monkeypatch):
    monkeypatch.setenv("RDM_MIRROR", str(tmp_path))
    with pytest.raises(StorageError, match="is not a root: a root is scheme://bucket/folder"):
        mirror_of(url)


@pytest.mark.parametrize(
    "url", [f"s3://key:{SECRET}@bucket/a", f"abfs://box/a?sig={SECRET}", f"s3://k@b/{SECRET}/../a"]
)
def test_a_refused_url_is_not_repeated_when_it_may_hold_a_secret(url, tmp_path, monkeypatch):
    monkeypatch.setenv("RDM_MIRROR", str(tmp_path))
    with pytest.raises(StorageError) as caught:
        mirror_of(url)
    assert SECRET not in str(caught.value) and "AWS_PROFILE" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["s3://bucket", URL, "file:///a/b_c/d-e.f=1", "hdfs://host:8020/a", "memory://a", "gs://b/c"],
)
def test_a_mirror_knows_its_url_again(url, tmp_path, monkeypatch):
    monkeypatch.setenv("RDM_MIRROR", str(tmp_path / "mirror"))
    root = mirror_of(url)
    assert root.is_relative_to(tmp_path / "mirror")
    assert root_of(url) == root and root_of("some/data") == Path("some/data")
    assert url_of(root) == url == url_of(mirror_of(url + "/"))
    assert url_of(root / "shards" / "a") == f"{url}/shards/a"
    assert place_of(root).far
    monkeypatch.setenv("RDM_MIRROR", str(tmp_path / "moved"))
    assert url_of(root) is None and not place_of(root).far and mirror_of(url) != root


def test_paths_outside_every_mirror_have_no_url(tmp_path, monkeypatch):
    monkeypatch.setenv("RDM_MIRROR", str(tmp_path / "mirror"))
    outside = (
        tmp_path,
        Path("data"),
        tmp_path / "mirror",
        tmp_path / "mirror" / "s3",
        tmp_path / "mirror/s3/b/../../x",
    )
    assert [url_of(path) for path in outside] == [None] * 5
    monkeypatch.delenv("RDM_MIRROR")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert url_of(tmp_path) is None
    with pytest.raises(StorageError, match="no home directory. Set RDM_MIRROR"):
        mirror_of(URL)


def test_a_missing_library_is_told_with_the_command_that_installs_it(machine, monkeypatch):
    fresh_clients()
    root = machine("a")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3")
    with pytest.raises(Unreachable, match=r"is not installed. Run: pip install 'rdm\[s3\]'"):
        artifacts(root)


def test_an_unknown_scheme_is_told(machine):
    with pytest.raises(Unreachable, match="nosuch:// is no scheme that fsspec knows"):
        artifacts(machine("a", "nosuch://box/a"))


# Runs


def state(step):
    return {"weights": np.full((3, 2), step, np.float32)}


@pytest.fixture
def run(machine):
    """run("a") is the directory of an unfinished run on machine a."""

    def on(name):
        directory = machine(name) / "runs" / "r" / PLAN.id
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    return on


def test_snapshots_are_found_on_another_machine_and_a_lost_one_is_told(run, s3):
    for step in (1, 2):
        write_snapshot(run("a"), step, {"power/0.1/w": np.full(3, step, np.float32)})
    there = run("b")
    files = whole_snapshots(there, [1, 2])
    assert [read_snapshot(path)["power/0.1/w"].tolist() for path in files] == [[1.0] * 3, [2.0] * 3]
    with pytest.raises(
        ArtifactDamaged, match="00000003.safetensors: this snapshot of the weights' means is absent"
    ):
        whole_snapshots(there, [1, 2, 3])
    files[0].write_bytes(b"other")
    with pytest.raises(ArtifactDamaged, match="00000001.safetensors: .*absent or damaged"):
        whole_snapshots(there, [1, 2])


def test_a_checkpoint_is_resumed_on_another_machine_with_the_metrics_up_to_it(run, s3):
    here = run("a")
    for step in (1, 2, 3):
        append_metrics(here, {"step": step})
        write_checkpoint(here, step, state(step))
    kept = {name.split("/checkpoints/")[1] for name in s3.objects if "/checkpoints/" in name}
    files = ("state.safetensors", "manifest.json", "metrics.jsonl")
    assert kept == {f"0000000{step}/{file}" for step in (2, 3) for file in files}, (
        "old ones are dropped there too"
    )
    there = run("b")
    append_metrics(there, {"step": 1, "of": "an earlier attempt here"})
    step, arrays = latest_checkpoint(there)
    assert (step, arrays["weights"][0, 0]) == (3, 3)
    assert [record["step"] for record in read_metrics(there / "metrics.jsonl")] == [1, 2, 3]
    s3.log.clear()
    assert latest_checkpoint(there)[0] == 3
    assert [method for method, _ in s3.log] == ["LIST"], "it is there now"
    write_checkpoint(there, 4, state(4))
    assert latest_checkpoint(run("a"))[0] == 4


def test_the_step_of_a_checkpoint_is_known_from_a_listing_and_nothing_is_fetched(run, s3):
    assert latest_step(run("b")) is None
    write_checkpoint(run("a"), 100, state(100))
    stored = dict(s3.objects)
    write_checkpoint(run("a"), 200, state(200))
    s3.objects = stored  # killed before the upload
    s3.log.clear()
    assert [latest_step(run(machine)) for machine in ("a", "b")] == [200, 100]
    assert {method for method, _ in s3.log} == {"LIST"} and files_under(run("b")) == []


def test_a_checkpoint_killed_before_any_put_leaves_the_one_before(run, s3):
    write_checkpoint(run("a"), 100, state(100))
    left = []
    s3.before_put = lambda name: left.append(dict(s3.objects))
    append_metrics(run("a"), {"step": 100})
    write_checkpoint(run("a"), 200, state(200))
    write_checkpoint(run("a"), 200, state(201))
    s3.before_put = None
    assert len(left) == 6
    for number, stored in enumerate(left):
        s3.objects = stored
        step, arrays = latest_checkpoint(run(f"b{number}"))
        assert (step, arrays["weights"][0, 0]) == (100, 100)


def test_a_run_without_a_checkpoint_has_none_and_what_only_this_mirror_has_counts(run, s3):
    assert latest_checkpoint(run("a")) is None
    write_checkpoint(run("a"), 100, state(100))
    stored = dict(s3.objects)
    write_checkpoint(run("a"), 200, state(200))
    s3.objects = stored  # killed before the upload
    assert latest_checkpoint(run("a"))[0] == 200
    assert latest_checkpoint(run("b"))[0] == 100


@pytest.mark.parametrize("harm", ["flipped", "truncated", "without a state", "manifest"])
def test_a_damaged_checkpoint_in_the_bucket_is_refused_with_the_way_back(harm, run, s3):
    write_checkpoint(run("a"), 100, state(100))
    folder = next(name for name in s3.objects if "checkpoints" in name).rpartition("/")[0]
    name = f"{folder}/state.safetensors"
    if harm == "flipped":
        s3.objects[name] = s3.objects[name][:-1] + b"x"
    elif harm == "truncated":
        truncated(s3, name)
    elif harm == "without a state":
        deleted(s3, name)
    else:
        s3.objects[f"{folder}/manifest.json"] = b"{"
    with pytest.raises(ArtifactDamaged, match=r"s3://.*/checkpoints/00000100.*(Delete|delete)"):
        latest_checkpoint(run("b"))
    assert files_under(run("b")) in ([], ["checkpoints/.00000100/manifest.json"])


# Other stores, and none


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_other_stores_work_through_fsspec(scheme, machine, tmp_path):
    url = "memory://box/root" if scheme == "memory" else f"file://{tmp_path}/far"
    root = machine("a", url)
    assert artifacts(root) == []
    build_all(root)
    assert open_artifact(machine("b", url), "shards", "paintings").fingerprint == FINGERPRINT
    written = []
    newer = build_all(machine("b", url), NEXT, ("new", "00000", "00001"), written)
    assert written == ["00000"]
    opened = open_artifact(machine("c", url), "shards", "paintings")
    assert bytes_of(opened)["00002.tar"] == b"images of 00001" * 50
    check(opened)
    far = objects.Remote(url_of(opened.directory)) / newer.parts[0].prefix / "00000.tar"
    far.delete()
    far.delete()
    with pytest.raises(ArtifactDamaged, match="00000.tar is absent"):
        open_artifact(machine("d", url), "shards", "paintings")
    written.clear()
    check(build_all(machine("d", url), NEXT, ("new", "00000", "00001"), written))
    assert written == ["00000"]
    assert far.folders() == []


def test_a_root_on_a_disk_imports_no_fsspec_and_asks_nothing_of_a_mirror(tmp_path):
    code = """
import sys
from pathlib import Path
sys.path.append(sys.argv[1])
from building import build_all
from storage.artifact import artifacts, check
check(build_all(Path(sys.argv[2])))
assert len(artifacts(Path(sys.argv[2]))) == 1
print({"fsspec", "s3fs", "botocore", "aiohttp"} & set(sys.modules))
"""
    environment = os.environ | {"RDM_MIRROR": str(tmp_path / "mirror")}
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "disk")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.returncode) == ("set()\n", 0), ended.stderr
    assert not (tmp_path / "mirror").exists()


def test_the_prefix_changes_no_fingerprint(machine):
    built = build_all(machine("a"))
    assert {len(part.prefix) for part in built.parts} == {8}
    assert fingerprint_of([replace(part, prefix="") for part in built.parts]) == built.fingerprint


@pytest.mark.parametrize("kind", ["file", "device", "link to nothing", "link to a file"])
def test_a_root_that_is_there_and_no_folder_is_refused(kind, tmp_path):
    path = tmp_path / "root"
    if kind == "file":
        path.write_bytes(b"")
    elif kind == "device":
        path = Path("/dev/null")
    else:
        (tmp_path / "file").write_bytes(b"")
        path.symlink_to(tmp_path / ("file" if kind == "link to a file" else "nothing"))
    what = "a link that leads to no folder" if "link" in kind else "no folder"
    with pytest.raises(StorageError, match=f"{path.name}' is {what}. Give a folder"):
        root_of(str(path))


def test_a_root_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert root_of("~/data") == tmp_path / "data", "as --root=~/data leaves it to us"
    assert root_of("./~/data") == tmp_path / "~/data", (
        "a folder of that name, which Arrow would take for the home"
    )
    assert root_of("~no-such-user/data") == tmp_path / "~no-such-user/data"
