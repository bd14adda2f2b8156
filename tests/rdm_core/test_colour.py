"""Pixels of any kind become the sRGB that a viewer shows."""

import io

import numpy as np
import pytest
from pictures import (
    ADOBE_GAMMA,
    ADOBE_RGB,
    TO_D50,
    cmyk_profile,
    grey_profile,
    rgb_profile,
    srgb_of,
    tiff,
    twelve_bits,
    with_clear_colour,
)
from PIL import Image, ImageCms

from rdm_core import colour
from rdm_core.colour import transform_of
from rdm_core.decode import ImageRejected, decode

COLOURS = np.array(
    [(200, 30, 30), (30, 200, 30), (40, 40, 200), (128, 128, 128), (255, 255, 255), (250, 180, 60)],
    np.uint8,
)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def patches(colours=COLOURS):
    """A picture [32, 32 x n, 3] of flat squares."""
    return np.repeat(np.repeat(colours[None], 32, axis=0), 32, axis=1)


def middles(pixels):
    return pixels[16, 16::32].astype(int)


def file_of(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("TIFF", {}),
        ("WEBP", {"lossless": True}),
        ("JPEG", {"quality": 100, "subsampling": 0}),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}),
    ],
)
def test_colours_go_through_the_profile(kind, options):
    data = file_of(
        Image.fromarray(patches()), kind, icc_profile=rgb_profile(ADOBE_RGB, ADOBE_GAMMA), **options
    )
    wanted = srgb_of(COLOURS, ADOBE_RGB, ADOBE_GAMMA)
    assert np.abs(wanted - COLOURS).max() > 20, "the profile makes a difference"
    assert np.abs(middles(decode(data)) - wanted).max() <= 4


def test_a_profile_that_says_srgb_changes_no_bit():
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(
        decode(file_of(Image.fromarray(picture), "PNG", icc_profile=SRGB)), picture
    )
    nearly = rgb_profile(TO_D50, 2.2)  # the gamma alone differs, by up to 8 levels in the dark
    assert not np.array_equal(
        decode(file_of(Image.fromarray(picture), "PNG", icc_profile=nearly)), picture
    )


def test_palettes_and_transparency_go_through_the_profile_too():
    adobe, wanted = rgb_profile(ADOBE_RGB, ADOBE_GAMMA), srgb_of(COLOURS, ADOBE_RGB, ADOBE_GAMMA)
    palette = file_of(
        Image.fromarray(patches()).quantize(8, dither=Image.Dither.NONE), "PNG", icc_profile=adobe
    )
    assert np.abs(middles(decode(palette)) - wanted).max() <= 3
    half = Image.fromarray(patches())
    half.putalpha(128)
    over_white = wanted * 128 / 255 + 255 * 127 / 255
    assert np.abs(middles(decode(file_of(half, "PNG", icc_profile=adobe))) - over_white).max() <= 3


def test_grey_and_cmyk_profiles_are_followed():
    grey = np.repeat(np.arange(0, 256, 32, dtype=np.uint8)[None], 32, axis=0).repeat(8, axis=1)
    decoded = decode(file_of(Image.fromarray(grey), "PNG", icc_profile=grey_profile(1.0)))
    linear = grey / 255
    wanted = 255 * np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
    )
    assert np.abs(decoded - wanted[..., None]).max() <= 2
    inks = Image.new("CMYK", (32, 32), (255, 0, 0, 0))
    assert (decode(file_of(inks, "TIFF"))[0, 0] == (0, 255, 255)).all(), "no profile: cyan"
    press = decode(file_of(inks, "TIFF", icc_profile=cmyk_profile()))
    assert np.ptp(press[0, 0].astype(int)) <= 3 and 150 < press[0, 0, 0] < 230, (
        "a grey of this press"
    )
    assert (
        np.abs(
            decode(file_of(inks, "JPEG", icc_profile=cmyk_profile(), quality=100)).astype(int)
            - press
        ).max()
        <= 3
    )


@pytest.mark.parametrize("bits", [8, 16])
def test_a_grey_profile_holds_for_16_bits_as_for_8(bits):
    grey = np.full(
        (32, 32), 100 * (257 if bits == 16 else 1), np.uint16 if bits == 16 else np.uint8
    )
    data = file_of(Image.fromarray(grey), "PNG", icc_profile=grey_profile(1.0))
    assert (decode(data) == decode(file_of(Image.fromarray(np.full((32, 32), 100, np.uint8)), "PNG",
                                           icc_profile=grey_profile(1.0)))).all()  # fmt: skip
    assert decode(data)[0, 0, 0] > 150


