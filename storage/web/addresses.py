"""Which addresses may be asked: http and https, of hosts on the public internet.

What strangers list must not lead into the network that this machine stands in.
"""

import ipaddress
import os
import socket
from collections.abc import Callable, Collection
from urllib.request import getproxies, proxy_bypass

import httpx

from storage.web.outcomes import Failed, Refused

MOST_LETTERS = 8192
"""Of an address."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Resolver = Callable[[str, int], list[str]]
"""A host and a port -> the numbers it has. Raises OSError where it has none."""


def system_resolver(host: str, port: int) -> list[str]:
    """As this machine resolves names."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def checked(text: str) -> httpx.URL:
    """An address that may be asked, as far as it can be told without asking.

    Raises Refused for another scheme than http and https, no host, a name and password in it, and
    for what is no address at all.
    """
    shown = text[:200]
    if len(text) > MOST_LETTERS or any(ord(letter) < 33 for letter in text.strip()):
        raise Refused("not an address", f"{shown!r}")
    try:
        url = httpx.URL(text.strip())
        port = url.port
    except (httpx.InvalidURL, ValueError, TypeError) as error:
        raise Refused("not an address", f"{shown!r}: {error}") from error
    if url.scheme not in ("http", "https"):
        raise Refused("another scheme", f"{url.scheme or 'none'} in {shown!r}")
    if not url.host or (port is not None and not 0 < port < 65_536):
        raise Refused("not an address", f"{shown!r} has no host")
    if url.userinfo:
        raise Refused("not an address", "it holds a name or a password")
    return url.copy_with(fragment=None)


def port_of(url: httpx.URL) -> int:
    """The port that an address is asked at."""
    return url.port or {"http": 80, "https": 443}[url.scheme]


def is_allowed(url: httpx.URL, allow_hosts: Collection[str]) -> bool:
    """Whether somebody vouched for this host, as "host" or "host:port"."""
    host = url.host.lower()
    return host in allow_hosts or f"{host}:{port_of(url)}" in allow_hosts


def proxy_of(url: httpx.URL) -> str | None:
    """The proxy that the environment names for an address; None where it is asked directly."""
    if proxy_bypass(url.host):
        return None
    proxies = getproxies()
    found = proxies.get(url.scheme) or proxies.get("all") or os.environ.get("ALL_PROXY")
    return found or None


def number_of(
    url: httpx.URL, allow_hosts: Collection[str], resolve: Resolver = system_resolver
) -> str | None:
    """The number of an address's host, which is then asked and no other: a name may mean another
    host a moment later. None behind a proxy where names are only known to the proxy.

    Raises Refused where any of the host's numbers is no public one, unless somebody vouched for
    the host, and Failed where it has none.
    """
    try:
        numbers = resolve(url.host, port_of(url))
    except (OSError, UnicodeError) as error:
        if proxy_of(url) is not None:
            return None
        raise Failed("unknown host", f"{url.host}: {error}") from error
    if not numbers:
        raise Failed("unknown host", url.host)
    if not is_allowed(url, allow_hosts):
        for number in numbers:
            if not is_public(number):
                what = f"{url.host} is {number}; allow_hosts names hosts inside a network"
                raise Refused("a private address", what)
    return numbers[0]


def is_public(number: str) -> bool:
    """Whether an IP address is one of the public internet."""
    address = ipaddress.ip_address(number.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inside is not None:
            return is_public(str(inside))
    return address.is_global and not address.is_multicast
