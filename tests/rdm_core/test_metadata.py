"""What stands around the pixels costs no picture."""

import io
import zlib

import numpy as np
import pytest
from pictures import ADOBE_GAMMA, ADOBE_RGB, chunk, rgb_profile, with_chunks, with_segments
from PIL import Image

from rdm_core.decode import ImageRejected, decode
from rdm_core.metadata import MOST_PROFILE_BYTES, bare

PIXELS = (
    np.random.default_rng(0)
    .integers(0, 256, (6, 8, 3), dtype=np.uint8)
    .repeat(8, axis=0)
    .repeat(8, axis=1)
)
LONG = zlib.compress(b"workflow " * 200_000)
ADOBE = rgb_profile(ADOBE_RGB, ADOBE_GAMMA)
XMP = b'<x:xmpmeta xmlns:tiff="a" tiff:Orientation="6"/>'


def file_of(kind, **options):
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, kind, **options)
    return file.getvalue()


PNG, JPEG = file_of("PNG"), file_of("JPEG")
PNG_ADDITIONS = {
    "long zTXt": chunk(b"zTXt", b"workflow\0\0" + LONG),
    "long iTXt": chunk(b"iTXt", b"workflow\0\1\0\0\0" + LONG),
    "long XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG),
    "XMP of no fields": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1"),
    "long tEXt": chunk(b"tEXt", b"workflow\0" + b"x" * 3_000_000),
    "exif text of rubbish": chunk(
        b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 9\nzz")
    ),
    "long profile": chunk(b"iCCP", b"profile\0\0" + LONG),
    "endless profile": chunk(
        b"iCCP", b"profile\0\0" + zlib.compress(bytes(2 * MOST_PROFILE_BYTES))
    ),
    "nameless profile": chunk(b"iCCP", zlib.compress(b"x")),
    "short gAMA": chunk(b"gAMA", b"\0"),
    "short sRGB": chunk(b"sRGB", b""),
    "short cHRM": chunk(b"cHRM", b"\0"),
    "short pHYs": chunk(b"pHYs", b"\0\0"),
    "short tIME": chunk(b"tIME", b"\0"),
    "short bKGD": chunk(b"bKGD", b""),
    "short tRNS": chunk(b"tRNS", b"\0"),
    "empty eXIf": chunk(b"eXIf", b""),
    "rubbish eXIf": chunk(b"eXIf", b"rubbish"),
    "unknown": chunk(b"prVt", b"?" * 100),
    "animation of nothing": chunk(b"acTL", b"\0\0"),
    "frame of nothing": chunk(b"fcTL", b""),
}


@pytest.mark.parametrize("name", PNG_ADDITIONS)
def test_a_png_with_odd_metadata_is_the_picture_it_shows(name):
    assert np.array_equal(decode(with_chunks(PNG, PNG_ADDITIONS[name])), PIXELS)


@pytest.mark.parametrize(
    "kind", [b"tEXt", b"iTXt", b"iCCP", b"eXIf", b"tIME", b"tRNS", b"acTL", b"prVt"]
)
def test_a_wrong_checksum_of_an_ancillary_chunk_costs_that_chunk_alone(kind):
    body = {b"iCCP": b"profile\0\0" + zlib.compress(ADOBE), b"tRNS": bytes(6)}.get(
        kind, b"Comment\0hello"
    )
    assert np.array_equal(decode(with_chunks(PNG, chunk(kind, body, broken=True))), PIXELS)


def test_a_wrong_checksum_of_a_critical_chunk_is_damage():
    for kind in (b"PLTE", b"IDAT"):
        with pytest.raises(ImageRejected):
            decode(with_chunks(PNG, chunk(kind, b"\0\0\0", broken=True)))
    header = PNG[:8] + chunk(b"IHDR", PNG[16:29], broken=True) + PNG[33:]
    with pytest.raises(ImageRejected, match="damaged"):
        decode(header)


def test_seventy_megabytes_of_text_are_no_reason():
    texts = [chunk(b"zTXt", b"k%03d\0\0" % i + zlib.compress(bytes(1_000_000))) for i in range(70)]
    assert np.array_equal(decode(with_chunks(PNG, *texts)), PIXELS)


