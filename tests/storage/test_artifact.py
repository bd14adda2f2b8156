"""What is published: identities, what a manifest says, what damage is told, which version is
current.
"""

import json
import threading

import pytest
from building import PLAN, build_all, files_under, writer

from storage import artifact as artifact_module
from storage.artifact import (
    all_with_fingerprint,
    artifacts,
    check,
    is_current,
    open_artifact,
    unreadable,
    with_fingerprint,
)
from storage.atomic import canonical_json, sha256_of
from storage.build import begin
from storage.errors import ArtifactDamaged, ArtifactMissing, FormatError, StorageError
from storage.manifest import FORMAT_VERSION, Plan


@pytest.fixture
def artifact(tmp_path):
    return build_all(tmp_path)


# Identity


def test_the_plan_id_does_not_follow_the_order_of_keys():
    swapped = Plan("shards", "paintings", {"crop": "center", "size": 64}, {"source": "aa"})
    nested = Plan("shards", "a", {"encoder": {"a": 1, "b": 2}})
    nested_swapped = Plan("shards", "a", {"encoder": {"b": 2, "a": 1}})
    assert swapped.id == PLAN.id
    assert nested.id == nested_swapped.id


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
    """Literal values: if one changes, every artifact out there is rebuilt; then FORMAT_VERSION must
    change too.
    """
    assert PLAN.id == "e08ba7514186"
    assert artifact.fingerprint == "33efaa9cd2e7c89f"


def test_equal_bytes_give_equal_fingerprints_and_other_bytes_others(tmp_path, artifact):
    assert build_all(tmp_path / "elsewhere").fingerprint == artifact.fingerprint
    with begin(tmp_path / "third", PLAN) as build:
        renamed = build.commit(
            [build.write_part(name, "", writer(name)) for name in ("00000", "00002")], {}
        )
    assert renamed.fingerprint != artifact.fingerprint


# What a manifest says


def test_a_finished_artifact_says_what_is_in_it(tmp_path, artifact):
    opened = open_artifact(tmp_path, "shards", "paintings")
    assert opened == artifact
    assert (opened.kind, opened.name, opened.id, opened.version) == (
        "shards",
        "paintings",
        PLAN.id,
        1,
    )
    assert opened.reference == f"shards/paintings@{PLAN.id}"
    assert (opened.parameters, opened.inputs) == (PLAN.parameters, PLAN.inputs)
    assert opened.measured == {"seconds": 1.5}
    assert (opened.rows, opened.bytes) == (6, 2 * (750 + 5))
    assert opened.counts == {"ok": 4, "rejected: too small": 2}
    assert opened.files(".tar") == [opened.file("00000.tar"), opened.file("00001.tar")]
    assert opened.files(".txt") == [opened.file("more/00000.txt"), opened.file("more/00001.txt")]
    assert files_under(opened.directory) == [
        "00000.tar", "00001.tar", "manifest.json", "more/00000.txt", "more/00001.txt", "plan.json",
    ]  # fmt: skip


# Damage


def absent(path):
    path.unlink()


def short(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "told"), [(absent, "is absent"), (short, "has 749 bytes instead of 750")]
)
def test_a_damaged_artifact_is_refused_by_name_and_rebuilt_by_the_same_command(
    damage, told, tmp_path, artifact
):
    damage(artifact.file("00001.tar"))
    for reference in ("paintings", f"paintings@{artifact.id}"):
        with pytest.raises(ArtifactDamaged, match=f"00001.tar {told}.*build") as caught:
            open_artifact(tmp_path, "shards", reference)
        assert "00000.tar" not in str(caught.value)
    # A file that is written again has another inode.
    whole = artifact.file("00000.tar").stat().st_ino
    with begin(tmp_path, PLAN) as build:
        assert build.finished is None
        with pytest.raises(ArtifactMissing, match="never finished"):
            open_artifact(tmp_path, "shards", "paintings")
    assert build_all(tmp_path).fingerprint == artifact.fingerprint
    assert open_artifact(tmp_path, "shards", "paintings").parts == artifact.parts
    assert artifact.file("00000.tar").stat().st_ino == whole, (
        "only the damaged part was written again"
    )


