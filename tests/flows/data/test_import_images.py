"""Importing images that others wrote, while others write them."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from flows.config.images import ImportImages
from flows.data import import_images as stage
from flows.data.import_images import import_images, import_plan, list_images, read_image
from rdm_core.decode import ImageRejected
from storage.artifact import open_artifact
from storage.errors import SourceError
from storage.shards import read_sidecar


def draw(path, shade=100):
    Image.fromarray(np.full((32, 32, 3), shade, np.uint8)).save(path)


@pytest.fixture
def config(tmp_path):
    """An import of three pictures of a folder."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for shade, name in enumerate("abc"):
        draw(folder / f"{name}.png", shade * 50)
    return ImportImages(root=tmp_path / "data", name="set", source="folder", path=folder, size=16)


def rows(artifact):
    sidecar = read_sidecar(artifact, "00000").to_pylist()
    return {row["source_key"].split("-")[1]: row for row in sidecar}


def changed_once_listed(monkeypatch, change):
    """What the disk is made to be after the next listing, before a file is read."""

    def listing_then_change(config):
        listing = list_images(config)
        change()
        return listing

    monkeypatch.setattr(stage, "list_images", listing_then_change)


def test_files_that_change_during_an_import_are_rows_and_the_next_import_mends_them(
    config, monkeypatch
):
    def change():
        (config.path / "a.png").unlink()
        (config.path / "b.png").write_bytes((config.path / "b.png").read_bytes()[:40])
        draw(config.path / "d.png")

    with monkeypatch.context() as patch:
        changed_once_listed(patch, change)
        first = rows(import_images(config))
    assert {name: row["status"] for name, row in first.items()} == {
        "a": "rejected",
        "b": "rejected",
        "c": "ok",
    }
    assert {first[name]["reason"] for name in "ab"} == {"unreadable file"}
    assert (
        "is gone; import again" in first["a"]["detail"]
        and "it changed after" in first["b"]["detail"]
    )
    draw(config.path / "b.png", 200)
    second = rows(import_images(config))
    assert {name: row["status"] for name, row in second.items()} == dict.fromkeys("bcd", "ok")


def test_a_file_that_is_replaced_during_an_import_is_not_stored_as_what_was_listed(
    config, monkeypatch
):
    before = rows(import_images(config))["a"]["sha256"]
    draw(config.path / "b.png", 7)
    with monkeypatch.context() as patch:
        changed_once_listed(patch, lambda: draw(config.path / "a.png", 250))
        assert rows(import_images(config))["a"]["status"] == "rejected"
    assert rows(import_images(config))["a"]["sha256"] not in (before, "")


def test_a_data_set_that_goes_away_during_an_import_is_told_and_nothing_is_published(
    config, monkeypatch, tmp_path
):
    with monkeypatch.context() as patch:
        changed_once_listed(patch, lambda: config.path.rename(tmp_path / "elsewhere"))
        with pytest.raises(
            SourceError,
            match="pictures: went away while it was imported.*run the same command again",
        ):
            import_images(config)
    (tmp_path / "elsewhere").rename(config.path)
    assert {row["status"] for row in rows(import_images(config)).values()} == {"ok"}


def test_a_file_that_may_be_read_again_is_imported_again(config, monkeypatch):
    plain = os.access
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "access", lambda path, mode: not str(path).endswith("a.png") and plain(path, mode)
        )
        locked = import_plan(config)
        listing = list_images(config)
    image = listing.images[0]
    with pytest.raises(ImageRejected, match="unreadable file.*Permission denied"):
        read_image(image, config)
    assert locked.id != import_plan(config).id


def test_an_image_that_is_absent_and_one_that_must_not_be_read_have_reasons_of_their_own(config):
    (config.path / "gone.png").symlink_to("nowhere")
    image = next(image for image in list_images(config).images if image.path is None)
    with pytest.raises(ImageRejected, match="unreadable file: a broken link"):
        read_image(image, config)


def test_an_import_of_the_folder_that_holds_the_root_takes_nothing_of_the_root(config):
    around = ImportImages(**{**dict(config), "root": config.path / "data"})
    first = import_images(around)
    (around.root / "out").mkdir()
    draw(around.root / "out/found.png")
    again = import_images(around)
    assert (again.id, again.rows) == (first.id, 3)
    assert list_images(around).notes["root_left_out"] == 1
    draw(config.path / "d.png")
    assert import_images(around).rows == 4
    assert open_artifact(around.root, "shards", "set").measured["notes"]["root_left_out"] == 1


def test_what_a_reader_makes_of_the_same_files_is_part_of_the_plan(config):
    (config.path / "a.txt").write_bytes("caf\u00e9".encode("latin-1"))
    unreadable = import_plan(config)
    stamp = (config.path / "a.txt").stat().st_mtime_ns
    (config.path / "a.txt").write_bytes("cafe\n".encode("latin-1"))
    os.utime(config.path / "a.txt", ns=(stamp, stamp))
    assert import_plan(config).id != unreadable.id
    shutil.copytree(config.path, config.path.with_name("copy"))
    assert import_plan(
        ImportImages(**{**dict(config), "path": config.path.with_name("copy")})
    ) == import_plan(config)
