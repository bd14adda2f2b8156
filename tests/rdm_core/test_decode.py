"""Bytes to pixels."""

import base64
import io
import json
import pickle
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from rdm_core import decode as decoding
from rdm_core.decode import DecodeLimits, ImageRejected, decode, decoded
from rdm_core.memory import Room
from rdm_core.rejections import REASONS

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
    # libtiff repairs fax lines without a word
    "pillow/crash-0da013a13571cc8eb457a39fee8db18f8a3c7127.tif": (84, 218),
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

HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAb5tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAA"
    "AAAAAAAAAAADRpbG9jAAAAAERAAAIAAQAAAAAB4gABAAAAAAAAAIEAAgAAAAACYwABAAAAAAAAACQAAAA4aWluZgAA"
    "AAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVpbmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAAA/Wlwcn"
    "AAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroC"
    "QGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm"
    "5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAABAAAAIAAAAAEAAAAAAAAAAv///+AA"
    "AAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAABppcmVmAAAAAAAAAA5jZHNjAAIAAQ"
    "ABAAAArW1kYXQAAAB9KAGvBPhxZNO3/4sP///1SN7L+1UW98g/utaUv9yDn//yip/acted/b/WnMlxH9zo1Mr1xVvD"
    "hp7vuhJMegTA5KsK6QB7SkO8M+dNZeMCQxlojmQ4MPANg4KsUVinbbUVH4yAzSnFVSMuJsxbZGM6lhMn9ElE4PyIl+"
    "soF1wAAAAGRXhpZgAATU0AKgAAAAgAAQESAAMAAAABAAYAAAAAAAA="
)
"""64 x 32 pixels, red left of blue."""

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


def noise(height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def file_of(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def reason_of(data: bytes, limits: DecodeLimits | None = None) -> str:
    with pytest.raises(ImageRejected) as caught:
        decode(data, limits or DecodeLimits())
    return caught.value.reason


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds not one pixel."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + b"\0\0\0\0IDAT\x35\xaf\x06\x1e"
    )


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_files_give_back_their_pixels(kind):
    pixels = noise()
    assert np.array_equal(decode(file_of(Image.fromarray(pixels), kind)), pixels)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "GIF"])
def test_lossy_files_give_pixels_close_to_theirs(kind):
    pixels = np.full((40, 60, 3), (200, 100, 50), dtype=np.uint8)
    decoded = decode(file_of(Image.fromarray(pixels), kind))
    assert (
        decoded.dtype == np.uint8 and decoded.shape == pixels.shape and decoded.flags.c_contiguous
    )
    assert np.abs(decoded.astype(int) - pixels).max() < 8


@pytest.mark.parametrize("kind", ["ICO", "PPM", "PDF", "EPS", "JPEG2000", "QOI", "DDS"])
def test_pictures_of_formats_off_the_list_are_unsupported(kind):
    assert reason_of(file_of(Image.fromarray(noise()), kind)) == "unsupported format"


def test_what_has_no_head_of_its_own_is_no_image():
    assert reason_of(file_of(Image.fromarray(noise()), "TGA")) == "not an image"
    assert reason_of(b"<?xml version='1.0'?><html>404</html>") == "not an image"
    assert reason_of(b" <?xml version='1.0'?>\n<svg xmlns='a'/>") == "unsupported format"


def test_transparency_is_laid_over_white():
    rgba = np.zeros((20, 20, 4), dtype=np.uint8)
    rgba[..., 0], rgba[:10, :, 3], rgba[10:, :, 3] = 100, 0, 128
    decoded = decode(file_of(Image.fromarray(rgba), "PNG"))
    assert (decoded[:10] == 255).all()
    assert np.abs(decoded[10:].astype(int) - (177, 127, 127)).max() <= 1


def test_grey_with_alpha_and_palettes_with_a_clear_colour_are_laid_over_white():
    grey = np.full((20, 20, 2), (40, 0), dtype=np.uint8)
    assert (decode(file_of(Image.fromarray(grey, "LA"), "PNG")) == 255).all()
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert (decode(file_of(palette, "PNG", transparency=1)) == 255).all()
    assert (decode(file_of(palette, "PNG")) == (10, 20, 30)).all()
    assert (
        decode(file_of(Image.new("RGB", (20, 20), (1, 2, 3)), "PNG", transparency=(1, 2, 3))) == 255
    ).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    deep = np.repeat(np.array([0, 128, 129, 257, 32768, 65535], dtype=np.uint16), 100).reshape(
        20, 30
    )
    decoded = decode(file_of(Image.fromarray(deep), kind))
    assert sorted(set(decoded.ravel().tolist())) == [0, 1, 128, 255]
    assert (decoded[deep == 128] == 0).all() and (decoded[deep == 129] == 1).all()


