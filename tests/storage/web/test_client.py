"""Asking hosts: redirects, waiting, limits."""

import gzip
import time
from dataclasses import replace

import pytest
from serving import png, serving

from storage.web.client import Manners, Web
from storage.web.outcomes import Failed, Refused


@pytest.fixture
def site():
    with serving() as site:
        yield site


def web_for(site, **more):
    fast = {"requests_per_second": 1000.0, "longest_wait_seconds": 3.0, "timeout_seconds": 5.0}
    return Web(Manners(**fast | {"allow_hosts": frozenset([site.host])} | more))


def body(web, url, most=10_000):
    with web.answer(url) as response:
        return web.read(response, most)


def test_an_answer_is_read(site):
    url = site.add("/a", b"hello")
    with web_for(site, contact="me@example.org") as web:
        assert body(web, url) == b"hello"
    asked = site.requests[-1][1]
    assert asked["User-Agent"] == "rdm/0.1 (+me@example.org)" and asked["Host"] == site.host
    assert asked["Accept-Encoding"] == "identity"


def test_a_private_host_that_nobody_vouches_for_is_never_asked(site):
    url = site.add("/a", b"hello")
    with web_for(site, allow_hosts=frozenset()) as web, pytest.raises(Refused, match="private"):
        body(web, url)
    assert not site.requests


def test_a_redirect_is_followed_and_checked_as_the_address_was(site):
    site.add("/b", b"there")
    url = site.add("/a", status=302, headers={"Location": "/b"})
    inside = site.add("/in", status=301, headers={"Location": "http://169.254.169.254/secret"})
    other = site.add("/other", status=307, headers={"Location": "file:///etc/passwd"})
    circle = site.add("/circle", status=302, headers={"Location": "/circle"})
    nowhere = site.add("/nowhere", status=302)
    with web_for(site) as web:
        assert body(web, url) == b"there"
        with pytest.raises(Refused, match="a private address"):
            body(web, inside)
        with pytest.raises(Refused, match="another scheme"):
            body(web, other)
        with pytest.raises(Failed, match="redirected too often"):
            body(web, circle)
        with pytest.raises(Failed, match="redirects nowhere"):
            body(web, nowhere)


def test_the_number_that_was_checked_is_the_one_that_is_connected_to(site, monkeypatch):
    """A name that is public when it is first looked at and this machine a moment later."""
    answers = iter([["8.8.8.8"], ["127.0.0.1"], ["127.0.0.1"]])
    with web_for(site, allow_hosts=frozenset(), honour=(), tries=2, timeout_seconds=0.3) as web:
        web._resolve = lambda *_: next(answers)
        monkeypatch.setattr("storage.web.client.CONNECT_SECONDS", 0.3)
        port = site.host.partition(":")[2]
        with pytest.raises((Refused, Failed)):
            body(web, f"http://rebinds.invalid:{port}/a")
    assert not site.requests


def test_a_host_whose_first_number_is_dead_is_asked_at_the_next(site):
    port = site.host.partition(":")[2]
    site.add("/a", b"hello")
    manners = Manners(requests_per_second=1000.0, allow_hosts=frozenset(["two.invalid"]))
    with Web(manners, lambda *_: ["127.0.0.2", "127.0.0.1"]) as web:
        assert body(web, f"http://two.invalid:{port}/a") == b"hello"


def test_no_cookie_is_kept(site):
    url = site.add("/a", b"1", headers={"Set-Cookie": "id=42; Path=/"})
    with web_for(site) as web:
        assert body(web, url) == body(web, url) == b"1"
    assert all("Cookie" not in headers for _, headers in site.requests)


def test_hosts_that_were_asked_long_ago_are_forgotten(monkeypatch):
    from storage.web import client

    monkeypatch.setattr(client, "MOST_HOSTS", 10)
    with Web(Manners()) as web:
        for number in range(50):
            web._host_of(client.checked(f"http://{number}.org/"))
        assert len(web._hosts) <= 11 and "http://49.org:80" in web._hosts


