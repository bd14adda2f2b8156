"""The Prefect server that the user has configured, asked whether it is well before anything is
started.

A server that is away, an address that is none, a profile or setting that Prefect refuses: each is
one message with its cause and cure, within seconds, and not Prefect's traceback after minutes.
"""

import os
import threading
from contextlib import suppress
from contextvars import copy_context
from functools import lru_cache, partial
from typing import Any
from urllib.parse import urlsplit

from flows.run.environment import PROXIES, server_is_configured
from flows.run.terminal import shown_address, without_passwords

SECONDS_TO_ANSWER = 25
LINES_TOLD = 3
"""Of an error of several lines: what, where and why."""
CURE = (
    "Start it (prefect server start), correct PREFECT_API_URL or the Prefect profile, or work"
    " without a server: PREFECT_API_URL= rdm ..."
)


class ServerFailed(RuntimeError):
    """The configured server cannot be used; the message says why and what to do."""

    def __init__(self, what: str, cure: str = CURE) -> None:
        self.what, self.cure = without_passwords(what), cure
        super().__init__(f"{self.what}. {cure}")

    def __reduce__(self) -> tuple:
        return type(self), (self.what, self.cure)


@lru_cache(maxsize=1)
def connected() -> None:
    """Import Prefect and hear from its server, once a process.

    Raises ServerFailed when Prefect does not start, the address is none, or the server does not
    answer within SECONDS_TO_ANSWER.
    """
    if not server_is_configured():
        what = (
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE is off (in the environment, a file or profile of"
        )
        what += " Prefect's), and no server is configured"
        raise ServerFailed(what, "Set PREFECT_API_URL, or unset the former to work without")
    _refuse_odd_address(os.environ.get("PREFECT_API_URL"))
    # In a thread, as the time-outs of Prefect's client add up to minutes; in a copy of this
    # context, which holds the caller's settings.
    answer: list[Any] = []
    ask = partial(copy_context().run, lambda: answer.append(_asked()))
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(SECONDS_TO_ANSWER)
    if not answer:
        what = f"{_of_server()} did not answer in {SECONDS_TO_ANSWER} s"
        raise ServerFailed(what, f"{CURE}{_proxies()}")
    if answer[0] is not None:
        what = f"{_of_server()} cannot be used: {in_a_line(answer[0])}"
        raise ServerFailed(what, f"{CURE}{_proxies()}")


def lost(error: BaseException) -> str | None:
    """A message, where an error says that the server went away or refused us in the middle of the
    work; None where it says something else.
    """
    seen: BaseException | None = error
    while seen is not None:
        if type(seen).__module__.split(".")[0] in ("httpx", "httpcore", "prefect"):
            what = without_passwords(f"{_of_server()}: {in_a_line(seen)}")
            return f"{what}. What is finished is kept. {CURE}"
        seen = seen.__cause__ or seen.__context__
    return None


def _asked() -> BaseException | None:
    """What went wrong when it was asked; None when it is well."""
    try:
        from prefect import get_client

        with get_client(sync_client=True) as client:
            if away := client.api_healthcheck():
                return away
            client.raise_for_api_version_mismatch()  # a page that is no API answers as well
            return None
    except BaseException as error:  # Prefect ends the process where a profile or setting is wrong
        return error


def _refuse_odd_address(url: str | None) -> None:
    if url is None:  # in a profile or a file, which Prefect reads
        return
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        example = "write it like http://127.0.0.1:4200/api"
        what = f"PREFECT_API_URL={shown_address(url)!r} is no address of a server: {example}"
        raise ServerFailed(what)


def _of_server() -> str:
    with suppress(Exception):
        from prefect.settings import get_current_settings

        return f"Prefect's server at {get_current_settings().api.url}"
    return "Prefect"


def _proxies() -> str:
    """Which proxies are set, as any of them may be the cause; their addresses may hold a
    password.
    """
    names = sorted(name for name in os.environ if name.lower() in PROXIES)
    return f". Proxies are set: {', '.join(names)}" if names else ""


def in_a_line(error: BaseException) -> str:
    """Kind and first lines of what Prefect or its client says."""
    told = " ".join(" ".join(str(error).split("\n")[:LINES_TOLD]).split())
    line = f"{type(error).__name__}: {told}" if told else type(error).__name__
    cause = in_a_line(error.__cause__) if error.__cause__ else line
    return line if cause in line else f"{line} ({cause})"