SEGMENTS = {
    "Adobe": (0xEE, b"Adobe"),
    "profile": (0xE2, b"ICC_PROFILE\0\1"),
    "piece of a profile": (0xE2, b"ICC_PROFILE\0\1\2" + ADOBE),
    "profile of piece 0": (0xE2, b"ICC_PROFILE\0\0\0" + ADOBE),
    "JFIF": (0xE0, b"JFIF\0\1"),
    "JFXX": (0xE0, b"JFXX\0"),
    "Exif": (0xE1, b"Exif\0\0"),
    "Exif of rubbish": (0xE1, b"Exif\0\0rubbish"),
    "XMP": (0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
    "MPF": (0xE2, b"MPF\0MM\0*\0\0\0\x08\xff\xff"),
    "Photoshop": (0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\xff"),
    "comment": (0xFE, b""),
    "long comment": (0xFE, b"\xff" * 65_000),
    "APP15": (0xEF, b"?"),
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_jpeg_with_odd_metadata_is_the_picture_it_shows(name):
    assert np.array_equal(decode(with_segments(JPEG, SEGMENTS[name])), decode(JPEG))


def test_many_segments_and_filling_bytes_are_no_reason():
    many = with_segments(
        JPEG, *[(0xE1, b"Exif\0\0" + b"x" * 60_000), *[(0xFE, b"y" * 60_000)] * 50]
    )
    assert np.array_equal(decode(many), decode(JPEG))
    filled = JPEG[:2] + b"\xff\xff\xff" + JPEG[2:]
    assert np.array_equal(decode(filled), decode(JPEG))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (
            "WEBP",
            {"exif": b"Exif\0\0rubbish", "xmp": b"\xff" * 2_000_000, "icc_profile": b"rubbish"},
        ),
        (
            "AVIF",
            {
                "exif": b"Exif\0\0II*\0\xff\xff\xff\xff",
                "xmp": b"\xff" * 2_000_000,
                "icc_profile": b"rubbish",
            },
        ),
        ("TIFF", {"description": "x" * 3_000_000, "icc_profile": b"rubbish", "dpi": (0, 0)}),
        ("GIF", {"comment": b"x" * 2_000_000}),
        ("BMP", {"dpi": (0, 0)}),
    ],
)
def test_other_formats_keep_their_picture_beside_rubbish(kind, options):
    assert np.array_equal(decode(file_of(kind, **options) + b"<html>" * 100), decode(file_of(kind)))


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "TIFF", "PNG", "JPEG"])
def test_exif_of_any_bytes_costs_no_picture(kind):
    rng, exif = np.random.default_rng(0), Image.Exif()
    exif[0x0131], exif[0x010E] = "a program that we look for in the file", "x" * 100
    whole = file_of(kind, exif=exif)
    place = whole.index(b"a program that we look") - 60
    for _ in range(30):
        broken = np.frombuffer(whole, np.uint8).copy()
        if kind == "TIFF":  # its pixels are found through the same table
            place = whole.index(b"a program that we look")
        broken[place : place + 60] = rng.integers(0, 256, 60)
        assert decode(broken.tobytes()).shape[2] == 3


def test_a_profile_in_pieces_is_joined_in_their_order():
    pieces = [(0xE2, b"ICC_PROFILE\0" + bytes([number, 3]) + ADOBE[start : start + 200])
              for number, start in ((2, 200), (1, 0), (3, 400))]  # fmt: skip
    assert bare(with_segments(JPEG, *pieces)).profile == ADOBE[:600]
    assert bare(with_segments(JPEG, *pieces[:2])).profile is None, "a piece is absent"


@pytest.mark.parametrize(
    "data",
    [
        with_chunks(PNG, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
        with_chunks(PNG, chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP))),
        with_segments(JPEG, (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)),
        with_chunks(
            PNG,
            chunk(
                b"zTXt",
                b"Raw profile type exif\0\0"
                + zlib.compress(
                    b"\nexif\n      32\n"
                    + (b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")
                    .hex()
                    .encode()
                ),
            ),
        ),
    ],
)
def test_what_says_how_a_picture_is_turned_is_kept(data):
    assert decode(data).shape == (64, 48, 3)


def test_a_file_without_metadata_stays_as_it_is():
    for data in (
        PNG,
        JPEG,
        file_of("WEBP"),
        b"",
        b"\xff\xd8\xff",
        PNG[:20],
        b"\xff\xd8\xff\xe0\xff",
    ):
        assert bare(data).data == data


@pytest.mark.parametrize("marker", [0xC3, 0xC5, 0xC7, 0xCB, 0xCF])
def test_jpegs_that_nobody_reads_are_unsupported_not_damaged(marker):
    place = JPEG.index(b"\xff\xc0")
    with pytest.raises(ImageRejected, match="unsupported pixels: a .* JPEG"):
        decode(JPEG[: place + 1] + bytes([marker]) + JPEG[place + 2 :])
    with pytest.raises(ImageRejected, match="unsupported pixels: a JPEG of 12 bits a channel"):
        decode(JPEG[: place + 4] + b"\x0c" + JPEG[place + 5 :])
