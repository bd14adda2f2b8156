"""Images of a list: each an image, or a row with its reason; only failures are asked again."""

import json
import time

import pyarrow.parquet as pq
import pytest
from serving import png, serving

from storage.errors import CannotWrite, SourceError
from storage.sources import SOURCES
from storage.web.client import Manners, Web
from storage.web.collection import Collection, ListedImage, id_of
from storage.web.gather import asked_before, gather

RED, BLUE = png((200, 0, 0)), png((0, 0, 200))


@pytest.fixture
def site():
    with serving() as site:
        yield site


def run(folder, site, listed, check=False, most_bytes=100_000, **manners):
    """Fetch a list; what became of each address by its path."""
    asked = Manners(
        **{"requests_per_second": 10_000.0, "connections_per_host": 8, "timeout_seconds": 3.0,
           "longest_wait_seconds": 0.2, "allow_hosts": frozenset([site.host])} | manners
    )  # fmt: skip
    with Collection(folder) as collection, Web(asked) as web:
        counts = collection.load(listed)
        gather(collection, web, most_bytes, 8, asked_before(0.0) + 1 if check else 0.0)
        collection.publish()
        table = pq.read_table(folder / "fetched.parquet").to_pylist()
        return counts, {row["url"].partition("//")[2].partition("/")[2]: row for row in table}


def image(site, path, body=RED, **facts):
    return ListedImage(site.add(path, body, type="image/png", **facts), (f"caption of {path}",))


def test_every_address_is_an_image_or_a_row_with_its_reason(site, tmp_path):
    listed = [
        image(site, "/good"),
        ListedImage(site.url("/dead")),
        image(site, "/page", b"<html>hello</html>"),
        ListedImage(site.add("/typed", b"<html>", type="text/html")),
        image(site, "/large", b"\x89PNG\r\n\x1a\n" + b"x" * 200_000),
        image(site, "/no", headers={"X-Robots-Tag": "noai"}),
        image(site, "/empty", b""),
        ListedImage("ftp://example.org/a"),
        ListedImage("http://10.0.0.1/a"),
        ListedImage("no address"),
        image(site, "/untold", RED),
    ]
    site.pages["/untold"].type = "application/octet-stream"
    counts, rows = run(tmp_path, site, listed)
    assert counts == {"rows": 11, "addresses": 11, "new": 11, "unlisted": 0}
    reasons = {path: (row["status"], row["reason"]) for path, row in rows.items()}
    assert reasons == {
        "good": ("kept", None),
        "untold": ("kept", None),
        "dead": ("failed", "status 404"),
        "page": ("refused", "no image"),
        "typed": ("refused", "no image"),
        "large": ("refused", "too many bytes"),
        "no": ("refused", "forbidden by its owner"),
        "empty": ("failed", "empty"),
        "a": ("refused", "a private address"),
        "": ("refused", "not an address"),
    }
    good = rows["good"]
    assert (tmp_path / good["file"]).read_bytes() == RED and good["bytes"] == len(RED)
    assert good["id"] == id_of(site.url("/good")) and good["etag"] and good["sha256"]
    assert sorted(path.suffix for path in (tmp_path / "images").rglob("*.*")) == [".png", ".png"]


def test_only_failures_and_new_addresses_are_asked_again(site, tmp_path):
    listed = [image(site, "/a"), ListedImage(site.url("/dead")), image(site, "/no", b"text")]
    run(tmp_path, site, listed)
    listed.append(image(site, "/new"))
    site.add("/dead", BLUE, type="image/png")
    before = dict(site.asked)
    counts, rows = run(tmp_path, site, listed)
    assert counts["new"] == 1 and rows["dead"]["status"] == rows["new"]["status"] == "kept"
    asked = {path: count - before.get(path, 0) for path, count in site.asked.items()}
    assert asked == {"/a": 0, "/dead": 1, "/no": 0, "/new": 1}