def test_one_bit_and_cmyk_become_rgb():
    assert (decode(file_of(Image.new("1", (20, 20), 1), "PNG")) == 255).all()
    cmyk = decode(file_of(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "TIFF"))
    assert (cmyk == (255, 0, 0)).all()


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_pixels_without_an_agreed_conversion_are_rejected(mode):
    assert reason_of(file_of(Image.new(mode, (20, 20)), "TIFF")) == "unsupported pixels"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_orientation_is_applied(kind, orientation):
    image = Image.fromarray(noise())
    image.getexif()[0x0112] = orientation
    data = file_of(image, kind, exif=image.getexif())
    assert np.array_equal(decode(data), np.array(ImageOps.exif_transpose(image)))


def test_an_orientation_that_is_no_orientation_is_ignored():
    image = Image.fromarray(noise())
    image.getexif()[0x0112] = 9
    assert np.array_equal(decode(file_of(image, "PNG", exif=image.getexif())), noise())


def test_broken_exif_does_not_cost_the_picture():
    data = file_of(Image.fromarray(noise()), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert decode(data).shape == (40, 60, 3)


def test_a_recorded_rotation_turns_counter_clockwise_and_replaces_exif():
    pixels = noise()
    image = Image.fromarray(pixels)
    assert np.array_equal(decode(file_of(image, "PNG"), rotation_degrees=90), np.rot90(pixels, 1))
    image.getexif()[0x0112] = 6
    data = file_of(image, "PNG", exif=image.getexif())
    assert np.array_equal(decode(data, rotation_degrees=270), np.rot90(pixels, 3)), (
        "not turned twice"
    )
    with pytest.raises(ValueError, match="rotation_degrees is 45"):
        decode(data, rotation_degrees=45)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_an_animation_the_first_picture_counts(kind):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = file_of(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (decode(data) == (255, 0, 0)).all()


def test_sizes_are_judged_by_the_header_before_any_pixel():
    assert reason_of(png_header(20_000, 20_000)) == "too many pixels"
    assert reason_of(png_header(10_001, 10_000)) == "too many pixels"
    assert reason_of(png_header(10_000, 10_000)) in ("truncated", "damaged"), (
        "allowed, but there are no pixels"
    )
    assert reason_of(png_header(15, 4000)) == "too small"
    assert reason_of(png_header(16, 16)) in ("truncated", "damaged")


def test_limits_are_the_callers():
    data = file_of(Image.fromarray(noise()), "PNG")
    assert decode(data, DecodeLimits(max_bytes=len(data), max_pixels=2400, min_side=40)).shape == (
        40,
        60,
        3,
    )
    assert reason_of(data, DecodeLimits(max_bytes=len(data) - 1)) == "too many bytes"
    assert reason_of(data, DecodeLimits(max_pixels=2399)) == "too many pixels"
    assert reason_of(data, DecodeLimits(min_side=41)) == "too small"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-lfs pointer"),
        (b"<!DOCTYPE html>", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"\xff\xd8\xff", "damaged"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "truncated"),
        (b"RIFF\x08\0\0\0WEBPVP8 ", "damaged"),
    ],
)
def test_what_is_no_image_is_told_by_reason(data, reason):
    assert reason_of(data) == reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_file_cut_short_is_always_rejected(kind, part):
    data = file_of(Image.fromarray(noise(200, 200)), kind)
    assert reason_of(data[: int(len(data) * part)]) in ("truncated", "damaged")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"])
def test_whatever_the_bytes_only_image_rejected_comes_out(kind):
    rng = np.random.default_rng(1)
    whole = np.frombuffer(file_of(Image.fromarray(noise()), kind), dtype=np.uint8)
    for _ in range(60):
        broken = whole.copy()
        places = rng.integers(0, min(len(broken), 400), 8)
        broken[places] = rng.integers(0, 256, 8)
        try:
            assert decode(broken.tobytes()).dtype == np.uint8
        except ImageRejected as error:
            assert error.reason in REASONS


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Image.DecompressionBombError("big"), "too many pixels"),
        (MemoryError(), "out of memory"),
        (OSError("image file is truncated (1 bytes not processed)"), "truncated"),
        *(
            (kind("odd"), "damaged")
            for kind in (
                struct.error,
                SyntaxError,
                ValueError,
                OSError,
                RecursionError,
                ZeroDivisionError,
            )
        ),
    ],
)
def test_every_error_of_a_decoder_becomes_a_reason(error, reason, monkeypatch):
    def load(self):
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    assert reason_of(file_of(Image.fromarray(noise()), "PNG")) == reason


