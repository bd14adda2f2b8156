"""Connections to public hosts alone: a name is resolved, checked and connected to in one step, so
that it cannot mean another host a moment later. Its certificate is checked for the name.
"""

from collections.abc import Collection, Iterable
from typing import Any

import httpcore
import httpx

from storage.web.addresses import Resolver, public_numbers


class _PublicHosts(httpcore.NetworkBackend):
    """Connects as httpcore does, to numbers that were checked."""

    def __init__(self, resolve: Resolver, allow_hosts: Collection[str]) -> None:
        self._resolve, self._allow_hosts = resolve, allow_hosts
        self._backend = httpcore.SyncBackend()

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
                return self._backend.connect_tcp(
                    number, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue  # the next one may answer
        return self._backend.connect_tcp(numbers[-1], port, timeout, local_address, socket_options)

    def sleep(self, seconds: float) -> None:
        """As httpcore's."""
        self._backend.sleep(seconds)


def transport_to(
    resolve: Resolver, allow_hosts: Collection[str], limits: httpx.Limits
) -> httpx.HTTPTransport:
    """What a client sends its requests by, to public hosts and those that somebody vouches for."""
    transport = httpx.HTTPTransport(limits=limits, trust_env=True)  # SSL_CERT_FILE is heeded
    # httpx hands no network backend on to its pool of connections.
    pool: Any = transport._pool
    pool._network_backend = _PublicHosts(resolve, allow_hosts)
    return transport
