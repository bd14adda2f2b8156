"""What owners of pages say of machines that fetch from them: robots.txt and what it tells of
training, and headers beside a picture.

- robots.txt (RFC 9309), by the library protego; Crawl-delay too.
- `Content-Signal: ai-train=no` in robots.txt (contentsignals.org).
- `Content-Usage: train-ai=n` in robots.txt and as a header (drafts of the IETF's AIPREF group:
  draft-ietf-aipref-attach-05, draft-ietf-aipref-vocab-08).
- `X-Robots-Tag: noai`, `noimageai`, `noindex`, `noimageindex` (the first two by DeviantArt; what
  img2dataset refuses), for every agent or for ours.
- `tdm-reservation: 1` (TDMRep of the W3C's community group), as a header, or for a path of a host
  in its tdmrep.json (`reservations`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import httpx
from protego import Protego

AGENT = "rdm"
"""The word by which robots.txt names us."""
Sign = Literal["robots.txt", "Content-Signal", "Content-Usage", "X-Robots-Tag", "tdm-reservation"]
"""By which an owner can say no."""
SIGNS: tuple[Sign, ...] = (
    "robots.txt",
    "Content-Signal",
    "Content-Usage",
    "X-Robots-Tag",
    "tdm-reservation",
)
NO_TAGS = ("noai", "noimageai", "noindex", "noimageindex", "none")
NO_SIGNALS = ("ai-train", "ai-input", "train-ai")
"""What Content-Signal says no to, of what is done here: training, and being put into a model's
context. Some sites write it with the word of Content-Usage.
"""
NO_USAGES = ("train-ai", "ai-use", "train-genai", "genai", "ai", "bots", "tdm", "all", "ai-train")
"""The same of Content-Usage, in the words of all drafts: a no in an older one is a no."""


def user_agent(contact: str | None) -> str:
    """What servers are told of who asks."""
    return f"{AGENT}/0.1 (+{contact})" if contact else f"{AGENT}/0.1"


@dataclass(frozen=True)
class Robots:
    """What one host's robots.txt says to us."""

    rules: Protego
    lines: tuple[tuple[str, str], ...]
    """Content-Signal and Content-Usage of the groups that are meant for us: name, and value."""

    @classmethod
    def of(cls, text: str) -> "Robots":
        """Read a robots.txt; what cannot be read says nothing."""
        return cls(Protego.parse(text), tuple(_lines_for_us(text)))

    @property
    def delay_seconds(self) -> float:
        """Seconds between two requests that it asks for."""
        return float(self.rules.crawl_delay(AGENT) or 0)

    def refusal(self, url: str, path: str, honoured: tuple[Sign, ...]) -> str | None:
        """Why an address is not to be fetched for a training, or None."""
        if "robots.txt" in honoured and not self.rules.can_fetch(url, AGENT):
            return "robots.txt"
        if "Content-Signal" in honoured:
            for name, value in self.lines:
                if name == "content-signal" and (no := _no_of(value, NO_SIGNALS, "no")):
                    return f"Content-Signal: {no}"
        if "Content-Usage" in honoured:
            return self._usage_refusal(path)
        return None

    def _usage_refusal(self, path: str) -> str | None:
        """The no of the Content-Usage whose path is the longest that fits; of equal paths any."""
        longest, refusal = -1, None
        for name, value in self.lines:
            if name != "content-usage":
                continue
            where, usage = "/", value
            if value.startswith("/"):
                where, _, usage = value.partition(" ")
            if len(where) < longest or not fits(where, path):
                continue
            no = _no_of(usage, NO_USAGES, "n")
            if len(where) > longest:
                longest, refusal = len(where), None
            refusal = refusal or (f"Content-Usage: {no}" if no else None)
        return refusal


def fits(pattern: str, path: str) -> bool:
    """Whether a path begins as a pattern of robots.txt says: * is anything, $ its end. However many
    * there are, the path is gone through once.
    """
    first, *others = pattern.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    last = others.pop() if others and pattern.endswith("$") else None
    place = len(first)
    for part in others:
        place = path.find(part, place)
        if place < 0:
            return False
        place += len(part)
    if last is not None:
        return len(path) - len(last) >= place and path.endswith(last)
    return place == len(path) or not pattern.endswith("$")


def header_refusal(headers: httpx.Headers, honoured: tuple[Sign, ...]) -> str | None:
    """What an answer's headers say against its use, or None."""
    if "X-Robots-Tag" in honoured:
        for line in headers.get_list("x-robots-tag"):
            for tag in _tags_for_us(line):
                if tag in NO_TAGS:
                    return f"X-Robots-Tag: {tag}"
    usage = _no_of(headers.get("content-usage", ""), NO_USAGES, "n")
    if "Content-Usage" in honoured and usage:
        return f"Content-Usage: {usage}"
    if "tdm-reservation" in honoured and reservation_of(headers):
        return "tdm-reservation: 1"
    return None


def reservation_of(headers: httpx.Headers) -> bool | None:
    """Whether an answer's own header reserves it; None where it says neither 0 nor 1."""
    told = {value.strip() for value in headers.get_list("tdm-reservation", split_commas=True)}
    return True if "1" in told else False if "0" in told else None


def _tags_for_us(value: str) -> Iterator[str]:
    """The tags of one X-Robots-Tag that are for every agent or for ours: a tag may be headed by an
    agent's name, which then holds up to the next name.
    """
    ours = True
    for part in value.lower().split(","):
        agent, colon, tag = part.partition(":")
        # unavailable_after: 25 Jun 2027 is a tag with a value, and no agent's
        if colon and agent.strip() not in ("unavailable_after", "max-snippet", "max-image-preview",
                                           "max-video-preview"):  # fmt: skip
            ours = agent.strip() in (AGENT, "*")
            part = tag
        if ours:
            yield part.strip()


def _no_of(value: str, words: tuple[str, ...], no: str) -> str | None:
    """The first of some words that a list like `search=yes, ai-train=no` says no to."""
    for part in value.lower().split(","):
        word, _, said = part.partition("=")
        if word.strip() in words and said.split(";")[0].strip() == no:
            return part.strip()
    return None


def _lines_for_us(text: str) -> Iterator[tuple[str, str]]:
    """The lines of the group of robots.txt that names us, or else of the one for all."""
    groups: dict[str, list[tuple[str, str]]] = {}
    agents: list[str] = []
    is_open = True  # names follow one another before the first rule of a group
    for line in text.splitlines():
        name, colon, value = line.partition("#")[0].partition(":")
        name, value = name.strip().lower(), value.strip()
        if not colon:
            continue
        if name == "user-agent":
            agents = [*agents, value.lower()] if is_open else [value.lower()]
            is_open = True
            continue
        is_open = False
        for agent in agents or ["*"]:
            lines = groups.setdefault(agent, [])
            if name in ("content-signal", "content-usage"):  # protego keeps the others
                lines.append((name, value))
    own = [agent for agent in groups if agent != "*" and agent.split("/")[0] == AGENT]
    yield from groups[own[0]] if own else groups.get("*", [])
