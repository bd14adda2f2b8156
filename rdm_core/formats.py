"""Which decoder a file asks for by its first bytes, and what it is where none takes it."""

import importlib
import io
from collections.abc import Mapping
from functools import cache
from typing import Any

from PIL import Image, TiffImagePlugin

from rdm_core.metadata import JPEG_HEAD, PNG_HEAD

# The only decoders that ever run; without this list Pillow would hand an EPS file to ghostscript.
# JPEG includes MPO.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
for _plugin in ("Avif", "Bmp", "Gif", "Jpeg", "Png", "Tiff", "WebP"):
    importlib.import_module(f"PIL.{_plugin}ImagePlugin")
if not set(FORMATS) <= set(Image.OPEN):
    absent = set(FORMATS) - set(Image.OPEN)
    raise ImportError(f"this Pillow cannot read {absent}; install Pillow >= 11.3 from a wheel")
# Kinds of grey that Pillow can decode but does not know by itself: 12 or 16 bits, 0 is black or
# white (the photometric interpretation), either byte order.
for _order in (b"II", b"MM"):
    for _photometric in (0, 1):
        TiffImagePlugin.OPEN_INFO.setdefault(
            (_order, _photometric, (1,), 1, (12,), ()), ("I;16", "I;12")
        )
TiffImagePlugin.OPEN_INFO.setdefault((b"MM", 0, (1,), 1, (16,), ()), ("I;16B", "I;16B"))
_PLANAR = 284
"""Tag of a TIFF: 2 where each channel has a plane of its own."""
# Bits of each channel, compression, photometric interpretation, planes, kind of number.
_TAGS = (258, 259, 262, _PLANAR, 339)
READABLE = (*FORMATS, "HEIF")
"""All formats that are read; the decoder of HEIF (.heic) is loaded when the first one comes."""
_HEADS = (JPEG_HEAD, PNG_HEAD, b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_AVIF_BRANDS = {b"avif", b"avis"}
# Formats that are recognised by their first bytes, and not read.
_OTHER_HEADS = {
    b"\0\0\0\x0cjP  \r\n": "JPEG 2000", b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL", b"\xff\x0a": "JPEG XL", b"II\xbc\x01": "JPEG XR",
    b"8BPS": "Photoshop", b"\0\0\1\0": "ICO", b"%PDF-": "PDF", b"%!PS": "EPS", b"qoif": "QOI",
    b"\x76\x2f\x31\x01": "OpenEXR", b"#?RADIANCE": "Radiance HDR", b"gimp xcf": "GIMP",
    b"DDS ": "DDS", b"BPG\xfb": "BPG", b"IIRO": "camera raw", b"IIU\0": "camera raw",
    b"FUJIFILM": "camera raw",
    **{b"P%d" % kind + white: "PPM" for kind in range(1, 8) for white in (b"\n", b" ", b"\r")},
}  # fmt: skip


class _Planes(TiffImagePlugin.TiffImageFile):
    """A TIFF with one plane for each channel.

    libtiff reads it, packed or not. Pillow's own reader mixes up planes of 16 bits, and forgets
    that white may be zero.
    """

    @property  # type: ignore[override]
    def use_load_libtiff(self) -> bool:
        """Pillow reads this property; it would set it by the compression alone."""
        return True

    @use_load_libtiff.setter
    def use_load_libtiff(self, wanted: bool) -> None:
        """The value that Pillow sets is ignored."""


def opened(data: bytes) -> Image.Image:
    """Open a file with the one decoder that its first bytes name; only the header is read."""
    if (tags := tiff_tags(data)).get(_PLANAR) == 2:
        if len(tags.get(258, ())) == 2:
            raise SyntaxError("unsupported: planes of grey and of transparency")
        return _Planes(io.BytesIO(data), "")
    if not is_heif(data):
        return Image.open(io.BytesIO(data), formats=FORMATS)
    load_heif()
    return Image.open(io.BytesIO(data), formats=("HEIF",))


@cache
def load_heif() -> None:
    """Make Pillow know HEIF, whose decoder is not its own."""
    import pi_heif

    pi_heif.register_heif_opener(
        thumbnails=False, depth_images=False, aux_images=False, decode_threads=1
    )


def _brands(data: bytes) -> set[bytes]:
    """The brands of a file made of boxes (AVIF, HEIF, films); none for any other file."""
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), 256)  # of the first box
    if end == 0:
        return set()
    # The major brand, 4 bytes of version, then the compatible brands of 4 bytes each.
    brands = {data[8:12]}
    for start in range(16, end, 4):
        brands.add(data[start : start + 4])
    return brands


def is_avif(data: bytes) -> bool:
    """Whether a file says that it is an AVIF, in whatever container."""
    return bool(_brands(data) & _AVIF_BRANDS)


def is_heif(data: bytes) -> bool:
    """Whether a file says that it is a HEIF with HEVC pictures (.heic), and no AVIF."""
    return not is_avif(data) and bool(_brands(data) & _HEIF_BRANDS)


def is_of_a_readable_format(data: bytes) -> bool:
    """Whether a file starts as those of READABLE do, whatever follows."""
    return is_avif(data) or is_heif(data) or data.startswith(_HEADS) or data[8:12] == b"WEBP"


def other_format(data: bytes) -> str | None:
    """The name of a picture format that is recognised by its first bytes, and not read."""
    beginning = data[:1000].lstrip()
    if beginning.startswith((b"<svg", b"<?xml")) and b"<svg" in beginning:
        return "SVG"
    for head, name in _OTHER_HEADS.items():
        if data.startswith(head):
            return name
    return None


def refusal(data: bytes) -> Exception:
    """The exception with which a decoder refuses a file of its own format: Image.open hides it."""
    if is_heif(data):
        load_heif()
    for name in ["HEIF"] if is_heif(data) else FORMATS:
        factory, accepts = Image.OPEN[name]
        if accepts is not None and accepts(data[:16]) is True:
            try:
                factory(io.BytesIO(data), "")
            except Exception as error:
                return error
    return SyntaxError("the header cannot be read")


def tiff_tags(data: bytes) -> Mapping[int, Any]:
    """The tags _TAGS of a TIFF's first picture; none if it is no TIFF or cannot be read."""
    if not data.startswith((b"II", b"MM")):
        return {}
    try:
        file = io.BytesIO(data)
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        return {number: tags[number] for number in _TAGS if number in tags}
    except Exception:  # damaged bytes make Pillow raise many kinds
        return {}


def tiff_kind(tags: Mapping[int, Any]) -> str:
    """What the pixels of a TIFF are, in words."""
    # Values of tag 339; 1, unsigned integers, is the default.
    kinds = {
        2: "signed integers",
        3: "floats",
        4: "numbers of no stated kind",
        5: "complex integers",
        6: "complex floats",
    }
    bits = tags.get(258, (1,))
    kind = kinds.get(tags.get(339, (1,))[0], "integers")
    several = f"{len(bits)} channels" if len(bits) > 1 else "1 channel"
    return (
        f"a TIFF of {several} of {bits[0]}-bit {kind}, photometric interpretation {tags.get(262)}"
    )
