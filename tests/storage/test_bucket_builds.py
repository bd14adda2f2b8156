"""Building in an object store: what is put, fetched and copied, and two machines at once."""

import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from building import NEXT, PART_NAMES, PLAN, build_all, files_under, stop_after
from s3_bucket import (
    FINGERPRINT,
    HERE,
    URL,
    bytes_of,
    data_objects,
    deleted,
    last_names,
    object_ending,
    truncated,
)

from storage.artifact import artifacts, check, current_id, open_artifact, with_fingerprint
from storage.build import begin
from storage.errors import ArtifactMissing, BuildRefused
from storage.manifest import Plan
from storage.place import place_of

pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'rdm[s3]'")

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
    fetched = sorted(s3.names("GET"))
    assert last_names(fetched) == ["00000.tar", "00001.tar"]
    paths = [name.removeprefix(f"{HERE}/") for name in fetched]
    assert files_under(opened.directory) == sorted([*paths, "manifest.json"])


def test_the_manifest_is_put_after_every_other_object_of_its_version_and_the_pointer_after_it(
    machine, s3
):
    build_all(machine("a"))
    puts = last_names(s3.names("PUT"))
    assert puts[-2:] == ["manifest.json", "current"]
    assert set(Counter(puts).values()) == {1}, "no object is written twice"
    for part in PART_NAMES:
        record = puts.index(f"{part}.part.json")
        assert record > puts.index(f"{part}.tar") and record > puts.index(f"{part}.txt")
    assert puts.index("plan.json") < puts.index("00000.part.json")
    assert ".build" not in " ".join(s3.objects), "the part records are gone"


def test_a_finished_build_is_kept_with_three_requests_however_many_files_it_has(machine, s3):
    built = build_all(machine("a"))
    s3.log.clear()
    assert build_all(machine("a")) == built
    assert Counter(method for method, _ in s3.log) == {"GET": 2, "LIST": 1}


def test_listings_of_many_pages_are_read_to_the_end(machine, s3):
    # Objects a page; a real store gives a thousand.
    s3.page = 2
    build_all(machine("a"))
    build_all(machine("a"), NEXT, ("new", "00000", "00001"))
    assert [a.version for a in artifacts(machine("b"))] == [1, 2]
    check(open_artifact(machine("b"), "shards", "paintings"))


def test_two_that_ask_for_the_same_file_at_once_fetch_it_once(machine, s3):
    build_all(machine("a"))
    opened = open_artifact(machine("b"), "shards", "paintings")
    s3.log.clear()
    # Slow enough that both ask before the first has it.
    s3.switches.seconds = 0.2
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(opened.file, ["00000.tar", "00000.tar"])
    assert first == second and first.read_bytes() == b"images of 00000" * 50
    assert len(s3.names("GET")) == 1


def test_a_pointer_is_never_taken_from_the_mirror(machine):
    here, old = machine("a"), build_all(machine("a"))
    newer = build_all(machine("b"), NEXT, ("new", "00001"))
    root = machine("a")
    assert here == root
    # The mirror still has the old one.
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


# Versions


def test_changed_input_copies_unchanged_parts_inside_the_bucket(machine, s3):
    old = build_all(machine("a"))
    root = machine("b")
    s3.log.clear()
    written = []
    newer = build_all(root, NEXT, ("new", "00000", "00001"), written)
    assert (written, newer.version) == (["00000"], 2)
    copied = ["00001.tar", "00001.txt", "00002.tar", "00002.txt"]
    assert last_names(s3.names("COPY")) == copied
    fetched = last_names(s3.names("GET"))
    assert not set(copied) & set(fetched) and "00000.tar" not in fetched, "nothing came down"
    check(newer)
    assert newer.file("more/00002.txt").read_text() == "00001"
    # The copies lie in folders of their own: the old version may go without them.
    assert not prefixes(old) & prefixes(newer)
    check(open_artifact(machine("a"), "shards", f"paintings@{old.id}"))


def prefixes(artifact):
    return {part.prefix for part in artifact.parts}


@pytest.mark.parametrize("harm", ["absent", "short", "altered in the mirror"])
def test_a_damaged_version_gives_nothing_to_the_next(harm, machine, s3):
    old = build_all(machine("a"))
    name = object_ending(s3, "00000.tar")
    if harm == "absent":
        deleted(s3, name)
    elif harm == "short":
        truncated(s3, name)
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
    assert last_names(s3.names("DELETE"))[:2] == ["plan.json", "manifest.json"]
    assert PLAN.id not in " ".join(s3.objects)
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
from building import NEXT, PART_NAMES, PLAN, build_all, files_under, stop_after, writer
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
    fingerprints = set()
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        out, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
        fingerprints.add(out.strip())
    opened = open_artifact(machine("reader"), "shards", "paintings")
    check(opened)
    assert fingerprints == {opened.fingerprint}, "both saw the one that was first"
    folders = {name.split("/")[6] for name in data_objects(s3)}  # one an attempt
    assert len(folders) == 2, "both wrote all of their parts"
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
    # Some stores put the object whatever the condition says.
    s3.knows_if_none_match = False
    assert build_all(machine("a")).fingerprint == FINGERPRINT
    check(open_artifact(machine("b"), "shards", "paintings"))
