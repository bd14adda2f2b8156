"""Images of the web by a list of addresses: what became of each, and the images themselves.

<folder>/images/<2 digits>/<16 digits>.<suffix>   named by a hash of the address
<folder>/fetched.parquet                          a row an address: see COLUMNS
<folder>/.fetched/list.sqlite                     the same while it is worked on

The list may have millions of rows: no more than a page of them is in memory.
"""

import hashlib
import json
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from storage.atomic import move_whole, write_bytes
from storage.errors import CannotWrite, SourceError
from storage.web.outcomes import Refused

STATE = ".fetched"
"""The folder of what is known while something is fetched, inside of the data set's."""
TABLE_FILE, IMAGES = "fetched.parquet", "images"
Status = Literal["kept", "failed", "refused", "withdrawn"]
"""kept: its image is there. failed: asked again the next time. refused: not to be had, asked again
when kept images are. withdrawn: it was kept, and its owner took it away.
"""
COLUMNS = {
    "id": "text", "url": "text", "captions": "text", "licence": "text", "author": "text",
    "source_url": "text", "style": "text", "labels": "text", "status": "text", "reason": "text",
    "detail": "text", "file": "text", "bytes": "integer", "sha256": "text", "etag": "text",
    "last_modified": "text", "asked_at": "real",
}  # fmt: skip
"""Of the table: captions and labels as JSON lists, asked_at in seconds since 1970."""
PAGE = 1000
MANY = 100
"""Images that a list may always remove."""
_PLACE = re.compile(r"[\w-]+(/[\w-]+)*", re.ASCII)
SAVED_EVERY_SECONDS = 2.0


@dataclass(frozen=True)
class ListedImage:
    """One row of a list."""

    url: str
    captions: tuple[str, ...] = ()
    licence: str | None = None
    author: str | None = None
    source_url: str | None = None
    style: str | None = None
    labels: tuple[str, ...] = ()
    place: str | None = None
    """Where its file is to lie, without its suffix: by a hash of the address unless given."""


@dataclass(frozen=True)
class Due:
    """An address that is to be asked."""

    id: str
    url: str
    status: Status | None
    """What it was; None for a new one."""
    file: str | None
    sha256: str | None
    etag: str | None
    last_modified: str | None
    place: str | None


@dataclass(frozen=True)
class Outcome:
    """What became of an address."""

    id: str
    status: Status
    reason: str | None = None
    detail: str | None = None
    file: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    etag: str | None = None
    last_modified: str | None = None