def test_a_flipped_bit_is_found_by_hashes_and_by_nothing_less(tmp_path, artifact):
    path = artifact.file("00001.tar")
    # One bit: the size stays.
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    opened = open_artifact(tmp_path, "shards", "paintings")
    check(opened, hashes=False)
    with pytest.raises(ArtifactDamaged, match="00001.tar has other bytes") as caught:
        check(opened, hashes=True)
    assert "00000.tar" not in str(caught.value)


def test_every_damaged_file_is_named(artifact):
    artifact.file("00000.tar").unlink()
    artifact.file("more/00001.txt").write_text("longer than it was")
    with pytest.raises(
        ArtifactDamaged, match="00000.tar is absent; more/00001.txt has 18 bytes instead of 5"
    ):
        check(artifact)


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        (
            {"format": FORMAT_VERSION + 1},
            f"format {FORMAT_VERSION + 1}, this version reads {FORMAT_VERSION}",
        ),
        ({"format": str(FORMAT_VERSION)}, f"format '{FORMAT_VERSION}'"),
        ({}, "not a manifest"),
        ([], "not a manifest"),
        ({"format": FORMAT_VERSION}, "not a manifest .*parts"),
        ({"format": FORMAT_VERSION, "parts": [{}]}, "not a manifest"),
        ({"format": FORMAT_VERSION, "parts": 3}, "not a manifest"),
        ("{", "not a manifest .*JSON"),
        (b"\xff\xfe", "not a manifest "),
    ],
)
def test_a_manifest_this_version_does_not_read_is_refused_and_does_not_hide_the_others(
    manifest, told, tmp_path, artifact
):
    other = build_all(tmp_path, Plan("shards", "photos", {}))
    raw = (
        manifest
        if isinstance(manifest, bytes)
        else (manifest if manifest == "{" else json.dumps(manifest)).encode()
    )
    artifact.file("manifest.json").write_bytes(raw)
    with pytest.raises((ArtifactDamaged, FormatError), match=f"manifest.json: {told}"):
        open_artifact(tmp_path, "shards", "paintings")
    assert artifacts(tmp_path) == [other]
    assert [error.where for error in unreadable(tmp_path)] == [str(artifact.file("manifest.json"))]
    assert with_fingerprint(tmp_path, "shards", other.fingerprint) == other


@pytest.mark.parametrize("field", ["parameters", "inputs", "fingerprint", "parts"])
def test_a_manifest_that_was_altered_is_not_believed(field, tmp_path, artifact):
    path = artifact.file("manifest.json")
    value = json.loads(path.read_text())
    if field == "parts":
        value["parts"][0]["files"][0]["sha256"] = "0" * 64
    else:
        # Any value that its id or fingerprint does not follow from.
        value[field] = {"size": 65} if field != "fingerprint" else "0" * 16
    path.write_text(json.dumps(value))
    with pytest.raises(ArtifactDamaged, match="it was altered"):
        open_artifact(tmp_path, "shards", "paintings")
    assert build_all(tmp_path).fingerprint == artifact.fingerprint


@pytest.mark.parametrize("path", ["../outside.txt", "/outside.txt", "more/../../outside.txt", "."])
def test_a_manifest_that_vouches_for_a_file_outside_is_not_believed(path, tmp_path, artifact):
    """Whoever writes a path can compute the fingerprint too: the path itself is what is refused."""
    manifest = artifact.file("manifest.json")
    (artifact.directory.parent / "outside.txt").write_bytes(b"x")
    value = json.loads(manifest.read_text())
    value["parts"][0]["files"][0] |= {"path": path, "bytes": 1, "sha256": sha256_of(b"x")}
    files = []
    for part in value["parts"]:
        for file in part["files"]:
            files.append([file["path"], file["sha256"]])
    value["fingerprint"] = sha256_of(canonical_json(files))[:16]
    manifest.write_text(json.dumps(value))
    with pytest.raises(ArtifactDamaged, match="part '00000' lies outside its artifact"):
        open_artifact(tmp_path, "shards", "paintings")


@pytest.mark.parametrize("name", ["../00000", "a/b", ".hidden", "", "a\n"])
def test_a_part_whose_name_is_no_file_name_is_not_believed(name, tmp_path, artifact):
    """The fingerprint holds no names of parts, so nothing else refuses it."""
    manifest = artifact.file("manifest.json")
    value = json.loads(manifest.read_text())
    value["parts"][0]["name"] = name
    manifest.write_text(json.dumps(value))
    with pytest.raises(ArtifactDamaged, match="lies outside its artifact"):
        open_artifact(tmp_path, "shards", "paintings")


