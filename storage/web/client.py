"""A client that asks politely: so many requests a second of a host, by the rules of its owner, of
no host inside this network, and again after a while where a server asks to wait.
"""

import email.utils
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy

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
from storage.web.connections import transport_to
from storage.web.manners import NOTHING_SAID, SIGNS, Robots, Sign, header_refusal, user_agent
from storage.web.outcomes import Failed, Refused

MOST_REDIRECTS = 5
MOST_HOSTS = 2000
"""Hosts of which is kept what is known of them, those that are asked now aside."""
ROBOTS_BYTES = 500 * 1024
"""The most of a robots.txt that is read (RFC 9309, section 2.5)."""
ROBOTS_TRIES = 2
WAITING = (429, 503)
"""What a server answers that is to be asked later."""
MAY_PASS = (408, 425, 500, 502, 504)
CONNECT_SECONDS = 10.0
REDIRECTS = (301, 302, 303, 307, 308)
FROM_ROBOTS: frozenset[Sign] = frozenset(("robots.txt", "Content-Signal", "Content-Usage"))
"""Signs that stand in robots.txt."""


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
    """For a whole answer that is read at once."""


class _Host:
    """What is known of one host, and when it may be asked again."""

    def __init__(self, connections: int) -> None:
        self.lock = threading.Lock()
        self.connections = threading.Semaphore(connections)
        self.robots: Robots | Refused | Failed | None = None
        self.robots_lock = threading.Lock()
        self.proxy_knows_it = False
        """Whether its name means nothing here and is left to a proxy."""
        self.users = 0
        self.next_second = 0.0

    def turn(self, seconds_between: float, most: float) -> float:
        """Seconds until its next turn, which is then taken. Raises Failed where it is too far away:
        somebody asked for that much quiet.
        """
        with self.lock:
            now = time.monotonic()
            turn = max(now, self.next_second)
            if turn - now > most:
                raise Failed("asked to wait", f"{turn - now:.0f} s, longer than is waited")
            self.next_second = turn + seconds_between
        return max(0.0, turn - now)

    def hold(self, seconds: float) -> None:
        """Ask nothing for some time."""
        with self.lock:
            self.next_second = max(self.next_second, time.monotonic() + seconds)


