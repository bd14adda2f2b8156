"""Objects that are deleted, altered or not ours are never served."""

import json
from pathlib import Path

import pytest
from building import PLAN, build_all, files_under
from s3_bucket import (
    FINGERPRINT,
    HERE,
    SECRET,
    URL,
    deleted,
    object_ending,
    truncated,
)

from storage.artifact import artifacts, check, open_artifact, unreadable
from storage.errors import ArtifactDamaged, ArtifactMissing

pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'rdm[s3]'")


@pytest.mark.parametrize("harm", [deleted, truncated])
@pytest.mark.parametrize("where", ["a", "b"], ids=["where it was built", "elsewhere"])
def test_a_deleted_or_truncated_object_is_never_served_and_rebuilt(harm, where, machine, s3):
    built = build_all(machine("a"))
    root = machine(where)
    harm(s3, object_ending(s3, "00001.tar"))
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


def test_a_flipped_object_is_found_by_check_and_when_it_is_fetched_and_healed_as_told(machine, s3):
    build_all(machine("a"))
    name = object_ending(s3, "00001.tar")
    # Of the same size: only its hash is wrong.
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
    # Of another size: it is fetched again without being read.
    built.file("00000.tar").write_bytes(b"cut")
    assert built.file("00000.tar").read_bytes() == b"images of 00000" * 50


def test_an_artifact_deleted_in_the_bucket_is_not_served_from_the_mirror(machine, s3):
    built = build_all(machine("a"))
    s3.objects.clear()
    root = machine("a")
    # The mirror still has all of it.
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


def test_no_credential_gets_into_the_bucket_or_the_mirror(machine, s3, tmp_path):
    build_all(machine("a"))
    texts = list(s3.objects.values())
    for name in files_under(tmp_path / "a"):
        texts.append((tmp_path / "a" / name).read_bytes())
    assert s3.objects and len(texts) > len(s3.objects)
    for text in texts:
        assert SECRET.encode() not in text and b"127.0.0.1" not in text
