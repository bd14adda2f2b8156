"""tdmrep.json: what a host reserves is asked once, and heard."""

import json
import time

import pyarrow.parquet as pq
import pytest
from serving import png, serving

from storage.web.client import RULES_BYTES, Manners, Web
from storage.web.collection import Collection, ListedImage
from storage.web.gather import gather
from storage.web.manners import fits
from storage.web.outcomes import Failed, Refused
from storage.web.reservations import Reservations

FILE = "/.well-known/tdmrep.json"


@pytest.fixture
def site(monkeypatch):
    """A site of a stranger, whom nobody vouches for."""
    monkeypatch.setattr("storage.web.addresses.is_public", lambda number: True)
    with serving() as site:
        yield site


def rules(*pairs):
    return json.dumps([{"location": where, "tdm-reservation": value} for where, value in pairs])


def web_for(**more):
    fast = {"requests_per_second": 1000.0, "longest_wait_seconds": 0.1, "timeout_seconds": 5.0}
    return Web(Manners(**fast | {"tries": 1} | more))


def body(web, url):
    with web.answer(url) as response:
        return web.read(response, 10_000)


@pytest.mark.parametrize(
    "text, path, pattern",
    [
        (rules(("/", 1)), "/a/b.jpg", "/"),
        (rules(("/", 0)), "/a/b.jpg", None),
        (rules(("/a/", 1)), "/a/b.jpg", "/a/"),
        (rules(("/a/", 1)), "/A/b.jpg", None),
        (rules(("/b/", 1)), "/a/b.jpg", None),
        (rules(("*", 1)), "/a/b.jpg", "*"),
        (rules(("/a/*.jpg", 0), ("/", 1)), "/a/b.jpg", None),
        (rules(("/", 1), ("/a/*.jpg", 0)), "/a/b.jpg", "/"),
        (rules(("/*.jpg$", 1)), "/a/b.jpg", "/*.jpg$"),
        (rules(("/*.jpg$", 1)), "/a/b.jpg?size=2", None),
        (rules(("/*?size=", 1)), "/a/b.jpg?size=2", "/*?size="),
        (rules(("/foo-%24", 1)), "/foo-$", "/foo-%24"),
        (rules(("/foo-$", 1)), "/foo-$", None),
        (rules(("/a$b", 1)), "/a$b", "/a%24b"),
        (rules(("/%61/%2f", 1)), "/a/%2F", "/a/%2F"),
        (rules(("/%61/%2f", 1)), "/a//", None),
        (rules(("/é", 1)), "/%C3%A9", "/%C3%A9"),
        (rules(("", 1), ("/\ud800", 1)), "/a", None),
        (rules(("/", "1")), "/a", "/"),
        (rules(("/", True), ("/", 1)), "/a", None),
        (rules(("/", 2), ("/", 1)), "/a", None),
        ('[{"location": "/"}, {"location": "/", "tdm-reservation": 1}]', "/a", None),
        ('[1, {"location": 1}, {}, {"location": "/", "tdm-reservation": 1}]', "/a", "/"),
        ('{"location": "/", "tdm-reservation": 1}', "/a", None),
        ("<html>", "/a", None),
        ("", "/a", None),
        ("[" * 100_000, "/a", None),
    ],
)
def test_the_first_rule_that_fits_counts(text, path, pattern):
    refused = f"tdmrep.json: tdm-reservation: 1 for {pattern}" if pattern else None
    assert Reservations.of(text).refusal(path) == refused


def test_a_pattern_of_many_stars_takes_no_time():
    began = time.monotonic()
    assert not fits("/" + "*a" * 2000 + "*b", "/" + "a" * 8000)
    assert fits("/*a*a*a$", "/aaa") and not fits("/*a*a*a*a$", "/aaa")
    assert time.monotonic() - began < 1


def test_what_is_reserved_is_refused_unless_the_answer_says_otherwise(site):
    site.add(FILE, rules(("/no/", 1)).encode())
    for path in ("/yes", "/no/a", "/no/b"):
        site.add(path, b"1")
    site.add("/no/but", b"1", headers={"TDM-Reservation": "0"})
    site.add("/also", b"1", headers={"TDM-Reservation": "1"})
    with web_for() as web:
        assert body(web, site.url("/yes")) == body(web, site.url("/no/but")) == b"1"
        for path in ("/no/a", "/no/b"):
            with pytest.raises(Refused, match="owner: tdmrep.json: tdm-reservation: 1 for /no/"):
                body(web, site.url(path))
        with pytest.raises(Refused, match="owner: tdm-reservation: 1"):
            body(web, site.url("/also"))
    assert site.asked[FILE] == 1