@pytest.mark.parametrize(
    "after", ["\xb2", "Mon, 01 Jan 2024 00:00:00 +99999999999999999999", "soon"]
)
def test_a_wait_that_nobody_understands_is_a_short_one(site, after):
    url = site.add("/a", b"hello", first=(503, {"Retry-After": after}))
    with web_for(site) as web:
        assert body(web, url) == b"hello"


def test_a_host_that_asks_for_quiet_is_left_alone(site):
    url = site.add("/a", b"hello", first=(429, {"Retry-After": "3600"}), firsts=99)
    other = site.add("/b", b"hello")
    with web_for(site) as web:
        with pytest.raises(Failed, match="status 429"):
            body(web, url)
        with pytest.raises(Failed, match="asked to wait"):
            body(web, other)
    assert site.asked == {"/a": 1}


def test_a_packed_robots_txt_is_not_unpacked(site, monkeypatch):
    monkeypatch.setattr("storage.web.addresses.is_public", lambda number: True)
    packed = gzip.compress(b"\0" * 50_000_000)
    site.add("/robots.txt", packed, headers={"Content-Encoding": "gzip"})
    site.add("/a", b"1")
    with web_for(site, allow_hosts=frozenset()) as web, pytest.raises(Refused, match="packed"):
        body(web, site.url("/a"))


def test_a_name_is_resolved_when_it_is_connected_to(site):
    port = site.host.partition(":")[2]
    site.add("/a", b"hello")
    asked = []

    def resolve(host, port):
        asked.append(host)
        return ["127.0.0.1"]

    fast = {"requests_per_second": 1000.0, "timeout_seconds": 2.0}
    with Web(Manners(**fast, allow_hosts=frozenset(["vouched.invalid"])), resolve) as web:
        assert body(web, f"http://vouched.invalid:{port}/a") == b"hello"
        assert body(web, f"http://vouched.invalid:{port}/a") == b"hello"
    assert asked == ["vouched.invalid"], "the connection is used again"
    assert site.requests[-1][1]["Host"] == f"vouched.invalid:{port}"


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_to_wait_is_waited_for(site, status):
    url = site.add("/a", b"hello", first=(status, {"Retry-After": "1"}))
    began = time.monotonic()
    with web_for(site) as web:
        assert body(web, url) == b"hello"
    assert time.monotonic() - began >= 1
    far = site.add("/far", b"hello", first=(status, {"Retry-After": "3600"}))
    with (
        web_for(site) as web,
        pytest.raises(Failed, match=f"status {status}: it asks to wait 3600"),
    ):
        body(web, far)
    assert site.asked["/far"] == 1


def test_a_server_that_stays_broken_is_asked_three_times(site):
    url = site.add("/a", first=(500, {}), firsts=99)
    with web_for(site, longest_wait_seconds=10) as web, pytest.raises(Failed, match="status 500"):
        body(web, url)
    assert site.asked["/a"] == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_plain_no_is_not_asked_again(site, status):
    url = site.add("/a", status=status)
    with web_for(site) as web, pytest.raises(Failed, match=f"status {status}"):
        body(web, url)
    assert site.asked["/a"] == 1


def test_no_more_than_the_limit_is_read_whatever_is_claimed(site):
    with web_for(site) as web:
        with pytest.raises(Refused, match="too many bytes: 5,000 of at most 1,000"):
            body(web, site.add("/a", b"x" * 5000), 1000)
        with pytest.raises(Refused, match="too many bytes: more than 1,000"):
            body(web, site.add("/endless", b"x" * 50_000, claimed=-1, ranges=False), 1000)
        bomb = gzip.compress(b"\0" * 10_000_000)
        packed = site.add("/bomb", bomb, headers={"Content-Encoding": "gzip"})
        with pytest.raises(Refused, match="packed: the body is gzip"):
            body(web, packed, 100_000)


