"""The few rows that are wanted of a CSV file too large for memory.

Damage costs the rows it is in, and no other.
"""

import csv
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from storage.errors import SourceError
from storage.sources.disk import check_damage, check_metadata
from storage.sources.source import readable
from storage.text import encoding_of

MOST_LINES = 50
"""A quoted field may hold line breaks; a row of more lines is one whose quote was never closed."""
OPEN = "a quote that is not closed"
_MOST_HEADER = 65_536
_HOPELESS = 10_000
"""So many damaged rows end the reading, if they are too many so far."""


@dataclass
class CsvTable:
    """A comma-separated file with a header: UTF-8, or UTF-16 or 32 with a byte order mark.

    columns: those to read, the first is what rows are chosen by. cure: where to get the file anew.
    After matching() was read to its end, rows counts the good rows by the value of count_by (or
    under "" without), damaged those that were left out by reason, and blank_lines what holds
    nothing at all.
    """

    path: Path
    columns: tuple[str, ...]
    cure: str
    count_by: str | None = None
    rows: Counter[str] = field(default_factory=Counter)
    damaged: Counter[str] = field(default_factory=Counter)
    blank_lines: int = 0
    _first_damage: str = ""

    def matching(self, wanted: Iterable[str] | None) -> Iterator[tuple[str, ...]]:
        """The columns of each row whose first one is wanted, or of every row (None); bytes that are
        no UTF-8 as surrogates.

        Raises SourceError where the file is missing, lacks a column, is no text, holds no row, or
        where more than one row in MOST_DAMAGE is damaged: it has other fields than the header,
        nothing in its first column, a quote that is not closed, or NUL characters.
        """
        check_metadata(self.path, self.cure)
        chosen = None if wanted is None else frozenset(wanted)
        try:
            with self.path.open("rb") as file:
                encoding = encoding_of(file.read(4))
            # Only UTF-8 has single bytes that can be kept; half a character of UTF-16 is an error.
            errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
            # Lines end at \n alone: a lone \r may stand inside a field.
            with self.path.open(encoding=encoding, errors=errors, newline="\n") as file:
                header = self._header(file.readline(_MOST_HEADER))
                yield from self._chosen(file, header, chosen)
        except OSError as error:
            raise SourceError(
                self.path, f"cannot be read: {error.strerror}", "Check its permissions."
            ) from error
        except UnicodeDecodeError as error:
            raise SourceError(self.path, f"is no text: {error}", self._advice()) from error
        self._check_damage()

    def _chosen(
        self, lines: Iterable[str], header: list[str], chosen: frozenset[str] | None
    ) -> Iterator[tuple[str, ...]]:
        key, *_ = places = [header.index(name) for name in self.columns]
        counted = None if self.count_by is None else header.index(self.count_by)
        for number, row in records(lines, len(header), first=2):
            if row == []:
                self.blank_lines += 1
            elif isinstance(row, str):
                self._damage(row, number)
            elif not row[key].strip():
                self._damage(f"nothing in {self.columns[0]}", number)
            else:
                self.rows["" if counted is None else row[counted]] += 1
                if chosen is None or row[key] in chosen:
                    yield tuple(row[place] for place in places)

    def _header(self, line: str) -> list[str]:
        """The names in line 1, without blanks; SourceError unless each column is named once."""
        try:
            header = [name.strip() for name in next(csv.reader([line.rstrip("\r\n")]), [])]
        except csv.Error:  # lines that end in CR alone
            header = []
        missing = [name for name in self.columns if header.count(name) != 1]
        if missing:
            what = f"line 1 has no column {', '.join(missing)}"
            if not set(header).isdisjoint(missing):
                what = f"line 1 names {', '.join(missing)} more than once"
            elif "\0" in line:
                what += ": it holds NUL characters, as UTF-16 without a byte order mark does"
            raise SourceError(
                self.path, f"{what}; it reads {readable(line[:120])!r}", self._advice()
            )
        return header

    def _damage(self, why: str, number: int) -> None:
        """Count a row that is left out; SourceError where there is no hope for the rest."""
        self.damaged[why.partition(": ")[0]] += 1
        self._first_damage = self._first_damage or f"line {number}: {why}"
        # A file of another kind would otherwise be read to its end, row by row.
        if self.damaged.total() % _HOPELESS == 0:
            self._check_damage()

    def _check_damage(self) -> None:
        damaged, good = self.damaged.total(), self.rows.total()
        check_damage(self.path, damaged, damaged + good, self._first_damage, self._advice())
        if not good:
            raise SourceError(
                self.path,
                f"holds no row, only its header and {self.blank_lines:,} blank lines",
                self.cure,
            )

    def _advice(self) -> str:
        """The cure, with the usual cause."""
        return f"Was it edited, cut short or saved by a spreadsheet program? {self.cure}"


def records(
    lines: Iterable[str], width: int, first: int = 1
) -> Iterator[tuple[int, list[str] | str]]:
    """(line number, fields) of each row, [] for a blank line; or why it cannot be read.

    RFC 4180; a quote inside a field that does not begin with one is a character. Where a quote is
    not closed, or what stands between it and the next one makes no row, only its own line is lost:
    reading goes on with the line after it.
    """
    # `back`: lines that were read in search of a closing quote and are still to be read as rows.
    rest, back, number = iter(lines), deque[str](), first
    while True:
        line = back.popleft() if back else next(rest, None)
        if line is None:
            return
        taken = 1
        row: list[str] | str
        if "\0" in line:
            row = "NUL characters"
        elif '"' in line:
            taken, row = _quoted(line, back, rest, width)
        else:
            row = line.rstrip("\r\n").split(",")
            if len(row) != width:
                row = _of_other_length(row, width, line)
        yield number, row
        number += taken


def _quoted(
    line: str, back: deque[str], rest: Iterator[str], width: int
) -> tuple[int, list[str] | str]:
    """How many lines a row takes, and the row; lines that were looked at in vain go back."""
    row = _parsed([line], width)
    if row != OPEN:
        return 1, row
    taken, quotes = [line], line.count('"')
    while len(taken) < MOST_LINES:
        line_after = back.popleft() if back else next(rest, None)
        if line_after is None:
            break
        taken.append(line_after)
        quotes += line_after.count('"')
        # An even number of quotes may close the field; parsing each time would be slow.
        if quotes % 2 == 0:
            row = _parsed(taken, width)
            if isinstance(row, list):
                return len(taken), row
    back.extendleft(reversed(taken[1:]))
    return 1, OPEN


def _parsed(lines: list[str], width: int) -> list[str] | str:
    """The fields of a row with quotes, or why there is none."""
    try:
        row = next(csv.reader(lines, strict=True))
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            return OPEN
        return f"misplaced quotes: {lines[0][:120]!r}"
    return row if len(row) == width else _of_other_length(row, width, lines[0])


def _of_other_length(row: list[str], width: int, line: str) -> list[str] | str:
    if not line.strip():
        return []
    return f"other fields than the header: {len(row)} instead of {width} in {line.rstrip()[:120]!r}"
