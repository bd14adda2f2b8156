"""One line of a doctor's, and what every check is given to look at."""

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from flows.run.terminal import without_passwords
from storage.text import on_one_line

Mark = Literal["ok", "!", "x"]
FINE: Mark = "ok"
NOTE: Mark = "!"
"""Worth knowing: something is slower, missing, or of use only after its cure."""
FAILS: Mark = "x"
"""A command, or what was set up here on purpose, will fail."""
SECONDS_TO_TELL = 0.3
"""What a check leaves of its time, to say what it has found."""


@dataclass(frozen=True)
class Finding:
    """What was found about one topic, and what to do about it."""

    mark: Mark
    topic: str
    found: str
    cure: str = ""

    def __post_init__(self) -> None:
        assert bool(self.cure) == (self.mark != FINE), f"{self}: a cure where one is needed"
        for name in ("found", "cure"):  # from here on nobody can tell a secret
            text = on_one_line(without_passwords(getattr(self, name)))
            object.__setattr__(self, name, text)


def fine(topic: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(FINE, topic, found)


def note(topic: str, found: str, cure: str) -> Finding:
    """Worth knowing."""
    return Finding(NOTE, topic, found, cure)


def fails(topic: str, found: str, cure: str) -> Finding:
    """Will fail."""
    return Finding(FAILS, topic, found, cure)


Findings = Iterator[Finding]
SHORTEST_PIECE = 3


def passwords_in(environment: Mapping[str, str]) -> set[str]:
    """The pieces of the passwords in the addresses that variables hold: of one with a / in it a
    library may tell what stands before, as a port that is none.
    """
    pieces: set[str] = set()
    for value in environment.values():
        for word in value.split():
            user, found, _ = word.rpartition("@")
            password = user.partition("://")[2] or user
            if found and ":" in password:
                pieces |= set(re.split(r"\W+", password.partition(":")[2]))
    return {piece for piece in pieces if len(piece) >= SHORTEST_PIECE}


def without_words(finding: Finding, words: Iterable[str]) -> Finding:
    """The finding with ... in place of each of these words."""
    if not words:
        return finding
    any_of_them = re.compile(rf"\b({'|'.join(map(re.escape, words))})\b")
    found, cure = (any_of_them.sub("...", text) for text in (finding.found, finding.cure))
    return replace(finding, found=found, cure=cure)


@dataclass(frozen=True)
class Machine:
    """What is looked at, and for how long."""

    environment: Mapping[str, str]
    """As the user has set it, before flows.run.environment.prepare."""
    root: Path
    deadline: float
    """By time.monotonic()."""
    offline: bool = False

    @property
    def seconds_left(self) -> float:
        """For a check that waits for something, to say in time that it did not come; 0 or more."""
        return max(0.0, self.deadline - SECONDS_TO_TELL - time.monotonic())
