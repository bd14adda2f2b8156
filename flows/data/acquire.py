"""Where a data set lives -> the folder that its reader wants. What is there already and unchanged
is not fetched again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.config import published as tables
from flows.config.acquire import (
    Acquire,
    AcquireCoco,
    AcquireEmoji,
    AcquireOpenImages,
    AcquireUrls,
    AcquireWikiArt,
    AnyAcquire,
    PublishedFile,
)
from flows.data.acquire_images import gather_images, open_images_list, url_list
from flows.run.progress import Clock, bar, say
from flows.run.stage import NETWORK_RETRIES, stage_flow, stage_task
from storage.errors import SourceError, explaining_disk_errors
from storage.locks import exclusive
from storage.sources.openimages import ALL_CLASSES, IMAGE_LABELS
from storage.web.client import Manners, Web
from storage.web.collection import STATE
from storage.web.files import (
    FetchedFile,
    Remote,
    RemoteFile,
    ask,
    check_space,
    fetch_file,
    still_to_fetch,
)
from storage.web.outcomes import NotFetched
from storage.web.record import write_record
from storage.web.unpack import unpack

NAMES: dict[str, dict[str, dict[str, Any]]] = {
    "coco": tables.COCO,
    "openimages": tables.OPEN_IMAGES,
    "wikiart": tables.WIKIART,
}
"""Source -> its files and what is published about them."""


@stage_flow("acquire", threads=1)
def acquire(config: AnyAcquire) -> dict[str, Any]:
    """Fetch a data set into the folder that `rdm import` reads; returns what came of it.

    files --ranges, hashes--> zips and lists;  addresses --politely--> images, and reasons

    - In the folder: what the data set's reader wants, and acquired.json, which says where every
      file came from and when.
    - Made by `rdm acquire`, and by a rebuild that is told to.
    - Read by `rdm import`.
    - Fetched again is what changed at its source, and what failed.
    - Resumes in the middle of a file, and after the last image.
    """
    clock = Clock()
    state = config.path / STATE

    def say_who(holder: str) -> None:
        say("acquire", config.source, f"waits for {holder}, which fetches into the same folder")

    with explaining_disk_errors(config.path), _held(state, say_who):
        done: dict[str, Any] = STEPS[config.source](config)
        record = {
            "source": config.source,
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": settings_of(config),
            **done,
        }
        write_record(config.path, record)
    say("acquire", config.source, f"{told(done)} in {clock.seconds:.1f} s: {config.path}")
    if isinstance(config, AcquireEmoji) and config.databases:
        from flows.data.emoji_databases import build_emoji

        # What is built says where its images came from: the record is there by now.
        record["databases"] = build_emoji(config)
    return record


def settings_of(config: Acquire) -> dict[str, Any]:
    """How it was fetched, for the record: nothing of who fetched it, and no key to an address."""
    settings = config.model_dump(mode="json", exclude={"root", "path", "contact"})
    for file in settings.get("files", {}).values():
        file["address"] = without_query(file["address"])
    return settings


def without_query(address: str) -> str:
    """An address without what follows its path: it may be a signature that lets anybody in."""
    return address.partition("?")[0]


@contextmanager
def _held(state: Path, say_who: Callable[[str], None]) -> Iterator[None]:
    """The folder of what is known, for this fetching alone."""
    try:
        state.mkdir(parents=True, exist_ok=True)
    except (FileNotFoundError, FileExistsError, NotADirectoryError) as error:
        what = f"is no folder, and cannot be made one: {error.strerror}"
        raise SourceError(state.parent, what, "Give another --path.") from error
    with exclusive(state / "lock", say_who):
        yield


def told(done: dict[str, Any]) -> str:
    """What came of it, in words."""
    parts = []
    files = done.get("files", [])
    for status in ("new", "unchanged"):
        count = sum(each["status"] == status for each in files)
        if count:
            parts.append(f"{count:,} files {status}")
    for what, count in done.get("images", {}).items():
        parts.append(f"{count:,} {what}")
    return ", ".join(parts) or "nothing"


def names_of(config: AcquireCoco | AcquireOpenImages | AcquireWikiArt) -> list[str]:
    """The files that a source is fetched by."""
    if isinstance(config, AcquireCoco):
        return [f"{split}2017.zip" for split in config.splits] + ["annotations_trainval2017.zip"]
    if isinstance(config, AcquireWikiArt):
        return list(tables.WIKIART)
    names = ["class-descriptions-boxable.csv"]
    for split in config.splits:
        of_split = (f"{split}-", f"oidv6-{split}-")
        names += [name for name in tables.OPEN_IMAGES if name.startswith(of_split)]
        if config.image_labels:
            names.append(IMAGE_LABELS[split][0])
    if config.image_labels:
        names.append(ALL_CLASSES[0])
    return names


def _acquire_coco(config: AcquireCoco) -> dict[str, Any]:
    names = names_of(config)
    fetched = fetch_files(config, names)
    if config.unpack:
        for name in names:
            folder = "annotations" if "annotations" in name else name.removesuffix(".zip")
            unpack(config.path / name, config.path, folder)
    return {"files": fetched}


def _acquire_wikiart(config: AcquireWikiArt) -> dict[str, Any]:
    if not config.accept_terms:
        cure = "Read them, and say --set accept_terms=true."
        raise SourceError("wikiart", tables.WIKIART_TERMS.rstrip("."), cure)
    names = names_of(config)
    fetched = fetch_files(config, names)
    for name in names:
        unpack(config.path / name, config.path)
    return {"files": fetched}


def _acquire_openimages(config: AcquireOpenImages) -> dict[str, Any]:
    fetched = fetch_files(config, names_of(config))
    listed = open_images_list(config)
    with Web(manners_of(config)) as web:
        return {"files": fetched, "images": gather_images(config, web, listed)}


def _acquire_urls(config: AcquireUrls) -> dict[str, Any]:
    with Web(manners_of(config, config.honour)) as web:
        return {"images": gather_images(config, web, url_list(config), config.check_days)}


def _acquire_emoji(config: AcquireEmoji) -> dict[str, Any]:
    from flows.data.emoji_pictures import acquire_emoji

    def said(text: str) -> None:
        say("acquire", "emoji", text)

    return {"images": acquire_emoji(config.path, config.styles, config.pixels, said)}


STEPS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "coco": _acquire_coco,
    "openimages": _acquire_openimages,
    "wikiart": _acquire_wikiart,
    "emoji": _acquire_emoji,
    "urls": _acquire_urls,
}


def manners_of(config: Acquire, honour: Sequence[Any] = ()) -> Manners:
    """How hosts are asked. What publishers offer for this is not looked up in robots.txt: `honour`
    names the signs that are heard, for addresses that somebody listed.
    """
    return Manners(
        contact=config.contact,
        requests_per_second=config.requests_per_second,
        connections_per_host=config.connections_per_host,
        honour=tuple(honour),
        allow_hosts=frozenset(host.lower() for host in config.allow_hosts),
        timeout_seconds=config.timeout_seconds,
    )


def manners_for_files(config: Acquire) -> Manners:
    """The same for large files, whose pieces are all of one host."""
    return replace(manners_of(config), connections_per_host=config.connections)


def files_of(config: Any, names: Sequence[str]) -> list[RemoteFile]:
    """The files of a source: as published, or as `files` says. Raises SourceError for a name that
    it does not have.
    """
    unknown = sorted(set(config.files) - set(NAMES[config.source]))
    if unknown:
        what = f"{', '.join(unknown)} is no file of {config.source}"
        raise SourceError("files", what, f"Its files: {', '.join(NAMES[config.source])}.")
    found = []
    for name in names:
        given = config.files.get(name)
        changes = given.model_dump(exclude_unset=True) if given else {}
        file = PublishedFile(**{**NAMES[config.source][name], **changes})
        found.append(RemoteFile(file.address, name, file.bytes, file.sha256))
    return found


def survey(config: Any, web: Web, names: Sequence[str]) -> list[tuple[RemoteFile, Remote]]:
    """What the servers say of the files. Raises SourceError for one that cannot be had."""
    found = []
    for file in files_of(config, names):
        try:
            found.append((file, ask(web, file)))
        except NotFetched as error:
            raise _unreachable(file, error) from error
    return found


@stage_task(name="fetch-files", retries=NETWORK_RETRIES)
def fetch_files(config: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    """Bring files into the folder: a record of each. Room for all is looked for first."""
    with Web(manners_for_files(config)) as web:
        asked = survey(config, web, names)
        missing = {}
        for file, remote in asked:
            missing[file.name] = still_to_fetch(config.path, file, remote)
        total = sum(size or 0 for size in missing.values())
        check_space(config.path, total)
        if total:
            say(
                "acquire", config.source, f"{total:,} bytes of {len(asked)} files are to be fetched"
            )
        with bar(total, "acquire", "B") as shown:
            return [_fetched(config, web, file, remote, shown.update) for file, remote in asked]


def _fetched(
    config: Any, web: Web, file: RemoteFile, remote: Remote, progress: Callable[[int], Any]
) -> dict[str, Any]:
    """The record of one file that is there now."""
    began: list[int] = []

    def more(count: int) -> None:
        # The first count is what was there of an unfinished file: no part of what is missing.
        if began:
            progress(count)
        began.append(count)

    try:
        fetched: FetchedFile = fetch_file(web, config.path, file, remote, config.connections, more)
    except NotFetched as error:
        raise _unreachable(file, error) from error
    say("acquire", config.source, f"{file.name}: {fetched.status}, {fetched.bytes:,} bytes")
    record = asdict(fetched)
    return record | {"address": without_query(fetched.address)}


def _unreachable(file: RemoteFile, error: NotFetched) -> SourceError:
    what = f"{file.name} cannot be fetched: {error}"
    cure = (
        "What is there stays, and the same command goes on from it. Another address of the file: "
        f'--set files=\'{{"{file.name}": {{"address": "http..."}}}}\'.'
    )
    return SourceError(file.address, what, cure)


def rehearsed(config: AnyAcquire) -> tuple[str, dict[str, Any]]:
    """What would be fetched, in bytes and files, after asking the servers; nothing is written."""
    if isinstance(config, AcquireUrls):
        count = sum(1 for _ in url_list(config))
        return f"{count:,} addresses are listed; their bytes are not known", {"addresses": count}
    if isinstance(config, AcquireEmoji):
        what = "packages of npm, 18 MB for all four styles, and as many drawn again"
        return what, {"styles": config.styles}
    with Web(manners_for_files(config)) as web:
        asked = survey(config, web, names_of(config))
    lines, total = [], 0
    rows: list[dict[str, Any]] = []
    for file, remote in asked:
        missing = still_to_fetch(config.path, file, remote)
        total += missing or 0
        rows.append({"name": file.name, "bytes": remote.bytes, "to_fetch": missing})
        size = "an unknown number of" if remote.bytes is None else f"{remote.bytes:,}"
        rest = "all of it" if missing is None else f"{missing:,}"
        lines.append(f"{file.name}: {size} bytes, {rest} to be fetched")
    lines.append(f"{len(asked)} files, {total:,} bytes to be fetched into {config.path}")
    if isinstance(config, AcquireOpenImages):
        lines.append("and the images, some 0.3 MB each: how many, these lists tell")
    return "\n".join(lines), {"files": rows, "bytes": total}
