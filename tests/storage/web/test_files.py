"""Large files: in pieces, gone on with, checked, and whole or absent."""

import hashlib
import json
import threading
import time
from dataclasses import asdict

import pytest
from serving import serving

from storage.errors import CannotWrite, SourceError
from storage.web import files, pace
from storage.web.client import Manners, Web
from storage.web.files import RemoteFile, ask, check_space, fetch_file, known, still_to_fetch
from storage.web.outcomes import Failed

BODY = bytes(hashlib.sha256(str(number).encode()).digest()[0] for number in range(50_000))


@pytest.fixture
def site():
    with serving() as site:
        yield site


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(files, "PIECE_BYTES", 8_000)
    monkeypatch.setattr(files, "SAVED_EVERY_BYTES", 2_000)


@pytest.fixture
def web(site):
    manners = Manners(
        requests_per_second=1000.0, connections_per_host=4, allow_hosts=frozenset([site.host]),
        longest_wait_seconds=0.1, timeout_seconds=5.0,
    )  # fmt: skip
    with Web(manners) as web:
        yield web


def fetched(web, folder, file, **more):
    return fetch_file(web, folder, file, ask(web, file), **more)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def leftovers(folder):
    return sorted(path.name for path in (folder / ".fetched").iterdir())


def test_a_file_is_fetched_in_pieces_and_recorded(site, web, tmp_path):
    file = RemoteFile(site.add("/f.zip", BODY), "f.zip", len(BODY), sha256(BODY))
    seen = []
    record = fetched(web, tmp_path, file, progress=seen.append)
    assert (tmp_path / "f.zip").read_bytes() == BODY
    assert record.sha256 == sha256(BODY) and record.status == "new" and sum(seen) == len(BODY)
    assert site.asked["/f.zip"] == 1 + 7, "its first byte, and seven pieces"
    assert leftovers(tmp_path) == ["f.zip.json"]
    assert known(tmp_path, file).etag == record.etag and record.fetched_at


def test_what_is_there_unchanged_is_not_fetched_again(site, web, tmp_path):
    file = RemoteFile(site.add("/f.zip", BODY), "f.zip")
    fetched(web, tmp_path, file)
    before = site.asked["/f.zip"]
    assert still_to_fetch(tmp_path, file, ask(web, file)) == 0
    assert fetched(web, tmp_path, file).status == "unchanged"
    assert site.asked["/f.zip"] == before + 2
    site.add("/f.zip", BODY[::-1])
    assert still_to_fetch(tmp_path, file, ask(web, file)) == len(BODY)
    assert fetched(web, tmp_path, file).status == "new"
    assert (tmp_path / "f.zip").read_bytes() == BODY[::-1]


def test_a_file_that_was_cut_or_replaced_by_hand_is_fetched_again(site, web, tmp_path):
    file = RemoteFile(site.add("/f.zip", BODY), "f.zip")
    fetched(web, tmp_path, file)
    (tmp_path / "f.zip").write_bytes(BODY[:100])
    assert fetched(web, tmp_path, file).status == "new"
    assert (tmp_path / "f.zip").read_bytes() == BODY


def test_cuts_are_gone_on_from_where_they_were(site, web, tmp_path):
    url = site.add("/f.zip", BODY, cut_after=3_000, cuts=20)
    file = RemoteFile(url, "f.zip")
    fetched(web, tmp_path, file)
    assert (tmp_path / "f.zip").read_bytes() == BODY
    ranges = [headers.get("Range") for _, headers in site.requests]
    assert any(asked and asked.startswith("bytes=3000-") for asked in ranges)


def test_an_interrupted_file_is_gone_on_with_by_the_next_call(site, web, tmp_path):
    file = RemoteFile(site.add("/f.zip", BODY), "f.zip")
    count = 0

    def stop(more):
        nonlocal count
        count += more
        if count > 25_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetched(web, tmp_path, file, connections=1, progress=stop)
    assert not (tmp_path / "f.zip").exists()
    state = json.loads((tmp_path / ".fetched" / "f.zip.part.json").read_text())
    there = sum(state["pieces"].values())
    assert there >= 24_000
    assert still_to_fetch(tmp_path, file, ask(web, file)) == len(BODY) - there
    before = site.asked["/f.zip"]
    seen = []
    fetched(web, tmp_path, file, progress=seen.append)
    assert (tmp_path / "f.zip").read_bytes() == BODY and seen[0] == there
    assert site.asked["/f.zip"] - before <= 2 + 4, "only pieces that were missing"


