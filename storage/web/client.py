"""A client that asks politely: so many requests a second of a host, by the rules of its owner, of
no host inside this network, and again after a while where a server asks to wait.
"""

import email.utils
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from storage.web.addresses import (
    Resolver,
    checked,
    is_allowed,
    number_of,
    port_of,
    proxy_of,
    system_resolver,
)
from storage.web.manners import NOTHING_SAID, SIGNS, Robots, Sign, header_refusal, user_agent
from storage.web.outcomes import Failed, Refused

MOST_REDIRECTS = 5
ROBOTS_BYTES = 500 * 1024
"""The most of a robots.txt that is read (RFC 9309, section 2.5)."""
WAITING = (429, 503)
"""What a server answers that is to be asked later."""
MAY_PASS = (408, 425, 500, 502, 504)
CONNECT_SECONDS = 10.0
REDIRECTS = (301, 302, 303, 307, 308)


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
        self.next_second = 0.0

    def wait(self, seconds_between: float, most: float) -> None:
        """Wait for a turn. Raises Failed where it is too far away."""
        with self.lock:
            now = time.monotonic()
            turn = max(now, self.next_second)
            if turn - now > most:
                raise Failed("asked to wait", f"{turn - now:.0f} s, longer than is waited")
            self.next_second = turn + seconds_between
        time.sleep(max(0.0, turn - now))

    def hold(self, seconds: float) -> None:
        """Ask nothing for some time."""
        with self.lock:
            self.next_second = max(self.next_second, time.monotonic() + seconds)