# Versions


def test_a_new_version_becomes_current_and_the_old_one_stays_open_by_id(tmp_path, artifact):
    newer = build_all(tmp_path, Plan("shards", "paintings", {"size": 128}))
    assert open_artifact(tmp_path, "shards", "paintings") == newer
    assert open_artifact(tmp_path, "shards", f"paintings@{artifact.id}") == artifact
    assert is_current(tmp_path, newer)
    assert not is_current(tmp_path, artifact)
    assert artifacts(tmp_path, "shards", "paintings") == [artifact, newer], (
        "in the order they were published"
    )
    assert (artifact.version, newer.version) == (1, 2)


def test_asking_for_an_old_version_again_makes_it_current_again(tmp_path, artifact):
    build_all(tmp_path, Plan("shards", "paintings", {"size": 128}))
    assert build_all(tmp_path) == artifact
    assert open_artifact(tmp_path, "shards", "paintings") == artifact


def test_readers_keep_the_old_version_until_the_new_one_is_whole(tmp_path, artifact):
    with begin(tmp_path, Plan("shards", "paintings", {"size": 128})) as build:
        part = build.write_part("00000", "", writer("00000"))
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
    # Each turn makes the other version current while the reader opens whatever is.
    reader.start()
    for turn in range(60):
        build_all(tmp_path, plans[turn % 2])
    done.set()
    reader.join(timeout=30)
    assert wrong == []
    assert seen and seen <= allowed


def test_what_is_missing_is_told_with_what_is_there(tmp_path):
    with pytest.raises(
        ArtifactMissing, match="no artifact shards/photos.*Nothing of kind shards has been built"
    ):
        open_artifact(tmp_path, "shards", "photos")
    for name in ("paintings", "drawings"):
        build_all(tmp_path, Plan("shards", name, {}))
    build_all(tmp_path, Plan("latents", "other", {}))
    with pytest.raises(
        ArtifactMissing, match=r"no artifact shards/photos\. Present: drawings, paintings\."
    ):
        open_artifact(tmp_path, "shards", "photos")
    with pytest.raises(ArtifactMissing, match="0123456789ab: it has no manifest"):
        open_artifact(tmp_path, "shards", "paintings@0123456789ab")


def test_an_artifact_is_found_by_its_fingerprint(tmp_path, artifact):
    assert with_fingerprint(tmp_path, "shards", artifact.fingerprint) == artifact
    assert with_fingerprint(tmp_path, "latents", artifact.fingerprint) is None
    assert with_fingerprint(tmp_path, "shards", "0" * 16) is None


def test_every_artifact_with_the_same_bytes_is_found_whatever_it_was_made_from(tmp_path, artifact):
    other = build_all(tmp_path, Plan("shards", "paintings", PLAN.parameters, {"source": "cc"}))
    third = build_all(tmp_path, Plan("shards", "zebras", PLAN.parameters, {"source": "cc"}))
    found = all_with_fingerprint(tmp_path, "shards", artifact.fingerprint)
    assert found == [artifact, other, third] and other.inputs != artifact.inputs
    paintings = all_with_fingerprint(tmp_path, "shards", artifact.fingerprint, "paintings")
    assert paintings == [artifact, other]
    assert all_with_fingerprint(tmp_path, "latents", artifact.fingerprint) == []


def test_a_root_can_be_moved(tmp_path):
    before = build_all(tmp_path / "here")
    # No file of an artifact holds an absolute path.
    (tmp_path / "here").rename(tmp_path / "there")
    moved = open_artifact(tmp_path / "there", "shards", "paintings")
    check(moved)
    assert moved.fingerprint == before.fingerprint
    assert moved.directory.is_relative_to(tmp_path / "there")


@pytest.mark.parametrize("depth", range(4), ids=["root", "kind", "name", "version"])
def test_a_folder_that_may_not_be_looked_into_is_told_and_not_passed_over(
    depth, tmp_path, artifact, monkeypatch
):
    closed = (tmp_path, *reversed(artifact.directory.parents[:2]), artifact.directory)[depth]
    monkeypatch.setattr(artifact_module.os, "access", lambda path, mode: path != closed)
    with pytest.raises(StorageError, match="may not be looked into") as refused:
        artifacts(tmp_path)
    assert refused.value.where == str(closed)