class Web:
    """Asks hosts. It may be used by many threads at once."""

    def __init__(self, manners: Manners, resolve: Resolver = system_resolver) -> None:
        self.manners, self._resolve = manners, resolve
        self._hosts: OrderedDict[str, _Host] = OrderedDict()
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
                with self._followed(checked(address), dict(headers or {}), method) as response:
                    wait_seconds = _waiting(response, attempt)
                    if wait_seconds is None:
                        self._check(response)
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
        with host.robots_lock:
            if host.robots is None:
                host.robots = self._read_robots(url)
        if isinstance(host.robots, Refused):
            raise Refused(host.robots.reason, host.robots.detail)
        if isinstance(host.robots, Failed):
            raise Failed("robots.txt", str(host.robots))
        return host.robots

    def _read_robots(self, url: httpx.URL) -> Robots | Refused | Failed:
        found: Robots | Refused | Failed = NOTHING_SAID
        for attempt in range(ROBOTS_TRIES):
            try:
                found = self._robots_at(url.copy_with(raw_path=b"/robots.txt"))
            except (Refused, Failed) as error:
                found = error
            except httpx.HTTPError as error:
                found = Failed(*in_words(error))
            if not isinstance(found, Failed) or self._stopped.is_set():
                break
            if attempt + 1 < ROBOTS_TRIES:
                self._stopped.wait(min(1.0, self.manners.longest_wait_seconds))
        return found

    def _robots_at(self, where: httpx.URL) -> Robots:
        """The robots.txt at an address, or where it leads. Raises Failed, Refused and httpx's."""
        for _ in range(MOST_REDIRECTS + 1):
            with self._asked(where, {}, "GET") as response:
                status = response.status_code
                if status in REDIRECTS:
                    where = _next_of(response)
                    continue
                if status >= 500 or status == 429:
                    raise Failed(f"status {status}", str(where))
                if status != 200:
                    break  # there is none, or it is not for us
                text = self._beginning(response, ROBOTS_BYTES).decode("utf-8-sig", "replace")
                return Robots.of(text)
        return NOTHING_SAID

    @contextmanager
    def _followed(
        self, url: httpx.URL, headers: dict[str, str], method: str
    ) -> Iterator[httpx.Response]:
        """An answer that is no redirect, of an address whose owner does not mind."""
        asks_robots = not FROM_ROBOTS.isdisjoint(self.manners.honour)
        for _ in range(MOST_REDIRECTS + 1):
            if asks_robots and not is_allowed(url.host, port_of(url), self.manners.allow_hosts):
                self._check_robots(url)
            with self._asked(url, headers, method) as response:
                if response.status_code not in REDIRECTS:
                    yield response
                    return
                url = _next_of(response)
        raise Failed("redirected too often", f"more than {MOST_REDIRECTS} times")

    def _check_robots(self, url: httpx.URL) -> None:
        robots = self.robots(url)
        path = url.raw_path.decode("ascii", "replace")
        if refusal := robots.refusal(str(url), path, self.manners.honour):
            raise Refused("forbidden by its owner", refusal)

    def _check(self, response: httpx.Response) -> None:
        """Raise what an answer other than a good one means."""
        status = response.status_code
        if status in (200, 206, 304, 416):
            if refusal := header_refusal(response.headers, self.manners.honour):
                raise Refused("forbidden by its owner", refusal)
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
                transport = None
                if proxy is None:
                    transport = transport_to(self._resolve, manners.allow_hosts, limits)
                self._clients[proxy] = httpx.Client(
                    follow_redirects=False,
                    timeout=httpx.Timeout(manners.timeout_seconds, connect=CONNECT_SECONDS),
                    headers={
                        "User-Agent": user_agent(manners.contact),
                        "Accept-Encoding": "identity",
                    },
                    limits=limits,
                    transport=transport,
                    proxy=proxy,
                    trust_env=False,  # which proxy is asked was decided for this address
                    cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                )
            return self._clients[proxy]

    def _sleep(self, seconds: float) -> None:
        """Wait, unless nobody waits any longer. Raises Failed then."""
        if self._stopped.wait(seconds) if seconds > 0 else self._stopped.is_set():
            raise Failed("stopped", "nobody waits for it any more")

    def _host_of(self, url: httpx.URL) -> _Host:
        key = f"{url.scheme}://{url.host}:{port_of(url)}"
        with self._lock:
            host = self._hosts.get(key)
            if host is None:
                host = self._hosts[key] = _Host(self.manners.connections_per_host)
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


def _next_of(response: httpx.Response) -> httpx.URL:
    """Where a redirect leads. Raises Refused where nothing is fetched from."""
    target = response.headers.get("location", "")
    if not target:
        raise Failed(f"status {response.status_code}", "it redirects nowhere")
    try:
        joined = str(response.request.url.join(target))
    except (httpx.InvalidURL, ValueError) as error:
        raise Refused("not an address", f"a redirect to {target[:200]!r}") from error
    return checked(joined)


def _waiting(response: httpx.Response, attempt: int) -> float | None:
    """Seconds after which a server wants to be asked again; None where it answered."""
    if response.status_code not in WAITING + MAY_PASS:
        return None
    after = response.headers.get("retry-after", "").strip()
    if after.isascii() and after.isdigit():
        return float(after[:9])
    try:
        date = email.utils.parsedate_to_datetime(after).timestamp()
    except (TypeError, ValueError, OverflowError):
        return 2.0**attempt
    return max(0.0, date - time.time())


def length_of(response: httpx.Response) -> int | None:
    """The bytes that a body is said to have."""
    length = response.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else None


def in_words(error: httpx.HTTPError) -> tuple[str, str]:
    """Reason and detail of a failed connection."""
    if isinstance(error, httpx.ConnectTimeout | httpx.ReadTimeout | httpx.PoolTimeout):
        return "too slow", type(error).__name__
    if isinstance(error, httpx.RemoteProtocolError):
        return "cut short", str(error)
    return "no connection", str(error) or type(error).__name__
