"""Proxies, certificates, and whether the hub that weights come from can be reached."""

import os
import time
from urllib.parse import urlsplit

from flows.doctor.findings import Findings, Machine, fails, fine, note
from flows.doctor.packages import socks_proxies
from flows.run.environment import PROXIES

SECONDS_TO_REACH = 4.0
SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
ON = ("1", "true", "yes", "on")
CERTIFICATES = (
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "AWS_CA_BUNDLE",
    "PREFECT_API_SSL_CERT_FILE",
)
SCHEMES = ("http", "https", "socks5", "socks5h")
"""Of proxies, as httpx takes them."""
EXEMPT = ("127.0.0.1", "localhost")
LOCAL_WEIGHTS = "what is built in, or lies on this disk, needs no network"


def proxies(machine: Machine) -> Findings:
    """Which are named, whether they are any, and whether this machine is asked without."""
    named = {
        name: address
        for name, address in sorted(machine.environment.items())
        if name.lower() in PROXIES and address
    }
    if not named:
        yield fine("proxy", "none is named")
        return
    usable = True
    for name, address in named.items():
        if complaint := _no_proxy_address(address):
            usable = False
            cure = f"unset {name}, or write it like http://host:3128"
            yield fails("proxy", f"{name} {complaint}: whatever asks the network ends", cure)
        other = machine.environment.get(name.swapcase(), "")
        if name.islower() and other and other != address:
            what = f"{name} and {name.upper()} differ; which one counts depends on the program"
            yield note("proxy", what, f"unset {name.upper()}")
    if not usable:
        return
    told = ", ".join(f"{name}={_host(address)}" for name, address in named.items())
    exempt = machine.environment.get("no_proxy") or machine.environment.get("NO_PROXY") or ""
    hosts = {host.strip() for host in exempt.split(",")}
    if "*" in hosts or hosts.issuperset(EXEMPT):
        yield fine("proxy", f"{told}; not for this machine itself")
    else:
        what = f"{told}, also for this machine itself: rdm goes past it, but `prefect` asks the"
        kept = ",".join([*filter(None, sorted(hosts - {*EXEMPT})), *EXEMPT])
        cure = f"export NO_PROXY={kept} no_proxy={kept}; in the worker's unit, too"
        yield note("proxy", f"{what} proxy for its own server, and hangs", cure)


def _no_proxy_address(address: str) -> str:
    """What is wrong with the address of a proxy, which may hold a password; "" for nothing."""
    text = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(text)
        if parts.scheme.lower() not in SCHEMES:
            return f"is of the kind {parts.scheme}://, which is none of {', '.join(SCHEMES)}"
        return "" if parts.hostname and parts.port != 0 else "names no host"
    except ValueError:
        return "is no address"


def _host(address: str) -> str:
    """Kind, host and port of a proxy: never its user."""
    parts = urlsplit(address if "://" in address else f"http://{address}")
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}"


def certificates(machine: Machine) -> Findings:
    """Variables that name certificates which are not there."""
    named = {
        name: machine.environment[name] for name in CERTIFICATES if name in machine.environment
    }
    missing = False
    for name, value in named.items():
        # Several directories may be named, as PATH does.
        places = value.split(os.pathsep) if name == "SSL_CERT_DIR" else [value]
        if value and not any(os.access(place, os.R_OK) for place in places):
            missing = True
            why = "is not there" if not any(map(os.path.exists, places)) else "cannot be read"
            what = f"{name}={value} {why}: every https connection ends"
            yield fails("certificates", what, f"unset {name}, or name the file that is meant")
    if not missing:
        told = ", ".join(name for name in named) or "those that come with Python's packages"
        yield fine("certificates", f"{told}: there" if named else told)


def hub(machine: Machine) -> Findings:
    """One request for the head of its first page, through the proxies that the user names."""
    switched = [
        name for name in SWITCHES if machine.environment.get(name, "").strip().lower() in ON
    ]
    if switched:
        what = f"{switched[0]} is set: weights are taken from the cache alone"
        yield note("hub", what, f"unset {switched[0]} to fetch others; {LOCAL_WEIGHTS}")
    if switched or machine.offline:
        if machine.offline:
            yield fine("hub", "not asked (--offline)")
        return
    import httpx
    from huggingface_hub.constants import ENDPOINT

    began = time.monotonic()
    try:
        answer = httpx.head(ENDPOINT, timeout=SECONDS_TO_REACH)
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, OSError, ValueError) as error:
        what = f"{ENDPOINT} cannot be reached: {type(error).__name__}: {error}"
        yield note("hub", what, f"{cure_of(error, machine)}; {LOCAL_WEIGHTS}")
        return
    seconds = time.monotonic() - began
    if answer.status_code < 400:
        yield fine("hub", f"{ENDPOINT} answers in {seconds:.1f} s")
    else:
        what = f"{ENDPOINT} is answered for with {answer.status_code} {answer.reason_phrase}"
        cure = "Ask whoever runs the proxy or firewall, or export HF_ENDPOINT=MIRROR"
        yield note("hub", what, f"{cure}; {LOCAL_WEIGHTS}")


def cure_of(error: BaseException, machine: Machine) -> str:
    """By what httpx says."""
    told = str(error).lower()
    named = sorted(name for name in machine.environment if name.lower() in PROXIES)
    if isinstance(error, ImportError):
        return f"pip install 'httpx[socks]', for {', '.join(socks_proxies(machine.environment))}"
    if "certificate" in told:
        return "export SSL_CERT_FILE and REQUESTS_CA_BUNDLE=FILE with your network's certificate"
    if isinstance(error, FileNotFoundError):
        return "Name a file of certificates that is there: SSL_CERT_FILE"
    if named:
        return f"See whether the proxy is right: {', '.join(named)}"
    if "name" in told or "resolution" in told:
        return "See /etc/resolv.conf; behind a proxy, export HTTPS_PROXY=http://host:3128"
    return "See the network; behind a proxy, export HTTPS_PROXY=http://host:3128"
