"""Images that are added or cut in another way: which parts are made anew, and which stay."""

import pytest
from PIL import Image

from flows.config.database import BuildDatabase, EncodeLatents
from flows.config.images import ImportImages
from flows.data.build_database import build_database
from flows.data.encode_latents import encode_latents
from flows.data.import_images import import_images, import_plan
from storage.artifact import open_artifact
from storage.build import begin


def imported(root, folder, **changes):
    return import_images(
        ImportImages(root=root, name="pictures", source="folder", path=folder, size=16, **changes)
    )


@pytest.fixture
def pictures(tmp_path):
    """Forty small images in a folder."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(40):
        colour = (number * 6, 255 - number * 6, 90)
        Image.new("RGB", (20, 20), colour).save(folder / f"{number:03d}.png")
    return folder


def test_a_changed_input_makes_only_the_parts_around_it_and_what_follows_from_them(
    pictures, tmp_path
):
    root = tmp_path / "root"
    built = {}
    for version in ("first", "second"):
        shards = imported(root, pictures, images_per_part=4)
        embeddings, _ = build_database(
            BuildDatabase(
                root=root,
                name="pictures",
                shards="pictures",
                encoder="rdm-shapes",
                weights="built-in",
            )
        )
        latents = encode_latents(EncodeLatents(root=root, name="pictures", shards="pictures"))
        built[version] = (shards, embeddings, latents)
        if version == "first":
            Image.new("RGB", (20, 20), "white").save(pictures / "0205.png")
    for before, after in zip(*built.values(), strict=True):
        assert after.version == 2 and after.fingerprint != before.fingerprint
        old = {part.made_from for part in before.parts}
        new = [part for part in after.parts if part.made_from not in old]
        assert len(before.parts) > 5 and len(new) <= 2, (
            "the part with the new image, and perhaps the one it was cut from"
        )
        for part in after.parts:
            if part.made_from in old:
                assert after.file(part.files[0].path).stat().st_nlink == 2, (
                    "shared with the version before"
                )
    again = imported(root, pictures, images_per_part=4)
    assert again == built["second"][0], "unchanged input is a no-op"


def test_one_image_more_in_some_hundreds_makes_one_part_anew_without_any_number_asked_for(
    pictures, tmp_path
):
    for number in range(40, 300):
        Image.new("RGB", (20, 20), (number % 256, 90, 90)).save(pictures / f"{number:03d}.png")
    before = imported(tmp_path / "root", pictures)
    Image.new("RGB", (20, 20), "white").save(pictures / "0205.png")
    after = imported(tmp_path / "root", pictures)
    old = {part.made_from for part in before.parts}
    assert (before.rows, after.rows, before.parameters["images_per_part"]) == (300, 301, "auto")
    assert len(before.parts) > 1 and sum(part.made_from not in old for part in after.parts) == 1


def test_without_a_number_a_name_is_cut_as_its_last_version_was(pictures, tmp_path):
    """As before an upgrade, when 1,000 was the number that nobody had to ask for."""
    root = tmp_path / "root"
    before = imported(root, pictures, images_per_part=4)
    assert imported(root, pictures) == before
    Image.new("RGB", (20, 20), "white").save(pictures / "0205.png")
    after, old = imported(root, pictures), {part.made_from for part in before.parts}
    assert after.parameters["images_per_part"] == 4
    assert sum(part.made_from not in old for part in after.parts) <= 2 < len(after.parts)
    coarse = imported(root, pictures, images_per_part=1000)
    assert imported(root, pictures) == coarse and len(coarse.parts) == 1, "the current one counts"


def test_without_a_number_an_unfinished_import_is_finished_as_it_was_begun(pictures, tmp_path):
    asked = {"root": tmp_path, "name": "pictures", "source": "folder", "path": pictures, "size": 16}
    plan = import_plan(ImportImages(**asked, images_per_part=1000))
    with pytest.raises(KeyboardInterrupt), begin(tmp_path, plan):
        assert import_plan(ImportImages(**asked)).parameters["images_per_part"] == "auto"
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), begin(tmp_path, plan) as build:
        build.write_part("00000", "", lambda scratch: ((scratch / "0.tar").write_bytes(b"x"), {}))
        raise KeyboardInterrupt
    assert import_plan(ImportImages(**asked)) == plan
    assert imported(tmp_path, pictures).id == plan.id


def test_training_reads_the_version_it_began_with_while_a_new_one_is_published(pictures, tmp_path):
    root = tmp_path / "root"
    shards = imported(root, pictures)
    Image.new("RGB", (20, 20), "white").save(pictures / "x.png")
    newer = imported(root, pictures)
    assert open_artifact(root, "shards", f"pictures@{shards.id}").rows == 40
    assert open_artifact(root, "shards", "pictures") == newer and newer.rows == 41