class Web:
    """Asks hosts. It may be used by many threads at once."""

    def __init__(
        self,
        manners: Manners,
        resolve: Resolver = system_resolver,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.manners, self._resolve = manners, resolve
        self._hosts: dict[str, _Host] = {}
        self._lock = threading.Lock()
        self._client = httpx.Client(
            follow_redirects=False,
            timeout=httpx.Timeout(manners.timeout_seconds, connect=CONNECT_SECONDS),
            headers={"User-Agent": user_agent(manners.contact), "Accept-Encoding": "identity"},
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
            transport=transport,
        )

    def close(self) -> None:
        """Let go of all connections."""
        self._client.close()

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
                    host = self._host_of(response.request.url)
            except httpx.HTTPError as error:
                if attempt == self.manners.tries:
                    raise Failed(*in_words(error)) from error
                time.sleep(min(2.0 ** (attempt - 1), self.manners.longest_wait_seconds))
                continue
            status = f"status {response.status_code}"
            if attempt == self.manners.tries or wait_seconds > self.manners.longest_wait_seconds:
                raise Failed(status, f"it asks to wait {wait_seconds:.0f} s")
            host.hold(wait_seconds)
        raise AssertionError("the last try returns or raises")

    def read(
        self, response: httpx.Response, most_bytes: int, seconds: float | None = None
    ) -> bytes:
        """The whole body of an answer, at most `most_bytes`. Raises Refused where it is larger or
        packed, and Failed where it is cut short or takes too long.
        """
        packed = response.headers.get("content-encoding", "identity").lower()
        if packed not in ("", "identity"):
            raise Refused("packed", f"the body is {packed}, though it was asked for as it is")
        length = _length_of(response)
        if length is not None and length > most_bytes:
            raise Refused("too many bytes", f"{length:,} of at most {most_bytes:,}")
        ends = time.monotonic() + (seconds or self.manners.timeout_seconds)
        data = bytearray()
        try:
            for piece in response.iter_raw():
                data += piece
                if len(data) > most_bytes:
                    raise Refused("too many bytes", f"more than {most_bytes:,}")
                if time.monotonic() > ends:
                    raise Failed("too slow", f"{len(data):,} bytes within the time")
        except httpx.HTTPError as error:
            raise Failed(*in_words(error)) from error
        if length is not None and len(data) != length:
            raise Failed("cut short", f"{len(data):,} of {length:,} bytes")
        return bytes(data)

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
        where = url.copy_with(raw_path=b"/robots.txt")
        try:
            for _ in range(MOST_REDIRECTS + 1):
                with self._asked(where, {}, "GET") as response:
                    if response.status_code in REDIRECTS:
                        where = _next_of(response)
                        continue
                    if response.status_code >= 500 or response.status_code == 429:
                        return Failed(f"status {response.status_code}", str(where))
                    if response.status_code != 200:
                        return NOTHING_SAID  # there is none, or it is not for us
                    body = b""
                    for piece in response.iter_bytes():
                        body += piece
                        if len(body) > ROBOTS_BYTES:
                            break
                    return Robots.of(body[:ROBOTS_BYTES].decode("utf-8", "replace"))
        except (Refused, Failed) as error:
            return error
        except httpx.HTTPError as error:
            return Failed(*in_words(error))
        return NOTHING_SAID  # redirected for ever

    @contextmanager
    def _followed(
        self, url: httpx.URL, headers: dict[str, str], method: str
    ) -> Iterator[httpx.Response]:
        """An answer that is no redirect, of an address whose owner does not mind."""
        for _ in range(MOST_REDIRECTS + 1):
            if self.manners.honour and not is_allowed(url, self.manners.allow_hosts):
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
        if status in MAY_PASS or status in WAITING or status >= 500:
            raise Failed(f"status {status}")
        raise Failed(f"status {status}", "it is gone" if status in (404, 410) else "")

    @contextmanager
    def _asked(
        self, url: httpx.URL, headers: dict[str, str], method: str
    ) -> Iterator[httpx.Response]:
        """One answer of one address, in its host's turn."""
        host, manners = self._host_of(url), self.manners
        number = None
        if not host.proxy_knows_it:  # where no name is known, each look takes seconds
            number = number_of(url, manners.allow_hosts, self._resolve)
            host.proxy_knows_it = number is None
        between = 1 / manners.requests_per_second
        if isinstance(host.robots, Robots) and "robots.txt" in manners.honour:
            between = max(between, host.robots.delay_seconds)
        asked, extensions, headers = url, {}, dict(headers)
        if number is not None and proxy_of(url) is None:
            # The number that was checked is asked, under the name that it was checked for.
            headers["Host"] = url.netloc.decode("ascii")
            extensions["sni_hostname"] = url.host
            asked = url.copy_with(host=number)
        with host.connections:
            host.wait(between, manners.longest_wait_seconds)
            request = self._client.build_request(
                method, asked, headers=headers, extensions=extensions
            )
            response = self._client.send(request, stream=True)
            try:
                response.request.url = url  # by which a redirect is told from where
                yield response
            finally:
                response.close()

    def _host_of(self, url: httpx.URL) -> _Host:
        key = f"{url.scheme}://{url.host}:{port_of(url)}"
        with self._lock:
            if key not in self._hosts:
                self._hosts[key] = _Host(self.manners.connections_per_host)
            return self._hosts[key]


def _next_of(response: httpx.Response) -> httpx.URL:
    """Where a redirect leads. Raises Refused where nothing is fetched from."""
    target = response.headers.get("location", "")
    if not target:
        raise Failed(f"status {response.status_code}", "it redirects nowhere")
    try:
        return checked(str(response.request.url.join(target)))
    except httpx.InvalidURL as error:
        raise Refused("not an address", f"a redirect to {target[:200]!r}") from error


def _waiting(response: httpx.Response, attempt: int) -> float | None:
    """Seconds after which a server wants to be asked again; None where it answered."""
    if response.status_code not in WAITING + MAY_PASS:
        return None
    after = response.headers.get("retry-after", "")
    if after.strip().isdigit():
        return float(after)
    date = email.utils.parsedate_to_datetime(after) if _is_date(after) else None
    if date is not None:
        return max(0.0, date.timestamp() - time.time())
    return 2.0**attempt


def _is_date(text: str) -> bool:
    try:
        email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return False
    return True


def _length_of(response: httpx.Response) -> int | None:
    length = response.headers.get("content-length", "")
    return int(length) if length.isdigit() else None


def in_words(error: httpx.HTTPError) -> tuple[str, str]:
    """Reason and detail of a failed connection."""
    if isinstance(error, httpx.ConnectTimeout | httpx.ReadTimeout | httpx.PoolTimeout):
        return "too slow", type(error).__name__
    if isinstance(error, httpx.RemoteProtocolError):
        return "cut short", str(error)
    return "no connection", str(error) or type(error).__name__
