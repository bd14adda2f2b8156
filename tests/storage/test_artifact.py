"""An artifact is whole or absent, whatever happens while it is built and to its files afterwards."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from storage.artifact import (
    FORMAT_VERSION,
    Plan,
    artifacts,
    begin,
    check,
    is_current,
    open_artifact,
    with_fingerprint,
)
from storage.errors import ArtifactDamaged, ArtifactMissing, FormatError

PLAN = Plan("shards", "paintings", {"size": 64, "crop": "center"}, {"source": "aa"})
PART_NAMES = ("00000", "00001")


def writer(part_name):
    """Two files a part, one of them in a folder."""

    def write(scratch):
        (scratch / f"{part_name}.tar").write_bytes(f"images of {part_name}".encode() * 50)
        (scratch / "more").mkdir()
        (scratch / "more" / f"{part_name}.txt").write_text(part_name)
        return 3, {"ok": 2, "rejected: too small": 1}

    return write


def build_all(root, plan=PLAN):
    """What a flow does: keep a finished build, keep whole parts, write the others, commit."""
    build = begin(root, plan)
    if build.finished:
        return build.finished
    parts = [build.existing_part(name) or build.write_part(name, writer(name)) for name in PART_NAMES]
    return build.commit(parts, {"seconds": 1.5})


def files_under(directory):
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


@pytest.fixture
def artifact(tmp_path):
    return build_all(tmp_path)


# Identity


def test_the_plan_id_does_not_follow_the_order_of_keys():
    swapped = Plan("shards", "paintings", {"crop": "center", "size": 64}, {"source": "aa"})
    nested = [Plan("shards", "a", {"encoder": dict(pairs)}) for pairs in ([("a", 1), ("b", 2)], [("b", 2), ("a", 1)])]
    assert swapped.id == PLAN.id
    assert nested[0].id == nested[1].id


@pytest.mark.parametrize(
    "other",
    [
        Plan("latents", "paintings", PLAN.parameters, PLAN.inputs),
        Plan("shards", "paintings", {"size": 65, "crop": "center"}, PLAN.inputs),
        Plan("shards", "paintings", {"size": 64}, PLAN.inputs),
        Plan("shards", "paintings", {"size": "64", "crop": "center"}, PLAN.inputs),
        Plan("shards", "paintings", PLAN.parameters, {"source": "ab"}),
        Plan("shards", "paintings", PLAN.parameters, {"origin": "aa"}),
        Plan("shards", "paintings", PLAN.parameters),
    ],
)
def test_the_plan_id_follows_kind_parameters_and_inputs(other):
    assert other.id != PLAN.id


def test_the_plan_id_does_not_follow_the_name():
    assert Plan("shards", "photos", PLAN.parameters, PLAN.inputs).id == PLAN.id


def test_ids_and_fingerprints_are_the_same_on_every_machine(artifact):
    """Literal values: if one changes, every artifact out there is rebuilt; then FORMAT_VERSION must change too."""
    assert PLAN.id == "8999ea2d8080"
    assert artifact.fingerprint == "33efaa9cd2e7c89f"


def test_equal_bytes_give_equal_fingerprints_and_other_bytes_others(tmp_path, artifact):
    assert build_all(tmp_path / "elsewhere").fingerprint == artifact.fingerprint
    build = begin(tmp_path / "third", PLAN)
    renamed = build.commit([build.write_part("00000", writer("00000")), build.write_part("00002", writer("00002"))], {})
    assert renamed.fingerprint != artifact.fingerprint


# A build


def test_a_finished_artifact_says_what_is_in_it(tmp_path, artifact):
    opened = open_artifact(tmp_path, "shards", "paintings")
    assert opened == artifact
    assert (opened.kind, opened.name, opened.id) == ("shards", "paintings", PLAN.id)
    assert (opened.parameters, opened.inputs) == (PLAN.parameters, PLAN.inputs)
    assert opened.measured == {"seconds": 1.5}
    assert opened.rows == 6
    assert opened.counts == {"ok": 4, "rejected: too small": 2}
    assert opened.files(".tar") == [opened.file("00000.tar"), opened.file("00001.tar")]
    assert opened.files(".txt") == [opened.file("more/00000.txt"), opened.file("more/00001.txt")]
    assert files_under(opened.directory) == [
        "00000.tar", "00001.tar", "manifest.json", "more/00000.txt", "more/00001.txt", "plan.json",
    ]  # fmt: skip


def test_a_finished_build_is_kept(tmp_path, artifact):
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert begin(tmp_path, PLAN).finished == artifact
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_writer_that_raises_publishes_nothing(tmp_path):
    build = begin(tmp_path, PLAN)

    def fails(scratch):
        (scratch / "00000.tar").write_bytes(b"half")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        build.write_part("00000", fails)
    assert files_under(build.directory) == ["plan.json"]
    assert list((build.directory / ".build").iterdir()) == [], "no scratch is left"
    assert build.existing_part("00000") is None


def test_a_build_killed_in_its_second_part_keeps_the_first_and_ends_as_if_unbroken(tmp_path):
    unbroken = build_all(tmp_path / "unbroken")
    build = begin(tmp_path, PLAN)
    first = build.write_part("00000", writer("00000"))

    def killed(scratch):
        (scratch / "00001.tar").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build.write_part("00001", killed)
    assert files_under(build.directory) == [".build/00000.part.json", "00000.tar", "more/00000.txt", "plan.json"]
    with pytest.raises(ArtifactMissing):
        open_artifact(tmp_path, "shards", "paintings")
    again = begin(tmp_path, PLAN)
    assert again.finished is None
    assert again.existing_part("00000") == first
    assert again.existing_part("00001") is None
    written = (again.directory / "00000.tar").stat().st_mtime_ns
    resumed = build_all(tmp_path)
    assert (resumed.directory / "00000.tar").stat().st_mtime_ns == written, "the first part was not written again"
    assert resumed.fingerprint == unbroken.fingerprint
    assert files_under(resumed.directory) == files_under(unbroken.directory)


def test_a_process_that_dies_while_writing_leaves_scratch_that_the_next_run_clears(tmp_path):
    code = """
