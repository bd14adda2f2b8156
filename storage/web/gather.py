"""Ask the addresses of a collection, many hosts side by side, and note what became of each."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from storage.atomic import sha256_of
from storage.web.client import Web
from storage.web.collection import Collection, Due, Outcome, write_image
from storage.web.images import fetch_image
from storage.web.outcomes import Failed, Refused

GONE = ("status 404", "status 410", "status 451")
"""What a server answers of what its owner took away."""


def gather(
    collection: Collection,
    web: Web,
    most_bytes: int,
    at_once: int = 16,
    asked_before: float = 0.0,
    progress: Callable[[Outcome], None] = lambda outcome: None,
) -> None:
    """Ask what is due, `at_once` addresses at a time.

    An image that was kept is asked for only where it was last asked before a time in seconds since
    1970, and then only whether it changed. An interrupt loses what is on its way and nothing else.
    """
    due = collection.due(asked_before)
    with ThreadPoolExecutor(at_once) as pool:
        # Few more than can be asked at once are taken from the list, however long it is.
        waiting = {pool.submit(asked, collection, web, most_bytes, one) for one in
                   _some(due, 2 * at_once)}  # fmt: skip
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    outcome: Outcome = future.result()
                    collection.record(outcome)
                    progress(outcome)
                for one in _some(due, len(done)):
                    waiting.add(pool.submit(asked, collection, web, most_bytes, one))
        except BaseException:
            _cancel(waiting)
            raise


def _some(due: Iterator[Due], count: int) -> Iterator[Due]:
    for _, one in zip(range(count), due, strict=False):
        yield one


def _cancel(futures: set[Future[Outcome]]) -> None:
    for future in futures:
        future.cancel()


def asked(collection: Collection, web: Web, most_bytes: int, due: Due) -> Outcome:
    """What becomes of one address."""
    was_kept = due.status == "kept" and due.file and (collection.folder / due.file).is_file()
    etag, last_modified = (due.etag, due.last_modified) if was_kept else (None, None)
    try:
        image = fetch_image(web, due.url, most_bytes, etag, last_modified)
    except Refused as refused:
        return _without(due, "withdrawn" if was_kept else "refused", refused)
    except Failed as failed:
        if was_kept and failed.reason not in GONE:
            return Outcome(  # what is there stays: the server may be back tomorrow
                due.id, "kept", "not checked", str(failed), due.file, _bytes(collection, due),
                due.sha256, due.etag, due.last_modified,
            )  # fmt: skip
        return _without(due, "withdrawn" if was_kept else "failed", failed)
    if image.status == "unchanged":
        return Outcome(
            due.id, "kept", None, None, due.file, _bytes(collection, due), due.sha256, image.etag,
            image.last_modified,
        )  # fmt: skip
    name = write_image(collection.folder, due, image.suffix, image.data)
    if due.file and due.file != name:
        (collection.folder / due.file).unlink(missing_ok=True)
    return Outcome(
        due.id, "kept", None, None, name, len(image.data), sha256_of(image.data), image.etag,
        image.last_modified,
    )  # fmt: skip


def _bytes(collection: Collection, due: Due) -> int:
    return (collection.folder / (due.file or "")).stat().st_size


def _without(due: Due, status: str, error: Refused | Failed) -> Outcome:
    assert status in ("failed", "refused", "withdrawn"), "no image"
    return Outcome(due.id, status, error.reason, error.detail)  # type: ignore[arg-type]


def asked_before(days: float | None) -> float:
    """The time before which an address must have been asked to be asked again: so many days ago;
    never, where none are given.
    """
    return 0.0 if days is None else time.time() - days * 86_400