@pytest.mark.parametrize(
    "given",
    [
        b"rubbish",
        b"",
        SRGB[:200],
        rgb_profile(ADOBE_RGB, ADOBE_GAMMA)[:180],
        grey_profile(1.0),
        cmyk_profile(),
        rgb_profile(ADOBE_RGB * 0, 1.0)[:-40],
        b"\0" * 5000,
    ],
    ids=["rubbish", "empty", "cut", "cut table", "for grey", "for inks", "cut curves", "zeros"],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_a_profile_that_is_broken_or_of_another_kind_is_ignored(kind, given):
    options = (
        {"quality": 100, "subsampling": 0}
        if kind == "JPEG"
        else {"lossless": True}
        if kind == "WEBP"
        else {}
    )
    decoded = decode(file_of(Image.fromarray(patches()), kind, icc_profile=given, **options))
    assert np.abs(middles(decoded) - COLOURS).max() <= 2


def test_an_rgb_profile_on_grey_pixels_is_ignored():
    grey = Image.new("L", (32, 32), 100)
    assert (decode(file_of(grey, "PNG", icc_profile=rgb_profile(ADOBE_RGB, 1.0))) == 100).all()


def test_hostile_profiles_cost_neither_the_picture_nor_the_process():
    rng = np.random.default_rng(0)
    for whole in (rgb_profile(ADOBE_RGB, ADOBE_GAMMA), grey_profile(1.8), cmyk_profile()):
        for _ in range(100):
            broken = np.frombuffer(whole, np.uint8).copy()
            places = rng.integers(0, min(len(broken), 400), 6)
            broken[places] = rng.integers(0, 256, 6)
            for mode in ("RGB", "L", "CMYK"):
                transform = transform_of(broken.tobytes(), mode)
                assert transform is None or transform.apply(Image.new(mode, (2, 2))).mode == "RGB"


def test_exif_orientation_and_a_profile_do_not_get_in_each_others_way():
    upright = patches()
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file_of(Image.fromarray(np.ascontiguousarray(np.rot90(upright))), "PNG", exif=exif,
                   icc_profile=rgb_profile(ADOBE_RGB, ADOBE_GAMMA))  # fmt: skip
    assert np.abs(middles(decode(data)) - srgb_of(COLOURS, ADOBE_RGB, ADOBE_GAMMA)).max() <= 3


def test_bands_join_without_a_seam(monkeypatch):
    picture = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (50, 40, 4), dtype=np.uint8), "RGBA"
    )
    data = file_of(picture, "PNG", icc_profile=rgb_profile(ADOBE_RGB, ADOBE_GAMMA))
    whole = decode(data)
    monkeypatch.setattr(colour, "BAND_PIXELS", 300)
    assert np.array_equal(decode(data), whole)


# Depths


@pytest.mark.parametrize("order", "<>")
def test_twelve_bit_grey_is_scaled(order):
    values = np.linspace(0, 4095, 32 * 32).reshape(32, 32)
    for photometric, shown in ((1, values / 4095), (0, 1 - values / 4095)):
        data = tiff(
            values, bits=12, packed=twelve_bits(values), photometric=photometric, order=order
        )
        assert np.abs(decode(data)[..., 0] - 255 * shown).max() <= 1


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_where_zero_is_white_it_is_shown_white(dtype, order):
    values = np.linspace(0, np.iinfo(dtype).max, 32 * 32).reshape(32, 32).astype(dtype)
    decoded = decode(tiff(values, photometric=0, order=order))[..., 0]
    assert np.abs(decoded - 255 * (1 - values / np.iinfo(dtype).max)).max() <= 1


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (np.float16, 3),
        (np.float32, 3),
        (np.float64, 3),
        (np.uint32, 1),
        (np.int16, 2),
        (np.int8, 2),
        (np.complex64, 6),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("order", "<>")
def test_pixels_that_nobody_agrees_on_are_unsupported_not_damaged(dtype, kind, channels, order):
    pixels = np.zeros((32, 32, channels)[: 2 + (channels > 1)], dtype)
    with pytest.raises(ImageRejected) as caught:
        decode(tiff(pixels, kind=kind, photometric=2 if channels > 1 else 1, order=order))
    assert caught.value.reason == "unsupported pixels", caught.value
    assert any(word in caught.value.detail for word in ("float", "integers", "complex")), (
        caught.value
    )