def test_it_is_a_row_with_its_reason_and_what_was_kept_before_is_withdrawn(site, tmp_path):
    listed = [ListedImage(site.add(f"/{name}.png", png(), type="image/png")) for name in "ab"]

    def rows(before=0.0):
        with Collection(tmp_path) as collection, web_for() as web:
            collection.load(listed)
            gather(collection, web, 10_000, asked_before=before)
            table = pq.read_table(collection.publish()).to_pylist()
        return {row["url"][-5:]: (row["status"], row["reason"], row["detail"]) for row in table}

    no = "forbidden by its owner", "tdmrep.json: tdm-reservation: 1 for /a"
    site.add(FILE, rules(("/a", 1)).encode())
    assert rows() == {"a.png": ("refused", *no), "b.png": ("kept", None, None)}
    site.add(FILE, rules(("/", 1)).encode())
    assert rows(time.time())["b.png"][0] == "withdrawn"
    assert not list(tmp_path.rglob("*.png"))


def test_it_is_asked_only_where_the_sign_is_heard_of_a_host_that_nobody_vouches_for(site):
    site.add(FILE, rules(("/", 1)).encode())
    url = site.add("/a", b"1")
    for asked in ({"honour": ("robots.txt",)}, {"allow_hosts": frozenset([site.host])}):
        with web_for(**asked) as web:
            assert body(web, url) == b"1"
    assert FILE not in site.asked
    with web_for(honour=("tdm-reservation",)) as web, pytest.raises(Refused, match="tdmrep.json"):
        body(web, url)
    assert site.asked["/robots.txt"] == 1, "only where a sign of it is heard"


@pytest.mark.parametrize(
    "page",
    [
        {"status": 404},
        {"status": 403},
        {"body": b"<html>not here</html>", "type": "text/html"},
        {"body": b" " * RULES_BYTES + rules(("/", 1)).encode()},
    ],
)
def test_a_file_that_is_none_reserves_nothing(site, page):
    site.add(FILE, **page)
    url = site.add("/a", b"1")
    with web_for() as web:
        assert body(web, url) == b"1"


@pytest.mark.parametrize("page", [{"status": 500}, {"status": 429}, {"claimed": 99}])
def test_where_it_cannot_be_had_nothing_is_fetched_this_time(site, page):
    site.add(FILE, b"[]", **page)
    url = site.add("/a", b"1")
    with web_for() as web, pytest.raises(Failed, match="tdmrep.json: (status|cut short)"):
        body(web, url)
    assert "/a" not in site.asked and site.asked[FILE] == 2


def test_it_may_be_elsewhere_and_what_leads_there_is_checked(site, monkeypatch):
    monkeypatch.undo()
    # x.org is connected to as one that is vouched for, and its signs are heard as a stranger's
    monkeypatch.setattr("storage.web.client.is_allowed", lambda host, *_: host != "x.org")
    site.add("/a", b"1")
    port = site.host.partition(":")[2]
    with serving() as other, serving() as inside:
        other.add("/rules", rules(("/", 1)).encode())
        manners = Manners(
            requests_per_second=1000.0, allow_hosts=frozenset([f"x.org:{port}", other.host])
        )
        for where, told in ((other, "tdm-reservation: 1 for /"), (inside, "a private address")):
            site.add(FILE, status=302, headers={"Location": where.url("/rules")})
            with (
                Web(manners, lambda *_: ["127.0.0.1"]) as web,
                pytest.raises(Refused, match=told),
            ):
                body(web, f"http://x.org:{port}/a")
        assert other.requests and not inside.requests


def test_an_address_whose_owner_reserves_it_is_not_followed_elsewhere(site):
    with serving() as other:
        site.add(FILE, rules(("/a", 1)).encode())
        there = other.add("/there", b"1")
        reserved = site.add("/a", status=302, headers={"Location": there})
        free = site.add("/b", status=302, headers={"Location": there})
        with web_for() as web:
            with pytest.raises(Refused, match="tdmrep.json: tdm-reservation: 1 for /a"):
                body(web, reserved)
            assert not other.requests
            assert body(web, free) == b"1"
            assert other.asked[FILE] == 1