def test_a_slow_file_is_noted_by_the_time_too(site, web, tmp_path, monkeypatch):
    """What a killed process cannot note any more is a few seconds' worth."""
    monkeypatch.setattr(files, "SAVED_EVERY_BYTES", 10**9)
    monkeypatch.setattr(files, "SAVED_EVERY_SECONDS", 0.05)
    file = RemoteFile(site.add("/f.zip", BODY[:8_000], seconds_between=0.03), "f.zip")
    noted = []
    state = tmp_path / ".fetched" / "f.zip.part.json"
    fetched(web, tmp_path, file, progress=lambda more: noted.append(state.exists()))
    assert any(noted), "while it is on its way"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_body_that_trickles_without_end_is_given_up_and_gone_on_with_later(
    site, tmp_path, monkeypatch, ranges
):
    """No single wait is long, so that no timeout of a read would ever end it."""
    monkeypatch.setattr(pace, "SLOWEST_BYTES_PER_SECOND", 10**6)
    monkeypatch.setattr(files, "PIECE_BYTES", len(BODY))
    address = site.add("/f.zip", BODY, seconds_between=0.1, ranges=ranges)
    file = RemoteFile(address, "f.zip")
    manners = Manners(
        requests_per_second=1000.0, tries=2, allow_hosts=frozenset([site.host]),
        timeout_seconds=0.5, longest_wait_seconds=0.1,
    )  # fmt: skip
    began = time.monotonic()
    with Web(manners) as web, pytest.raises(Failed, match=r"too slow: [0-9,]+ bytes in \d+ sec"):
        fetched(web, tmp_path, file, connections=1)
    assert time.monotonic() - began < 10 and not (tmp_path / "f.zip").exists()
    site.add("/f.zip", BODY, ranges=ranges)
    monkeypatch.setattr(pace, "SLOWEST_BYTES_PER_SECOND", 1)
    with Web(manners) as web:
        fetched(web, tmp_path, file)
    assert (tmp_path / "f.zip").read_bytes() == BODY


def test_a_file_that_changed_meanwhile_is_begun_anew(site, web, tmp_path):
    file = RemoteFile(site.add("/f.zip", BODY), "f.zip")

    def stop(more):
        if more > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetched(web, tmp_path, file, connections=1, progress=stop)
    site.add("/f.zip", BODY[::-1])
    assert still_to_fetch(tmp_path, file, ask(web, file)) == len(BODY)
    fetched(web, tmp_path, file)
    assert (tmp_path / "f.zip").read_bytes() == BODY[::-1]


def test_a_file_that_changes_in_the_middle_is_refused_and_never_mixed(site, web, tmp_path):
    file = RemoteFile(site.add("/f.zip", BODY), "f.zip")
    done = threading.Event()

    def change(more):
        if more > 0 and not done.is_set():
            done.set()
            site.add("/f.zip", BODY[::-1])

    with pytest.raises(SourceError, match="changed while it was fetched. Ask again"):
        fetched(web, tmp_path, file, connections=1, progress=change)
    assert not (tmp_path / "f.zip").exists() and not (tmp_path / ".fetched/f.zip.part").exists()
    fetched(web, tmp_path, file)
    assert (tmp_path / "f.zip").read_bytes() == BODY[::-1]


def test_a_file_that_changed_under_many_hands_is_never_published_from_what_was_noted(
    site, web, tmp_path
):
    """The others note how far they are after one has seen that it is another file."""
    file = RemoteFile(site.add("/f.zip", BODY, seconds_between=0.01), "f.zip")
    remote = ask(web, file)
    done = threading.Event()

    def change(more):
        if more > 0 and not done.is_set():
            done.set()
            site.add("/f.zip", BODY[::-1], seconds_between=0.01)

    with pytest.raises(SourceError, match="changed while"):
        fetch_file(web, tmp_path, file, remote, connections=4, progress=change)
    assert leftovers(tmp_path) == []
    site.add("/f.zip", BODY)
    (tmp_path / ".fetched" / "f.zip.part").unlink(missing_ok=True)
    fetched(web, tmp_path, file)
    assert (tmp_path / "f.zip").read_bytes() == BODY


