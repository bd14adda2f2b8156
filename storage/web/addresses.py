"""Which addresses may be asked: http and https, of hosts on the public internet.

What strangers list must not lead into the network that this machine stands in.
"""

import ipaddress
import socket
from collections.abc import Callable, Collection
from urllib.request import getproxies, proxy_bypass

import httpx

from storage.web.outcomes import Failed, Refused

MOST_LETTERS = 8192
"""Of an address."""
_HOLDS_A_NUMBER = [
    ipaddress.ip_network(net) for net in ("64:ff9b::/96", "::/96", "::ffff:0:0:0/96")
]
"""IPv6 networks whose last 32 bits are an IPv4 number."""
_NOT_PUBLIC = [ipaddress.ip_network(net) for net in ("fec0::/10", "64:ff9b:1::/48", "3fff::/20")]
"""Networks that older tables take for public."""

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
        scheme, host, port, named = url.scheme, url.host, url.port, url.userinfo
        url.raw_host.decode("ascii").encode("idna")  # as it is looked up
    except (httpx.InvalidURL, ValueError, TypeError) as error:
        raise Refused("not an address", f"{shown!r}: {error}") from error
    if scheme not in ("http", "https"):
        raise Refused("another scheme", f"{scheme or 'none'} in {shown!r}")
    if not host or (port is not None and not 0 < port < 65_536):
        raise Refused("not an address", f"{shown!r} has no host")
    if named:
        raise Refused("not an address", "it holds a name or a password")
    return url.copy_with(fragment=None)


def port_of(url: httpx.URL) -> int:
    """The port that an address is asked at."""
    return url.port or {"http": 80, "https": 443}[url.scheme]


def is_allowed(host: str, port: int, allow_hosts: Collection[str]) -> bool:
    """Whether somebody vouched for a host, as "host" or "host:port"."""
    return host.lower() in allow_hosts or f"{host.lower()}:{port}" in allow_hosts


def proxy_of(url: httpx.URL) -> str | None:
    """The proxy that the environment names for an address; None where it is asked directly."""
    if proxy_bypass(f"{url.host}:{port_of(url)}"):
        return None
    proxies = getproxies()
    found = proxies.get(url.scheme) or proxies.get("all")
    if not found:
        return None
    return found if "://" in found else f"http://{found}"


def public_numbers(
    host: str, port: int, allow_hosts: Collection[str], resolve: Resolver = system_resolver
) -> list[str]:
    """The numbers of a host, at least one.

    Raises Refused where any of them is no public one, unless somebody vouched for the host, and
    Failed where it has none.
    """
    try:
        numbers = resolve(host, port)
    except (OSError, UnicodeError) as error:
        raise Failed("unknown host", f"{host}: {error}") from error
    if not numbers:
        raise Failed("unknown host", host)
    if not is_allowed(host, port, allow_hosts):
        for number in numbers:
            if not is_public(number):
                what = f"{host} is {number}; allow_hosts names hosts inside a network"
                raise Refused("a private address", what)
    return numbers


def check_behind_proxy(
    url: httpx.URL, allow_hosts: Collection[str], resolve: Resolver = system_resolver
) -> bool:
    """Check an address that a proxy is asked for as `public_numbers` does. Returns whether its name
    means nothing here: then the proxy alone knows what it is.
    """
    host = url.raw_host.decode("ascii").strip("[]")
    try:
        public_numbers(host, port_of(url), allow_hosts, resolve)
    except Failed:
        return True
    return False


def is_public(number: str) -> bool:
    """Whether an IP address is one of the public internet."""
    address = ipaddress.ip_address(number.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour
        if any(address in net for net in _HOLDS_A_NUMBER):
            inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inside is not None:
            return is_public(str(inside))
        if any(address in net for net in _NOT_PUBLIC):
            return False
    return address.is_global and not address.is_multicast
