"""Bytes to pixels, of real files: photographs and what people take for pictures."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rdm_core import decode as decoding
from rdm_core.decode import decode

AWKWARD = {
    "csv/class-descriptions-boxable.csv": "not an image",
    "exif-samples/Canon_40D.jpg": (68, 100),
    "exif-samples/DSCN0010.jpg": (480, 640),
    "exif-samples/image01137.jpg": (64, 88),  # the EXIF is invalid, the picture is not
    "exif-samples/image01713.jpg": (500, 49),
    "exif-samples/landscape_6.jpg": (450, 600),  # stored on its side
    "image-rs/anim.webp": (200, 200),
    "image-rs/basn2c16.png": (32, 32),
    "image-rs/cat.jpg": (240, 320),
    "image-rs/issue#403.png": (50, 100),
    "image-rs/large-gif-anim-full-frame-replace.gif": (1000, 1000),
    "image-rs/oss-fuzz-36829.jpeg": "too small",
    "lfs_pointers/annotations/captions_val2014.json": "git-lfs pointer",
    "lfs_pointers/val2014_50/COCO_val2014_000000001393.jpg": "git-lfs pointer",
    "lfs_pointers/val2014_50/COCO_val2014_000000001573.jpg": "git-lfs pointer",
    "libjpeg-turbo/monkey16.png": (227, 149),
    "libvips/1.webp": (368, 550),
    "libvips/17000x17000.avif": "too many pixels",
    "libvips/6.jpg": (308, 231),
    "libvips/big-height.webp": "too small",
    "libvips/cogs.gif": (77, 85),
    "libvips/truncated.gif": "truncated",
    "libvips/truncated.jpg": "truncated",
    "non_image/50x.html": "not an image",
    "pillow/broken.png": "damaged",
    "pillow/crash-0da013a13571cc8eb457a39fee8db18f8a3c7127.tif": (
        84,
        218,
    ),  # libtiff repairs fax lines without a word
    "pillow/decompression_bomb.gif": "too many pixels",
    "pillow/empty_gps_ifd.jpg": "too small",
    "pillow/exif_typeerror.jpg": (531, 800),
    "pillow/hopper.gif": (128, 128),
    "pillow/hopper_gray.jpg": (128, 128),
    "pillow/hopper_orientation_3.jpg": (128, 128),
    "pillow/hopper_orientation_6.jpg": (128, 128),
    "pillow/hopper_orientation_8.webp": (128, 128),
    "pillow/icc-after-SOF.jpg": "too small",
    "pillow/icc_profile_big.jpg": (250, 425),
    "pillow/iss634.webp": (245, 245),
    "pillow/junk_jpeg_header.jpg": (768, 1024),
    "pillow/mode_grayscale_alpha.png": (64, 128),
    "pillow/no_palette.gif": "too small",
    "pillow/p_16.png": (128, 128),
    "pillow/pil123p.png": (150, 162),
    "pillow/pil_sample_cmyk.jpg": (100, 100),
    "pillow/seek_too_large.tif": "damaged",
    "pillow/sugarshack.mpo": (480, 640),
    "pillow/tiff_16bit_RGB.tiff": (40, 100),
    "pillow/timeout-6646305047838720": "truncated",
    "pillow/transparent.png": (150, 200),
    "pillow/transparent.webp": (150, 200),
    "pillow/truncated_exif_dpi.jpg": (640, 480),
    "pillow/truncated_image.png": "truncated",
    "pillow/truncated_jpeg.jpg": "truncated",
    "pillow/uncompressed_la.png": (128, 128),
    "pillow/zero_width.gif": "damaged",
    "tars/clip-retrieval/image1.tar": "not an image",
    "tars/clip-retrieval/image3.tar": "not an image",
    "tars/clip-retrieval/image4.tar": "not an image",
    "tars/tar-rs/duplicate_dirs.tar": "not an image",
    "tars/tar-rs/link.tar": "not an image",
    "tars/tar-rs/pax.tar": "not an image",
    "tars/tar-rs/simple.tar": "not an image",
    "tars/tar-rs/simple_missing_last_header.tar": "not an image",
    "tars/tar-rs/spaces.tar": "not an image",
    "tars/tar-rs/sparse.tar": "not an image",
    "tars/webdataset/compressed.tar": "not an image",
    "tars/webdataset/sample.tgz": "not an image",
    "wrong_extension/prefect-logo-mark-gradient.png": (1000, 1000),
    "zero_bytes/apple-touch-icon.png": "empty file",
}

# Decodes each file named on stdin; prints a JSON line: name, shape or reason, seconds, growth of
# the peak RSS in bytes.
DECODE_ALL = """
import json, resource, sys, time
from pathlib import Path
from rdm_core.decode import ImageRejected, decode
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
root, start = Path(sys.argv[1]), peak()
for name in sys.stdin.read().splitlines():
    began = time.perf_counter()
    try:
        outcome = decode((root / name).read_bytes()).shape
    except ImageRejected as error:
        outcome = error.reason
    print(json.dumps([name, outcome, time.perf_counter() - began, peak() - start]))
"""


def test_each_awkward_file_is_accepted_or_rejected_as_a_user_would_within_time_and_memory(
    real_data,
):
    folder = real_data / "awkward"
    files = [path for path in folder.rglob("*") if path.is_file()]
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    assert names == sorted(AWKWARD)
    run = subprocess.run(
        [sys.executable, "-c", DECODE_ALL, str(folder)],
        input="\n".join(names),
        capture_output=True,
        text=True,
        cwd=Path(decoding.__file__).parents[1],
        timeout=120,
        check=True,
    )
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    outcomes = {}
    for name, outcome, seconds, growth_bytes in rows:
        outcomes[name] = outcome if isinstance(outcome, str) else tuple(outcome[:2])
        assert seconds < 10 and growth_bytes < 10**9, name
    assert outcomes == AWKWARD


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("hopper_orientation_6.jpg", "hopper.gif"),
        ("hopper_orientation_3.jpg", "hopper.gif"),
        ("hopper_orientation_8.webp", "hopper.gif"),
    ],
)
def test_a_turned_photograph_comes_out_upright(a, b, real_data):
    folder = real_data / "awkward/pillow"
    turned = decode((folder / a).read_bytes()).astype(int)
    upright = decode((folder / b).read_bytes()).astype(int)
    assert np.abs(turned - upright).mean() < 15, "the same portrait, upright"


def test_the_real_photographs_all_decode(real_data):
    paths = []
    for name in ("coco", "openimages", "wikiart", "queries"):
        paths += sorted((real_data / name).rglob("*.jp*g"))
    assert len(paths) > 400
    for path in paths[::3]:
        assert min(decode(path.read_bytes()).shape[:2]) >= 16, path
