"""A collection that is killed hides nothing, and the next one finishes it."""

import os
import shutil
from pathlib import Path

import pytest
from building import build_all, files_under, stop_after
from collecting import shards, versions

from storage.artifact import artifacts, check, open_artifact
from storage.collect import collect
from storage.manifest import Plan
from storage.unfinished import unfinished

WAYS = {
    "removal of a file": "unlink",
    "removal of a directory": "rmdir",
    "anything forced to the disk": "fsync",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_collection_killed_at_any_step_hides_nothing_and_the_next_one_finishes_it(
    way, tmp_path, monkeypatch
):
    """Before each call the root is copied as it lies: that copy is what a killed process would
    leave.
    """

    def prepared(root):
        for size in (1, 2, 3):
            source = build_all(root, shards(size), contents=(str(size),))
            build_all(
                root,
                Plan("latents", "x", {}, {"shards": source.fingerprint}),
                contents=(f"latent {size}",),
            )
        run = stop_after(root, Plan("runs", "r", {}), "00000")
        # An unfinished run: its checkpoints go with it.
        (run / "checkpoints" / "00000003").mkdir(parents=True)
        (run / "checkpoints" / "00000003" / "manifest.json").write_text("{}")
        return root

    unbroken = prepared(tmp_path / "unbroken")
    collect(unbroken, keep=1, unfinished_of="all")
    root, real, left = prepared(tmp_path / "killed"), getattr(os, WAYS[way]), []

    def killed_here(*arguments, **options):
        with monkeypatch.context() as undone:
            undone.setattr(os, WAYS[way], real)
            left.append(shutil.copytree(root, tmp_path / f"left-{len(left)}"))
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, WAYS[way], killed_here)
        collect(root, keep=1, unfinished_of="all")
    assert len(left) >= 3
    for copy in left:
        # What stays can be used at every moment.
        assert open_artifact(copy, "shards", "paintings").version == 3
        published = artifacts(copy)
        fingerprints = {artifact.fingerprint for artifact in published}
        for artifact in published:
            check(artifact)
            assert fingerprints >= set(artifact.inputs.values()), (
                "what is made from others goes before them"
            )
        for directory in copy.glob("*/*/*/"):
            files = files_under(directory)
            assert {"plan.json", "manifest.json", ".build/lock"} & set(files) or not files, (
                "the lock goes last"
            )
        for directory in unfinished(copy):
            assert (directory / ".build" / "00000.part.json").is_file(), "or it is nothing"
        collect(copy, keep=1, unfinished_of="all")
        assert files_under(copy) == files_under(unbroken)
        assert not list(copy.glob("shards/*/*/.build")), "no empty directory either"


def test_what_a_killed_collection_left_goes_with_the_next_and_nothing_else_does(tmp_path):
    made = build_all(tmp_path)
    left = tmp_path / "shards" / "paintings" / "0123456789ab"
    (left / "more").mkdir(parents=True)
    (left / "more" / "00000.txt").write_text("half removed")
    # Folders that are no versions, though they look like some.
    for strange in (
        "shards/paintings/notes",
        "elsewhere/x/0123456789ab",
        "shards/.hidden/0123456789ab",
    ):
        (tmp_path / strange).mkdir(parents=True)
    done = collect(tmp_path)
    (leftover,) = done.removed
    assert (leftover.directory, leftover.what, leftover.freed) == (left, "leftover", 12)
    assert not left.exists() and versions(tmp_path) == [1]
    names = {path.name for path in (tmp_path / "shards" / "paintings").iterdir()}
    assert names == {made.id, "current", "notes"}
    assert Path(tmp_path / "elsewhere/x/0123456789ab").is_dir()
