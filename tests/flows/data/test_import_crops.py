"""Images become samples: what each is cut, named, credited and counted by."""

import io

import numpy as np
import pytest
from PIL import Image

from flows.config.images import ImportImages
from flows.data.import_images import drawing, import_plan, list_images, read_image, samples_of
from rdm_core.decode import ImageRejected
from storage.sources import SourceImage
from storage.sources.source import absent


def picture(seed=0, size=(90, 60)):
    """Noise, so that no two crops of it are equal."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """One picture under two names, and a file that is none."""
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        (tmp_path / "images" / f"{name}.png").write_bytes(picture())
    (tmp_path / "images" / "c.png").write_bytes(b"no image")
    return tmp_path / "images"


def config(folder, **changes):
    asked = {"source": "folder", "path": folder, "size": 16, "encoding": "png", "dataset": "own"}
    return ImportImages(root=folder.parent, name="x", **asked | changes)


def samples(asked):
    """The samples of every image that an import lists."""
    made = []
    for image in list_images(asked).images:
        made += samples_of(image, asked)
    return made


RANDOM = {"crop": "random", "frame": 64, "crops_per_image": 3}


def test_random_crops_differ_from_image_to_image_and_within_one(folder):
    made = [sample for sample in samples(config(folder, **RANDOM)) if sample.record.status == "ok"]
    sources = [sample.record.source_key for sample in made]
    assert sources == [sources[0]] * 3 + [sources[3]] * 3
    assert [source[:6] for source in (sources[0], sources[3])] == ["own-a-", "own-b-"]
    numbered = [f"{source}-{number % 3:02d}" for number, source in enumerate(sources)]
    assert [sample.record.key for sample in made] == numbered
    assert (
        len({sample.record.crop for sample in made}) == len({sample.image for sample in made}) == 6
    )


def test_random_crops_follow_seed_and_key_and_nothing_else(folder):
    def crops(**changes):
        boxes = {}
        for sample in samples(config(folder, **RANDOM | changes)):
            if sample.record.status == "ok":
                boxes[sample.record.key] = sample.record.crop
        return boxes

    both = crops()
    assert both == crops() and both != crops(seed=1)
    (folder / "a.png").unlink()
    assert crops() == {key: crop for key, crop in both.items() if key.startswith("own-b")}


def test_a_sample_says_what_it_was_cut_from_and_who_made_it(folder):
    asked = config(folder, licence="CC-BY", author="Ada")
    first, _, broken = samples(asked)
    record = first.record
    assert (record.width, record.height) == (16, 16)
    assert (record.original_width, record.original_height) == (60, 90)
    assert np.asarray(Image.open(io.BytesIO(first.image))).shape == (16, 16, 3)
    assert (record.licence, record.author, record.status) == ("CC-BY", "Ada", "ok")
    assert (broken.record.status, broken.image) == ("rejected", b"")
    assert broken.record.reason == "not an image" and "b'no image'" in broken.record.detail
    assert broken.record.key.startswith("own-c-")


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"max_bytes": 100}, "too many bytes"), ({"max_pixels": 5000}, "too many pixels")],
)
def test_what_is_too_large_is_a_row_with_its_reason(limits, reason, folder):
    made = samples(config(folder, **limits))
    assert [sample.record.reason for sample in made[:2]] == [reason] * 2


def test_a_limit_is_the_most_that_is_allowed(folder):
    size = (folder / "a.png").stat().st_size
    made = samples(config(folder, max_bytes=size, max_pixels=60 * 90))
    assert [sample.record.status for sample in made] == ["ok", "ok", "rejected"]


def test_a_file_that_is_gone_or_never_was_is_told_apart(folder):
    with pytest.raises(ImageRejected) as never:
        read_image(SourceImage("own", "x", None, reason=absent("train.csv", "x")), config(folder))
    assert (never.value.reason, never.value.detail) == (
        "missing file",
        "listed in train.csv, but x is absent",
    )
    with pytest.raises(ImageRejected) as gone:
        read_image(SourceImage("own", "x", folder / "gone.png"), config(folder))
    assert gone.value.reason == "unreadable file"


def test_the_plan_follows_what_lies_on_the_disk_and_not_where(folder, tmp_path):
    before = import_plan(config(folder))
    assert "path" not in before.parameters and set(before.inputs) == {"source"}
    moved = folder.rename(tmp_path / "moved")
    assert import_plan(config(moved)).id == before.id
    (moved / "c.png").write_bytes(picture(1))
    assert import_plan(config(moved)).id != before.id


@pytest.mark.parametrize(
    ("changed", "same"),
    [({"images_per_part": 3}, True), ({"seed": 1}, False), ({"encoding": "jpg"}, False)],
)
def test_a_part_is_taken_over_whatever_else_is_imported_and_drawn_anew_where_it_would_differ(
    changed, same, folder
):
    assert (drawing(config(folder)) == drawing(config(folder, **changed))) is same


def test_drawn_images_are_named_by_split_number_and_seed():
    asked = {"name": "x", "source": "shapes", "size": 32, "encoding": "png", "split": "train"}
    keys = {}
    for seed in (0, 3):
        made = samples(ImportImages(**asked, count=2, seed=seed))
        keys[seed] = [sample.record.key for sample in made]
        assert made[0].image != made[1].image
        factors = dict(label.split("=") for label in made[0].record.labels)
        assert (
            factors["style"] == made[0].record.style
            and factors["shape"] in made[0].record.captions[0]
        )
    assert keys[0] == ["shapes-train-000000-00", "shapes-train-000001-00"]
    assert keys[3] == ["shapes-train-000000-s3-00", "shapes-train-000001-s3-00"]
