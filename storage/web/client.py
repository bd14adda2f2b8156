"""A client that asks politely: so many requests a second of a host, by the rules of its owner, of
no host inside this network, and again after a while where a server asks to wait.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TypeVar

import httpx

from storage.web.addresses import (
    Resolver,
    check_behind_proxy,
    checked,
    is_allowed,
    port_of,
    proxy_of,
    system_resolver,
)
from storage.web.answers import REDIRECTS, in_words, length_of, next_of, waiting
from storage.web.connections import ends_at, transport_to
from storage.web.hosts import Host
from storage.web.manners import SIGNS, Robots, Sign, header_refusal, reservation_of, user_agent
from storage.web.outcomes import Failed, Refused
from storage.web.reservations import PATH as RESERVATIONS_PATH
from storage.web.reservations import Reservations

MOST_REDIRECTS = 5
MOST_HOSTS = 2000
"""Hosts of which is kept what is known of them, those that are asked now aside."""
RULES_BYTES = 500 * 1024
"""The most of a robots.txt that is read (RFC 9309, section 2.5), and of a tdmrep.json."""
RULES_TRIES = 2
CONNECT_SECONDS = 10.0
FROM_ROBOTS: frozenset[Sign] = frozenset(("robots.txt", "Content-Signal", "Content-Usage"))
"""Signs that stand in robots.txt."""
FROM_TDMREP: frozenset[Sign] = frozenset(("tdm-reservation",))
"""Signs that stand in tdmrep.json."""
Rules = TypeVar("Rules", Robots, Reservations)
"""What a host says of its files, once read."""


@dataclass(frozen=True)
class Manners:
    """How hosts are asked."""

    contact: str | None = None
    """Where the owner of a server reaches whoever asks: part of the user agent."""
    requests_per_second: float = 2.0
    """Of one host, at most; its robots.txt may ask for less."""
    connections_per_host: int = 2
    honour: tuple[Sign, ...] = SIGNS
    """By which signs an owner's no is heard."""
    allow_hosts: frozenset[str] = frozenset()
    """Hosts ("host" or "host:port") that somebody vouches for: they may be inside this network."""
    tries: int = 3
    longest_wait_seconds: float = 120.0
    """A server that asks for more is asked the next time."""
    timeout_seconds: float = 60.0
    """For connecting and all headers of an answer, and for the rest of one that is read at once."""


