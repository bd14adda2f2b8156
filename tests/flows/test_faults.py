"""What docs/reliability.md promises where the disk, the clock or the files themselves fail; the
other rows name their tests.
"""

import os
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.config.database import BuildDatabase
from flows.config.images import ImportImages
from flows.data.build_database import embed_images
from flows.data.import_images import import_images
from storage import build
from storage.artifact import artifacts, check, open_artifact
from storage.errors import ArtifactDamaged, CannotWrite


def shapes(root, name="a", **changes):
    drawn = {"source": "shapes", "size": 32, "encoding": "png", "count": 200, "images_per_part": 20}
    return import_images(ImportImages(root=root, name=name, **drawn | changes))


def embedded(root, name="a"):
    return embed_images(
        BuildDatabase(root=root, name=name, shards=name, encoder="rdm-shapes", weights="built-in")
    )


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB; `more()` makes it larger, `read_only()` forbids writing."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True
    ).returncode:
        pytest.skip("this system does not let us mount a small file system")

    def again(options):
        subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)

    yield disk, lambda: again("size=50m"), lambda: again("ro")
    subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_full_disk_is_told_and_the_same_command_goes_on_once_there_is_room(small_disk, tmp_path):
    disk, more, _ = small_disk
    with pytest.raises(
        CannotWrite,
        match=r"shards/a.*No space left on device\. Free some space.*continues where it stopped",
    ):
        shapes(disk / "root")
    finished = list((disk / "root").glob("shards/a/*/.build/*.part.json"))
    assert finished and artifacts(disk / "root") == []
    more()
    shards = shapes(disk / "root")
    check(shards)
    assert shards.fingerprint == shapes(tmp_path / "unbroken").fingerprint
    assert [
        p.name for p in (disk / "root").rglob("*") if p.name.startswith(".build") or "-" in p.suffix
    ] == []


def test_a_full_folder_for_temporary_files_stops_nothing(small_disk, tmp_path):
    """What is written on the way lies in the root; the built-in encoder needs a few bytes
    elsewhere.
    """
    disk, _, _ = small_disk
    shapes(tmp_path / "root", count=4)
    (disk / "fill").write_bytes(b"")
    with suppress(OSError), (disk / "fill").open("wb", buffering=0) as filled:
        while True:
            filled.write(b"x" * 1024)
    command = [str(Path(sys.executable).parent / "rdm"), "build", "--root", str(tmp_path / "root")]
    command += [
        "--name",
        "a",
        "--shards",
        "a",
        "--set",
        "encoder=rdm-shapes",
        "--set",
        "weights=built-in",
    ]
    done = subprocess.run(
        command, env=os.environ | {"TMPDIR": str(disk)}, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert {artifact.kind for artifact in artifacts(tmp_path / "root")} == {
        "shards",
        "embeddings",
        "index",
    }


def test_a_root_that_became_read_only_still_serves_what_is_finished(small_disk):
    disk, more, read_only = small_disk
    more()
    shards = shapes(disk / "root")
    read_only()
    assert shapes(disk / "root") == shards
    with pytest.raises(CannotWrite, match="Read-only file system.*choose another root"):
        shapes(disk / "root", name="other")


def deleted(path):
    path.unlink()


def truncated(path):
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("damage", [deleted, truncated])
def test_damage_under_a_cached_state_is_rebuilt_and_never_served(damage, recorded, tmp_path):
    shards = shapes(tmp_path)
    before = embedded(tmp_path)
    damage(shards.file("00003.tar"))
    with pytest.raises(ArtifactDamaged, match=r"00003\.tar"):
        embedded(tmp_path)
    state = import_images.flow(
        ImportImages(
            root=tmp_path,
            name="a",
            source="shapes",
            size=32,
            encoding="png",
            count=200,
            images_per_part=20,
        ),
        return_state=True,
    )
    assert state.name == "Completed", "work was done: this is no Cached"
    assert state.result().fingerprint == shards.fingerprint
    assert embedded(tmp_path) == before, (
        "the same bytes again, so what was made from them still stands"
    )


def test_a_flipped_bit_is_found_by_check_and_repaired_after_the_file_is_deleted(tmp_path):
    shards = shapes(tmp_path)
    path = shards.file("00003.tar")
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactDamaged, match=r"00003\.tar has other bytes"):
        check(shards)
    path.unlink()
    check(shapes(tmp_path))


def test_a_clock_set_back_confuses_nothing(tmp_path, monkeypatch):
    class Earlier(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(UTC) - timedelta(days=4000)

    first = shapes(tmp_path)
    monkeypatch.setattr(build, "datetime", Earlier)
    second = shapes(tmp_path, count=220)
    assert second.created_at < first.created_at and second.version == first.version + 1
    assert open_artifact(tmp_path, "shards", "a") == second == artifacts(tmp_path)[-1]
    assert shapes(tmp_path, count=220) == second