def test_a_rejection_says_the_same_each_time_and_crosses_processes():
    with pytest.raises(ImageRejected) as caught:
        decode(b"no image at all")
    assert "0x" not in str(caught.value), "an address in the text would make every sidecar differ"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.reason, again.detail) == (caught.value.reason, caught.value.detail)


def test_half_images_let_through_by_other_code_are_refused(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(RuntimeError, match="LOAD_TRUNCATED_IMAGES"):
        decode(file_of(Image.fromarray(noise()), "PNG"))


def test_pillows_warnings_are_silenced_and_the_callers_are_not():
    large = png_header(9700, 9700)  # Pillow warns of a bomb from 89 megapixels on
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert reason_of(large) in ("truncated", "damaged")
        warnings.warn("mine", stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["mine"]


def test_threads_decode_the_same_pixels():
    files = [file_of(Image.fromarray(noise(seed=seed)), "PNG") for seed in range(8)]
    results: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda i=i: results.__setitem__(i, decode(files[i])))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(results[i], noise(seed=i)) for i in range(8))


def test_each_awkward_file_is_accepted_or_rejected_as_a_user_would_within_time_and_memory(
    real_data,
):
    folder = real_data / "awkward"
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
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
    outcomes = {
        name: outcome if isinstance(outcome, str) else tuple(outcome[:2])
        for name, outcome, _, _ in rows
    }
    assert outcomes == AWKWARD
    assert max(seconds for _, _, seconds, _ in rows) < 10
    assert max(growth for _, _, _, growth in rows) < 10**9


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("hopper_orientation_6.jpg", "hopper.gif"),
        ("hopper_orientation_3.jpg", "hopper.gif"),
        ("hopper_orientation_8.webp", "hopper.gif"),
    ],
)
def test_a_turned_photograph_comes_out_upright(a, b, real_data):
    turned, upright = (
        decode((real_data / "awkward/pillow" / name).read_bytes()).astype(int) for name in (a, b)
    )
    assert np.abs(turned - upright).mean() < 15, "the same portrait, upright"


def test_the_real_photographs_all_decode(real_data):
    paths = [
        path
        for name in ("coco", "openimages", "wikiart", "queries")
        for path in sorted((real_data / name).rglob("*.jp*g"))
    ]
    assert len(paths) > 400
    for path in paths[::3]:
        assert min(decode(path.read_bytes()).shape[:2]) >= 16, path


def test_heic_is_read_and_what_is_cut_or_broken_is_told():
    decoded = decode(HEIC)
    assert decoded.shape == (32, 64, 3)
    assert np.abs(decoded[16, 8].astype(int) - (200, 30, 30)).max() < 10
    assert np.abs(decoded[16, 56].astype(int) - (30, 30, 200)).max() < 10
    assert reason_of(HEIC[: len(HEIC) // 2]) == "truncated"
    assert reason_of(HEIC, DecodeLimits(max_pixels=2000)) == "too many pixels"
    assert reason_of(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)) == "unsupported format", (
        "no still picture"
    )
    assert reason_of(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(100)) == "not an image"


def test_large_pictures_are_decoded_one_after_the_other(monkeypatch):
    """The memory of one is held until its block ends; a small one may pass as soon as it fits."""
    monkeypatch.setattr(decoding, "decoding_room", lambda: room)
    data, done = file_of(Image.fromarray(noise(100, 100)), "PNG"), threading.Event()
    room = Room(100 * 100 * decoding.OTHERS_BYTES_A_PIXEL + 2 * len(data))
    other = threading.Thread(target=lambda: (decode(data), done.set()))
    with decoded(data) as pixels:
        other.start()
        assert not done.wait(0.2)
        assert pixels.shape == (100, 100, 3)
    assert done.wait(10)
    other.join(10)


def test_a_rejected_picture_gives_its_memory_back(monkeypatch):
    room = Room(10**6)
    monkeypatch.setattr(decoding, "decoding_room", lambda: room)
    for _ in range(3):
        assert reason_of(file_of(Image.fromarray(noise(100, 100)), "PNG")[:-2000]) == "truncated"
    with room.holding(10**6):
        pass