def test_asked_anew_only_what_changed_is_fetched_and_what_was_taken_away_is_gone(site, tmp_path):
    listed = [image(site, path) for path in ("/same", "/changed", "/gone", "/broken")]
    _, first = run(tmp_path, site, listed)
    stamps = {path: (tmp_path / row["file"]).stat().st_mtime_ns for path, row in first.items()}
    image(site, "/changed", BLUE)
    site.pages["/gone"].status = 410
    site.pages["/broken"].status = 500
    _, rows = run(tmp_path, site, listed, check=True)
    told = {path: (row["status"], row["reason"]) for path, row in rows.items()}
    assert told == {
        "same": ("kept", None),
        "changed": ("kept", None),
        "gone": ("withdrawn", "status 410"),
        "broken": ("kept", "not checked"),
    }
    assert not (tmp_path / first["gone"]["file"]).exists()
    assert (tmp_path / rows["changed"]["file"]).read_bytes() == BLUE
    for path in ("same", "broken"):
        assert (tmp_path / rows[path]["file"]).stat().st_mtime_ns == stamps[path]
    asked = [headers for path, headers in site.requests if path == "/same"]
    assert "If-None-Match" in asked[-1]


def test_what_was_refused_is_asked_again_under_other_settings(site, tmp_path):
    listed = [image(site, "/a", headers={"X-Robots-Tag": "noai"}), ListedImage("ftp://x/b")]
    run(tmp_path, site, listed)
    with Collection(tmp_path) as collection:
        collection.ask_under("one")
        assert collection.count_due(0.0) == 0
        collection.ask_under("one")
        assert collection.count_due(0.0) == 0
        collection.ask_under("another")
        assert collection.count_due(0.0) == 2
    _, rows = run(tmp_path, site, listed, honour=())
    assert rows["a"]["status"] == "kept" and rows["b"]["status"] == "refused"


@pytest.mark.parametrize(
    "page",
    [{"type": "text/html"}, {"status": 503}, {"headers": {"Content-Encoding": "gzip"}}],
)  # fmt: skip
def test_a_page_of_maintenance_empties_no_data_set(site, tmp_path, page):
    listed = [image(site, "/a")]
    _, first = run(tmp_path, site, listed)
    site.add("/a", b"<html>back soon</html>", **page)
    _, rows = run(tmp_path, site, listed, check=True)
    assert (rows["a"]["status"], rows["a"]["reason"]) == ("kept", "not checked")
    assert (tmp_path / first["a"]["file"]).exists()


def test_a_kept_image_whose_owner_says_no_now_is_withdrawn(site, tmp_path):
    listed = [image(site, "/a")]
    _, first = run(tmp_path, site, listed)
    image(site, "/a", BLUE, headers={"X-Robots-Tag": "noai"})
    _, rows = run(tmp_path, site, listed, check=True)
    assert rows["a"]["status"] == "withdrawn"
    assert not (tmp_path / first["a"]["file"]).exists()


def test_a_kept_image_that_somebody_deleted_is_fetched_again(site, tmp_path):
    listed = [image(site, "/a"), image(site, "/b")]
    _, first = run(tmp_path, site, listed)
    (tmp_path / first["a"]["file"]).unlink()
    with Collection(tmp_path) as collection:
        assert collection.forget_missing() == 1 and collection.count_due(0.0) == 1
    run(tmp_path, site, listed)
    assert (tmp_path / first["a"]["file"]).exists() and site.asked["/b"] == 1


def test_a_list_that_lacks_most_images_is_refused_unless_it_is_meant(site, tmp_path, monkeypatch):
    monkeypatch.setattr("storage.web.collection.MANY", 3)
    listed = [image(site, f"/{number}") for number in range(10)]
    run(tmp_path, site, listed)
    with Collection(tmp_path) as collection:
        with pytest.raises(SourceError, match="6 of the 10 images that are there are listed no"):
            collection.load(listed[:4])
        assert collection.load(listed[:5])["unlisted"] == 5
        assert collection.load(listed[:1], remove_many=True)["unlisted"] == 4
    assert len(list((tmp_path / "images").rglob("*.png"))) == 1