def test_a_body_that_is_cut_or_too_slow_fails(site):
    with web_for(site, timeout_seconds=1.0) as web:
        with pytest.raises(Failed, match="cut short"):
            body(web, site.add("/cut", b"x" * 5000, cut_after=2000, cuts=99))
        with pytest.raises(Failed, match="cut short"):
            body(web, site.add("/less", b"x" * 5000, claimed=6000))
        began = time.monotonic()
        with pytest.raises(Failed, match="too slow"):
            body(web, site.add("/slow", b"x" * 9000, seconds_between=0.4))
        assert time.monotonic() - began < 4


def test_a_host_is_asked_no_faster_than_allowed_and_in_so_many_connections(site):
    from concurrent.futures import ThreadPoolExecutor

    for number in range(6):
        site.add(f"/{number}", png())
    limits = {"requests_per_second": 10.0, "connections_per_host": 2}
    with web_for(site, **limits) as web, ThreadPoolExecutor(6) as pool:
        began = time.monotonic()
        list(pool.map(lambda number: body(web, site.url(f"/{number}")), range(6)))
        assert time.monotonic() - began >= 0.5
    assert site.most_at_once <= 2


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_robots_txt_is_asked_once_and_obeyed(site, monkeypatch, mark):
    site.add("/robots.txt", mark + b"User-agent: *\nDisallow: /no\n")
    site.add("/yes", b"1")
    site.add("/no", b"1")
    port = site.host.partition(":")[2]
    # vouched for by its number only: its name is a stranger's, whose robots.txt counts
    manners = Manners(requests_per_second=1000.0, timeout_seconds=2.0)
    monkeypatch.setattr("storage.web.addresses.is_public", lambda number: True)
    with Web(manners, lambda *_: ["127.0.0.1"]) as web:
        assert body(web, f"http://public.invalid:{port}/yes") == b"1"
        with pytest.raises(Refused, match="forbidden by its owner: robots.txt"):
            body(web, f"http://public.invalid:{port}/no")
    assert site.asked == {"/robots.txt": 1, "/.well-known/tdmrep.json": 1, "/yes": 1}


def test_where_robots_txt_cannot_be_had_nothing_is_fetched(site, monkeypatch):
    monkeypatch.setattr("storage.web.addresses.is_public", lambda number: True)
    site.add("/robots.txt", status=503)
    site.add("/a", b"1")
    with web_for(site, allow_hosts=frozenset()) as web, pytest.raises(Failed, match="robots.txt"):
        body(web, site.url("/a"))
    assert "/a" not in site.asked


def test_an_answer_whose_headers_say_no_is_not_read(site, monkeypatch):
    monkeypatch.setattr("storage.web.addresses.is_public", lambda number: True)
    url = site.add("/a", b"1", headers={"X-Robots-Tag": "noai"})
    with web_for(site) as web:
        with pytest.raises(Refused, match="forbidden by its owner: X-Robots-Tag: noai"):
            body(web, url)
        anyhow = Web(replace(web.manners, honour=()))
        assert body(anyhow, url) == b"1"


def test_behind_a_proxy_a_name_that_is_unknown_here_is_looked_for_once(site, monkeypatch):
    looked = []

    def unknown(host, port):
        looked.append(host)
        raise OSError("no such name")

    url = "http://public.invalid/a"  # as a proxy is asked for it: in full
    site.add(url, b"by proxy")
    monkeypatch.setenv("http_proxy", site.url(""))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    manners = Manners(requests_per_second=1000.0, timeout_seconds=3.0, honour=())
    with Web(manners, unknown) as web:
        assert body(web, url) == body(web, url) == b"by proxy"
    assert looked == ["public.invalid"]


def test_a_host_that_does_not_answer_fails_in_words():
    manners = Manners(
        allow_hosts=frozenset(["127.0.0.1"]), longest_wait_seconds=0.01, requests_per_second=1000.0
    )
    with Web(manners) as web, pytest.raises(Failed, match="no connection"):
        body(web, "http://127.0.0.1:9/")
