"""Columns of a CSV file too large for memory, for the few rows that are wanted."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from storage.errors import SourceError
from storage.sources.disk import check_metadata

_BLOCK_BYTES = 8 * 2**20
_HEADER_BYTES = 65536


@dataclass
class CsvTable:
    """A comma-separated file with a header, read as a stream: some 250 MB of memory, however long it is.

    columns: those to read, the first is what rows are chosen by. cure: where to get the file anew.
    After matching() was read to its end, rows counts all rows by the value of count_by (or under "" without), and
    damaged those with too few or too many fields, which are left out.
    """

    path: Path
    columns: tuple[str, ...]
    cure: str
    count_by: str | None = None
    rows: Counter[str] = field(default_factory=Counter)
    damaged: int = 0
    _first_damage: str = ""

    def matching(self, wanted: Iterable[str]) -> Iterator[tuple[str, ...]]:
        """The columns, as text, of each row whose first column is wanted; bytes that are no UTF-8 become U+FFFD.

        Raises SourceError where the file is missing, lacks a column, cannot be parsed, or where more than one row in
        100 is damaged.
        """
        check_metadata(self.path, self.cure)
        self._check_header()
        chosen = pa.array([name.encode("utf-8", "replace") for name in wanted], pa.binary())
        try:
            for batch in self._batches():
                self._count(batch)
                kept = batch.filter(pc.is_in(batch.column(0), value_set=chosen))
                texts = [[value.decode("utf-8", "replace") for value in column.to_pylist()] for column in kept.columns]
                yield from zip(*texts, strict=True)
        except pa.ArrowInvalid as error:
            raise SourceError(self.path, f"cannot be read as CSV: {error}", self._advice()) from error
        if self.damaged * 100 > self.damaged + self.rows.total():
            what = f"{self.damaged} of {self.damaged + self.rows.total()} rows are damaged, first {self._first_damage}"
            raise SourceError(self.path, what, self._advice())

    def _batches(self) -> arrow_csv.CSVStreamingReader:
        """The file in blocks. One thread, since only then does a damaged row know its line."""
        return arrow_csv.open_csv(
            self.path,
            read_options=arrow_csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            parse_options=arrow_csv.ParseOptions(invalid_row_handler=self._damage),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=list(self.columns),
                column_types={name: pa.binary() for name in self.columns},
                strings_can_be_null=False,
            ),
        )

    def _check_header(self) -> None:
        """SourceError unless line 1 names every column."""
        with self.path.open("rb") as file:
            head = file.read(_HEADER_BYTES).decode("utf-8-sig", "replace").splitlines()[:1] or [""]
        header = next(csv.reader(head), [])
        missing = [name for name in self.columns if name not in header]
        if missing:
            what = f"line 1 has no column {', '.join(missing)}; it reads {head[0][:120]!r}"
            raise SourceError(self.path, what, self._advice())

    def _count(self, batch: pa.RecordBatch) -> None:
        """Add a block's rows to the counts."""
        if self.count_by is None:
            self.rows[""] += batch.num_rows
            return
        for pair in pc.value_counts(batch.column(self.columns.index(self.count_by))).to_pylist():
            self.rows[pair["values"].decode("utf-8", "replace")] += pair["counts"]

    def _damage(self, row: arrow_csv.InvalidRow) -> str:
        """Count a row with a wrong number of fields and skip it."""
        self.damaged += 1
        if not self._first_damage:
            fields = f"{row.actual_columns} fields instead of {row.expected_columns}"
            self._first_damage = f"line {row.number}: {fields}, {row.text[:120]!r}"
        return "skip"

    def _advice(self) -> str:
        """The cure, with the usual cause."""
        return f"Was it edited, cut short or saved by a spreadsheet program? {self.cure}"
