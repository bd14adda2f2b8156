"""Bytes to pixels."""

import base64
import io
import pickle
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from rdm_core import decode as decoding
from rdm_core.decode import DecodeLimits, ImageRejected, decode, decoded
from rdm_core.memory import Room
from rdm_core.rejections import REASONS

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

    def work(i):
        results[i] = decode(files[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(8):
        np.testing.assert_array_equal(results[i], noise(seed=i))


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
