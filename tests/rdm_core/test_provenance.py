"""A PNG that says how it was made."""

import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from rdm_core.errors import RequestError
from rdm_core.provenance import RECORD as RECORD_KEYWORD
from rdm_core.provenance import encode_png, read_record

RECORD = {
    "query": "ein Kreis ○ 🎨",
    "seed": 7,
    "neighbor_keys": ["a", "ä"],
    "scores": [0.25, -1.0],
    "database": None,
}


@pytest.fixture
def image() -> np.ndarray:
    """Noise."""
    return np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)


def test_record_and_pixels_come_back(image):
    data = encode_png(image, RECORD)
    assert read_record(data, "x.png") == RECORD
    with Image.open(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(np.asarray(opened), image)


def test_equal_records_give_equal_bytes(image):
    assert encode_png(image, RECORD) == encode_png(image, dict(reversed(RECORD.items())))


def test_the_record_is_readable_without_this_program(image):
    assert '"query": "ein Kreis ○ 🎨"'.encode() in encode_png(image, RECORD)


def saved_again(data: bytes, **how) -> bytes:
    """The same picture as another program would write it."""
    stream = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.save(stream, **how)
    return stream.getvalue()


@pytest.mark.parametrize("how", [{"format": "png"}, {"format": "jpeg"}], ids=["png", "jpeg"])
def test_an_image_that_was_saved_again_is_refused_by_name(how, image):
    with pytest.raises(
        RequestError, match=r"a/b.png: holds no record of how it was made.*rdm sample"
    ):
        read_record(saved_again(encode_png(image, RECORD), **how), "a/b.png")


def test_a_damaged_file_gives_the_record_or_one_kind_of_error(image):
    data, rng = encode_png(image, RECORD), np.random.default_rng(0)
    damaged = [data[:length] for length in range(len(data))]
    for at in range(len(data)):
        for value in rng.integers(0, 256, 3).tolist():
            damaged.append(data[:at] + bytes([value]) + data[at + 1 :])
    refused = 0
    for one in damaged:
        try:
            read_record(one, "x.png")
        except RequestError:
            refused += 1
    assert refused > len(data) / 2


def with_chunk(image: np.ndarray, text: str) -> bytes:
    """A picture with a text chunk called as ours is."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt(RECORD_KEYWORD, text)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png", pnginfo=chunks)
    return stream.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "5", "null", "true", '"hello"', "[1, 2]", "{}", "{", "", "[" * 100_000, '{"a":' * 100_000,
        '{"query": 1}', '{"query": "a", "seed": 1, "neighbor_keys": [{"a": 1}]}',
        '{"query": "a", "seed": {"a": 1}, "neighbor_keys": []}', '{"a": "' + "x" * 3_000_000 + '"}',
    ],
    ids=lambda text: text[:16],
)  # fmt: skip
def test_a_chunk_of_another_program_that_has_our_keyword_is_no_record(image, text):
    with pytest.raises(RequestError, match="theirs.png: holds (no|a) record"):
        read_record(with_chunk(image, text), "theirs.png")


def test_half_a_letter_in_a_record_is_read_as_it_stands(image):
    told = '{"query": "a \\ud83d dog", "seed": 1, "neighbor_keys": []}'
    assert read_record(with_chunk(image, told), "x.png")["query"] == "a \ud83d dog"


def test_a_picture_too_large_to_open_is_refused(image, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(RequestError, match="huge.png: holds no record"):
        read_record(encode_png(image, RECORD), "huge.png")


def test_what_is_no_image_is_refused():
    with pytest.raises(RequestError, match="notes.txt: holds no record"):
        read_record(b"some notes", "notes.txt")
