"""The fast way to a network's input gives what open_clip's own transform gives."""

import io
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from rdm_core.clip import BUILT_IN, load_encoder
from rdm_core.decode import ImageRejected, decode
from rdm_core.preparation import ahead, decode_stored, preparation_of

CLIP = {
    "mean": (0.48, 0.46, 0.41),
    "std": (0.27, 0.26, 0.28),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "size": 64,
}
SIZES = [(64, 64), (40, 90), (200, 70), (65, 64), (9, 9), (333, 500), (1000, 65)]


def smooth(height, width, seed=0):
    """A picture uint8 [H, W, 3] with edges and slow changes, as photographs have."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


def levels(images, config):
    """Difference between the two ways in levels of 0..255, per image."""
    preparation = preparation_of(config)
    own = image_transform_v2(PreprocessCfg(**config), is_train=False)
    fast = preparation.normalised(preparation.resized(images))
    slow = torch.stack([own(Image.fromarray(image)) for image in images])
    return (
        ((fast - slow).abs() * 255 * torch.tensor(config["std"])[:, None, None])
        .amax(dim=(1, 2, 3))
        .numpy()
    )


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_sizes_and_shapes_of_all_kinds_agree_to_two_levels(mode):
    assert levels([smooth(*size) for size in SIZES], CLIP | {"resize_mode": mode}).max() <= 2.01


def test_an_image_of_the_right_size_is_not_touched():
    assert levels([smooth(64, 64)], CLIP).max() < 1e-3


@pytest.mark.parametrize(
    "other", [{"interpolation": "bilinear"}, {"resize_mode": "longest"}, {"size": (64, 32)}]
)
def test_what_it_cannot_do_is_left_to_the_models_own_transform(other):
    assert preparation_of(CLIP | other) is None


def test_vectors_of_real_images_agree_with_the_models_own_transform(real_data):
    paths = (
        sorted((real_data / "coco").rglob("*.jpg"))[:24]
        + sorted((real_data / "wikiart").rglob("*.jpg"))[:8]
    )
    images = [decode(path.read_bytes()) for path in paths]
    encoder = load_encoder("rdm-shapes", BUILT_IN)
    with torch.no_grad():
        inputs = [encoder.transform(Image.fromarray(image)) for image in images]
        own = encoder.model.encode_image(torch.stack(inputs)).numpy()
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    cosines = (encoder.encode_images(images)[0] * own).sum(axis=1)
    assert cosines.min() > 0.9999


def jpeg(image, **how):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", **how)
    return file.getvalue()


@pytest.mark.parametrize(
    "how", [{"quality": 95, "subsampling": 0}, {"quality": 80}, {"progressive": True}], ids=str
)
def test_a_stored_jpeg_has_the_pixels_that_the_careful_decoder_gives_and_does_without_it(
    how, monkeypatch
):
    data = jpeg(smooth(100, 130), **how)
    careful = decode(data)
    monkeypatch.setattr(
        "rdm_core.preparation.decode", lambda data: pytest.fail("the slow way was taken")
    )
    np.testing.assert_array_equal(decode_stored(data), careful)


def test_grey_png_and_broken_files_are_decoded_or_rejected_as_by_the_careful_decoder():
    grey = io.BytesIO()
    Image.fromarray(smooth(50, 60)[..., 0]).save(grey, "JPEG")
    np.testing.assert_array_equal(decode_stored(grey.getvalue()), decode(grey.getvalue()))
    png = io.BytesIO()
    Image.fromarray(smooth(50, 60)).save(png, "PNG")
    np.testing.assert_array_equal(decode_stored(png.getvalue()), smooth(50, 60))
    for broken in (jpeg(smooth(100, 130))[:2000], b"\xff\xd8\xff", b"", b"text"):
        with pytest.raises(ImageRejected):
            decode_stored(broken)


def test_ahead_gives_the_same_values_and_the_readers_error():
    assert list(ahead(lambda x: -x, [1, 0, 3])) == [-1, 0, -3] and list(ahead(abs, [])) == []

    def failing():
        yield 1
        raise ImageRejected("damaged", "here")

    values = ahead(abs, failing())
    assert next(values) == 1
    with pytest.raises(ImageRejected):
        next(values)


def test_ahead_keeps_the_order_whichever_thread_is_slow_and_reads_no_further_than_it_must():
    read = []

    def slow_when_even(value):
        time.sleep(0.02 * (value % 2 == 0))
        return value

    values = ahead(slow_when_even, (read.append(i) or i for i in range(100)), threads=3)
    assert [next(values) for _ in range(20)] == list(range(20))
    assert len(read) <= 20 + 3 + 1, "bounded by the threads, not by the source"
    values.close()


THREADS = """
import torch
from concurrent.futures import ThreadPoolExecutor
from rdm_core.preparation import ahead
preparing = list(ahead(lambda _: torch.get_num_threads(), range(4), threads=2))
other = ThreadPoolExecutor(1).submit(torch.get_num_threads).result()
print(preparing, torch.get_num_threads(), other)
"""


def test_the_threads_that_prepare_compute_alone_and_the_others_as_before():
    told = subprocess.run(
        [sys.executable, "-c", THREADS],
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "[1, 1, 1, 1] 2 2"


def test_ahead_tells_the_workers_error():
    values = ahead(lambda x: 1 // x, [1, 0, 1])
    assert next(values) == 1
    with pytest.raises(ZeroDivisionError):
        next(values)
