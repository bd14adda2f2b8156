"""Ask the addresses of a collection, many hosts side by side, and note what became of each."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from urllib.parse import urlsplit

from storage.atomic import sha256_of
from storage.errors import CannotWrite
from storage.web.client import Web
from storage.web.collection import Collection, Due, Outcome, Status, write_image
from storage.web.files import free_bytes
from storage.web.images import fetch_image
from storage.web.outcomes import Failed, NotFetched, Refused

GONE = ("status 404", "status 410", "status 451")
"""What a server answers of what its owner took away."""
OWNERS_NO = "forbidden by its owner"
LOOK_AHEAD = 2000
"""Addresses that are taken from the list, so that no host waits for another one's turn."""
SPACE_SECONDS = 1.0
"""Between two looks at the room on the disk; what stays spare holds what comes in between."""


def gather(
    collection: Collection,
    web: Web,
    most_bytes: int,
    at_once: int = 16,
    asked_before: float = 0.0,
    progress: Callable[[Outcome], None] = lambda outcome: None,
) -> None:
    """Ask what is due, `at_once` addresses at a time, of one host no more than it takes.

    An image that was kept is asked for only where it was last asked before a time in seconds since
    1970, and then only whether it changed. An interrupt loses what is on its way and nothing else.
    Raises CannotWrite where the disk has no room for one more image of `most_bytes`: what is there
    stays, and what is still due is asked the next time.
    """
    queues = _Queues(collection.due(asked_before), web.manners.connections_per_host)
    hosts: dict[Future[Outcome], str] = {}
    looked = -SPACE_SECONDS
    with ThreadPoolExecutor(at_once) as pool:
        try:
            while True:
                while len(hosts) < at_once and (taken := queues.take()):
                    if time.monotonic() - looked >= SPACE_SECONDS:
                        _check_room(collection.folder, most_bytes)
                        looked = time.monotonic()
                    host, due = taken
                    hosts[pool.submit(asked, collection, web, most_bytes, due)] = host
                if not hosts:
                    return
                done, _ = wait(hosts, return_when=FIRST_COMPLETED)
                for future in done:
                    queues.leave(hosts.pop(future))
                    outcome = future.result()
                    collection.record(outcome)
                    progress(outcome)
        except BaseException:
            web.stop()  # nobody sleeps any longer
            for future in hosts:
                future.cancel()
            raise


def _check_room(folder: Path, most_bytes: int) -> None:
    """Raise CannotWrite where a folder's disk is full but for what stays spare."""
    free = free_bytes(folder)
    if free < most_bytes:
        what = (
            f"its disk is almost full: {free / 1e9:,.2f} GB are free beside 1 GB that stays spare"
        )
        cure = (
            f"The images that are there are kept. Free some space, {most_bytes / 1e9:,.2f} GB at "
            "least, and give the same command: it goes on from there."
        )
        raise CannotWrite(folder, what, cure)


class _Queues:
    """Addresses that are due, by their hosts: the next one is of a host that is free."""

    def __init__(self, due: Iterator[Due], at_once_of_a_host: int) -> None:
        self._due, self._most = due, at_once_of_a_host
        self._waiting: OrderedDict[str, deque[Due]] = OrderedDict()
        self._count = 0
        self._busy: dict[str, int] = {}

    def take(self) -> tuple[str, Due] | None:
        """A host and an address of it; None where all that are known wait for their host."""
        self._look_ahead()
        for host, queue in self._waiting.items():
            if self._busy.get(host, 0) < self._most:
                due = queue.popleft()
                self._count -= 1
                self._busy[host] = self._busy.get(host, 0) + 1
                if queue:
                    self._waiting.move_to_end(host)  # the others first
                else:
                    del self._waiting[host]
                return host, due
        return None

    def leave(self, host: str) -> None:
        """An address of a host was answered."""
        self._busy[host] -= 1
        if not self._busy[host]:
            del self._busy[host]

    def _look_ahead(self) -> None:
        while self._count < LOOK_AHEAD:
            due = next(self._due, None)
            if due is None:
                return
            self._waiting.setdefault(_host_of(due.url), deque()).append(due)
            self._count += 1


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:  # no address; it is refused
        return ""


def asked(collection: Collection, web: Web, most_bytes: int, due: Due) -> Outcome:
    """What becomes of one address."""
    was_kept = due.status == "kept" and due.file and (collection.folder / due.file).is_file()
    etag, last_modified = (due.etag, due.last_modified) if was_kept else (None, None)
    try:
        image = fetch_image(web, due.url, most_bytes, etag, last_modified)
    except NotFetched as error:
        return _without(collection, due, bool(was_kept), error)
    except (ValueError, OverflowError) as error:  # of an answer that no library understands
        what = Failed("not understood", f"{type(error).__name__}: {error}")
        return _without(collection, due, bool(was_kept), what)
    if image.status == "unchanged":
        return _kept(collection, due, image.etag, image.last_modified)
    try:
        name = write_image(collection.folder, due, image.suffix, image.data)
    except Refused as error:
        return _without(collection, due, False, error)
    if due.file and due.file != name:
        (collection.folder / due.file).unlink(missing_ok=True)
    return Outcome(
        due.id, "kept", None, None, name, len(image.data), sha256_of(image.data), image.etag,
        image.last_modified,
    )  # fmt: skip


def _without(collection: Collection, due: Due, was_kept: bool, error: NotFetched) -> Outcome:
    """What becomes of an address that gave nothing. An image that is there stays, unless its owner
    took it away or says no: a page of maintenance must not empty a data set.
    """
    status: Status = "refused" if isinstance(error, Refused) else "failed"
    if was_kept and not (error.reason in GONE or error.reason == OWNERS_NO):
        return _kept(collection, due, due.etag, due.last_modified, str(error))
    return Outcome(due.id, "withdrawn" if was_kept else status, error.reason, error.detail)


def _kept(
    collection: Collection, due: Due, etag: str | None, last_modified: str | None,
    problem: str | None = None,
) -> Outcome:  # fmt: skip
    """An image that stays as it is; a problem is why nobody knows whether it changed."""
    size = (collection.folder / (due.file or "")).stat().st_size
    reason = "not checked" if problem else None
    return Outcome(due.id, "kept", reason, problem, due.file, size, due.sha256, etag, last_modified)


def asked_before(days: float | None) -> float:
    """The time before which an address must have been asked to be asked again: so many days ago;
    never, where none are given.
    """
    return 0.0 if days is None else time.time() - days * 86_400
