"""One image at a time: what is stored of it, and what its parameters change."""

import numpy as np
import pytest
from PIL import Image

from flows.config.images import ImportImages
from flows.data.import_images import drawing, import_plan, samples_of
from rdm_core import decode
from rdm_core.decode import COLOUR_PROFILE
from rdm_core.memory import Room
from storage.sources import SourceImage


@pytest.fixture
def picture(tmp_path):
    """A source image of 40 x 24 pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return SourceImage("folder", "a", tmp_path / "a.png")


def asked(tmp_path, **more):
    return ImportImages(
        root=tmp_path / "data", name="a", path=tmp_path, size=16, encoding="png", **more
    )


@pytest.mark.parametrize(("side", "status"), [(24, "ok"), (25, "rejected")])
def test_the_smallest_side_is_a_parameter(tmp_path, picture, side, status):
    config = asked(tmp_path, min_side=side)
    [sample] = samples_of(picture, config)
    assert sample.record.status == status
    assert sample.record.reason == (None if status == "ok" else "too small")
    assert import_plan(config).parameters["min_side"] == drawing(config)["min_side"] == side


def test_the_plan_says_what_colours_are_stored(tmp_path, picture):
    assert import_plan(asked(tmp_path)).parameters["colour_profile"] == COLOUR_PROFILE


def test_the_memory_of_a_picture_is_held_until_its_windows_are_cut(tmp_path, picture, monkeypatch):
    room, held = Room(10**9), []
    monkeypatch.setattr(decode, "decoding_room", lambda: room)
    monkeypatch.setattr(
        "flows.data.import_images.crop_windows", lambda *_: held.append(room._taken) or []
    )
    list(samples_of(picture, asked(tmp_path)))
    assert held[0] >= 40 * 24 * decode.OTHERS_BYTES_A_PIXEL and room._taken == 0
