"""A build after another of the same name: with other parameters, or made from other inputs."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from building import NEXT, PLAN, build_all, stop_after

from storage.artifact import check, open_artifact
from storage.build import begin
from storage.errors import BuildRefused
from storage.manifest import Plan
from storage.unfinished import has_finished_work, unfinished

HERE = str(Path(__file__).parent)


@pytest.fixture
def artifact(tmp_path):
    return build_all(tmp_path)


def test_another_request_is_refused_while_an_unfinished_one_holds_work_naming_what_differs(
    tmp_path,
):
    stop_after(tmp_path, PLAN, "00000")
    other = Plan(
        "shards", "paintings", {"size": 32, "crop": "center", "deep": {"er": True}}, PLAN.inputs
    )
    with pytest.raises(BuildRefused) as caught, begin(tmp_path, other):
        pass
    assert "deep.er=null (now true), size=64 (now 32)" in str(caught.value)
    assert "crop" not in str(caught.value) and "rdm gc --unfinished shards/paintings" in str(
        caught.value
    )
    assert has_finished_work(tmp_path / "shards" / "paintings" / PLAN.id), "and it is not touched"


def test_an_unfinished_build_without_work_stands_in_nobodys_way(tmp_path):
    code = (
        "import os, sys; sys.path.append(sys.argv[2]); "
        "from pathlib import Path; from building import PLAN; "
        "from storage.build import begin; held = begin(Path(sys.argv[1]), PLAN); "
        "held.__enter__(); os._exit(9)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code, str(tmp_path), HERE], timeout=60).returncode
        == 9
    )
    assert unfinished(tmp_path)
    build_all(tmp_path, Plan("shards", "paintings", {"size": 32}))
    assert unfinished(tmp_path) == []


def test_changed_input_makes_only_the_changed_parts_and_shares_the_others(tmp_path, artifact):
    written = []
    newer = build_all(tmp_path, NEXT, ("new", "00000", "00001"), written)
    assert written == ["00000"], "the two old parts moved on by one place"
    assert (newer.version, newer.inputs) == (2, {"source": "bb"})
    # Shared by a hard link, under the new name of the part.
    assert newer.file("00001.tar").samefile(artifact.file("00000.tar"))
    assert newer.file("more/00002.txt").read_text() == "00001"
    check(newer)
    check(open_artifact(tmp_path, "shards", f"paintings@{artifact.id}"))
    assert (
        newer.fingerprint
        == build_all(tmp_path / "fresh", NEXT, ("new", "00000", "00001")).fingerprint
    )


def test_a_damaged_version_gives_nothing_to_the_next(tmp_path, artifact):
    path = artifact.file("00000.tar")
    # The size stays, so that only reading it tells.
    path.write_bytes(path.read_bytes().replace(b"images", b"imagez"))
    written = []
    check(build_all(tmp_path, NEXT, ("00000", "00001"), written))
    assert written == ["00000"]


def test_an_unfinished_build_gives_its_parts_to_the_one_of_newer_input_and_is_dropped(tmp_path):
    stop_after(tmp_path, PLAN, "00000")
    written = []
    build_all(tmp_path, NEXT, ("00000", "changed"), written)
    assert written == ["00001"]
    assert unfinished(tmp_path) == []


def test_a_file_system_without_links_gets_copies(tmp_path, artifact, monkeypatch):
    def refuses(*_):
        raise OSError(errno.EPERM, "no links here")

    # As on a file system of Windows or of some networks.
    monkeypatch.setattr(os, "link", refuses)
    written = []
    check(build_all(tmp_path, NEXT, ("00000", "changed"), written))
    assert written == ["00001"]
