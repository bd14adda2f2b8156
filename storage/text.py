"""Bytes that others wrote, as text that is right or not taken at all: no encoding is guessed."""

import codecs
import re

_MARKS = (  # UTF-32 first: its little-endian mark begins as that of UTF-16 does
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


SURROGATE = re.compile("[\ud800-\udfff]")
"""No character: half of one, or a byte that could not be decoded."""
UNDECODED_BYTE = re.compile("[\udc80-\udcff]")
"""The surrogates that stand for the bytes 0x80 to 0xff of a name that is no UTF-8 (PEP 383)."""


class NotText(ValueError):
    """Bytes that are no text in an encoding they name; the message says which byte, or what they
    hold.
    """


def encoding_of(head: bytes) -> str:
    """What a byte order mark in the first four bytes says; UTF-8 where there is none."""
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    return "utf-8-sig"


def text_of(data: bytes, keep_bytes: bool = False) -> str:
    """The text of a file: UTF-8, or UTF-16 or UTF-32 that begin with a byte order mark; without it.

    keep_bytes: a byte that is no UTF-8 becomes the surrogate that stands for it in file names too
    (PEP 383), so that a name in a list finds its file; whoever takes such text asks `is_whole`.
    Raises NotText for anything else, and for NUL characters.
    """
    encoding = encoding_of(data)
    kept = keep_bytes and encoding == "utf-8-sig"
    try:
        text = data.decode(encoding, "surrogateescape" if kept else "strict")
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise NotText(f"byte {error.start} is no {name}") from error
    if "\0" in text:
        raise NotText("it holds NUL characters, as UTF-16 without a byte order mark does")
    return text


def is_whole(text: str) -> bool:
    """Whether every character is one: no half of a surrogate pair, no byte that could not be
    decoded.
    """
    return text.isascii() or SURROGATE.search(text) is None


# Text that is shown

_STEERING = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but for the tab and the line end
    "\u2028\u2029\u202a-\u202e\u2066-\u2069"  # line breaks and reversals of direction
    "\ud800-\udfff"  # halves of a letter, and the bytes of a name that is no UTF-8
)
_ANYWHERE, _IN_A_LINE = re.compile(f"[{_STEERING}]"), re.compile(f"[{_STEERING}\n\t]")


def printable(text: object) -> str:
    """The text with what would steer a terminal as its escape (\\x1b); line ends and tabs stay."""
    return _ANYWHERE.sub(_escape, str(text))


def on_one_line(text: object) -> str:
    """The same for a value in a line or a table: a line end inside it is an escape too."""
    return _IN_A_LINE.sub(_escape, str(text))


def _escape(match: re.Match[str]) -> str:
    if match[0] in "\n\t":
        return {"\n": "\\n", "\t": "\\t"}[match[0]]
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that is no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
