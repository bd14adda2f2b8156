"""Pixels as they are used."""

import numpy as np
import pytest
from PIL import Image

from rdm_core import images
from rdm_core.decode import decode
from rdm_core.images import (
    centre_crop,
    crop_rng,
    crop_windows,
    encode,
    grid,
    resize_shorter_side,
    seed_of,
    side_by_side,
)


def noise(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "side", "shape"),
    [(40, 60, 20, (20, 30)), (60, 40, 80, (120, 80)), (30, 47, 20, (20, 31))],
)
def test_the_shorter_side_is_scaled_and_the_longer_follows(height, width, side, shape):
    assert resize_shorter_side(noise(height, width), side).shape == (*shape, 3)


def test_scaling_down_is_antialiased():
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    scaled = resize_shorter_side(stripes, 16)
    assert scaled.std() < 10 and abs(scaled.mean() - 127.5) < 2


def test_the_centre_crop_is_the_middle_and_refuses_what_is_too_small():
    image = noise(40, 61)
    assert np.array_equal(centre_crop(image, 20), image[10:30, 20:40])
    with pytest.raises(ValueError, match="cannot cut 41x41 pixels out of 61x40"):
        centre_crop(image, 41)


@pytest.mark.parametrize(
    ("height", "width"), [(40, 61), (61, 40), (300, 301), (50, 50), (17, 130), (17, 200)]
)
@pytest.mark.parametrize("size", [16, 33, 64])
def test_the_centre_window_equals_scaling_then_cropping(height, width, size):
    image = np.array(Image.fromarray(noise(8, 8)).resize((width, height), Image.Resampling.BICUBIC))
    [(window, box)] = crop_windows(image, size)
    assert box == (0, 0, size, size)
    difference = np.abs(window.astype(int) - centre_crop(resize_shorter_side(image, size), size))
    assert difference.max() <= (3 if width > 8 * height else 0), (
        "only a long strip may differ, by rounding"
    )


def test_a_strip_of_any_length_gives_its_window_without_the_memory():
    strip = np.zeros((16, 500_000, 3), dtype=np.uint8)
    assert crop_windows(strip, 256)[0][0].shape == (256, 256, 3)
    with pytest.raises(ValueError, match="8000000x256 pixels"):
        resize_shorter_side(strip, 256)


def test_random_windows_are_cut_where_their_boxes_say():
    image = noise(90, 130)
    frame = crop_windows(image, 64)[0][0]
    windows = crop_windows(
        image, 16, "random", count=200, frame_side=64, rng=np.random.default_rng(0)
    )
    assert len(windows) == 200
    for window, (x0, y0, x1, y1) in windows:
        assert window.shape == (16, 16, 3) and (x1 - x0, y1 - y0) == (16, 16)
        assert np.array_equal(window, frame[y0:y1, x0:x1])


def test_random_windows_reach_every_place_alike():
    windows = crop_windows(
        noise(), 16, "random", count=4000, frame_side=20, rng=np.random.default_rng(0)
    )
    corners = np.array([box[:2] for _, box in windows])
    counts = np.zeros((5, 5))
    np.add.at(counts, (corners[:, 1], corners[:, 0]), 1)
    assert counts.min() > 110 and counts.max() < 210, "25 places, 160 expected at each"


def test_a_window_as_large_as_its_frame_is_the_frame():
    [(window, box)] = crop_windows(
        noise(), 32, "random", count=1, frame_side=32, rng=np.random.default_rng(0)
    )
    assert box == (0, 0, 32, 32) and np.array_equal(window, crop_windows(noise(), 32)[0][0])


def test_crops_depend_on_seed_and_key_only():
    def boxes(seed: int, key: str) -> list:
        return [box for _, box in crop_windows(noise(), 16, "random", 5, 64, crop_rng(seed, key))]

    assert boxes(0, "coco-1") == boxes(0, "coco-1")
    assert boxes(0, "coco-1") != boxes(0, "coco-2") != boxes(1, "coco-2")


@pytest.mark.parametrize(
    "arguments",
    [
        {"mode": "corner"},
        {"count": 2},
        {"mode": "random", "frame_side": 64},
        {"mode": "random", "frame_side": 8, "rng": 1},
        {"mode": "random", "rng": 1},
        {"mode": "random", "frame_side": 64, "rng": 1, "count": 0},
    ],
)
def test_contradicting_crop_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="mode"):
        crop_windows(noise(), 16, **arguments)


def test_seeds_are_the_same_everywhere_and_parts_do_not_run_together():
    assert seed_of("crop", 0, "coco-000000000139") == 2174465335899562139
    assert (
        len({seed_of("ab", "c"), seed_of("a", "bc"), seed_of("abc"), seed_of(1), seed_of("1")}) == 5
    )
    for i in range(50):
        assert 0 <= seed_of(i) < 2**64
    seed_of("bad\udce9byte")


