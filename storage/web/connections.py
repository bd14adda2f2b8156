"""Connections to public hosts alone: a name is resolved, checked and connected to in one step, so
that it cannot mean another host a moment later. Its certificate is checked for the name.

httpx limits each read by itself, so a server that sends its headers byte by byte would hold a
thread for as long as it likes. Here all reads together can be given an end (`ends_at`).
"""

import math
import ssl
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpcore
import httpx

from storage.web.addresses import Resolver, public_numbers

_END: ContextVar[float] = ContextVar("end", default=math.inf)
"""Of this thread's connecting, sending and reading, on the clock time.monotonic."""


@contextmanager
def ends_at(moment: float) -> Iterator[None]:
    """Inside, whatever this thread connects to, sends and reads ends by a moment of time.monotonic,
    however often something comes: what takes longer raises httpcore's timeouts, which httpx makes
    its own.
    """
    token = _END.set(moment)
    try:
        yield
    finally:
        _END.reset(token)


def _left(timeout: float | None, too_late: type[Exception]) -> float | None:
    """Seconds that something may take: a timeout, or what is left until the end."""
    left = _END.get() - time.monotonic()
    if left <= 0:
        raise too_late("its time is over")
    if math.isinf(left):
        return timeout
    return left if timeout is None else min(timeout, left)


class _Stream(httpcore.NetworkStream):
    """A connection of httpcore's that heeds the end."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """As httpcore's."""
        return self._stream.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """As httpcore's."""
        self._stream.write(buffer, _left(timeout, httpcore.WriteTimeout))

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """As httpcore's; the timeout is of the whole handshake, as Python's ssl counts it."""
        seconds = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, seconds))

    def close(self) -> None:
        """As httpcore's."""
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        """As httpcore's."""
        return self._stream.get_extra_info(info)


class _AnyHosts(httpcore.NetworkBackend):
    """Connects as httpcore does, and heeds the end."""

    def __init__(self) -> None:
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """As httpcore's."""
        seconds = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(
            self._backend.connect_tcp(host, port, seconds, local_address, socket_options)
        )

    def sleep(self, seconds: float) -> None:
        """As httpcore's."""
        self._backend.sleep(seconds)


class _PublicHosts(_AnyHosts):
    """The same, to numbers that were checked."""

    def __init__(self, resolve: Resolver, allow_hosts: Collection[str]) -> None:
        super().__init__()
        self._resolve, self._allow_hosts = resolve, allow_hosts

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to the first number of a host that takes one. Raises Refused and Failed as
        `public_numbers`, and what httpcore raises.
        """
        numbers = public_numbers(host, port, self._allow_hosts, self._resolve)
        for number in numbers[:-1]:
            try:
                return super().connect_tcp(number, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue  # the next one may answer
        return super().connect_tcp(numbers[-1], port, timeout, local_address, socket_options)


def transport_to(
    resolve: Resolver, allow_hosts: Collection[str], limits: httpx.Limits, proxy: str | None
) -> httpx.HTTPTransport:
    """What a client sends its requests by, to public hosts and those that somebody vouches for; or
    by a proxy, which connects to them itself.
    """
    # SSL_CERT_FILE is heeded
    transport = httpx.HTTPTransport(limits=limits, trust_env=True, proxy=proxy)
    # httpx hands no network backend on to its pool of connections.
    pool: Any = transport._pool
    pool._network_backend = _AnyHosts() if proxy else _PublicHosts(resolve, allow_hosts)
    return transport
