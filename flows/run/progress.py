"""What a waiting person sees: a bar on a terminal, plain lines elsewhere. All of it goes to
standard error.

The lines go to the Prefect run's log too, where there is one; under a Prefect worker they go there
alone.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from tqdm import tqdm

from flows.run.environment import inside_a_run
from storage.text import on_one_line

Thing = TypeVar("Thing")
PLAIN_LINES = {
    "mininterval": 30.0,
    "delay": 30.0,
    "bar_format": "{desc}: {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}]{postfix}\n",
}
"""tqdm's options where there is no terminal."""


class _Screen:
    """Standard error, if anybody still reads it: a closed terminal or pipe ends no work."""

    def write(self, text: str) -> int:
        """Takes text; where it cannot be shown it is dropped."""
        with suppress(OSError, ValueError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """As a file's."""
        with suppress(OSError, ValueError):
            sys.stderr.flush()

    def isatty(self) -> bool:
        """As a file's."""
        return sys.stderr.isatty()

    @property
    def encoding(self) -> str:
        """As a file's."""
        return sys.stderr.encoding or "utf-8"


SCREEN: Any = _Screen()


def say(stage: str, name: str, text: str) -> None:
    """One line: stage, artifact, what happened."""
    text = on_one_line(text)
    detail(f"{stage} {name}: {text}")
    if not under_a_worker():
        tqdm.write(f"{stage:<10} {name:<28} {text}", file=SCREEN)
        SCREEN.flush()


def detail(line: str) -> None:
    """One line for the run's log alone."""
    logger = _run_logger()
    if logger is not None:
        logger.info("%s", on_one_line(line))


def under_a_worker() -> bool:
    """Whether a Prefect worker started this process: then nobody reads its standard error."""
    return "PREFECT__FLOW_RUN_ID" in os.environ


def _run_logger() -> Any:
    """The logger of the flow or task run this is called in, or None outside of one."""
    if not inside_a_run():
        return None
    from prefect.logging import get_run_logger

    return get_run_logger()


def track(things: Iterable[Thing], total: int, stage: str, unit: str) -> Iterator[Thing]:
    """Yield the things; on a terminal draw a bar that goes away when it is full."""
    yield from tqdm(
        things,
        total=total,
        desc=stage,
        unit=unit,
        leave=False,
        disable=not SCREEN.isatty(),
        file=SCREEN,
    )


@contextmanager
def bar(total: int, stage: str, unit: str) -> Iterator[tqdm]:
    """A bar to be moved by hand; prints a line every 30 seconds where there is no terminal, nothing
    under a worker.
    """
    options: dict[str, Any] = {} if SCREEN.isatty() else PLAIN_LINES
    shown = tqdm(
        total=total,
        desc=stage,
        unit=unit,
        leave=False,
        file=SCREEN,
        disable=under_a_worker(),
        **options,
    )
    with shown:
        yield shown


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Rounded to a tenth of a millisecond."""
        return round(time.monotonic() - self._start, 4)