def test_encoding_is_deterministic_and_png_is_lossless():
    pixels = noise()
    for encoding in ("jpg", "png"):
        assert encode(pixels, encoding) == encode(pixels.copy(), encoding)
    assert np.array_equal(decode(encode(pixels, "png")), pixels)
    with pytest.raises(ValueError, match="'webp'"):
        encode(pixels, "webp")


def test_jpeg_keeps_colour_detail_and_quality_matters():
    stripes = np.zeros((32, 32, 3), dtype=np.uint8)
    stripes[:, ::2], stripes[:, 1::2] = (255, 0, 0), (0, 0, 255)
    assert np.abs(decode(encode(stripes, "jpg")).astype(int) - stripes).mean() < 3, (
        "half colour resolution would blur"
    )
    assert len(encode(noise(), "jpg", 50)) < len(encode(noise(), "jpg", 95))


def test_a_grid_lays_images_row_by_row_on_white():
    red = np.full((4, 6, 3), (255, 0, 0), dtype=np.uint8)
    green = np.full((4, 6, 3), (0, 255, 0), dtype=np.uint8)
    blue = np.full((4, 6, 3), (0, 0, 255), dtype=np.uint8)
    sheet = grid([red, green, blue], columns=2, pad=1)
    assert sheet.shape == (11, 15, 3)
    assert (
        (sheet[1:5, 1:7] == red).all()
        and (sheet[1:5, 8:14] == green).all()
        and (sheet[6:10, 1:7] == blue).all()
    )
    assert (
        (sheet[6:10, 8:14] == 255).all() and (sheet[0] == 255).all() and (sheet[:, 7] == 255).all()
    )
    assert grid(np.stack([red, red]), 2, 0).shape == (4, 12, 3)
    with pytest.raises(ValueError, match="a grid needs images"):
        grid([], 2)


def test_a_grid_puts_smaller_images_in_the_middle_of_their_cell():
    small, large = np.zeros((2, 2, 3), dtype=np.uint8), np.zeros((6, 6, 3), dtype=np.uint8)
    sheet = grid([small, large], columns=2, pad=0)
    assert (sheet[2:4, 2:4] == 0).all() and sheet[:, :6].min(axis=2).sum() == 255 * (36 - 4)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_uint8_rgb_image_is_refused_by_name(bad):
    for use in (
        lambda: centre_crop(bad, 2),
        lambda: resize_shorter_side(bad, 2),
        lambda: crop_windows(bad, 2),
        lambda: encode(bad, "png"),
    ):
        with pytest.raises(ValueError, match=r"an image is uint8 \[H, W, 3\]"):
            use()


def test_scaling_and_cropping_are_clips_own_to_the_bit(real_data):
    folder = real_data / "queries/clip_reference"
    tensors = np.load(folder / "image_tensors_fp32.npy")
    mean, std = (
        np.array([0.48145466, 0.4578275, 0.40821073]),
        np.array([0.26862954, 0.26130258, 0.27577711]),
    )
    for name, tensor in zip((folder / "names.txt").read_text().split(), tensors, strict=True):
        theirs = np.rint((tensor.transpose(1, 2, 0) * std + mean) * 255).astype(int)
        image = decode((folder / f"images/{name}.jpg").read_bytes())
        assert np.array_equal(centre_crop(resize_shorter_side(image, 224), 224), theirs)
        assert np.array_equal(crop_windows(image, 224)[0][0], theirs)


def test_text_stands_below_a_picture_and_is_cut_to_its_width():
    picture = np.full((40, 60, 3), 200, np.uint8)
    told = images.labelled(picture, ("0.5", "a very long name of an author " * 3, ""))
    assert told.shape == (40 + 3 * 12, 60, 3)
    np.testing.assert_array_equal(told[:40], picture)
    ink = (told[40:] < 160).any(axis=2).reshape(3, 12, 60)
    assert [line.any() for line in ink] == [True, True, False]
    assert ink[1].any(axis=0)[40:].any() and not ink[0].any(axis=0)[40:].any()


def test_a_last_row_that_is_not_full_is_left_out_of_the_picture():
    pictures = np.zeros((11, 128, 128, 3), np.uint8)
    assert side_by_side(pictures, pictures).shape == (2 * 130 + 2, 8 * 130 + 2, 3)
    assert side_by_side(pictures[:3], pictures[:3]).shape == (2 * 130 + 2, 3 * 130 + 2, 3)
    many = np.zeros((40, 128, 128, 3), np.uint8)
    assert side_by_side(many, many).shape == (4 * 130 + 2, 8 * 130 + 2, 3)