def test_an_unknown_compression_is_unsupported_and_named():
    with pytest.raises(ImageRejected, match="unsupported pixels: a TIFF of compression 34712"):
        decode(tiff(np.zeros((32, 32), np.uint8), compression=34712))


# One transparent colour


def png(pixels, **options):
    return file_of(Image.fromarray(pixels), "PNG", **options)


def grey_png(level, bits):
    """Grey of 1, 2 or 4 bits, all of one level."""
    image = Image.new("P", (32, 32), level)
    image.putpalette(list(range(2**bits)) * 3)
    data = bytearray(file_of(image, "PNG", bits=bits))
    from pictures import chunk

    start = data.index(b"PLTE") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    data[start:end] = b""
    header = bytes(data[16:24]) + bytes([bits, 0, 0, 0, 0])
    return bytes(data[:8]) + chunk(b"IHDR", header) + bytes(data[33:])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_clear_grey_of_few_bits_is_laid_over_white(bits):
    assert (decode(grey_png(0, bits)) == 0).all()
    assert (decode(with_clear_colour(grey_png(0, bits), 0)) == 255).all()
    one = decode(grey_png(1, bits))
    assert (one == round(255 / (2**bits - 1))).all()
    assert np.array_equal(decode(with_clear_colour(grey_png(1, bits), 0)), one)
    assert (decode(with_clear_colour(grey_png(1, bits), 1)) == 255).all()


def test_the_clear_grey_of_16_bits_is_exact():
    deep = np.full((32, 32), 5000, np.uint16)
    deep[:16] = 5001
    decoded = decode(with_clear_colour(png(deep), 5001))
    assert (decoded[:16] == 255).all() and (decoded[16:] == round(5000 / 257)).all()


def deep_rgb_png(colours):
    """16 bits a channel [H, W, 3], which Pillow does not write."""
    import zlib

    from pictures import chunk

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    header = (
        colours.shape[1].to_bytes(4, "big")
        + colours.shape[0].to_bytes(4, "big")
        + bytes([16, 2, 0, 0, 0])
    )
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_the_clear_colour_of_16_bits_a_channel_is_found():
    colours = np.full((32, 32, 3), (60000, 30000, 1000), np.uint16)
    colours[:16] = (1000, 2000, 3000)
    decoded = decode(with_clear_colour(deep_rgb_png(colours), 1000, 2000, 3000))
    assert (decoded[:16] == 255).all()
    assert np.abs(decoded[16:].astype(int) - (233, 117, 4)).max() <= 1


def test_the_clear_colour_of_8_bits_is_one_colour_not_three_channels():
    picture = np.full((32, 32, 3), (10, 20, 30), np.uint8)
    picture[:8], picture[8:16] = (10, 20, 31), (30, 20, 10)
    decoded = decode(with_clear_colour(png(picture), 10, 20, 30))
    assert (decoded[16:] == 255).all() and np.array_equal(decoded[:16], picture[:16])


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_channels_that_lie_one_after_the_other_are_read_as_those_side_by_side(kind, order):
    deep = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (32, 48, 4), kind)
    grey, colours, white = deep[..., 0], deep[..., :3], {"photometric": 0, "order": order}
    rgb = {"photometric": 2, "order": order}
    for pixels, said in [
        (grey, white), (grey, {"order": order}), (colours, rgb), (deep, {**rgb, "extra": (0,)}),
        (deep, {**rgb, "extra": (2,)}), (deep, {"photometric": 5, "order": order}),
    ]:  # fmt: skip
        in_planes = decode(tiff(pixels, planes=True, **said)).astype(int)
        assert np.abs(in_planes - decode(tiff(pixels, **said))).max() <= 1


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_planes_of_which_a_part_is_missing_are_rejected(kind):
    pixels = np.full((64, 64, 3), 200, kind)
    whole = tiff(pixels, photometric=2, planes=True)
    for part in (0.4, 0.9, 0.999):
        with pytest.raises(ImageRejected) as rejection:
            decode(whole[: int(len(whole) * part)])
        assert rejection.value.reason in ("truncated", "damaged")


def test_planes_of_grey_and_transparency_are_unsupported():
    with pytest.raises(ImageRejected, match="unsupported pixels: a TIFF of 2 channels of 8-bit"):
        decode(tiff(np.zeros((32, 32, 2), np.uint8), planes=True, extra=(2,)))
