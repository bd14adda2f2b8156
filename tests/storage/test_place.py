"""A folder, a bucket and other stores answer alike."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from building import NEXT, build_all
from s3_bucket import (
    FINGERPRINT,
    bytes_of,
)

from storage import objects
from storage.artifact import artifacts, check, open_artifact
from storage.atomic import sha256_file, write_bytes
from storage.errors import ArtifactDamaged
from storage.manifest import PartFile, fingerprint_of
from storage.mirror import url_of
from storage.place import place_of

pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'rdm[s3]'")


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
    listing = place.listing(family)
    assert sorted(listing) == ["copy", "current"]
    assert listing["copy"].bytes == listing["current"].bytes == 13
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
from building import NEXT, PART_NAMES, PLAN, build_all, files_under, stop_after, writer
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