def test_an_odd_answer_costs_its_own_row_and_no_other(site, tmp_path):
    listed = [image(site, "/a"), image(site, "/b", etag='"fil-é"')]
    listed += [ListedImage("http://xn--0.pt/a.jpg"), ListedImage(site.url("/c"))]
    site.add("/c", status=302, headers={"Location": "http://xn--0.pt/"})
    _, rows = run(tmp_path, site, listed)
    assert [rows[path]["status"] for path in ("a", "b", "c")] == ["kept", "kept", "refused"]
    _, rows = run(tmp_path, site, listed, check=True)
    assert rows["b"]["status"] == "kept"


def test_a_slow_host_does_not_hold_the_others(site, tmp_path):
    with serving() as slow:
        listed = []
        for number in range(12):
            listed.append(image(slow, f"/{number}", seconds_between=0.3))
            listed.append(image(site, f"/{number}"))
        hosts = frozenset([site.host, slow.host])
        seen = []
        manners = Manners(requests_per_second=1000.0, connections_per_host=2, allow_hosts=hosts)
        with Collection(tmp_path) as collection, Web(manners) as web:
            collection.load(listed)
            gather(collection, web, 10_000, 4, progress=seen.append)
            urls = {each.id: each.url for each in listed_by_id(listed)}
        last_fast = max(n for n, one in enumerate(seen) if site.host in urls[one.id])
        assert last_fast < 20, "all fast ones are there before the slow ones"


def listed_by_id(listed):
    from types import SimpleNamespace

    return [SimpleNamespace(id=id_of(each.url), url=each.url) for each in listed]


def test_an_address_that_is_listed_no_more_is_gone_with_its_image(site, tmp_path):
    listed = [image(site, "/a"), image(site, "/b")]
    _, first = run(tmp_path, site, listed)
    counts, rows = run(tmp_path, site, listed[:1])
    assert counts["unlisted"] == 1 and set(rows) == {"a"}
    assert not (tmp_path / first["b"]["file"]).exists()
    assert (tmp_path / first["a"]["file"]).exists()


def test_an_address_in_several_rows_has_the_captions_of_all(site, tmp_path):
    url = image(site, "/a").url
    listed = [ListedImage(url, ("one",), "CC0"), ListedImage(url, ("two", "one"), "CC BY", "Ada")]
    counts, rows = run(tmp_path, site, listed)
    assert counts == {"rows": 2, "addresses": 1, "new": 1, "unlisted": 0}
    assert json.loads(rows["a"]["captions"]) == ["one", "two"]
    assert rows["a"]["licence"] == "CC0" and rows["a"]["author"] == "Ada"
    _, rows = run(tmp_path, site, [ListedImage(url, ("three",), "CC BY")])
    assert json.loads(rows["a"]["captions"]) == ["three"] and rows["a"]["licence"] == "CC BY"


def test_an_interrupt_loses_what_is_on_its_way_and_nothing_else(site, tmp_path):
    listed = [image(site, f"/{number}") for number in range(40)]
    manners = Manners(requests_per_second=10_000.0, allow_hosts=frozenset([site.host]))
    seen = []

    def stop(outcome):
        seen.append(outcome)
        if len(seen) == 15:
            raise KeyboardInterrupt

    with Web(manners) as web, Collection(tmp_path) as collection:
        collection.load(listed)
        with pytest.raises(KeyboardInterrupt):
            gather(collection, web, 10_000, 2, progress=stop)
    with Web(manners) as web, Collection(tmp_path) as collection:
        collection.load(listed)
        assert collection.count_due(0.0) == 25
        gather(collection, web, 10_000, 2)
        assert collection.counts() == {"kept": 40}
    assert max(site.asked.values()) <= 2


