"""What a waiting person sees: a bar on a terminal, plain lines elsewhere. Everything goes to standard error."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

Thing = TypeVar("Thing")
PLAIN_LINES = {
    "mininterval": 30.0,
    "delay": 30.0,
    "bar_format": "{desc}: {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}]{postfix}\n",
}
"""tqdm's options where there is no terminal."""


def say(stage: str, name: str, text: str) -> None:
    """One line: stage, artifact, what happened."""
    tqdm.write(f"{stage:<10} {name:<28} {text}", file=sys.stderr)
    sys.stderr.flush()


def track(things: Iterable[Thing], total: int, stage: str, unit: str) -> Iterator[Thing]:
    """Yield the things; on a terminal draw a bar that goes away when it is full."""
    yield from tqdm(things, total=total, desc=stage, unit=unit, leave=False, disable=not sys.stderr.isatty(), file=sys.stderr)


@contextmanager
def bar(total: int, stage: str, unit: str) -> Iterator[tqdm]:
    """A bar to be moved by hand; prints a line every 30 seconds where there is no terminal."""
    options = {} if sys.stderr.isatty() else PLAIN_LINES
    with tqdm(total=total, desc=stage, unit=unit, leave=False, file=sys.stderr, **options) as shown:
        yield shown


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Rounded to a tenth of a millisecond."""
        return round(time.monotonic() - self._start, 4)
