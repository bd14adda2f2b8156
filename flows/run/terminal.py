"""What reaches a terminal: text that it can show, and nothing that would steer it.

Captions, authors, file names and the messages that name them come from anywhere. A control sequence
in one of them could clear a screen, recolour it or forge a line of a table; a letter that the
locale's encoding lacks would end the command with an error of its own.
"""

import json
import os
import re
import sys
from typing import Any, TextIO

from storage.text import printable

Answer = tuple[str, dict[str, Any]]
"""What a command says: lines for a person, and the same for a machine."""
_PLAIN_BOXES = str.maketrans("─│┌┬┐├┼┤└┴┘·…–“”", '-|+++++++++..-""')
"""What tables are drawn with -> the same where the encoding has no such letters."""


_USER_OF_URL = re.compile(r"(?<=://)[^\s'\"<>]*@")
"""Up to the last @ of a word: a password may hold what should have been escaped."""


class FailingAnswer(Exception):
    """An answer that is told like any other, and ends its command with 1."""

    def __init__(self, text: str, value: dict[str, Any]) -> None:
        super().__init__(text)
        self.text, self.value = text, value


def without_passwords(text: str) -> str:
    """The text, without users and passwords of the addresses in it: http://...@host."""
    return _USER_OF_URL.sub("...@", text)


def shown_address(address: object) -> str:
    """An address that is a setting of somebody's, whatever it is like: no user, password or
    query.
    """
    text = without_passwords(str(address))
    before, found, rest = text.rpartition("@")
    text = f"...@{rest}" if found and "://" not in before else text
    return f"{text.partition('?')[0]}?..." if "?" in text else text


def open_closed_streams() -> None:
    """Standard input, output and error lead nowhere where whoever started us has closed them: else
    the next file that is opened takes their place, and whatever a library prints is written to it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            os.set_inheritable(number, True)  # processes of ours have it too
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115, PTH123 - to the end
            setattr(sys, name, nowhere)


def escape_what_cannot_be_shown() -> None:
    """From here on a letter that a stream's encoding lacks is written as its escape."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # nobody's terminal where it cannot
            stream.reconfigure(errors="backslashreplace")


def tell(text: object, stream: TextIO | None = None) -> None:
    """Write the text and a line end to standard output or another stream, at once."""
    told, to = printable(text), stream or sys.stdout
    if not _has_boxes(to):
        told = told.translate(_PLAIN_BOXES)
    print(told, file=to, flush=True)


def _has_boxes(stream: TextIO) -> bool:
    try:
        "─".encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def as_json(value: Any) -> str:
    """ASCII, so that it is the same on every terminal; NaN and infinity, which JSON has no words
    for, are null.
    """
    plain = json.loads(json.dumps(value, default=str), parse_constant=lambda name: None)
    return json.dumps(plain, indent=2).replace("\x7f", "\\u007f")