import os, sys
from pathlib import Path
from storage.artifact import Plan, begin
def dies(scratch):
    (scratch / "00000.tar").write_bytes(b"half")
    os._exit(9)
plan = Plan("shards", "paintings", {"size": 64, "crop": "center"}, {"source": "aa"})
begin(Path(sys.argv[1]), plan).write_part("00000", dies)
"""
    dead = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60)
    assert dead.returncode == 9
    directory = tmp_path / "shards" / "paintings" / PLAN.id
    assert [name for name in files_under(directory) if name.endswith("00000.tar")] != [], "the dead run left scratch"
    build = begin(tmp_path, PLAN)
    assert files_under(directory) == ["plan.json"]
    assert build.existing_part("00000") is None


def test_a_build_killed_at_any_rename_shows_nothing_and_resumes_to_the_same_bytes(tmp_path, monkeypatch):
    unbroken = build_all(tmp_path / "unbroken")
    real, calls = Path.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == deadly:
            raise KeyboardInterrupt
        return real(source, target)

    monkeypatch.setattr(Path, "replace", replace)
    for deadly in range(1, 10):  # plan, two files and a record for each of two parts, manifest, pointer
        root = tmp_path / str(deadly)
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            build_all(root)
        with pytest.raises(ArtifactMissing):
            open_artifact(root, "shards", "paintings")
        resumed = build_all(root)
        assert resumed.fingerprint == unbroken.fingerprint
        assert open_artifact(root, "shards", "paintings") == resumed
        assert files_under(root / "shards") == files_under(tmp_path / "unbroken" / "shards")
    deadly = 10
    calls.clear()
    build_all(tmp_path / "all")
    assert len(calls) == 9, "every rename of a build was tried"


def test_a_part_whose_file_changed_size_since_is_written_again(tmp_path):
    build = begin(tmp_path, PLAN)
    build.write_part("00000", writer("00000"))
    (build.directory / "00000.tar").write_bytes(b"short")
    assert begin(tmp_path, PLAN).existing_part("00000") is None


def test_a_build_that_lost_a_file_cannot_be_committed(tmp_path):
    build = begin(tmp_path, PLAN)
    part = build.write_part("00000", writer("00000"))
    (build.directory / "00000.tar").unlink()
    with pytest.raises(ArtifactDamaged, match="00000.tar is absent.*Run the same command again"):
        build.commit([part], {})
    assert not (build.directory / "manifest.json").exists()


# Damage


def absent(path):
    path.unlink()


def short(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(("damage", "told"), [(absent, "is absent"), (short, "has 749 bytes instead of 750")])
def test_a_damaged_artifact_is_refused_by_name_and_rebuilt_by_the_same_command(damage, told, tmp_path, artifact):
    damage(artifact.file("00001.tar"))
    for reference in ("paintings", f"paintings@{artifact.id}"):
        with pytest.raises(ArtifactDamaged, match=f"00001.tar {told}.*build") as caught:
            open_artifact(tmp_path, "shards", reference)
        assert "00000.tar" not in str(caught.value)
    build = begin(tmp_path, PLAN)
    assert build.finished is None
    with pytest.raises(ArtifactMissing, match="never finished"):
        open_artifact(tmp_path, "shards", "paintings")
    assert build_all(tmp_path).fingerprint == artifact.fingerprint
    assert open_artifact(tmp_path, "shards", "paintings") == artifact


def test_a_flipped_bit_is_found_by_hashes_and_by_nothing_less(tmp_path, artifact):
    path = artifact.file("00001.tar")
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    opened = open_artifact(tmp_path, "shards", "paintings")
    check(opened, hashes=False)
    with pytest.raises(ArtifactDamaged, match="00001.tar has other bytes") as caught:
        check(opened, hashes=True)
    assert "00000.tar" not in str(caught.value)


def test_every_damaged_file_is_named(artifact):
    artifact.file("00000.tar").unlink()
    artifact.file("more/00001.txt").write_text("longer than it was")
    with pytest.raises(ArtifactDamaged, match="00000.tar is absent; more/00001.txt has 18 bytes instead of 5"):
        check(artifact)


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        ({"format": FORMAT_VERSION + 1}, f"format {FORMAT_VERSION + 1}, this version reads {FORMAT_VERSION}"),
        ({"format": str(FORMAT_VERSION)}, f"format '{FORMAT_VERSION}'"),
        ({}, "format None"),
        ([], "format None"),
        ({"format": FORMAT_VERSION}, "not a manifest .*parts"),
        ({"format": FORMAT_VERSION, "parts": [{}]}, "not a manifest"),
        ({"format": FORMAT_VERSION, "parts": 3}, "not a manifest"),
        ("{", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
    ],
)
def test_a_manifest_this_version_does_not_read_is_refused(manifest, told, tmp_path, artifact):
    raw = manifest if isinstance(manifest, bytes) else (manifest if manifest == "{" else json.dumps(manifest)).encode()
    artifact.file("manifest.json").write_bytes(raw)
    with pytest.raises(FormatError, match=f"manifest.json: {told}"):
        open_artifact(tmp_path, "shards", "paintings")


# Versions


def test_a_new_version_becomes_current_and_the_old_one_stays_open_by_id(tmp_path, artifact):
    newer = build_all(tmp_path, Plan("shards", "paintings", {"size": 128}))
    assert open_artifact(tmp_path, "shards", "paintings") == newer
    assert open_artifact(tmp_path, "shards", f"paintings@{artifact.id}") == artifact
    assert is_current(tmp_path, newer)
    assert not is_current(tmp_path, artifact)
    assert artifacts(tmp_path, "shards", "paintings") == sorted([artifact, newer], key=lambda a: a.id)


def test_asking_for_an_old_version_again_makes_it_current_again(tmp_path, artifact):
    build_all(tmp_path, Plan("shards", "paintings", {"size": 128}))
    assert begin(tmp_path, PLAN).finished == artifact
    assert open_artifact(tmp_path, "shards", "paintings") == artifact


def test_readers_keep_the_old_version_until_the_new_one_is_whole(tmp_path, artifact):
    build = begin(tmp_path, Plan("shards", "paintings", {"size": 128}))
    part = build.write_part("00000", writer("00000"))
    assert open_artifact(tmp_path, "shards", "paintings") == artifact
    with pytest.raises(ArtifactMissing, match="never finished"):
        open_artifact(tmp_path, "shards", f"paintings@{build.plan.id}")
    build.commit([part], {})
    assert open_artifact(tmp_path, "shards", "paintings").id == build.plan.id


def test_a_reader_beside_a_switching_pointer_always_sees_one_whole_version(tmp_path, artifact):
    plans = [PLAN, Plan("shards", "paintings", {"size": 128})]
    allowed = {build_all(tmp_path, plan).id for plan in plans}
    seen, wrong, done = set(), [], threading.Event()

    def read():
        while not done.is_set():
            try:
                seen.add(open_artifact(tmp_path, "shards", "paintings").id)
            except Exception as error:
                wrong.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(60):
        begin(tmp_path, plans[turn % 2])
    done.set()
    reader.join(timeout=30)
    assert wrong == []
    assert seen <= allowed


def test_what_is_missing_is_told_with_what_is_there(tmp_path):
    with pytest.raises(ArtifactMissing, match="no artifact shards/photos.*Nothing of kind shards has been built"):
        open_artifact(tmp_path, "shards", "photos")
    for name in ("paintings", "drawings"):
        build_all(tmp_path, Plan("shards", name, {}))
    build_all(tmp_path, Plan("latents", "other", {}))
    with pytest.raises(ArtifactMissing, match=r"no artifact shards/photos\. Present: drawings, paintings\."):
        open_artifact(tmp_path, "shards", "photos")
    with pytest.raises(ArtifactMissing, match="0123456789ab: it has no manifest"):
        open_artifact(tmp_path, "shards", "paintings@0123456789ab")


def test_an_artifact_is_found_by_its_fingerprint(tmp_path, artifact):
    assert with_fingerprint(tmp_path, "shards", artifact.fingerprint) == artifact
    assert with_fingerprint(tmp_path, "latents", artifact.fingerprint) is None
    assert with_fingerprint(tmp_path, "shards", "0" * 16) is None


def test_a_root_can_be_moved(tmp_path):
    before = build_all(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    moved = open_artifact(tmp_path / "there", "shards", "paintings")
    check(moved)
    assert moved.fingerprint == before.fingerprint
    assert moved.directory.is_relative_to(tmp_path / "there")
