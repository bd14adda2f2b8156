"""What is under a root is told in full, whatever state it is in."""

import os

import numpy as np
import pytest
from building import build_all, writer

from flows.look.show import checked_artifacts, collected, log_of, one_artifact, table_of_artifacts
from storage.artifact import artifacts
from storage.build import begin
from storage.errors import ArtifactMissing, StorageError
from storage.manifest import Plan
from storage.runs import write_checkpoint
from storage.unfinished import unfinished

NEXT = Plan("shards", "paintings", {"size": 64, "crop": "left"}, {"source": "bb"})


@pytest.fixture
def root(tmp_path):
    """Two versions of one name, and something made from the first."""
    first = build_all(tmp_path)
    build_all(tmp_path, NEXT, contents=("00000", "changed"))
    build_all(
        tmp_path,
        Plan("latents", "paintings", {}, {"shards": first.fingerprint}),
        contents=("latent",),
    )
    return tmp_path


def stopped(root, plan):
    with pytest.raises(KeyboardInterrupt), begin(root, plan) as build:
        build.write_part("00000", "00000", writer("00000"))
        raise KeyboardInterrupt
    return build.directory


# rdm show


def test_show_lists_what_cannot_be_read_and_what_is_not_finished_beside_the_rest(root):
    (artifacts(root, "shards")[0].directory / "manifest.json").write_text('{"format": 99}')
    (artifacts(root, "latents")[0].directory / "manifest.json").write_text("{")
    left = stopped(root, Plan("runs", "left", {}))
    with begin(root, Plan("runs", "going", {})) as build:
        build.write_part("00000", "", writer("00000"))
        text, value = table_of_artifacts(root)
    assert len(value["artifacts"]) == 1 and value["artifacts"][0]["version"] == 2
    assert len(value["unreadable"]) == 2 and all(error["cure"] for error in value["unreadable"])
    assert "format 99, this version reads" in text and "not a manifest" in text
    assert {one["directory"]: one["built_by"] for one in value["unfinished"]} == {
        str(left): None,
        str(build.directory): f"process {os.getpid()} on {os.uname().nodename}",
    }
    assert (
        f"{left.name}  1 parts so far, left; run its command again, or: "
        "rdm gc --unfinished runs/left" in text
    )
    assert f"{build.directory.name}  1 parts so far, being built by process {os.getpid()}" in text


def training(root, name, step=1350, latents="aa"):
    """A training that was stopped after a checkpoint."""
    plan = Plan("runs", name, {"training": {"steps": 10000}}, {"latents": latents})
    with pytest.raises(KeyboardInterrupt), begin(root, plan) as build:
        write_checkpoint(build.directory, step, {"weights": np.zeros(1, np.float32)})
        raise KeyboardInterrupt
    return build.directory


def test_show_says_how_far_an_unfinished_training_has_come(root):
    left = training(root, "coco")
    text, value = table_of_artifacts(root)
    again = "left; run its command again, or: rdm gc --unfinished runs/coco"
    assert f"{left.name}  unfinished, step 1,350 of 10,000, {again}" in text
    found = {"directory": str(left), "built_by": None, "step": 1350, "steps": 10000}
    assert value["unfinished"] == [found]
    assert log_of(root, "runs/coco")[1]["unfinished"] == [found]


def test_show_of_a_name_lists_what_is_unfinished_under_it(root):
    left, other = training(root, "coco"), training(root, "coco", 20, latents="bb")
    for reference, lines in {"runs/coco": 2, f"runs/coco@{left.name}": 1}.items():
        text, value = one_artifact(root, reference)
        assert f"{left.name}  unfinished, step 1,350 of 10,000" in text
        assert len(text.splitlines()) == len(value["unfinished"]) == lines
    assert f"{other.name}  unfinished, step 20 of 10,000" in one_artifact(root, "runs/coco")[0]
    build_all(root, Plan("runs", "done", {"training": {"steps": 10000}}))
    again = training(root, "done", 30)
    text, value = one_artifact(root, "runs/done")
    assert value["version"] == 1 and "fingerprint: " in text
    last = text.splitlines()[-1]
    assert last.startswith("runs ") and f"{again.name}  unfinished, step 30 of 10,000" in last
    assert len(value["unfinished"]) == 1
    with pytest.raises(ArtifactMissing, match="there is no artifact runs/nothing"):
        one_artifact(root, "runs/nothing")


def test_show_of_a_name_without_anything_unfinished_says_nothing_of_it(root):
    text, value = one_artifact(root, "shards/paintings")
    assert "unfinished" not in text and value["unfinished"] == []
    with pytest.raises(ArtifactMissing, match="this names no artifact"):
        one_artifact(root, "paintings")