def test_a_disk_without_room_ends_it_with_the_cure_and_what_is_there_stays(
    site, tmp_path, monkeypatch
):
    listed = [image(site, f"/{number}", png((number, 0, 0))) for number in range(40)]
    manners = Manners(requests_per_second=10_000.0, allow_hosts=frozenset([site.host]))
    free = [250_000]
    monkeypatch.setattr("storage.web.gather.SPACE_SECONDS", 0.0)
    monkeypatch.setattr("storage.web.gather.free_bytes", lambda folder: free[0])

    def fill(outcome):
        assert outcome.status == "kept"
        free[0] -= 10_000

    cure = "Free some space, 0.10 GB at least, and give the same command: it goes on from there"
    with Web(manners) as web, Collection(tmp_path) as collection:
        collection.load(listed)
        free[0] += 100_000_000
        with pytest.raises(CannotWrite, match=f"{tmp_path}: its disk is almost full.*{cure}"):
            gather(collection, web, 100_000_000, 2, progress=fill)
        left = 40 - collection.counts()["kept"]
    # One of two that are on their way may pass the look that the other is about to change.
    assert 12 <= left <= 15 and len(site.asked) <= 42 - left
    free[0] = 10**9
    with Web(manners) as web, Collection(tmp_path) as collection:
        collection.load(listed)
        assert collection.forget_missing() == 0 and collection.count_due(0.0) == left
        gather(collection, web, 100_000_000, 2, progress=fill)
        assert collection.counts() == {"kept": 40}
        free[0] = 0
        gather(collection, web, 100_000_000, 2)  # nothing is to be fetched
    assert sum(site.asked.values()) <= 42 and len(list(tmp_path.rglob("*.png"))) == 40


def test_the_reader_gives_images_and_rows_with_reasons(site, tmp_path):
    listed = [image(site, "/a"), ListedImage(site.url("/dead"), licence="CC0", author="Ada")]
    _, rows = run(tmp_path, site, listed)
    listing = SOURCES["urls"](tmp_path)
    by_id = {each.source_id: each for each in listing.images}
    good, dead = by_id[rows["a"]["id"]], by_id[rows["dead"]["id"]]
    assert good.path == tmp_path / rows["a"]["file"] and good.captions == ("caption of /a",)
    assert good.source_url == site.url("/a")
    assert dead.path is None and dead.reason == "failed: status 404 (it is gone)"
    assert (dead.licence, dead.author) == ("CC0", "Ada") and listing.notes == {"failed": 1}
    (tmp_path / rows["a"]["file"]).unlink()
    gone = {each.source_id: each for each in SOURCES["urls"](tmp_path).images}[good.source_id]
    assert gone.is_absent
    with pytest.raises(SourceError, match="fetched.parquet: this file is missing. Fetch the list"):
        (tmp_path / "fetched.parquet").unlink()
        SOURCES["urls"](tmp_path)


def test_records_that_cannot_be_read_are_told_with_the_cure(tmp_path):
    (tmp_path / ".fetched").mkdir()
    (tmp_path / ".fetched" / "list.sqlite").write_bytes(b"no database, but some text" * 100)
    with pytest.raises(SourceError, match="list.sqlite: cannot be read: .* Remove .*list.sqlite"):
        Collection(tmp_path)


def test_a_hundred_thousand_addresses_take_little_memory_and_time(tmp_path):
    import tracemalloc

    began = time.monotonic()
    with Collection(tmp_path) as collection:
        tracemalloc.start()
        listed = (ListedImage(f"http://a.org/{number}", ("a",)) for number in range(100_000))
        assert collection.load(listed)["addresses"] == 100_000
        assert sum(1 for _ in collection.due(0.0)) == 100_000
        collection.publish()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < 20_000_000 and time.monotonic() - began < 60