def id_of(url: str) -> str:
    """Sixteen digits for an address, or for a place of its own, the same on every machine."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]


@contextmanager
def explaining_database_errors(folder: Path) -> Iterator[None]:
    """Turn what SQLite refuses into CannotWrite: a full disk, a folder that is not ours."""
    try:
        yield
    except sqlite3.Error as error:
        what = f"what is known of its images cannot be written: {error}"
        cure = (
            "Is the disk full, or the folder another user's? The same command goes on from there."
        )
        raise CannotWrite(folder, what, cure) from error


class Collection:
    """The images of a list, and what became of each address. One thread uses it."""

    def __init__(self, folder: Path) -> None:
        """Open or begin one. Raises SourceError where its records cannot be read."""
        self.folder = folder
        state = folder / STATE
        state.mkdir(parents=True, exist_ok=True)
        self._path = state / "list.sqlite"
        self._database = sqlite3.connect(self._path, isolation_level=None)
        try:
            self._database.execute("PRAGMA journal_mode=TRUNCATE")  # also where disks are shared
            columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
            own = "place text, listed integer"
            self._database.execute(f"CREATE TABLE IF NOT EXISTS addresses ({columns}, {own})")
            self._database.execute("CREATE UNIQUE INDEX IF NOT EXISTS by_id ON addresses (id)")
            self._database.execute("CREATE TABLE IF NOT EXISTS asked_under (settings text)")
        except sqlite3.OperationalError:
            self._database.close()
            raise
        except sqlite3.DatabaseError as error:
            self._database.close()
            cure = f"Remove {self._path}: images that are there are asked for anew."
            raise SourceError(self._path, f"cannot be read: {error}", cure) from error
        self._database.create_function("both_of", 2, _both_of, deterministic=True)
        self._saved = 0.0

    def close(self) -> None:
        """Write down what is known."""
        self._save(now=True)
        self._database.close()

    def __enter__(self) -> "Collection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load(self, images: Iterable[ListedImage], remove_many: bool = False) -> dict[str, int]:
        """Take a list over: its addresses are those that count from now on. Returns counts: rows,
        addresses, new ones, and those that are listed no more, whose images are removed.

        Raises SourceError where the list would remove more than half of many images, unless that
        is wanted: it may be another list, or one that is still being written.

        An address that stands in several rows has the captions of all, and else what the first
        says.
        """
        run = self._database.execute
        generation = run("SELECT coalesce(max(listed), 0) + 1 FROM addresses").fetchone()[0]
        before = self._count()
        run("BEGIN")
        try:
            rows = self._load(images, generation)
            if not remove_many:
                self._refuse_to_remove_many(generation)
        except BaseException:  # what is listed stays what it was
            run("ROLLBACK")
            raise
        run("COMMIT")
        gone = self._remove_unlisted(generation)
        after = self._count()
        return {
            "rows": rows, "addresses": after, "new": after + gone - before, "unlisted": gone,
        }  # fmt: skip

    def _refuse_to_remove_many(self, generation: int) -> None:
        kept = "SELECT count(*) FROM addresses WHERE status = 'kept'"
        there = self._database.execute(kept).fetchone()[0]
        gone = self._database.execute(f"{kept} AND listed < ?", (generation,)).fetchone()[0]
        if gone > MANY and 2 * gone > there:
            what = f"{gone:,} of the {there:,} images that are there are listed no more"
            cure = (
                "Is it the whole list? Then say --set remove_unlisted=true; or give another path."
            )
            raise SourceError(self.folder, what, cure)

    def forget_missing(self) -> int:
        """Ask again for kept images whose files are gone; how many they are."""
        missing = []
        found = self._database.execute("SELECT id, file FROM addresses WHERE status = 'kept'")
        for image_id, name in found:
            if not (self.folder / name).is_file():
                missing.append((image_id,))
        self._database.executemany("UPDATE addresses SET status = NULL WHERE id = ?", missing)
        return len(missing)

    def _load(self, images: Iterable[ListedImage], generation: int) -> int:
        """Write the rows of a list down; how many they are."""
        rows = 0
        for image in images:
            rows += 1
            captions, labels = json.dumps(image.captions), json.dumps(image.labels)
            said = (image.licence, image.author, image.source_url, image.style)
            self._database.execute(
                """INSERT INTO addresses
                (id, url, captions, licence, author, source_url, style, labels, place, listed)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET
                captions = CASE WHEN listed = excluded.listed
                    THEN both_of(captions, excluded.captions) ELSE excluded.captions END,
                licence = CASE WHEN listed = excluded.listed
                    THEN coalesce(licence, excluded.licence) ELSE excluded.licence END,
                author = CASE WHEN listed = excluded.listed
                    THEN coalesce(author, excluded.author) ELSE excluded.author END,
                source_url = CASE WHEN listed = excluded.listed
                    THEN coalesce(source_url, excluded.source_url) ELSE excluded.source_url END,
                style = CASE WHEN listed = excluded.listed
                    THEN coalesce(style, excluded.style) ELSE excluded.style END,
                labels = CASE WHEN listed = excluded.listed
                    THEN both_of(labels, excluded.labels) ELSE excluded.labels END,
                url = excluded.url, place = excluded.place, listed = excluded.listed""",
                (
                    id_of(image.place or image.url),
                    image.url,
                    captions,
                    *said,
                    labels,
                    image.place,
                    generation,
                ),
            )
        return rows

    def _remove_unlisted(self, generation: int) -> int:
        """Forget the addresses that the newest list does not hold, and remove their images."""
        run = self._database.execute
        files = run("SELECT file FROM addresses WHERE listed < ? AND file <> ''", (generation,))
        for (name,) in files:
            (self.folder / name).unlink(missing_ok=True)
        return int(run("DELETE FROM addresses WHERE listed < ?", (generation,)).rowcount)

    def ask_under(self, settings: str) -> None:
        """Note by which settings addresses are asked: where they are others than before, what was
        refused is asked again.
        """
        run = self._database.execute
        before = run("SELECT settings FROM asked_under").fetchone()
        if before is not None and before[0] != settings:
            run("UPDATE addresses SET status = 'failed' WHERE status = 'refused'")
        run("DELETE FROM asked_under")
        run("INSERT INTO asked_under VALUES (?)", (settings,))

    def due(self, asked_before: float) -> Iterator[Due]:
        """The addresses that are to be asked: new ones, failed ones, and of the others those that
        were last asked before a time, in seconds since 1970. In the order of their ids.
        """
        last = ""
        while True:
            page = self._database.execute(
                """SELECT id, url, status, file, sha256, etag, last_modified, place FROM addresses
                WHERE id > ? AND (status IS NULL OR status = 'failed' OR asked_at < ?)
                ORDER BY id LIMIT ?""",
                (last, asked_before, PAGE),
            ).fetchall()
            for row in page:
                yield Due(*row)
            if len(page) < PAGE:
                return
            last = page[-1][0]

    def count_due(self, asked_before: float) -> int:
        """How many `due` gives."""
        condition = "status IS NULL OR status = 'failed' OR asked_at < ?"
        found = self._database.execute(
            f"SELECT count(*) FROM addresses WHERE {condition}", (asked_before,)
        )
        return int(found.fetchone()[0])

    def record(self, outcome: Outcome) -> None:
        """Note what became of an address; an image that is not kept any more is removed."""
        if not self._database.in_transaction:
            self._database.execute("BEGIN")
            self._saved = time.monotonic()
        if outcome.status != "kept":
            found = self._database.execute("SELECT file FROM addresses WHERE id = ?", (outcome.id,))
            (name,) = found.fetchone()
            if name and outcome.status == "withdrawn":
                (self.folder / name).unlink(missing_ok=True)
        self._database.execute(
            """UPDATE addresses SET status = ?, reason = ?, detail = ?, file = ?, bytes = ?,
            sha256 = ?, etag = ?, last_modified = ?, asked_at = ? WHERE id = ?""",
            (outcome.status, outcome.reason, outcome.detail, outcome.file, outcome.bytes,
             outcome.sha256, outcome.etag, outcome.last_modified, time.time(), outcome.id),
        )  # fmt: skip
        self._save()

    def _save(self, now: bool = False) -> None:
        late = time.monotonic() - self._saved > SAVED_EVERY_SECONDS
        if self._database.in_transaction and (now or late):
            self._database.execute("COMMIT")

    def counts(self) -> dict[str, int]:
        """Addresses by what became of them: status, or status and reason."""
        self._save(now=True)
        found = self._database.execute(
            """SELECT CASE WHEN status = 'kept' THEN status
            WHEN status IS NULL THEN 'not asked' ELSE status || ': ' || reason END AS what,
            count(*) FROM addresses GROUP BY what ORDER BY 2 DESC"""
        )
        return dict(found.fetchall())

    def publish(self) -> Path:
        """Write the table, in the order of the ids; it is whole or as it was."""
        self._save(now=True)
        target = self.folder / TABLE_FILE
        kinds = {"text": pa.string(), "integer": pa.int64(), "real": pa.float64()}
        schema = pa.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
        scratch = self.folder / STATE / f"{TABLE_FILE}.new"
        names = ", ".join(COLUMNS)
        found = self._database.execute(f"SELECT {names} FROM addresses ORDER BY id")
        with pq.ParquetWriter(scratch, schema) as writer:
            while rows := found.fetchmany(10 * PAGE):
                columns = [pa.array(column, kind) for column, kind in zip(
                    zip(*rows, strict=True), schema.types, strict=True)]  # fmt: skip
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
        move_whole(scratch, target)
        return target

    def _count(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM addresses").fetchone()[0])


def _both_of(first: str, second: str) -> str:
    """Two JSON lists of texts as one, each text once."""
    return json.dumps(list(dict.fromkeys(json.loads(first) + json.loads(second))))


def write_image(folder: Path, due: Due, suffix: str, data: bytes) -> str:
    """Write an image where its address has its place; its name under the folder. One that has
    these bytes already stays, and so does its date.
    """
    place = due.place or f"{IMAGES}/{due.id[:2]}/{due.id}"
    if not _PLACE.fullmatch(place):
        raise Refused("not an address", f"{place[:80]!r} leads out of the folder")
    name = f"{place}.{suffix}"
    path = folder / name
    if not (path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data):
        write_bytes(path, data, durable=False)
    return name