def test_looking_changes_nothing(root):
    left = stopped(root, Plan("runs", "left", {}))
    (left / ".build" / "lock").touch()  # as a killed run leaves it
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    table_of_artifacts(root)
    one_artifact(root, "runs/left")
    log_of(root, "paintings")
    collected(root, 1, "all", dry_run=True)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


# rdm check


def test_check_tells_of_everything_that_is_damaged_in_one_message(root):
    first, second = artifacts(root, "shards")
    first.file("00001.tar").write_bytes(b"short")
    second.file("more/00001.txt").unlink()
    (artifacts(root, "latents")[0].directory / "manifest.json").write_text("{")
    with pytest.raises(StorageError) as caught:
        checked_artifacts(root, None)
    told = str(caught.value)
    for said in (
        "damaged: 3 of 3",
        "00001.tar has 5 bytes",
        "more/00001.txt is absent",
        "not a manifest",
        "builds it again",
    ):
        assert said in told
    assert str(first.directory) in told and str(second.directory) in told


def test_check_of_one_artifact_looks_at_no_other(root):
    artifacts(root, "latents")[0].file("00000.tar").unlink()
    assert checked_artifacts(root, "shards/paintings")[1] == {"artifacts": 1, "files": 4}
    with pytest.raises(StorageError, match="00000.tar is absent"):
        checked_artifacts(root, "latents/paintings")


# rdm log


def test_log_tells_of_each_version_and_what_changed(root):
    first, second = artifacts(root, "shards")
    text, value = log_of(root, "shards/paintings")
    assert [(v["version"], v["current"], v["rows"]) for v in value["versions"]] == [
        (1, False, 6),
        (2, True, 6),
    ]
    assert value["versions"][1]["change"]["parameters"] == (("crop", "center", "left"),)
    lines = text.splitlines()
    assert lines[0].startswith(
        f"shards/paintings version 1  {first.id}  {first.created_at}  1.5 s  6 rows"
    )
    assert f"shards/paintings version 2 (current)  {second.id}" in text
    assert '    crop: "center" -> "left"' in lines and "    input source: aa -> bb" in lines
    assert (
        lines[-1]
        == "    against version 1: parts 1 taken over, 1 made, 0 dropped; rows 0 added, 0 removed"
    )


def test_log_of_a_bare_name_tells_of_every_kind_and_where_each_came_from(root):
    text, value = log_of(root, "paintings")
    assert [(v["kind"], v["version"]) for v in value["versions"]] == [
        ("shards", 1),
        ("shards", 2),
        ("latents", 1),
    ]
    assert f"    from shards {artifacts(root, 'shards')[0].reference}" in text.splitlines()
    assert "    from source aa (no artifact under this root)" in text.splitlines()


def test_log_tells_of_versions_that_cannot_be_read_or_are_not_finished_too(root):
    (artifacts(root, "shards")[0].directory / "manifest.json").write_text("{")
    stopped(root, Plan("runs", "paintings", {}))
    stopped(root, Plan("runs", "other", {}))
    text, value = log_of(root, "paintings")
    assert (
        len(value["versions"]) == 2
        and len(value["unreadable"]) == 1
        and len(value["unfinished"]) == 1
    )
    assert "cannot be read: " in text and "rdm gc --unfinished runs/paintings" in text


def test_log_of_a_name_that_nothing_has_says_which_there_are(root):
    for wrong in ("painting", "runs/paintings"):
        with pytest.raises(ArtifactMissing, match="there is no version of .*Names: paintings"):
            log_of(root, wrong)
    with pytest.raises(StorageError, match="is not a kind"):
        log_of(root, "shrads/paintings")


# rdm gc


def test_gc_tells_what_went_what_it_freed_and_what_it_did_not_touch(root):
    (artifacts(root, "latents")[0].directory / "manifest.json").unlink()
    (artifacts(root, "shards")[0].directory / "plan.json").unlink()
    text, value = collected(root, 1, "", dry_run=True)
    assert (
        value["removed"] == [] and text == "0 would be removed, 0 bytes freed; 2 versions stay"
    ), "latents/x needs it"
    with begin(root, Plan("runs", "going", {})):
        text, value = collected(root, 1, "all", dry_run=False)
    freed = sum(one["freed"] for one in value["removed"])
    assert [(one["what"], one["version"]) for one in value["removed"]] == [
        ("unfinished", None),
        ("version", 1),
    ]
    assert value["freed"] == freed > 0 and len(value["untouched"]) == 1
    assert (
        f"2 were removed, {freed:,} bytes freed; 1 versions stay" in text
        and "not touched: process" in text
    )
    assert "version 1" in text and "unfinished build" in text and unfinished(root) == []
    assert collected(root, 1, "", dry_run=False)[1]["removed"] == []