def test_a_part_that_somebody_deleted_is_begun_anew(site, web, tmp_path):
    file = RemoteFile(site.add("/f.zip", BODY), "f.zip")

    def stop(more):
        if more > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetched(web, tmp_path, file, connections=1, progress=stop)
    (tmp_path / ".fetched" / "f.zip.part").unlink()
    site.pages["/f.zip"].status = 503
    with pytest.raises(Failed):
        fetch_file(web, tmp_path, file, RemoteFacts(BODY, site.pages["/f.zip"]))
    site.pages["/f.zip"].status = 200
    fetched(web, tmp_path, file)
    assert (tmp_path / "f.zip").read_bytes() == BODY


def RemoteFacts(body, page):
    return files.Remote(len(body), f'"{sha256(body)[:12]}"', None, True)


def test_an_endless_body_does_not_fill_the_disk(site, web, tmp_path, monkeypatch):
    url = site.add("/f.csv", BODY, claimed=-1, ranges=False)
    monkeypatch.setattr(files, "free_bytes", lambda folder: 10_000)
    with pytest.raises(Failed, match="too many bytes"):
        fetched(web, tmp_path, RemoteFile(url, "f.csv"))
    assert not (tmp_path / "f.csv").exists()


def test_a_file_that_is_there_and_not_as_published_is_fetched_again(site, web, tmp_path):
    url = site.add("/f.zip", BODY)
    fetched(web, tmp_path, RemoteFile(url, "f.zip"))
    with pytest.raises(SourceError, match="its sha256 is"):
        fetched(web, tmp_path, RemoteFile(url, "f.zip", len(BODY), "0" * 64))


def test_what_is_not_as_published_is_refused(site, web, tmp_path):
    url = site.add("/f.zip", BODY)
    with pytest.raises(SourceError, match="has 50,000 bytes there, 49,999 are published"):
        fetched(web, tmp_path, RemoteFile(url, "f.zip", len(BODY) - 1))
    with pytest.raises(SourceError, match="its sha256 is .* is published. It was altered"):
        fetched(web, tmp_path, RemoteFile(url, "f.zip", len(BODY), "0" * 64))
    assert not (tmp_path / "f.zip").exists() and leftovers(tmp_path) == []


def test_a_server_without_ranges_or_etags_gives_it_in_one_piece(site, web, tmp_path):
    url = site.add("/f.csv", BODY, ranges=False, etag=None)
    file = RemoteFile(url, "f.csv")
    assert not ask(web, file).in_pieces
    fetched(web, tmp_path, file)
    assert (tmp_path / "f.csv").read_bytes() == BODY
    site.add("/f.csv", BODY, ranges=False, etag=None, cut_after=1000, cuts=99)
    (tmp_path / "f.csv").unlink()
    with pytest.raises(Failed, match="cut short"):
        fetched(web, tmp_path, file)
    assert not (tmp_path / "f.csv").exists()


def test_a_server_that_cuts_every_answer_at_once_is_given_up(site, web, tmp_path):
    url = site.add("/f.zip", BODY)
    file = RemoteFile(url, "f.zip")
    remote = ask(web, file)
    site.pages["/f.zip"].cut_after, site.pages["/f.zip"].cuts = 0, 999
    with pytest.raises(Failed, match="cut short"):
        fetch_file(web, tmp_path, file, remote)


def test_a_full_disk_is_told_before_anything_is_fetched(tmp_path):
    with pytest.raises(CannotWrite, match="1,000,000.0 GB are to be fetched, and .* GB are free"):
        check_space(tmp_path / "not there yet", 10**15)
    check_space(tmp_path, 10)


def test_a_disk_that_fills_up_in_the_middle_is_told_and_gone_on_from(
    site, web, tmp_path, monkeypatch
):
    import errno
    import os

    file = RemoteFile(site.add("/f.zip", BODY), "f.zip")
    real, left = os.pwrite, [20_000]

    def full(descriptor, data, at):
        left[0] -= len(data)
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, at)

    monkeypatch.setattr(files.os, "pwrite", full)
    with pytest.raises(CannotWrite, match="No space left on device. Free some space and run the"):
        fetched(web, tmp_path, file, connections=1)
    left[0] = 10**9
    before = still_to_fetch(tmp_path, file, ask(web, file))
    assert 0 < before < len(BODY)
    assert asdict(fetched(web, tmp_path, file))["sha256"] == sha256(BODY)