class Web:
    """Asks hosts. It may be used by many threads at once."""

    def __init__(self, manners: Manners, resolve: Resolver = system_resolver) -> None:
        self.manners, self._resolve = manners, resolve
        self._hosts: OrderedDict[str, Host] = OrderedDict()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._clients: dict[str | None, httpx.Client] = {}
        """By the proxy that they ask; None asks the hosts themselves."""

    def close(self) -> None:
        """Let go of all connections."""
        self.stop()
        for client in self._clients.values():
            client.close()

    def stop(self) -> None:
        """Let nobody wait any longer: whoever does gets Failed."""
        self._stopped.set()

    def __enter__(self) -> "Web":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def answer(
        self, address: str, headers: Mapping[str, str] | None = None, method: str = "GET"
    ) -> Iterator[httpx.Response]:
        """The answer of an address, whose body is still to be read: 200, 206, 304 or 416.

        It follows redirects, each of which is checked as the address was, and waits where a server
        asks for that. Raises Refused, or Failed once it was asked often enough.
        """
        for attempt in range(1, self.manners.tries + 1):
            try:
                followed = self._followed(checked(address), dict(headers or {}), method)
                with followed as (response, reservations):
                    wait_seconds = waiting(response, attempt)
                    if wait_seconds is None:
                        self._check(response, reservations)
                        yield response
                        return
                    asked = "retry-after" in response.headers
                    if asked:
                        self._host_of(response.request.url).hold(wait_seconds)
            except httpx.HTTPError as error:
                if attempt == self.manners.tries:
                    raise Failed(*in_words(error)) from error
                self._sleep(min(2.0 ** (attempt - 1), self.manners.longest_wait_seconds))
                continue
            if attempt == self.manners.tries or wait_seconds > self.manners.longest_wait_seconds:
                told = f"it asks to wait {wait_seconds:.0f} s" if asked else "again and again"
                raise Failed(f"status {response.status_code}", told)
            if not asked:
                self._sleep(wait_seconds)
        raise AssertionError("the last try returns or raises")

    def read(
        self, response: httpx.Response, most_bytes: int, seconds: float | None = None
    ) -> bytes:
        """The whole body of an answer, at most `most_bytes`. Raises Refused where it is larger or
        packed, and Failed where it is cut short or takes too long.
        """
        length = length_of(response)
        if length is not None and length > most_bytes:
            raise Refused("too many bytes", f"{length:,} of at most {most_bytes:,}")
        data = self._beginning(response, most_bytes + 1, seconds)
        if len(data) > most_bytes:
            raise Refused("too many bytes", f"more than {most_bytes:,}")
        if length is not None and len(data) != length:
            raise Failed("cut short", f"{len(data):,} of {length:,} bytes")
        return data

    def _beginning(
        self, response: httpx.Response, count: int, seconds: float | None = None
    ) -> bytes:
        """The first `count` bytes of a body, or all, as they are sent."""
        packed = response.headers.get("content-encoding", "identity").lower()
        if packed not in ("", "identity"):
            raise Refused("packed", f"the body is {packed}, though it was asked for as it is")
        ends = time.monotonic() + (seconds or self.manners.timeout_seconds)
        data = bytearray()
        try:
            with ends_at(ends):
                for piece in response.iter_raw():
                    data += piece
                    if len(data) >= count:
                        break
                    if time.monotonic() > ends:
                        raise Failed("too slow", f"{len(data):,} bytes within the time")
        except httpx.HTTPError as error:
            raise Failed(*in_words(error)) from error
        return bytes(data[:count])

    def robots(self, url: httpx.URL) -> Robots:
        """What the host of an address says in its robots.txt, asked once. Raises Failed where it
        could not be had: nothing is then to be fetched from it (RFC 9309, section 2.3.1.4); and
        Refused where its host is not to be asked.
        """
        host = self._host_of(url)
        with host.rules_lock:
            if host.robots is None:
                host.robots = self._rules(url, b"/robots.txt", Robots.of)
        return _had(host.robots, "robots.txt")

    def reservations(self, url: httpx.URL) -> Reservations:
        """What the host of an address says in its tdmrep.json, asked once. Raises Failed and
        Refused as `robots` does: a server that is broken or does not answer may reserve everything.
        Whatever robots.txt says of it, it is there for those who ask.
        """
        host = self._host_of(url)
        with host.rules_lock:
            if host.reservations is None:
                host.reservations = self._rules(url, RESERVATIONS_PATH, Reservations.of)
        return _had(host.reservations, "tdmrep.json")

    def _rules(
        self, url: httpx.URL, path: bytes, read: Callable[[str], Rules]
    ) -> Rules | Refused | Failed:
        """A file of rules at a path of an address's host, or why there is none."""
        found: Rules | Refused | Failed = read("")
        for attempt in range(RULES_TRIES):
            try:
                found = read(self._rules_at(url.copy_with(raw_path=path)))
            except (Refused, Failed) as error:
                found = error
            except httpx.HTTPError as error:
                found = Failed(*in_words(error))
            if not isinstance(found, Failed) or self._stopped.is_set():
                break
            if attempt + 1 < RULES_TRIES:
                self._stopped.wait(min(1.0, self.manners.longest_wait_seconds))
        return found

    def _rules_at(self, where: httpx.URL) -> str:
        """The rules at an address, or where it leads; nothing where there are none. Raises Failed,
        Refused and httpx's.
        """
        for _ in range(MOST_REDIRECTS + 1):
            with self._asked(where, {}, "GET") as response:
                status = response.status_code
                if status in REDIRECTS:
                    where = next_of(response)
                    continue
                if status >= 500 or status == 429:
                    raise Failed(f"status {status}", str(where))
                if status != 200:
                    break  # there is none, or it is not for us
                return self._beginning(response, RULES_BYTES).decode("utf-8-sig", "replace")
        return ""

    @contextmanager
    def _followed(
        self, url: httpx.URL, headers: dict[str, str], method: str
    ) -> Iterator[tuple[httpx.Response, Reservations | None]]:
        """An answer that is no redirect, of an address whose owner does not mind by its robots.txt;
        and what its host reserves, where that is heard.
        """
        for _ in range(MOST_REDIRECTS + 1):
            if self._heeds(FROM_ROBOTS, url):
                self._check_robots(url)
            reservations = self.reservations(url) if self._heeds(FROM_TDMREP, url) else None
            with self._asked(url, headers, method) as response:
                if response.status_code not in REDIRECTS:
                    yield response, reservations
                    return
                _check_reservations(response, reservations)
                url = next_of(response)
        raise Failed("redirected too often", f"more than {MOST_REDIRECTS} times")

    def _heeds(self, signs: frozenset[Sign], url: httpx.URL) -> bool:
        """Whether one of some signs is heard, of a host that nobody vouches for."""
        is_heard = not signs.isdisjoint(self.manners.honour)
        return is_heard and not is_allowed(url.host, port_of(url), self.manners.allow_hosts)

    def _check_robots(self, url: httpx.URL) -> None:
        robots = self.robots(url)
        path = url.raw_path.decode("ascii", "replace")
        if refusal := robots.refusal(str(url), path, self.manners.honour):
            raise Refused("forbidden by its owner", refusal)

    def _check(self, response: httpx.Response, reservations: Reservations | None) -> None:
        """Raise what an answer other than a good one means."""
        status = response.status_code
        if status in (200, 206, 304, 416):
            if refusal := header_refusal(response.headers, self.manners.honour):
                raise Refused("forbidden by its owner", refusal)
            _check_reservations(response, reservations)
            return
        raise Failed(f"status {status}", "it is gone" if status in (404, 410) else "")

    @contextmanager
    def _asked(
        self, url: httpx.URL, headers: dict[str, str], method: str
    ) -> Iterator[httpx.Response]:
        """One answer of one address, in its host's turn."""
        host, manners = self._host_of(url), self.manners
        proxy = proxy_of(url)
        if proxy is not None and not host.proxy_knows_it:
            # where no name is known, each look takes seconds
            host.proxy_knows_it = check_behind_proxy(url, manners.allow_hosts, self._resolve)
        between = 1 / manners.requests_per_second
        if isinstance(host.robots, Robots) and "robots.txt" in manners.honour:
            between = max(between, host.robots.delay_seconds)
        with self._lock:
            host.users += 1
        try:
            with host.connections:
                self._sleep(host.turn(between, manners.longest_wait_seconds))
                client = self._client_of(proxy)
                request = client.build_request(method, url, headers=headers)
                try:
                    with ends_at(time.monotonic() + manners.timeout_seconds):
                        response = client.send(request, stream=True)
                except (httpx.InvalidURL, ValueError) as error:  # httpx looks at redirects too
                    raise Refused("not an address", f"a redirect of {url.host}: {error}") from error
                try:
                    yield response
                finally:
                    response.close()
        finally:
            with self._lock:
                host.users -= 1

    def _client_of(self, proxy: str | None) -> httpx.Client:
        """What asks hosts, itself or through a proxy. No cookie is ever kept."""
        with self._lock:
            if proxy not in self._clients:
                manners = self.manners
                limits = httpx.Limits(max_connections=None, max_keepalive_connections=32)
                self._clients[proxy] = httpx.Client(
                    follow_redirects=False,
                    timeout=httpx.Timeout(manners.timeout_seconds, connect=CONNECT_SECONDS),
                    headers={
                        "User-Agent": user_agent(manners.contact),
                        "Accept-Encoding": "identity",
                    },
                    transport=transport_to(self._resolve, manners.allow_hosts, limits, proxy),
                    trust_env=False,  # which proxy is asked was decided for this address
                    cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                )
            return self._clients[proxy]

    def _sleep(self, seconds: float) -> None:
        """Wait, unless nobody waits any longer. Raises Failed then."""
        if self._stopped.wait(seconds) if seconds > 0 else self._stopped.is_set():
            raise Failed("stopped", "nobody waits for it any more")

    def _host_of(self, url: httpx.URL) -> Host:
        key = f"{url.scheme}://{url.host}:{port_of(url)}"
        with self._lock:
            host = self._hosts.get(key)
            if host is None:
                host = self._hosts[key] = Host(self.manners.connections_per_host)
                self._forget_some()
            self._hosts.move_to_end(key)
            return host

    def _forget_some(self) -> None:
        """Forget hosts that were asked long ago, whose next turn has come: a list may have
        millions.
        """
        now = time.monotonic()
        for key in list(self._hosts)[: max(0, len(self._hosts) - MOST_HOSTS)]:
            host = self._hosts[key]
            if not host.users and host.next_second < now:
                del self._hosts[key]


def _had(found: Rules | Refused | Failed, name: str) -> Rules:
    """The rules of a host. Raises why there are none."""
    if isinstance(found, Refused):
        raise Refused(found.reason, f"{name}: {found.detail}")
    if isinstance(found, Failed):
        raise Failed(name, str(found))
    return found


def _check_reservations(response: httpx.Response, reservations: Reservations | None) -> None:
    """Raise Refused where a host's tdmrep.json reserves what answered, unless the answer itself
    says otherwise.
    """
    if reservations is None or reservation_of(response.headers) is not None:
        return
    path = response.request.url.raw_path.decode("ascii", "replace")
    if refusal := reservations.refusal(path):
        raise Refused("forbidden by its owner", refusal)
