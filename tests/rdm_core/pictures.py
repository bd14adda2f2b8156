"""Files that Pillow does not write: ICC profiles, TIFFs of any pixels, chunks and segments."""

import struct
import zlib

import numpy as np

TO_D50 = np.array(
    [
        [0.4360747, 0.3850649, 0.1430804],
        [0.2225045, 0.7168786, 0.0606169],
        [0.0139322, 0.0971045, 0.7141733],
    ]
)
"""Linear sRGB to XYZ under D50."""
ADOBE_RGB = np.array(
    [
        [0.6097559, 0.2052401, 0.1492240],
        [0.3111242, 0.6256560, 0.0632197],
        [0.0194811, 0.0608902, 0.7448387],
    ]
)
"""Linear Adobe RGB (1998) to XYZ under D50; its gamma is 563 / 256."""
ADOBE_GAMMA = 563 / 256


def fixed(*values):
    """s15Fixed16 numbers."""
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def profile(space, tags, kind=b"mntr", connection=b"XYZ "):
    """An ICC profile, version 2.4, of a colour space ("RGB ", "GRAY", "CMYK") with these tags."""
    tags = {
        b"desc": b"desc\0\0\0\0\0\0\0\5test\0" + bytes(79),
        b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1, 0.8249),
        **tags,
    }
    table, body, at = b"", b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data
    size = at + len(body)
    head = (
        struct.pack(">I4sI", size, b"lcms", 0x02400000)
        + kind
        + space
        + connection
        + bytes(12)
        + b"acsp"
    )
    head = (head + bytes(64 - len(head)) + bytes(4) + fixed(0.9642, 1, 0.8249)).ljust(128, b"\0")
    return head + struct.pack(">I", len(tags)) + table + body


def gamma_curve(gamma):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def rgb_profile(matrix, gamma):
    tags = {}
    for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ")):
        tags[name] = b"XYZ \0\0\0\0" + fixed(*matrix[:, i])
    return profile(b"RGB ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma_curve(gamma)))


def grey_profile(gamma):
    return profile(b"GRAY", {b"kTRC": gamma_curve(gamma)})


def cmyk_profile():
    """A press whose every ink takes lightness away and no colour: a table of two levels an ink."""
    ramps = bytes(range(256))
    corners = np.indices((2, 2, 2, 2)).reshape(4, -1).T  # cyan changes slowest
    lightness = np.clip(255 - 60 * corners.sum(axis=1), 0, 255)
    colours = (
        np.stack([lightness, np.full(16, 128), np.full(16, 128)], axis=1).astype(np.uint8).tobytes()
    )
    table = (
        b"mft1\0\0\0\0"
        + bytes([4, 3, 2, 0])
        + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
        + ramps * 4
        + colours
        + ramps * 3
    )
    return profile(b"CMYK", {b"A2B0": table}, b"prtr", b"Lab ")


def srgb_of(values, matrix, gamma):
    """What colours [..., 3] of 0..255 under a matrix profile are in sRGB, 0..255, by the
    formulas.
    """
    linear = (np.asarray(values) / 255) ** gamma @ (np.linalg.inv(TO_D50) @ matrix).T
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def chunk(kind, data, broken=False):
    """A chunk of a PNG."""
    return (
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data) ^ broken)
    )


def with_chunks(png, *chunks):
    """The PNG with chunks after its header."""
    return png[:33] + b"".join(chunks) + png[33:]


def with_segments(jpeg, *segments):
    """The JPEG with (marker, content) before everything else."""
    built = b""
    for marker, data in segments:  # the length counts its own two bytes
        built += b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data
    return jpeg[:2] + built + jpeg[2:]


def with_clear_colour(png, *values):
    return with_chunks(png, chunk(b"tRNS", struct.pack(f">{len(values)}H", *values)))


def tiff(
    pixels,
    *,
    bits=None,
    kind=1,
    photometric=1,
    order="<",
    compression=1,
    packed=None,
    planes=False,
    extra=(),
):
    """A TIFF of an array [H, W] or [H, W, C] as it lies in memory, or of `packed` bytes that
    stand for it. planes: one channel after the other. extra: what the channels beyond colour are.
    """
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    bits = bits or pixels.dtype.itemsize * 8
    laid_out = np.moveaxis(np.atleast_3d(pixels), 2, 0) if planes else pixels
    data = packed or laid_out.astype(pixels.dtype.newbyteorder(order)).tobytes()
    strips = channels if planes else 1
    length = len(data) // strips
    entries = {
        256: (width,),
        257: (height,),
        258: (bits,) * channels,
        259: (compression,),
        262: (photometric,),
        273: (0,) * strips,
        277: (channels,),
        278: (height,),
        279: (length,) * strips,
        284: (1 + planes,),
        338: extra,
        339: (kind,) * channels,
    }
    entries = {tag: values for tag, values in entries.items() if values}
    table, beyond, at = b"", b"", 8 + 2 + 12 * len(entries) + 4
    offset = at + sum(4 * len(values) for values in entries.values() if len(values) > 1)
    entries[273] = tuple(offset + length * strip for strip in range(strips))
    for tag, values in entries.items():
        body = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            body, beyond = struct.pack(order + "I", at + len(beyond)), beyond + body
        table += struct.pack(order + "HHI", tag, 4, len(values)) + body
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    return head + table + bytes(4) + beyond + data


def twelve_bits(values):
    """Numbers of 12 bits [H, W], an even count, packed as TIFF does."""
    pairs = values.astype(np.uint16).reshape(-1, 2)
    first, second = pairs[:, 0], pairs[:, 1]
    return (
        np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
        .astype(np.uint8)
        .tobytes()
    )
